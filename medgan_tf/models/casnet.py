"""CasNet: U-blocks in a row, each refining the image of the one before.

Section 2.4.2. Each block sees only the image of the block before it (the
paper stresses that there are no identity mappings); the losses see only the
last.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from medgan_tf.models import u_block


class CasNet(keras.Model):
    """The generator: `num_u_blocks` complete U-blocks, end to end.

    Input [B, H, W, C_in] with H and W multiples of 256 and values in
    [-1, 1]; output [B, H, W, out_channels] in [-1, 1], float32.

    Args:
      num_u_blocks: six in the paper.
      out_channels: channels of the translated image, and of the images
        between the blocks.
      ngf, bottleneck_norm, dropout, dtype: see UBlock.
      recompute: a gradient computes each block again and keeps only the
        images between them; not with dropout, which would draw anew.

    Raises:
      ValueError: an input side is not a multiple of 256.
    """

    def __init__(
        self,
        num_u_blocks: int = 6,
        out_channels: int = 1,
        ngf: int = 64,
        bottleneck_norm: bool = False,
        dropout: float = 0.0,
        recompute: bool = False,
        name: str = "generator",
        dtype=None,
    ):
        super().__init__(name=name, dtype=dtype)
        self._recompute = recompute
        self.blocks = [
            u_block.UBlock(
                out_channels,
                ngf,
                bottleneck_norm,
                dropout,
                name=f"u_block_{i}",
                dtype=dtype,
            )
            for i in range(1, num_u_blocks + 1)
        ]

    def build(self, input_shape):
        """Makes the weights of each block."""
        for block in self.blocks:
            if not block.built:  # by `stages`
                block.build(input_shape)
            input_shape = (*input_shape[:-1], block.last.filters)

    def call(self, image):
        return self.stages(image)[-1]

    def stages(self, image) -> list:
        """The image after each U-block, the last being the translation."""
        images = []
        for block in self.blocks:
            if self._recompute:
                block = tf.recompute_grad(block)
            image = block(image)
            images.append(image)
        return images
