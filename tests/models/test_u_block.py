"""The U-block: counts, sizes, range and the bottleneck that never learns."""

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf.models import u_block

IMAGE = [1, 256, 256, 1]
COLOUR = [1, 256, 256, 3]


def images(seed=0, shape=IMAGE):
    return tf.random.stateless_uniform(shape, [seed, 0], -1.0, 1.0)


@pytest.mark.parametrize(
    ("options", "shape", "parameters", "variables"),
    [
        ({}, IMAGE, 54_413_313, 58),
        # A sixth of the 326,516,754 of a CasNet for colour images.
        ({"out_channels": 3}, COLOUR, 54_419_459, 58),
        ({"bottleneck_norm": True}, IMAGE, 54_414_337, 60),
        (
            {"bottleneck_norm": True, "out_channels": 3},
            COLOUR,
            54_420_483,
            60,
        ),
        ({"bottleneck_norm": True, "out_channels": 2}, IMAGE, 54_416_386, 60),
    ],
)
def test_parameters(count, options, shape, parameters, variables):
    found = count(lambda: u_block.UBlock(**options), shape)
    assert found == (parameters, variables)


def test_an_image_goes_down_to_a_point_and_up_again():
    with tf.Graph().as_default() as graph:
        u_block.UBlock()(tf.zeros(IMAGE))
    shapes = [
        tuple(operation.outputs[0].shape[1:])
        for operation in graph.get_operations()
        # Each convolution ends with its bias.
        if operation.type == "BiasAdd"
    ]
    down = (64, 128, 256, 512, 512, 512, 512, 512)
    up = (512, 512, 512, 512, 256, 128, 64, 1)
    assert shapes == [
        *((256 >> i, 256 >> i, f) for i, f in enumerate(down, start=1)),
        *((1 << i, 1 << i, f) for i, f in enumerate(up, start=1)),
    ]


def test_the_translation_is_float32_within_minus_one_and_one():
    block = u_block.UBlock(out_channels=2, ngf=4)
    block(images())
    # Large weights, so that the tanh is reached.
    block.last.kernel.assign(block.last.kernel.value * 1000)
    translated = block(images())
    assert translated.shape == (1, 256, 256, 2)
    assert translated.dtype == tf.float32
    assert 0.9 < np.abs(translated).max() <= 1


@pytest.mark.parametrize("sides", [(128, 128), (300, 300), (256, 300)])
def test_sides_that_are_no_multiple_of_256_are_refused(sides):
    message = rf"multiples of 256, got \({sides[0]}, {sides[1]}\); crop or pad"
    with pytest.raises(ValueError, match=message):
        u_block.UBlock(ngf=1)(tf.zeros([1, *sides, 1]))


def test_an_oblong_of_multiples_of_256_is_translated():
    assert u_block.UBlock(ngf=1)(tf.zeros([1, 512, 256, 1])).shape == (
        1,
        512,
        256,
        1,
    )


def test_without_weights_the_translation_is_zero():
    block = u_block.UBlock(ngf=2)
    block(images())
    for weight in block.weights:
        weight.assign(tf.zeros_like(weight.value))
    np.testing.assert_array_equal(block(images()), 0)


def gradients(block):
    """Each variable's gradient of the mean square difference to an image."""
    block(images())
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(block(images()) - images(1)))
    variables = block.trainable_variables
    found = tape.gradient(loss, [v.value for v in variables])
    return {
        "/".join(variable.path.split("/")[-2:]): np.asarray(gradient)
        for variable, gradient in zip(variables, found, strict=True)
    }


def test_every_kernel_of_the_default_block_learns():
    found = gradients(u_block.UBlock(ngf=4))
    kernels = [name for name in found if name.endswith("/kernel")]
    assert len(kernels) == 16
    for name in kernels:
        assert found[name].any(), name
    # The skipped half and the bottleneck half of what follows both learn.
    assert found["decoder_7/kernel"][..., :32].any()


def test_a_norm_at_the_bottleneck_kills_exactly_what_stands_around_it():
    """12,585,984 of 54,414,337 parameters with 64 filters, 23.1 %."""
    n = 8 * 4
    found = gradients(u_block.UBlock(ngf=4, bottleneck_norm=True))
    dead = {
        name
        for name, gradient in found.items()
        if name.split("/")[0].removesuffix("_norm")
        in ("encoder_8", "decoder_8")
    }
    assert len(dead) == 8
    for name in dead:
        assert not found[name].any(), name
    # Of decoder_7, the inputs that come from decoder_8 rather than the skip.
    half = found["decoder_7/kernel"][..., :n]
    assert not half.any()
    assert found["decoder_7/kernel"][..., n:].any()
    num_dead = sum(found[name].size for name in dead) + half.size
    assert num_dead == dead_parameters(n)
    assert dead_parameters(512) == 12_585_984
    for name, gradient in found.items():
        if name.endswith("/kernel") and name not in dead:
            assert gradient.any(), name


def dead_parameters(n):
    """Two convolutions n -> n with their norms, half of one 2 n -> n."""
    return 2 * (16 * n * n + n + 2 * n) + 16 * n * n


def test_dropout_is_active_without_being_asked_and_off_by_default():
    steady = u_block.UBlock(ngf=2)
    np.testing.assert_array_equal(steady(images()), steady(images()))
    noisy = u_block.UBlock(ngf=2, dropout=0.5)
    assert len(noisy.dropouts) == 3
    assert np.abs(noisy(images()) - noisy(images())).max() > 0


def test_slices_of_a_batch_are_translated_one_by_one():
    block = u_block.UBlock(ngf=2)
    batch = images(shape=[2, 256, 256, 1])
    np.testing.assert_allclose(block(batch)[1:], block(batch[1:]), atol=1e-5)


def test_bfloat16_is_close_to_float32_and_keeps_float32_weights():
    exact = u_block.UBlock(ngf=4)
    rough = u_block.UBlock(ngf=4, dtype="mixed_bfloat16")
    exact(images())
    rough(images())
    rough.set_weights(exact.get_weights())
    translated = rough(images())
    assert translated.dtype == tf.float32
    assert {weight.dtype for weight in rough.weights} == {"float32"}
    # bfloat16 keeps 8 bits; sixteen layers add their roundings.
    difference = np.abs(translated - exact(images()))
    assert 0 < difference.max() < 0.05
