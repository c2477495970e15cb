"""CasNet: U-blocks in a row, each seeing only the one before."""

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf.models import casnet, u_block

IMAGE = [1, 256, 256, 1]


def image():
    return tf.random.stateless_uniform(IMAGE, [0, 0], -1.0, 1.0)


def test_one_u_block_has_the_parameters_of_a_u_block(count):
    assert count(lambda: casnet.CasNet(1), IMAGE) == (54_413_313, 58)


@pytest.mark.slow
def test_six_u_blocks_have_six_times_the_parameters(count):
    assert count(casnet.CasNet, IMAGE) == (326_479_878, 6 * 58)


def test_each_block_sees_only_the_image_of_the_one_before():
    network = casnet.CasNet(2, ngf=2)
    first, second = network.stages(image())
    np.testing.assert_array_equal(network.blocks[0](image()), first)
    np.testing.assert_array_equal(network.blocks[1](first), second)
    np.testing.assert_array_equal(network(image()), second)


def test_blocks_have_weights_of_their_own():
    network = casnet.CasNet(2, ngf=2)
    network(image())
    first, second = (block.down[0].kernel.numpy() for block in network.blocks)
    assert np.abs(first - second).max() > 0.01
    assert len(network.trainable_variables) == 2 * 58


def test_blocks_pass_on_images_with_the_targets_channels():
    network = casnet.CasNet(2, out_channels=2, ngf=1)
    colour = tf.zeros([1, 256, 256, 3])
    assert [stage.shape[-1] for stage in network.stages(colour)] == [2, 2]


def test_options_reach_every_block():
    network = casnet.CasNet(2, 1, 2, bottleneck_norm=True, dropout=0.5)
    assert [len(block.down_norms) for block in network.blocks] == [7, 7]
    assert [len(block.dropouts) for block in network.blocks] == [3, 3]


def test_a_gradient_reaches_the_first_block():
    network = casnet.CasNet(2, ngf=2)
    network(image())
    kernel = network.blocks[0].down[0].kernel
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.abs(network(image())))
    assert np.asarray(tape.gradient(loss, kernel.value)).any()


def test_a_wrong_side_is_refused_as_by_a_u_block():
    with pytest.raises(ValueError, match=f"{u_block.SIDE_MULTIPLE}, got"):
        casnet.CasNet(1, ngf=1)(tf.zeros([1, 200, 256, 1]))
