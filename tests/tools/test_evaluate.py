"""evaluate.py scores a folder of images as if a run of ours had made them."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from medgan_tf.data import phantom, preprocess, records
from medgan_tf.training import checkpoint


@pytest.fixture(scope="module")
def call(run_script):
    """Runs a script that ends with a code; what it says, or its last line."""

    def run(script, *arguments, cwd, code=0):
        done = run_script(script, *arguments, cwd=cwd)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr.splitlines()[-1]

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "neither --workdir and --translated_dir"),
        (["--workdir=a", "--translated_dir=b"], "got both"),
        (["--translated_dir=a"], "--translated_dir needs --data_dir"),
        (["--workdir=a", "--method_name=b"], "--method_name goes together"),
        (["--workdir=a", "--input_dir=b"], "--input_dir goes together"),
        (
            ["--translated_dir=a", "--data_dir=b", "--checkpoint=last"],
            "--checkpoint goes together with --workdir",
        ),
        (
            ["--translated_dir=a", "--data_dir=b", "--split=train"],
            "expected test or validation",
        ),
        (
            ["--translated_dir=a", "--data_dir=b", "--too_large=tile"],
            "--too_large: the records know",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_told_at_once(
    call, arguments, words, tmp_path
):
    assert words in call("evaluate.py", *arguments, cwd=tmp_path, code=1)


@pytest.fixture(scope="module")
def place(call, tmp_path_factory):
    """A folder with the images of three patients, records and a run."""
    place = tmp_path_factory.mktemp("evaluate")
    for seed, patient in enumerate(("ann", "bob", "cem")):
        images = phantom.patient(
            seed, shape=(24, 24, 2), spacing=(9.0, 9.0, 20.0)
        )
        folder = place / "study" / patient
        folder.mkdir(parents=True)
        for name in ("MR", "CT"):
            nib.save(
                nib.Nifti1Image(images[name].array, images[name].affine),
                folder / f"{name}.nii.gz",
            )
    call(
        "prepare_data.py",
        "--task=mr_ct",
        *SOURCES,
        "--voxel_size_mm=keep,keep,keep",
        "--test_patients=cem",
        "--validation_patients=bob",
        "--workers=1",
        "--output_dir=data",
        cwd=place,
    )
    call(
        "train.py",
        "--task=mr_ct",
        "--method=pix2pix",
        "--data_dir=data",
        "--workdir=run",
        *("--set=ngf=2", "--set=ndf=2", "--max_steps=2"),
        "--set=generator_updates=1",
        cwd=place,
    )
    return place


SOURCES = (
    "--input_dir=study",
    "--source=*/MR.nii.gz",
    "--target=*/CT.nii.gz",
)
NAMED = "--patients_file=data_patients.csv"


def rows_of(folder):
    text = (folder / "scores.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


@pytest.mark.slow
def test_the_translation_of_a_run_has_the_same_scores_from_a_folder(
    call, place
):
    slices, volumes = place / "slices", place / "volumes"
    slices.mkdir()
    volumes.mkdir()
    call("evaluate.py", "--workdir=run", cwd=place)
    generator, _ = checkpoint.load_generator(
        checkpoint.load_run(place / "run"), "best"
    )
    for sample in records.open_dataset(place / "data").samples("test"):
        translated = generator(sample.source[None]).numpy()[0, ..., 0]
        np.save(
            slices / f"{sample.patient}_{sample.slice_index}.npy",
            preprocess.denormalise(translated, sample.target_window),
        )
    call("export.py", "--workdir=run", "--output_dir=model", cwd=place)
    call(
        "predict.py",
        "--model=model",
        "study/cem/MR.nii.gz",
        "volumes/cem.nii.gz",
        cwd=place,
    )
    common = ("--data_dir=data", "--method_name=Theirs")
    shown = call("evaluate.py", "--translated_dir=slices", *common, cwd=place)
    call(
        "evaluate.py",
        "--translated_dir=volumes",
        *common,
        *SOURCES,
        NAMED,
        cwd=place,
    )

    own = rows_of(place / "run" / "test_best")
    assert len(own) == 8
    for name in ("slices_test", "volumes_test"):
        other = rows_of(place / name)
        for a, b in zip(own, other, strict=True):
            assert a.keys() == b.keys()
            for column in a:
                try:
                    # float32 in the window of 3000 HU; SSIM and the like have
                    # four digits of it left where an image is flat.
                    assert float(b[column]) == pytest.approx(
                        float(a[column]), rel=1e-4, abs=1e-4, nan_ok=True
                    ), (name, column)
                except ValueError:
                    assert a[column] == b[column]
        picture = (place / name / "examples.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
    settings = json.loads((place / "slices_test/scores.json").read_text())[
        "settings"
    ]
    assert settings["method"] == "Theirs"
    assert settings["checkpoint"] is settings["discriminator_steps"] is None
    assert settings["clipped_share"] == 0
    assert "Theirs, MR to CT: test patients\n" in shown
    assert "0.000% lay beyond the window" in shown


@pytest.mark.slow
def test_volumes_are_scored_by_a_protocol_of_volumes(call, place):
    folder = place / "targets"
    folder.mkdir()
    (folder / "cem.nii.gz").write_bytes(
        (place / "study" / "cem" / "CT.nii.gz").read_bytes()
    )
    call(
        "evaluate.py",
        "--translated_dir=targets",
        "--data_dir=data",
        "--protocol=synthrad2023",
        *SOURCES,
        NAMED,
        cwd=place,
    )
    *_, row = rows_of(place / "targets_test_synthrad2023")
    assert row["image"] == "translated" and row["slice_index"] == ""
    # Two slices hold no window of a three-dimensional SSIM.
    assert float(row["mae"]) == pytest.approx(0, abs=1e-3)
    assert float(row["psnr"]) > 100
    message = call(
        "evaluate.py",
        "--translated_dir=targets",
        "--data_dir=data",
        cwd=place,
        code=3,
    )
    assert "--manifest or --input_dir" in message
    message = call(
        "evaluate.py",
        "--translated_dir=targets",
        "--data_dir=data",
        *SOURCES,
        cwd=place,
        code=1,
    )
    assert "--patients_file" in message
