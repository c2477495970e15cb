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


def interrupted(pause, rounds):
    """Exit code and output of a step that got SIGINT twice."""
    child = subprocess.Popen(
        [sys.executable, "-c", STEP.format(rounds=rounds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        time.sleep(pause)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    finally:
        child.kill()
    return child.returncode, out, err


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_step_at_once():
    # Hours of work.
    code, out, err = interrupted(pause=0.5, rounds=2**31 - 1)
    assert (code, out) == (130, "")
    assert err.endswith("Stopped at once; the last checkpoint stays.\n")


@pytest.mark.slow
def test_a_ctrl_c_that_came_by_two_ways_is_one():
    code, out, _ = interrupted(pause=0, rounds=2_000_000)
    assert (code, out) == (0, "told 130\n")
