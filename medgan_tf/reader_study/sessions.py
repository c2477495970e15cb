"""Who is signed in, and a proof that a form came from our own page.

A session lives in memory: after a restart readers sign in again and go on
where they were. A reader has one session; signing in anew ends the old one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable

IDLE_SECONDS = 12 * 3600.0


class Sessions:
    """Cookie -> reader.

    Args:
      now: a clock that only goes forward, in s.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._secret = secrets.token_bytes(32)
        # Reader -> (digest of the cookie, when last seen).
        self._open: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    def new_cookie(self) -> str:
        """A cookie of nobody, with 256 random bits."""
        return secrets.token_urlsafe(32)

    def proof(self, cookie: str) -> str:
        """What a form of the page with this cookie has to send along.

        Another site makes the browser send the cookie, but cannot read it.
        """
        return self._digest(b"proof", cookie).hex()

    def is_proof(self, cookie: str, proof: str) -> bool:
        return hmac.compare_digest(
            self.proof(cookie).encode(), proof.encode("utf-8", "replace")
        )

    def open(self, reader: str) -> str:
        """Signs a reader in; a new cookie, so that none can be planted."""
        cookie = self.new_cookie()
        with self._lock:
            self._open[reader] = self._digest(b"session", cookie), self._now()
        return cookie

    def reader_of(self, cookie: str) -> str | None:
        """Who is signed in with a cookie; None: nobody."""
        wanted, now = self._digest(b"session", cookie), self._now()
        with self._lock:
            for reader, (digest, seen) in self._open.items():
                if hmac.compare_digest(digest, wanted):
                    if now - seen > IDLE_SECONDS:
                        del self._open[reader]
                        return None
                    self._open[reader] = digest, now
                    return reader
        return None

    def close(self, reader: str) -> None:
        """Signs a reader out."""
        with self._lock:
            self._open.pop(reader, None)

    def _digest(self, purpose: bytes, cookie: str) -> bytes:
        message = purpose + b":" + cookie.encode("utf-8", "replace")
        return hmac.digest(self._secret, message, hashlib.sha256)
