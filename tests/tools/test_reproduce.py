"""reproduce.py trains what is missing, and goes on where it was stopped."""

import json
import re
import signal
import time

import pytest

SMALL = (
    "--what=figure6",
    "--u_blocks=1,2",
    "--task=pet_denoise",
    "--num_phantoms=4",
    "--set=ngf=2",
    "--set=ndf=2",
    "--set=generator_updates=1",
    "--max_steps=2",
    "--validation_slices=2",
    "--jitter_size=256",
)


@pytest.fixture
def call(run_script):
    """Runs the script: its exit code, and all that it tells."""

    def run(*arguments, cwd):
        done = run_script("reproduce.py", *arguments, cwd=cwd)
        return done.returncode, done.stderr + done.stdout

    return run


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--what=table3", "expected table1, table2, figure4"),
        ("--set=ngf=wide", "expected a whole number"),
        ("--set=nobody.ngf=3", "no method 'nobody'"),
        ("--u_blocks=1,few", "expected numbers"),
        ("--u_blocks=1.5", "whole numbers"),
        ("--u_blocks=0", "whole numbers of at least 1"),
        ("--curve_method=gan", "curve_method"),
        ("--protocols=mine", "expected paper, canonical"),
        ("--protocols=synthrad2023", "is for CT, the target is PET"),
        ("--batch_size=0", "batch_size must be at least 1"),
        ("--translated_dir=folder", "expected NAME=FOLDER"),
        ("--translated_dir=They=folder", "needs --data_dir"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(
    call, tmp_path, argument, complaint
):
    code, output = call(*SMALL, argument, "--workdir=w", cwd=tmp_path)
    assert code == 1
    assert complaint in output
    assert len(output.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_weights_that_a_later_method_lacks_are_told_at_the_start(
    call, tmp_path
):
    code, output = call(
        *SMALL,
        *("--what=table1", "--vgg_weights=missing.npz", "--workdir=w"),
        cwd=tmp_path,
    )
    assert code != 0
    assert "missing.npz" in output
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_it_is_stopped_goes_on_and_does_nothing_twice(
    call, start_script, tmp_path, write_records
):
    write_records(tmp_path / "data", ("train", "validation", "test"), "pet_ct")
    settings = *SMALL, "--task=pet_ct", "--data_dir=data", "--workdir=w"
    process = start_script("reproduce.py", *settings, cwd=tmp_path)
    second = tmp_path / "w" / "pix2pix_2_u_blocks" / "run.json"
    deadline = time.monotonic() + 240
    while not second.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    done = process.wait()
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert not (tmp_path / "w" / "report.html").exists()
    (scored,) = tmp_path.rglob("scores.csv")
    when = scored.stat().st_mtime_ns

    code, output = call(*settings, cwd=tmp_path)
    assert code == 0, output
    # Of the first run nothing was left to do, of the second something.
    assert scored.stat().st_mtime_ns == when
    assert len(list(tmp_path.rglob("scores.csv"))) == 2
    report = tmp_path / "w" / "report.html"
    assert output.splitlines()[-1] == "Report: w/report.html"
    text = report.read_text()
    assert "These are simulated images." in text
    assert "pix2pix, 2 U-blocks" in text
    # The paper trained pix2pix on this task: its PSNR.
    assert "paper 23.93" in text
    # What is shown is what the file says.
    scores = json.loads(
        (tmp_path / "w/pix2pix/test_paper/scores.json").read_text()
    )
    mean = scores["images"]["translated"]["patient_mean"]["ssim"]
    cell = re.search(
        r'data-from="pix2pix/test_paper/scores.json#/images/translated/'
        r'patient_mean/ssim">(?:<b>)?([0-9.]+)',
        text,
    )
    assert cell.group(1) == f"{mean:.4f}"

    changed = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("scores.csv")}
    code, output = call(*settings, cwd=tmp_path)
    assert code == 0, output
    assert "evaluate.py" not in output
    for path, when in changed.items():
        assert path.stat().st_mtime_ns == when
