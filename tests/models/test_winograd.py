"""Winograd's convolutions against TensorFlow's own, and by hand."""

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf.models import vgg19, winograd


def drawn(*shape):
    return tf.random.stateless_normal(shape, [1, len(shape)])


def relative_error(found, wanted):
    """Root mean square of the error over that of the values."""
    wanted = np.asarray(wanted)
    error = np.asarray(tf.cast(found, tf.float32)) - wanted
    return np.sqrt(np.mean(error**2) / np.mean(wanted**2))


def plain(image, kernel, bias):
    return tf.nn.relu(tf.nn.conv2d(image, kernel, 1, "SAME") + bias)


def ours(image, kernel, bias):
    return winograd.rectified(image, winograd.kernel_sums(kernel), bias)


def with_gradient(convolution, image, kernel, bias):
    with tf.GradientTape() as tape:
        tape.watch(image)
        result = convolution(image, kernel, bias)
        weighted = result * tf.cast(drawn(*result.shape), result.dtype)
    return result, tape.gradient(weighted, image)


def test_the_sums_of_a_kernel_by_hand():
    """Of 1 to 9: corners stay, between them are half sums and differences."""
    kernel = tf.reshape(tf.range(1.0, 10.0), [3, 3, 1, 1])
    np.testing.assert_array_equal(
        tf.reshape(winograd.kernel_sums(kernel), [4, 4]),
        [
            [1, 3, 1, 3],
            [6, 11.25, 3.75, 9],
            [2, 3.75, 1.25, 3],
            [7, 12, 4, 9],
        ],
    )


@pytest.mark.parametrize(
    "shape",
    [(2, 6, 8, 3), (1, 5, 7, 4), (1, 1, 1, 2), (3, 2, 1, 3), (1, 4, 4, 1)],
)
@pytest.mark.parametrize("in_graph", [False, True])
def test_result_and_gradient_equal_those_of_the_plain_convolution(
    shape, in_graph
):
    arguments = drawn(*shape), drawn(3, 3, shape[-1], 5), drawn(5)
    call = tf.function(ours) if in_graph else ours
    found = with_gradient(call, *arguments)
    wanted = with_gradient(plain, *arguments)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_an_image_of_unknown_batch_size_is_taken_in_a_graph():
    image, kernel, bias = drawn(2, 4, 4, 3), drawn(3, 3, 3, 5), drawn(5)
    signature = [tf.TensorSpec([None, 4, 4, 3])]
    call = tf.function(lambda x: ours(x, kernel, bias), signature)
    np.testing.assert_allclose(call(image), plain(image, kernel, bias), 1e-5)


def test_bfloat16_is_off_by_twice_as_much_as_the_plain_convolution():
    """As wide as VGG-19's fourth block; against float32."""
    exact = tf.nn.relu(drawn(1, 16, 16, 512)), drawn(3, 3, 512, 512), drawn(512)
    rounded = [tf.cast(x, tf.bfloat16) for x in exact]
    wanted = with_gradient(plain, *exact)
    for mine, theirs, true in zip(
        with_gradient(ours, *rounded),
        with_gradient(plain, *rounded),
        wanted,
        strict=True,
    ):
        assert mine.dtype == tf.bfloat16
        assert relative_error(mine, true) < 2.5 * relative_error(theirs, true)


@pytest.mark.parametrize(
    ("deepest", "kernels", "images"),
    [
        ("block2_conv1", 0, 0),
        ("block2_conv2", 16 * 128**2, 4 * 128**2 * 256),
        ("block3_conv1", 16 * (128**2 + 128 * 256), 4 * 128**2 * 256),
    ],
)
def test_what_it_holds_is_counted(deepest, kernels, images):
    network = vgg19.VGG19Features((deepest,), winograd=True)
    assert network.count_sums(3) == kernels + 3 * images
    assert vgg19.VGG19Features((deepest,)).count_sums(3) == 0


def test_features_and_gradients_of_vgg19_are_the_same_with_it():
    image = tf.tanh(drawn(1, 32, 32, 1))
    found = []
    for is_used in (False, True):
        network = vgg19.VGG19Features(winograd=is_used)
        with tf.GradientTape() as tape:
            tape.watch(image)
            features = network(image)
            content = tf.add_n([tf.nn.l2_loss(f) for f in features.values()])
        found.append([*features.values(), tape.gradient(content, image)])
    for plain_one, with_it in zip(*found, strict=True):
        assert relative_error(with_it, plain_one) < 1e-5
    # But not bit by bit, so it is used.
    assert relative_error(found[1][-2], found[0][-2]) > 0
