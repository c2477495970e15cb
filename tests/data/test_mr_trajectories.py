"""Trajectories of a head: against what their names promise."""

import numpy as np
import pytest

from medgan_tf.data import mr_trajectories


def poses_of(trajectory, seed, num_poses=200):
    rng = np.random.default_rng(seed)
    return mr_trajectories.TRAJECTORIES[trajectory](rng, num_poses)


@pytest.mark.parametrize("trajectory", mr_trajectories.TRAJECTORIES)
def test_trajectories_reach_about_3_degrees_and_3_mm(trajectory):
    ranges = [np.ptp(poses_of(trajectory, s, 24), axis=0) for s in range(300)]
    assert np.all(np.mean(ranges, axis=0) > 1.5)
    assert np.all(np.mean(ranges, axis=0) < 7.0)
    assert poses_of(trajectory, 0, 1).shape == (1, 3)


@pytest.mark.parametrize("seed", range(5))
def test_trajectories_are_what_their_names_say(seed):
    drift = poses_of("drift", seed)
    np.testing.assert_allclose(np.diff(drift, 2, axis=0), 0.0, atol=1e-12)
    moves = np.abs(np.diff(poses_of("sudden", seed), axis=0)).max(axis=1)
    assert 1 <= np.count_nonzero(moves) <= 3
    # A sine is the one curve whose second difference is a multiple of it.
    periodic = poses_of("periodic", seed)[:, 0]
    bend = np.diff(periodic, 2) / periodic[1:-1]
    np.testing.assert_allclose(bend, np.median(bend), rtol=1e-6)
    cycles = np.arccos(1 + np.median(bend) / 2) * 200 / (2 * np.pi)
    assert 2.0 <= cycles <= 8.0


def test_a_random_walk_spreads_as_the_root_of_time():
    walks = np.stack([poses_of("random_walk", s, 100) for s in range(400)])
    spread = walks.std(axis=(0, 2))
    assert spread[99] / spread[24] == pytest.approx(2.0, rel=0.1)
    assert spread[99] == pytest.approx(3.0, rel=0.1)
