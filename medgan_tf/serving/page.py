"""A page on which a person drops a volume and sees it translated.

`router` is all that a server needs to mount it. The page asks nothing of any
other origin, and says so to the browser (Content-Security-Policy), so that it
works without a network and no image can leave by it. A browser that is sent
here by another site is turned away.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import pathlib
from collections.abc import Callable
from urllib import parse

import fastapi
from fastapi import concurrency, responses, routing
from starlette import exceptions, requests

from medgan_tf import errors
from medgan_tf.serving import jobs, predict, uploads

PREFIX = "/page"
MOST_UPLOAD_MB = 600
# For a phone with a slow connection; then its place in the queue is free.
UPLOAD_TIMEOUT_S = 900.0
STATIC = pathlib.Path(__file__).with_name("static")
# Address below PREFIX -> type of the file of that name.
FILES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "viewer.js": "text/javascript; charset=utf-8",
    "niivue.js": "text/javascript; charset=utf-8",
    "niivue.LICENSES.txt": "text/plain; charset=utf-8",
}
# NiiVue carries its letters as images in data: addresses.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
# Kind of error -> HTTP status; the first that fits.
STATUSES = (
    (jobs.FullError, 503),
    (errors.ResourceError, 507),
    (errors.MedganError, 400),
)


def router(
    model: predict.Model, *, most_upload_mb: float = MOST_UPLOAD_MB, **options
) -> fastapi.APIRouter:
    """The page and what it asks the server for, below PREFIX.

      GET    /page/                       the page
      GET    /page/about                  what the model takes and gives
      POST   /page/jobs                   form: `source` for each channel and
                                          `target`, or `phantom`; 202, `name`
      GET    /page/jobs/<name>            how far it is
      GET    /page/jobs/<name>/<file>     an image, NIfTI
      DELETE /page/jobs/<name>            stops it and removes its files

    What goes wrong is JSON {"error": one line}: 400 a file, 403 another site,
    404, 408 slow, 411 and 413 length, 422 a volume that cannot be translated,
    503 enough wait, 507 no space.

    Args:
      model: from `predict.load`.
      most_upload_mb: size of a request in MB (10^6 bytes).
      **options: of `jobs.Jobs`.

    Returns:
      A router; the end of its lifespan removes every file.
    """
    queue = jobs.Jobs(model, **options)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        yield
        await concurrency.run_in_threadpool(queue.close)

    made = fastapi.APIRouter(
        prefix=PREFIX,
        route_class=_Route,
        lifespan=lifespan,
        include_in_schema=False,
    )

    @made.get("")
    def to_page() -> responses.Response:
        # Because addresses in the page are relative to its folder.
        return responses.RedirectResponse(f"{PREFIX.strip('/')}/")

    @made.get("/")
    def page() -> responses.Response:
        return _file("index.html")

    for name in FILES:
        made.get(f"/{name}")(functools.partial(_file, name))

    @made.get("/about")
    def about() -> responses.Response:
        return responses.JSONResponse(
            {**_about(model), "most_upload_mb": most_upload_mb}
        )

    @made.post("/jobs")
    async def send(request: fastapi.Request) -> responses.Response:
        _check_length(request, most_upload_mb)
        job = queue.open()
        try:
            await asyncio.wait_for(_fill(queue, job, request), UPLOAD_TIMEOUT_S)
        except BaseException as error:
            queue.remove(job)
            if isinstance(error, asyncio.TimeoutError):
                raise exceptions.HTTPException(
                    408, "The upload took too long; try again."
                ) from error
            if isinstance(error, requests.ClientDisconnect):
                raise exceptions.HTTPException(
                    400, "The upload broke off; try again."
                ) from error
            raise
        return responses.JSONResponse({"name": job.name}, 202)

    @made.get("/jobs/{name}")
    def progress(name: str) -> responses.Response:
        job = _found(queue, name)
        if job.state == "failed":
            return _refused(job.error, of_volume=True)
        return responses.JSONResponse(
            {
                "state": job.state,
                "ahead": queue.ahead_of(job),
                "done": job.done,
                "total": job.total,
                "seconds_left": job.seconds_left,
                "notes": job.notes,
                "images": [vars(image) for image in job.images],
            }
        )

    @made.get("/jobs/{name}/{file}")
    def image(name: str, file: str) -> responses.Response:
        job = _found(queue, name)
        # Only a name that we gave is ever looked for.
        known = job.state == "done" and any(file == i.file for i in job.images)
        if not (known and (job.folder / file).exists()):
            raise exceptions.HTTPException(404, "No such image.")
        return responses.FileResponse(
            job.folder / file, media_type="application/octet-stream"
        )

    @made.delete("/jobs/{name}")
    def remove(name: str) -> responses.Response:
        queue.remove(_found(queue, name))
        return responses.Response(status_code=204)

    return made


class _Route(routing.APIRoute):
    """Adds the headers, tells errors in a line, turns other sites away."""

    def get_route_handler(self) -> Callable:
        handle = super().get_route_handler()

        async def guarded(request: fastapi.Request) -> responses.Response:
            try:
                _check_site(request)
                response = await handle(request)
            except exceptions.HTTPException as error:
                response = responses.JSONResponse(
                    {"error": str(error.detail)}, error.status_code
                )
            except errors.MedganError as error:
                response = _refused(error)
            response.headers.update(HEADERS)
            return response

        return guarded


def _about(model: predict.Model) -> dict:
    """What a person should know of the model and of the page."""
    info, task = model.info, model.task
    return {
        "title": info["title"],
        "sources": [{"name": m.name, "unit": m.unit} for m in task.sources],
        "target": {"name": task.target.name, "unit": task.target.unit},
        "trained_on_simulated_images": info["trained_on_simulated_images"],
        "intended_use": info["intended_use"],
        "phantoms": list(jobs.PHANTOMS),
        "suffixes": uploads.SUFFIXES,
    }


def _file(name: str) -> responses.Response:
    return responses.FileResponse(STATIC / name, media_type=FILES[name])


def _check_site(request: fastapi.Request) -> None:
    """Refuses what another site has the browser of a person ask for."""
    told = request.headers
    # Without https or localhost a browser tells the origin only.
    if site := told.get("sec-fetch-site"):
        is_ours = site in ("same-origin", "none")
    else:
        host = parse.urlsplit(told.get("origin", "")).netloc
        is_ours = not host or host == told.get("host")
    # A link to the page itself is harmless.
    is_link = (
        request.method == "GET" and told.get("sec-fetch-mode") == "navigate"
    )
    if not (is_ours or is_link):
        raise exceptions.HTTPException(
            403, "Asked for by another site; open the page itself."
        )


def _check_length(request: fastapi.Request, most_upload_mb: float) -> None:
    """Refuses a body by its length, which the server holds it to."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise exceptions.HTTPException(411, "The request has no length.")
    if int(length) > most_upload_mb * 1e6:
        raise exceptions.HTTPException(
            413,
            f"Found {int(length) / 1e6:.0f} MB, expected at most "
            f"{most_upload_mb:g} MB; compress the file, crop the volume, or "
            "use predict.py.",
        )


async def _fill(
    queue: jobs.Jobs, job: jobs.Job, request: fastapi.Request
) -> None:
    """Takes a form apart; a part above 1 MB goes to disk as it comes."""
    async with request.form(max_files=8, max_fields=2) as form:
        phantom = form.get("phantom")
        if isinstance(phantom, str):
            queue.send_phantom(job, phantom)
            return
        parts = {
            field: [
                (part.filename or "", part.file)
                for part in form.getlist(field)
                if not isinstance(part, str)
            ]
            for field in ("source", "target")
        }
        target = parts["target"][0] if parts["target"] else None
        await concurrency.run_in_threadpool(
            queue.send_files, job, parts["source"], target
        )


def _found(queue: jobs.Jobs, name: str) -> jobs.Job:
    job = queue.find(name)
    if job is None:
        raise exceptions.HTTPException(
            404, "This volume is no longer here; send it again."
        )
    return job


def _refused(
    error: Exception, of_volume: bool = False
) -> responses.JSONResponse:
    for kind, status in STATUSES:
        if isinstance(error, kind):
            if of_volume and status == 400:
                status = 422
            return responses.JSONResponse({"error": str(error)}, status)
    line = "The server failed at this volume; its log says why."
    return responses.JSONResponse({"error": line}, 500)
