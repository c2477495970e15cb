"""Ctrl-C within a step, which is one long call that Python cannot interrupt."""

import signal
import subprocess
import sys
import time

import pytest

STEP = """
import hashlib, sys
from medgan_tf.training import peers
with peers.Stops(None) as stops:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})
    print("told", stops.told(False), flush=True)
"""


def interrupted(first, second, pause, rounds):
    """Exit code and output of a step that got two signals."""
    child = subprocess.Popen(
        [sys.executable, "-c", STEP.format(rounds=rounds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.2)
        child.send_signal(first)
        time.sleep(pause)
        child.send_signal(second)
        out, err = child.communicate(timeout=30)
    finally:
        child.kill()
    return child.returncode, out, err


@pytest.mark.slow
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_ends_a_step_at_once(first):
    # Hours of work.
    code, out, err = interrupted(first, signal.SIGINT, 0.5, rounds=2**31 - 1)
    assert (code, out) == (130, "")
    assert err.endswith("Stopped at once; the last checkpoint stays.\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "pause"), [(signal.SIGINT, 0), (signal.SIGTERM, 0.5)]
)
def test_a_ctrl_c_that_came_by_two_ways_and_any_sigterm_are_one(number, pause):
    code, out, _ = interrupted(number, number, pause, rounds=5_000_000)
    assert (code, out) == (0, f"told {128 + number}\n")
