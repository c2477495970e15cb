"""serve.py as a user starts it: who can ask, how it ends, what it survives."""

import contextlib
import http.client
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import tensorflow as tf

from medgan_tf import sealed, tasks
from medgan_tf.models import casnet
from medgan_tf.serving import saved_model

TOOLS = pathlib.Path(__file__).parents[2] / "tools"
SERVE = [sys.executable, str(TOOLS / "serve.py")]
BODY = json.dumps({"instances": [[[[0.0]] * 256] * 256]}).encode()
PATH = "/v1/models/a%20model%20%C3%A4/versions/3:predict"


def serve(*arguments):
    return subprocess.run(
        [*SERVE, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model in a folder with a blank and an umlaut."""
    tf.keras.utils.set_random_seed(1)
    task = tasks.TASKS["pet_ct"]
    # As large as needs a moment for a slice.
    generator = casnet.CasNet(1, 1, ngf=16)
    generator(tf.zeros([1, 256, 256, 1]))
    folder = tmp_path_factory.mktemp("models") / "a model ä"
    version = folder / "3"
    version.mkdir(parents=True)
    info = {
        **saved_model.write(generator, task, 1, version, folder.name),
        "task_row": tasks.as_stored(task),
        "title": task.title,
        "intended_use": "Research only.",
    }
    path = version / "assets.extra" / "medgan.json"
    sealed.write(path, info)
    return folder


@contextlib.contextmanager
def running(folder, *arguments):
    """The process, and the ports of REST and gRPC."""
    pytest.importorskip("kserve", reason="medgan_tf[serve] is not installed")
    with subprocess.Popen(
        [*SERVE, f"--model={folder}", "--port=0", "--grpc_port=0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            for line in process.stdout:
                if line.startswith("Serving at"):
                    break
            else:
                pytest.fail(process.stderr.read())
            yield process, *map(int, re.findall(r":(\d+)", line))
        finally:
            process.kill()


def post(port, body, path=PATH):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def stop(process):
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    return process.returncode, process.stderr.read()


@pytest.mark.slow
def test_a_request_under_way_is_answered_before_the_end(folder):
    with running(folder) as (process, port, _):
        answers = []
        many = json.dumps(
            {"instances": json.loads(BODY)["instances"] * 8}
        ).encode()
        asking = threading.Thread(
            target=lambda: answers.append(post(port, many))
        )
        asking.start()
        under_way = "medgan_requests_under_way 1.0"
        ends = time.monotonic() + 30
        while under_way not in metrics(port):
            assert time.monotonic() < ends and asking.is_alive()
        code, told = stop(process)
        asking.join()
    ((status, answer),) = answers
    assert status == 200
    assert len(answer["predictions"]) == 8
    assert code == 143
    assert told == (
        "serve.py: stopped by SIGTERM, what was under way is answered.\n"
    )


def metrics(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()


def resident_mb(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) / 1024


@pytest.mark.slow
def test_it_listens_to_this_machine_alone(folder):
    with running(folder) as (process, port, grpc_port):
        inodes = {
            match.group(1)
            for link in pathlib.Path(f"/proc/{process.pid}/fd").iterdir()
            if (match := re.match(r"socket:\[(\d+)\]", _target(link)))
        }
        listening = set()
        for table in ("tcp", "tcp6"):
            path = pathlib.Path(f"/proc/{process.pid}/net/{table}")
            for line in path.read_text().splitlines()[1:]:
                fields = line.split()
                # 0A: listens.
                if fields[3] == "0A" and fields[9] in inodes:
                    listening.add(fields[1])
        # 127.0.0.1, lowest byte first, alone or within an IPv6 address.
        assert {address[-13:] for address in listening} == {
            f"0100007F:{number:04X}" for number in (port, grpc_port)
        }
        taken = serve(f"--model={folder}", f"--port={port}", "--grpc_port=0")
        assert taken.returncode == 6
        assert f"cannot listen at 127.0.0.1:{port}" in taken.stderr
        assert len(taken.stderr.splitlines()) == 1
        taken = serve(
            f"--model={folder}", "--port=0", f"--grpc_port={grpc_port}"
        )
        assert taken.returncode == 6
        assert f"127.0.0.1:{grpc_port}" in taken.stderr
        assert len(taken.stderr.splitlines()) == 1


def _target(link):
    try:
        return str(link.readlink())
    except OSError:
        return ""


@pytest.mark.slow
def test_large_broken_and_slow_requests_cost_others_nothing(folder):
    with running(folder, "--max_body_mb=8") as (process, port, _):
        assert post(port, BODY)[0] == 200
        before = resident_mb(process)
        # Sends its head and half a body, and waits.
        slow = socket.create_connection(("127.0.0.1", port))
        slow.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\n"
            f"Content-Length: {len(BODY)}\r\n\r\n".encode()
        )
        slow.sendall(BODY[: len(BODY) // 2])
        for _ in range(3):
            # 40 MB; the server may hang up before all is sent.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                status, answer = post(port, bytes(40_000_000))
                assert status == 413
                assert "8 MB" in answer["error"]
            for body in (b"", b"\x00\xff" * 500, BODY[:-5], b"[" * 5000):
                assert post(port, body)[0] == 400
            # Read, and refused by the model.
            assert post(port, b'{"instances": [' + b"0," * 3_000_000)[0] == 400
        start = time.monotonic()
        assert post(port, BODY)[0] == 200
        assert time.monotonic() - start < 10
        slow.sendall(BODY[len(BODY) // 2 :])
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
        slow.close()
        # Freed memory goes back after some seconds without a request.
        ends = time.monotonic() + 30
        while resident_mb(process) > before + 60:
            assert time.monotonic() < ends, (before, resident_mb(process))
            time.sleep(0.5)
        code, told = stop(process)
    assert code == 143
    # No traceback, and no word of TensorFlow's.
    assert len(told.splitlines()) == 1, told


@pytest.mark.slow
def test_a_model_that_is_not_there_is_told_in_a_line(tmp_path):
    pytest.importorskip("kserve", reason="medgan_tf[serve] is not installed")
    done = serve(f"--model={tmp_path}/no model")
    assert done.returncode == 5
    assert "no exported model" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--model is required"),
        (["--model=x", "--port=x"], "expected a whole number"),
        (["--model=x", "--port=70000"], "--port"),
        (["--model=x", "--max_body_mb=0"], "--max_body_mb"),
        (["--model=x", "y"], "expected flags only"),
    ],
)
def test_wrong_flags_are_told_in_a_line(arguments, words):
    done = serve(*arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_without_kserve_it_says_what_to_install(tmp_path):
    # A module of this name that cannot be imported comes first.
    (tmp_path / "kserve.py").write_text("raise ImportError('not here')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r});"
        "from medgan_tf.tools import serve;"
        "sys.argv = ['serve.py', '--model=x']; serve.run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'medgan_tf[serve]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
