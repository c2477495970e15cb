"""Differences between images, pixel by pixel, in float32 (Eq. 4)."""

from __future__ import annotations

import tensorflow as tf

from medgan_tf import fan_out


def l1_loss(translated: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Mean absolute difference (Eq. 4); 0 to 2 for images in [-1, 1].

    Args:
      translated: any shape, here [B, H, W, C].
      target: the same shape.
    """
    return tf.reduce_mean(tf.abs(_difference(translated, target)))


def l2_loss(translated: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Mean squared difference; 0 to 4 for images in [-1, 1].

    Args:
      translated: any shape, here [B, H, W, C].
      target: the same shape.
    """
    return tf.reduce_mean(tf.square(_difference(translated, target)))


def total_variation_loss(image: tf.Tensor) -> tf.Tensor:
    """Mean |step between rows| plus mean |step between columns|.

    As in Fila-sGAN (Zhao et al. 2017).

    Args:
      image: [B, H, W, C].
    """
    below, above, right, left = fan_out.readers(tf.cast(image, tf.float32), 4)
    rows = tf.abs(below[:, 1:] - above[:, :-1])
    columns = tf.abs(right[:, :, 1:] - left[:, :, :-1])
    return tf.reduce_mean(rows) + tf.reduce_mean(columns)


def _difference(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    return tf.cast(first, tf.float32) - tf.cast(second, tf.float32)
