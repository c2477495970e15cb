"""The REST side of the server: V1 and V2, health and metrics.

KServe's own V1 and V2 endpoints answer all but the requests for translations.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import fastapi
from fastapi import exceptions as fastapi_exceptions
from fastapi import responses
from kserve import errors as kserve_errors
from kserve.protocol.rest import server as kserve_rest
from kserve.protocol.rest import v1_endpoints, v2_endpoints
from starlette import exceptions as starlette_exceptions

from medgan_tf.serving.server import desk as desks
from medgan_tf.serving.server import (
    kserve_model,
    limits,
    protocol_v1,
    protocol_v2,
    statuses,
)

_LENGTH_HEADER = "Inference-Header-Content-Length"


def application(
    desk: desks.Desk,
    *,
    max_body_bytes: int,
    routers: Sequence[fastapi.APIRouter] = (),
    body_seconds: float = limits.BODY_SECONDS,
) -> fastapi.FastAPI:
    """The REST side.

    Args:
      desk: answers.
      max_body_bytes: of a request.
      routers: more to be mounted.
      body_seconds: that a client has for the body of a request.
    """
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    for router in routers:
        app.include_router(router)

    @app.post("/v1/models/{name}:predict")
    @app.post("/v1/models/{name}/versions/{version}:predict")
    async def predict(
        request: fastapi.Request, name: str, version: str | None = None
    ) -> responses.Response:
        desk.check_name(name, version)
        body = await request.body()
        content = await desk.answer(
            "v1",
            functools.partial(protocol_v1.read, body, desk.signatures),
            protocol_v1.write,
        )
        return responses.Response(content, media_type="application/json")

    @app.post("/v2/models/{name}/infer")
    @app.post("/v2/models/{name}/versions/{version}/infer")
    async def infer(
        request: fastapi.Request, name: str, version: str | None = None
    ) -> responses.Response:
        desk.check_name(name, version)
        body = await request.body()
        length = request.headers.get(_LENGTH_HEADER)
        content, json_length = await desk.answer(
            "v2",
            functools.partial(protocol_v2.read, body, length),
            functools.partial(
                protocol_v2.write, model=desk.name, version=desk.version
            ),
        )
        if json_length is None:
            return responses.Response(content, media_type="application/json")
        return responses.Response(
            content,
            media_type="application/octet-stream",
            headers={_LENGTH_HEADER: str(json_length)},
        )

    app.add_route("/metrics", kserve_rest.metrics_handler)
    plane, fixed = kserve_model.plane(desk)
    # After ours, which so come first.
    v1_endpoints.register_v1_endpoints(app, plane, fixed)
    v2_endpoints.register_v2_endpoints(app, plane, fixed)
    _tell_errors(app)
    app.add_middleware(
        limits.BodyLimits,
        prefixes=("/v1/", "/v2/"),
        max_body_bytes=max_body_bytes,
        body_seconds=body_seconds,
    )
    return app


def _tell_errors(app: fastapi.FastAPI) -> None:
    """Every error is JSON {"error": one line}, and none shows our insides."""

    def told(status: int, line: str) -> responses.JSONResponse:
        return responses.JSONResponse({"error": line}, status)

    async def refused(_, error):
        return told(error.http, str(error))

    async def not_found(_, error):
        return told(404, str(error))

    async def not_ready(_, error):
        return told(503, str(error))

    async def unimplemented(_, error):
        return told(501, "This is not offered here.")

    async def http(_, error):
        return told(error.status_code, str(error.detail))

    async def malformed(_, error):
        return told(400, "The request is not as the protocol says.")

    async def failed(_, error):
        # uvicorn writes the traceback into the log.
        return told(500, "The server failed; its log says why.")

    for kind, handler in (
        (statuses.RefusedError, refused),
        (kserve_errors.ModelNotFound, not_found),
        (kserve_errors.ModelNotReady, not_ready),
        (NotImplementedError, unimplemented),
        (starlette_exceptions.HTTPException, http),
        (fastapi_exceptions.RequestValidationError, malformed),
        (Exception, failed),
    ):
        app.add_exception_handler(kind, handler)
