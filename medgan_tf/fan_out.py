"""A tensor with several readers, so that training is the same bit by bit.

Each reader sends back a gradient. Two give the same sum in any order; of three
or more, TensorFlow begins with the one whose memory is free first, so the last
bit depends on what else the machine does. No tensor of ours that gradients go
through has more than two readers, but for the penalty of `wgan_gp`.
"""

from __future__ import annotations

import tensorflow as tf


def readers(tensor: tf.Tensor, count: int) -> list[tf.Tensor]:
    """The tensor once for each reader; gradients are added two at a time."""
    copies = [tensor]
    for _ in range(count - 1):
        copies.append(tf.identity(copies[-1]))
    return copies
