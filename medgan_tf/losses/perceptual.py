"""Differences in what the discriminator sees (Eq. 6-7).

The perceptual loss compares the hidden layers of the discriminator for the
translation and for the target, both with the same source.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from medgan_tf.losses import pixel


def perceptual_loss(
    translated_features: Sequence[tf.Tensor],
    target_features: Sequence[tf.Tensor],
    layer_weights: Sequence[float],
) -> tf.Tensor:
    """Sum over layers of lambda_p,i P_i, P_i a mean absolute difference.

    Eq. 6 divides by h w d, the number of features of layer i. Layer 0 is the
    discriminator's input; the source in it cancels, so it is given here as
    the translated and the target image alone (Section 3.2.2: "a pixel loss
    component by calculating the MAE of the raw inputs").

    Args:
      translated_features: [B, h_i, w_i, d_i] each, for the translation.
      target_features: the same shapes, for the target.
      layer_weights: lambda_p,i; a layer of weight 0 costs nothing.

    Returns:
      A float32 scalar.
    """
    terms = [
        weight * pixel.l1_loss(translated, target)
        for weight, translated, target in zip(
            layer_weights, translated_features, target_features, strict=True
        )
        if weight
    ]
    return sum(terms, tf.constant(0.0))


def margin_loss(perceptual: tf.Tensor, margin: float) -> tf.Tensor:
    """PAN's hinge on the discriminator: max(0, m - perceptual loss).

    Wang et al. 2018: the discriminator keeps its features of translation and
    target apart until their difference reaches the margin. Below it the
    gradient reaches the discriminator's weights; above it there is none.

    Args:
      perceptual: scalar, the perceptual loss as a function of the
        discriminator's weights.
      margin: m, positive.
    """
    return tf.nn.relu(margin - perceptual)
