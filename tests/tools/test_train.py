"""train.py answers a mistake in one line, before it writes anything."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from medgan_tf import tasks

TOOLS = pathlib.Path(__file__).parents[2] / "tools"
TASK = tasks.adapted(tasks.TASKS["mr_ct"], voxel_size_mm=(None, None, None))
TINY = (
    "--task=mr_ct",
    "--method=pix2pix",
    "--set=ngf=4",
    "--set=ndf=4",
    "--set=generator_updates=1",
    "--max_steps=1",
)


@pytest.fixture
def call(tmp_path, run_script):
    """Runs the script in an empty folder."""

    def run(*arguments, runs=run_script):
        here = tmp_path / "here"
        here.mkdir(exist_ok=True)
        return runs("train.py", *arguments, cwd=here)

    run.folder = tmp_path / "here"
    return run


def start(script, *arguments, cwd):
    """Runs a script in a process that knows nothing yet."""
    return subprocess.run(
        [sys.executable, TOOLS / script, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=180,
    )


@pytest.fixture(scope="module")
def data(write_records, tmp_path_factory):
    """Records of one small patient to train on."""
    folder = tmp_path_factory.mktemp("train") / "data"
    write_records(folder, ("train",))
    return folder


def assert_refused(done, exit_code, *words):
    last = done.stderr.splitlines()[-1]
    assert last.startswith("train.py: "), done.stderr
    assert all(word in last for word in words), last
    assert "Traceback" not in done.stderr
    assert done.returncode == exit_code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task=xray"], "--task=xray: expected one of pet_ct, mr_motion"),
        (["--task=mr_ct", "--method=gan"], "--method=gan: expected one of"),
        (["--task=mr_ct", "--set=depth=3"], "no field 'depth'; fields are"),
        (["--task=mr_ct", "--set=ngf=few"], "expected a whole number"),
        (["--task=mr_ct", "--epochs=0"], "epochs must be at least 1"),
        (["--task=mr_ct", "--precision=half"], "precision must be one of"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_at_once(call, arguments, words):
    before = time.perf_counter()
    done = call(*arguments, runs=start)
    assert_refused(done, 1, words)
    assert done.stderr.count("\n") == 1
    assert os.listdir(call.folder) == []
    # TensorFlow alone takes five seconds to import.
    assert time.perf_counter() - before < 5


@pytest.mark.slow
def test_help_comes_at_once_and_names_the_flags(call):
    before = time.perf_counter()
    done = call("--help", runs=start)
    assert time.perf_counter() - before < 1.5
    assert done.returncode == 0 and done.stderr == ""
    for flag in ("task", "method", "set", "data_dir", "workdir", "seed"):
        assert f"--{flag}:" in done.stdout
    for flag in ("epochs", "max_steps", "batch_size", "vgg_weights"):
        assert f"--{flag}:" in done.stdout


@pytest.mark.slow
def test_a_folder_without_records_is_refused(call):
    done = call(*TINY, "--data_dir=.")
    assert_refused(done, 3, "holds no records")
    assert done.stderr.count("\n") == 1
    assert os.listdir(call.folder) == []


@pytest.mark.slow
def test_missing_weights_of_vgg_are_told_and_no_run_begins(call, data):
    done = call(
        "--task=mr_ct",
        "--method=medgan_1g",
        "--set=ngf=4",
        f"--data_dir={data}",
        "--vgg_weights=no.npz",
    )
    assert_refused(done, 6, "no file no.npz", "random")
    assert not (call.folder / "runs" / "mr_ct_medgan_1g").exists()


@pytest.mark.slow
def test_a_run_is_made_and_its_folder_refuses_another_method(call, data):
    done = call(*TINY, f"--data_dir={data}", "--workdir=run")
    assert done.returncode == 0, done.stderr
    assert "Run: run" in done.stdout
    assert os.listdir(call.folder) == ["run"]
    run = json.loads((call.folder / "run" / "run.json").read_text())
    assert (run["task"], run["method"]["ngf"]) == ("mr_ct", 4)
    other = call(*TINY, "--method=cgan", f"--data_dir={data}", "--workdir=run")
    assert_refused(other, 5, "--workdir=run", "method=pix2pix", "l1=100.0")
