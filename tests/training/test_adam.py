"""FusedAdam against arithmetic by hand and against Keras's own Adam."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from medgan_tf.training import adam


@pytest.mark.parametrize(
    ("gradient", "epsilon", "expected"),
    [
        (1.0, 1e-8, 1.9999994e-4),
        (1e-6, 1e-8, 1.519e-4),
        (1e-6, 1e-7, 4.805e-5),
    ],
)
def test_first_step_has_the_known_size(gradient, epsilon, expected):
    variable = keras.Variable([0.0])
    optimizer = adam.FusedAdam(2e-4, beta_1=0.5, epsilon=epsilon)
    optimizer.apply([tf.constant([gradient])], [variable])
    np.testing.assert_allclose(-variable.numpy()[0], expected, rtol=2e-3)


def test_ten_steps_equal_those_of_keras():
    rng = np.random.default_rng(0)
    start = rng.normal(size=(5, 3)).astype("float32")
    variables = keras.Variable(start), keras.Variable(start)
    options = {"learning_rate": 0.01, "beta_1": 0.5, "epsilon": 1e-8}
    ours = adam.FusedAdam(**options)
    keras_adam = keras.optimizers.Adam(**options)
    for _ in range(10):
        gradient = tf.constant(rng.normal(size=(5, 3)), tf.float32)
        ours.apply([gradient], [variables[0]])
        keras_adam.apply([gradient], [variables[1]])
    np.testing.assert_allclose(
        variables[0].numpy(), variables[1].numpy(), atol=1e-6
    )
    assert int(ours.iterations) == 10
