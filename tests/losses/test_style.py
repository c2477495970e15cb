"""Gram matrices, style and content by hand."""

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf.losses import style

COUNTING = np.arange(8, dtype="float32").reshape(1, 2, 2, 2)
GRAM = [[7.0, 8.5], [8.5, 10.5]]


def constant(value, depth, batch_size=1):
    return tf.fill([batch_size, 4, 4, depth], float(value))


def style_of(translated, target, **options):
    return float(
        style.style_loss(
            [style.gram_matrix(translated)],
            [style.gram_matrix(target)],
            **options,
        )
    )


def test_the_gram_matrix_of_zero_to_seven():
    np.testing.assert_array_equal(style.gram_matrix(COUNTING), [GRAM])


def test_each_image_of_a_batch_has_a_gram_matrix_of_its_own():
    batch = tf.concat([COUNTING, 2 * COUNTING], axis=0)
    found = style.gram_matrix(batch)
    np.testing.assert_array_equal(found[0], GRAM)
    np.testing.assert_array_equal(found[1], 4 * np.array(GRAM))


def test_style_ignores_where_a_pattern_stands_and_content_does_not():
    shuffled = COUNTING[:, ::-1, ::-1]
    assert style_of(COUNTING, shuffled) == 0
    assert float(style.content_loss([COUNTING], [shuffled])) > 0


@pytest.mark.parametrize(
    ("depth", "loss"),
    [(8, 0.03515625), (64, 5.4931640625e-4), (512, 8.58306884765625e-6)],
)
def test_style_of_constant_features_two_and_one(depth, loss):
    """9 / (4 d^2)."""
    found = style_of(constant(2, depth), constant(1, depth))
    assert found == pytest.approx(loss, rel=1e-5)


def test_style_and_content_where_one_channel_of_eight_differs():
    two, one = (
        tf.concat([constant(value, 1), constant(0, 7)], axis=-1)
        for value in (2, 1)
    )
    assert style_of(two, one) == pytest.approx(5.4931640625e-4)
    assert float(style.content_loss([two], [one])) == 0.125


def test_zero_to_seven_against_zeros():
    zeros = np.zeros_like(COUNTING)
    assert style_of(COUNTING, zeros) == pytest.approx(18.984375)
    assert float(style.content_loss([COUNTING], [zeros])) == 17.5
    absolute = {"form": "mean_absolute"}
    assert float(style.content_loss([COUNTING], [zeros], **absolute)) == 3.5
    # (7 + 8.5 + 8.5 + 10.5) / 4
    assert style_of(COUNTING, zeros, **absolute) == 8.625


def test_layers_are_added_up():
    pairs = [(constant(2, d), constant(1, d)) for d in (8, 64)]
    grams = [[style.gram_matrix(f) for f in pair] for pair in pairs]
    found = style.style_loss(*zip(*grams, strict=True))
    assert float(found) == pytest.approx(0.03515625 + 5.4931640625e-4)
    assert float(style.content_loss(*zip(*pairs, strict=True))) == 2


@pytest.mark.parametrize("form", ["paper", "mean_absolute"])
def test_the_style_loss_of_a_batch_is_the_mean_of_its_images(form):
    first = tf.random.stateless_normal([2, 4, 4, 3], [0, 1])
    second = tf.random.stateless_normal([2, 4, 4, 3], [0, 2])
    alone = [
        style_of(first[i : i + 1], second[i : i + 1], form=form)
        for i in range(2)
    ]
    assert style_of(first, second, form=form) == pytest.approx(
        sum(alone) / 2, rel=1e-5
    )


def test_bfloat16_features_are_multiplied_and_added_in_float32():
    """A sum of 4096 ones in bfloat16 would stop at 256."""
    rough = tf.ones([1, 64, 64, 2], tf.bfloat16)
    gram = style.gram_matrix(rough)
    assert gram.dtype == tf.float32
    np.testing.assert_array_equal(gram, np.full([1, 2, 2], 0.5))
    content = style.content_loss([rough], [0 * rough])
    assert content.dtype == tf.float32
    assert float(content) == 1
