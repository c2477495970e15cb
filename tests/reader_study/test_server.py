"""A reader sees the own trial, and nothing else is to be had."""

import contextlib
import http.client
import json
import pathlib
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from urllib import parse

import pytest

from medgan_tf import errors
from medgan_tf.reader_study import storage

NO_SERVER = "the extra [study] is not installed"
uvicorn = pytest.importorskip("uvicorn", reason=NO_SERVER)
pytest.importorskip("starlette", reason=NO_SERVER)
pytest.importorskip("jinja2", reason=NO_SERVER)
from medgan_tf.reader_study import (  # noqa: E402
    application,
    server,
    sessions,
    study,
)

ROOT = pathlib.Path(__file__).parents[2]
TRIALS = {f"7{t}": [f"{k}{t}" * 8 for k in "abc"] for t in range(3)}
ROLES = ("anonymous", "A", "B", "ended")
READERS = dict(zip(ROLES[1:], ("reader1", "reader2", "reader3"), strict=True))
SCRIPT = "<script>alert(1)</script>"


def write_study(folder, **changed):
    """Three readers; the first is at the start, the last at the end."""
    (folder / "images").mkdir(parents=True)
    for number, image in enumerate(sum(TRIALS.values(), [])):
        contents = bytes([number, 0]) * 256**2
        (folder / "images" / f"{image}.u16").write_bytes(contents)
    told = {
        "format": 1,
        "title": f"PET to CT {SCRIPT}",
        "task": "pet_ct",
        "unit": "HU",
        "window": [-160.0, 240.0],
        "intensity": {"slope": 0.06, "intercept": -1000.0},
        "words": {"1": "not", "2": "rather not", "3": "rather", "4": "real"},
        "trials": [{"id": t, "images": i} for t, i in TRIALS.items()],
    }
    (folder / "study.json").write_text(json.dumps({**told, **changed}))
    path = folder / "answers.sqlite"
    tokens = storage.create(path, list(TRIALS), TRIALS, 3, 0)
    for reader, times in (("reader2", 1), ("reader3", 3)):
        for _ in range(times):
            trial = storage.progress(path, reader).trial
            images = TRIALS[trial]
            storage.add_answer(
                path, reader, trial, images[0], dict.fromkeys(images, 2), 1.0
            )
    return tokens


class Client:
    """A browser of one person, without its eyes."""

    def __init__(self, port, cookie="", context=None):
        self.port = port
        self.cookie = cookie
        self.context = context

    def ask(self, method, path, body=None, **headers):
        """(status, text, headers); keeps the cookie."""
        kind, more = http.client.HTTPConnection, {}
        if self.context:
            kind = http.client.HTTPSConnection
            more = {"context": self.context}
        connection = kind("127.0.0.1", self.port, timeout=60, **more)
        names = {k.replace("_", "-"): v for k, v in headers.items()}
        if self.cookie:
            names["Cookie"] = self.cookie
        with contextlib.closing(connection):
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            if set_cookie := answer.headers["Set-Cookie"]:
                self.cookie = set_cookie.split(";")[0]
            return answer.status, answer.read(), answer.headers

    def proof(self, page="/"):
        """What the forms of a page send along; "" where there is none."""
        _, body, headers = self.ask("GET", page)
        if headers["Location"]:
            return self.proof(headers["Location"])
        found = re.search(rb'name="proof" value="([0-9a-f]{64})"', body)
        return found[1].decode() if found else ""

    def sign_in(self, token, **fields):
        fields = {"proof": self.proof(), "token": token, **fields}
        return self.ask("POST", "/sign-in", parse.urlencode(fields))

    def answer(self, given, proof=None):
        """Sends an answer; what is no text is sent as JSON."""
        if not isinstance(given, bytes):
            given = json.dumps(given).encode()
        proof = self.proof() if proof is None else proof
        return self.ask("POST", "/answers", given, X_Proof=proof)


class Running:
    """A study in a server of its own."""

    def __init__(self, folder):
        self.tokens = dict(zip(ROLES[1:], write_study(folder), strict=True))
        self.path = folder / "answers.sqlite"
        app = application.Application(
            study.read(folder), wrong_token_seconds=0.01
        )
        config = uvicorn.Config(
            app, port=0, log_level="error", ws="none", lifespan="off"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.005)
        [[listener]] = [s.sockets for s in self.server.servers]
        self.port = listener.getsockname()[1]

    def stop(self):
        self.server.should_exit = True
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()

    def client(self, role="anonymous"):
        one = Client(self.port)
        if role != "anonymous":
            assert one.sign_in(self.tokens[role])[0] == 303
        return one

    def trial(self, role):
        """The next trial of a reader."""
        return storage.progress(self.path, READERS[role]).trial

    def given(self, role):
        """An answer to it."""
        a, b, c = TRIALS[self.trial(role)]
        return {
            "trial": self.trial(role),
            "judged_real": b,
            "scores": {a: 1, b: 4, c: 2},
            "seconds": 2.5,
        }


@pytest.fixture
def running(tmp_path):
    one = Running(tmp_path / "study")
    yield one
    one.stop()


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    """For tests that store nothing."""
    one = Running(tmp_path_factory.mktemp("unchanged") / "study")
    yield one
    assert len(storage.read_answers(one.path)) == 4
    one.stop()


def sent_form(path, **fields):
    def ask(client, running):
        return client.ask("POST", path, parse.urlencode(fields))

    return ask


def signed_in_with(token):
    def ask(client, running):
        return client.sign_in(running.tokens.get(token, token))

    return ask


def asked(path):
    return lambda client, running: client.ask("GET", path)


def image_of(role, number):
    def ask(client, running):
        image = TRIALS[running.trial(role)][number]
        return client.ask("GET", f"/images/{image}")

    return ask


def answered(role, proof=None):
    return lambda client, running: client.answer(running.given(role), proof)


def image_of_a_trial_that_is_answered(client, running):
    [answer] = [
        a
        for a in storage.read_answers(running.path)
        if a.reader == READERS["B"]
    ]
    return client.ask("GET", f"/images/{answer.judged_real}")


# What is asked -> what the roles get: a status, or the page they are sent to.
TABLE = {
    "start": (asked("/"), 200, "/trial", "/trial", "/trial"),
    "trial": (asked("/trial"), "/", 200, 200, "/end"),
    "end": (asked("/end"), "/", "/trial", "/trial", 200),
    "image of A": (image_of("A", 0), 401, 200, 404, 404),
    "last image of A": (image_of("A", 2), 401, 200, 404, 404),
    "image of B": (image_of("B", 1), 401, 404, 200, 404),
    # It is the next of A, whose order begins with the same trial or not.
    "answered image": (image_of_a_trial_that_is_answered, 401, None, 404, 404),
    "no image": (asked("/images/00"), 401, 404, 404, 404),
    "path": (asked("/images/..%2Fstudy.json"), 404, 404, 404, 404),
    "dots": (asked("/images/.."), 401, 404, 404, 404),
    "zero": (asked("/images/a%00"), 401, 404, 404, 404),
    "answer of A": (answered("A"), 401, 200, 409, 409),
    "answer of B": (answered("B"), 401, 409, 200, 409),
    "no proof": (answered("A", ""), 401, 403, 403, 403),
    "other proof": (answered("A", "0" * 64), 401, 403, 403, 403),
    "proof that is no ASCII": (answered("A", "\xe9"), 401, 403, 403, 403),
    "own token": (signed_in_with("A"), "/trial", "/trial", "/trial", "/trial"),
    "wrong token": (signed_in_with("x"), 403, 403, 403, 403),
    "sign in, no proof": (sent_form("/sign-in", token="x"), 403, 403, 403, 403),
    "sign out": (
        lambda client, _: sent_form("/sign-out", proof=client.proof())(
            client, _
        ),
        "/",
        "/",
        "/",
        "/",
    ),
    "sign out, no proof": (sent_form("/sign-out"), 403, 403, 403, 403),
    **{
        f"static {name}": (asked(f"/static/{name}"), 200, 200, 200, 200)
        for name in application.FILES
    },
    **{
        path: (asked(path), 404, 404, 404, 404)
        for path in (
            "/static/none",
            "/static/..%2Fserver.py",
            "/static/%2E%2E/server.py",
            "//etc/passwd",
            "/study.json",
            "/answers.sqlite",
            "/study_key.json",
            "/images",
            "/images/",
            "/trial/",
            "/trial/70",
            "/docs",
            "/favicon.ico",
        )
    },
    **{
        f"{method} {path}": (
            lambda client, _, method=method, path=path: client.ask(
                method, path
            ),
            405,
            405,
            405,
            405,
        )
        for path, methods in {
            "/": "POST PUT DELETE PATCH OPTIONS TRACE",
            "/trial": "POST PUT DELETE",
            "/end": "POST PUT DELETE",
            "/images/aa": "POST PUT DELETE",
            "/static/style.css": "POST PUT DELETE",
            "/answers": "GET PUT DELETE PATCH",
            "/sign-in": "GET PUT DELETE",
            "/sign-out": "GET PUT DELETE",
        }.items()
        for method in methods.split()
    },
}


@pytest.mark.parametrize("asks", TABLE)
def test_every_role_on_every_route(request, asks):
    is_changing = asks.startswith("answer of")
    running = request.getfixturevalue("running" if is_changing else "unchanged")
    ask, *expected = TABLE[asks]
    # The last first, because who answers or signs in changes something.
    for role, result in reversed(list(zip(ROLES, expected, strict=True))):
        client = running.client(role)
        mine = TRIALS.get(role in READERS and running.trial(role), [])
        before = storage.read_answers(running.path)
        status, body, headers = ask(client, running)
        if isinstance(result, str):
            assert (status, headers["Location"]) == (303, result), role
        elif result is not None:
            assert status == result, role
        others = set(sum(TRIALS.values(), [])) - set(mine)
        assert not [i for i in others if i.encode() in body], role
        for name, value in application.HEADERS.items():
            assert headers.get_all(name) == [value], (role, name)
        assert SCRIPT.encode() not in body
        is_stored = len(storage.read_answers(running.path)) > len(before)
        assert is_stored == (asks == f"answer of {role}")


def test_each_reader_has_an_own_order_of_the_images_of_a_trial(running):
    def seen(role):
        client = running.client(role)
        _, page, _ = client.ask("GET", "/trial")
        return re.findall(rb'<figure[^>]*data-image="(\w+)"', page)

    assert len(seen("A")) == 3 and seen("A") == seen("A")
    rng = random.Random(0)
    trials = [
        [f"{rng.getrandbits(64):016x}" for _ in "abc"] for _ in range(600)
    ]
    orders = [
        [application._in_own_order(reader, images) for images in trials]
        for reader in ("reader1", "reader2")
    ]
    for images, *both in zip(trials, *orders, strict=True):
        assert sorted(images) == sorted(both[0]) == sorted(both[1])
    # Each of six orders as often as another, whatever the other reader's is:
    # 100 of 600, within four standard errors.
    alike = sum(one == other for one, other in zip(*orders, strict=True))
    assert 63 < alike < 137
    first = sum(o[0] == t[0] for o, t in zip(orders[0], trials, strict=True))
    assert 154 < first < 246


def test_an_image_is_the_file_as_it_is(unchanged):
    client = unchanged.client("A")
    image = TRIALS[unchanged.trial("A")][1]
    _, body, headers = client.ask("GET", f"/images/{image}")
    number = sum(TRIALS.values(), []).index(image)
    assert body == bytes([number, 0]) * 256**2
    assert headers["Content-Type"] == "application/octet-stream"
    # Nothing dates it.
    assert headers["Last-Modified"] is headers["ETag"] is None


def test_a_session_is_a_cookie_that_no_script_reads(running):
    client = Client(running.port)
    before = client.proof() and client.cookie
    _, _, headers = client.sign_in(running.tokens["A"])
    cookie = headers["Set-Cookie"]
    assert re.search("; HttpOnly", cookie)
    assert re.search("; SameSite=strict", cookie)
    assert "Secure" not in cookie
    # A cookie that somebody planted is not signed in with.
    assert client.cookie != before
    assert Client(running.port, before).ask("GET", "/trial")[0] == 303


def test_a_reader_has_one_session_and_signing_out_ends_it(running):
    first, second = running.client("A"), running.client("A")
    assert first.ask("GET", "/trial")[0] == 303
    assert second.ask("GET", "/trial")[0] == 200
    cookie = second.cookie
    sent_form("/sign-out", proof=second.proof())(second, running)
    assert Client(running.port, cookie).ask("GET", "/trial")[0] == 303
    # And the reader goes on later.
    assert running.client("A").ask("GET", "/trial")[0] == 200


def test_a_session_ends_when_it_is_not_used():
    idle = sessions.IDLE_SECONDS
    times = iter([0.0, 0.0, idle, 2 * idle, 3 * idle + 1, 3 * idle + 1])
    one = sessions.Sessions(lambda: next(times))
    cookie = one.open("reader1")
    for _ in range(3):
        assert one.reader_of(cookie) == "reader1"
    assert one.reader_of(cookie) is None
    assert one.reader_of("\ud800") is None


def test_the_proof_of_another_reader_is_none(running):
    a, b = running.client("A"), running.client("B")
    assert a.answer(running.given("A"), b.proof())[0] == 403
    assert a.answer(running.given("A"))[0] == 200


def test_an_answer_sent_again_is_a_conflict(running):
    client, given = running.client("A"), running.given("A")
    status, body, _ = client.answer(given)
    assert (status, json.loads(body)) == (200, {"done": 1, "trials": 3})
    for changed in ({}, {"judged_real": given["trial"]}):
        assert client.answer({**given, **changed})[0] == 409
    [stored] = [
        a for a in storage.read_answers(running.path) if a.reader == "reader1"
    ]
    assert stored.scores == given["scores"]
    assert stored.judged_real == given["judged_real"]
    assert stored.seconds == 2.5


def test_no_trial_is_skipped(running):
    client, given = running.client("A"), running.given("A")
    for trial in set(TRIALS) - {given["trial"]}:
        images = TRIALS[trial]
        ahead = {
            "trial": trial,
            "judged_real": images[0],
            "scores": dict.fromkeys(images, 1),
            "seconds": 1,
        }
        assert client.answer(ahead)[0] == 409


NAUGHTY = [
    "",
    "\x00",
    "' OR '1'='1",
    "'; DROP TABLE answers; --",
    SCRIPT,
    "{{ 7 * 7 }}",
    "../../etc/passwd",
    "%s%n%x",
    "\u202eevil",
    "\ufeff",
    "a\r\nSet-Cookie: x=y",
    "A\u0301" * 500,
    "\U0001f4a9" * 30,
    "NaN",
    "a" * 5000,
]


@pytest.mark.parametrize("text", NAUGHTY)
def test_naughty_strings_are_harmless(running, text):
    client = running.client()
    status, body, headers = client.sign_in(text)
    assert status == 403
    assert headers["x"] is None
    client = Client(running.port)
    status, body, _ = client.sign_in(running.tokens["A"], name=text)
    is_name = text.strip().isprintable() and len(text.strip()) <= 80
    assert status == (303 if is_name else 400)
    client = running.client("A")
    assert SCRIPT.encode() not in client.ask("GET", "/trial")[1]
    given = running.given("A")
    for name in given:
        status, body, _ = client.answer({**given, name: text})
        assert status == (409 if name == "trial" else 400), name
    status, _, _ = client.answer({**given, "scores": {text: 1}})
    assert status == 400
    image = parse.quote(text, safe="")
    assert client.ask("GET", f"/images/{image}")[0] == 404
    odd = Client(running.port, "reading=" + parse.quote(text))
    assert odd.ask("GET", "/trial")[0] == 303
    assert len(storage.read_answers(running.path)) == 4
    assert client.answer(given)[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b"null",
        b"[]",
        b"1e999",
        b"{}",
        b'{"trial": 1}',
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"9" * 60_000,
        b'"\\ud800"',
    ],
)
def test_what_is_no_answer_is_refused(unchanged, body):
    assert unchanged.client("A").answer(body)[0] == 400


@pytest.mark.parametrize(
    "changed",
    [
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"seconds": -1},
        {"seconds": 1e9},
        {"seconds": 10**400},
        {"seconds": True},
        {"seconds": None},
        {"judged_real": "\ud800"},
        {"judged_real": None},
        {"scores": []},
        {"scores": {"\ud800": 1}},
        {"score": 1},
        {"reader": "reader2"},
    ],
)
def test_an_answer_with_a_wrong_field_is_refused(unchanged, changed):
    given = {**unchanged.given("A"), **changed}
    assert unchanged.client("A").answer(given)[0] == 400


@pytest.mark.parametrize("score", [0, 5, 2.0, "2", True, None, [], 10**400])
def test_a_score_is_one_to_four(unchanged, score):
    given = unchanged.given("A")
    given["scores"][given["judged_real"]] = score
    assert unchanged.client("A").answer(given)[0] == 400


@pytest.mark.parametrize("path", ["/answers", "/sign-in", "/sign-out"])
def test_a_body_is_limited(unchanged, path):
    most = application.MOST_BODY_BYTES
    for client in (unchanged.client(), unchanged.client("A")):
        assert client.ask("POST", path, bytes(most + 1))[0] == 413
        assert client.ask("POST", path, bytes(most))[0] in (400, 401, 403)
        # Without a length, in pieces.
        pieces = iter([bytes(most), bytes(2)])
        assert client.ask("POST", path, pieces)[0] == 413


def test_a_slow_body_is_given_up(running, monkeypatch):
    monkeypatch.setattr(application, "BODY_SECONDS", 0.05)
    head = b"POST /answers HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.sendall(head)
        assert client.recv(100).startswith(b"HTTP/1.1 408")


def test_a_form_with_too_many_fields_is_refused(unchanged):
    body = "&".join(f"a{n}=1" for n in range(1000))
    assert unchanged.client().ask("POST", "/sign-in", body)[0] == 400


def test_wrong_tokens_are_told_slowly_and_right_ones_at_once(tmp_path):
    folder = tmp_path / "study"
    running = Running(folder)
    running.server.config.app._wrong_token_seconds = 0.04
    try:
        before = time.monotonic()
        statuses = []

        def guess():
            statuses.append(running.client().sign_in("guess")[0])

        threads = [threading.Thread(target=guess) for _ in range(14)]
        for thread in threads:
            thread.start()
        # Because of the guesses nobody waits who knows the token.
        assert running.client("A").ask("GET", "/trial")[0] == 200
        for thread in threads:
            thread.join()
        assert time.monotonic() - before > 0.35
        assert set(statuses) == {403, 429}
        assert statuses.count(403) >= application.MOST_WAITING
    finally:
        running.stop()


def test_a_name_is_kept_for_whoever_runs_the_study(running):
    client = Client(running.port)
    assert client.sign_in(running.tokens["A"], name=" J. Müller ")[0] == 303
    found = storage.find_reader(running.path, running.tokens["A"])
    assert found == storage.Reader("reader1", "J. Müller")
    # Who signs in again without one keeps it.
    running.client("A")
    assert storage.find_reader(running.path, running.tokens["A"]) == found


def test_a_disk_that_is_full_is_told(running, monkeypatch, caplog):
    def full(*_):
        raise errors.ResourceError("/secret/answers.sqlite: disk is full")

    client = running.client("A")
    given, proof = running.given("A"), client.proof()
    with monkeypatch.context() as patched:
        patched.setattr(storage, "add_answer", lambda *_, **given: full())
        status, body, _ = client.answer(given, proof)
    assert status == 507
    assert b"secret" not in body
    assert "disk is full" in caplog.text
    assert client.answer(given, proof)[0] == 200


# The command -----------------------------------------------------------------

START = """
import sys
from medgan_tf import errors
from medgan_tf.reader_study import server
try:
    server.serve(
        sys.argv[1], port=0, started=lambda at: print(at, flush=True),
        **eval(sys.argv[2])
    )
except errors.MedganError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@contextlib.contextmanager
def started(folder, **options):
    with subprocess.Popen(
        [sys.executable, "-c", START, str(folder), repr(options)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        try:
            address = process.stdout.readline().strip()
            yield process, address, int(parse.urlsplit(address).port)
        finally:
            process.kill()


@pytest.mark.slow
def test_an_answer_that_was_acknowledged_survives_a_kill(tmp_path):
    folder = tmp_path / "study with ümlaut"
    token = write_study(folder)[0]
    path = folder / "answers.sqlite"
    for number in range(3):
        with started(folder) as (process, _, port):
            client = Client(port)
            assert client.sign_in(token)[0] == 303
            trial = storage.progress(path, "reader1").trial
            given = {
                "trial": trial,
                "judged_real": TRIALS[trial][number],
                "scores": dict.fromkeys(TRIALS[trial], number + 1),
                "seconds": number,
            }
            assert client.answer(given)[0] == 200
            process.send_signal(signal.SIGKILL)
            process.wait()
        stored = [
            a for a in storage.read_answers(path) if a.reader == "reader1"
        ]
        assert len(stored) == number + 1
        last = stored[-1]
        assert (last.trial, last.judged_real, last.scores, last.seconds) == (
            tuple(given.values())
        )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_it_listens_here_only(tmp_path, number):
    write_study(tmp_path / "study")
    with started(tmp_path / "study") as (process, address, port):
        assert address == f"http://127.0.0.1:{port}/"
        assert Client(port).ask("GET", "/")[0] == 200
        # Another address of this machine.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port))
        idle = socket.create_connection(("127.0.0.1", port))
        process.send_signal(number)
        assert process.wait(timeout=15) == 128 + number
        idle.close()
        assert process.stdout.read().startswith(f"stopped by {number.name}")


@pytest.mark.slow
def test_with_a_certificate_all_is_encrypted(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    token = write_study(tmp_path / "study")[0]
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {cert} "
        "-days 2 -subj /CN=localhost -addext "
        "subjectAltName=IP:127.0.0.1".split(),
        check=True,
        capture_output=True,
    )
    options = {
        "host": "0.0.0.0",
        "certfile": str(cert),
        "keyfile": str(key),
    }
    with started(tmp_path / "study", **options) as (_, address, port):
        assert address.startswith("https://")
        client = Client(port, context=ssl.create_default_context(cafile=cert))
        _, _, headers = client.sign_in(token)
        assert re.match("__Host-.*; Secure", headers["Set-Cookie"])
        assert client.ask("GET", "/trial")[0] == 200
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            Client(port).ask("GET", "/")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "my.host"])
def test_tokens_cross_no_network_in_the_clear(tmp_path, host):
    write_study(tmp_path / "study")
    with pytest.raises(errors.UsageError, match="--certfile"):
        server.serve(tmp_path / "study", host)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"keyfile": "k.pem"}, errors.UsageError, "needs --certfile"),
        ({"certfile": "none.pem"}, errors.DataError, "No such file"),
        ({"certfile": __file__}, errors.DataError, "certificate and its key"),
    ],
)
def test_a_certificate_that_is_none_is_told(tmp_path, options, error, words):
    write_study(tmp_path / "study")
    with pytest.raises(error, match=words) as caught:
        server.serve(tmp_path / "study", port=0, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"format": 2}, "format 2"),
        ({"title": None}, "a text that is none"),
        ({"window": [1, 1]}, "numbers that show nothing"),
        ({"window": [0, float("nan")]}, "numbers that show nothing"),
        ({"window": [0]}, "not enough values"),
        ({"intensity": {"slope": 0, "intercept": 0}}, "show nothing"),
        ({"words": {}}, "KeyError: '1'"),
        ({"trials": []}, "no trials"),
        ({"trials": [{"id": "1", "images": ["a"]}]}, "without 2 to 7"),
        ({"trials": [{"id": "1", "images": ["a", "a"]}]}, "in two places"),
        (
            {"trials": [{"id": "1", "images": ["a", "../key"]}]},
            "not hexadecimal",
        ),
        (
            {"trials": [{"id": "1", "images": ["a", "b"]}]},
            "trials of another study",
        ),
    ],
)
def test_a_damaged_study_is_not_served(tmp_path, changed, words):
    write_study(tmp_path / "study", **changed)
    with pytest.raises(errors.DataError, match=words) as caught:
        server.serve(tmp_path / "study")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "gone", "no JSON", "no folder"])
def test_a_study_with_a_damaged_file_is_not_served(tmp_path, damage):
    folder = tmp_path / "study"
    write_study(folder)
    image = sorted((folder / "images").iterdir())[0]
    if damage == "cut":
        image.write_bytes(bytes(100))
    elif damage == "gone":
        image.unlink()
    elif damage == "no JSON":
        (folder / "study.json").write_bytes(b"[" * 100_000)
    else:
        folder = tmp_path / "none"
    with pytest.raises(errors.DataError) as caught:
        server.serve(folder)
    assert "\n" not in str(caught.value)


def test_the_key_beside_the_study_is_not_opened(tmp_path):
    write_study(tmp_path / "study")
    # A folder in its place cannot be opened as a file.
    (tmp_path / "study_key.json").mkdir()
    assert study.read(tmp_path / "study").trials == TRIALS
    for name in ("study", "server", "application", "sessions", "storage"):
        text = (ROOT / "medgan_tf/reader_study" / f"{name}.py").read_text()
        assert "_key.json" not in text
        assert "_tokens" not in text
