"""The five scripts one after the other, as a user types them."""

import csv
import json
import pathlib
import runpy
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from medgan_tf.data import phantom, pseudonyms
from medgan_tf.evaluation import lpips

TOOLS = pathlib.Path(__file__).parents[2] / "tools"
PATIENTS = ("ann", "bob", "cem")
TURN = np.array([[0, -9, 0, 3], [9, 0, 0, -7], [0, 0, 20, 11], [0, 0, 0, 1.0]])


@pytest.fixture
def study(tmp_path):
    """MR and CT of three patients, lying on their sides."""
    for seed, patient in enumerate(PATIENTS):
        images = phantom.patient(
            seed, shape=(24, 24, 2), spacing=(9.0, 9.0, 20.0)
        )
        folder = tmp_path / "study" / patient
        folder.mkdir(parents=True)
        for name in ("MR", "CT"):
            image = nib.Nifti1Image(images[name].array, TURN)
            nib.save(image, folder / f"{name}.nii.gz")
    return tmp_path / "study"


def save_lpips(path):
    """LPIPS on a random VGG-16; its own heads."""
    golden = TOOLS.parent / "tests" / "golden"
    maker = runpy.run_path(str(golden / "make_lpips.py"))
    stored = np.load(golden / "lpips.npz")
    heads = {
        name.removeprefix("vgg/"): stored[name]
        for name in stored.files
        if name.startswith("vgg/lin")
    }
    backbone = maker["random_backbone"]("vgg", 0)
    lpips.save(path, "vgg", backbone, heads, source="random")
    return path


def call(script, *arguments, cwd):
    done = subprocess.run(
        [sys.executable, TOOLS / script, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    # Besides progress bars nothing is to be told.
    assert "WARNING" not in done.stderr and "W0" not in done.stderr
    return done.stdout


@pytest.mark.slow
def test_from_files_of_patients_to_a_translated_volume(study, tmp_path):
    call(
        "prepare_data.py",
        "--task=mr_ct",
        f"--input_dir={study}",
        "--source=*/MR.nii.gz",
        "--target=*/CT.nii.gz",
        "--voxel_size_mm=keep,keep,keep",
        "--test_patients=cem",
        "--validation_patients=bob",
        "--workers=1",
        "--output_dir=data",
        cwd=tmp_path,
    )
    call(
        "train.py",
        "--task=mr_ct",
        "--method=medgan_1g",
        "--data_dir=data",
        "--workdir=run",
        "--vgg_weights=random",
        *("--set=ngf=2", "--set=ndf=2", "--set=averaging=0.5"),
        "--set=style_layers=block1_conv1",
        "--set=content_layers=block1_conv1",
        "--max_steps=2",
        cwd=tmp_path,
    )
    weights = save_lpips(tmp_path / "vgg.npz")
    shown = call(
        "evaluate.py",
        "--workdir=run",
        f"--lpips_weights={weights}",
        cwd=tmp_path,
    )
    call("export.py", "--workdir=run", "--output_dir=model", cwd=tmp_path)
    source = study / "cem" / "MR.nii.gz"
    told = call(
        "predict.py", "--model=model", source, "ct.nii.gz", cwd=tmp_path
    )

    assert "MAE (HU)" in shown and "test patients, step 2" in shown
    results = tmp_path / "run" / "test_best"
    text = (results / "scores.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["image"] for row in rows] == 2 * [
        "mean in source's body",
        "mean in target's body",
        "target in source's body",
        "translated",
    ]
    table = pseudonyms.read(tmp_path / "data_patients.csv")
    who = {table.behind(row["patient"])[0] for row in rows}
    assert who == {"cem"}
    scores = json.loads((results / "scores.json").read_text())
    mean = scores["images"]["translated"]["patient_mean"]["mae"]
    found = [float(r["mae"]) for r in rows if r["image"] == "translated"]
    assert mean == pytest.approx(np.mean(found)) and mean > 0
    assert all(float(row["lpips_vgg"]) > 0 for row in rows)
    assert {row["lpips_alex"] for row in rows} == {""}
    assert list(scores["not_computed"]) == ["lpips_alex"]
    assert "is not computed: no --lpips_weights" in shown
    assert scores["protocol"]["name"] == "paper"
    assert (results / "examples.png").read_bytes().startswith(b"\x89PNG")

    translated, source = nib.load(tmp_path / "ct.nii.gz"), nib.load(source)
    assert translated.shape == source.shape
    np.testing.assert_array_equal(translated.affine, source.affine)
    values = translated.get_fdata()
    assert -1000 <= values.min() < values.max() <= 2000
    assert "CT in HU" in told and "Not for diagnosis" in told
