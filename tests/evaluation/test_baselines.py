"""The mean of the training bodies, put by hand where a body is."""

import numpy as np

from medgan_tf import tasks
from medgan_tf.data.sample import Sample
from medgan_tf.evaluation import baselines

MR_CT = tasks.TASKS["mr_ct"]
CT_WINDOW = tasks.CT.window


def sample(source, source_window, target, target_window):
    """A slice of these values, in their units."""
    source, target = (
        (2 * (np.float32(values) - low) / (high - low) - 1)[..., None]
        for values, (low, high) in (
            (source, source_window),
            (target, target_window),
        )
    )
    return Sample(
        patient="a",
        slice_index=0,
        source=source,
        target=target,
        mask=np.ones(target.shape[:2], bool),
        source_window=source_window,
        target_window=target_window,
    )


def test_the_target_s_body_gets_the_mean_and_the_rest_air():
    target = [
        [-1000, -1000, -1000, -1000, -1000],
        [-1000, 0, 40, 300, -1000],
        [-1000, -100, -900, 40, -600],  # The lung is inside, -600 outside.
        [-1000, -400, 40, 1200, -1000],
    ]
    image = baselines.answers(MR_CT, 200.0)["mean in target's body"]
    # 200 HU lies 1200 / 3000 up the window: 2 * 0.4 - 1 = -0.2.
    expected = [
        [-1, -1, -1, -1, -1],
        [-1, -0.2, -0.2, -0.2, -1],
        [-1, -0.2, -0.2, -0.2, -1],
        [-1, -0.2, -0.2, -0.2, -1],
    ]
    nothing = np.zeros((4, 5))
    found = image(sample(nothing, (0.0, 400.0), target, CT_WINDOW))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32


def test_the_source_s_body_gets_the_mean_whatever_the_target_is():
    image = baselines.answers(MR_CT, 200.0)["mean in source's body"]
    # MR: a tenth of the upper end of its own window, 40 of 400.
    source = [[0, 30, 50, 390]]
    target = [[-1000, 40, 40, -1000]]
    found = image(sample(source, (0.0, 400.0), target, CT_WINDOW))
    np.testing.assert_allclose(found, [[-1, -1, -0.2, -0.2]], atol=1e-6)
    found = image(
        sample(np.minimum(source, 100), (0.0, 100.0), target, CT_WINDOW)
    )
    np.testing.assert_allclose(found, [[-1, -0.2, -0.2, -0.2]], atol=1e-6)


def test_the_target_is_kept_where_the_source_has_body_and_nowhere_else():
    image = baselines.answers(MR_CT, 200.0)["target in source's body"]
    # Body in both, in the source alone, in the target alone, in none.
    source = [[400, 400, 0, 0]]
    target = [[500, -1000, 500, -1000]]
    found = image(sample(source, (0.0, 400.0), target, CT_WINDOW))
    # 500 HU lies 1500 / 3000 up the window.
    np.testing.assert_allclose(found, [[0, -0.2, -1, -1]], atol=1e-6)


def test_further_channels_of_the_source_do_not_count():
    image = baselines.answers(MR_CT, 200.0)["mean in source's body"]
    one = sample([[0, 390]], (0.0, 400.0), [[40, 40]], CT_WINDOW)
    others = np.ones_like(one.source)
    source = np.concatenate([one.source, others, others], axis=-1)
    stacked = Sample(**{**vars(one), "source": source})
    np.testing.assert_allclose(image(stacked), [[-1, -0.2]], atol=1e-6)
