"""Adversaries beyond the paper, against numbers by hand and by NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import errors, methods
from medgan_tf.losses import adversarial
from medgan_tf.models import discriminator, layers
from medgan_tf.training import step

SMALL = ("ngf=2", "ndf=2")


def make(*settings, name="cgan", **options):
    method = methods.override(methods.METHODS[name], [*SMALL, *settings])
    return step.Trainer(method, vgg_weights="random", **options)


@pytest.fixture(scope="module")
def images():
    draw = np.random.default_rng(0).uniform(-1, 1, (2, 1, 256, 256, 1))
    return tf.unstack(tf.constant(draw, tf.float32))


@pytest.fixture
def eagerly():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def constant(*values):
    return tf.constant(values, tf.float32)[None, None, :, None]


@pytest.mark.parametrize(
    ("form", "generator", "both"),
    [
        # Logits 2 and -1 of the target, 0.5 and -3 of the translation.
        # G: (-0.5)^2, (-4)^2. D: 1^2, (-2)^2 and 0.5^2, (-3)^2.
        ("lsgan", (0.25 + 16) / 2, (1 + 4) / 2 + (0.25 + 9) / 2),
        # G: -0.5, 3. D: max(0, -1), max(0, 2) and 1.5, max(0, -2).
        ("hinge", (-0.5 + 3) / 2, (0 + 2) / 2 + (1.5 + 0) / 2),
        # D: -2, 1 and 0.5, -3.
        ("wgan_gp", (-0.5 + 3) / 2, (-2 + 1) / 2 + (0.5 - 3) / 2),
    ],
)
def test_the_losses_by_hand(form, generator, both):
    target, translated = constant(2, -1), constant(0.5, -3)
    found = adversarial.generator_loss(translated, form=form)
    assert float(found) == pytest.approx(generator)
    found = adversarial.discriminator_loss(target, translated, form=form)
    assert float(found) == pytest.approx(both)


def test_the_hinge_has_no_gradient_beyond_its_margin():
    logits = constant(1.5, 0.5)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = adversarial.discriminator_loss(
            logits, constant(-2, -2), form="hinge"
        )
    assert tape.gradient(loss, logits).numpy().ravel().tolist() == [0, -0.5]


def test_the_penalty_is_the_distance_of_the_gradient_from_length_one():
    # Of length 5 and of length 0, which has a slope too.
    gradients = tf.reshape(tf.constant([3.0, 4.0, 0.0, 0.0]), [2, 1, 2, 1])
    with tf.GradientTape() as tape:
        tape.watch(gradients)
        penalty = adversarial.gradient_penalty(gradients)
    assert float(penalty) == pytest.approx(((5 - 1) ** 2 + 1) / 2, rel=1e-5)
    assert np.isfinite(tape.gradient(penalty, gradients)).all()


def test_the_gradient_between_two_images_is_that_of_finite_differences(images):
    trainer = make("adversarial_form=wgan_gp")
    source, target = images
    translated = trainer.generator(source)
    places = tf.constant(0.3, shape=[1, 1, 1, 1])
    gradient = trainer._gradients_between(source, target, translated, places)

    def value(image):
        logits, _ = trainer.discriminator(source, image)
        return float(tf.reduce_mean(logits))

    image = target + 0.3 * (translated - target)
    direction = 0.2 * gradient / tf.norm(gradient)
    slope = (value(image + direction) - value(image - direction)) / 0.4
    assert slope == pytest.approx(float(tf.norm(gradient)), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "norm"),
    [
        ("saturating", "projection"),
        ("lsgan", "reparam"),
        ("hinge", "reparam"),
        ("hinge", "none"),
        ("wgan_gp", "projection"),
        ("wgan_gp", "reparam"),
    ],
)
def test_every_form_takes_steps_that_change_both_networks(images, form, norm):
    trainer = make(
        f"adversarial_form={form}",
        f"spectral_norm={norm}",
        "generator_updates=1",
    )
    before = [
        [w.numpy() for w in network.trainable_weights]
        for network in (trainer.generator, trainer.discriminator)
    ]
    for _ in range(2):
        terms = trainer.train_step(*images)
    assert all(np.isfinite(float(value)) for value in terms.values())
    assert ("discriminator_gradient_penalty" in terms) == (form == "wgan_gp")
    for network, old in zip(
        (trainer.generator, trainer.discriminator), before, strict=True
    ):
        for weight, value in zip(network.trainable_weights, old, strict=True):
            # What it adds to both sides of a difference cancels.
            if weight.path == "discriminator/layer_3/bias":
                continue
            assert not np.array_equal(weight.numpy(), value), weight.path


def test_the_penalty_reaches_the_discriminators_weights(eagerly, images):
    """Its gradient goes through a gradient."""
    with_penalty = make("adversarial_form=wgan_gp", "spectral_norm=none")
    without = make(
        "adversarial_form=wgan_gp", "spectral_norm=none", "gradient_penalty=0"
    )
    source, target = images
    inputs = source, target, source * 0.5, tf.constant(0.5, shape=[1, 1, 1, 1])
    found = [
        trainer._part_gradients(("discriminator",), inputs, 1)[0][0]
        for trainer in (with_penalty, without)
    ]
    kernels = [gradients[0].numpy() for gradients in found]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


def test_a_reparametrised_kernel_has_norm_one_where_it_is_used(images):
    network = discriminator.PatchDiscriminator(1, 4, spectral=True)
    source, target = images
    network(source, target)
    network.advance(100)
    layer = network.hidden[1]
    matrix = layer.kernel.numpy().reshape(-1, layer.filters)
    expected = np.linalg.svd(matrix, compute_uv=False)[0]
    sigma = layers.spectral_norm(
        layer._matrix(layer.kernel), layer.vector.value
    )
    assert float(sigma) == pytest.approx(expected, rel=1e-4)
    # Twice the kernel is the same convolution.
    image = tf.random.stateless_normal([1, 8, 8, 4], [0, 0])
    once = layer(image)
    layer.kernel.assign(2 * layer.kernel)
    np.testing.assert_allclose(layer(image), once, rtol=1e-4, atol=1e-6)


def test_the_gradient_of_the_spectral_norm_is_the_outer_product():
    """d sigma / d W = v^T u, from the singular vectors of NumPy."""
    values = np.random.default_rng(0).normal(size=(6, 3))
    left, _, right = np.linalg.svd(values)
    matrix = tf.constant(values, tf.float32)
    u = tf.constant(right[:1], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(matrix)
        sigma = layers.spectral_norm(matrix, u)
    np.testing.assert_allclose(
        tape.gradient(sigma, matrix),
        np.outer(left[:, 0], right[0]),
        atol=1e-5,
    )


def test_the_vectors_of_reparametrisation_are_in_the_checkpoint():
    trainer = make("spectral_norm=reparam")
    names = trainer.checkpointable["discriminator"]
    assert sum("spectral_vector" in name for name in names) == 3
    assert trainer.projection is None


def test_supervised_never_asks_the_discriminator(eagerly, images, monkeypatch):
    trainer = make(name="supervised")
    before = [w.numpy() for w in trainer.discriminator.weights]

    def refuse(*arguments):
        raise AssertionError("asked")

    monkeypatch.setattr(trainer.discriminator, "call", refuse)
    terms = trainer.train_step(*images)
    assert terms.keys() == {"l1", "generator_total"}
    for weight, value in zip(
        trainer.discriminator.weights, before, strict=True
    ):
        np.testing.assert_array_equal(weight.numpy(), value)
    assert trainer.step == 1


def test_the_learning_rate_falls_to_zero_over_its_share_of_the_run(
    eagerly, images
):
    trainer = make("learning_rate_decay=0.5", name="supervised", num_steps=4)
    rates = []
    for _ in range(4):
        trainer.train_step(*images)
        rates.append(float(trainer.generator_optimizer.learning_rate))
    # 4, 3, 2, 1 steps are left; the last two of four count down.
    np.testing.assert_allclose(rates, [2e-4, 2e-4, 2e-4, 1e-4], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["adversarial_form=lsgan", "probabilities=epsilon"], "probabilities"),
        (["learning_rate_decay=1.5"], "share of the run"),
        (
            [
                "adversarial_form=wgan_gp",
                "update_order=simultaneous",
                "generator_updates=1",
            ],
            "generator_first",
        ),
        (["adversarial_form=cycle"], "non_saturating, saturating, lsgan"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        methods.override(methods.METHODS["cgan"], settings)


def test_drawn_places_do_not_add_up_over_devices():
    method = methods.override(
        methods.METHODS["cgan"], ["adversarial_form=wgan_gp"]
    )
    with pytest.raises(errors.UsageError, match="--distribute=none"):
        step._check_divisible(method, 1, 2, False, 1)
