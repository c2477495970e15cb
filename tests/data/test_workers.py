"""Processes give the same results in the same order as one."""

import os

import pytest

from medgan_tf import errors
from medgan_tf.data import workers


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_the_order_of_the_items(num_workers):
    found = workers.map_in_order(abs, [-3, 1, -2], num_workers)
    assert list(found) == [3, 1, 2]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_as_a_lack_of_memory():
    with pytest.raises(errors.ResourceError, match="fewer --workers"):
        list(workers.map_in_order(os._exit, [9], 2))
