"""What several processes that train together tell each other.

At the start: what each of them runs. With each call of the training step:
whether one has been told to stop. In a process that trains alone each of
these functions does nothing but what one process needs.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import platform
import signal
import socket
import threading
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import medgan_tf
from medgan_tf import errors, methods, tasks
from medgan_tf.training import config as configs

# What collectives raise when another process is gone or no longer answers.
# Not InternalError: that is a fault of this process.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
)
# Of the facts of one process, as JSON.
_MAX_BYTES = 16_384
# Within so long SIGINT is the same Ctrl-C, which a terminal and a script sent.
_SECONDS_OF_ONE = 0.1
# Raised by the chief between two steps, when the others listen.
_TOLD = (errors.DivergedError, errors.ArtefactError, errors.ResourceError)


def code_fingerprint() -> str:
    """SHA-256 of the library's source files, and of their names."""
    digest = hashlib.sha256()
    root = pathlib.Path(medgan_tf.__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        # The scripts are beside the library in a checkout, below it installed.
        if not name.startswith("tools/"):
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def facts(
    task: tasks.Task,
    method: methods.Method,
    config: configs.TrainConfig,
    data: dict,
) -> dict:
    """What all processes of a training must have in common.

    Args:
      task: the row.
      method: the row, resolved.
      config: the settings.
      data: `info` of the data set.
    """
    settings = dataclasses.asdict(config)
    del settings["cluster_timeout_s"]
    return {
        "task": tasks.as_stored(task),
        **{f"set={k}": v for k, v in dataclasses.asdict(method).items()},
        **settings,
        "data": data["fingerprint"],
        "code": code_fingerprint(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def check_same(strategy: tf.distribute.Strategy, facts: dict) -> None:
    """Raises in every process unless all of them have the same facts.

    Args:
      strategy: the engine; with one process nothing is compared.
      facts: name -> anything that JSON can hold.

    Raises:
      errors.ArtefactError: they differ; says in what and where.
    """
    if _num_workers(strategy) == 1:
        return
    text = json.dumps(facts, sort_keys=True, default=str).encode()
    if len(text) > _MAX_BYTES:
        raise ValueError(f"Facts must fit {_MAX_BYTES} bytes, got {len(text)}.")
    row = np.zeros((_num_workers(strategy), _MAX_BYTES), np.float32)
    row[_index(strategy), : len(text)] = np.frombuffer(text, np.uint8)
    rows = _total(strategy, row).astype(np.uint8)
    everyone = [json.loads(r.tobytes().rstrip(b"\0")) for r in rows]
    for index, other in enumerate(everyone):
        differing = [
            f"{name}={_short(other.get(name))} (worker 0: "
            f"{_short(everyone[0].get(name))})"
            for name in sorted({*other, *everyone[0]})
            if other.get(name) != everyone[0].get(name)
        ]
        if differing:
            raise errors.ArtefactError(
                f"worker {index} has {', '.join(differing)}; expected the same "
                "flags, code and data on all workers: start all of them again."
            )


def chief_first(
    strategy: tf.distribute.Strategy, restore: Callable[[], int]
) -> int:
    """Goes back to the last checkpoint in worker 0, then in the others.

    Because worker 0 renames what is damaged.

    Args:
      strategy: the engine.
      restore: returns the step.

    Returns:
      The step, the same in every process.

    Raises:
      errors.ArtefactError: the others see another checkpoint.
    """
    if _num_workers(strategy) == 1:
        return restore()
    turn = np.zeros(256, np.float32)
    if _index(strategy):
        _total(strategy, turn)
    step = restore()
    if not _index(strategy):
        _total(strategy, turn)
    check_same(strategy, {"step of the last checkpoint": step})
    return step


def naming_lost(train: Callable) -> Callable:
    """Turns what TensorFlow says when a peer is gone into one of our errors.

    Args:
      train: a function with the keyword argument `strategy`. It raises
        errors.PeerLostError where another process has ended, or answers no
        longer.
    """

    @functools.wraps(train)
    def call(*arguments, strategy=None, **options):
        try:
            return train(*arguments, strategy=strategy, **options)
        except _LOST as error:
            if _num_workers(strategy) == 1:
                raise
            lines = [line.strip() for line in error.message.splitlines()]
            why = [line for line in lines if "aborted by" in line] or lines
            raise errors.PeerLostError(
                "another worker has ended or answers no longer "
                f"({why[0][:200]}); its own words say why: start all workers "
                "again to go on from the last checkpoint."
            ) from error

    return call


class Stops:
    """Remembers SIGINT and SIGTERM, so that a step can be finished first.

    A Ctrl-C after one of them ends the process at once, even within a step,
    which Python cannot interrupt. A second SIGTERM changes nothing: whoever
    sends it kills when it waited long enough.

    With several processes all of them leave after the same step, whichever
    got the signal: with each call of the training step they add up who was
    told what, in one small collective. Whoever sees a sum sees it after the
    same step as all others, so nothing has to be negotiated, and the chief
    saves an ordinary checkpoint.

    Not TensorFlow's `PreemptionCheckpointHandler`: it knows no SIGINT, wants
    a checkpoint folder of its own beside that of the run, must wrap the step,
    and leaves by `sys.exit` from within it, past what a run has to close. The
    collective took 4 ms over loopback with two processes on two cores, where
    the smallest step takes a hundred times as long;
    `--steps_per_execution` makes it rarer.

    The chief's errors between two steps (diverged, disk full) are told in the
    same way, so that every process ends with the same exit code.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        self._is_alone = _num_workers(strategy) == 1
        self._received = 0
        self._is_over = False
        self._before = {}

    def __enter__(self) -> Stops:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        # What arrives is written there by C, without waiting for Python.
        self._arrived, self._arriving = socket.socketpair()
        self._arriving.setblocking(False)
        self._woken_before = signal.set_wakeup_fd(
            self._arriving.fileno(), warn_on_full_buffer=False
        )
        threading.Thread(
            target=_leave_at_ctrl_c, args=[self._arrived], daemon=True
        ).start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._woken_before)
        # Ends the thread too.
        self._arriving.close()
        if isinstance(error, _TOLD) and not self._is_over:
            self._share(error.exit_code)

    def told(self, is_last: bool) -> int:
        """The exit code to leave with, the same in every process; 0: go on.

        To be called by every process after the same steps, by the chief once
        all that these ask for is done.

        Args:
          is_last: no step is left, so a signal changes nothing.
        """
        code = self._share(self._received)
        if is_last and code > 128:
            code = 0
        self._is_over = code != 0
        return code

    def _share(self, code: int) -> int:
        """The largest exit code of any process."""
        if self._is_alone:
            return code
        codes = _total(self._strategy, np.eye(256, dtype=np.float32)[code])
        return int(np.flatnonzero(codes).max())

    def _receive(self, number: int, frame) -> None:
        self._received = self._received or 128 + number


def _leave_at_ctrl_c(arrived: socket.socket) -> None:
    """Ends the process at SIGINT, unless it is the first signal."""
    first = math.inf
    with arrived:
        while number := arrived.recv(1):
            if number[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            now = time.monotonic()
            first = min(first, now)
            is_again = now - first > _SECONDS_OF_ONE
            if is_again and number[0] == signal.SIGINT:
                os.write(2, b"Stopped at once; the last checkpoint stays.\n")
                os._exit(128 + signal.SIGINT)


def stopped(
    code: int, step: int, num_steps: int, workdir: pathlib.Path
) -> errors.Stopped:
    """The error to leave with after `Stops.told` gave an exit code."""
    if code > 128:
        return errors.Stopped(
            f"Stopped by {signal.Signals(code - 128).name} at step {step} of "
            f"{num_steps}; all is saved in {workdir}: the same command goes "
            "on.",
            exit_code=code,
        )
    return errors.Stopped(
        f"Stopped at step {step} of {num_steps} by worker 0, which says why.",
        exit_code=code,
    )


def _num_workers(strategy: tf.distribute.Strategy | None) -> int:
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    spec = strategy.cluster_resolver.cluster_spec()
    return max(1, sum(map(len, spec.as_dict().values())))


def _index(strategy: tf.distribute.Strategy) -> int:
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().as_dict()
    is_after_chief = resolver.task_type == "worker" and "chief" in jobs
    return resolver.task_id + is_after_chief


def _total(strategy: tf.distribute.Strategy, array: np.ndarray) -> np.ndarray:
    """The sum over processes of a float32 array."""
    total = _sum_over_replicas(strategy, tf.constant(array)).numpy()
    num_local = strategy.num_replicas_in_sync // _num_workers(strategy)
    return np.rint(total / num_local)


@tf.function(autograph=False)
def _sum_over_replicas(strategy, array: tf.Tensor) -> tf.Tensor:
    def add():
        context = tf.distribute.get_replica_context()
        # Copied, so that it is on the replica's device.
        return context.all_reduce(
            tf.distribute.ReduceOp.SUM, tf.identity(array)
        )

    return strategy.experimental_local_results(strategy.run(add))[0]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
