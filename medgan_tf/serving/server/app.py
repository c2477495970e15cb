"""An exported model behind the standard protocols for inference.

  V1 REST   /v1/models/NAME:predict, the row and column format of TensorFlow
            Serving
  V2 REST   /v2/models/NAME/infer, the Open Inference Protocol
  V2 gRPC   inference.GRPCInferenceService

KServe brings the messages and what is asked of a server beside translations:
names, health, metadata. Reading the bodies of requests is done here, because
KServe reads them in the thread that all clients share, makes text of binary
inputs, which PNG files are not, and listens to the whole network.
"""

from __future__ import annotations

import asyncio
import pathlib
import signal
from collections.abc import Callable, Sequence

import fastapi
import grpc
import uvicorn

from medgan_tf import errors, ports
from medgan_tf.serving.server import desk as desks
from medgan_tf.serving.server import grpc_service, rest

# For what is under way when the server is told to stop.
GRACE_SECONDS = 25


def name_and_version(folder: pathlib.Path) -> tuple[str, str]:
    """Under which a model is served: as by TensorFlow Serving, its folders'.

    Args:
      folder: what `predict.load` loaded: a version's folder, or the one above.
    """
    folder = folder.absolute()
    if (folder / "saved_model.pb").exists():
        return folder.parent.name, folder.name
    versions = [f.name for f in folder.iterdir() if f.name.isdigit()]
    return folder.name, max(versions, key=int)


def serve(
    desk: desks.Desk,
    *,
    host: str,
    port: int,
    grpc_port: int,
    max_body_mb: float,
    routers: Sequence[fastapi.APIRouter] = (),
    started: Callable[[int, int], None] = lambda port, grpc_port: None,
) -> None:
    """Serves until a signal comes, then answers what is under way.

    Args:
      desk: answers.
      host: address to listen at.
      port: of REST; 0: any that is free.
      grpc_port: of gRPC; likewise.
      max_body_mb: of a request, in MB (10^6 bytes).
      routers: more to be mounted.
      started: is told the ports once all is ready.

    Raises:
      ResourceError: a port cannot be had.
      Stopped: after SIGINT or SIGTERM, once all is answered.
    """
    max_body_bytes = int(max_body_mb * 1e6)
    app = rest.application(desk, max_body_bytes=max_body_bytes, routers=routers)
    listener = ports.listen("port", host, port)

    async def run() -> int | None:
        calls, found = grpc_service.server(
            desk, host, grpc_port, max_body_bytes=max_body_bytes
        )
        await calls.start()
        server = _Uvicorn(app, calls)
        started(listener.getsockname()[1], found)
        await server.serve([listener])
        return server.stopped_by

    # Because uvicorn sends itself the signals again when it is done.
    ignored = {
        number: signal.signal(number, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        number = asyncio.run(run())
    finally:
        listener.close()
        desk.close()
        for each, handler in ignored.items():
            signal.signal(each, handler)
    if number:
        raise errors.Stopped(
            f"stopped by {signal.Signals(number).name}, what was under way is "
            "answered.",
            128 + number,
        )


class _Uvicorn(uvicorn.Server):
    """Stops gRPC together with REST, and remembers why."""

    def __init__(self, app: fastapi.FastAPI, calls: grpc.aio.Server):
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self.stopped_by = None
        self._calls = calls

    def handle_exit(self, sig, frame) -> None:
        self.stopped_by = self.stopped_by or sig
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets=None) -> None:
        await asyncio.gather(
            self._calls.stop(GRACE_SECONDS), super().shutdown(sockets)
        )
