"""What several tests share: where the real images are, if they are here."""

import json
import os
import pathlib
import signal
import subprocess
import sys

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
        yield process
        process.stdin.close()


@pytest.fixture(scope="session")
def run_script(prefork, tmp_path_factory):
    """A function that runs a script of tools/ in a folder to its end.

    It takes the script's name, its arguments, and `cwd`; it gives what
    `subprocess.run` does, yet saves the seconds in which TensorFlow is
    imported. What happens before that (`--help`, signals, the environment) is
    for tests that start a process of their own.
    """
    folder = tmp_path_factory.mktemp("printed")

    def run(script, *arguments, cwd):
        printed = {name: folder / name for name in ("stdout", "stderr")}
        for file in printed.values():
            file.write_bytes(b"")
        request = {
            "script": str(ROOT / "tools" / script),
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd),
            **{name: str(file) for name, file in printed.items()},
        }
        print(json.dumps(request), file=prefork.stdin, flush=True)
        code = int(prefork.stdout.readline())
        texts = {n: f.read_text("utf-8") for n, f in printed.items()}
        return subprocess.CompletedProcess(request, code, **texts)

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
