"""Lets readers judge a study in their browsers, on this machine or beyond.

Beyond this machine only with encryption, ours or that of a proxy before us,
because a reader's token and cookie must not cross a network in the clear.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import ssl
from collections.abc import Callable

import uvicorn

from medgan_tf import errors, ports
from medgan_tf.reader_study import application, storage, study

PORT = 8600
GRACE_SECONDS = 10
MOST_REQUESTS_AT_A_TIME = 200


def serve(
    study_dir: str | os.PathLike,
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    certfile: str | None = None,
    keyfile: str | None = None,
    behind_proxy: bool = False,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serves until a signal comes, then answers what is under way.

    Args:
      study_dir: as `reader_study.py create` made it; answers are stored there.
      host: address to listen at.
      port: 0: any that is free.
      certfile: PEM with the certificate and those that vouch for it; with it,
        browsers come by https.
      keyfile: PEM with its private key, unless that is in `certfile`.
      behind_proxy: whether a reverse proxy before us brings the encryption;
        browsers then keep the cookie from connections without it.
      started: is told the address once it can be asked.

    Raises:
      UsageError: another host than this machine without encryption.
      DataError: the study or the certificate cannot be used.
      ResourceError: the port cannot be had, or answers cannot be written.
      Stopped: after SIGINT or SIGTERM, once all is answered.
    """
    _check_encryption(host, certfile, keyfile, behind_proxy)
    shown = study.read(study_dir)
    storage.check_writable(shown.answers)
    listener = ports.listen("port", host, port)
    server = _Uvicorn(
        uvicorn.Config(
            application.Application(
                shown, is_secure=bool(certfile or behind_proxy)
            ),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http="h11",
            ws="none",
            lifespan="off",
            ssl_certfile=certfile,
            ssl_keyfile=keyfile,
            limit_concurrency=MOST_REQUESTS_AT_A_TIME,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )

    async def run() -> None:
        shown_host = f"[{host}]" if ":" in host else host
        scheme = "https" if certfile else "http"
        started(f"{scheme}://{shown_host}:{listener.getsockname()[1]}/")
        await server.serve([listener])

    # Because uvicorn sends itself the signals again when it is done.
    ignored = {
        number: signal.signal(number, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        asyncio.run(run())
    finally:
        listener.close()
        for number, handler in ignored.items():
            signal.signal(number, handler)
    if server.stopped_by:
        raise errors.Stopped(
            f"stopped by {signal.Signals(server.stopped_by).name}; all answers "
            "are stored.",
            128 + server.stopped_by,
        )


def _check_encryption(
    host: str, certfile: str | None, keyfile: str | None, behind_proxy: bool
) -> None:
    if keyfile and not certfile:
        raise errors.UsageError("--keyfile needs --certfile; give both.")
    if not (_is_local(host) or certfile or behind_proxy):
        raise errors.UsageError(
            f"--host={host} is not this machine, and tokens would cross the "
            "network in the clear; give --certfile and --keyfile, or "
            "--behind_proxy if a proxy brings TLS."
        )
    if certfile:
        try:
            # A password, because otherwise it would be asked for.
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                certfile, keyfile, password=""
            )
        except (OSError, ValueError) as error:
            raise errors.refusal(
                f"--certfile={certfile}",
                getattr(error, "strerror", None) or str(error),
                "a certificate and its key without a password, as PEM",
                "look at both files",
            ) from error


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Uvicorn(uvicorn.Server):
    """Remembers why it stopped."""

    stopped_by: int | None = None

    def handle_exit(self, sig, frame) -> None:
        self.stopped_by = self.stopped_by or sig
        super().handle_exit(sig, frame)
