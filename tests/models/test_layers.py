"""Layers against tensorflow-addons' numbers and arithmetic by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from medgan_tf.models import discriminator, layers

# tensorflow-addons and we add the same float32 numbers in another order.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def addons(golden):
    with np.load(golden / "tensorflow_addons_layers.npz") as stored:
        return dict(stored)


def images(*shape):
    return tf.random.stateless_normal(shape, seed=[1, 2])


def test_instance_norm_and_its_gradients_equal_those_of_addons(addons):
    norm = layers.InstanceNorm("norm")
    x = tf.constant(addons["in_x"])
    norm.build(x.shape)
    norm.gamma.assign(addons["in_gamma"])
    norm.beta.assign(addons["in_beta"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = norm(x)
        total = tf.reduce_sum(y * addons["in_w"])
    found = tape.gradient(total, [x, norm.gamma.value, norm.beta.value])
    np.testing.assert_allclose(y, addons["in_y"], atol=TOLERANCE)
    for gradient, name in zip(found, ("dx", "dgamma", "dbeta"), strict=True):
        np.testing.assert_allclose(
            gradient, addons[f"in_{name}"], atol=TOLERANCE, rtol=TOLERANCE
        )


def test_instance_norm_of_a_single_pixel_is_its_bias_whatever_it_is_given():
    norm = layers.InstanceNorm("norm")
    norm.build([1, 1, 1, 3])
    norm.beta.assign([1.0, -2.0, 0.5])
    np.testing.assert_array_equal(
        norm(images(1, 1, 1, 3) * 100)[0, 0, 0], [1.0, -2.0, 0.5]
    )


@pytest.mark.parametrize(("batch_size", "is_equal"), [(1, True), (3, False)])
def test_instance_norm_is_batch_norm_at_batch_size_one_only(
    batch_size, is_equal
):
    x = images(batch_size, 6, 5, 4) * 3 + 1
    instance = layers.InstanceNorm("norm")
    instance.build(x.shape)
    instance.gamma.assign(tf.ones(4))
    batch = keras.layers.BatchNormalization(epsilon=1e-5)
    difference = np.abs(instance(x) - batch(x, training=True)).max()
    assert (difference < TOLERANCE) == is_equal


@pytest.mark.parametrize("shape", [(1, 16, 16, 8), (3, 16, 8, 4)])
def test_instance_norm_in_bfloat16_is_that_of_float32(shape):
    image = tf.cast(images(*shape) * 3 + 1, tf.bfloat16)
    rough = layers.InstanceNorm("norm", "mixed_bfloat16")
    exact = layers.InstanceNorm("norm")
    for norm in (rough, exact):
        norm.build(shape)
    exact.set_weights(rough.get_weights())
    found, expected = rough(image), exact(tf.cast(image, tf.float32))
    assert found.dtype == tf.bfloat16
    # bfloat16 keeps 8 bits.
    np.testing.assert_allclose(
        tf.cast(found, tf.float32), expected, rtol=2**-7, atol=2**-7
    )


def test_instance_norm_starts_as_in_pix2pix_tensorflow():
    norm = layers.InstanceNorm("norm")
    norm.build([1, 8, 8, 64])
    assert norm.gamma.numpy().mean() == pytest.approx(1.0, abs=0.01)
    assert 0.01 < norm.gamma.numpy().std() < 0.03
    assert not norm.beta.numpy().any()
    assert norm.epsilon == 1e-5


@pytest.mark.parametrize(("prefix", "iterations"), [("sn1", 1), ("sn3", 3)])
def test_spectral_projection_equals_that_of_addons(addons, prefix, iterations):
    numbers = {
        name.removeprefix(f"{prefix}_"): value
        for name, value in addons.items()
        if name.startswith(prefix)
    }
    kernel = keras.Variable(numbers["kernel0"])
    projection = layers.SpectralProjection([kernel], iterations)
    projection.vectors[0].assign(numbers["u0"])
    for call in ("1", "2"):
        projection()
        np.testing.assert_allclose(
            kernel.numpy(), numbers[f"kernel{call}"], atol=TOLERANCE
        )
        np.testing.assert_allclose(
            projection.vectors[0], numbers[f"u{call}"], atol=TOLERANCE
        )
        np.testing.assert_allclose(
            tf.nn.conv2d(numbers["z"], kernel.value, 2, "VALID"),
            numbers[f"y{call}"],
            atol=10 * TOLERANCE,
        )


def test_power_iteration_finds_the_exact_norm_of_addons_kernel(addons):
    matrix = tf.reshape(addons["sn1_kernel0"], [-1, 6])
    sigma, _ = layers.power_iteration(matrix, tf.constant(addons["sn1_u0"]), 99)
    assert float(sigma) == pytest.approx(float(addons["sn1_sigma_true"]), 1e-5)


@pytest.mark.parametrize(
    ("inputs", "outputs", "norm"), [(2, 64, 45.2548), (64, 128, 362.0387)]
)
def test_the_norm_of_a_kernel_of_ones_is_exact_after_one_step(
    inputs, outputs, norm
):
    """sqrt(16 c_in c_out), the Frobenius norm of a matrix of rank one."""
    matrix = tf.ones([16 * inputs, outputs])
    sigma, _ = layers.power_iteration(matrix, images(1, outputs), 1)
    assert float(sigma) == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize(
    ("iterations", "sigma"), [(1, 2.8635642), (2, 2.9981729), (20, 3.0)]
)
def test_power_iteration_of_a_diagonal_matrix_by_hand(iterations, sigma):
    u = tf.constant([[1.0, 1.0]]) / tf.sqrt(2.0)
    found, _ = layers.power_iteration(
        tf.constant([[3.0, 0.0], [0.0, 1.0]]), u, iterations
    )
    assert float(found) == pytest.approx(sigma, abs=1e-6)


def test_power_iteration_in_two_calls_goes_on_where_it_stopped():
    matrix, u = images(12, 4), images(1, 4)
    at_once, _ = layers.power_iteration(matrix, u, 4)
    _, half_way = layers.power_iteration(matrix, u, 2)
    later, _ = layers.power_iteration(matrix, half_way, 2)
    assert float(at_once) == pytest.approx(float(later), rel=1e-6)


def test_all_kernels_of_a_discriminator_come_to_norm_one_and_nothing_else():
    judge = discriminator.PatchDiscriminator(2, ndf=8)
    judge(images(1, 32, 32, 1), images(1, 32, 32, 1))
    assert len(judge.kernels) == 4
    kernels = {id(kernel) for kernel in judge.kernels}
    others = [w for w in judge.weights if id(w) not in kernels]
    for weight in others:
        weight.assign(weight.value + 0.5)
    before = [weight.numpy() for weight in others]
    layers.SpectralProjection(judge.kernels, power_iterations=300)()
    for kernel in judge.kernels:
        matrix = kernel.numpy().reshape(-1, kernel.shape[-1])
        assert np.linalg.norm(matrix, 2) == pytest.approx(1.0, abs=1e-3)
    for weight, value in zip(others, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_starting_vectors_are_drawn_from_the_seed():
    kernels = [keras.Variable(tf.ones([4, 4, 1, 3])) for _ in range(2)]
    first, again, other = (
        layers.SpectralProjection(kernels, seed=seed).vectors
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first[0], again[0])
    assert np.abs(first[0] - other[0]).max() > 0.01
    assert np.abs(first[0] - first[1]).max() > 0.01
