"""A study is balanced, repeats from its seed, and tells no method."""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sqlite3
import stat

import numpy as np
import pytest

from medgan_tf import errors, tasks
from medgan_tf.data.sample import Sample
from medgan_tf.reader_study import (
    choice,
    folders,
    readings,
    storage,
    study,
    trials,
)

CT = tasks.TASKS["pet_ct"]
MR = tasks.TASKS["mr_motion"]
SIZE = (256, 256)


def candidate(patient, index, body=100, of_study=""):
    return choice.Candidate(patient, of_study, index, body)


def slices(**numbers):
    return [
        candidate(patient, index)
        for patient, number in numbers.items()
        for index in range(number)
    ]


def chosen(found, number, seed=0):
    """Patient -> chosen slices."""
    by_patient = collections.defaultdict(list)
    for one in choice.choose(found, number, np.random.default_rng(seed)):
        by_patient[one.patient].append(one.slice_index)
    return dict(by_patient)


# --- Which slices.


def test_all_patients_have_as_many_trials_but_for_one():
    for seed in range(5):
        found = chosen(slices(a=40, b=30, c=25, d=99), 10, seed)
        assert sorted(map(len, found.values())) == [2, 2, 3, 3]


def test_who_has_too_few_slices_gives_all_and_the_others_share_the_rest():
    found = chosen(slices(a=2, b=30, c=30), 13)
    assert found["a"] == [0, 1]
    assert sorted(map(len, found.values())) == [2, 5, 6]


@pytest.mark.parametrize("seed", range(5))
def test_slices_lie_apart_where_there_is_room(seed):
    for number in (7, 8, 20, 61):
        (found,) = chosen(slices(a=number), 4, seed).values()
        assert len(set(found)) == 4
        assert np.diff(found).min() >= 2
        # Evenly: no gap is twice another.
        assert np.ptp(np.diff(found)) <= 1
    (found,) = chosen(slices(a=6), 4, seed).values()
    assert len(set(found)) == 4


def test_neighbours_by_number_count_not_by_place_in_the_list():
    found = [
        candidate("a", index, of_study=s) for s in "xy" for index in (0, 9)
    ]
    assert sorted(chosen(found, 4)["a"]) == [0, 0, 9, 9]


def test_too_few_slices_are_told_in_numbers():
    with pytest.raises(errors.DataError, match=r"5 slice\(s\) of 2 patient"):
        chosen(slices(a=2, b=3), 6)


def test_slices_with_little_of_the_body_are_left_out():
    found = [
        candidate("a", 0, 24),
        candidate("a", 1, 25),
        candidate("a", 2, 100),
        candidate("a", 0, 10, "other"),
        candidate("b", 0, 0),
    ]
    left = choice.with_body(found)
    assert [one.place for one in left] == [
        ("a", "", 1),
        ("a", "", 2),
        ("a", "other", 0),
    ]


def test_the_body_is_counted_in_the_unit_and_within_the_mask():
    target = np.full((*SIZE, 1), -1, np.float32)
    target[:10, :10] = 0.0  # 500 HU
    target[10:20, :10] = -0.9  # -850 HU
    mask = np.ones(SIZE, bool)
    mask[:5] = False
    one = Sample("a", 0, target, target, mask, (0, 20), (-1000, 2000))
    assert choice.candidates([one], CT.target)[0].body == 50


# --- What is written.


def samples(patients="abc", num_slices=6, modality=CT.target):
    rng = np.random.default_rng(0)
    for patient in patients:
        for index in range(num_slices):
            target = rng.uniform(-0.5, 0.5, (*SIZE, 1)).astype(np.float32)
            mask = np.ones(SIZE, bool)
            mask[:16] = False
            window = modality.window or (0.0, 700.0)
            yield Sample(patient, index, target, target, mask, (0, 20), window)


METHODS = {
    "medgan": lambda sources: sources * 0.5,
    "pix2pix": lambda sources: sources * 0.25,
}


def plan(**changes):
    settings = {"task": CT, "num_trials": 7, "num_readers": 2, "seed": 11}
    return trials.Plan(**{**settings, **changes})


@pytest.fixture
def made(tmp_path):
    return trials.create(tmp_path / "a" / "study", samples, METHODS, plan())


def content(made):
    told = json.loads((made.folder / study.STUDY_FILE).read_text())
    key = json.loads(made.key.read_text())
    return told, key


def test_images_are_the_real_one_and_the_methods_in_the_unit(made):
    told, key = content(made)
    real = {
        (s.patient, s.slice_index): s.target[..., 0].astype(float)
        for s in samples()
    }
    slope, intercept = (
        told["intensity"]["slope"],
        told["intensity"]["intercept"],
    )
    factors = {"target": 1, "medgan": 0.5, "pix2pix": 0.25}
    assert key["methods"] == ["medgan", "pix2pix"]
    for trial in told["trials"]:
        its = key["trials"][trial["id"]]
        assert list(its["images"]) == trial["images"]
        assert sorted(its["images"].values()) == sorted(factors)
        for image, label in its["images"].items():
            raw = np.fromfile(
                made.folder / "images" / f"{image}.u16", "<u2"
            ).reshape(SIZE)
            found = raw * slope + intercept
            wanted = real[its["patient"], its["slice"]] * factors[label]
            # -1 to 1 is -1000 to 2000 HU; air outside the mask.
            wanted = np.where(np.arange(256)[:, None] < 16, -1, wanted)
            assert np.abs(found - (wanted * 1500 + 500)).max() <= slope


def test_the_server_reads_what_was_written(made):
    found = study.read(made.folder)
    assert (found.title, found.unit) == (CT.title, "HU")
    assert found.window == (-300.0, 700.0)
    assert len(found.trials) == 7
    assert storage.num_expected(found.answers) == 14
    assert list(found.words) == ["1", "2", "3", "4"]


def test_nothing_that_readers_see_tells_the_method(made):
    told, key = content(made)
    files = sorted((made.folder / "images").iterdir())
    assert len(files) == 21
    assert {file.stat().st_size for file in files} == {131072}
    # One time, modes alike, and the order on the disk is that of the names.
    assert len({file.stat().st_mtime_ns for file in files}) == 1
    assert len({file.stat().st_mode for file in files}) == 1
    assert all(re.fullmatch(r"[0-9a-f]{16}\.u16", file.name) for file in files)
    seen = (made.folder / study.STUDY_FILE).read_text()
    seen += (made.folder / study.ANSWERS_FILE).read_bytes().decode("latin-1")
    for secret in ("target", "medgan", "pix2pix", made.key.name, '"a"'):
        assert secret not in seen
    assert set(os.listdir(made.folder)) == {
        study.STUDY_FILE,
        study.ANSWERS_FILE,
        "images",
    }
    assert told["trials"] != sorted(told["trials"], key=lambda t: t["id"])


def test_key_and_tokens_are_beside_and_for_their_owner_only(made):
    _, key = content(made)
    for path in (made.key, made.tokens):
        assert path.parent == made.folder.parent
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    seen = (made.folder / study.STUDY_FILE).read_bytes()
    assert key["study"] == hashlib.sha256(seen).hexdigest()
    lines = made.tokens.read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["reader1", "reader2"]
    path = made.folder / study.ANSWERS_FILE
    assert storage.find_reader(path, lines[1].split("\t")[1]).id == "reader2"
    for line in lines:
        token = line.split("\t")[1].encode()
        assert token not in path.read_bytes()
        assert token not in made.key.read_bytes()


def test_the_same_seed_gives_the_same_study_and_another_another(tmp_path, made):
    def shown(one):
        """What readers see trial by trial, without the names, which are drawn
        and by which each reader's images are ordered."""
        trials_of = content(one)[1]["trials"]
        path = one.folder / study.ANSWERS_FILE
        with contextlib.closing(sqlite3.connect(path)) as database:
            order = database.execute(
                "SELECT trial FROM trial_order ORDER BY reader, position"
            ).fetchall()
        return [
            {**trials_of[t], "images": sorted(trials_of[t]["images"].values())}
            for (t,) in order
        ]

    for name, seed in (("same", 11), ("other", 12)):
        again = trials.create(
            tmp_path / name, samples, METHODS, plan(seed=seed)
        )
        is_same = shown(again) == shown(made)
        assert is_same == (name == "same")
        # A reader sees names: were they of the seed, a seed that is guessed
        # could be known for the right one by them, and with it the key.
        names = set(content(again)[1]["trials"])
        assert not names & set(content(made)[1]["trials"])


@pytest.mark.parametrize(
    ("task", "unit", "whole"), [(CT, 1.0, 3000), (MR, 0.2, 500)]
)
def test_values_that_were_whole_are_told_from_no_others(
    task, unit, whole, tmp_path
):
    """As a scanner stores them, and as a network does."""

    def whole_ones():
        for one in samples(modality=task.target):
            steps = np.rint((one.target + 1) / 2 * whole)
            yield dataclasses.replace(one, target=steps / whole * 2 - 1)

    made = trials.create(
        tmp_path / "s",
        whole_ones,
        {"medgan": lambda sources: sources * 0.7},
        plan(task=task),
    )
    told, key = content(made)
    assert told["intensity"]["slope"] == unit
    for trial in key["trials"].values():
        for image, label in trial["images"].items():
            raw = np.fromfile(made.folder / "images" / f"{image}.u16", "<u2")
            values = np.unique(raw[raw > 0])
            # No gaps in the one, none in the other; to the ends of -0.5 to
            # 0.5, or 0.7 of it.
            share = 0.5 if label == "target" else 0.35
            assert values.size == np.ptp(values) + 1
            assert values.size == pytest.approx(whole * share, abs=3)


def test_places_of_the_real_image_are_shuffled(tmp_path):
    made = trials.create(
        tmp_path / "s",
        lambda: samples("abcdef", 10),
        METHODS,
        plan(num_trials=60),
    )
    told, key = content(made)
    places = collections.Counter(
        list(key["trials"][one["id"]]["images"].values()).index("target")
        for one in told["trials"]
    )
    assert sorted(places) == [0, 1, 2]
    # 20 each; fewer than 9 or more than 32 has a chance below 1 in 1000.
    assert 9 <= min(places.values()) <= max(places.values()) <= 32
    assert set(made.per_patient.values()) == {10}


def test_mr_is_shown_in_per_cent_of_its_maximum(tmp_path):
    made = trials.create(
        tmp_path / "s",
        lambda: samples(modality=MR.target),
        METHODS,
        plan(task=MR),
    )
    told, _ = content(made)
    assert told["unit"] == "% of the maximum"
    assert told["window"] == [0, 100]
    assert told["intensity"] == {"slope": 0.2, "intercept": 0}


@pytest.mark.parametrize("taken", ["study", "study_key.json"])
def test_nothing_is_overwritten(taken, tmp_path):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(errors.DataError, match="something there already"):
        trials.create(tmp_path / "study", samples, METHODS, plan())
    assert os.listdir(tmp_path) == [taken]
    assert (tmp_path / taken).read_text() == "mine"


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trials, "_write_images", fails)
    with pytest.raises(errors.ResourceError, match="No space left"):
        trials.create(tmp_path / "study", samples, METHODS, plan())
    assert os.listdir(tmp_path) == []


def test_a_key_that_came_meanwhile_is_left_alone(tmp_path, monkeypatch):
    def write(*_):
        (tmp_path / "study_key.json").write_text("theirs")

    monkeypatch.setattr(trials, "_write_images", write)
    with pytest.raises(errors.ResourceError, match="File exists"):
        trials.create(tmp_path / "study", samples, METHODS, plan())
    assert os.listdir(tmp_path) == ["study_key.json"]
    assert (tmp_path / "study_key.json").read_text() == "theirs"


@pytest.mark.parametrize(
    ("methods", "changes", "key", "words"),
    [
        ({}, {}, None, f"Methods must be 1 to {study.MOST_IMAGES - 1},"),
        ({"target": None}, {}, None, "none called 'target'"),
        (METHODS, {"window": (5.0, 5.0)}, None, "The window must lie within"),
        (METHODS, {"window": (-2000.0, 5.0)}, None, "-1000 to 2000 HU"),
        (METHODS, {"num_readers": 0}, None, "a trial and a reader at least"),
        (METHODS, {}, "study/key.json", "in the folder that readers see"),
        (METHODS, {"num_trials": 19}, None, r"18 slice\(s\) of 3 patient"),
        ({"copy": lambda s: s}, {}, None, "copy and target have the same"),
    ],
)
def test_what_will_not_do_is_told(methods, changes, key, words, tmp_path):
    with pytest.raises(errors.MedganError, match=words):
        trials.create(
            tmp_path / "study",
            samples,
            methods,
            plan(**changes),
            key_path=key and tmp_path / key,
        )
    assert os.listdir(tmp_path) == []


# --- From folders.


def write_folders(place, names=("target", "medgan"), patients="ab"):
    rng = np.random.default_rng(1)
    for name in names:
        (place / name).mkdir()
        for patient in patients:
            for index in range(3):
                image = rng.uniform(-300, 900, SIZE)
                image[:40] = rng.normal(-1000, 10, (40, 256))
                np.save(place / name / f"{patient}_{index:03}.npy", image)
    return {name: place / name for name in names}


def test_a_study_of_folders_holds_their_images(tmp_path):
    paths = write_folders(tmp_path, ("medgan", "target", "pix2pix"))
    found, methods = folders.open_folders(paths, CT.target)
    made = trials.create(tmp_path / "study", found, methods, plan(num_trials=4))
    told, key = content(made)
    assert key["methods"] == ["medgan", "pix2pix"]
    assert made.per_patient == {"a": 2, "b": 2}
    slope, intercept = (
        told["intensity"]["slope"],
        told["intensity"]["intercept"],
    )
    for trial in key["trials"].values():
        for image, label in trial["images"].items():
            raw = np.fromfile(made.folder / "images" / f"{image}.u16", "<u2")
            name = f"{trial['patient']}_{trial['slice']:03}.npy"
            wanted = np.clip(np.load(paths[label] / name), -1000, 2000)
            found = raw.reshape(SIZE) * slope + intercept
            # Whole HU.
            assert np.abs(found - wanted).max() <= 0.501


def test_folders_must_hold_the_same_slices_in_the_unit(tmp_path):
    paths = write_folders(tmp_path)
    with pytest.raises(errors.UsageError, match="'target' and one of a method"):
        folders.open_folders({"medgan": tmp_path / "medgan"}, CT.target)
    grey = np.load(paths["medgan"] / "a_000.npy")
    np.save(paths["medgan"] / "a_000.npy", (grey + 1000) / 3000)
    for index in (1, 2):
        (paths["medgan"] / f"a_00{index}.npy").unlink()
        np.save(paths["medgan"] / f"a_00{index}.npy", (grey + 1000) / 3000)
    found, _ = folders.open_folders(paths, CT.target)
    with pytest.raises(errors.DataError, match="neither grey values nor"):
        list(found())
    (paths["medgan"] / "b_002.npy").unlink()
    with pytest.raises(errors.DataError, match="no image for 1 of 2"):
        folders.open_folders(paths, CT.target)
    with pytest.raises(errors.DataError, match="no image of a slice"):
        folders.open_folders({**paths, "target": tmp_path / "no"}, CT.target)


# --- Back again.


def answer_all(made, num=None):
    """Both readers hold the first image for real and give 1, 2, 3."""
    told, _ = content(made)
    images = {one["id"]: one["images"] for one in told["trials"]}
    path = made.folder / study.ANSWERS_FILE
    for reader in ("reader1", "reader2"):
        for _ in range(num or len(images)):
            trial = storage.progress(path, reader).trial
            its = images[trial]
            scores = {image: k for k, image in enumerate(its, 1)}
            storage.add_answer(path, reader, trial, its[0], scores, 2.5)


def test_answers_come_back_with_the_blinds_taken_off(made):
    answer_all(made)
    read, rows = readings.read(made.folder)
    told, key = content(made)
    assert read.labels == ("target", "medgan", "pix2pix")
    assert (read.num_answers, read.num_expected) == (14, 14)
    assert len(rows) == 42
    for t, trial in enumerate(told["trials"]):
        labels = list(key["trials"][trial["id"]]["images"].values())
        for number, label in enumerate(labels, 1):
            at = read.labels.index(label)
            assert (read.scores[:, t, at] == number).all()
            assert (read.judged[:, t, at] == (number == 1)).all()
    assert sorted(read.positions[0]) == list(range(1, 8))
    assert read.patients[0] == key["trials"][told["trials"][0]["id"]]["patient"]


def test_an_incomplete_study_is_refused_unless_asked_for(made):
    with pytest.raises(errors.DataError, match="0 of 14 answers"):
        readings.read(made.folder, allow_incomplete=True)
    answer_all(made, 3)
    with pytest.raises(errors.DataError, match="6 of 14 answers.*--incomplete"):
        readings.read(made.folder)
    read, _ = readings.read(made.folder, allow_incomplete=True)
    assert read.num_answers == 6
    assert np.isfinite(read.scores).sum() == 18
    # Trials that nobody answered are none.
    assert np.isfinite(read.positions).any(0).all()
    assert len(read.trials) == len(read.patients) == read.scores.shape[1]


def test_a_key_of_another_study_is_refused(made, tmp_path):
    answer_all(made)
    other = trials.create(tmp_path / "b", samples, METHODS, plan(seed=1))
    with pytest.raises(errors.ArtefactError, match="key of another study"):
        readings.read(made.folder, other.key)
    with pytest.raises(errors.ArtefactError, match="name it by --key"):
        readings.read(made.folder, tmp_path / "no.json")


def without(key, name):
    return {k: v for k, v in key.items() if k != name}


@pytest.mark.parametrize(
    "damage",
    [
        lambda key: "{",
        lambda key: "[" * 100_000,
        lambda key: [],
        lambda key: without(key, "methods"),
        lambda key: without(key, "trials"),
        lambda key: {**key, "trials": []},
        lambda key: {**key, "methods": ["medgan"]},
        lambda key: {**key, "trials": dict.fromkeys(key["trials"], {})},
    ],
)
def test_a_key_that_is_damaged_is_told_in_one_line(made, damage):
    answer_all(made)
    _, key = content(made)
    found = damage(key)
    text = found if isinstance(found, str) else json.dumps(found)
    made.key.write_text(text)
    with pytest.raises(errors.ArtefactError, match="cannot be read") as caught:
        readings.read(made.folder)
    assert "\n" not in str(caught.value)
