"""How a head moves during one MR scan: from trembling to nodding.

Each trajectory is a function of (generator, number of poses) that returns
[num_poses, 3]: degrees, mm, mm at evenly spaced times. All have about the
size of a volunteer told to move, jerks of 3 degrees and 3 mm, because only
then does one factor, the severity, mean the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Standard deviation of the large movements, in degrees and in mm.
SIZE = 3.0


def tremble_and_jerks(rng: np.random.Generator, num_poses: int) -> np.ndarray:
    """A tremor of 0.2, and two to five jerks to a new pose."""
    steps = rng.normal(0.0, 0.2, (num_poses, 3))
    for jerk in rng.integers(0, num_poses, rng.integers(2, 6)):
        steps[jerk] += rng.normal(0.0, SIZE, 3)
    return np.cumsum(steps, axis=0)


def drift(rng: np.random.Generator, num_poses: int) -> np.ndarray:
    """Sinking evenly from the first pose to another one, as in sleep."""
    return np.linspace(0.0, 1.0, num_poses)[:, None] * rng.normal(0.0, SIZE, 3)


def sudden(rng: np.random.Generator, num_poses: int) -> np.ndarray:
    """One to three jerks to a new pose, and perfectly still in between."""
    poses = np.zeros((num_poses, 3))
    for _ in range(rng.integers(1, 4)):
        # Not before the second pose, because nobody sees a jerk at the start.
        poses[1 + rng.integers(max(num_poses - 1, 1)) :] += rng.normal(
            0.0, SIZE, 3
        )
    return poses


def periodic(rng: np.random.Generator, num_poses: int) -> np.ndarray:
    """To and fro two to eight times, as a head nods with deep breaths."""
    time = (np.arange(num_poses) + 0.5) / num_poses
    turns = rng.uniform(2.0, 8.0) * time + rng.uniform()
    # Half the size, because it goes both ways.
    reach = rng.normal(0.0, SIZE / 2, 3)
    return np.sin(2 * np.pi * turns)[:, None] * reach


def random_walk(rng: np.random.Generator, num_poses: int) -> np.ndarray:
    """Equal small steps that have led as far as a jerk by the end."""
    steps = rng.normal(0.0, SIZE / np.sqrt(num_poses), (num_poses, 3))
    return np.cumsum(steps, axis=0)


TRAJECTORIES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    function.__name__: function
    for function in (tremble_and_jerks, drift, sudden, periodic, random_walk)
}
