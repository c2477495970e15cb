"""What several tests share: real images, records, processes with TensorFlow."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Where several processes test at once, each has a core for itself.
ONE_THREAD = (
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)


def pytest_configure():
    """Before anything is imported that reads the environment."""
    # Lets Ctrl-C reach what the tests start: a shell starts what it puts into
    # the background with SIGINT ignored, which is inherited.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTEST_XDIST_WORKER" in os.environ:
        for name in ONE_THREAD:
            os.environ.setdefault(name, "1")


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


@pytest.fixture(scope="session")
def prefork():
    """A process that has imported TensorFlow and starts scripts; see there."""
    with subprocess.Popen(
        [sys.executable, ROOT / "tests" / "prefork.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


class Script:
    """A script that runs; as `subprocess.Popen`.

    Attributes:
      pid: of its process.
      stdout, stderr: files that take what it prints.
    """

    def __init__(self, prefork, folder, script, arguments, cwd):
        self._prefork = prefork
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        for file in (self.stdout, self.stderr):
            file.write_bytes(b"")
        self._request = {
            "script": str(ROOT / "tools" / script),
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd),
            "stdout": str(self.stdout),
            "stderr": str(self.stderr),
        }
        print(json.dumps(self._request), file=prefork.stdin, flush=True)
        self.pid = int(prefork.stdout.readline())
        self._ended = None

    def send_signal(self, number):
        os.kill(self.pid, number)

    def wait(self) -> subprocess.CompletedProcess:
        """Waits for its end."""
        if self._ended is None:
            code = int(self._prefork.stdout.readline())
            self._ended = subprocess.CompletedProcess(
                self._request,
                code,
                self.stdout.read_text("utf-8"),
                self.stderr.read_text("utf-8"),
            )
        return self._ended

    def end(self):
        """Kills it unless it has ended, so that the next is answered."""
        if self._ended is None:
            self.send_signal(signal.SIGKILL)
            self.wait()


@pytest.fixture
def start_script(prefork, tmp_path_factory):
    """A function that starts a script of tools/ in a folder: a `Script`.

    It takes the script's name, its arguments, and `cwd`. One at a time, which
    has to end before the test does. It saves the seconds in which TensorFlow
    is imported; what happens before that (`--help`, the environment) is for
    tests that start a process of their own.
    """
    started = []

    def start(script, *arguments, cwd):
        folder = tmp_path_factory.mktemp("printed")
        started.append(Script(prefork, folder, script, arguments, cwd))
        return started[-1]

    yield start
    for script in started:
        script.end()


@pytest.fixture(scope="session")
def run_script(prefork, tmp_path_factory):
    """A function that runs a script to its end; else as `start_script`."""

    def run(script, *arguments, cwd):
        folder = tmp_path_factory.mktemp("printed")
        started = Script(prefork, folder, script, arguments, cwd)
        try:
            return started.wait()
        finally:
            # A test that takes too long is broken off here.
            started.end()

    return run


@pytest.fixture(scope="session")
def write_records():
    """A function that writes records of small, simulated patients.

    Takes a folder, the split of each patient, a task with CT as its target and
    how many slices each has; gives the data set.
    """
    # Here, because not every test needs TensorFlow.
    from medgan_tf import tasks
    from medgan_tf.data import pairs, phantom, records

    def write(folder, splits, task_name="mr_ct", num_slices=2):
        task = tasks.adapted(
            tasks.TASKS[task_name], voxel_size_mm=(None, None, None)
        )
        with records.Writer(folder, task.name) as writer:
            for seed, split in enumerate(splits):
                images = phantom.patient(
                    seed, shape=(24, 24, num_slices), spacing=(9.0, 9.0, 20.0)
                )
                patient = pairs.prepare(
                    task,
                    f"patient{seed}",
                    pairs.Images([images[task.source.name]], images["CT"]),
                    pairs.Options(),
                )
                writer.add(split, patient.samples)
            return writer.finish(
                {
                    "task": task.name,
                    "origin": "phantom",
                    "is_simulated": True,
                    "slice_size": 256,
                    "source_channels": 1,
                    "target_channels": 1,
                    "voxel_size_mm": task.voxel_size_mm,
                    "train_body_mean": 40.0,
                    "task_row": tasks.as_stored(task),
                }
            )

    return write
