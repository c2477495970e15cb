"""How slices are stored: the TFRecord schema and `dataset.json`, in one place.

A data set is a folder of shards `<task>-<split>.tfrecord-00000-of-00008`
(GZIP, a CRC for each record) and `dataset.json`, which is written last and
lists every shard with its number of records, bytes and SHA-256: a shard that
was cut between two records reads without an error, only the count tells.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import secrets
import shutil

import numpy as np
import tensorflow as tf

from medgan_tf import errors, tasks
from medgan_tf.data import sample as samples

SCHEMA_VERSION = 1
INFO_FILE = "dataset.json"
COMPRESSION = "GZIP"
# Slices are dealt round the shards of a split, so that reading a few shards
# at once already mixes the patients.
NUM_SHARDS = {"train": 16, "validation": 1, "test": 1}

_FEATURES = {
    "patient": tf.io.FixedLenFeature([], tf.string),
    "slice_index": tf.io.FixedLenFeature([], tf.int64),
    "shape": tf.io.FixedLenFeature([3], tf.int64),
    "source": tf.io.FixedLenFeature([], tf.string),
    "target": tf.io.FixedLenFeature([], tf.string),
    "mask": tf.io.FixedLenFeature([], tf.string),
    "source_window": tf.io.FixedLenFeature([2], tf.float32),
    "target_window": tf.io.FixedLenFeature([2], tf.float32),
}


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

    def samples(self, split: str):
        """Yields every `Sample` of a split in the order it was stored."""
        records = tf.data.TFRecordDataset(self.shards(split), COMPRESSION)
        try:
            for record in records.as_numpy_iterator():
                yield decode(record)
        except tf.errors.DataLossError as error:
            raise errors.DataError(
                f"{self.folder} holds a damaged {split} record (its checksum "
                "is wrong); copy the data set again or prepare it again."
            ) from error


def encode(sample: samples.Sample) -> bytes:
    """A sample as a serialized tf.train.Example."""
    example = tf.train.Example()
    feature = example.features.feature
    feature["patient"].bytes_list.value.append(sample.patient.encode())
    feature["slice_index"].int64_list.value.append(sample.slice_index)
    feature["shape"].int64_list.value.extend(sample.source.shape)
    for name in ("source", "target"):
        array = np.ascontiguousarray(getattr(sample, name), "<f4")
        feature[name].bytes_list.value.append(array.tobytes())
    feature["mask"].bytes_list.value.append(
        sample.mask.astype(np.uint8).tobytes()
    )
    for name in ("source_window", "target_window"):
        feature[name].float_list.value.extend(getattr(sample, name))
    return example.SerializeToString(deterministic=True)


def decode(record: bytes) -> samples.Sample:
    """The inverse of `encode`."""
    feature = tf.train.Example.FromString(record).features.feature
    height, width, channels = feature["shape"].int64_list.value

    def image(name, dtype, *shape):
        value = feature[name].bytes_list.value[0]
        return np.frombuffer(value, dtype).reshape(height, width, *shape)

    return samples.Sample(
        feature["patient"].bytes_list.value[0].decode(),
        feature["slice_index"].int64_list.value[0],
        image("source", "<f4", channels),
        image("target", "<f4", 1),
        image("mask", np.uint8).astype(bool),
        tuple(feature["source_window"].float_list.value),
        tuple(feature["target_window"].float_list.value),
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
    wanted = {name: _FEATURES[name] for name in ("source", "target")}
    parsed = tf.io.parse_single_example(record, wanted)
    source = tf.io.decode_raw(parsed["source"], tf.float32)
    target = tf.io.decode_raw(parsed["target"], tf.float32)
    return (
        tf.reshape(source, [size, size, source_channels]),
        tf.reshape(target, [size, size, 1]),
    )


class Writer:
    """Writes a data set so that it is there whole or not at all.

    Everything goes to `<folder>.incomplete-<random>`; `finish` writes
    `dataset.json` and renames the folder. Leaving the `with` block without
    `finish` removes it.

    Example:
      with records.Writer("data/mr_ct", "mr_ct") as writer:
          writer.add("train", sample)
          writer.finish({"task": "mr_ct"})

    Args:
      folder: the data set to be; must not exist, or be empty.
      name: first part of the shards' names.

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
        self._work = self._folder.with_name(
            f"{self._folder.name}.incomplete-{secrets.token_hex(4)}"
        )
        self._writers = {}
        self._counts = {}
        self._slices = dict.fromkeys(NUM_SHARDS, 0)
        self._patients = {split: [] for split in NUM_SHARDS}

    def __enter__(self) -> Writer:
        self._made = [f for f in self._work.parents if not os.path.exists(f)]
        try:
            self._work.mkdir(parents=True)
        except OSError as error:
            raise errors.ResourceError(
                f"{self._folder} cannot be made "
                f"({error.strerror}); choose another folder."
            ) from error
        return self

    def __exit__(self, *exception) -> None:
        for writer in self._writers.values():
            # Because on a full disk closing fails for the same reason.
            with contextlib.suppress(tf.errors.OpError):
                writer.close()
        shutil.rmtree(self._work, ignore_errors=True)
        # Nothing is left of a data set that was not finished.
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def add(self, split: str, sample: samples.Sample) -> None:
        """Appends one sample to a split."""
        key = split, self._slices[split] % NUM_SHARDS[split]
        if key not in self._writers:
            self._writers[key] = tf.io.TFRecordWriter(
                str(self._work / f"{split}-{key[1]}"), COMPRESSION
            )
            self._counts[key] = 0
        try:
            self._writers[key].write(encode(sample))
        except tf.errors.OpError as error:
            raise errors.ResourceError(
                f"Cannot write records beside {self._folder} "
                f"({error.message}); free some space."
            ) from error
        self._counts[key] += 1
        self._slices[split] += 1
        if sample.patient not in self._patients[split]:
            self._patients[split].append(sample.patient)

    def finish(self, facts: dict) -> Dataset:
        """Closes the shards, writes `dataset.json`, gives the final name.

        Args:
          facts: what else `dataset.json` shall say; must be JSON.
        """
        for writer in self._writers.values():
            writer.close()
        splits = {split: self._finish_split(split) for split in NUM_SHARDS}
        fingerprint = hashlib.sha256(
            "".join(
                shard["sha256"]
                for split in splits.values()
                for shard in split["shards"]
            ).encode()
        ).hexdigest()
        info = {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": fingerprint,
            "compression": COMPRESSION,
            **facts,
            "splits": splits,
        }
        text = json.dumps(info, indent=1, allow_nan=False)
        (self._work / INFO_FILE).write_text(text + "\n")
        if self._folder.exists():
            self._folder.rmdir()
        os.rename(self._work, self._folder)
        return Dataset(self._folder, info)

    def _finish_split(self, split: str) -> dict:
        keys = [key for key in self._writers if key[0] == split]
        shards = []
        for number, key in enumerate(keys):
            name = (
                f"{self._name}-{split}.tfrecord-{number:05d}-of-{len(keys):05d}"
            )
            path = self._work / name
            os.rename(self._work / f"{key[0]}-{key[1]}", path)
            shards.append(
                {
                    "name": name,
                    "num_records": self._counts[key],
                    "num_bytes": path.stat().st_size,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }
            )
        return {
            "num_slices": self._slices[split],
            "patients": self._patients[split],
            "shards": shards,
        }


def open_dataset(folder: str | os.PathLike) -> Dataset:
    """Opens a folder of records and checks that all of it is there.

    Raises:
      DataError: no `dataset.json`, another schema, or a shard that is missing
        or of another size.
    """
    folder = pathlib.Path(folder).absolute()
    path = folder / INFO_FILE
    try:
        info = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.DataError(
            f"{folder} holds no records ({INFO_FILE} is missing); "
            "make them with prepare_data.py."
        ) from error
    except (OSError, ValueError) as error:
        raise errors.DataError(
            f"{path} cannot be read ({error}); prepare the data again."
        ) from error
    if not isinstance(info, dict) or info.get("schema_version") != (
        SCHEMA_VERSION
    ):
        raise errors.DataError(
            f"{path} is not of schema version {SCHEMA_VERSION}; prepare the "
            "data again with this version of medgan_tf."
        )
    try:
        shards = [
            (folder / shard["name"], shard["num_bytes"])
            for split in NUM_SHARDS
            for shard in info["splits"][split]["shards"]
        ]
    except (KeyError, TypeError) as error:
        raise errors.DataError(
            f"{path} does not list its shards; it was changed by hand: "
            "prepare the data again."
        ) from error
    for shard, num_bytes in shards:
        _check_shard(shard, num_bytes)
    return Dataset(folder, info)


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
    if not tasks.is_stored_as(task, info["task_row"], info["voxel_size_mm"]):
        raise errors.DataError(
            f"{dataset.folder} was prepared when the row of task {task.name} "
            "was another (windows, modalities or simulator); remove it or "
            "prepare the data again."
        )


def _check_shard(path: pathlib.Path, num_bytes: int) -> None:
    if not path.is_file() or path.stat().st_size != num_bytes:
        found = path.stat().st_size if path.is_file() else "no"
        raise errors.DataError(
            f"{path} has {found} bytes, expected {num_bytes}; copy the data "
            "set again or prepare it again."
        )
