"""The pages on which a reader judges one trial after the other.

A reader sees the own next trial and nothing else: neither what lies before
or after it, nor what others answered, nor the key, which is not in the
study's folder. Pages ask nothing of any other origin, and say so to the
browser (Content-Security-Policy).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import pathlib
import string
import unicodedata
from urllib import parse

import jinja2
from starlette import applications, exceptions, requests, responses, routing
from starlette.concurrency import run_in_threadpool

from medgan_tf import errors, json_files
from medgan_tf.reader_study import sessions, storage, study

HERE = pathlib.Path(__file__).parent
# Name below /static/ -> type.
FILES = {
    "style.css": "text/css; charset=utf-8",
    "reading.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
MOST_BODY_BYTES = 64 * 1024
BODY_SECONDS = 30.0
MOST_NAME = 80
# Wrong tokens are told one at a time, so often; more may not wait.
WRONG_TOKEN_SECONDS = 1.0
MOST_WAITING = 10
WORDS = {
    400: "This could not be understood.",
    401: "Please sign in.",
    403: "This did not come from the page that you were shown. Go back to the "
    "start and try again.",
    404: "There is no such page.",
    405: "This page cannot be used in this way.",
    408: "This took too long to arrive. Try again.",
    409: "This trial is answered already. An answer once given stands.",
    413: "This is too large.",
    429: "Too many wrong tokens. Wait a few seconds and try again.",
    507: "The answer could not be stored. Tell whoever runs the study.",
}


class Application:
    """What the server answers; an ASGI application.

      GET   /                 signing in; who is signed in goes to /trial
      POST  /sign-in          form: token, name, proof
      POST  /sign-out         form: proof
      GET   /trial            the reader's next trial, or on to /end
      GET   /images/<image>   of this trial: 256 x 256 uint16, little-endian
      POST  /answers          JSON: trial, judged_real, scores, seconds; header
                              X-Proof; 200, {"done", "trials"}
      GET   /end              thanks
      GET   /static/<file>

    Else 400 what makes no sense, 401 nobody, 403 a wrong token or proof, 404
    also images of other trials, 405, 408 slow, 409 a trial that is not the
    next, 413 more than 64 kB, 429 too many wrong tokens, 507 no space.

    Args:
      shown: the study.
      is_secure: whether browsers come by TLS; cookies are then only sent so.
      wrong_token_seconds: how long the answer to a wrong token takes.
    """

    def __init__(
        self,
        shown: study.Study,
        *,
        is_secure: bool = False,
        wrong_token_seconds: float = WRONG_TOKEN_SECONDS,
    ):
        self._study = shown
        self._is_secure = is_secure
        self._wrong_token_seconds = wrong_token_seconds
        self._waiting = 0
        self._turn = asyncio.Lock()
        self._sessions = sessions.Sessions()
        # Of this study, because cookies do not tell ports apart.
        name = hashlib.sha256(" ".join(sorted(shown.trials)).encode())
        prefix = "__Host-" if is_secure else ""
        self._cookie = f"{prefix}reading-{name.hexdigest()[:12]}"
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            auto_reload=False,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._files = {
            name: (HERE / "static" / name).read_bytes() for name in FILES
        }
        self._app = applications.Starlette(
            routes=[
                routing.Route("/", self._start),
                routing.Route("/sign-in", self._sign_in, methods=["POST"]),
                routing.Route("/sign-out", self._sign_out, methods=["POST"]),
                routing.Route("/trial", self._trial),
                routing.Route("/images/{image}", self._image),
                routing.Route("/answers", self._answer, methods=["POST"]),
                routing.Route("/end", self._end),
                routing.Route("/static/{name}", self._static),
            ],
            exception_handlers={
                exceptions.HTTPException: self._told,
                errors.ResourceError: self._no_space,
            },
        )
        # A path that is nearly ours is not ours.
        self._app.router.redirect_slashes = False

    async def __call__(self, scope, receive, send) -> None:
        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.lower().encode(), value.encode())
                        for name, value in HEADERS.items()
                        if name.lower().encode() not in names
                    ),
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _start(self, request: requests.Request) -> responses.Response:
        if self._reader(request):
            return _to("/trial")
        return self._sign_in_page(request)

    async def _sign_in(self, request: requests.Request) -> responses.Response:
        form = await self._form(request)
        name = unicodedata.normalize("NFC", form.get("name", "")).strip()
        if len(name) > MOST_NAME or not name.isprintable():
            raise exceptions.HTTPException(400)
        path = self._study.answers
        token = form.get("token", "").strip()
        reader = await run_in_threadpool(storage.find_reader, path, token)
        if reader is None:
            await self._wait_for_turn()
            return self._sign_in_page(request, is_wrong=True)
        if name and name != reader.name:
            await run_in_threadpool(storage.rename, path, reader.id, name)
        return self._with_cookie(_to("/trial"), self._sessions.open(reader.id))

    async def _wait_for_turn(self) -> None:
        """Lets one wrong token through at a time."""
        if self._waiting >= MOST_WAITING:
            raise exceptions.HTTPException(429)
        self._waiting += 1
        try:
            async with self._turn:
                await asyncio.sleep(self._wrong_token_seconds)
        finally:
            self._waiting -= 1

    async def _sign_out(self, request: requests.Request) -> responses.Response:
        await self._form(request)
        if reader := self._reader(request):
            self._sessions.close(reader)
        response = _to("/")
        response.delete_cookie(
            self._cookie,
            secure=self._is_secure,
            httponly=True,
            samesite="strict",
        )
        return response

    def _trial(self, request: requests.Request) -> responses.Response:
        reader = self._reader(request)
        if reader is None:
            return _to("/")
        progress = storage.progress(self._study.answers, reader)
        if progress.trial is None:
            return _to("/end")
        images = _in_own_order(reader, self._study.trials[progress.trial])
        return self._page(
            "trial.html",
            progress=progress,
            images=list(zip(string.ascii_uppercase, images, strict=False)),
            proof=self._sessions.proof(self._cookie_of(request)),
        )

    def _image(self, request: requests.Request) -> responses.Response:
        reader = self._reader(request)
        if reader is None:
            raise exceptions.HTTPException(401)
        trial = storage.progress(self._study.answers, reader).trial
        image = request.path_params["image"]
        # Only a name of the reader's own trial is ever looked for.
        if trial is None or image not in self._study.trials[trial]:
            raise exceptions.HTTPException(404)
        return responses.Response(
            self._study.image_path(image).read_bytes(),
            media_type="application/octet-stream",
        )

    async def _answer(self, request: requests.Request) -> responses.Response:
        body = await _body(request)
        reader = self._reader(request)
        if reader is None:
            raise exceptions.HTTPException(401)
        self._check_proof(request, request.headers.get("X-Proof", ""))
        try:
            answer = _parsed(body)
        except ValueError as error:
            raise exceptions.HTTPException(400) from error
        try:
            progress = await run_in_threadpool(
                storage.add_answer, self._study.answers, reader, **answer
            )
        except storage.NotCurrentError as error:
            raise exceptions.HTTPException(409) from error
        except errors.UsageError as error:
            raise exceptions.HTTPException(400) from error
        return responses.JSONResponse(
            {"done": progress.num_done, "trials": progress.num_trials}
        )

    def _end(self, request: requests.Request) -> responses.Response:
        reader = self._reader(request)
        if reader is None:
            return _to("/")
        progress = storage.progress(self._study.answers, reader)
        if progress.trial is not None:
            return _to("/trial")
        return self._page(
            "end.html",
            progress=progress,
            proof=self._sessions.proof(self._cookie_of(request)),
        )

    def _static(self, request: requests.Request) -> responses.Response:
        name = request.path_params["name"]
        if name not in FILES:
            raise exceptions.HTTPException(404)
        return responses.Response(self._files[name], media_type=FILES[name])

    def _told(
        self, request: requests.Request, error: exceptions.HTTPException
    ) -> responses.Response:
        words = WORDS.get(error.status_code, "This did not work.")
        return self._page(
            "error.html", error.status_code, error.headers, words=words
        )

    def _no_space(
        self, request: requests.Request, error: errors.ResourceError
    ) -> responses.Response:
        logging.error("%s", error)
        return self._told(request, exceptions.HTTPException(507))

    def _sign_in_page(
        self, request: requests.Request, is_wrong: bool = False
    ) -> responses.Response:
        cookie = self._cookie_of(request) or self._sessions.new_cookie()
        page = self._page(
            "sign_in.html",
            403 if is_wrong else 200,
            proof=self._sessions.proof(cookie),
            is_wrong=is_wrong,
            most_name=MOST_NAME,
        )
        return self._with_cookie(page, cookie)

    def _page(
        self, template: str, status: int = 200, headers=None, **values
    ) -> responses.Response:
        text = self._templates.get_template(template).render(
            study=self._study, **values
        )
        return responses.HTMLResponse(text, status, headers)

    def _cookie_of(self, request: requests.Request) -> str:
        return request.cookies.get(self._cookie, "")

    def _with_cookie(
        self, response: responses.Response, cookie: str
    ) -> responses.Response:
        response.set_cookie(
            self._cookie,
            cookie,
            secure=self._is_secure,
            httponly=True,
            samesite="strict",
        )
        return response

    def _reader(self, request: requests.Request) -> str | None:
        return self._sessions.reader_of(self._cookie_of(request))

    def _check_proof(self, request: requests.Request, proof: str) -> None:
        cookie = self._cookie_of(request)
        if not cookie or not self._sessions.is_proof(cookie, proof):
            raise exceptions.HTTPException(403)

    async def _form(self, request: requests.Request) -> dict[str, str]:
        """The fields of a form that is one of ours."""
        body = await _body(request)
        try:
            form = dict(
                parse.parse_qsl(
                    body.decode(), keep_blank_values=True, max_num_fields=8
                )
            )
        except ValueError as error:
            raise exceptions.HTTPException(400) from error
        self._check_proof(request, form.get("proof", ""))
        return form


def _in_own_order(reader: str, images: list[str]) -> list[str]:
    """Images of a trial as this reader sees them, each time alike.

    An order for each reader, because readers who like one place would else
    seem to agree on an image.
    """

    def place(image: str) -> bytes:
        return hashlib.sha256(f"{reader} {image}".encode()).digest()

    return sorted(images, key=place)


async def _body(request: requests.Request) -> bytes:
    """The body of a request, within limits of size and time."""
    body = bytearray()

    async def read() -> None:
        async for chunk in request.stream():
            body.extend(chunk)
            if len(body) > MOST_BODY_BYTES:
                # The rest is not read.
                raise exceptions.HTTPException(
                    413, headers={"Connection": "close"}
                )

    try:
        await asyncio.wait_for(read(), BODY_SECONDS)
    except asyncio.TimeoutError as error:
        raise exceptions.HTTPException(
            408, headers={"Connection": "close"}
        ) from error
    except requests.ClientDisconnect as error:
        raise exceptions.HTTPException(400) from error
    return bytes(body)


def _parsed(body: bytes) -> dict:
    """The fields of an answer; ValueError if there are others."""
    told = json_files.loads(body)
    if not isinstance(told, dict) or set(told) != {
        "trial",
        "judged_real",
        "scores",
        "seconds",
    }:
        raise ValueError("not an answer")
    for name, kinds in (
        ("trial", (str,)),
        ("judged_real", (str,)),
        ("scores", (dict,)),
        ("seconds", (int, float)),
    ):
        if type(told[name]) not in kinds:
            raise ValueError(f"{name} is a {type(told[name])}")
    return told


def _to(path: str) -> responses.Response:
    return responses.RedirectResponse(path, 303)
