"""The adversarial game between generator and discriminator (Eq. 3).

Means are over all patches and the batch, of the loss of each patch
(pix2pix-tensorflow), in float32. The paper's losses are logs of probabilities;
the other forms are its future work.
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
      form: "non_saturating", -log D(G(y), y), Algorithm 1 line 4;
        "saturating", log(1 - D(G(y), y)), the generator's side of Eq. 3;
        "lsgan", (l - 1)^2 with the logit l (Mao et al. 2017, a = 0, b = c =
        1, without the halves); "hinge" and "wgan_gp", -l.
      probabilities: "logits" or "epsilon", see `Method`.

    Returns:
      A float32 scalar.
    """
    logits = tf.cast(translated_logits, tf.float32)
    if form == "saturating":
        return -_mean_log_loss(logits, False, probabilities)
    if form == "non_saturating":
        return _mean_log_loss(logits, True, probabilities)
    if form == "lsgan":
        return tf.reduce_mean(tf.square(logits - 1))
    return -tf.reduce_mean(logits)


def discriminator_loss(
    target_logits: tf.Tensor,
    translated_logits: tf.Tensor,
    *,
    form: str = "non_saturating",
    probabilities: str = "logits",
) -> tf.Tensor:
    """-log D(x, y) - log(1 - D(G(y), y)): the sum, not halved.

    Algorithm 1 line 10 prints it without the sign: it is to be maximised
    there and minimised here. The other forms, with logits l of the target and
    m of the translation: "lsgan" (l - 1)^2 + m^2; "hinge" max(0, 1 - l) +
    max(0, 1 + m); "wgan_gp" m - l, to which the penalty comes.

    Args:
      target_logits: [B, h, w, 1], the discriminator on the target.
      translated_logits: [B, h, w, 1], on the translation.
      form: as for `generator_loss`.
      probabilities: "logits" or "epsilon", see `Method`.

    Returns:
      A float32 scalar.
    """
    real = tf.cast(target_logits, tf.float32)
    made = tf.cast(translated_logits, tf.float32)
    if form == "lsgan":
        losses = tf.square(real - 1), tf.square(made)
    elif form == "hinge":
        losses = tf.nn.relu(1 - real), tf.nn.relu(1 + made)
    elif form == "wgan_gp":
        losses = -real, made
    else:
        return _mean_log_loss(real, True, probabilities) + (
            _mean_log_loss(made, False, probabilities)
        )
    return tf.reduce_mean(losses[0]) + tf.reduce_mean(losses[1])


def gradient_penalty(gradients: tf.Tensor) -> tf.Tensor:
    """(||g|| - 1)^2, mean over the batch (Gulrajani et al. 2017, Eq. 3).

    Args:
      gradients: [B, H, W, C], of the discriminator's mean over its patches,
        at images between translation and target. The mean is what the loss
        compares, so it is what must be 1-Lipschitz; that choice is ours, the
        source has no patches.

    Returns:
      A float32 scalar.
    """
    gradients = tf.cast(gradients, tf.float32)
    squared = tf.reduce_sum(tf.square(gradients), axis=[1, 2, 3])
    # The square root's slope at 0 is infinite.
    norms = tf.sqrt(squared + PROBABILITY_EPSILON)
    return tf.reduce_mean(tf.square(norms - 1))


def _mean_log_loss(
    logits: tf.Tensor, is_real: bool, probabilities: str
) -> tf.Tensor:
    """Mean of -log p, or of -log(1 - p) where not `is_real`."""
    if probabilities == "epsilon":
        p = tf.sigmoid(logits)
        # In float32 p is 1 from a logit of 16.64: this form's gradient is 0
        # there, and its largest value 27.63.
        p = p if is_real else 1.0 - p
        return -tf.reduce_mean(tf.math.log(p + PROBABILITY_EPSILON))
    return tf.reduce_mean(tf.nn.softplus(-logits if is_real else logits))
