"""What several tests share: where the real images are, if they are here."""

import os
import pathlib
import signal

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def pytest_configure():
    """Lets Ctrl-C reach what the tests start.

    Because a shell starts what it puts into the background with SIGINT
    ignored, which is inherited.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real images; skips the test where it is absent."""
    folder = pathlib.Path(
        os.environ.get("MEDGAN_SHARED_DATA", ROOT.parent / "shared" / "data")
    )
    if not folder.is_dir():
        pytest.skip(f"the real images are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """Numbers from the programs that we are to be faithful to."""
    return ROOT / "tests" / "golden"
