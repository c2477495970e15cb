"""Work on many items in several processes that leave signals to the parent."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from typing import TypeVar

from medgan_tf import errors

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    num_workers: int,
    start: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Yields function(item) in the order of the items.

    Args:
      function: what can be pickled; each process has one item at a time.
      items: what it is applied to.
      num_workers: processes; with one, this process does the work.
      start: what each process does first, such as a quiet import.

    Raises:
      ResourceError: a process was killed.
    """
    if num_workers <= 1:
        yield from map(function, items)
        return
    # Because a forked copy of a process that runs TensorFlow may hang.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        min(num_workers, len(items)),
        context,
        initializer=_begin,
        initargs=(start,),
    )
    before = set(multiprocessing.active_children())
    # Started first, because it lets signals through when it starts.
    resource_tracker.ensure_running()
    try:
        with _explaining_death():
            waiting = []
            for item in items:
                with _signals_held():
                    waiting.append(pool.submit(function, item))
            for result in waiting:
                yield result.result()
    except BaseException:
        # Nobody waits for what the others are at; some items are begun long
        # before they are wanted and can no longer be cancelled.
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


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


def _begin(start: Callable[[], None] | None) -> None:
    """What a process does before its first item."""
    # It must not go on writing when nobody waits for it any more.
    parent = multiprocessing.parent_process()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # Ctrl-C reaches every process; one of them is to speak of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    held = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
    if start is not None:
        start()


def _end_with(parent) -> None:
    parent.join()
    os._exit(1)


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
