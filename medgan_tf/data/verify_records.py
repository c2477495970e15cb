"""Whether records are as they were written, and no side knows another."""

from __future__ import annotations

import collections
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from medgan_tf import errors, tasks
from medgan_tf.data import (
    preprocess,
    records,
    thumbnails,
    verify,
    verify_cohort,
    workers,
)
from medgan_tf.data import sample as samples
from medgan_tf.data import split as splits


class Shard(NamedTuple):
    """A shard as `dataset.json` tells of it.

    Attributes:
      path: where it is.
      side: of the split.
      facts: its entry: name, num_records, num_bytes, sha256.
      task: the row that its images were prepared for.
    """

    path: str
    side: str
    facts: dict
    task: tasks.Task


class Checked(NamedTuple):
    """What was found in a shard.

    Attributes:
      report: for people.
      digests: of each source and each target, in their order.
    """

    report: verify.Report
    digests: list[bytes]


def check_dataset(
    folder: str,
    *,
    num_workers: int = 1,
    progress: Callable[[Iterable, int], Iterable] = lambda items, _: items,
) -> tuple[list[verify.Report], list[verify.Finding]]:
    """Reads every record of a data set.

    Args:
      folder: with `dataset.json`.
      num_workers: processes to work with.
      progress: wraps the iteration over shards, whose number it is told.

    Returns:
      A report of each shard, and what concerns several.
    """
    try:
        dataset = records.open_dataset(folder)
        task = tasks.from_stored(dataset.info["task_row"])
    except (errors.DataError, KeyError, TypeError) as error:
        text = str(error)
        if not isinstance(error, errors.DataError):
            text = "found no task in dataset.json, expected one; prepare again."
        return [], [verify.Finding("RECORDS", text, files=(str(folder),))]
    shards = [
        Shard(str(dataset.folder / facts["name"]), side, facts, task)
        for side in splits.SIDES
        for facts in dataset.info["splits"][side]["shards"]
    ]
    found = workers.map_in_order(check_shard, shards, num_workers)
    checked = list(progress(found, len(shards)))
    return [one.report for one in checked], [
        *_check_sides(dataset, [one.report for one in checked]),
        *_check_slices(checked),
    ]


def check_shard(shard: Shard) -> Checked:
    """Reads the slices of a shard and compares it with `dataset.json`."""
    findings, digests, flat = [], [], []
    patients, studies, pictures = {}, {}, []
    num_read, ranges = 0, []
    path = pathlib.Path(shard.path)
    wanted = shard.facts["num_records"]

    def tell(code: str, text: str) -> None:
        patient = next(iter(patients), "")
        findings.append(
            verify.Finding(code, text, patient, files=(shard.path,))
        )

    if not records.is_whole(path, shard.facts):
        tell(
            "RECORDS",
            "found another SHA-256 than in dataset.json, expected the file as "
            "it was written; copy the data set again or prepare it again.",
        )
    try:
        for sample in _samples(path):
            patients[sample.patient] = studies[sample.study] = None
            if np.ptp(sample.source) == 0 or np.ptp(sample.target) == 0:
                flat.append(num_read)
            # Empty slices are alike in all patients.
            digests += [
                _digest(image)
                for image in (sample.source, sample.target)
                if np.ptp(image) > 0
            ]
            ranges.append(_ranges(sample))
            if num_read == wanted // 2:
                pictures = _pictures(sample, shard.task)
            num_read += 1
    except (tf.errors.OpError, errors.DataError, ValueError, IndexError) as e:
        reason = " ".join(str(getattr(e, "message", e)).split())
        tell(
            "RECORDS",
            f"found a record {num_read} that cannot be read ({reason}), "
            "expected a slice; copy the data set again or prepare it again.",
        )
    if num_read != wanted:
        tell(
            "RECORDS",
            f"found {num_read} records, expected {wanted}; copy the data set "
            "again or prepare it again.",
        )
    if len(patients) > 1:
        tell(
            "RECORDS",
            f"found the patients {', '.join(patients)} in one shard, expected "
            "one; prepare the data again.",
        )
    if flat:
        tell(
            "FLAT_SLICES",
            f"found one value in source or target of records {flat[0]} and "
            f"{len(flat) - 1} more, expected images; check what was prepared.",
        )
    report = verify.Report(
        next(iter(patients), path.name),
        next(iter(studies), ""),
        shard.side,
        _images(shard, num_read, np.array(ranges)),
        tuple(findings),
        num_slices=num_read,
        pictures=tuple(pictures),
    )
    return Checked(report, digests)


def _samples(path: pathlib.Path) -> Iterator[samples.Sample]:
    dataset = tf.data.TFRecordDataset(str(path), records.COMPRESSION)
    return map(records.decode, dataset.as_numpy_iterator())


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image)).digest()[:16]


def _ranges(sample: samples.Sample) -> list[tuple[float, float, float]]:
    """(low, high, share at the window's upper end) of source and target."""
    found = []
    windows = (sample.source_window, sample.target_window)
    for image, window in zip(
        (sample.source[..., 0], sample.target[..., 0]), windows, strict=True
    ):
        ends = preprocess.denormalise(
            np.array([image.min(), image.max()]), window
        )
        found.append((*ends.tolist(), float(np.mean(image >= 1))))
    return found


def _images(
    shard: Shard, count: int, ranges: np.ndarray
) -> tuple[verify.Image, ...]:
    if not count:
        return ()
    size = preprocess.SLICE_SIZE
    return tuple(
        verify.Image(
            shard.path,
            role,
            modality.name,
            (size, size, count),
            (),
            float(ranges[:, k, 0].min()),
            float(ranges[:, k, 1].max()),
            float(ranges[:, k, 2].mean()),
        )
        for k, (role, modality) in enumerate(
            (("source", shard.task.source), ("target", shard.task.target))
        )
    )


def _pictures(
    sample: samples.Sample, task: tasks.Task
) -> list[thumbnails.Picture]:
    shown = []
    for image, window, modality in (
        (sample.source[..., 0], sample.source_window, task.source),
        (sample.target[..., 0], sample.target_window, task.target),
    ):
        values = preprocess.denormalise(image, window)
        shown.append(thumbnails.grey(values, modality))
    window = sample.target_window
    threshold = task.target.body_above
    if task.target.window is None:
        threshold *= window[1]
    body = preprocess.denormalise(sample.target[..., 0], window) > threshold
    captions = (f"source {task.source.name}", f"target {task.target.name}")
    return thumbnails.pair(captions, shown[0], shown[1], body)


def _check_sides(
    dataset: records.Dataset, reports: Sequence[verify.Report]
) -> Iterator[verify.Finding]:
    told = {
        (patient, side)
        for side in splits.SIDES
        for patient in dataset.patients(side)
    }
    read = {(report.patient, report.side) for report in reports}
    yield from verify_cohort.check_sides(told | read)
    for patient, side in sorted(read - told):
        yield verify.Finding(
            "RECORDS",
            f"found slices in {side}, expected none: dataset.json does not "
            "name the patient there; prepare the data again.",
            patient,
        )


def _check_slices(checked: Sequence[Checked]) -> Iterator[verify.Finding]:
    """Slices of one patient that come again with another."""
    owners = {}
    shared = collections.Counter()
    for report, digests in checked:
        owner = (report.patient, report.side)
        for digest in digests:
            first = owners.setdefault(digest, owner)
            if first[0] != owner[0]:
                shared[first, owner] += 1
    for (first, second), count in shared.items():
        yield verify.Finding(
            "DUPLICATE",
            f"found {count} images of {' in '.join(first)} that are also of "
            f"{' in '.join(second)}, expected none; check which patient they "
            "are of.",
        )
