"""Damaged records are refused before the first step, in one line.

TensorFlow reads a shard that was cut between two records, or that holds none,
without a word. Most of these faults it would not see.
"""

import gzip
import shutil

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import errors, sealed
from medgan_tf.data import records
from medgan_tf.data import sample as samples


def slices(patient, count=3):
    rng = np.random.default_rng(list(patient.encode()))
    for k in range(count):
        images = rng.uniform(-1, 1, (2, 4, 4, 1)).astype(np.float32)
        mask = np.ones((4, 4), bool)
        window = 0.0, 500.0
        yield samples.Sample(patient, k, *images, mask, window, window)


def write(folder, patients=("ann", "bob", "cem")):
    with records.Writer(folder, "mr_ct") as writer:
        for patient in patients:
            writer.add("train", slices(patient))
        return writer.finish({"task": "mr_ct"})


@pytest.fixture
def dataset(tmp_path):
    return write(tmp_path / "data")


def shard(folder, number=1):
    return folder / f"mr_ct-train.tfrecord-{number:05d}-of-00003"


def content(change):
    """Changes the bytes of a shard."""

    def fault(folder):
        path = shard(folder)
        path.write_bytes(change(path.read_bytes()))

    return fault


def records_of(change):
    """Writes a shard again with other records."""

    def fault(folder):
        path = str(shard(folder))
        stored = list(tf.data.TFRecordDataset(path, "GZIP").as_numpy_iterator())
        with tf.io.TFRecordWriter(path, "GZIP") as writer:
            for record in change(stored):
                writer.write(record)

    return fault


def flip(whole):
    changed = bytearray(whole)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


def in_plain_shard(change):
    """Compressed again, so that only the record's own checksum is wrong."""
    return content(lambda whole: gzip.compress(change(gzip.decompress(whole))))


def note(change):
    """Changes dataset.json."""

    def fault(folder):
        path = folder / records.INFO_FILE
        info = sealed.read(path)
        change(info)
        sealed.write(path, info)

    return fault


def listed(info):
    return info["splits"]["train"]["shards"]


def from_another_build(folder):
    other = write(folder.with_name("other"), ("ann", "eve", "cem"))
    shutil.copy(shard(other.folder), shard(folder))


def exchanged(folder):
    first, second = shard(folder, 0), shard(folder, 1)
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)


# name -> (fault, words of the message)
FAULTS = {
    "a flipped bit": (content(flip), "another SHA-256"),
    "a flipped bit of a record": (
        in_plain_shard(flip),
        "bytes, expected|another SHA-256",
    ),
    "cut in a record": (content(lambda whole: whole[:-9]), "bytes, expected"),
    "cut between two records": (records_of(lambda r: r[:2]), "bytes, expected"),
    "cut in the next header": (
        in_plain_shard(lambda plain: plain[: len(plain) // 3 + 6]),
        "bytes, expected",
    ),
    "no record at all": (records_of(lambda r: []), "bytes, expected"),
    "an empty file": (content(lambda whole: b""), "has 0 bytes"),
    "records in another order": (
        records_of(lambda r: r[::-1]),
        "bytes, expected|another SHA-256",
    ),
    "not compressed": (content(gzip.decompress), "bytes, expected"),
    "missing": (lambda folder: shard(folder).unlink(), "has no bytes"),
    "a folder instead": (
        lambda folder: (shard(folder).unlink(), shard(folder).mkdir()),
        "has no bytes",
    ),
    "one too many": (
        lambda folder: shutil.copy(
            shard(folder), folder / "mr_ct-train.tfrecord-00003-of-00004"
        ),
        "found the shards mr_ct-train.tfrecord-00003-of-00004 that are not",
    ),
    "one copied over another": (
        lambda folder: shutil.copy(shard(folder, 0), shard(folder, 1)),
        "bytes, expected|another SHA-256",
    ),
    "two exchanged": (exchanged, "bytes, expected|another SHA-256"),
    "from another build": (
        from_another_build,
        "bytes, expected|another SHA-256",
    ),
    "listed twice": (note(lambda i: listed(i).append(listed(i)[0])), "twice"),
    "another digit in dataset.json": (
        lambda folder: (folder / records.INFO_FILE).write_text(
            (folder / records.INFO_FILE)
            .read_text()
            .replace('"num_slices": 9', '"num_slices": 8')
        ),
        "another SHA-256 than when written",
    ),
    "another schema": (
        note(lambda i: i.update(schema_version=1)),
        "not of schema version 2",
    ),
    "a path out of the folder": (
        note(lambda i: listed(i)[1].update(name="../other")),
        "expected a file in its own folder",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_damaged_records_are_refused_before_the_first_step(dataset, name):
    fault, words = FAULTS[name]
    fault(dataset.folder)
    with pytest.raises(errors.DataError, match=words) as caught:
        records.check_whole(records.open_dataset(dataset.folder))
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert str(dataset.folder) in str(caught.value)


def test_whole_records_pass(dataset):
    records.check_whole(records.open_dataset(dataset.folder))


def change_feature(change):
    """Changes the features of a record that is whole."""

    encode = records.encode

    def changed(sample):
        example = tf.train.Example.FromString(encode(sample))
        change(example.features.feature)
        return example.SerializeToString()

    return changed


def other_type(feature):
    feature["slice_index"].Clear()
    feature["slice_index"].float_list.value.append(1.5)


def cut_image(feature):
    (value,) = feature["target"].bytes_list.value
    feature["target"].bytes_list.value[:] = [value[:-4]]


# name -> (what a program that is not ours writes, words of the message)
FOREIGN = {
    "a feature is missing": (
        change_feature(lambda feature: feature.pop("mask")),
        "0 values of bytes_list in its feature 'mask', expected 1",
    ),
    "a feature is of another type": (
        change_feature(other_type),
        "0 values of int64_list in its feature 'slice_index'",
    ),
    "an image is too short": (
        change_feature(cut_image),
        "60 bytes in its feature 'target', expected 4 x 4 x 1 of <f4",
    ),
    "a shape is none": (
        change_feature(lambda f: f["shape"].int64_list.value.pop()),
        "2 values of int64_list in its feature 'shape', expected 3",
    ),
    "it is something else": (lambda sample: b"\xff" * 9, "no tf.train.Example"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_records_of_another_schema_are_refused_by_the_feature(
    tmp_path, monkeypatch, name
):
    """The checksums are right: another program wrote it so."""
    encode, words = FOREIGN[name]
    monkeypatch.setattr(records, "encode", encode)
    dataset = write(tmp_path / "data")
    with pytest.raises(errors.DataError, match=words) as caught:
        records.check_whole(records.open_dataset(dataset.folder))
    assert str(dataset.folder) in str(caught.value)


def test_damage_that_comes_later_names_the_shard_and_the_place(dataset):
    path = shard(dataset.folder)
    in_plain_shard(flip)(dataset.folder)
    with pytest.raises(errors.DataError, match=r"at \d+") as caught:
        list(dataset.samples("train"))
    assert str(path) in str(caught.value)
