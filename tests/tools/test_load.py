"""Requests come when they should, whatever the server does."""

import asyncio
import itertools
import math

import pytest

from medgan_tf.tools import _load


def test_arrivals_are_poisson_and_do_not_wait_for_answers():
    """400 a second for 1 s, each of which takes 0.2 s."""
    under_way, most = 0, 0

    async def ask():
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.2)
        under_way -= 1

    took, failures = asyncio.run(_load.poisson(ask, 400, 1))
    assert not failures
    # Four standard deviations of a Poisson number.
    assert len(took) == pytest.approx(400, abs=4 * math.sqrt(400))
    # Little's law: 400 a second for 0.2 s are 80 at a time.
    assert most > 60
    assert min(took) >= 0.2


def test_a_server_that_stands_still_is_seen_by_all_that_should_have_come():
    async def stands_still():
        # Blocks the client's own loop, too.
        import time

        time.sleep(0.1)

    took, _ = asyncio.run(_load.poisson(stands_still, 20, 1))
    # Twice as many come as are answered, so the last wait for about 1 s.
    assert took[-1] > 0.5


def test_failures_are_counted():
    whys = itertools.cycle([ValueError("status 503"), ValueError()])

    async def fails():
        raise next(whys)

    took, failures = asyncio.run(_load.poisson(fails, 100, 0.2))
    assert took == []
    assert failures.keys() == {"status 503", "ValueError"}
    assert failures.total() > 5


def test_clients_that_ask_again_at_once_measure_capacity():
    async def ask():
        await asyncio.sleep(0.05)

    rate = asyncio.run(_load.closed(ask, 4, 0.5))
    assert 10 < rate <= 80
