"""Whichever protocol asks, the numbers are the model's, and errors are 4xx."""

import asyncio
import base64
import contextlib
import json
import struct
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("kserve", reason="medgan_tf[serve] is not installed")

import httpx  # noqa: E402
import kserve  # noqa: E402
import uvicorn  # noqa: E402
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages  # noqa: E402

from medgan_tf import tasks  # noqa: E402
from medgan_tf.models import casnet  # noqa: E402
from medgan_tf.serving import predict, saved_model  # noqa: E402
from medgan_tf.serving.server import (  # noqa: E402
    app,
    grpc_service,
    rest,
    served,
    statuses,
)
from medgan_tf.serving.server import desk as desks  # noqa: E402

# All wait for a SavedModel.
pytestmark = pytest.mark.slow

MAX_BODY = 6_000_000
V1 = "/v1/models/ct:predict"
V2 = "/v2/models/ct/infer"
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """SUV to HU, with random weights."""
    tf.keras.utils.set_random_seed(1)
    task = tasks.TASKS["pet_ct"]
    generator = casnet.CasNet(1, 1, ngf=1)
    generator(tf.zeros([1, 256, 256, 1]))
    last = generator.blocks[0].last
    last.kernel.assign(20 * last.kernel)
    folder = tmp_path_factory.mktemp("model")
    facts = saved_model.write(generator, task, 1, folder, "ct")
    loaded = tf.saved_model.load(str(folder))
    return predict.Model(
        loaded, loaded.signatures["serving_default"], task, facts
    )


@pytest.fixture(scope="module")
def desk(model):
    return desks.Desk(served.Served(model), "ct", "7")


@contextlib.contextmanager
def running(desk):
    """A client of the REST side, which listens in a thread."""
    app = rest.application(desk, max_body_bytes=MAX_BODY)
    config = uvicorn.Config(app, port=0, log_level="critical")
    listening = uvicorn.Server(config)
    thread = threading.Thread(target=listening.run)
    thread.start()
    ends = time.monotonic() + 30
    while not listening.started:
        assert time.monotonic() < ends
        time.sleep(0.01)
    port = listening.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}", timeout=60
    ) as client:
        yield client
    listening.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def client(desk):
    with running(desk) as client:
        yield client


@pytest.fixture(scope="module")
def slices():
    """Two slices of PET in SUV."""
    rng = np.random.default_rng(0)
    return rng.uniform(0, 20, [2, 256, 256, 1]).astype(np.float32)


@pytest.fixture(scope="module")
def expected(model, slices):
    found = model.translate(source=tf.constant(slices))["translated"].numpy()
    assert np.ptp(found) > 100
    return found


@pytest.fixture(scope="module")
def png():
    values = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256, 1)
    return tf.io.encode_png(values).numpy()


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


def test_rows_come_back_in_order(client, slices, expected):
    answer = client.post(V1, json={"instances": slices.tolist()})
    assert answer.status_code == 200, answer.text
    # A float32 survives JSON unchanged.
    np.testing.assert_array_equal(
        np.float32(answer.json()["predictions"]), expected
    )


def test_named_rows_columns_and_a_version_are_the_same(
    client, slices, expected
):
    named = [{"source": each.tolist()} for each in slices]
    for path, body, key in (
        (V1, {"instances": named}, "predictions"),
        (V1, {"inputs": {"source": slices.tolist()}}, "outputs"),
        ("/v1/models/ct/versions/7:predict", {"instances": named}, None),
    ):
        answer = client.post(path, json=body).json()
        np.testing.assert_array_equal(
            np.float32(answer[key or "predictions"]), expected
        )


def test_png_files_go_in_and_out_as_base64(client, model, png):
    row = {"png_bytes": b64(png), "slope": 3e-4, "offset": 0.0}
    answer = client.post(
        V1, json={"signature_name": "serve_png_bytes", "instances": [row, row]}
    )
    assert answer.status_code == 200, answer.text
    _, first = answer.json()["predictions"]
    assert first["translated_slope"] == pytest.approx(3000 / 65535)
    content = base64.b64decode(first["translated_bytes"]["b64"])
    values = tf.io.decode_png(content, 1, tf.uint16).numpy().astype(float)
    found = first["translated_slope"] * values + first["translated_offset"]
    source = np.float32(3e-4) * np.arange(65536, dtype=np.float32)
    # Two slices here too: two at a time are rounded otherwise than one.
    both = tf.tile(tf.reshape(source, [1, 256, 256, 1]), [2, 1, 1, 1])
    wanted = model.translate(source=both)["translated"][1]
    # Half a step of 16 bits, and rounding.
    assert np.abs(found - wanted).max() < 0.03


def test_more_slices_than_fit_at_a_time_come_back_whole(client, desk, png):
    length = served.BATCH + 1
    answer = client.post(
        V1,
        json={
            "signature_name": "serve_png_bytes",
            "inputs": {
                "png_bytes": [b64(png)] * length,
                "slope": [1e-4 * (1 + n) for n in range(length)],
                "offset": [0.0] * length,
            },
        },
    ).json()["outputs"]
    assert len({each["b64"] for each in answer["translated_bytes"]}) == length


def as_kserve(slices, **parameters):
    source = kserve.InferInput("source", list(slices.shape), "FP32")
    source.set_data_from_numpy(slices, binary_data=bool(parameters))
    return kserve.InferRequest("ct", [source], "an id", parameters=parameters)


def test_requests_that_kserve_writes_are_answered_as_kserve_reads_them(
    client, slices, expected
):
    body, _ = as_kserve(slices).to_rest()
    answer = client.post(V2, json=body)
    assert answer.status_code == 200, answer.text
    found = kserve.InferResponse.from_rest(answer.json())
    assert (found.id, found.model_name) == ("an id", "ct")
    np.testing.assert_array_equal(found.outputs[0].as_numpy(), expected)

    body, length = as_kserve(slices, binary_data_output=True).to_rest()
    headers = {LENGTH: str(length), "Content-Type": "application/octet-stream"}
    answer = client.post(V2, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    found = kserve.InferResponse.from_bytes(
        answer.content, int(answer.headers[LENGTH])
    )
    np.testing.assert_array_equal(found.outputs[0].as_numpy(), expected)


def raw_png_request(png, **changes):
    """As the Binary Tensor Data Extension defines it."""
    text = struct.pack("<I", len(png)) + png
    numbers = struct.pack("<f", 3e-4), struct.pack("<f", 0)
    parts = [text, *numbers]
    head = {
        "parameters": {
            "signature_name": "serve_png_bytes",
            "binary_data_output": True,
        },
        "inputs": [
            {
                "name": name,
                "shape": [1],
                "datatype": kind,
                "parameters": {"binary_data_size": len(part)},
            }
            for name, kind, part in zip(
                ("png_bytes", "slope", "offset"),
                ("BYTES", "FP32", "FP32"),
                parts,
                strict=True,
            )
        ],
        **changes,
    }
    head = json.dumps(head).encode()
    return head + b"".join(parts), {LENGTH: str(len(head))}


def test_png_files_go_in_and_out_as_they_are(client, png):
    body, headers = raw_png_request(png, outputs=[{"name": "translated_bytes"}])
    answer = client.post(V2, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    length = int(answer.headers[LENGTH])
    (output,) = json.loads(answer.content[:length])["outputs"]
    assert output["datatype"] == "BYTES"
    raw = answer.content[length:]
    assert output["parameters"]["binary_data_size"] == len(raw)
    assert struct.unpack("<I", raw[:4]) == (len(raw) - 4,)
    row = {"png_bytes": b64(png), "slope": 3e-4, "offset": 0.0}
    (by_v1,) = client.post(
        V1, json={"signature_name": "serve_png_bytes", "instances": [row]}
    ).json()["predictions"]
    assert base64.b64decode(by_v1["translated_bytes"]["b64"]) == raw[4:]


@pytest.fixture(scope="module")
def call(desk):
    """Calls the gRPC side by KServe's client: method, request -> answer."""

    async def served_once(ask):
        calls, port = grpc_service.server(
            desk, "127.0.0.1", 0, max_body_bytes=MAX_BODY
        )
        await calls.start()
        client = kserve.InferenceGRPCClient(f"127.0.0.1:{port}")
        try:
            return await ask(client)
        finally:
            await client.close()
            await calls.stop(None)

    return lambda ask: asyncio.run(served_once(ask))


def test_grpc_gives_the_same_numbers(call, slices, expected):
    async def ask(client):
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("ct")
        return await client.infer(as_kserve(slices, x=True))

    found = call(ask)
    np.testing.assert_array_equal(found.outputs[0].as_numpy(), expected)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"model_name": "pet"}, "NOT_FOUND", "expected ct, version 7"),
        ({"model_version": "8"}, "NOT_FOUND", "expected ct, version 7"),
        ({"inputs": []}, "INVALID_ARGUMENT", "raw_input_contents: found 1"),
        ({"raw_input_contents": [b"abc"]}, "INVALID_ARGUMENT", "3 bytes"),
        (
            {"raw_input_contents": [np.full(65536, np.nan, "<f4").tobytes()]},
            "INVALID_ARGUMENT",
            "not finite",
        ),
        (
            {
                "parameters": {
                    "signature_name": messages.InferParameter(string_param="x")
                }
            },
            "INVALID_ARGUMENT",
            "found 'x', expected one of serving_default",
        ),
    ],
)
def test_grpc_tells_the_callers_errors(call, change, code, words):
    tensor = messages.ModelInferRequest.InferInputTensor(
        name="source", datatype="FP32", shape=[1, 256, 256, 1]
    )
    request = messages.ModelInferRequest(
        **{
            "model_name": "ct",
            "inputs": [tensor],
            "raw_input_contents": [bytes(4 * 65536)],
            **change,
        }
    )

    async def ask(client):
        import grpc

        try:
            await client._client_stub.ModelInfer(request)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details()

    found, details = call(ask)
    assert found == code
    assert words in details
    assert "Traceback" not in details


def instances(rows, **more):
    return json.dumps({"instances": rows, **more}).encode()


FLAT = [[[0.0]] * 256] * 256
PNG_ROW = {"slope": 1.0, "offset": 0.0}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (V1, b"", 400, "no JSON"),
        (V1, b"{", 400, "no JSON"),
        (V1, b"\x00\xff garbage", 400, "no JSON"),
        (V1, b"[" * 5000 + b"]" * 5000, 400, "no JSON"),
        (V1, b'{"instances": [' + b"[" * 500 + b"]" * 500 + b"]}", 400, ""),
        (V1, b"[]", 400, "no JSON object"),
        (V1, b"{}", 400, "found neither, expected instances or inputs"),
        (V1, b'{"instances": [], "inputs": []}', 400, "instances and inputs"),
        (V1, b'{"instances": 3}', 400, "instances"),
        (V1, b'{"instances": []}', 400, "instances"),
        (V1, b'{"instances": [NaN]}', 400, "no JSON"),
        (V1, instances(["a"]), 400, "no number"),
        (V1, instances([None]), 400, "no number"),
        (V1, instances([[[["0"]]]]), 400, "no number"),
        (V1, instances([{"x": 1}]), 400, "found x, expected source"),
        (V1, instances([{"source": FLAT}, FLAT]), 400, "differ"),
        (V1, instances([[[1.0], [2.0, 3.0]]]), 400, "rows that differ"),
        (V1, instances([FLAT[:128]]), 400, "[1, 128, 256, 1]"),
        (V1, instances([[[[1e39]] * 256] * 256]), 400, "not finite"),
        (V1, instances([b64(b"x")]), 400, "found bytes, expected float32"),
        (V1, instances([FLAT], signature_name="x"), 400, "serve_examples"),
        (V1, instances([FLAT], signature_name=[]), 400, "serve_examples"),
        (
            V1,
            instances(
                [{"png_bytes": b64(b"no PNG"), **PNG_ROW}],
                signature_name="serve_png_bytes",
            ),
            400,
            "must be PNG files of 256 x 256 pixels",
        ),
        (
            V1,
            instances(
                [{"png_bytes": {"b64": "%"}, **PNG_ROW}],
                signature_name="serve_png_bytes",
            ),
            400,
            "not base64",
        ),
        (
            V1,
            instances([b64(b"garbage")], signature_name="serve_examples"),
            400,
            "parse",
        ),
        ("/v1/models/pet:predict", instances([FLAT]), 404, "expected ct"),
        ("/v1/models/ct/versions/8:predict", b"", 404, "version 7"),
        ("/v1/models/ct:explain", b"{}", 501, "not offered"),
        ("/v1/nothing", b"", 404, "Not Found"),
        (V2, b"", 400, "no JSON"),
        (V2, b"{}", 400, "inputs"),
        (V2, b'{"inputs": [3]}', 400, "inputs"),
        (V2, b'{"inputs": []}', 400, "found none, expected source"),
        (V2, b'{"inputs": [{"name": "source"}]}', 400, "datatype of source"),
        (
            V2,
            b'{"inputs": [{"name": "source", "datatype": "FP32", '
            b'"shape": [1, 256, 256, 1], "data": [1, 2]}]}',
            400,
            "found 2 values, expected 65536",
        ),
        (
            V2,
            b'{"inputs": [{"name": "source", "datatype": "FP32", '
            b'"shape": [-1], "data": []}]}',
            400,
            "shape of source",
        ),
        (
            V2,
            b'{"inputs": [{"name": "source", "datatype": "FP32", '
            b'"shape": [0, 256, 256, 1], "data": []}]}',
            400,
            "holds no slice",
        ),
        (
            V2,
            b'{"inputs": [{"name": "source", "datatype": "FP32", "shape": [1],'
            b'"parameters": {"binary_data_size": 4}}]}',
            400,
            "binary_data_size",
        ),
        ("/v2/models/pet/infer", b"{}", 404, "expected ct"),
        ("/v2/repository/models/ct/unload", b"", 501, "keeps it"),
    ],
)
def test_a_request_that_cannot_be_answered_is_a_4xx_in_a_line(
    client, path, body, status, words
):
    answer = client.post(path, content=body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    line = answer.json()["error"]
    assert words in line
    assert len(line) < 400
    assert "Traceback" not in line and "node" not in line


@pytest.mark.parametrize("length", ["x", "-1", "99999999", "1" * 5000])
def test_a_wrong_length_of_the_json_is_the_callers_error(client, png, length):
    body, _ = raw_png_request(png)
    answer = client.post(V2, content=body, headers={LENGTH: length})
    assert answer.status_code == 400


def test_raw_arrays_that_do_not_fit_are_the_callers_error(client, png):
    body, headers = raw_png_request(png)
    for content in (body[:-3], body + b"x"):
        answer = client.post(V2, content=content, headers=headers)
        assert answer.status_code == 400, answer.text
    # The text claims more bytes than there are.
    at = int(headers[LENGTH])
    content = body[:at] + b"\xff\xff\xff\x7f" + body[at + 4 :]
    answer = client.post(V2, content=content, headers=headers)
    assert answer.status_code == 400
    assert "cut" in answer.json()["error"]
    body, headers = raw_png_request(png, outputs=[{"name": "x"}])
    answer = client.post(V2, content=body, headers=headers)
    assert answer.status_code == 400


def test_a_body_that_is_too_large_is_refused_before_it_is_read(client):
    answer = client.post(V1, content=bytes(MAX_BODY + 1))
    assert answer.status_code == 413
    assert "6 MB" in answer.json()["error"]

    def in_parts():
        for _ in range(8):
            yield bytes(1_000_000)

    # Without a length that it could be refused by.
    answer = client.post(V1, content=in_parts())
    assert answer.status_code == 413


def test_a_body_that_does_not_come_is_given_up(desk):
    app = rest.application(desk, max_body_bytes=MAX_BODY, body_seconds=0.2)
    sent = []

    async def receive():
        await asyncio.sleep(0.15)
        return {"type": "http.request", "body": b"{", "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": V1,
        "headers": [],
        "query_string": b"",
    }
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408


class Slow:
    """A model that waits to be told to answer, or fails."""

    def __init__(self, signatures):
        self.signatures = signatures
        self.go = threading.Event()

    def ask(self, signature, inputs):
        if np.any(inputs["source"]):
            raise RuntimeError("/secret/path is broken")
        self.go.wait(30)
        return {"translated": inputs["source"]}


def test_health_answers_while_the_model_works_and_no_more_than_some_wait(
    model, slices
):
    slow = Slow(model.info["signatures"])
    body = instances([FLAT])
    codes = []
    with running(desks.Desk(slow, "ct", "1")) as client:
        threads = [
            threading.Thread(
                target=lambda: codes.append(
                    client.post(V1, content=body).status_code
                )
            )
            for _ in range(desks.MOST_UNDER_WAY)
        ]
        for thread in threads:
            thread.start()
        gauge = f"medgan_requests_under_way {float(len(threads))}"
        ends = time.monotonic() + 20
        while gauge not in client.get("/metrics").text:
            assert time.monotonic() < ends
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2/health/ready").json() == {"ready": True}
        answer = client.post(V1, content=body)
        assert answer.status_code == 503
        assert "try again later" in answer.json()["error"]
        slow.go.set()
        for thread in threads:
            thread.join()
    assert codes == [200] * len(threads)


def test_a_fault_of_ours_shows_none_of_our_insides(model, slices):
    broken = Slow(model.info["signatures"])
    with running(desks.Desk(broken, "ct", "1")) as client:
        answer = client.post(V1, json={"instances": slices.tolist()})
    assert answer.status_code == 500
    assert answer.json() == {"error": "The server failed; its log says why."}


def test_metrics_count_requests_and_slices_by_no_word_of_a_stranger(
    client, slices
):
    def counted():
        lines = client.get("/metrics").text.splitlines()
        return {
            name: float(value)
            for name, value in (
                line.rsplit(" ", 1) for line in lines if "#" not in line
            )
        }

    before = counted()
    client.post(V1, json={"instances": slices.tolist()})
    client.post(V1, content=instances([FLAT], signature_name="stranger"))
    after = counted()
    labels = 'protocol="v1",signature="{}",status="{}"'
    for name, growth in (
        (labels.format("serving_default", "OK"), 1),
        (labels.format("unknown", "INVALID_ARGUMENT"), 1),
    ):
        name = f"medgan_requests_total{{{name}}}"
        assert after[name] - before.get(name, 0) == growth
    name = 'medgan_slices_total{signature="serving_default"}'
    assert after[name] - before.get(name, 0) == 2
    assert not any("stranger" in name for name in after)


def test_what_the_model_takes_and_gives_can_be_asked(client):
    assert client.get("/v1/models").json() == {"models": ["ct"]}
    found = client.get("/v2/models/ct").json()
    assert found["inputs"] == [
        {"name": "source", "datatype": "FP32", "shape": [-1, 256, 256, 1]}
    ]
    assert client.get("/v2/models/pet").status_code == 404


def test_each_signature_is_asked_before_the_first_caller(model):
    served.Served(model).warm_up()


def test_statuses_have_the_numbers_of_grpc():
    grpc = pytest.importorskip("grpc")
    for code in grpc.StatusCode:
        if code is not grpc.StatusCode.OK:
            assert statuses.of_number(code.value[0]) == code.name


def test_a_model_is_served_under_the_names_of_its_folders(tmp_path):
    for version in ("2", "10", "notes"):
        (tmp_path / "über ct" / version).mkdir(parents=True)
    (tmp_path / "über ct" / "2" / "saved_model.pb").touch()
    name = app.name_and_version
    assert name(tmp_path / "über ct") == ("über ct", "10")
    assert name(tmp_path / "über ct" / "2") == ("über ct", "2")
