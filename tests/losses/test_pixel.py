"""Differences between images against numbers by hand."""

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf.losses import pixel


def test_one_and_minus_one_differ_by_two_and_by_four_squared():
    ones = tf.ones([2, 8, 8, 1])
    assert float(pixel.l1_loss(ones, -ones)) == 2
    assert float(pixel.l2_loss(ones, -ones)) == 4


def test_differences_are_means_over_pixels_channels_and_batch():
    image = np.zeros([2, 2, 2, 2], "float32")
    image[1, 0, 1, 1] = -4
    target = tf.zeros_like(image)
    assert float(pixel.l1_loss(image, target)) == 4 / 16
    assert float(pixel.l2_loss(image, target)) == 16 / 16


@pytest.mark.parametrize("axis", [1, 2])
def test_total_variation_of_a_ramp_is_its_step(axis):
    ramp = tf.range(8, dtype=tf.float32) * 0.1
    image = tf.reshape(ramp, [8 if i == axis else 1 for i in range(4)])
    image = tf.broadcast_to(image, [3, 8, 8, 1])
    found = float(pixel.total_variation_loss(image))
    assert found == pytest.approx(0.1, rel=1e-5)


def test_total_variation_of_a_checkerboard_is_four():
    rows, columns = np.indices([6, 10])
    board = (-1.0) ** (rows + columns)
    image = tf.constant(board[None, ..., None], tf.float32)
    assert float(pixel.total_variation_loss(image)) == 4


def test_total_variation_does_not_step_from_image_to_image():
    image = tf.concat([tf.ones([1, 4, 4, 1]), -tf.ones([1, 4, 4, 1])], axis=0)
    assert float(pixel.total_variation_loss(image)) == 0


def test_bfloat16_images_are_compared_in_float32():
    """256 + 1 is no bfloat16: a sum in it would stop at 256."""
    ones = tf.ones([1, 64, 64, 1], tf.bfloat16)
    for loss in (pixel.l1_loss, pixel.l2_loss):
        found = loss(ones, tf.zeros_like(ones))
        assert found.dtype == tf.float32
        assert float(found) == 1
    assert pixel.total_variation_loss(ones).dtype == tf.float32
