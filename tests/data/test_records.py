"""A data set of records is whole and true, or it is refused."""

import hashlib
import json

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import errors, sealed
from medgan_tf.data import records
from medgan_tf.data import sample as samples


def make(patient: str, slice_index: int = 0) -> samples.Sample:
    """A slice of 4 x 4 pixels, unlike any other."""
    rng = np.random.default_rng([slice_index, *patient.encode()])
    source = rng.uniform(-1, 1, [4, 4, 2]).astype(np.float32)
    target = rng.uniform(-1, 1, [4, 4, 1]).astype(np.float32)
    mask = rng.random([4, 4]) < 0.5
    window = 0.0, float(np.float32(rng.uniform(1, 9)))
    return samples.Sample(
        patient,
        slice_index,
        source,
        target,
        mask,
        window,
        (-1000.0, 2000.0),
        "first visit",
        ((0.0, 20.0),),
        '{"severity": 2}',
    )


def assert_equal(first: samples.Sample, second: samples.Sample):
    for name in (
        "patient",
        "slice_index",
        "source_windows",
        "target_window",
        "study",
        "simulation",
    ):
        assert getattr(first, name) == getattr(second, name)
    for name in ("source", "target", "mask"):
        ours, theirs = getattr(first, name), getattr(second, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture
def dataset(tmp_path):
    """19 slices of ann to train on, 2 of bob to test on."""
    with records.Writer(tmp_path / "data", "mr_ct") as writer:
        for first in range(0, 19, 10):
            numbers = range(first, min(first + 10, 19))
            writer.add("train", [make("ann", k) for k in numbers])
        writer.add("test", [make("bob", k) for k in range(2)])
        return writer.finish({"task": "mr_ct"})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("patient", ["ann", "Zoë 7/ä"])
def test_a_sample_comes_back_bit_by_bit(patient):
    sample = make(patient, 12)
    assert_equal(records.decode(records.encode(sample)), sample)


def test_equal_samples_are_equal_bytes():
    assert records.encode(make("ann", 3)) == records.encode(make("ann", 3))


def test_the_pipeline_sees_the_same_images():
    sample = make("ann")
    source, target = records.parse_images(records.encode(sample), 4, 2)
    np.testing.assert_array_equal(source, sample.source)
    np.testing.assert_array_equal(target, sample.target)


def test_of_what_was_not_finished_no_folder_is_left(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        records.Writer(tmp_path / "new" / "er" / "data", "mr_ct") as writer,
    ):
        writer.add("train", [make("ann")])
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_every_sample_of_a_split_is_read_back(dataset):
    opened = records.open_dataset(dataset.folder)
    found = {s.slice_index: s for s in opened.samples("train")}
    assert sorted(found) == list(range(19))
    for k, sample in found.items():
        assert_equal(sample, make("ann", k))
    assert list(opened.samples("validation")) == []


def test_dataset_json_tells_the_truth(dataset):
    info = json.loads((dataset.folder / "dataset.json").read_text())
    assert info["task"] == "mr_ct"
    listed, hashes = ["dataset.json"], []
    for split, count in (("train", 19), ("validation", 0), ("test", 2)):
        described = info["splits"][split]
        assert described["num_slices"] == count
        found = 0
        for shard in described["shards"]:
            path = dataset.folder / shard["name"]
            content = path.read_bytes()
            hashes.append(hashlib.sha256(content).hexdigest())
            assert shard["sha256"] == hashes[-1]
            assert shard["num_bytes"] == len(content)
            reader = tf.data.TFRecordDataset(str(path), "GZIP")
            in_shard = sum(1 for _ in reader)
            assert shard["num_records"] == in_shard
            found += in_shard
            listed.append(shard["name"])
        assert found == count
    assert info["splits"]["train"]["patients"] == ["ann"]
    assert info["splits"]["test"]["patients"] == ["bob"]
    assert names(dataset.folder) == sorted(listed)
    together = hashlib.sha256("".join(hashes).encode()).hexdigest()
    assert info["fingerprint"] == together


def test_a_shard_says_which_of_how_many_it_is(dataset):
    shards = dataset.info["splits"]["train"]["shards"]
    assert len(shards) == 2
    assert shards[1]["name"] == "mr_ct-train.tfrecord-00001-of-00002"


@pytest.mark.parametrize("fault", [ValueError("a bug"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_nothing_behind(tmp_path, fault):
    with pytest.raises(type(fault)):
        with records.Writer(tmp_path / "data", "mr_ct") as writer:
            writer.add("train", [make("ann")])
            raise fault
    assert names(tmp_path) == []


def test_a_shard_that_has_a_note_beside_it_is_kept_for_the_next_attempt(
    tmp_path,
):
    with records.Writer(tmp_path / "data", "mr_ct") as writer:
        path = writer.work / "key.tfrecord"
        shard = records.write_shard(path, [make("ann"), make("ann", 1)])
        (writer.work / "key.json").touch()
        (writer.work / "half.tfrecord.tmp").touch()
    assert names(tmp_path / "data.incomplete") == [
        ".unfinished_records",
        "key.json",
        "key.tfrecord",
    ]
    assert records.is_whole(tmp_path / "data.incomplete/key.tfrecord", shard)
    with records.Writer(tmp_path / "data", "mr_ct") as writer:
        writer.take("train", path, shard)
        dataset = writer.finish({})
    assert names(tmp_path) == ["data"]
    assert dataset.num_slices("train") == 2
    assert len(list(dataset.samples("train"))) == 2


@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_shard_that_was_damaged_is_not_whole(tmp_path, damage):
    path = tmp_path / "key.tfrecord"
    shard = records.write_shard(path, [make("ann")])
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    {
        "cut": lambda: path.write_bytes(path.read_bytes()[:-1]),
        "flip": lambda: path.write_bytes(content),
        "remove": path.unlink,
    }[damage]()
    assert not records.is_whole(path, shard)


def test_two_processes_cannot_prepare_into_one_folder(tmp_path):
    with records.Writer(tmp_path / "data", "mr_ct"):
        with pytest.raises(errors.ResourceError, match="another process"):
            with records.Writer(tmp_path / "data", "mr_ct"):
                pass


def test_a_writer_that_does_not_finish_leaves_nothing_behind(tmp_path):
    with records.Writer(tmp_path / "data", "mr_ct") as writer:
        writer.add("train", [make("ann")])
    assert names(tmp_path) == []


def test_facts_that_are_no_json_leave_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        with records.Writer(tmp_path / "data", "mr_ct") as writer:
            writer.add("train", [make("ann")])
            writer.finish({"mean": float("nan")})
    assert names(tmp_path) == []


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(errors.ResourceError, match="not empty"):
        records.Writer(tmp_path, "mr_ct")
    assert names(tmp_path) == ["thesis.txt"]


def test_an_empty_folder_becomes_the_data_set(tmp_path):
    (tmp_path / "data").mkdir()
    with records.Writer(tmp_path / "data", "mr_ct") as writer:
        writer.add("train", [make("ann")])
        writer.finish({})
    assert names(tmp_path) == ["data"]


@pytest.mark.parametrize("name", ["file/data", "x" * 300])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(errors.ResourceError, match="cannot be made"):
        with records.Writer(tmp_path / name, "mr_ct"):
            pass
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ('{"schema_version": 2', "cannot be read"),
        (b"\xff", "cannot be read"),
        ("[]", "no sha256 of its content"),
        ("{}", "no sha256 of its content"),
        (sealed.dumps({"schema_version": 1}), "not of schema version 2"),
        ('{"schema_version": 2}', "no sha256 of its content"),
    ],
)
def test_a_dataset_json_that_says_nothing_is_refused(dataset, text, words):
    path = dataset.folder / "dataset.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(errors.DataError, match=words) as caught:
        records.open_dataset(dataset.folder)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("place", [".", "no", "thesis.txt"])
def test_a_place_without_records_is_refused(tmp_path, place):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(errors.DataError, match="holds no records"):
        records.open_dataset(tmp_path / place)


@pytest.mark.parametrize(
    "name", ["../{}", "/etc/hostname", "sub/{}", "..", "{}/../{}", ""]
)
def test_a_shard_outside_the_folder_is_refused(dataset, name):
    path = dataset.folder / "dataset.json"
    info = sealed.read(path)
    (shard,) = info["splits"]["test"]["shards"]
    (dataset.folder.parent / shard["name"]).write_bytes(
        (dataset.folder / shard["name"]).read_bytes()
    )
    shard["name"] = name.format(*2 * [shard["name"]])
    sealed.write(path, info)
    with pytest.raises(errors.DataError, match="file in its own folder"):
        records.open_dataset(dataset.folder)


def test_a_missing_shard_is_refused(dataset):
    name = dataset.info["splits"]["train"]["shards"][1]["name"]
    (dataset.folder / name).unlink()
    with pytest.raises(errors.DataError, match=f"{name} has no bytes"):
        records.open_dataset(dataset.folder)


def test_a_shard_that_was_cut_is_refused(dataset):
    path = dataset.folder / dataset.info["splits"]["test"]["shards"][0]["name"]
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    words = f"has {len(content) - 1} bytes, expected {len(content)}"
    with pytest.raises(errors.DataError, match=words):
        records.open_dataset(dataset.folder)


def test_a_flipped_bit_is_found_when_the_record_is_read(dataset):
    path = dataset.folder / dataset.info["splits"]["test"]["shards"][0]["name"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    words = f"{path.name}: found a damaged record"
    with pytest.raises(errors.DataError, match=words):
        list(records.open_dataset(dataset.folder).samples("test"))


def test_a_folder_that_only_has_the_name_is_left_alone(tmp_path):
    mine = tmp_path / "data.incomplete"
    mine.mkdir()
    (mine / "patients.csv").touch()
    with pytest.raises(errors.ResourceError, match="not made by a preparation"):
        with records.Writer(tmp_path / "data", "mr_ct"):
            pass
    assert names(mine) == ["patients.csv"]


def test_what_others_put_beside_the_shards_is_left_alone(tmp_path):
    with records.Writer(tmp_path / "data", "mr_ct") as writer:
        (writer.work / "notes.txt").touch()
        (writer.work / "folder").mkdir()
    assert names(tmp_path / "data.incomplete") == ["folder", "notes.txt"]
