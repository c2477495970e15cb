"""How slices are stored: the TFRecord schema and `dataset.json`, in one place.

A data set is a folder of shards `<task>-<split>.tfrecord-00000-of-00008`
(GZIP, a CRC for each record), one for each study, and `dataset.json`, which is
written last and lists every shard with its number of records, bytes and
SHA-256: a shard that was cut between two records reads without an error, only
the count tells.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import math
import os
import pathlib
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from medgan_tf import errors, sealed, tasks
from medgan_tf.data import sample as samples
from medgan_tf.data import split as splits

SCHEMA_VERSION = 2
INFO_FILE = "dataset.json"
COMPRESSION = "GZIP"
SHARD_SUFFIX = "tfrecord"
# Says that a folder of unfinished records is ours, and is locked while it is
# worked on.
_MARK = ".unfinished_records"

# Bytes of text that a Sample has.
_TEXTS = ("patient", "study", "simulation")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A folder of records that has been found whole.

    Attributes:
      folder: where it is.
      info: `dataset.json` as a dict.
    """

    folder: pathlib.Path
    info: dict

    def shards(self, split: str) -> list[str]:
        """Paths of the shards of a split."""
        return [
            str(self.folder / shard["name"])
            for shard in self.info["splits"][split]["shards"]
        ]

    def num_slices(self, split: str) -> int:
        """Number of slices of a split."""
        return self.info["splits"][split]["num_slices"]

    def patients(self, split: str) -> list[str]:
        """Names of the patients of a split."""
        return self.info["splits"][split]["patients"]

    def patients_beside(self, split: str) -> list[str]:
        """Names of the patients of the other splits."""
        return [
            patient
            for other in self.info["splits"]
            if other != split
            for patient in self.patients(other)
        ]

    def samples(self, split: str):
        """Yields every `Sample` of a split in the order it was stored."""
        records = tf.data.TFRecordDataset(self.shards(split), COMPRESSION)
        try:
            for record in records.as_numpy_iterator():
                yield decode(record)
        except tf.errors.DataLossError as error:
            raise damage(self, error.message) from error


def encode(sample: samples.Sample) -> bytes:
    """A sample as a serialized tf.train.Example."""
    example = tf.train.Example()
    feature = example.features.feature
    for name in _TEXTS:
        feature[name].bytes_list.value.append(getattr(sample, name).encode())
    feature["slice_index"].int64_list.value.append(sample.slice_index)
    feature["shape"].int64_list.value.extend(sample.source.shape)
    for name in ("source", "target"):
        array = np.ascontiguousarray(getattr(sample, name), "<f4")
        feature[name].bytes_list.value.append(array.tobytes())
    feature["mask"].bytes_list.value.append(
        sample.mask.astype(np.uint8).tobytes()
    )
    for window in sample.source_windows:
        feature["source_windows"].float_list.value.extend(window)
    feature["target_window"].float_list.value.extend(sample.target_window)
    return example.SerializeToString(deterministic=True)


def decode(record: bytes) -> samples.Sample:
    """The inverse of `encode`.

    Raises:
      DataError: it is no sample; the message names the feature.
    """
    try:
        feature = tf.train.Example.FromString(record).features.feature
    # A class of protobuf, which is TensorFlow's dependency and not ours.
    except Exception as error:
        raise errors.DataError(
            "A record is no tf.train.Example; prepare the data again."
        ) from error

    def values(name, kind, count=1):
        found = getattr(feature[name], kind).value
        if len(found) != count:
            raise errors.DataError(
                f"A record has {len(found)} values of {kind} in its feature "
                f"{name!r}, expected {count}; it is not of schema version "
                f"{SCHEMA_VERSION}: prepare the data again."
            )
        return found

    height, width, channels = values("shape", "int64_list", 3)

    def image(name, dtype, *shape):
        (value,) = values(name, "bytes_list")
        shape = height, width, *shape
        if len(value) != math.prod(shape) * np.dtype(dtype).itemsize:
            raise errors.DataError(
                f"A record has {len(value)} bytes in its feature {name!r}, "
                f"expected {' x '.join(map(str, shape))} of {dtype}; prepare "
                "the data again."
            )
        return np.frombuffer(value, dtype).reshape(shape)

    patient, study, simulation = (
        values(name, "bytes_list")[0].decode() for name in _TEXTS
    )
    ends = values("source_windows", "float_list", 2 * channels)
    first, *more = zip(ends[::2], ends[1::2], strict=True)
    return samples.Sample(
        patient,
        values("slice_index", "int64_list")[0],
        image("source", "<f4", channels),
        image("target", "<f4", 1),
        image("mask", "u1").astype(bool),
        first,
        tuple(values("target_window", "float_list", 2)),
        study,
        tuple(more),
        simulation,
    )


def parse_images(
    record: tf.Tensor, size: int, source_channels: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """(source, target) of a record inside a tf.data pipeline.

    Args:
      record: scalar string.
      size: side of the stored slices.
      source_channels: channels of the stored source.

    Returns:
      float32 [size, size, source_channels] and [size, size, 1].
    """
    wanted = {
        name: tf.io.FixedLenFeature([], tf.string)
        for name in ("source", "target")
    }
    parsed = tf.io.parse_single_example(record, wanted)
    source = tf.io.decode_raw(parsed["source"], tf.float32)
    target = tf.io.decode_raw(parsed["target"], tf.float32)
    return (
        tf.reshape(source, [size, size, source_channels]),
        tf.reshape(target, [size, size, 1]),
    )


def write_shard(
    path: pathlib.Path, study: Iterable[samples.Sample]
) -> dict[str, str | int]:
    """Writes the slices of a study, whole or not at all.

    Returns:
      What `dataset.json` says of a shard: `num_records`, `num_bytes`,
      `sha256`; and the `patient`.

    Raises:
      errors.ResourceError: the disk is full or the folder not writable.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    patient, num_records = "", 0
    try:
        with tf.io.TFRecordWriter(str(unfinished), COMPRESSION) as writer:
            for sample in study:
                writer.write(encode(sample))
                patient, num_records = sample.patient, num_records + 1
        os.replace(unfinished, path)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or error.message
        raise errors.ResourceError(
            f"Cannot write records to {path.parent} ({reason}); check that "
            "the folder is there and has space."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
    return {"patient": patient, "num_records": num_records, **_digest(path)}


def is_whole(path: pathlib.Path, shard: dict) -> bool:
    """Whether a shard is there as `write_shard` left it, to the last bit."""
    try:
        found = _digest(path)
    except OSError:
        return False
    return all(found[name] == shard.get(name) for name in found)


def _digest(path: pathlib.Path) -> dict[str, str | int]:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
        return {"num_bytes": file.tell(), "sha256": digest.hexdigest()}


class Writer:
    """Makes a data set out of the shards of its studies.

    Everything goes to `<folder>.incomplete`; `finish` writes `dataset.json`
    and renames the folder. Where it is left without `finish`, shards stay
    that have a JSON file beside them, for the next attempt to take over.

    Example:
      with records.Writer("data/mr_ct", "mr_ct") as writer:
          writer.add("train", samples_of_a_patient)
          writer.finish({"task": "mr_ct"})

    Args:
      folder: the data set to be; must not exist, or be empty.
      name: first part of the shards' names.

    Attributes:
      work: where the shards are until then.

    Raises:
      errors.ResourceError: the folder is in use or cannot be written.
    """

    def __init__(self, folder: str | os.PathLike, name: str):
        self._folder = pathlib.Path(folder).absolute()
        self._name = name
        # Because pathlib's own test fails on a name that is too long.
        if os.path.exists(self._folder) and (
            not self._folder.is_dir() or any(self._folder.iterdir())
        ):
            raise errors.ResourceError(
                f"{folder} exists and is not empty; expected a new folder for "
                "the records: choose another, or remove it."
            )
        self.work = self._folder.with_name(f"{self._folder.name}.incomplete")
        self._shards = {split: [] for split in splits.SIDES}

    def __enter__(self) -> Writer:
        self._made = [f for f in self.work.parents if not os.path.exists(f)]
        mark = self.work / _MARK
        if (
            os.path.isdir(self.work)
            and any(self.work.iterdir())
            and not os.path.exists(mark)
        ):
            raise errors.ResourceError(
                f"{self.work} exists and was not made by a preparation; "
                "expected no such folder: move it, or choose another "
                "--output_dir."
            )
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            self._lock = open(mark, "w")
        except OSError as error:
            raise errors.ResourceError(
                f"{self._folder} cannot be made "
                f"({error.strerror}); choose another folder."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise errors.ResourceError(
                f"{self._folder} is being prepared by another process; wait "
                "for it, or choose another folder."
            ) from error
        return self

    def __exit__(self, *exception) -> None:
        if os.path.isdir(self.work):
            both = (".json", f".{SHARD_SUFFIX}")
            kept = [
                file
                for file in self._own_files()
                if file.suffix in both
                and all(os.path.exists(file.with_suffix(s)) for s in both)
            ]
            for file in set(self._own_files()) - set(kept):
                file.unlink(missing_ok=True)
            if not kept:
                (self.work / _MARK).unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    self.work.rmdir()
        self._lock.close()
        # Nothing is left of a data set of which nothing was finished.
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def add(self, split: str, study: Iterable[samples.Sample]) -> None:
        """Writes the slices of one study to a split."""
        number = sum(map(len, self._shards.values()))
        path = self.work / f"{number:05d}.{SHARD_SUFFIX}"
        self.take(split, path, write_shard(path, study))

    def take(self, split: str, path: pathlib.Path, shard: dict) -> None:
        """Takes over what `write_shard` wrote to `path`, in `work`."""
        self._shards[split].append((path, shard))

    def finish(self, facts: dict) -> Dataset:
        """Writes `dataset.json` and gives the final names.

        Args:
          facts: what else `dataset.json` shall say; must be JSON.
        """
        described = {split: self._finish_split(split) for split in splits.SIDES}
        fingerprint = hashlib.sha256(
            "".join(
                shard["sha256"]
                for split in described.values()
                for shard in split["shards"]
            ).encode()
        ).hexdigest()
        info = {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": fingerprint,
            "compression": COMPRESSION,
            **facts,
            "splits": described,
        }
        text = sealed.dumps(info)
        named = {
            s["name"] for split in described.values() for s in split["shards"]
        }
        for file in self._own_files():
            if file.name not in named:
                file.unlink()
        (self.work / INFO_FILE).write_text(text)
        if self._folder.exists():
            self._folder.rmdir()
        os.rename(self.work, self._folder)
        (self._folder / _MARK).unlink()
        return Dataset(self._folder, info)

    def _own_files(self) -> list[pathlib.Path]:
        """Files in `work` that a preparation made: nobody else's."""
        return [
            file
            for file in self.work.iterdir()
            if file.suffix in (".json", f".{SHARD_SUFFIX}", ".tmp")
            or f".{SHARD_SUFFIX}-" in file.name
        ]

    def _finish_split(self, split: str) -> dict:
        found = self._shards[split]
        shards = []
        for number, (path, facts) in enumerate(found):
            name = (
                f"{self._name}-{split}.{SHARD_SUFFIX}-{number:05d}-of-"
                f"{len(found):05d}"
            )
            os.rename(path, self.work / name)
            shards.append({"name": name, **facts})
            del shards[-1]["patient"]
        return {
            "num_slices": sum(shard["num_records"] for shard in shards),
            "patients": list(dict.fromkeys(f["patient"] for _, f in found)),
            "shards": shards,
        }


def open_dataset(folder: str | os.PathLike) -> Dataset:
    """Opens a folder of records and checks that all of it is there.

    Raises:
      DataError: no `dataset.json`, one that was changed, another schema, or
        a shard that is missing, of another size or of another data set.
    """
    folder = pathlib.Path(folder).absolute()
    path = folder / INFO_FILE
    try:
        info = sealed.read(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.DataError(
            f"{folder} holds no records ({INFO_FILE} is missing); "
            "make them with prepare_data.py."
        ) from error
    except PermissionError:
        raise
    except (OSError, ValueError) as error:
        raise errors.DataError(
            f"{path} cannot be read ({error}); it was changed, or is of an "
            "older version: copy it again or prepare the data again."
        ) from error
    if info.get("schema_version") != SCHEMA_VERSION:
        raise errors.DataError(
            f"{path} is not of schema version {SCHEMA_VERSION}; prepare the "
            "data again with this version of medgan_tf."
        )
    shards = [
        (folder / shard["name"], shard["num_bytes"])
        for split in splits.SIDES
        for shard in info["splits"][split]["shards"]
    ]
    for shard, num_bytes in shards:
        # Because `dataset.json` may come from anyone.
        if shard.parent != folder or ".." in shard.parts[-1:]:
            raise errors.DataError(
                f"{path} names the shard {str(shard)!a}, expected a file in "
                "its own folder; prepare the data again."
            )
        _check_shard(shard, num_bytes)
    _check_listed(folder, [shard.name for shard, _ in shards])
    return Dataset(folder, info)


def check_whole(dataset: Dataset) -> None:
    """Reads every shard: what `open_dataset` cannot tell without.

    Reading takes about a second for a gigabyte.

    Raises:
      DataError: a shard is not as it was written to the last bit, or does not
        begin with a record of the schema.
    """
    for split in splits.SIDES:
        for shard in dataset.info["splits"][split]["shards"]:
            path = dataset.folder / shard["name"]
            if not is_whole(path, shard):
                raise errors.DataError(
                    f"{path} has another SHA-256 than {INFO_FILE} says; copy "
                    "the data set again or prepare it again."
                )
            records = tf.data.TFRecordDataset(str(path), COMPRESSION)
            try:
                for record in records.take(1).as_numpy_iterator():
                    decode(record)
            except (errors.DataError, tf.errors.OpError) as error:
                text = getattr(error, "message", None) or str(error)
                raise errors.DataError(f"{path}: {text}") from error


def damage(dataset: Dataset, what: str) -> errors.DataError:
    """The error for records that turned out damaged while they were read.

    Args:
      dataset: it is looked for the shards.
      what: TensorFlow's message, with the place in the shard.
    """
    shards = [
        str(dataset.folder / shard["name"])
        for split in splits.SIDES
        for shard in dataset.info["splits"][split]["shards"]
        if not is_whole(dataset.folder / shard["name"], shard)
    ]
    return errors.DataError(
        f"{', '.join(shards) or dataset.folder}: found a damaged record "
        f"({what}), expected the data set as it was written; copy it again or "
        "prepare it again."
    )


def check_task(dataset: Dataset, task: tasks.Task) -> None:
    """Refuses records of another task, or of another row of it.

    Raises:
      DataError: they were prepared for another one.
    """
    info = dataset.info
    if info["task"] != task.name:
        raise errors.DataError(
            f"{dataset.folder} was prepared for --task={info['task']}, got "
            f"--task={task.name}; give that task or other records."
        )
    if tasks.restored(info["task_row"]) is None:
        raise errors.DataError(
            f"{dataset.folder} was prepared when the row of task {task.name} "
            "was another (windows, modalities or simulator); remove it or "
            "prepare the data again."
        )


def _check_listed(folder: pathlib.Path, listed: list[str]) -> None:
    """Refuses shards that are listed twice, or there but not listed."""
    there = {path.name for path in folder.glob(f"*.{SHARD_SUFFIX}-*")}
    extra = sorted(there.difference(listed))
    twice = sorted(name for name in set(listed) if listed.count(name) > 1)
    if extra or twice:
        raise errors.DataError(
            f"{folder}: found the shards {', '.join(extra + twice)} "
            f"{'that are not in' if extra else 'twice in'} {INFO_FILE}, "
            "expected those of one preparation; copy the data set again into "
            "an empty folder."
        )


def _check_shard(path: pathlib.Path, num_bytes: int) -> None:
    if not path.is_file() or path.stat().st_size != num_bytes:
        found = path.stat().st_size if path.is_file() else "no"
        raise errors.DataError(
            f"{path} has {found} bytes, expected {num_bytes}; copy the data "
            "set again or prepare it again."
        )
