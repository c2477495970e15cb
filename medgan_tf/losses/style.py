"""Differences in texture and content, seen by VGG-19 (Eq. 9-11).

Products and sums in float32 whatever the precision of the features.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from medgan_tf.losses import pixel


def gram_matrix(features: tf.Tensor) -> tf.Tensor:
    """Correlations between feature channels, divided by h w d (Eq. 9).

    Args:
      features: [B, h, w, d].

    Returns:
      float32 [B, d, d], one matrix for each image of the batch.
    """
    h, w, d = features.shape[1:]
    flat = tf.reshape(tf.cast(features, tf.float32), [-1, h * w, d])
    return tf.matmul(flat, flat, transpose_a=True) / float(h * w * d)


def style_loss(
    translated_grams: Sequence[tf.Tensor],
    reference_grams: Sequence[tf.Tensor],
    *,
    form: str = "paper",
) -> tf.Tensor:
    """Sum over layers of the difference between Gram matrices (Eq. 10).

    Args:
      translated_grams: [B, d_j, d_j] each, of the translation.
      reference_grams: the same shapes, of the image that gives the style.
      form: "paper", 1 / (4 d^2) times the squared Frobenius norm, the mean
        over the batch; "mean_absolute", as in Fila-sGAN.

    Returns:
      A float32 scalar.
    """
    if form == "mean_absolute":
        difference = pixel.l1_loss
    else:
        # The mean over d x d entries is the squared norm divided by d^2.
        def difference(a, b):
            return pixel.l2_loss(a, b) / 4.0

    return sum(
        difference(translated, reference)
        for translated, reference in zip(
            translated_grams, reference_grams, strict=True
        )
    )


def content_loss(
    translated_features: Sequence[tf.Tensor],
    target_features: Sequence[tf.Tensor],
    *,
    form: str = "mean_squared",
) -> tf.Tensor:
    """Sum over layers of the difference between features (Eq. 11).

    Eq. 11 is a squared Frobenius norm divided by h w d: a mean square.

    Args:
      translated_features: [B, h_j, w_j, d_j] each, of the translation.
      target_features: the same shapes, of the target.
      form: "mean_squared" or "mean_absolute".

    Returns:
      A float32 scalar.
    """
    difference = pixel.l2_loss if form == "mean_squared" else pixel.l1_loss
    return sum(
        difference(translated, target)
        for translated, target in zip(
            translated_features, target_features, strict=True
        )
    )
