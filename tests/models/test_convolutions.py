"""Convolutions against TensorFlow's own kernels, in result and gradient."""

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf.models import convolutions

PAD_ONE = [[0, 0], [1, 1], [1, 1], [0, 0]]
TOLERANCE = 1e-5


def images(*shape):
    return tf.random.stateless_normal(shape, seed=[1, 2])


def built(layer, *shape):
    layer.build(shape)
    layer.bias.assign(tf.range(layer.filters, dtype=tf.float32))
    return layer


def down(image, kernel):
    padded = tf.pad(image, PAD_ONE)
    return tf.nn.conv2d(padded, kernel, 2, "VALID")


def up(image, kernel):
    _, height, width, _ = image.shape
    shape = [image.shape[0], 2 * height + 2, 2 * width + 2, kernel.shape[2]]
    whole = tf.nn.conv2d_transpose(image, kernel, shape, 2, "VALID")
    return whole[:, 1:-1, 1:-1]


def patch(image, kernel):
    return tf.nn.conv2d(tf.pad(image, PAD_ONE), kernel, 1, "VALID")


def patch_2(filters, name, dtype=None):
    return convolutions.PatchConvolution(filters, 2, name, dtype)


def patch_1(filters, name, dtype=None):
    return convolutions.PatchConvolution(filters, 1, name, dtype)


@pytest.mark.parametrize(
    ("layer", "expected", "shape", "out_shape"),
    [
        # Small maps, the smallest there is, and one beyond SMALL_MAP.
        (convolutions.DownConvolution, down, (2, 8, 6, 3), (2, 4, 3, 5)),
        (convolutions.DownConvolution, down, (1, 2, 2, 3), (1, 1, 1, 5)),
        (convolutions.DownConvolution, down, (1, 40, 40, 3), (1, 20, 20, 5)),
        (convolutions.UpConvolution, up, (2, 4, 3, 3), (2, 8, 6, 5)),
        (convolutions.UpConvolution, up, (1, 1, 1, 3), (1, 2, 2, 5)),
        (convolutions.UpConvolution, up, (1, 20, 20, 3), (1, 40, 40, 5)),
        (patch_1, patch, (2, 9, 8, 3), (2, 8, 7, 5)),
        (patch_1, patch, (2, 9, 8, 3), (2, 8, 7, 1)),
        (patch_1, patch, (1, 3, 3, 3), (1, 2, 2, 1)),
        (patch_2, down, (2, 8, 6, 3), (2, 4, 3, 5)),
        (patch_2, down, (2, 8, 6, 3), (2, 4, 3, 1)),
    ],
)
@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("is_slow", [False, True])
def test_result_and_gradients_equal_those_of_the_padded_kernels(
    layer, expected, shape, out_shape, in_graph, is_slow, monkeypatch
):
    # Both ways on any machine, with or without a GPU.
    monkeypatch.setattr(convolutions, "_is_slow_in_tensorflow", lambda: is_slow)
    layer = built(layer(out_shape[-1], name="layer"), *shape)
    assert tuple(layer.compute_output_shape(shape)) == out_shape
    image = images(*shape)
    weight = images(*out_shape)
    call = tf.function(layer) if in_graph else layer
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(image)
        found = call(image)
        wanted = expected(image, layer.kernel.value) + layer.bias.value
        totals = [tf.reduce_sum(y * weight) for y in (found, wanted)]
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE)
    for of in (image, layer.kernel.value, layer.bias.value):
        ours, theirs = (tape.gradient(total, of) for total in totals)
        np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [convolutions.DownConvolution, convolutions.UpConvolution, patch_1],
)
def test_bfloat16_gives_what_float32_gives_and_float32_gradients(layer):
    image, results = images(1, 8, 8, 3), []
    kernel = images(4, 4, 5, 3)
    for dtype in ("float32", "mixed_bfloat16"):
        one = built(layer(5, "layer", dtype=dtype), 1, 8, 8, 3)
        one.kernel.assign(tf.reshape(kernel, one.kernel.shape))
        with tf.GradientTape() as tape:
            found = one(image)
            total = tf.reduce_sum(tf.cast(found, tf.float32) ** 2)
        gradient = tape.gradient(total, one.kernel.value)
        assert found.dtype == tf.as_dtype(one.compute_dtype)
        assert gradient.dtype == tf.float32
        results.append((tf.cast(found, tf.float32), gradient))
    for whole, rounded in zip(*results, strict=True):
        # bfloat16 keeps eight bits.
        scale = np.abs(whole).max()
        np.testing.assert_allclose(whole / scale, rounded / scale, atol=0.02)


def test_a_batch_of_unknown_size_is_translated_too():
    layer = built(convolutions.UpConvolution(5, "up"), 1, 4, 4, 3)
    call = tf.function(
        layer, input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.float32)]
    )
    image = images(3, 4, 4, 3)
    np.testing.assert_allclose(call(image), layer(image), atol=TOLERANCE)


def test_a_patch_convolution_gives_127_from_128():
    layer = convolutions.PatchConvolution(1, 1, "patch")
    assert layer(images(1, 128, 128, 2)).shape == (1, 127, 127, 1)


def test_kernels_start_as_in_pix2pix_tensorflow_and_each_by_itself():
    kernels = []
    for layer in (
        convolutions.DownConvolution(64, "one"),
        convolutions.DownConvolution(64, "two"),
        convolutions.UpConvolution(64, "up"),
        convolutions.PatchConvolution(64, 1, "patch"),
    ):
        layer.build([1, 8, 8, 64])
        kernel = layer.kernel.numpy()
        assert kernel.shape == (4, 4, 64, 64)
        # 65,536 draws: the SD is known to 0.3 %, the mean to 8e-5.
        assert kernel.std() == pytest.approx(0.02, rel=0.02)
        assert abs(kernel.mean()) < 4e-4
        assert not layer.bias.numpy().any()
        kernels.append(kernel)
    for i, kernel in enumerate(kernels):
        for other in kernels[:i]:
            assert np.abs(kernel - other).max() > 0.02
