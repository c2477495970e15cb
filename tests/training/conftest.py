"""What every test of training shares."""

import pytest
import tensorflow as tf


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
