"""One U-block: eight convolutions down to a point, eight up to an image.

Section 2.4.1 and 2.4.2; wiring, order and sizes as in pix2pix-tensorflow.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from medgan_tf.models import convolutions, layers

# Filters as multiples of ngf. The paper's decoder list "512, 1024, 1024,
# 1024, 512, 256 and 128" counts the concatenated inputs of these layers.
DOWN_MULTIPLES = (1, 2, 4, 8, 8, 8, 8, 8)
UP_MULTIPLES = (8, 8, 8, 8, 4, 2, 1)
NUM_DROPOUT_LAYERS = 3
SIDE_MULTIPLE = 2 ** len(DOWN_MULTIPLES)


class UBlock(keras.Model):
    """Translates an image through an encoder and decoder with skips.

    Input [B, H, W, C_in] with H and W multiples of 256 and values in
    [-1, 1]; output [B, H, W, out_channels] in [-1, 1], float32.

    A skip carries the encoder's tensor after its norm and before any
    activation; decoder first, encoder second in the concatenation.

    The paper normalises every layer; pix2pix-tensorflow all but the first
    and the last. At 256 x 256 the innermost map is 1 x 1, where instance
    norm returns its bias whatever it is given: the ReLU behind it then stays
    0 and 12,585,984 parameters never learn. So the default leaves that norm
    out, as the original Torch pix2pix does; `bottleneck_norm=True` is
    pix2pix-tensorflow to the letter.

    Args:
      out_channels: channels of the translated image.
      ngf: filters of the first convolution.
      bottleneck_norm: normalise the innermost map too.
      dropout: rate in the three deepest decoder layers, active in training
        and inference alike (it is pix2pix's noise z); the paper: "stochasticity
        is not desired", so 0.
      dtype: Keras dtype policy, such as "mixed_bfloat16".

    Raises:
      ValueError: an input side is not a multiple of 256.

    Example:
      UBlock()(tf.zeros([1, 256, 256, 1])).shape   # (1, 256, 256, 1)
    """

    def __init__(
        self,
        out_channels: int = 1,
        ngf: int = 64,
        bottleneck_norm: bool = False,
        dropout: float = 0.0,
        name: str = "u_block",
        dtype=None,
    ):
        super().__init__(name=name, dtype=dtype)
        depth = len(DOWN_MULTIPLES)
        self.down = [
            convolutions.DownConvolution(m * ngf, f"encoder_{i}", dtype)
            for i, m in enumerate(DOWN_MULTIPLES, start=1)
        ]
        innermost = depth if bottleneck_norm else depth - 1
        self.down_norms = [
            layers.InstanceNorm(f"encoder_{i}_norm", dtype)
            for i in range(2, innermost + 1)
        ]
        self.up = [
            convolutions.UpConvolution(m * ngf, f"decoder_{depth - i}", dtype)
            for i, m in enumerate(UP_MULTIPLES)
        ]
        self.up_norms = [
            layers.InstanceNorm(f"decoder_{depth - i}_norm", dtype)
            for i in range(len(UP_MULTIPLES))
        ]
        self.dropouts = [
            keras.layers.Dropout(
                dropout, name=f"decoder_{depth - i}_dropout", dtype=dtype
            )
            for i in range(NUM_DROPOUT_LAYERS if dropout else 0)
        ]
        self.last = convolutions.UpConvolution(out_channels, "decoder_1", dtype)

    @property
    def convolutions(self) -> list[keras.Layer]:
        """All of them, in the order in which an image meets them."""
        return [*self.down, *self.up, self.last]

    def build(self, input_shape):
        """Makes the weights, for which Keras alone would trace `call`."""
        shape, skips = input_shape, []
        for convolution in self.down:
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
            skips.append(shape)
        for norm, skip in zip(self.down_norms, skips[1:], strict=False):
            norm.build(skip)
        shape = skips.pop()
        for convolution, norm in zip(self.up, self.up_norms, strict=True):
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
            norm.build(shape)
            shape = (*shape[:-1], shape[-1] + skips.pop()[-1])
        self.last.build(shape)

    def call(self, image):
        _check_sides(image)
        # [B, 256, 256, C] -> 128 -> 64 -> 32 -> 16 -> 8 -> 4 -> 2 -> 1
        skips = [self.down[0](image)]
        for i, convolution in enumerate(self.down[1:]):
            x = convolution(tf.nn.leaky_relu(skips[-1], alpha=0.2))
            if i < len(self.down_norms):
                x = self.down_norms[i](x)
            skips.append(x)
        # 1 -> 2 -> 4 -> 8 -> 16 -> 32 -> 64 -> 128
        x = skips.pop()
        for i, convolution in enumerate(self.up):
            x = self.up_norms[i](convolution(tf.nn.relu(x)))
            if i < len(self.dropouts):
                x = self.dropouts[i](x, training=True)
            x = tf.concat([x, skips.pop()], axis=-1)
        # [B, 128, 128, 2 ngf] -> [B, 256, 256, out_channels]
        return tf.tanh(tf.cast(self.last(tf.nn.relu(x)), tf.float32))


def _check_sides(image) -> None:
    """Raises ValueError unless both sides are multiples of 256."""
    if any(s is None or s % SIDE_MULTIPLE for s in image.shape[1:3]):
        raise ValueError(
            "The sides of an image must be multiples of "
            f"{SIDE_MULTIPLE}, got {tuple(image.shape[1:3])}; crop or pad it."
        )
