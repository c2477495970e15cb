"""The row `pix2pix_tf` against pix2pix-tensorflow's own numbers.

The golden file was made by that program's model, with 4 filters instead of 64
and without its dropout (tests/golden/README.md), hence the 0 below. We start
from its weights and show the same images.

Compared are the variables that have a gradient in the file. It leaves out
biases directly before a norm: its mean cancels them, so their gradients, and
the steps that Adam makes of these, are rounding noise.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import methods
from medgan_tf.training import step

METHOD = dataclasses.replace(
    methods.METHODS["pix2pix_tf"], ngf=4, ndf=4, dropout=0.0
)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def numbers(golden):
    with np.load(golden / "pix2pix_tensorflow_ngf4.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def images(numbers):
    return [tf.constant(numbers[n], tf.float32) for n in ("source", "target")]


@pytest.fixture(scope="module")
def evaluated(numbers, images):
    """What the file holds of the first weights, as we compute it."""
    return evaluate(trainer_before(numbers), *images)


@pytest.fixture(scope="module")
def stepped(numbers, images):
    """Our variables after a whole training step."""
    trainer = trainer_before(numbers)
    trainer.train_step(*images)
    return named_variables(trainer)


def trainer_before(numbers):
    """A Trainer with the weights that the program started from."""
    trainer = step.Trainer(METHOD, source_channels=3, target_channels=3)
    for name, variable in named_variables(trainer).items():
        variable.assign(numbers[f"before/{name}"])
    return trainer


def named_variables(trainer):
    """Our variables under pix2pix-tensorflow's names."""
    variables = {}
    for network in (trainer.generator, trainer.discriminator):
        for variable in network.trainable_variables:
            *_, layer, part = variable.path.split("/")
            kind = "batch_normalization"
            if not layer.endswith("_norm"):
                kind = "conv2d" + "_transpose" * layer.startswith("decoder")
            layer = layer.removesuffix("_norm")
            variables[f"{network.name}/{layer}/{kind}/{part}"] = variable
    return variables


def evaluate(trainer, source, target):
    compared_with = trainer._reference(source, target)
    with tf.GradientTape(persistent=True) as tape:
        on_target = trainer.discriminator(source, target)
        generator_total, terms, *on_translated = trainer._generator_objective(
            source, compared_with
        )
        discriminator_total, _ = trainer._discriminator_objective(
            on_target, on_translated
        )
    found = {
        "outputs": trainer.generator(source),
        "predict_real": tf.sigmoid(on_target[0]),
        "predict_fake": tf.sigmoid(on_translated[0]),
        "losses_discrim_gan_l1": [
            discriminator_total,
            terms["adversarial"] / METHOD.adversarial,
            terms["l1"] / METHOD.l1,
        ],
    }
    named = named_variables(trainer)
    for network, total in (
        ("generator", generator_total),
        ("discriminator", discriminator_total),
    ):
        values = {
            f"grad/{name}": variable.value
            for name, variable in named.items()
            if name.startswith(network)
        }
        found |= tape.gradient(total, values)
    return found


def compared(numbers, network):
    """The variables of a network to compare; of both for ""."""
    names = [n.removeprefix("grad/") for n in numbers if n.startswith("grad/")]
    return [name for name in names if name.startswith(network)]


def assert_discriminator_is_as_after(variables, numbers):
    for name in compared(numbers, "discriminator"):
        after = numbers[f"after/{name}"]
        moved = np.abs(after - numbers[f"before/{name}"]).mean()
        difference = np.abs(variables[name].numpy() - after).mean()
        assert difference < TOLERANCE * moved, name


def test_every_variable_of_the_program_is_ours_and_no_other(stepped, numbers):
    ours = {f"before/{name}" for name in stepped}
    assert ours == {name for name in numbers if name.startswith("before/")}
    assert len(ours) == 76


@pytest.mark.parametrize(
    "name", ["outputs", "predict_real", "predict_fake", "losses_discrim_gan_l1"]
)
def test_predictions_and_losses_are_equal(evaluated, numbers, name):
    np.testing.assert_allclose(
        evaluated[name], numbers[name], rtol=0, atol=TOLERANCE
    )


def test_gradients_are_equal(evaluated, numbers):
    names = compared(numbers, "")
    assert len(names) == 76 - 17
    for name in names:
        gradient = numbers[f"grad/{name}"]
        difference = np.linalg.norm(evaluated[f"grad/{name}"] - gradient)
        # Not <: around the single pixel of encoder_8 both are exactly 0.
        assert difference <= TOLERANCE * np.linalg.norm(gradient), name


def test_an_update_moves_the_discriminator_alike(numbers, images):
    trainer = trainer_before(numbers)
    source, target = images
    trainer._update_discriminator(source, target, trainer.generator(source))
    assert_discriminator_is_as_after(named_variables(trainer), numbers)


def test_a_step_moves_the_discriminator_alike(stepped, numbers):
    """Because its gradient is taken before the generator's update."""
    assert_discriminator_is_as_after(stepped, numbers)


def test_a_step_moves_the_generator_alike(stepped, numbers):
    """Back through the updated discriminator it would be up to 3e-3 off."""
    for name in compared(numbers, "generator"):
        change = stepped[name].numpy() - numbers[f"before/{name}"]
        np.testing.assert_allclose(
            [np.abs(change).mean(), change.flat[0], change.flat[-1]],
            numbers[f"after_step/{name}"],
            rtol=TOLERANCE,
            atol=TOLERANCE * METHOD.learning_rate,
            err_msg=name,
        )
