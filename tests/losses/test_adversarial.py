"""The adversarial losses against logarithms by hand."""

import math

import pytest
import tensorflow as tf

from medgan_tf.losses import adversarial


def logits(value, shape=(1, 6, 6, 1)):
    return tf.fill(shape, float(value))


@pytest.mark.parametrize("probabilities", ["logits", "epsilon"])
def test_losses_where_the_discriminator_cannot_tell(probabilities):
    """All patches 0.5: ln 2 for the generator, 2 ln 2 for the other."""
    options = {"probabilities": probabilities}
    generator = adversarial.generator_loss(logits(0), **options)
    both = adversarial.discriminator_loss(logits(0), logits(0), **options)
    assert float(generator) == pytest.approx(0.6931472, abs=1e-6)
    assert float(both) == pytest.approx(1.3862944, abs=1e-6)


def test_epsilon_caps_the_losses_of_a_probability_of_zero():
    options = {"probabilities": "epsilon"}
    no, yes = logits(-200), logits(200)
    assert float(adversarial.generator_loss(no, **options)) == pytest.approx(
        27.6310211, abs=1e-4
    )
    worst = adversarial.discriminator_loss(no, yes, **options)
    assert float(worst) == pytest.approx(55.2620422, abs=1e-4)


def test_logits_have_no_cap():
    assert float(adversarial.generator_loss(logits(-200))) == 200
    assert float(adversarial.discriminator_loss(logits(-5), logits(300))) == (
        pytest.approx(305 + math.log1p(math.exp(-5)), rel=1e-6)
    )


def test_the_loss_is_a_mean_of_losses_not_of_probabilities():
    mixed = tf.reshape(tf.constant([2.0, -2.0]), [1, 1, 2, 1])
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 2
    assert float(adversarial.generator_loss(mixed)) == pytest.approx(
        expected, rel=1e-6
    )
    assert expected > math.log(2) + 0.1


def test_the_mean_goes_over_the_batch_too():
    batch = tf.concat([logits(1), logits(3)], axis=0)
    alone = [float(adversarial.generator_loss(logits(z))) for z in (1, 3)]
    assert float(adversarial.generator_loss(batch)) == pytest.approx(
        sum(alone) / 2, rel=1e-5
    )


@pytest.mark.parametrize("form", ["non_saturating", "saturating"])
def test_both_forms_fall_as_the_discriminator_takes_more_for_real(form):
    values = [
        float(adversarial.generator_loss(logits(z), form=form))
        for z in (-3, 0, 3)
    ]
    assert values[0] > values[1] > values[2]


def test_the_saturating_form_is_the_log_of_one_minus_p():
    found = adversarial.generator_loss(logits(0.5), form="saturating")
    p = 1 / (1 + math.exp(-0.5))
    assert float(found) == pytest.approx(math.log(1 - p), rel=1e-6)
    assert float(found) < 0


def slope(loss, value, **options):
    """Derivative of a loss by the logit of a single patch."""
    z = tf.constant(value, shape=[1, 1, 1, 1])
    with tf.GradientTape() as tape:
        tape.watch(z)
        total = loss(z, **options)
    return float(tf.squeeze(tape.gradient(total, z)))


def test_only_the_non_saturating_form_pulls_at_a_hopeless_translation():
    loss = adversarial.generator_loss
    assert slope(loss, -20.0) == pytest.approx(-1)
    assert abs(slope(loss, -20.0, form="saturating")) < 1e-8


def test_logits_keep_the_slope_that_epsilon_loses():
    """Below about -27.6 the epsilon exceeds the probability."""
    loss = adversarial.generator_loss
    assert slope(loss, -40.0) == pytest.approx(-1)
    assert abs(slope(loss, -40.0, probabilities="epsilon")) < 1e-4


def test_the_discriminator_is_pulled_towards_the_truth():
    loss = adversarial.discriminator_loss
    assert slope(lambda z: loss(z, logits(0)), 0.0) == pytest.approx(-0.5)
    assert slope(lambda z: loss(logits(0), z), 0.0) == pytest.approx(0.5)
    # A float32 sigmoid is 1 here; computed from logits the slope stays.
    assert slope(lambda z: loss(logits(0), z), 30.0) == pytest.approx(1)


def test_losses_of_bfloat16_logits_are_float32():
    rough = tf.cast(logits(0), tf.bfloat16)
    generator = adversarial.generator_loss(rough)
    both = adversarial.discriminator_loss(rough, rough)
    assert generator.dtype == both.dtype == tf.float32
    # In bfloat16 ln 2 would be 0.6914 or 0.6953.
    assert float(generator) == pytest.approx(0.6931472, abs=1e-6)
    assert float(both) == pytest.approx(1.3862944, abs=1e-6)
