"""The perceptual loss and PAN's hinge, by hand."""

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf.losses import perceptual


def features(*values):
    """One constant feature map per value, each of another size."""
    return [
        tf.fill([2, 8 >> i, 8 >> i, 3 + i], v) for i, v in enumerate(values)
    ]


def test_it_is_the_weighted_sum_of_mean_absolute_differences():
    found = perceptual.perceptual_loss(
        features(1.0, -2.0), features(0.5, 1.0), [5.0, 1.5]
    )
    assert float(found) == pytest.approx(5 * 0.5 + 1.5 * 3.0)


def test_the_size_of_a_layer_does_not_change_its_influence():
    small = [tf.zeros([1, 2, 2, 1])], [tf.ones([1, 2, 2, 1])]
    large = [tf.zeros([1, 9, 9, 7])], [tf.ones([1, 9, 9, 7])]
    for pair in (small, large):
        assert float(perceptual.perceptual_loss(*pair, [1.0])) == 1


def test_an_image_beside_its_source_counts_half():
    """Why layer 0 is given without the source, which cancels."""
    source, target, translated = features(0.3)[0], *features(1.0), *features(0)
    translated = tf.cast(translated, tf.float32)
    alone = perceptual.perceptual_loss([translated], [target], [1.0])
    with_source = perceptual.perceptual_loss(
        [tf.concat([source, translated], -1)],
        [tf.concat([source, target], -1)],
        [1.0],
    )
    assert float(with_source) == pytest.approx(float(alone) / 2)


def test_a_layer_of_weight_zero_is_left_out():
    nan = [tf.fill([1, 2, 2, 1], float("nan"))]
    one, zero = [tf.ones([1, 2, 2, 1])], [tf.zeros([1, 2, 2, 1])]
    found = perceptual.perceptual_loss(nan + one, nan + zero, [0.0, 2.0])
    assert float(found) == 2
    assert float(perceptual.perceptual_loss(nan, nan, [0.0])) == 0


def test_each_layer_needs_a_weight():
    with pytest.raises(ValueError):
        perceptual.perceptual_loss(features(1.0, 1.0), features(1.0, 1.0), [1])


@pytest.mark.parametrize(
    ("loss", "hinge", "slope"), [(2.0, 1.0, -1.0), (4.0, 0.0, 0.0)]
)
def test_pans_hinge_pulls_below_the_margin_and_rests_above(loss, hinge, slope):
    loss = tf.constant(loss)
    with tf.GradientTape() as tape:
        tape.watch(loss)
        found = perceptual.margin_loss(loss, 3.0)
    assert float(found) == hinge
    assert float(tape.gradient(found, loss)) == slope


def test_the_loss_of_bfloat16_features_is_float32():
    rough = [tf.ones([1, 64, 64, 4], tf.bfloat16)]
    found = perceptual.perceptual_loss(rough, [0 * rough[0]], [1.0])
    assert found.dtype == tf.float32
    np.testing.assert_array_equal(found, 1)
