"""The adversarial game between generator and discriminator (Eq. 3).

Means are over all patches and the batch, of the loss of each patch
(pix2pix-tensorflow), in float32.
"""

from __future__ import annotations

import tensorflow as tf

# Inside each log of a probability, as in pix2pix-tensorflow.
PROBABILITY_EPSILON = 1e-12


def generator_loss(
    translated_logits: tf.Tensor,
    *,
    form: str = "non_saturating",
    probabilities: str = "logits",
) -> tf.Tensor:
    """How far the discriminator is from taking translations for real.

    Args:
      translated_logits: [B, h, w, 1], the discriminator on the translation.
      form: "non_saturating", -log D(G(y), y), Algorithm 1 line 4; or
        "saturating", log(1 - D(G(y), y)), the generator's side of Eq. 3.
      probabilities: "logits" or "epsilon", see `Method`.

    Returns:
      A float32 scalar.
    """
    if form == "saturating":
        return -_mean_loss(translated_logits, False, probabilities)
    return _mean_loss(translated_logits, True, probabilities)


def discriminator_loss(
    target_logits: tf.Tensor,
    translated_logits: tf.Tensor,
    *,
    probabilities: str = "logits",
) -> tf.Tensor:
    """-log D(x, y) - log(1 - D(G(y), y)): the sum, not halved.

    Algorithm 1 line 10 prints it without the sign: it is to be maximised
    there and minimised here.

    Args:
      target_logits: [B, h, w, 1], the discriminator on the target.
      translated_logits: [B, h, w, 1], on the translation.
      probabilities: "logits" or "epsilon", see `Method`.

    Returns:
      A float32 scalar.
    """
    return _mean_loss(target_logits, True, probabilities) + (
        _mean_loss(translated_logits, False, probabilities)
    )


def _mean_loss(
    logits: tf.Tensor, is_real: bool, probabilities: str
) -> tf.Tensor:
    """Mean of -log p, or of -log(1 - p) where not `is_real`."""
    logits = tf.cast(logits, tf.float32)
    if probabilities == "epsilon":
        p = tf.sigmoid(logits)
        # In float32 p is 1 from a logit of 16.64: this form's gradient is 0
        # there, and its largest value 27.63.
        p = p if is_real else 1.0 - p
        return -tf.reduce_mean(tf.math.log(p + PROBABILITY_EPSILON))
    return tf.reduce_mean(tf.nn.softplus(-logits if is_real else logits))
