"""What every test of training shares."""

import pytest
import tensorflow as tf
from tensorflow.python.framework import ops


@pytest.fixture(autouse=True, scope="package")
def graphs_as_they_are():
    """Few steps do not earn the seconds in which TensorFlow rewrites a graph.

    Scripts that a test starts rewrite theirs.
    """
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )
    yield
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": False}
    )


@pytest.fixture(autouse=True)
def forgotten_graphs():
    """What a test has traced goes with it, some hundred MB for a training.

    TensorFlow keeps the function of every custom gradient it has traced, and
    with it the graph.
    """
    yield
    registry = ops.gradient_registry._registry
    for name in [
        name for name in registry if name.startswith("CustomGradient")
    ]:
        del registry[name]
