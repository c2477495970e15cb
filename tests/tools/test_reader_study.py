"""reader_study.py makes a study and reads what came of it."""

import csv
import itertools
import json
import os
import shutil

import numpy as np
import pytest

from medgan_tf import methods, sealed, tasks
from medgan_tf.reader_study import storage, study
from medgan_tf.training import checkpoint
from medgan_tf.training import config as configs
from medgan_tf.training import step as steps


@pytest.fixture
def call(run_script):
    """Runs the script, which ends with a code; its words, or the last line."""

    def run(*arguments, cwd, code=0):
        done = run_script("reader_study.py", *arguments, cwd=cwd)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr.splitlines()[-1]

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected COMMAND"),
        (["draw"], "expected create, serve, analyse"),
        (["create"], "neither --workdirs and --image_dirs"),
        (["create", "--workdirs=a", "--image_dirs=b"], "got both"),
        (["create", "--image_dirs=target=a,b=c"], "needs --task"),
        (["create", "--image_dirs=a", "--task=mr_ct"], "expected NAME=DIR"),
        (
            ["create", "--image_dirs=a=b", "--task=mr_ct", "--split=test"],
            "--split goes together with --workdirs",
        ),
        (["create", "--workdirs=a", "--window=1"], "expected LOW,HIGH"),
        (["create", "--workdirs=a", "--port=1"], "--port is no flag of create"),
        (["analyse", "--num_trials=1"], "--num_trials is no flag of analyse"),
        (["serve", "--key=k"], "--key is no flag of serve"),
    ],
)
def test_what_does_not_go_together_is_told(call, arguments, words, tmp_path):
    told = call(*arguments, "--study_dir=s", cwd=tmp_path, code=1)
    assert words in told
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Folders of real and translated CT of six patients."""
    place = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[-1:1:256j, -1:1:256j]
    body = (rows / 0.7) ** 2 + (columns / 0.9) ** 2 < 1
    for name, noise in (("target", 20), ("ours", 40), ("theirs", 60)):
        (place / name).mkdir()
        for patient, index in itertools.product(range(6), range(4)):
            image = np.where(body, 40.0, -1000.0)
            image += noise * rng.normal(size=image.shape)
            np.save(place / name / f"p{patient}_{index}.npy", image)
    return place


def answer_all(folder):
    """Whatever comes first is held for real."""
    told = study.read(folder)
    for reader in ("reader1", "reader2", "reader3"):
        while trial := storage.progress(told.answers, reader).trial:
            its = told.trials[trial]
            scores = {image: k for k, image in enumerate(its, 1)}
            storage.add_answer(told.answers, reader, trial, its[0], scores, 3)


@pytest.mark.slow
def test_a_study_of_folders_from_its_making_to_its_report(
    call, images, tmp_path
):
    shown = call(
        "create",
        "--study_dir=s",
        "--task=pet_ct",
        f"--image_dirs=ours={images}/ours,theirs={images}/theirs,"
        f"target={images}/target",
        "--num_trials=14",
        "--num_readers=3",
        "--window=-100,300",
        cwd=tmp_path,
    )
    assert (
        "14 trials of target, ours, theirs: 6 patient(s) with 2 to 3" in shown
    )
    assert sorted(os.listdir(tmp_path)) == ["s", "s_key.json", "s_tokens.txt"]
    assert study.read(tmp_path / "s").window == (-100, 300)

    told = call("analyse", "--study_dir=s", cwd=tmp_path, code=3)
    assert "found 0 of 42 answers" in told
    answer_all(tmp_path / "s")
    shown = call("analyse", "--study_dir=s", cwd=tmp_path)

    assert (
        "42 of 42 answers used, 3 reader(s), 14 trials of 6 patients" in shown
    )
    folder = tmp_path / "s_analysis"
    found = json.loads((folder / "analysis.json").read_text())
    assert found["labels"] == ["target", "ours", "theirs"]
    # All three readers held the same images for real.
    assert found["agreement"]["fleiss"]["value"] == pytest.approx(1)
    assert sum(row["num_judged_real"] for row in found["pooled"]) == 42
    text = (folder / "answers.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 42 * 3
    for row in rows:
        assert (row["judged_real"] == "1") == (row["score"] == "1")
    assert (folder / "table3.csv").read_text().count("\n") == 1 + 4 * 3
    assert "42 of 42 answers" in (folder / "report.html").read_text()
    # Again, and with the key elsewhere.
    (tmp_path / "s_key.json").rename(tmp_path / "k.json")
    assert "--key" in call("analyse", "--study_dir=s", cwd=tmp_path, code=5)
    assert shown == call(
        "analyse", "--study_dir=s", "--key=k.json", cwd=tmp_path
    )


def write_run(folder, write_records):
    """data and run, as prepare_data.py and train.py write them, at once."""
    task = tasks.adapted(tasks.TASKS["mr_ct"], voxel_size_mm=(None, None, None))
    dataset = write_records(
        folder / "data", ("train", "validation", "test"), num_slices=3
    )
    method = methods.override(methods.METHODS["pix2pix"], ["ngf=2", "ndf=2"])
    run = checkpoint.open_run(
        folder / "run", task, method, configs.TrainConfig(), dataset
    )
    run.save()
    trainer = steps.Trainer(method, seed=1)
    checkpoint.Checkpoints(run, trainer).save_if_best(1, "ssim", 0.5, True)


@pytest.mark.slow
def test_a_study_of_runs_is_of_patients_kept_apart(
    call, tmp_path, write_records
):
    write_run(tmp_path, write_records)
    shown = call(
        "create",
        "--study_dir=s",
        "--workdirs=run",
        "--num_trials=3",
        cwd=tmp_path,
    )
    assert "3 trials of target, pix2pix: 1 patient(s) with 3 each" in shown
    assert "fewer than 5 patients" in shown
    key = json.loads((tmp_path / "s_key.json").read_text())
    info = json.loads((tmp_path / "data" / "dataset.json").read_text())
    patients = {trial["patient"] for trial in key["trials"].values()}
    assert patients == set(info["splits"]["test"]["patients"])
    assert study.read(tmp_path / "s").unit == "HU"

    shutil.copytree(tmp_path / "run", tmp_path / "other")
    path = tmp_path / "other" / "run.json"
    run = sealed.read(path)
    run["data"]["fingerprint"] = "0" * 64
    sealed.write(path, run)
    told = call(
        "create",
        "--study_dir=t",
        "--workdirs=run,b=other",
        cwd=tmp_path,
        code=5,
    )
    assert "were trained on different data" in told
