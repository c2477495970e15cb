"""A person drops a volume on the page and reads its translation off it."""

import contextlib
import gzip
import http.client
import json
import pathlib
import re
import socket
import threading
import time

import nibabel as nib
import numpy as np
import pytest

from medgan_tf import tasks
from medgan_tf.data import io, volume
from medgan_tf.serving import predict

NO_SERVER = "the extra [serve] is not installed"
fastapi = pytest.importorskip("fastapi", reason=NO_SERVER)
uvicorn = pytest.importorskip("uvicorn", reason=NO_SERVER)
pytest.importorskip("python_multipart", reason=NO_SERVER)
page = pytest.importorskip("medgan_tf.serving.page", reason=NO_SERVER)

ROOT = pathlib.Path(__file__).parents[2]
TASK = tasks.Task("test", "", tasks.MR, tasks.CT, (None, None, None))
INFO = {
    "title": "MR to CT",
    "trained_on_simulated_images": True,
    "intended_use": "Research only.",
}
# Axes of the file: posterior, superior, right; turned by 30 degrees about
# the second; 1.5 x 4 x 0.8 mm.
OBLIQUE = np.array(
    [
        [0.0, 0.0, 0.8, 12.3],
        [-1.5, 0.0, 0.0, -45.6],
        [0.0, 4.0, 0.0, 78.9],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
TURN = np.eye(4)
TURN[:2, :2] = [[0.75**0.5, -0.5], [0.5, 0.75**0.5]]
OBLIQUE = TURN @ OBLIQUE


def model(translate=lambda source, source_scale: {"translated": source - 1000}):
    """HU = scanner units - 1000."""
    return predict.Model(None, translate, TASK, INFO)


class Server:
    """A router in a server of its own, and a client without a browser."""

    def __init__(self, router):
        app = fastapi.FastAPI()
        app.include_router(router)
        config = uvicorn.Config(app, port=0, log_level="error", ws="none")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        [[listener]] = [s.sockets for s in self.server.servers]
        self.port = listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/page/"

    def stop(self):
        self.server.should_exit = True
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()

    def ask(self, path="", method="GET", body=None, **headers):
        """(status, body, headers) of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        names = {k.replace("_", "-"): v for k, v in headers.items()}
        with contextlib.closing(connection):
            connection.request(method, f"/page/{path}", body, names)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers

    def send(self, *parts, **headers):
        """Status and JSON of a form; a part is (field, file name, bytes)."""
        body = b"".join(
            b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
            % (
                field.encode(),
                b'; filename="%s"' % name.encode() if name else b"",
                contents,
            )
            for field, name, contents in parts
        )
        headers = {"Content-Type": "multipart/form-data; boundary=x", **headers}
        status, body, _ = self.ask(
            "jobs", "POST", body + b"--x--\r\n", **headers
        )
        return status, json.loads(body)

    def wait(self, name, states=("done",)):
        """The state of a job, once it is one of some."""
        while True:
            status, body, _ = self.ask(f"jobs/{name}")
            told = json.loads(body)
            if status != 200 or told["state"] in states:
                return status, told
            time.sleep(0.01)


@pytest.fixture
def serve():
    servers = []

    def start(made=None, **options):
        servers.append(Server(page.router(made or model(), **options)))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def noise(shape=(9, 5, 14), affine=OBLIQUE):
    values = np.random.default_rng(0).uniform(100, 1000, shape)
    return volume.Volume(values.astype(np.float32), affine)


def contents_of(path, made, suffix=".nii.gz"):
    file = path / f"made{suffix}"
    io.write_volume(file, made)
    return file.read_bytes()


def predicted(path, made):
    """What predict.py writes for a file with a volume."""
    source, output = path / "mr.nii.gz", path / "ct.nii.gz"
    io.write_volume(source, made)
    read = io.read_volume(source)
    result = predict.translate_volume(model(), [read])
    io.write_volume(output, result, like=source)
    return source, output


def test_the_result_is_the_file_that_predict_writes(serve, tmp_path):
    server = serve()
    source, output = predicted(tmp_path, noise())
    status, told = server.send(("source", "mr.nii.gz", source.read_bytes()))
    assert status == 202
    name = told["name"]
    _, told = server.wait(name)
    assert (told["done"], told["total"]) == (5, 5)
    kinds = [(i["kind"], i["unit"]) for i in told["images"]]
    assert kinds == [("source", "scanner units"), ("translated", "HU")]
    _, body, _ = server.ask(f"jobs/{name}/translated.nii.gz")
    assert body == output.read_bytes()


@pytest.mark.parametrize("suffix", [".nii", ".mha"])
def test_other_formats_give_nifti_on_the_same_voxels(serve, tmp_path, suffix):
    server, made = serve(), noise()
    sent = contents_of(tmp_path, made, suffix)
    _, told = server.send(("source", f"x{suffix}", sent))
    server.wait(told["name"])
    _, body, _ = server.ask(f"jobs/{told['name']}/translated.nii.gz")
    image = nib.Nifti1Image.from_bytes(gzip.decompress(body))
    np.testing.assert_array_equal(image.get_fdata(), made.array - 1000)
    np.testing.assert_allclose(image.affine, made.affine, atol=1e-5)


def test_the_error_is_translated_minus_target_on_the_voxels_of_the_source(
    serve, tmp_path
):
    server = serve()
    x, y, z = np.indices((8, 8, 4), np.float32)
    at = np.diag([-2.0, -2.0, 4.0, 1.0])
    source = volume.Volume(500 + 10 * x, at)
    # A CT with twice as many columns that says 30 HU less everywhere, and
    # ends one voxel of the source before it.
    fine = np.diag([-1.0, -2.0, 4.0, 1.0])
    x, y, z = np.indices((13, 8, 4), np.float32)
    target = volume.Volume(-500 + 5 * x - 30, fine)
    _, told = server.send(
        ("source", "a.nii.gz", contents_of(tmp_path, source)),
        ("target", "b.nii.gz", contents_of(tmp_path, target)),
    )
    _, done = server.wait(told["name"])
    assert [i["kind"] for i in done["images"]] == [
        "source",
        "translated",
        "target",
        "error",
    ]
    assert done["notes"] == ["The CT was brought onto the voxels of the MR."]
    _, body, _ = server.ask(f"jobs/{told['name']}/error.nii")
    error = nib.Nifti1Image.from_bytes(body).get_fdata()
    # Inside a plane survives the smoothing; beyond the CT there is no error.
    np.testing.assert_allclose(error[2:5], 30.0, atol=1e-3)
    assert (error[7] == 0).all()


@pytest.mark.slow
def test_a_simulated_patient_comes_with_its_target(serve):
    server = serve()
    status, told = server.send(("phantom", "", b"Head"))
    assert status == 202
    _, done = server.wait(told["name"])
    assert [i["modality"] for i in done["images"]] == ["MR", "CT", "CT", "CT"]
    assert done["notes"] == ["A simulated patient, not a real one."]
    status, told = server.send(("phantom", "", b"../../etc"))
    assert status == 400
    assert "Head or Torso" in told["error"]


def test_no_word_of_a_header_is_kept(serve, tmp_path):
    server = serve()
    image = nib.Nifti1Image(noise().array, OBLIQUE)
    image.header["descrip"] = b"Mustermann^Max"
    path = tmp_path / "Mustermann^Max.nii"
    nib.save(image, path)
    _, told = server.send(("source", path.name, path.read_bytes()))
    _, done = server.wait(told["name"])
    assert "Muster" not in json.dumps(done)
    for shown in done["images"]:
        _, body, _ = server.ask(f"jobs/{told['name']}/{shown['file']}")
        if shown["file"].endswith(".gz"):
            body = gzip.decompress(body)
        assert b"Muster" not in body


def broken(kind, path):
    whole = contents_of(path, noise())
    if kind == "garbage":
        return "x.nii.gz", b"no image at all" * 9
    if kind == "cut":
        return "x.nii.gz", whole[: len(whole) // 2]
    if kind == "empty file":
        return "x.nii", b""
    if kind == "other format":
        return "notes.txt", whole
    if kind == "nothing above 0":
        empty = volume.Volume(np.zeros((3, 3, 3), np.float32), np.eye(4))
        return "x.nii.gz", contents_of(path, empty)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((2000, 2000, 2000))
    header["magic"], header["vox_offset"] = b"n+1", 352
    return "x.nii", header.binaryblock + bytes(4)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("garbage", "source_MR.nii.gz: found a damaged gzip stream"),
        ("cut", "copy the file again"),
        ("empty file", "source_MR.nii: found no NIfTI header"),
        ("other format", "expected .nii.gz or .nii or .mha"),
        ("nothing above 0", "MR volume is empty"),
        ("huge", "found 8000 million voxels, expected at most 134 million"),
    ],
)
def test_a_broken_file_is_told_in_one_line(serve, tmp_path, kind, words):
    server = serve()
    for _ in range(6):  # Each gives its place in the queue back.
        status, told = server.send(("source", *broken(kind, tmp_path)))
        assert status == 400
    assert words in told["error"]
    assert "\n" not in told["error"]
    assert "medgan_page" not in told["error"]
    assert server.ask()[0] == 200


def test_a_name_is_never_a_path(serve, tmp_path):
    server = serve()
    sent = contents_of(tmp_path, noise())
    trap = str(tmp_path / "trap.nii.gz")
    for name in (trap, "../../../trap.nii.gz"):
        status, told = server.send(("source", name, sent))
        assert status == 202
        server.wait(told["name"])
    assert not (tmp_path / "trap.nii.gz").exists()
    for file in ("..%2f..%2fpasswd", "sent", "sent%2Fsource_MR.nii.gz"):
        assert server.ask(f"jobs/{told['name']}/{file}")[0] == 404


def test_a_body_is_limited_and_has_a_length(serve, tmp_path):
    server = serve(most_upload_mb=0.001)
    status, told = server.send(("source", "x.nii", bytes(2000)))
    assert (status, "\n" in told["error"]) == (413, False)
    assert server.ask("jobs", "POST", iter([b"x"]))[0] == 411
    assert server.send(("source", "x.nii", bytes(20)))[0] == 400
    assert server.ask("jobs", "POST", b"x", Content_Type="a/b")[0] == 400


def test_the_queue_is_bounded_and_a_job_can_be_cancelled(serve, tmp_path):
    go, started = threading.Event(), threading.Event()

    def slow(source, source_scale):
        started.set()
        go.wait(60)
        return {"translated": source}

    router = page.router(model(slow), most_unfinished=2)
    server = Server(router)
    try:
        sent = contents_of(tmp_path, noise())
        _, first = server.send(("source", "x.nii.gz", sent))
        assert started.wait(60)
        _, second = server.send(("source", "x.nii.gz", sent))
        _, told = server.wait(second["name"], ("waiting",))
        assert told["ahead"] == 1
        status, told = server.send(("source", "x.nii.gz", sent))
        assert status == 503
        assert "2 volumes wait already" in told["error"]
        assert server.ask(f"jobs/{first['name']}", "DELETE")[0] == 204
        assert server.ask(f"jobs/{first['name']}")[0] == 404
        go.set()
        assert server.wait(second["name"])[0] == 200
    finally:
        go.set()
        server.stop()


def test_a_volume_that_the_model_refuses_is_told(serve, tmp_path):
    server = serve()
    wide = volume.Volume(
        np.full((300, 4, 2), 500, np.float32), np.diag([1.0, 1, 1, 1])
    )
    _, told = server.send(("source", "x.nii.gz", contents_of(tmp_path, wide)))
    status, told = server.wait(told["name"])
    assert status == 422
    assert "\n" not in told["error"]


def test_a_small_file_that_would_become_large_is_refused(serve, tmp_path):
    """2^27 pixels of slices at most: 2048 slices of 256 x 256."""
    image = volume.Volume(np.full((2, 2, 6000), 500, np.float32), np.eye(4))
    status, told = serve().send(
        ("source", "x.nii.gz", contents_of(tmp_path, image))
    )
    assert status == 400
    assert "at most 134 million pixels" in told["error"]


def test_a_job_that_failed_keeps_no_volume(tmp_path):
    """The frames of an error hold whatever was in them."""

    def fail(**_):
        raise RuntimeError("no")

    queue = page.jobs.Jobs(model(fail))
    try:
        file, _ = predicted(tmp_path, noise())
        job = queue.open()
        with open(file, "rb") as contents:
            queue.send_files(job, [(file.name, contents)])
        while not job.is_over:
            time.sleep(0.01)
        assert job.state == "failed" and str(job.error) == "no"
        assert job.error.__traceback__ is job.error.__context__ is None
    finally:
        queue.close()


def test_files_go_with_the_translation_the_job_and_the_server(tmp_path):
    queue = page.jobs.Jobs(model())
    root = pathlib.Path(queue._root.name)
    made = []
    for _ in range(2):
        job = queue.open()
        path = tmp_path / "x.nii.gz"
        io.write_volume(path, noise())
        with open(path, "rb") as file:
            queue.send_files(job, [("x.nii.gz", file)])
        made.append(job)
    while not all(job.is_over for job in made):
        time.sleep(0.01)
    files = {f.name for f in root.rglob("*") if f.is_file()}
    assert files == {"source1.nii", "translated.nii.gz"}
    queue.remove(made[0])
    assert not made[0].folder.exists()
    assert queue.find(made[0].name) is None
    queue.close()
    assert not root.exists()


def test_old_jobs_are_forgotten(tmp_path):
    queue = page.jobs.Jobs(model(), most_kept=1)
    try:
        file, _ = predicted(tmp_path, noise())
        names = []
        for _ in range(3):
            job = queue.open()
            names.append(job.name)
            with open(file, "rb") as contents:
                queue.send_files(job, [(file.name, contents)])
            while not job.is_over:
                time.sleep(0.01)
        queue.open()
        assert [queue.find(name) is None for name in names] == [1, 1, 0]
    finally:
        queue.close()


def test_another_site_is_turned_away(serve):
    server = serve()
    for headers in (
        {"Origin": "https://example.org"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
    ):
        assert server.send(("phantom", "", b"Head"), **headers)[0] == 403
    own = {"Origin": f"http://127.0.0.1:{server.port}"}
    assert server.send(("phantom", "", b"Nobody"), **own)[0] == 400


def test_an_upload_that_stalls_or_breaks_off_gives_its_place_back(
    serve, monkeypatch, capfd
):
    server = serve(most_unfinished=1)
    head = (
        b"POST /page/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    address = "127.0.0.1", server.port
    free = "phantom", "", b"Nobody"
    with socket.create_connection(address) as client:
        client.sendall(head)
        while server.send(free)[0] != 503:
            time.sleep(0.01)
    while server.send(free)[0] != 400:
        time.sleep(0.01)
    monkeypatch.setattr(page, "UPLOAD_TIMEOUT_S", 0.1)
    with socket.create_connection(address, timeout=60) as client:
        client.sendall(head)
        assert client.recv(100).startswith(b"HTTP/1.1 408")
    assert server.send(free)[0] == 400
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_file_that_does_not_say_where_it_lies_is_noted(serve, tmp_path):
    server = serve()
    image = nib.Nifti1Image(noise().array, None)
    image.header["qform_code"] = image.header["sform_code"] = 0
    nib.save(image, tmp_path / "x.nii")
    sent = (tmp_path / "x.nii").read_bytes()
    _, told = server.send(("source", "x.nii", sent))
    _, done = server.wait(told["name"])
    [note] = done["notes"]
    assert note.startswith("source_MR.nii: neither sform nor qform is set")


def test_every_answer_forbids_what_is_not_of_this_origin(serve):
    server = serve()
    paths = ["", "about", "jobs/none", *page.FILES]
    for path in paths:
        _, _, headers = server.ask(path)
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert not re.search("https?:|unsafe|[*]", policy)
    assert server.ask("page.py")[0] == 404


def test_the_lockfile_pins_by_hash_and_names_no_registry():
    lock = json.loads((ROOT / "web" / "package-lock.json").read_text())
    packages = {k: v for k, v in lock["packages"].items() if k}
    assert all("integrity" in row for row in packages.values())
    assert not any("resolved" in row for row in packages.values())
    version = packages["node_modules/@niivue/niivue"]["version"]
    notices = (page.STATIC / "niivue.LICENSES.txt").read_text("utf-8")
    assert f"@niivue/niivue {version} (BSD-2-Clause)" in notices
    assert "Copyright (c) 2021, Niivue" in notices


READY = "document.querySelector('#result').dataset.ready === 'yes'"


def text_of(browser, selector):
    return browser.value_of(f"document.querySelector({selector!r}).textContent")


def complaints(browser, address):
    """What a browser had to say, and what it asked another origin for."""
    found = []
    for event in browser.events:
        name, told = event["method"], event["params"]
        if name == "Network.requestWillBeSent":
            url = told["request"]["url"]
            if not url.startswith((address, "data:", "blob:")):
                found.append(url)
        elif name == "Log.entryAdded" and told["entry"]["level"] == "error":
            found.append(told["entry"]["text"])
        elif name == "Runtime.exceptionThrown":
            found.append(str(told["exceptionDetails"]))
    return found


@pytest.mark.slow
def test_a_dropped_file_is_read_off_the_page_as_predict_writes_it(
    browser, serve, tmp_path
):
    server = serve()
    source, output = predicted(tmp_path, noise())
    expected = io.read_volume(output).array
    browser.open(server.address)
    browser.wait_for("!document.querySelector('#start').hidden")
    assert "Research only, not for diagnosis" in text_of(browser, "header")
    assert browser.value_of("!document.querySelector('#simulated').hidden")

    browser.drop(".slot", source)
    browser.wait_for("!document.querySelector('#translate').disabled")
    browser.press("Enter")
    browser.wait_for(READY)

    panel = ".panel[data-kind=translated] "
    for move in ("ArrowLeft", "ArrowUp", "PageUp"):
        before = text_of(browser, "#place")
        browser.value_of(f"document.querySelector('{panel} canvas').focus()")
        browser.press(move)
        browser.wait_for(
            "document.querySelector('#place').textContent"
            f" !== {json.dumps(before)}"
        )
        voxel = browser.value_of(
            "document.querySelector('#place').dataset.voxel"
        )
        at = tuple(map(int, voxel.split(",")))
        shown = text_of(browser, panel + "output")
        value = float(shown.removesuffix(" HU").replace("\u2212", "-"))
        assert value == pytest.approx(expected[at], abs=0.05)
        other = text_of(browser, ".panel[data-kind=source] output")
        assert float(other) == pytest.approx(expected[at] + 1000, abs=0.05)
    # From the middle: left on the screen is the patient's right, where the
    # third axis of the file points; up is the front, from where the first
    # comes; PageUp is towards the head.
    assert at == (4 - 1, 2 + 1, 7 + 1)

    saved = browser.value_of(
        "fetch(document.querySelector('#download').href)"
        ".then(r => r.arrayBuffer())"
        ".then(b => Array.from(new Uint8Array(b)))"
    )
    assert bytes(saved) == output.read_bytes()
    assert complaints(browser, server.address) == []


@pytest.mark.slow
def test_a_broken_file_is_told_on_the_page_and_the_next_one_works(
    browser, serve, tmp_path
):
    server = serve()
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no image")
    good, _ = predicted(tmp_path, noise())
    browser.open(server.address, 390, 844, True)
    browser.wait_for("!document.querySelector('#start').hidden")
    for file in (bad, good):
        browser.drop(".slot", file)
        browser.wait_for("!document.querySelector('#translate').disabled")
        browser.press("Enter")
        if file == bad:
            browser.wait_for("!document.querySelector('#error').hidden")
            line = text_of(browser, "#error")
            assert line.startswith("source_MR.nii.gz: found a damaged")
    browser.wait_for(READY)
    assert browser.value_of("document.querySelector('#error').hidden")
    # Nothing is wider than the phone.
    assert browser.value_of("document.documentElement.scrollWidth") == 390


@pytest.mark.slow
def test_nothing_can_be_loaded_from_another_origin(browser, serve):
    server, other = serve(), serve()
    browser.open(server.address)
    refused = browser.value_of(
        f"fetch('{other.address}about').then(() => false, () => true)"
    )
    assert refused
    assert other.ask()[0] == 200
    told = [e for e in browser.events if e["method"] == "Log.entryAdded"]
    assert any("Content Security Policy" in str(e) for e in told)
