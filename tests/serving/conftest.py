"""A browser that a test can drive: Chromium by the DevTools protocol."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
import urllib.request

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    # WebGL without a graphics card.
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)


class Browser:
    """One open page."""

    def __init__(self, connection):
        self.connection = connection
        self.numbers = itertools.count(1)
        self.events = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.do(f"{domain}.enable")
        self.do("Page.setLifecycleEventsEnabled", enabled=True)

    def do(self, method, **parameters):
        """Sends one command and returns its answer."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        self.connection.send(json.dumps(message))
        while True:
            answer = json.loads(self.connection.recv(timeout=60))
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def value_of(self, expression):
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.do(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression, seconds=60):
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.value_of(expression):
            text = self.value_of("document.body.innerText")
            assert time.monotonic() < end, f"{expression} is not true: {text}"
            time.sleep(0.1)

    def open(self, address, width=1280, height=800, is_phone=False):
        """Goes to an address in a window of that many pixels."""
        self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if is_phone else 1,
            mobile=is_phone,
        )
        self.events.clear()
        loader = self.do("Page.navigate", url=address)["loaderId"]

        def is_loaded(event):
            told = event["params"]
            return event["method"] == "Page.lifecycleEvent" and (
                told["loaderId"],
                told["name"],
            ) == (loader, "load")

        while not any(map(is_loaded, self.events)):
            self.events.append(json.loads(self.connection.recv(timeout=60)))

    def centre_of(self, selector):
        """Where an element is, in CSS pixels."""
        box = self.value_of(
            f"(e => [e.x + e.width / 2, e.y + e.height / 2])(document."
            f"querySelector({selector!r}).getBoundingClientRect())"
        )
        return dict(zip("xy", box, strict=True))

    def drop(self, selector, *paths):
        """Drops files on an element, as from the desktop."""
        data = {"items": [], "dragOperationsMask": 1}
        data["files"] = list(map(str, paths))
        for kind in ("dragEnter", "dragOver", "drop"):
            self.do(
                "Input.dispatchDragEvent",
                type=kind,
                data=data,
                **self.centre_of(selector),
            )

    def press(self, key):
        """Presses and releases one key, such as "Enter"."""
        text = {"text": "\r"} if key == "Enter" else {}
        codes = {"Enter": 13, "Tab": 9}
        code = {"windowsVirtualKeyCode": codes.get(key, 0)}
        self.do(
            "Input.dispatchKeyEvent", type="keyDown", key=key, **text, **code
        )
        self.do("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def screenshot(self, path):
        """Writes what is seen as PNG."""
        image = self.do("Page.captureScreenshot")["data"]
        path.write_bytes(base64.b64decode(image))


@contextlib.contextmanager
def started(folder):
    """A browser with its profile in a folder; skips where there is none."""
    client = pytest.importorskip(
        "websockets.sync.client", reason="the extra [serve] is not installed"
    )
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium")
    # Root, as in a container, has to do without the sandbox.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        [program, *FLAGS, *sandbox, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        told = folder / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not (told.exists() and told.read_text().count("\n")):
            assert process.poll() is None, f"{program} did not start"
            assert time.monotonic() < end, f"{program} did not start in 60 s"
            time.sleep(0.1)
        port = told.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            pages = [p for p in json.load(answer) if p["type"] == "page"]
        # No pings: their thread would draw from Python's random numbers, in the
        # middle of a training that is to end bit by bit as another.
        with client.connect(
            pages[0]["webSocketDebuggerUrl"],
            max_size=None,
            proxy=None,
            ping_interval=None,
        ) as connection:
            yield Browser(connection)
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """One browser for all tests; each opens its own address in it."""
    with started(tmp_path_factory.mktemp("profile")) as one:
        yield one
