"""verify_data.py passes good data, fails bad data, and changes neither."""

import hashlib
import os

import nibabel as nib
import numpy as np
import pytest

from medgan_tf.data import phantom

PATIENTS = ("ann", "bob", "cem")
MR_CT = ("--task=mr_ct", "--workers=1", "--voxel_size_mm=keep,keep,keep")
PATTERNS = ("--source=*/MR.nii", "--target=*/CT.nii")


@pytest.fixture
def call(tmp_path, run_script):
    """Runs a script in an empty folder."""
    here = tmp_path / "here"
    here.mkdir()

    def run(*arguments, script="verify_data.py"):
        return run_script(script, *arguments, cwd=here)

    run.folder = here
    return run


@pytest.fixture
def study(tmp_path):
    """MR and CT of three patients in ann/MR.nii and so on."""
    folder = tmp_path / "study"
    for seed, patient in enumerate(PATIENTS):
        images = phantom.patient(
            seed, shape=(40, 40, 4), spacing=(9.0, 9.0, 12.0)
        )
        (folder / patient).mkdir(parents=True)
        for name in ("MR", "CT"):
            volume = images[name]
            nib.save(
                nib.Nifti1Image(volume.array, volume.affine),
                folder / patient / f"{name}.nii",
            )
    return folder


def contents(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.nii"))
    }


def last_line(done):
    return done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        ([], 1, "expected one of --manifest, --input_dir and --data_dir"),
        (["--data_dir=a", "--manifest=b"], 1, "got --data_dir and --manifest"),
        (["--manifest=b"], 1, "--task is required"),
        (["--task=mr_ct", "--manifest=no.csv"], 3, "no.csv cannot be read"),
        (["--data_dir=a", "--report=no/r.html"], 6, "cannot be written"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_a_line(
    call, arguments, exit_code, words
):
    done = call(*arguments)
    assert done.returncode == exit_code
    assert done.stderr.count("\n") == 1 and words in done.stderr
    assert os.listdir(call.folder) == []


@pytest.mark.slow
def test_help_names_the_flags_of_the_cohort_too(call):
    done = call("--help")
    assert done.returncode == 0 and done.stderr == ""
    for flag in ("task", "manifest", "input_dir", "source", "layout"):
        assert f"--{flag}:" in done.stdout
    for flag in ("data_dir", "report", "strict", "workers"):
        assert f"--{flag}:" in done.stdout


@pytest.mark.slow
def test_good_data_pass_and_nothing_is_changed(call, study):
    before = contents(study)
    done = call(*MR_CT, f"--input_dir={study}", *PATTERNS, "--report=r.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0 errors and 0 warnings in 3 studies of 3")
    assert "</html>" in (call.folder / "r.html").read_text()
    assert os.listdir(call.folder) == ["r.html"]
    assert contents(study) == before


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_fails_with_3_whoever_finds_it(call, study, workers):
    path = study / "bob" / "CT.nii"
    path.write_bytes(path.read_bytes()[:-9])
    done = call(
        *MR_CT, f"--workers={workers}", f"--input_dir={study}", *PATTERNS
    )
    assert done.returncode == 3
    assert "UNREADABLE  bob" in done.stdout and str(path) in done.stdout
    assert last_line(done).startswith("verify_data.py: 1 error and 0 warnings")


@pytest.mark.slow
def test_a_warning_fails_only_if_strict(call, study):
    path = study / "ann" / "MR.nii"
    image = nib.load(path, mmap=False)
    flipped = image.get_fdata(dtype=np.float32)[::-1]
    nib.save(nib.Nifti1Image(flipped, image.affine), path)
    arguments = (*MR_CT, f"--input_dir={study}", *PATTERNS)
    done = call(*arguments)
    assert done.returncode == 0 and "FLIPPED  ann" in done.stdout
    done = call(*arguments, "--strict")
    assert done.returncode == 3 and "--strict" in last_line(done)


@pytest.mark.slow
def test_a_manifest_with_a_patient_on_two_sides_fails(call, study):
    path = study / "pairs.csv"
    path.write_text(
        "patient,study,source,target,split\n"
        "ann,1,ann/MR.nii,ann/CT.nii,train\n"
        "ann,2,bob/MR.nii,bob/CT.nii,test\n"
    )
    done = call(*MR_CT, f"--manifest={path}")
    assert done.returncode == 3 and "TWO_SIDES  ann" in done.stdout


@pytest.mark.slow
def test_records_pass_as_prepare_data_wrote_them_and_fail_changed(call, study):
    done = call(
        *MR_CT,
        f"--input_dir={study}",
        *PATTERNS,
        "--output_dir=records",
        script="prepare_data.py",
    )
    assert done.returncode == 0, done.stderr
    done = call("--data_dir=records", "--workers=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 studies of 3 patients" in done.stdout
    done = call("--data_dir=records", "--task=pet_ct", "--workers=1")
    assert done.returncode == 3 and "--task=mr_ct" in last_line(done)
    shard = next((call.folder / "records").glob("*train*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    done = call("--data_dir=records", "--workers=1")
    assert done.returncode == 3 and "SHA-256" in done.stdout
