"""Each method's terms from simple tensors, weighted by hand."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import methods
from medgan_tf.losses import objective
from medgan_tf.models import discriminator

LN2 = math.log(2)
CONTENT_OF_ID_CGAN = 150 / 16_256.25

# Inputs: all logits 0; the translation a ramp of 0.1 a pixel, 0.5 above the
# target; the discriminator's layers 0.5 and 1 apart; VGG-19 features with 8
# channels, constant 2 for the translation, 1 for the target, 3 for the source.
# Style then is 9 / (4 * 64) a layer, or |4 - 9| / 8 in Fila-sGAN's form.
STYLE = 9 / 256
TERMS = {
    "cgan": {"adversarial": LN2},
    "perceptual": {
        "adversarial": LN2,
        "perceptual_pixel": 20 * 0.5,
        "perceptual_features": 20 * (0.5 + 1.0),
    },
    "style_content": {
        "adversarial": LN2,
        "style": 1e-4 * 2 * STYLE,
        "content": 1e-4 * 4,
    },
    "medgan_1g": {
        "adversarial": LN2,
        "perceptual_pixel": 20 * 0.5,
        "perceptual_features": 20 * (0.5 + 1.0),
        "style": 1e-4 * 2 * STYLE,
        "content": 1e-4 * 4,
    },
    "pix2pix": {"adversarial": LN2, "l1": 100 * 0.5},
    "pan": {"adversarial": LN2, "perceptual_features": 5 * 0.5 + 1.5 * 1},
    "id_cgan": {
        "adversarial": LN2,
        "l2": 150 * 0.25,
        "content": CONTENT_OF_ID_CGAN,
    },
    "fila_sgan": {
        "adversarial": LN2,
        "l1": 100 * 0.5,
        "style": 2 * 5 * 5 / 8,
        "content": 1,
        "total_variation": 100 * 0.1,
    },
    "pix2pix_tf": {"adversarial": LN2, "l1": 100 * 0.5},
    "supervised": {"l1": 100 * 0.5},
}
TERMS["medgan"] = TERMS["medgan_1g"]

RAMP = tf.broadcast_to(
    tf.reshape(tf.range(8, dtype=tf.float32) * 0.1, [1, 1, 8, 1]), [1, 8, 8, 1]
)
LOGITS = tf.zeros([1, 6, 6, 1])


def vgg(method, value, dtype=tf.float32):
    return {
        name: tf.fill([1, 4, 4, 8], tf.cast(value, dtype))
        for name in method.vgg_layers
    }


def hidden(method, value, dtype=tf.float32):
    return [
        tf.fill([1, 4, 4, 2], tf.cast(value * i, dtype))
        for i in range(1, method.discriminator_layers + 2)
    ]


def simple_objective(method, dtype=tf.float32):
    style = 3 if method.style_target == "source" else 1
    reference = objective.reference(
        method,
        RAMP - 0.5,
        hidden(method, 0.0, dtype),
        vgg(method, 1, dtype),
        vgg(method, style, dtype),
    )
    return objective.generator_objective(
        method,
        RAMP,
        LOGITS,
        hidden(method, 0.5, dtype),
        vgg(method, 2, dtype),
        reference,
    )


@pytest.mark.parametrize("name", methods.METHODS)
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_a_method_has_exactly_its_terms_weighted_in_float32(name, dtype):
    total, terms = simple_objective(methods.METHODS[name], dtype)
    found = {name: float(term) for name, term in terms.items()}
    assert found == pytest.approx(TERMS[name], rel=1e-4)
    assert float(total) == pytest.approx(sum(TERMS[name].values()), rel=1e-4)
    assert {t.dtype for t in (total, *terms.values())} == {tf.float32}


def test_medgans_total_for_the_known_parts():
    """0.693147 + 20 (0.1 + 0.05 + 0.02) + 1e-4 (1000 + 500) = 4.243147."""
    method = methods.METHODS["medgan"]
    # With one channel of constant value a against 0, style is a^4 / 4 and
    # content a^2 a layer. Style: two layers of 500 each.
    deep = 2000**0.25
    others = math.sqrt((500 - deep**2) / 3)
    values = dict.fromkeys(method.content_layers, others)
    values |= dict.fromkeys(method.style_layers, deep)
    translated = {n: tf.fill([1, 4, 4, 1], v) for n, v in values.items()}
    target = {n: tf.zeros([1, 4, 4, 1]) for n in values}
    zeros = [tf.zeros([1, 8, 8, 1])] * 2
    total, terms = objective.generator_objective(
        method,
        RAMP + 0.1,
        LOGITS,
        [zeros[0] + 0.05, zeros[1] + 0.02],
        translated,
        objective.reference(method, RAMP, zeros, target, target),
    )
    assert float(terms["style"]) == pytest.approx(0.1, rel=1e-5)
    assert float(terms["content"]) == pytest.approx(0.05, rel=1e-5)
    assert float(total) == pytest.approx(4.243147, abs=1e-5)


def test_pix2pixs_worst_translation_costs_two_hundred():
    method = methods.METHODS["pix2pix"]
    ones = tf.ones([1, 8, 8, 1])
    _, terms = objective.generator_objective(
        method,
        ones,
        LOGITS,
        [],
        {},
        objective.reference(method, -ones, [], {}, {}),
    )
    assert float(terms["l1"]) == 200


@pytest.mark.parametrize("name", methods.METHODS)
def test_only_pan_adds_a_hinge_to_the_discriminators_game(name):
    method = methods.METHODS[name]
    total, terms = objective.discriminator_objective(
        method, LOGITS, LOGITS, hidden(method, 0.0), hidden(method, 0.2)
    )
    expected = {"discriminator_adversarial": 2 * LN2}
    if name == "pan":
        # max(0, 3 - 5 * 0.2 - 1.5 * 0.4)
        expected["discriminator_margin"] = 1.4
    found = {name: float(term) for name, term in terms.items()}
    assert found == pytest.approx(expected, rel=1e-5)
    assert float(total) == pytest.approx(sum(expected.values()), rel=1e-5)


@pytest.fixture
def judge():
    """A small discriminator, and the source, target and translation."""
    network = discriminator.PatchDiscriminator(ndf=4)
    images = [
        tf.random.stateless_uniform([1, 16, 16, 1], [seed, 0], -1.0, 1.0)
        for seed in range(3)
    ]
    network(images[0], images[1])
    return network, *images


def test_pans_features_pull_at_the_generator(judge):
    network, source, target, translated = judge
    method = dataclasses.replace(methods.METHODS["pan"], adversarial=0.0)
    _, features = network(source, target)
    with tf.GradientTape() as tape:
        tape.watch(translated)
        total, terms = objective.generator_objective(
            method,
            translated,
            *network(source, translated),
            {},
            objective.reference(method, target, features, {}, {}),
        )
    assert list(terms) == ["perceptual_features"]
    gradient = np.asarray(tape.gradient(total, translated))
    assert np.count_nonzero(gradient) > 200


@pytest.mark.parametrize(("margin", "pulls"), [(1e3, True), (1e-3, False)])
def test_pans_hinge_reaches_the_discriminator_below_the_margin(
    judge, margin, pulls
):
    network, source, target, translated = judge
    method = dataclasses.replace(
        methods.METHODS["pan"], perceptual_margin=margin
    )
    kernels = [kernel.value for kernel in network.kernels]
    with tf.GradientTape() as tape:
        on_target, features = network(source, target)
        on_translated, translated_features = network(source, translated)
        _, terms = objective.discriminator_objective(
            method, on_target, on_translated, features, translated_features
        )
    # The last kernel stands behind the features.
    gradients = tape.gradient(
        terms["discriminator_margin"],
        kernels[:-1],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    for gradient in gradients:
        assert np.asarray(gradient).any() == pulls


def test_the_reference_keeps_only_what_the_method_compares():
    method = methods.METHODS["id_cgan"]
    features = {
        name: tf.ones([1, 4, 4, 8])
        for name in ("block1_conv1", "block2_conv2", "block5_conv1")
    }
    kept = objective.reference(method, RAMP, [], features, features)
    assert len(kept.content_features) == 1
    assert kept.style_grams == [] and kept.discriminator_features == []
