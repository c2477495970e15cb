"""Records that were changed, cut, or shared between two sides are told."""

import os

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import sealed, tasks
from medgan_tf.data import preprocess, records, verify_records
from medgan_tf.data import sample as samples

SIZE = preprocess.SLICE_SIZE


def slices(patient, seed, count=3):
    """Slices with a few random pixels."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        images = np.full((2, SIZE, SIZE, 1), -1, np.float32)
        images[:, 99:120, 99:120] = rng.uniform(-1, 1, (2, 21, 21, 1))
        mask = np.ones((SIZE, SIZE), bool)
        yield samples.Sample(
            patient, k, *images, mask, (0.0, 500.0), (-1000.0, 2000.0)
        )


@pytest.fixture
def write(tmp_path):
    """Writes a data set of (side, slices)."""

    def write(*studies):
        with records.Writer(tmp_path / "data", "mr_ct") as writer:
            for side, study in studies:
                writer.add(side, study)
            row = tasks.as_stored(tasks.TASKS["mr_ct"])
            return writer.finish({"task": "mr_ct", "task_row": row})

    return write


def found(folder):
    reports, cohort = verify_records.check_dataset(folder)
    return [*cohort, *(f for report in reports for f in report.findings)]


def edit(dataset, change):
    """Changes dataset.json."""
    path = dataset.folder / records.INFO_FILE
    info = sealed.read(path)
    change(info)
    sealed.write(path, info)


def rewrite(path, keep):
    """Leaves the chosen records of a shard."""
    data = list(tf.data.TFRecordDataset(path, "GZIP").as_numpy_iterator())
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        for record in data[keep]:
            writer.write(record)


def test_records_as_they_were_written_pass(write):
    dataset = write(
        ("train", slices("ann", 1)), ("test", slices("bob", 2, count=2))
    )
    reports, cohort = verify_records.check_dataset(dataset.folder)
    assert cohort == [] and [r.findings for r in reports] == [(), ()]
    assert [(r.patient, r.side) for r in reports] == [
        ("ann", "train"),
        ("bob", "test"),
    ]
    source, target = reports[1].images
    assert source.shape == (SIZE, SIZE, 2) and reports[1].num_slices == 2
    assert -1000 <= target.low < target.high <= 2000
    assert len(reports[0].pictures) == 4


def test_a_shard_that_lost_a_record_or_a_byte_is_told(write):
    dataset = write(("train", slices("ann", 1)), ("test", slices("bob", 2)))
    (path,) = dataset.shards("train")
    rewrite(path, slice(0, 2))
    size = {"num_bytes": os.path.getsize(path)}
    edit(dataset, lambda i: i["splits"]["train"]["shards"][0].update(size))
    first, second = found(dataset.folder)
    assert first.code == second.code == "RECORDS"
    assert "SHA-256" in first.text and "2 records, expected 3" in second.text
    # Now one that does not even have the right size.
    with open(path, "ab") as file:
        file.write(b"x")
    (finding,) = found(dataset.folder)
    assert finding.code == "RECORDS" and "bytes" in finding.text


def test_a_shard_that_cannot_be_read_to_its_end_is_told(write):
    dataset = write(("train", slices("ann", 1)))
    (path,) = dataset.shards("train")
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        file.write(b"\x55" * 200)
    texts = [finding.text for finding in found(dataset.folder)]
    assert any("cannot be read" in text for text in texts)


def test_no_records_are_one_finding(tmp_path):
    (finding,) = found(tmp_path)
    assert finding.code == "RECORDS" and "dataset.json" in finding.text


def test_a_patient_or_a_slice_on_two_sides_is_told(write):
    dataset = write(
        ("train", slices("ann", 1)),
        ("test", slices("ann", 2)),
        ("validation", slices("bob", 1)),
    )
    sides, twice = found(dataset.folder)
    assert (sides.code, sides.patient) == ("TWO_SIDES", "ann")
    assert twice.code == "DUPLICATE"
    assert "6 images of ann in train" in twice.text
    assert "bob in validation" in twice.text


def test_a_patient_whom_dataset_json_does_not_name_is_told(write):
    dataset = write(("train", slices("ann", 1)))
    edit(dataset, lambda i: i["splits"]["train"].update(patients=["eve"]))
    (finding,) = found(dataset.folder)
    assert (finding.code, finding.patient) == ("RECORDS", "ann")


def test_slices_without_an_image_are_told(write):
    def flat():
        for sample in slices("ann", 1, count=1):
            sample.target[:] = -1
            yield sample

    dataset = write(("train", flat()))
    (finding,) = found(dataset.folder)
    assert finding.code == "FLAT_SLICES"
