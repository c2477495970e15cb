"""Takes in the body of a request within limits of size, time and memory.

A body is read whole before anything else is done, so that a slow client keeps
nobody waiting; what it has sent so far is all that it holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette import responses

from medgan_tf.serving.server import metrics

BODY_SECONDS = 60.0
# Bodies that are read and not yet answered, in largest bodies.
MOST_BODIES = 8


class BodyLimits:
    """Wraps an ASGI application.

    What it refuses is JSON {"error": one line}: 408 too slow, 413 too large,
    503 too many at a time.

    Args:
      app: to be wrapped.
      prefixes: of the paths that are limited.
      max_body_bytes: of one request.
      body_seconds: that a client has for it.
    """

    def __init__(
        self,
        app: Callable,
        *,
        prefixes: tuple[str, ...],
        max_body_bytes: int,
        body_seconds: float = BODY_SECONDS,
    ):
        self._app = app
        self._prefixes = prefixes
        self._most = max_body_bytes
        self._seconds = body_seconds
        self._held = 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(
            self._prefixes
        ):
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            refusal = await self._read(_length(scope), receive, body)
            if refusal:
                status, word, message = refusal
                metrics.count("rest", metrics.UNKNOWN, word)
                # The rest of the body is not read.
                response = responses.JSONResponse(
                    {"error": message}, status, {"Connection": "close"}
                )
                await response(scope, receive, send)
                return
            await self._app(scope, _replayed(body, receive), send)
        finally:
            self._held -= len(body)

    async def _read(self, length: int, receive, body: bytearray):
        """Fills `body`; a status, a word and a line if it will not."""
        most_mb = self._most / 1e6
        too_large = (
            413,
            "TOO_LARGE",
            f"body: found more than {most_mb:g} MB, expected at most that; "
            "send fewer slices at a time, or PNG files.",
        )
        if length > self._most:
            return too_large
        ends = time.monotonic() + self._seconds
        while True:
            left = ends - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(left, 0))
            except asyncio.TimeoutError:
                return (
                    408,
                    "TOO_SLOW",
                    f"body: found it incomplete after {self._seconds:g} s; "
                    "send it faster.",
                )
            if message["type"] == "http.disconnect":
                return 499, "CANCELLED", "The client has gone."
            chunk = message.get("body", b"")
            if len(body) + len(chunk) > self._most:
                return too_large
            if self._held + len(chunk) > MOST_BODIES * self._most:
                return (
                    503,
                    "UNAVAILABLE",
                    "The server has its hands full; try again later.",
                )
            self._held += len(chunk)
            body += chunk
            if not message.get("more_body", False):
                return None


def _length(scope) -> int:
    """The length that a request claims; 0 where it does not."""
    claimed = dict(scope["headers"]).get(b"content-length", b"0")
    return int(claimed[:20]) if claimed.isdigit() else 0


def _replayed(body: bytearray, receive: Callable) -> Callable:
    """Gives the body once, then what comes after it."""
    waiting = [
        {"type": "http.request", "body": bytes(body), "more_body": False}
    ]

    async def replay():
        return waiting.pop() if waiting else await receive()

    return replay
