"""A cohort becomes the same records again, whoever does the work."""

import functools
import hashlib
import itertools
import json
import os

import nibabel as nib
import numpy as np
import pytest

from medgan_tf import errors, sealed, tasks
from medgan_tf.data import (
    manifest,
    pairs,
    phantom,
    prepare,
    records,
    workers,
)
from medgan_tf.data import split as splits

TASK = tasks.TASKS["pet_denoise"]
PATIENTS = ("ann", "bob", "cem", "dan", "eve")
small_patient = functools.partial(
    phantom.patient, shape=(24, 24, 4), spacing=(9.0, 9.0, 12.0)
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """PET of five patients; their low-count PET is to be simulated."""
    folder = tmp_path_factory.mktemp("study")
    for seed, name in enumerate(PATIENTS):
        pet = small_patient(2 * seed)["PET"]
        nib.save(nib.Nifti1Image(pet.array, pet.affine), folder / f"{name}.nii")
    return [manifest.Study(p, (), folder / f"{p}.nii") for p in PATIENTS]


def run(study, folder, seed=0, **settings):
    split = splits.split_patients([pair.patient for pair in study], seed=3)
    options = pairs.Options(seed=seed)
    return prepare.prepare(
        TASK, study, folder, split=split, options=options, **settings
    )


@pytest.fixture(scope="module")
def dataset(study, tmp_path_factory):
    return run(study, tmp_path_factory.mktemp("records") / "data")


def contents(folder):
    """Name and SHA-256 of every file."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
    }


def test_no_patient_is_on_two_sides(dataset):
    split = splits.split_patients(PATIENTS, seed=3)
    opened = records.open_dataset(dataset.folder)
    for side, patients in split.items():
        found = [(s.patient, s.slice_index) for s in opened.samples(side)]
        assert sorted({patient for patient, _ in found}) == patients
        assert sorted(opened.patients(side)) == patients
        assert len(found) == len(set(found)) == opened.num_slices(side)
    assert sum(opened.num_slices(side) for side in split) == 5 * 4


def test_dataset_json_says_what_was_done(study, dataset):
    info = dataset.info
    assert (info["task"], info["options"]["seed"]) == ("pet_denoise", 0)
    assert info["is_simulated"] and info["origin"] == "simulated source"
    assert info["num_dropped_slices"] == 0
    assert (info["slice_size"], info["source_channels"]) == (256, 1)
    assert info["target_unit"] == "SUV"


def test_the_mean_over_the_body_is_that_of_the_training_patients(
    study, dataset
):
    trained = [
        pairs.prepare_study(TASK, pairs.Options(), pair)
        for pair in study
        if pair.patient in dataset.patients("train")
    ]
    total = sum(patient.body_sum for patient in trained)
    voxels = sum(patient.body_voxels for patient in trained)
    assert dataset.info["train_body_mean"] == pytest.approx(total / voxels)


def test_equal_files_and_seed_give_equal_bytes(study, dataset, tmp_path):
    again = run(study, tmp_path / "data")
    assert contents(again.folder) == contents(dataset.folder)
    assert again.info["fingerprint"] == dataset.info["fingerprint"]


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(study, dataset, tmp_path):
    again = run(study, tmp_path / "data", workers=2)
    assert contents(again.folder) == contents(dataset.folder)


def test_another_seed_simulates_other_noise(study, dataset, tmp_path):
    other = run(study, tmp_path / "data", seed=1)
    assert other.info["fingerprint"] != dataset.info["fingerprint"]


def test_progress_sees_every_patient(study, tmp_path):
    seen = []

    def progress(patients):
        for patient in patients:
            seen.append(patient["shard"]["patient"])
            yield patient

    run(study, tmp_path / "data", progress=progress)
    assert tuple(seen) == PATIENTS


@pytest.mark.parametrize(
    "workers", [1, pytest.param(2, marks=pytest.mark.slow)]
)
def test_after_a_file_that_is_refused_the_finished_studies_are_taken_over(
    study, dataset, tmp_path, workers, monkeypatch
):
    (tmp_path / "flat.nii").write_bytes(study[0].target.read_bytes()[:-4])
    damaged = manifest.Study("eve", (), tmp_path / "flat.nii")
    with pytest.raises(errors.DataError, match="flat.nii"):
        run([*study[:4], damaged], tmp_path / "data", workers=workers)
    assert sorted(os.listdir(tmp_path)) == ["data.incomplete", "flat.nii"]
    assert prepare.num_finished(tmp_path / "data") == 4
    made = []

    def prepare_study(task, options, item):
        made.append(item.patient)
        return original(task, options, item)

    original = pairs.prepare_study
    monkeypatch.setattr(pairs, "prepare_study", prepare_study)
    again = run(study, tmp_path / "data")
    assert made == ["eve"]
    assert contents(again.folder) == contents(dataset.folder)


def run_until(study, folder, num_finished):
    """A preparation that is stopped after so many studies."""

    def stop(results):
        yield from itertools.islice(results, num_finished)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(study, folder, progress=stop)


def other_digit(note):
    facts = json.loads(note.read_text())
    facts["body_sum"] *= 40
    note.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    "damage",
    [
        other_digit,
        lambda note: note.write_text("[1, 2]"),
        lambda note: note.write_text("[" * 200_000),
        lambda note: sealed.write(note, {}),
    ],
)
def test_what_is_noted_of_a_finished_shard_is_true_or_it_is_made_again(
    study, dataset, tmp_path, damage
):
    run_until(study, tmp_path / "data", num_finished=2)
    damage(next((tmp_path / "data.incomplete").glob("*.json")))
    again = run(study, tmp_path / "data")
    assert contents(again.folder) == contents(dataset.folder)


def test_a_finished_shard_that_was_damaged_is_made_again(
    study, dataset, tmp_path
):
    run_until(study, tmp_path / "data", num_finished=2)
    work = tmp_path / "data.incomplete"
    first = next(work.glob("*.tfrecord"))
    first.write_bytes(first.read_bytes()[:-1])
    again = run(study, tmp_path / "data")
    assert contents(again.folder) == contents(dataset.folder)


def test_other_options_do_not_take_over_what_was_finished(study, tmp_path):
    run_until(study, tmp_path / "data", num_finished=1)
    other = run(study, tmp_path / "data", seed=1)
    assert (
        other.info["fingerprint"]
        == (run(study, tmp_path / "fresh", seed=1).info["fingerprint"])
    )


def test_a_file_that_is_refused_first_leaves_nothing_behind(study, tmp_path):
    (tmp_path / "flat.nii").write_bytes(study[0].target.read_bytes()[:-4])
    damaged = manifest.Study("eve", (), tmp_path / "flat.nii")
    with pytest.raises(errors.DataError, match="flat.nii"):
        run([damaged, *study[:4]], tmp_path / "data")
    assert os.listdir(tmp_path) == ["flat.nii"]


def test_a_folder_that_is_in_use_is_refused_before_any_work(study, tmp_path):
    (tmp_path / "thesis.txt").touch()
    seen = []
    with pytest.raises(errors.ResourceError, match="not empty"):
        run(study, tmp_path, progress=seen.extend)
    assert seen == [] and os.listdir(tmp_path) == ["thesis.txt"]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_as_a_lack_of_memory():
    with pytest.raises(errors.ResourceError, match="fewer --workers"):
        list(workers.map_in_order(os._exit, [9, 9], 2))


def test_built_in_patients_are_heads_and_torsos(monkeypatch, tmp_path):
    drawn = []

    def draw(seed):
        drawn.append(seed)
        return small_patient(seed)

    monkeypatch.setattr(phantom, "patient", draw)
    task = tasks.adapted(tasks.TASKS["mr_ct"], voxel_size_mm=(None, None, None))
    dataset = prepare.prepare_phantoms(
        task, 4, tmp_path / "data", options=pairs.Options(seed=2)
    )
    assert sorted(s % 2 for s in drawn) == [0, 0, 1, 1]
    assert len(set(drawn)) == 4
    assert dataset.info["origin"] == "phantom" and dataset.info["is_simulated"]
    names = sum((dataset.patients(side) for side in splits.SIDES), [])
    assert sorted(names) == [f"phantom{k:03d}" for k in range(4)]
    sample = next(dataset.samples("train"))
    assert np.ptp(sample.source) > 1 and np.ptp(sample.target) > 1
