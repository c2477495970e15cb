"""Readers drive the real page, and the file has what they did."""

import base64
import collections
import contextlib
import importlib.util
import io
import json
import pathlib
import threading
import time

import numpy as np
import pytest
from matplotlib import image as png

from medgan_tf.reader_study import storage

NO_SERVER = "the extra [study] is not installed"
uvicorn = pytest.importorskip("uvicorn", reason=NO_SERVER)
pytest.importorskip("starlette", reason=NO_SERVER)
pytest.importorskip("jinja2", reason=NO_SERVER)
from medgan_tf.reader_study import application, study  # noqa: E402

pytestmark = pytest.mark.slow

LOW, HIGH = -160.0, 240.0
SLOPE, INTERCEPT = 4000 / 65535, -1000.0
READY = "document.body?.dataset.ready === 'yes'"
# Of the real image and those of two methods; the paper's pooled rates.
JUDGED_REAL = (0.68, 0.253, 0.067)
SCORES = (
    (0.05, 0.10, 0.25, 0.60),
    (0.10, 0.25, 0.40, 0.25),
    (0.45, 0.30, 0.20, 0.05),
)


def _browsing():
    """The browser of the tests of the page of serve.py."""
    path = pathlib.Path(__file__).parents[1] / "serving" / "conftest.py"
    spec = importlib.util.spec_from_file_location("browsing", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with _browsing().started(tmp_path_factory.mktemp("profile")) as one:
        yield one


def stored_images(num_trials, rng):
    return {
        f"{t:04x}": {
            f"{t:04x}{k}": rng.integers(0, 65536, (256, 256), dtype="<u2")
            for k in "abc"
        }
        for t in range(num_trials)
    }


class Reading:
    """A study of random images that somebody reads in a browser."""

    def __init__(self, folder, browser, num_trials, num_readers=1):
        rng = np.random.default_rng(0)
        self.images = stored_images(num_trials, rng)
        self.path = folder / "answers.sqlite"
        self.browser = browser
        (folder / "images").mkdir()
        shown = []
        for trial, images in self.images.items():
            for name, values in images.items():
                path = folder / "images" / f"{name}.u16"
                path.write_bytes(values.tobytes())
            order = [str(n) for n in rng.permutation(sorted(images))]
            shown.append({"id": trial, "images": order})
        told = {
            "format": 1,
            "title": "PET to CT",
            "task": "pet_ct",
            "unit": "HU",
            "window": [LOW, HIGH],
            "intensity": {"slope": SLOPE, "intercept": INTERCEPT},
            "words": {"1": "no", "2": "rather no", "3": "rather", "4": "yes"},
            "trials": shown,
        }
        (folder / "study.json").write_text(json.dumps(told))
        self.tokens = storage.create(
            self.path,
            list(self.images),
            {t: list(i) for t, i in self.images.items()},
            num_readers,
            0,
        )
        app = application.Application(study.read(folder))
        config = uvicorn.Config(
            app, port=0, log_level="error", ws="none", lifespan="off"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        [[listener]] = [s.sockets for s in self.server.servers]
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}/"

    def stop(self):
        self.browser.open("about:blank")
        self.server.should_exit = True
        self.thread.join(timeout=60)

    def wait(self, expression, seconds=60):
        """Waits for what becomes true, also while another page comes."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(AssertionError):
                if self.browser.value_of(expression):
                    return
            assert time.monotonic() < end, expression
            time.sleep(0.01)

    def sign_in(self, number=0, width=1280, height=800, dense=1.0):
        self.browser.open(self.address, width, height)
        self.browser.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=dense,
            mobile=False,
        )
        self.browser.value_of("sessionStorage.clear()")
        self.browser.value_of("document.querySelector('#token').focus()")
        self.browser.do("Input.insertText", text=self.tokens[number])
        self.browser.press("Enter")
        self.wait(READY)

    def press(self, *keys):
        for key in keys:
            self.browser.press(key)

    def click(self, selector, count=1):
        self.drag(selector, 0, 0, count)

    def drag(self, selector, x, y, count=1):
        at = self.browser.centre_of(selector)
        to = {"x": at["x"] + x, "y": at["y"] + y}
        for kind, where in (
            ("mouseMoved", at),
            ("mousePressed", at),
            ("mouseMoved", to),
            ("mouseReleased", to),
        ):
            self.browser.do(
                "Input.dispatchMouseEvent",
                type=kind,
                button="none"
                if where is at and kind[5:] == "Moved"
                else "left",
                buttons=int(kind != "mouseReleased"),
                clickCount=count,
                **where,
            )

    @property
    def shown(self):
        """(trial, letter -> image) of what is seen."""
        trial, *images = self.browser.value_of(
            "[document.querySelector('#trial').dataset.trial, ..."
            "[...document.querySelectorAll('.view')].map(v => v.dataset.image)]"
        )
        return trial, dict(zip("ABC", images, strict=True))

    def text(self, selector):
        return self.browser.value_of(
            f"document.querySelector({selector!r}).textContent"
        )

    def greys(self, letter, dense):
        """What is on the screen where an image is, [rows, columns]."""
        x, y, width, height = self.browser.value_of(
            "(b => [b.x, b.y, b.width, b.height])(document.querySelector("
            f"'[data-letter={letter}] .box').getBoundingClientRect())"
        )
        told = self.browser.do("Page.captureScreenshot")["data"]
        screen = png.imread(io.BytesIO(base64.b64decode(told)))
        left, top = round(x * dense), round(y * dense)
        right, bottom = round((x + width) * dense), round((y + height) * dense)
        seen = np.rint(screen[top:bottom, left:right, :3] * 255)
        assert (seen == seen[..., :1]).all()
        return seen[..., 0]

    def greys_expected(self, trial, image, low=LOW, high=HIGH):
        values = SLOPE * self.images[trial][image].astype(float) + INTERCEPT
        return np.clip((values - low) / (high - low) * 255, 0, 255)


@pytest.fixture
def reading(browser, tmp_path):
    one = Reading(tmp_path, browser, 3)
    yield one
    one.stop()


def draws(images, rng):
    """Whom a simulated reader of known rates holds to be real, and scores."""
    names = sorted(images)
    judged_real = names[rng.choice(3, p=JUDGED_REAL)]
    scores = {
        name: int(rng.choice(4, p=p)) + 1
        for name, p in zip(names, SCORES, strict=True)
    }
    return judged_real, scores


def by_keys(reading, letters, judged_real, scores):
    for letter, image in letters.items():
        reading.press(letter.lower(), str(scores[image]))
        if image == judged_real:
            reading.press("r")
    reading.press("Enter")


def by_mouse(reading, letters, judged_real, scores):
    for image in letters.values():
        field = f'fieldset[data-image="{image}"] '
        reading.click(f'{field}.scores [value="{scores[image]}"]')
        if image == judged_real:
            reading.click(f"{field}.real")
    reading.click("#store")


@pytest.mark.timeout(1800)
def test_a_whole_study_is_stored_as_it_was_read(browser, tmp_path):
    reading = Reading(tmp_path, browser, 30, num_readers=2)
    given = collections.defaultdict(list)
    try:
        for number, judge in enumerate((by_keys, by_mouse)):
            rng = np.random.default_rng(number)
            browser.do("Network.clearBrowserCookies")
            reading.sign_in(number)
            for place in range(30):
                trial, letters = reading.shown
                assert f"Trial {place + 1} of 30" in reading.text("header")
                answer = draws(reading.images[trial], rng)
                given[f"reader{number + 1}"].append((trial, *answer))
                judge(reading, letters, *answer)
                reading.wait(
                    f"location.pathname === '/end' || {READY} && document."
                    f"querySelector('#trial').dataset.trial !== '{trial}'"
                )
                if place == 15:
                    # Pauses, and goes on where it was.
                    reading.press("p")
                    reading.wait("document.querySelector('#token') !== null")
                    reading.sign_in(number)
            assert reading.text("h1") == "Thank you"
            assert "all 30 trials" in reading.text(".lead")
    finally:
        reading.stop()
    stored = storage.read_answers(reading.path)
    assert len(stored) == storage.num_expected(reading.path) == 60
    for reader, answers in given.items():
        mine = [a for a in stored if a.reader == reader]
        assert [(a.trial, a.judged_real, a.scores) for a in mine] == answers
        assert [a.position for a in mine] == list(range(1, 31))
        assert all(0 < a.seconds < 60 for a in mine)
    orders = [[a[0] for a in answers] for answers in given.values()]
    assert orders[0] != orders[1]
    # The rates come out, within 3 standard errors of 60 trials.
    firsts = np.mean([a.judged_real.endswith("a") for a in stored])
    assert abs(firsts - JUDGED_REAL[0]) < 3 * (0.68 * 0.32 / 60) ** 0.5


@pytest.mark.parametrize(
    ("width", "height", "zoom"), [(1280, 800, 1), (1920, 1080, 2)]
)
def test_a_pixel_is_a_whole_number_of_the_screens(reading, width, height, zoom):
    reading.sign_in(0, width, height)
    check_pixels(reading, 1.0, zoom)


@pytest.mark.parametrize(("dense", "zoom"), [(1.5, 2), (2.0, 3)])
def test_so_it_is_on_a_dense_screen(tmp_path, dense, zoom):
    # By a flag, because a browser only pretends when it is told later.
    browsing = _browsing()
    browsing.FLAGS += (f"--force-device-scale-factor={dense}",)
    (tmp_path / "profile").mkdir()
    (tmp_path / "study").mkdir()
    with browsing.started(tmp_path / "profile") as browser:
        reading = Reading(tmp_path / "study", browser, 1)
        try:
            reading.sign_in(dense=0)
            check_pixels(reading, dense, zoom)
        finally:
            reading.stop()


def check_pixels(reading, dense, zoom):
    trial, letters = reading.shown
    assert reading.text("#zoom") == f"{zoom}×"
    for letter, image in letters.items():
        seen = reading.greys(letter, dense)
        expected = reading.greys_expected(trial, image)
        expected = expected.repeat(zoom, 0).repeat(zoom, 1)
        assert seen.shape == expected.shape
        # A grey is rounded.
        np.testing.assert_allclose(seen, expected, atol=0.51)


def test_swapped_images_lie_in_the_same_place(reading):
    reading.sign_in()
    trial, letters = reading.shown
    reading.press("s")
    assert reading.text("#zoom") == "2×"
    boxes = []
    for letter in "ABC":
        boxes.append(reading.browser.centre_of(f"[data-letter={letter}] .box"))
        seen = reading.greys(letter, 1)
        expected = reading.greys_expected(trial, letters[letter])
        np.testing.assert_allclose(seen[::2, ::2], expected, atol=0.51)
        reading.press("ArrowRight")
    assert boxes[0] == boxes[1] == boxes[2]


def test_window_and_zoom_are_changed_and_put_back(reading):
    reading.sign_in()
    trial, letters = reading.shown
    before = reading.greys("B", 1)
    # 100 up: brighter by a quarter of the window.
    reading.drag("[data-letter=A] .box", 0, -100)
    reading.wait("document.querySelector('#window').textContent[1] === '2'")
    assert reading.text("#window") == "−260 to 140 HU"
    expected = reading.greys_expected(trial, letters["B"], -260, 140)
    np.testing.assert_allclose(reading.greys("B", 1), expected, atol=0.51)
    for key in ("ArrowDown", "n", "w", "+", "+", "-"):
        reading.press(key)
    assert reading.text("#zoom") == "2×"
    assert reading.greys("B", 1).shape[1] > 256
    reading.press("0")
    reading.wait("document.querySelector('#window').textContent[1] === '1'")
    assert reading.text("#window") == "−160 to 240 HU"
    np.testing.assert_array_equal(reading.greys("B", 1), before)
    reading.press("w")
    reading.click("[data-letter=A] .box", 1)
    reading.click("[data-letter=A] .box", 2)
    reading.wait(
        "document.querySelector('#window').textContent === '−160 to 240 HU'"
    )


def test_what_is_missing_is_told_and_nothing_is_stored_before(reading):
    reading.sign_in()
    assert reading.text("#missing") == (
        "Still missing: which one is real; score of A, B, C"
    )
    reading.press("Enter", "b", "2", "r", "Enter")
    assert reading.text("#missing") == "Still missing: score of A, C"
    assert storage.read_answers(reading.path) == []
    # Who has begun is asked before the marks are lost.
    reading.press("p")
    assert "press again" in reading.text("#missing").lower()


def test_arrows_after_a_click_leave_the_score_alone(reading):
    reading.sign_in()
    _, letters = reading.shown
    field = f'fieldset[data-image="{letters["B"]}"] .scores'
    reading.click(f'{field} [value="2"]')
    reading.browser.value_of("new Promise(done => setTimeout(done, 20))")
    reading.press("ArrowRight", "ArrowRight", "4")
    checked = f"document.querySelector('{field} :checked').value"
    assert reading.browser.value_of(checked) == "2"
    first = f'fieldset[data-image="{letters["A"]}"] .scores :checked'
    assert (
        reading.browser.value_of(f"document.querySelector('{first}').value")
        == "4"
    )


def test_an_answer_that_does_not_arrive_is_told_and_given_again(reading):
    reading.sign_in()
    trial, letters = reading.shown
    for offline in (True, False):
        reading.browser.do(
            "Network.emulateNetworkConditions",
            offline=offline,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )
        if offline:
            by_keys(
                reading,
                letters,
                letters["A"],
                dict.fromkeys(letters.values(), 3),
            )
            reading.wait(
                "document.querySelector('#missing').textContent"
                ".startsWith('Not stored')"
            )
            assert storage.read_answers(reading.path) == []
        else:
            reading.press("Enter")
    reading.wait(
        f"{READY} && document.querySelector('#trial').dataset.trial !== "
        f"'{trial}'"
    )
    [answer] = storage.read_answers(reading.path)
    assert answer.judged_real == letters["A"]


def test_every_control_has_a_name_and_help_opens(reading):
    reading.sign_in()
    tree = reading.browser.do("Accessibility.getFullAXTree")["nodes"]
    controls = [
        n
        for n in tree
        if not n["ignored"] and n["role"]["value"] in ("button", "radio")
    ]
    names = [n["name"]["value"].strip() for n in controls]
    assert all(names)
    assert sum(n["role"]["value"] == "radio" for n in controls) == 15
    reading.press("h", "4")
    assert reading.browser.value_of("document.querySelector('#help').open")
    # Keys do nothing behind the help.
    assert "score of A, B, C" in reading.text("#missing")


def test_the_page_asks_no_other_origin_and_breaks_no_policy(reading):
    reading.sign_in()
    by_keys(
        reading,
        reading.shown[1],
        reading.shown[1]["A"],
        dict.fromkeys(reading.shown[1].values(), 3),
    )
    reading.wait(f"document.querySelector('#bar').value === 1 && {READY}")
    found = []
    for event in reading.browser.events:
        name, told = event["method"], event["params"]
        if name == "Network.requestWillBeSent":
            if not told["request"]["url"].startswith(reading.address):
                found.append(told["request"]["url"])
        elif name == "Log.entryAdded" and told["entry"]["level"] == "error":
            found.append(told["entry"]["text"])
        elif name == "Runtime.exceptionThrown":
            found.append(str(told["exceptionDetails"]))
    assert found == []
