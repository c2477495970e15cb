"""The mean of the training bodies, put by hand where a body is."""

import numpy as np

from medgan_tf import tasks
from medgan_tf.data.sample import Sample
from medgan_tf.evaluation import baselines


def sample(target, target_window):
    """A slice whose target shows these values, in their unit."""
    low, high = target_window
    scaled = 2 * (np.float32(target) - low) / (high - low) - 1
    return Sample(
        patient="a",
        slice_index=0,
        source=np.zeros((*scaled.shape, 1), np.float32),
        target=scaled[..., None],
        mask=np.ones(scaled.shape, bool),
        source_window=(0.0, 20.0),
        target_window=target_window,
    )


def test_a_body_of_ct_gets_the_mean_and_the_rest_air():
    target = [
        [-1000, -1000, -1000, -1000, -1000],
        [-1000, 0, 40, 300, -1000],
        [-1000, -100, -900, 40, -600],  # The lung is inside, -600 outside.
        [-1000, -400, 40, 1200, -1000],
    ]
    image = baselines.training_mean(tasks.CT, 200.0)
    # 200 HU lies 1200 / 3000 up the window: 2 * 0.4 - 1 = -0.2.
    expected = [
        [-1, -1, -1, -1, -1],
        [-1, -0.2, -0.2, -0.2, -1],
        [-1, -0.2, -0.2, -0.2, -1],
        [-1, -0.2, -0.2, -0.2, -1],
    ]
    found = image(sample(target, tasks.CT.window))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32


def test_a_body_of_mr_is_above_a_tenth_of_its_own_window():
    image = baselines.training_mean(tasks.MR, 100.0)
    target = [[0, 30, 50, 390]]
    # 100 is a quarter of 400 and all of 100; a tenth is 40 and 10.
    found = image(sample(target, (0.0, 400.0)))
    np.testing.assert_allclose(found, [[-1, -1, -0.5, -0.5]], atol=1e-6)
    found = image(sample(np.minimum(target, 100), (0.0, 100.0)))
    np.testing.assert_allclose(found, [[-1, 1, 1, 1]], atol=1e-6)
