"""predict.py as a user calls it, with stand-ins for trained models."""

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import sealed, tasks

AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])


class Add(tf.Module):
    """Stands for a network: adds a number to the source."""

    def __init__(self, number):
        super().__init__()
        self.number = tf.Variable(number)

    @tf.function(input_signature=[tf.TensorSpec([None, 256, 256, 1])])
    def __call__(self, source):
        return {"translated": source + self.number}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models that add 1 and 3 to PET, and one that makes CT of it."""
    folder = tmp_path_factory.mktemp("Modelle für alle")
    for name, number, target in (
        ("one", 1.0, tasks.PET),
        ("three", 3.0, tasks.PET),
        ("ct", 0.0, tasks.CT),
    ):
        version = folder / name / "1"
        tf.saved_model.save(Add(number), str(version))
        task = tasks.Task("test", "", tasks.PET, target, (None, None, None))
        info = {
            "task_row": tasks.as_stored(task),
            "title": "PET and more",
            "trained_on_simulated_images": False,
            "intended_use": "Research only.",
        }
        (version / "assets.extra").mkdir()
        sealed.write(version / "assets.extra" / "medgan.json", info)
    return folder


@pytest.fixture
def call(tmp_path, models, run_script):
    """Runs the script in a folder whose name is not plain ASCII."""
    here = tmp_path / "Jörgs Bilder"
    here.mkdir()

    def run(*arguments, model=("one",)):
        flags = [f"--model={models / name}" for name in model]
        return run_script("predict.py", *flags, *arguments, cwd=here)

    run.folder = here
    return run


def save(path, value=None):
    """A PET of 6 x 5 x 4 voxels; its values."""
    values = np.random.default_rng(0).uniform(1, 15, (6, 5, 4))
    values = values.astype(np.float32)
    if value is not None:
        values[0, 0, 0] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, AFFINE), path)
    return values


def read(path):
    return nib.load(path).get_fdata(dtype=np.float32)


def files(folder):
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*.*"))


def errors_of(done):
    """The lines on standard error that are no progress bar."""
    lines = done.stderr.replace("\r", "\n").splitlines()
    return [line for line in lines if line.startswith("predict.py:")]


@pytest.mark.slow
def test_an_ensemble_in_every_plane_and_its_uncertainty(call):
    # The same everywhere, because the other planes are interpolated.
    image = nib.Nifti1Image(np.full((6, 5, 4), 7, np.float32), AFFINE)
    nib.save(image, call.folder / "mit Lücke.nii.gz")
    done = call(
        "--uncertainty_output=Maß.mha",
        "--tta",
        "--planes=three",
        "mit Lücke.nii.gz",
        "aus gabe.nii.gz",
        model=("one", "three"),
    )
    assert done.returncode == 0, done.stderr
    # Five answers of + 1 and five of + 3: median + 2, and the standard
    # deviation is sqrt(10 / 9).
    result = read(call.folder / "aus gabe.nii.gz")
    np.testing.assert_allclose(result, 9, rtol=1e-6)
    assert "standard deviation in SUV, up to 1.054" in done.stdout
    assert files(call.folder) == [
        "Maß.mha",
        "aus gabe.nii.gz",
        "mit Lücke.nii.gz",
    ]


@pytest.mark.slow
def test_a_broken_patient_is_told_and_the_rest_are_translated(call):
    folder = call.folder / "Patienten"
    expected = {name: save(folder / name) for name in ("a.nii", "d.nii")}
    save(folder / "b.nii", np.nan)
    save(folder / "c.nii")
    (folder / "c.nii").write_bytes((folder / "c.nii").read_bytes()[:400])
    save(folder / "e.nii")
    (folder / "e.json").write_text('{"Modality": "MR"}')
    done = call("Patienten", "CT")
    assert done.returncode == 3
    told = errors_of(done)
    assert len(told) == 4
    assert "b.nii: found 1 voxels that are NaN" in told[0]
    assert "c.nii" in told[1]
    assert "e.nii: found MR, expected PET" in told[2]
    assert "3 of 5 volumes were not translated" in told[3]
    assert files(call.folder / "CT") == ["a.nii", "d.nii"]
    for name, values in expected.items():
        found = read(call.folder / "CT" / name)
        np.testing.assert_allclose(found, values + 1, rtol=1e-6)


@pytest.mark.slow
def test_a_bids_data_set_becomes_a_derivative_data_set(call):
    study = call.folder / "study"
    for image in ("sub-1/pet/sub-1_pet", "sub-2/ses-x/pet/sub-2_ses-x_pet"):
        save(study / f"{image}.nii.gz")
    save(study / "sub-3/pet/sub-3_pet.nii", np.inf)
    (study / "dataset_description.json").write_text('{"Name": "raw"}')
    output = study / "derivatives" / "medgan"
    arguments = ("--bids_source=pet", study, output)
    done = call("--tta", f"--uncertainty_output={output}", *arguments)
    assert done.returncode == 3
    assert "1 of 3 volumes were not translated" in errors_of(done)[-1]
    names = [
        f"{image}.{suffix}"
        for image in (
            "sub-1/pet/sub-1_desc-synthetic_pet",
            "sub-1/pet/sub-1_desc-uncertainty_pet",
            "sub-2/ses-x/pet/sub-2_ses-x_desc-synthetic_pet",
            "sub-2/ses-x/pet/sub-2_ses-x_desc-uncertainty_pet",
        )
        for suffix in ("json", "nii.gz")
    ]
    assert files(output) == ["dataset_description.json", *names]
    # Again, upon what we wrote ourselves; the model then makes CT.
    (study / "sub-3/pet/sub-3_pet.nii").unlink()
    done = call(*arguments, model=("ct",))
    assert done.returncode == 0, done.stderr
    assert (output / "sub-1/ct/sub-1_desc-synthetic_ct.nii.gz").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "model", "exit_code", "words"),
    [
        (["--uncertainty_output=b.nii"], ["one"], 1, "several answers"),
        (["--planes=oblique"], ["one"], 1, "one of axial, three"),
        (["--bids_source=T1w"], ["one"], 1, "is for BIDS data sets"),
        ([], ["one", "one"], 1, "give each once"),
        ([], ["one", "ct"], 5, "differ in target (PET in SUV and CT in HU)"),
        (
            ["--tta", "--uncertainty_output=no/b.nii"],
            ["one"],
            6,
            "cannot be written",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(
    call, arguments, model, exit_code, words
):
    save(call.folder / "a.nii")
    done = call(*arguments, "a.nii", "out.nii", model=model)
    assert done.returncode == exit_code, done.stderr
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert files(call.folder) == ["a.nii"]
