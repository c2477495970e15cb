"""mumap.py: a CT in, the attenuation map of a PET out, mistakes in one line."""

import os
import pathlib
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from medgan_tf.data import attenuation, dicom, io
from medgan_tf.serving import mumap

SCRIPT = pathlib.Path(__file__).parents[2] / "tools" / "mumap.py"


@pytest.fixture
def call(tmp_path):
    """Runs the script in an empty folder."""
    here = tmp_path / "here"
    here.mkdir()

    def run(*arguments):
        return subprocess.run(
            [sys.executable, SCRIPT, *arguments],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=120,
        )

    run.folder = here
    return run


@pytest.fixture
def ct(tmp_path):
    """Water, 64 mm square, in air; voxels of 2 mm."""
    array = np.full((48, 48, 6), -1000, np.float32)
    array[8:40, 8:40] = 0
    path = tmp_path / "ct.nii"
    nib.save(nib.Nifti1Image(array, np.diag([-2.0, -2.0, 3.0, 1.0])), path)
    return path


@pytest.fixture
def pet(tmp_path):
    """The same field of view in voxels of 4 mm."""
    affine = np.diag([-4.0, -4.0, 3.0, 1.0])
    affine[:2, 3] = -1
    path = tmp_path / "pet.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((24, 24, 6), np.float32), affine), path)
    return path


@pytest.mark.slow
def test_the_map_lies_on_the_pet_bit_by_bit(call, ct, pet):
    done = call("--kvp=120", f"--like={pet}", ct, "mu.nii.gz")
    assert done.returncode == 0, done.stderr
    assert "24 x 24 x 6 voxels, by table carney at 120 kV" in done.stdout
    theirs, ours = nib.load(pet), nib.load(call.folder / "mu.nii.gz")
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    mu = ours.get_fdata()
    assert mu[12, 12, 3] == pytest.approx(0.096, abs=1e-3)
    assert mu[0, 0, 3] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_interfile_holds_the_same_values(call, ct, pet):
    done = call(
        *("--kvp=140", "--table=ge", "--patient_position=HFS"),
        *(f"--like={pet}", ct, "mu.hv"),
    )
    assert done.returncode == 0, done.stderr
    assert "table ge at 140 kV, for a patient who lay HFS" in done.stdout
    assert sorted(os.listdir(call.folder)) == ["mu.hv", "mu.v"]
    values = np.fromfile(call.folder / "mu.v", "<f4")
    # Axes to L, P and S; z of a patient who lies HFS runs to I.
    values = values.reshape((24, 24, 6), order="F")[:, :, ::-1]
    expected = mumap.make(
        io.read_volume(ct),
        kilovolts=140,
        table="ge",
        grid=io.read_volume(pet),
    )
    np.testing.assert_array_equal(values, expected.array)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["CT"], 1, "expected INPUT OUTPUT"),
        (["CT", "a.nii"], 1, "--kvp is required, because"),
        (["CT", "a.hv", "--kvp=120"], 1, "--patient_position is required"),
        (["CT", "a.nii", "--kvp=90"], 1, "90 kV, expected one of 80, 100, 110"),
        (["CT", "a.nii", "--kvp=80", "--table=ge"], 1, "one of 100, 120, 140"),
        (["CT", "CT", "--kvp=120"], 1, "so that the image is kept"),
        (["CT", "PET", "--kvp=120", "--like=PET"], 1, "--like and OUTPUT are"),
        (["CT", "a.dat", "--kvp=120"], 3, "suffix .dat"),
        (["CT", "no/a.hv", "--kvp=120"], 6, "cannot be written"),
        (["no.nii", "a.nii", "--kvp=120"], 3, "no such file"),
        (["PET", "a.nii", "--kvp=120"], 3, "expected air below -200 HU"),
        (["CT", "a.nii", "--kvp=120", "--like=no.nii"], 3, "no such file"),
    ],
)
def test_a_mistake_is_told_in_a_line_and_leaves_nothing(
    call, ct, pet, arguments, exit_code, words
):
    names = {"CT": ct, "PET": pet, "--like=PET": f"--like={pet}"}
    done = call(*(names.get(argument, argument) for argument in arguments))
    assert done.returncode == exit_code
    assert done.stderr.count("\n") == 1 and words in done.stderr
    assert os.listdir(call.folder) == []


@pytest.mark.slow
def test_help_names_the_tables_and_positions_that_there_are(call):
    done = call("--help")
    assert done.returncode == 0 and done.stderr == ""
    assert f"<{'|'.join(attenuation.TABLES)}>" in done.stdout
    assert f"<{'|'.join(mumap.POSITIONS)}>" in done.stdout
    text = re.sub(r"\s+", " ", done.stdout)
    for table in attenuation.TABLES.values():
        *most, last = map(str, table.lines)
        assert f"({', '.join(most)} and {last} kV)" in text
    assert f"(default: {mumap.FWHM_MM})" in text


@pytest.mark.slow
@pytest.mark.shared_data
def test_a_real_patient_needs_no_flag_but_the_pet(call, shared_data):
    folder = shared_data / "sarcoma_dicom" / "STS_025"
    series = folder / "PET" / "image"
    done = call(f"--like={series}", folder / "CT" / "image", "mu.hv")
    assert done.returncode == 0, done.stderr
    assert "at 140 kV, for a patient who lay FFS" in done.stdout
    text = (call.folder / "mu.hv").read_text()
    pet = dicom.read_stack(dicom.files_of(series), series)
    # Feet first, x runs to the patient's right and z to the head, which are
    # RAS's first and third; the PET's own x runs to the left.
    found = [
        float(re.search(rf"offset \(mm\) \[{i}\] := (.+)", text)[1])
        for i in (1, 3)
    ]
    last_x = pet.affine @ [pet.shape[0] - 1, 0, 0, 1]
    assert found == pytest.approx([last_x[0], pet.affine[2, 3]], abs=1e-3)
    values = np.fromfile(call.folder / "mu.v", "<f4")
    # A leg: muscle is most of it, a little denser than water.
    muscle = np.median(values[values > 0.09])
    assert muscle == pytest.approx(0.1, abs=0.003)
