"""Files, or built-in patients, become a data set of records.

Each study is prepared by itself, into a shard of its own: by this process, by
several, or by the machines of a cluster. What it depends on makes its key;
whoever comes later, after a kill too, takes over the shards whose key and
checksum are right. So the result is the same to the last bit, whoever made it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import medgan_tf
from medgan_tf import errors, sealed, tasks
from medgan_tf.data import (
    io,
    manifest,
    pairs,
    preprocess,
    pseudonyms,
    records,
)
from medgan_tf.data import split as splits
from medgan_tf.data import workers as processes

Item = manifest.Study | int


def prepare(
    task: tasks.Task,
    items: Sequence[Item],
    output_dir: str | os.PathLike,
    *,
    split: dict[str, list[str]],
    patients_file: str | os.PathLike | None = None,
    options: pairs.Options | None = None,
    workers: int = 1,
    start_worker: Callable[[], None] | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
    elsewhere: Callable[[Callable[[Item], dict], Sequence[Item]], None]
    | None = None,
) -> records.Dataset:
    """Prepares studies, or goes on where a preparation was broken off.

    Args:
      task: the row.
      items: files, as from `manifest`, or numbers of built-in patients.
      output_dir: a new folder. Until all is done, finished shards lie in
        `<output_dir>.incomplete`.
      split: patients by side, as from `split.split_patients`.
      patients_file: table of who is who; see `pseudonyms`. The records then
        hold ids, on which the draws of a simulator depend too. None: they
        hold the names of patients and studies.
      options: see there.
      workers: processes to work with.
      start_worker: what each of them does first; see `workers`.
      progress: wraps the iteration over studies, such as tqdm.
      elsewhere: first applies a function to every item, on machines that
        share the folder; see `prepare_beam`. What it leaves undone is done
        here.

    Raises:
      errors.UsageError: the table would lie among the records.
      errors.DataError: a file, a pair or the table is not usable.
      errors.ResourceError: the folder or the table cannot be written, the
        folder is in use, or there is too little memory for so many workers.
    """
    options = options or pairs.Options()
    if patients_file is not None:
        _check_outside(patients_file, output_dir)
    with (
        records.Writer(output_dir, task.name) as writer,
        contextlib.ExitStack() as stack,
    ):
        ids_from = None
        if patients_file is not None:
            # Before the first shard, so that no id is ever without a name.
            table = pseudonyms.add(patients_file, items)
            items, split = pseudonyms.hide(items, split, table)
            ids_from = table.digest
        side_of = {name: side for side in split for name in split[side]}
        function = functools.partial(
            prepare_shard, task, options, str(writer.work)
        )
        if elsewhere is not None:
            elsewhere(function, items)
        results = processes.map_in_order(function, items, workers, start_worker)
        # No worker writes any more when the writer clears away.
        stack.callback(results.close)
        found = []
        for item, facts in zip(items, progress(results), strict=True):
            shard = writer.work / f"{facts['key']}.{records.SHARD_SUFFIX}"
            writer.take(side_of[_patient(item)], shard, facts.pop("shard"))
            found.append((side_of[_patient(item)], facts))
        facts = _summary(task, options, items, found)
        return writer.finish({**facts, "ids_from": ids_from})


def prepare_phantoms(
    task: tasks.Task,
    num_patients: int,
    output_dir: str | os.PathLike,
    **settings,
) -> records.Dataset:
    """Prepares built-in patients, who are simulated.

    Args:
      task: the row.
      num_patients: how many; they are split 70 / 10 / 20.
      output_dir: a new folder.
      **settings: of `prepare`.
    """
    numbers = list(range(num_patients))
    options = settings.get("options") or pairs.Options()
    split = splits.split_patients(
        [pairs.phantom_name(number) for number in numbers], seed=options.seed
    )
    return prepare(task, numbers, output_dir, split=split, **settings)


def prepare_shard(
    task: tasks.Task, options: pairs.Options, folder: str, item: Item
) -> dict:
    """Prepares one study, unless its shard is there already.

    Args:
      task: the row.
      options: see there.
      folder: for the shard `<key>.tfrecord` and what it says, `<key>.json`.
      item: see `prepare`.

    Returns:
      What `<key>.json` says: `key`, `shard` as from `records.write_shard`,
      and numbers about the study.
    """
    key = _key(task, options, item)
    note = pathlib.Path(folder) / f"{key}.json"
    shard = note.with_suffix(f".{records.SHARD_SUFFIX}")
    with contextlib.suppress(OSError, ValueError, KeyError):
        facts = sealed.read(note)
        if facts["key"] == key and records.is_whole(shard, facts["shard"]):
            return facts
    prepared = pairs.prepare_study(task, options, item)
    facts = {
        "key": key,
        "shard": records.write_shard(shard, prepared.samples),
        **dataclasses.asdict(dataclasses.replace(prepared, samples=[])),
        "channels": prepared.samples[0].source.shape[-1],
    }
    del facts["samples"]
    sealed.write(note, facts)
    return facts


def _check_outside(
    patients_file: str | os.PathLike, output_dir: str | os.PathLike
) -> None:
    """Refuses names where they would be given away with the records."""
    folder = pathlib.Path(output_dir).resolve()
    if pathlib.Path(patients_file).resolve().is_relative_to(folder):
        raise errors.UsageError(
            f"--patients_file={patients_file} lies in {output_dir}, expected "
            "it outside: who gets the records must not get the names."
        )


def num_finished(output_dir: str | os.PathLike) -> int:
    """Studies that a preparation that was broken off has finished."""
    work = pathlib.Path(f"{pathlib.Path(output_dir).absolute()}.incomplete")
    return len(list(work.glob("*.json")))


def _summary(task, options, items, found) -> dict:
    """What `dataset.json` says beside its shards."""
    facts = [facts for _, facts in found]
    training = [facts for side, facts in found if side == "train"]
    *sources, target = (
        sum(shares) / len(facts)
        for shares in zip(*(f["clipped"] for f in facts), strict=True)
    )
    is_phantom = isinstance(items[0], int)
    is_simulated = is_phantom or any(not item.sources for item in items)
    origin = "simulated source" if is_simulated else "files"
    if options.tissues:
        origin = "simulated from label maps"
    return {
        "task": task.name,
        "origin": "phantom" if is_phantom else origin,
        "is_simulated": is_simulated,
        "slice_size": preprocess.SLICE_SIZE,
        "source_channels": facts[0]["channels"],
        "target_channels": 1,
        "task_row": tasks.as_stored(task),
        "options": dataclasses.asdict(options),
        "num_dropped_slices": sum(f["num_dropped"] for f in facts),
        "clipped_share": {"source": sources, "target": target},
        # The trivial answer: this value everywhere in the body.
        "train_body_mean": sum(f["body_sum"] for f in training)
        / max(sum(f["body_voxels"] for f in training), 1),
        "target_unit": task.target.unit,
        "medgan_tf": medgan_tf.__version__,
    }


def _key(task: tasks.Task, options: pairs.Options, item: Item) -> str:
    """A name for all that decides on the bits of a shard."""
    who, files = item, []
    if not isinstance(item, int):
        who = [item.patient, item.name]
        # In turn, so that a file that changes its role changes the key.
        for path in (*item.sources, item.target, item.ct, item.mu_map):
            files.append([])
            for file in io.files_of(path) if path else ():
                state = file.stat()
                files[-1].append([str(file), state.st_size, state.st_mtime_ns])
    text = json.dumps(
        [
            medgan_tf.__version__,
            records.SCHEMA_VERSION,
            tasks.as_stored(task),
            dataclasses.asdict(options),
            who,
            files,
        ]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _patient(item: Item) -> str:
    return pairs.phantom_name(item) if isinstance(item, int) else item.patient
