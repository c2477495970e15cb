"""The row `pix2pix_tf` against pix2pix-tensorflow's own numbers.

The golden file was made by that program with 4 filters instead of 64 and its
dropout switched off (tests/golden/README.md).

Reading a generator gradient of that program trains its discriminator, through
a control dependency. The file was recorded in three runs that
did so: its weights `before` are from before the first, its predictions, losses
and gradients from the second, its weights `after` from the end of the third.
The steps show it: `after` lies up to 3.2 learning rates from `before`, and an
Adam step is about one. So the discriminator is compared after one and after
three updates by ours, with tolerances that allow for that program's race
between a layer's update and the backward pass that still reads it; what does
not depend on the discriminator is compared to 1e-4.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import methods
from medgan_tf.losses import objective
from medgan_tf.training import step

METHOD = dataclasses.replace(
    methods.METHODS["pix2pix_tf"], ngf=4, ndf=4, dropout=0.0
)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def numbers(golden):
    with np.load(golden / "pix2pix_tensorflow_ngf4.npz") as stored:
        return dict(stored)


@pytest.fixture
def trainer(numbers):
    trainer = step.Trainer(METHOD, source_channels=3, target_channels=3)
    for name, variable in named_variables(trainer).items():
        variable.assign(numbers[f"before/{name}"])
    return trainer


@pytest.fixture(scope="module")
def images(numbers):
    return [tf.constant(numbers[n], tf.float32) for n in ("source", "target")]


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


def gradients(trainer, source, target):
    """Each variable's gradient of its own network's loss, and the losses."""
    named = named_variables(trainer)
    with tf.GradientTape(persistent=True) as tape:
        translated = trainer.generator(source)
        logits, features = trainer.discriminator(source, translated)
        target_logits, target_features = trainer.discriminator(source, target)
        generator_total, terms = objective.generator_objective(
            METHOD,
            translated,
            logits,
            features,
            {},
            objective.reference(METHOD, target, [], {}, {}),
        )
        discriminator_total, _ = objective.discriminator_objective(
            METHOD, target_logits, logits, target_features, features
        )
    found = {
        name: tape.gradient(
            generator_total
            if name.startswith("generator")
            else discriminator_total,
            variable.value,
        )
        for name, variable in named.items()
    }
    return found, (discriminator_total, terms["adversarial"], terms["l1"] / 100)


def stands_before_a_norm(name, names):
    """Whether this bias is cancelled by the mean that the norm subtracts."""
    layer = name.rsplit("/", 2)[0]
    return name.endswith("/bias") and (
        f"{layer}/batch_normalization/gamma" in names
    )


def test_every_variable_of_the_program_is_ours_and_no_other(trainer, numbers):
    theirs = {
        name.removeprefix("before/")
        for name in numbers
        if name.startswith("before/")
    }
    assert set(named_variables(trainer)) == theirs
    assert len(theirs) == 76


def update_discriminator(trainer, images, num_updates):
    """Brings our discriminator to where the program's was."""
    for _ in range(num_updates):
        trainer._update_discriminator(*images, trainer.generator(images[0]))


def test_translations_are_equal(trainer, images, numbers):
    np.testing.assert_allclose(
        trainer.generator(images[0]), numbers["outputs"], atol=TOLERANCE
    )


def test_losses_are_equal(trainer, images, numbers):
    update_discriminator(trainer, images, 1)
    _, losses = gradients(trainer, *images)
    np.testing.assert_allclose(
        losses, numbers["losses_discrim_gan_l1"], atol=TOLERANCE
    )


def test_predictions_are_equal(trainer, images, numbers):
    source, target = images
    update_discriminator(trainer, images, 1)
    translated = trainer.generator(source)
    for image, name in ((target, "real"), (translated, "fake")):
        logits, _ = trainer.discriminator(source, image)
        expected = numbers[f"predict_{name}"]
        difference = np.abs(tf.sigmoid(logits) - expected)
        assert difference.max() < 2e-3
        # The first update alone moves them twenty times as far.
        assert difference.mean() < 5e-4


def test_gradients_are_equal(trainer, images, numbers):
    update_discriminator(trainer, images, 1)
    found, _ = gradients(trainer, *images)
    for name, gradient in found.items():
        if stands_before_a_norm(name, found):
            continue
        # The race reaches the discriminator's front layers most.
        tolerance = 5e-3 if name.startswith("generator") else 0.07
        norm = numbers[f"grad_norm/{name}"][0]
        np.testing.assert_allclose(
            np.linalg.norm(gradient), norm, rtol=tolerance, err_msg=name
        )
    for name in ("kernel", "bias"):
        name = f"discriminator/layer_5/conv2d/{name}"
        np.testing.assert_allclose(
            np.linalg.norm(found[name]),
            numbers[f"grad_norm/{name}"][0],
            rtol=1e-3,
            err_msg=name,
        )


def test_three_updates_move_the_discriminator_alike(trainer, images, numbers):
    update_discriminator(trainer, images, 3)
    named = named_variables(trainer)
    for name, variable in named.items():
        if name.startswith("generator") or stands_before_a_norm(name, named):
            continue
        difference = np.abs(variable.numpy() - numbers[f"after/{name}"]).mean()
        moved = np.abs(numbers[f"after/{name}"] - numbers[f"before/{name}"])
        assert difference < 0.1 * moved.mean(), name


def test_the_discriminator_equals_the_program_written_out(
    trainer, images, numbers
):
    """Layer by layer as that program builds it, with nothing of ours."""
    weight = {
        name.removeprefix("before/discriminator/"): value
        for name, value in numbers.items()
        if name.startswith("before/discriminator/")
    }
    x = tf.concat(images, axis=-1)
    for i in range(1, 6):
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
        x = tf.nn.conv2d(
            x, weight[f"layer_{i}/conv2d/kernel"], 2 if i < 4 else 1, "VALID"
        )
        x += weight[f"layer_{i}/conv2d/bias"]
        if 1 < i < 5:
            mean, variance = tf.nn.moments(x, [0, 1, 2], keepdims=True)
            x = (x - mean) / tf.sqrt(variance + 1e-5)
            x *= weight[f"layer_{i}/batch_normalization/gamma"]
            x += weight[f"layer_{i}/batch_normalization/beta"]
        if i < 5:
            x = tf.maximum(x, 0.2 * x)
    np.testing.assert_allclose(trainer.discriminator(*images)[0], x, atol=1e-5)


def test_a_step_moves_the_generator_about_alike(trainer, images, numbers):
    before = {n: v.numpy() for n, v in named_variables(trainer).items()}
    trainer.train_step(*images)
    for name, variable in named_variables(trainer).items():
        if not name.startswith("generator") or name.endswith("bias"):
            continue
        # Loosely: the program takes the generator's gradient while it
        # updates the discriminator, we before either update.
        change = np.abs(variable.numpy() - before[name]).mean()
        expected = numbers[f"after_delta/{name}"][0]
        np.testing.assert_allclose(
            change, expected, rtol=0.02, atol=1e-7, err_msg=name
        )
