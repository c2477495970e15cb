"""What a training adds up does not depend on which number is ready first."""

import pytest
import tensorflow as tf

from medgan_tf import errors, methods, tasks
from medgan_tf.training import config as configs
from medgan_tf.training import loop
from medgan_tf.training import step as steps

SMALL = ["num_u_blocks=1", "ngf=1", "ndf=1"]


def sums_of_many(trainer):
    """Names of the additions of three or more arrays in a traced step."""
    image = tf.TensorSpec([1, 256, 256, 1])
    step = trainer.train_step.get_concrete_function(image, image)
    graph = step.graph.as_graph_def()
    functions = [f.node_def for f in graph.library.function]
    return [
        node.name
        for nodes in (graph.node, *functions)
        for node in nodes
        if node.op == "AddN"
        and node.attr["N"].i > 2
        # Only whether this one is finite matters.
        and not node.input[0].startswith("L2Loss")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "options"),
    [
        ("medgan", [], {"recompute": True}),
        ("medgan", ["spectral_norm=reparam"], {}),
        ("pan", [], {}),
        ("id_cgan", [], {}),
        ("fila_sgan", [], {}),
        ("pix2pix_tf", [], {}),
    ],
)
def test_no_more_than_two_gradients_are_added_at_once(name, settings, options):
    """In float32, where instance norm is not one operation of TensorFlow."""
    method = methods.override(methods.METHODS[name], SMALL + settings)
    trainer = steps.Trainer(method, vgg_weights="random", **options)
    assert not sums_of_many(trainer)


def test_a_penalty_adds_three_gradients_and_is_refused(tmp_path, write_records):
    dataset = write_records(tmp_path / "data", ["train"])
    method = methods.override(
        methods.METHODS["cgan"], [*SMALL, "adversarial_form=wgan_gp"]
    )
    trainer = steps.Trainer(method)
    assert sums_of_many(trainer)
    with pytest.raises(errors.UsageError, match="--nodeterministic"):
        loop.train(
            tasks.TASKS["mr_ct"],
            method,
            configs.TrainConfig(deterministic=True),
            dataset,
            tmp_path / "run",
            progress=None,
        )
    assert not (tmp_path / "run").exists()
