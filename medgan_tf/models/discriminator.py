"""The patch discriminator: is this patch of an image a real target?

Section 2.4.3: two hidden convolutions of 64 and 128 filters, 16 x 16 patches.
Of all small stacks only 4 x 4 kernels with strides 2, 1, 1 see 16 x 16; this
is pix2pix-tensorflow's discriminator with one layer of stride 2.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from medgan_tf.models import convolutions, layers


class PatchDiscriminator(keras.Model):
    """Judges each patch of an image, given its source.

    `discriminator(source, image)` with [B, H, W, C_source] and
    [B, H, W, C_target], values in [-1, 1], returns

    - logits, float32 [B, h, w, 1], of the probability that a patch is real
      (126 x 126 patches of 16 x 16 pixels for 256 x 256);
    - the hidden layers' features after their activation, shallow first:
      what the next layer sees, and what the perceptual loss compares.

    The source comes first in the concatenation, as in pix2pix-tensorflow;
    the first layer has no norm, so that absolute intensities count. Instance
    norm makes each patch's score depend weakly on the whole image: the patch
    size is a property of the convolutions.

    Args:
      num_layers: hidden layers with stride 2: 1 to 6 give patches of 16, 34,
        70, 142, 286 and 574 pixels.
      ndf: filters of the first layer; they double up to 8 ndf.
      norm: instance norm in all hidden layers but the first.
      spectral: see PatchConvolution.
      dtype: Keras dtype policy, such as "mixed_bfloat16".
    """

    def __init__(
        self,
        num_layers: int = 1,
        ndf: int = 64,
        norm: bool = True,
        name: str = "discriminator",
        dtype=None,
        spectral: bool = False,
    ):
        super().__init__(name=name, dtype=dtype)
        self.hidden = [
            convolutions.PatchConvolution(
                ndf * min(2**i, 8),
                strides=2 if i < num_layers else 1,
                name=f"layer_{i + 1}",
                dtype=dtype,
                spectral=spectral,
            )
            for i in range(num_layers + 1)
        ]
        self.norms = [
            layers.InstanceNorm(f"layer_{i + 2}_norm", dtype)
            for i in range(num_layers if norm else 0)
        ]
        self.last = convolutions.PatchConvolution(
            1,
            strides=1,
            name=f"layer_{num_layers + 2}",
            dtype=dtype,
            spectral=spectral,
        )

    def call(self, source, image):
        x = tf.concat([source, image], axis=-1)
        features = []
        # [B, 256, 256, 2] -> [B, 128, 128, 64] -> [B, 127, 127, 128]
        for i, convolution in enumerate(self.hidden):
            x = convolution(x)
            if i and self.norms:
                x = self.norms[i - 1](x)
            x = tf.nn.leaky_relu(x, alpha=0.2)
            features.append(x)
        # -> [B, 126, 126, 1]
        return tf.cast(self.last(x), tf.float32), features

    @property
    def convolutions(self) -> list[keras.Layer]:
        """All of them, in the order in which an image meets them."""
        return [*self.hidden, self.last]

    def advance(self, num_iterations: int) -> None:
        """One look at how large the kernels have become, with `spectral`."""
        for layer in self.convolutions:
            layer.advance(num_iterations)

    @property
    def kernels(self) -> list[keras.Variable]:
        """Kernels of every convolution, for the spectral projection."""
        return [layer.kernel for layer in self.convolutions]
