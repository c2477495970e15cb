"""What several tests share: where the real images are, if they are here."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


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
