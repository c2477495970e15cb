"""What the tests of the networks share: counting without making weights."""

from collections.abc import Callable

import pytest
import tensorflow as tf


@pytest.fixture
def count() -> Callable[..., tuple[int, int]]:
    """Returns parameters and variables of the network that `make` returns.

    Because the networks are built symbolically, 326 million weights cost
    neither memory nor a forward pass.
    """

    def parameters_and_variables(make, *shapes):
        with tf.Graph().as_default():
            network = make()
            network(*[tf.zeros(shape) for shape in shapes])
            return network.count_params(), len(network.weights)

    return parameters_and_variables
