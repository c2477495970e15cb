"""Files, or the built-in phantom, become a data set of records."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import contextlib
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker

import medgan_tf
from medgan_tf import errors, tasks
from medgan_tf.data import manifest, pairs, preprocess, records
from medgan_tf.data import split as splits


def prepare_files(
    task: tasks.Task,
    study: list[manifest.Pair],
    output_dir: str | os.PathLike,
    *,
    split: dict[str, list[str]],
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[Iterable], Iterable] = iter,
) -> records.Dataset:
    """Prepares the pairs of a manifest.

    Args:
      task: the row.
      study: the files.
      output_dir: a new folder.
      split: patients by side, as from `split.split_patients`.
      seed: of the simulator.
      workers: processes to read and resample with.
      progress: wraps the iteration over patients, such as tqdm.

    Raises:
      errors.DataError: a file or a pair is not usable.
      errors.ResourceError: the folder cannot be written, or there is too
        little memory for so many workers.
    """
    function = functools.partial(pairs.read_and_prepare, task, seed=seed)
    is_simulated = any(pair.source is None for pair in study)
    origin = "simulated source" if is_simulated else "files"
    return _write(
        task,
        function,
        study,
        output_dir,
        split,
        seed,
        workers,
        progress,
        origin,
    )


def prepare_phantoms(
    task: tasks.Task,
    num_patients: int,
    output_dir: str | os.PathLike,
    *,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[Iterable], Iterable] = iter,
) -> records.Dataset:
    """Prepares built-in patients, who are simulated.

    Args: see `prepare_files`; patients are split 70 / 10 / 20.
    """
    function = functools.partial(pairs.prepare_phantom, task, seed=seed)
    numbers = list(range(num_patients))
    split = splits.split_patients(
        [pairs.phantom_name(number) for number in numbers], seed=seed
    )
    return _write(
        task,
        function,
        numbers,
        output_dir,
        split,
        seed,
        workers,
        progress,
        "phantom",
    )


def _write(
    task, function, items, output_dir, split, seed, workers, progress, origin
) -> records.Dataset:
    side_of = {name: side for side, names in split.items() for name in names}
    num_dropped = clipped_source = clipped_target = 0
    body_sum = body_voxels = 0
    parameters = {}
    with records.Writer(output_dir, task.name) as writer:
        for patient in progress(_in_order(function, items, workers)):
            side = side_of[patient.patient]
            for sample in patient.samples:
                writer.add(side, sample)
            num_dropped += patient.num_dropped
            clipped_source += patient.clipped[0] / len(items)
            clipped_target += patient.clipped[1] / len(items)
            if side == "train":
                body_sum += patient.body_sum
                body_voxels += patient.body_voxels
            if patient.parameters:
                parameters[patient.patient] = patient.parameters
        first = patient.samples[0].source
        return writer.finish(
            {
                "task": task.name,
                "origin": origin,
                "is_simulated": origin != "files",
                "slice_size": preprocess.SLICE_SIZE,
                "source_channels": first.shape[-1],
                "target_channels": 1,
                "voxel_size_mm": task.voxel_size_mm,
                "task_row": tasks.as_stored(task),
                "seed": seed,
                "num_dropped_slices": num_dropped,
                "clipped_share": {
                    "source": clipped_source,
                    "target": clipped_target,
                },
                # The trivial answer: this value everywhere in the body.
                "train_body_mean": body_sum / max(body_voxels, 1),
                "target_unit": task.target.unit,
                "simulator_parameters": parameters,
                "medgan_tf": medgan_tf.__version__,
            }
        )


def _in_order(
    function: Callable, items: list, workers: int
) -> Iterator[pairs.PreparedPatient]:
    """Yields function(item) in the order of the items, from processes.

    At most two results for each worker wait, so memory does not grow with
    the cohort.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    # Because a forked copy of a process that runs TensorFlow may hang.
    context = multiprocessing.get_context("spawn")
    with (
        _explaining_death(),
        concurrent.futures.ProcessPoolExecutor(
            workers,
            context,
            initializer=_leave_signals_to_the_parent,
        ) as pool,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        waiting = []
        # Started first, because it lets signals through when it starts.
        resource_tracker.ensure_running()
        for item in items:
            with _signals_held():
                waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * workers:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()


@contextlib.contextmanager
def _signals_held():
    """Puts signals off while a worker may be starting.

    A start that is broken off leaves a worker that ends with a traceback; and
    what is held here is held in the worker too, until it is ready for it.
    """
    held = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals_to_the_parent() -> None:
    """Ctrl-C reaches every process; one of them is to speak of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    held = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, held)


@contextlib.contextmanager
def _explaining_death():
    """Says what it most often means that a worker process is gone."""
    try:
        yield
    except concurrent.futures.process.BrokenProcessPool as error:
        raise errors.ResourceError(
            "A worker process was killed, most often for lack of memory; use "
            "fewer --workers."
        ) from error
