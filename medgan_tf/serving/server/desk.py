"""Where requests of all protocols wait for one model.

Only so many wait, and only few are worked on at a time.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Protocol

import numpy as np

from medgan_tf import allocator
from medgan_tf.serving.server import metrics, protocols, statuses

# One is read or written while another is translated.
WORKERS = 2
# Beyond, a caller is sent away rather than left to wait.
MOST_UNDER_WAY = 32
# Without a request, until freed memory goes back to the system.
IDLE_SECONDS = 5.0


class Model(Protocol):
    """What `served.Served` is to a desk."""

    signatures: protocols.Signatures

    def ask(
        self, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]: ...


class Desk:
    """Takes requests, a few at a time, off the thread that clients share.

    Attributes:
      name: of the model.
      version: its number.
      signatures: of the model.
    """

    def __init__(self, model: Model, name: str, version: str):
        self.name = name
        self.version = version
        self.signatures = model.signatures
        self._model = model
        self._workers = futures.ThreadPoolExecutor(WORKERS, "translate")
        self._under_way = 0
        self._idle = None

    def check_name(self, name: str, version: str | None) -> None:
        """Refuses other models and versions.

        Raises:
          RefusedError: NOT_FOUND.
        """
        if name != self.name or version not in (None, "", self.version):
            raise statuses.RefusedError(
                "NOT_FOUND",
                f"There is no such model here; expected {self.name}, "
                f"version {self.version}.",
            )

    async def answer(self, protocol: str, read: Callable, write: Callable):
        """Reads a request, asks the model and writes the answer.

        Args:
          protocol: for the metrics.
          read: gives a `protocols.Question`.
          write: takes it and the outputs.

        Raises:
          RefusedError: there is no answer.
        """
        if self._under_way >= MOST_UNDER_WAY:
            status = "UNAVAILABLE"
            metrics.count(protocol, metrics.UNKNOWN, status)
            raise statuses.RefusedError(
                status, f"{self._under_way} requests wait; try again later."
            )
        self._count(1)
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._workers,
                functools.partial(
                    self._work, protocol, read, write, time.perf_counter()
                ),
            )
        finally:
            self._count(-1)

    def close(self) -> None:
        """Waits for what is being translated."""
        self._workers.shutdown(cancel_futures=True)

    def _work(self, protocol, read, write, arrived):
        signature, status = metrics.UNKNOWN, "INTERNAL"
        try:
            question = read()
            protocols.known(question.signature, self.signatures)
            signature = question.signature
            outputs = self._model.ask(signature, question.inputs)
            answer = write(question, outputs)
            status = "OK"
            length = len(next(iter(outputs.values())))
            metrics.SLICES.labels(signature).inc(length)
            return answer
        except statuses.RefusedError as error:
            status = error.status
            raise
        finally:
            metrics.count(protocol, signature, status)
            metrics.SECONDS.labels(protocol, signature).observe(
                time.perf_counter() - arrived
            )

    def _count(self, number: int) -> None:
        self._under_way += number
        metrics.UNDER_WAY.set(self._under_way)
        if self._idle:
            self._idle.cancel()
        if not self._under_way:
            self._idle = asyncio.get_running_loop().call_later(
                IDLE_SECONDS, allocator.return_freed_memory
            )
