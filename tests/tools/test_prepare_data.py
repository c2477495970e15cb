"""prepare_data.py answers a mistake in one line and leaves nothing behind."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from medgan_tf.data import phantom

SCRIPT = pathlib.Path(__file__).parents[2] / "tools" / "prepare_data.py"
PATIENTS = ("ann", "bob", "cem")
MR_CT = ("--task=mr_ct", "--workers=1", "--voxel_size_mm=keep,keep,keep")


@pytest.fixture
def call(tmp_path, run_script):
    """Runs the script in an empty folder, --output_dir=records."""

    def run(*arguments):
        here = tmp_path / "here"
        here.mkdir(exist_ok=True)
        return run_script(
            "prepare_data.py", "--output_dir=records", *arguments, cwd=here
        )

    run.folder = tmp_path / "here"
    return run


@pytest.fixture
def study(tmp_path):
    """MR and CT of three patients in ann/MR.nii and so on."""
    folder = tmp_path / "study"
    for seed, patient in enumerate(PATIENTS):
        images = phantom.patient(
            seed, shape=(24, 24, 2), spacing=(9.0, 9.0, 20.0)
        )
        (folder / patient).mkdir(parents=True)
        for name in ("MR", "CT"):
            volume = images[name]
            nib.save(
                nib.Nifti1Image(volume.array, volume.affine),
                folder / patient / f"{name}.nii",
            )
    return folder


def assert_refused(done, folder, exit_code, *words):
    lines = [
        line
        for line in done.stderr.splitlines()
        # The progress bar shares standard error.
        if line and "%|" not in line
    ]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("prepare_data.py: ")
    assert all(word in lines[0] for word in words), lines[0]
    assert done.returncode == exit_code
    assert os.listdir(folder) == []


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["--task=xray"], 1, "--task=xray: expected one of pet_ct, mr_motion"),
        (["--task=mr_ct", "--split=0.5,0.5"], 1, "expected three shares"),
        (["--task=mr_ct", "--split=nan,0.5,0.5"], 1, "expected numbers"),
        (["--task=mr_ct", "--voxel_size_mm=1,1"], 1, "three positive"),
        (["--task=mr_ct", "--voxel_size_mm=1,nan,1"], 1, "expected numbers"),
        (["--task=mr_ct", "--input_dir=."], 1, "--input_dir goes together"),
        (["--task=mr_ct", "--source=*.nii"], 1, "--source and --ct go"),
        (["--task=mr_ct", "--test_patients=ann"], 1, "--test_patients and"),
        (["--task=mr_ct", "--num_phantoms=2"], 1, "--num_phantoms=2"),
        (["--task=mr_ct", "--patients_file=who.csv"], 1, "--patients_file is"),
        (["--task=mr_ct", "--data_root=."], 1, "--data_root goes together"),
        (["--task=mr_ct", "--manifest=no.csv"], 3, "no.csv cannot be read"),
        (["--task=mr_ct", "--input_dir=no", "--target=*"], 3, "not a folder"),
    ],
)
@pytest.mark.slow
def test_a_mistake_on_the_command_line_is_told_at_once(
    call, arguments, exit_code, words
):
    start = time.perf_counter()
    assert_refused(call(*arguments), call.folder, exit_code, words)
    # TensorFlow alone takes five seconds to import.
    assert time.perf_counter() - start < 5


@pytest.mark.slow
def test_help_comes_at_once_and_names_the_flags(call):
    start = time.perf_counter()
    done = call("--help")
    assert time.perf_counter() - start < 1.5
    assert done.returncode == 0 and done.stderr == ""
    for flag in ("task", "output_dir", "manifest", "input_dir", "source"):
        assert f"--{flag}:" in done.stdout
    for flag in ("target", "split", "voxel_size_mm", "workers", "seed"):
        assert f"--{flag}:" in done.stdout


@pytest.mark.slow
def test_a_file_that_the_manifest_names_but_is_not_there(call, study):
    manifest = study / "pairs.csv"
    manifest.write_text(
        "patient,source,target\nann,ann/MR.nii,ann/CT.nii\n"
        "bob,bob/MR.nii,bob/PET.nii\n"
    )
    done = call("--task=mr_ct", f"--manifest={manifest}")
    assert_refused(done, call.folder, 3, "bob/PET.nii", "does not exist")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_that_is_refused_is_told_and_the_others_are_kept(
    call, study, workers
):
    path = study / "cem" / "CT.nii"
    image = nib.load(path, mmap=False)
    array = image.get_fdata(dtype=np.float32)
    array[3, 4, 1] = np.nan
    nib.save(nib.Nifti1Image(array, image.affine), path)
    done = call(
        *MR_CT,
        f"--workers={workers}",
        f"--input_dir={study}",
        "--source=*/MR.nii",
        "--target=*/CT.nii",
        # So that the last one is the one that is refused.
        "--keep_ids",
    )
    *_, kept, line = done.stderr.splitlines()
    assert kept.startswith("2 of 3 studies are kept in records.incomplete")
    assert line.startswith("prepare_data.py: ") and "cem/CT.nii" in line
    assert "NaN" in line and "(3, 4, 1)" in line
    assert "INFO" not in done.stderr and "cuda" not in done.stderr
    assert done.returncode == 3
    assert os.listdir(call.folder) == ["records.incomplete"]


@pytest.mark.slow
def test_a_study_becomes_records_and_is_summed_up(call, study):
    done = call(
        *MR_CT,
        f"--input_dir={study}",
        "--source=*/MR.nii",
        "--target=*/CT.nii",
        "--test_patients=cem",
        "--keep_ids",
    )
    assert done.returncode == 0, done.stderr
    assert "train: 2 slices of 1 patients" in done.stdout
    assert "test: 2 slices of 1 patients" in done.stdout
    records = call.folder / "records"
    info = json.loads((records / "dataset.json").read_text())
    assert info["splits"]["test"]["patients"] == ["cem"]
    assert info["origin"] == "files" and not info["is_simulated"]
    assert os.listdir(call.folder) == ["records"]
    # Once more: what is there is not overwritten.
    before = sorted(os.listdir(records))
    again = call(
        *MR_CT,
        f"--input_dir={study}",
        "--source=*/MR.nii",
        "--target=*/CT.nii",
    )
    assert again.returncode == 6
    assert again.stderr.count("\n") == 1 and "not empty" in again.stderr
    assert sorted(os.listdir(records)) == before


@pytest.mark.slow
def test_names_become_ids_and_the_table_leads_back(call, study):
    files = ("--input_dir=" + str(study), "--source=*/MR.nii")
    common = (*MR_CT, *files, "--target=*/CT.nii", "--test_patients=cem")
    done = call(*common)
    assert done.returncode == 0, done.stderr
    assert "records_patients.csv" in done.stdout
    table = call.folder / "records_patients.csv"
    assert table.stat().st_mode & 0o777 == 0o600
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["patient"] for row in rows] == list(PATIENTS)
    info = json.loads((call.folder / "records/dataset.json").read_text())
    of_cem = rows[2]["patient_id"]
    assert info["splits"]["test"]["patients"] == [of_cem]
    text = (call.folder / "records/dataset.json").read_text()
    assert not any(f'"{name}"' in text for name in PATIENTS)
    assert rows[0]["salt"] not in text

    # A second set gets the same ids from the same table, which only grows.
    before = table.read_bytes()
    again = call(*common, "--output_dir=more", f"--patients_file={table}")
    assert again.returncode == 0, again.stderr
    assert table.read_bytes() == before
    more = json.loads((call.folder / "more/dataset.json").read_text())
    assert more["splits"] == info["splits"]
    assert more["ids_from"] == info["ids_from"]
    # Without it, there are others.
    assert call(*common, "--output_dir=other").returncode == 0
    other = json.loads((call.folder / "other/dataset.json").read_text())
    assert other["splits"]["test"]["patients"] != [of_cem]
    inside = call(*common, "--output_dir=x", "--patients_file=x/who.csv")
    assert inside.returncode == 1 and "expected it outside" in inside.stderr
    assert not (call.folder / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGINT, "interrupted"),
        pytest.param(
            signal.SIGTERM, "stopped by SIGTERM", marks=pytest.mark.faults
        ),
    ],
)
def test_after_a_signal_the_same_command_goes_on_where_it_was(
    tmp_path, start_script, number, words
):
    """Four built-in patients take long enough to be interrupted."""
    command = ["--output_dir=records", "--task=mr_ct", "--num_phantoms=4"]
    process = start_script("prepare_data.py", *command, cwd=tmp_path)
    # The first study is finished.
    work = tmp_path / "records.incomplete"
    for _ in range(900):
        if work.is_dir() and list(work.glob("*.json")):
            break
        time.sleep(0.1)
    process.send_signal(number)
    done = process.wait()
    shown = done.stderr
    assert shown.splitlines()[-1].startswith(f"prepare_data.py: {words}")
    assert "Traceback" not in shown
    assert done.returncode == 128 + number
    assert os.listdir(tmp_path) == ["records.incomplete"]
    finished = {path.suffix for path in work.iterdir()}
    assert finished == {"", ".json", ".tfrecord"}
    count = len(list(work.glob("*.json")))
    assert f"{count} of 4 studies are kept" in shown
    before = {p.name: p.stat().st_mtime_ns for p in work.glob("*.tfrecord")}
    again = start_script("prepare_data.py", *command, cwd=tmp_path).wait()
    assert again.returncode == 0, again.stderr
    assert os.listdir(tmp_path) == ["records"]
    # A shard that is taken over is renamed, not written again.
    after = {p.stat().st_mtime_ns for p in (tmp_path / "records").iterdir()}
    assert set(before.values()) < after


@pytest.mark.slow
@pytest.mark.faults
def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    command = ["--output_dir=records", "--task=mr_ct", "--workers=2"]
    command += ["--num_phantoms=6"]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *command],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    work = tmp_path / "records.incomplete"
    for _ in range(900):
        if work.is_dir() and list(work.glob("*.json")):
            break
        time.sleep(0.1)
    children = [
        int(pid)
        for pid in pathlib.Path(
            f"/proc/{process.pid}/task/{process.pid}/children"
        )
        .read_text()
        .split()
    ]
    process.kill()
    process.wait()
    assert len(children) >= 2
    for _ in range(100):
        alive = [pid for pid in children if os.path.exists(f"/proc/{pid}")]
        if not alive:
            break
        time.sleep(0.1)
    assert alive == []
    # What was finished is taken over.
    finished = len(list(work.glob("*.json")))
    assert finished >= 1
    again = subprocess.run(
        [sys.executable, SCRIPT, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--realisations=2"],
        ["--simulate=severity=2"],
    ],
)
def test_options_of_a_simulation_need_one(call, study, options):
    done = call(
        "--task=mr_motion",
        f"--input_dir={study}",
        "--source=*/MR.nii",
        "--target=*/CT.nii",
        "--output_dir=records",
        *options,
    )
    assert_refused(done, call.folder, 1, "no source is to be simulated")
