"""3 x 3 convolutions with fewer products: Winograd's F(2 x 2, 3 x 3).

Four neighbouring pixels of the result take 16 products for each pair of
channels instead of 36 (Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", 2016, Section 4.1). Of a kernel, of the image and of the
products sums are made, G k G', B' d B and A' m A there; those are XLA's, the
products TensorFlow's, each the faster at its part on a CPU. In bfloat16 the
result is off by twice as much as that of the plain convolution.
"""

from __future__ import annotations

import tensorflow as tf

# Products for four pixels.
TAPS = 16
# Taps of the kernel turned by half a turn: its first row of sums becomes its
# last, those of the middle stay.
_TURNED = [4 * row + column for row in (3, 1, 2, 0) for column in (3, 1, 2, 0)]


def kernel_sums(kernel: tf.Tensor) -> tf.Tensor:
    """G k G', the kernel of `rectified`: [3, 3, C, F] -> [TAPS, C, F]."""
    sums = tf.cast(kernel, tf.float32)
    for _ in range(2):
        first, middle, last = tf.unstack(sums)
        both = first + last
        taps = [first, (both + middle) / 2, (both - middle) / 2, last]
        # Columns come first for the second turn, then rows again.
        sums = tf.stack(taps, axis=1)
    return tf.reshape(tf.cast(sums, kernel.dtype), [TAPS, *kernel.shape[2:]])


@tf.custom_gradient
def rectified(image: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor):
    """ReLU of a convolution, "same", stride 1, with a gradient to the image.

    Args:
      image: [B, H, W, C], float32 or bfloat16.
      kernel: of the same type, from `kernel_sums`, [TAPS, C, F]; frozen.
      bias: [F]; frozen.

    Returns:
      [B, H, W, F] of the image's type.
    """
    _, height, width, _ = image.shape
    taps = tf.unstack(kernel)
    products = [
        tf.matmul(sums, tap)
        for sums, tap in zip(_image_sums(_padded(image)), taps, strict=True)
    ]
    result = _rectified_results(products, bias, height, width)

    def gradient(upstream):
        passed = tf.raw_ops.ReluGrad(gradients=upstream, features=result)
        sums = _image_sums(_padded(passed))
        products = [
            tf.matmul(sums[i], taps[turned], transpose_b=True)
            for i, turned in enumerate(_TURNED)
        ]
        return _results(products, height, width), None, None

    return result, gradient


def _padded(image):
    """With a pixel of zeros around it, and another where its size is odd."""
    _, height, width, _ = image.shape
    return tf.pad(
        image, [[0, 0], [1, 1 + height % 2], [1, 1 + width % 2], [0, 0]]
    )


@tf.function(jit_compile=True)
def _image_sums(padded):
    """B' d B of each window of 4 x 4, two pixels apart: TAPS of [B h w, C]."""
    _, height, width, channels = padded.shape
    pairs = tf.reshape(
        tf.cast(padded, tf.float32),
        [-1, height // 2, 2, width // 2, 2, channels],
    )
    # [B, h + 1, 2, w + 1, 2, C] -> [B, h, w + 1, 2, C] -> [B, h, w, C]
    rows = _window_sums(pairs[:, :-1], pairs[:, 1:], axis=2)
    return [
        tf.reshape(tf.cast(sums, padded.dtype), [-1, channels])
        for row in rows
        for sums in _window_sums(row[:, :, :-1], row[:, :, 1:], axis=3)
    ]


def _window_sums(pair, following, axis):
    """B' d: four sums of two pairs of pixels."""
    first, second = tf.unstack(pair, axis=axis)
    third, fourth = tf.unstack(following, axis=axis)
    return [first - third, second + third, third - second, second - fourth]


@tf.function(jit_compile=True)
def _rectified_results(products, bias, height, width):
    results = _float_results(products, height, width)
    results = tf.nn.relu(results + tf.cast(bias, tf.float32))
    return tf.cast(results, products[0].dtype)


@tf.function(jit_compile=True)
def _results(products, height, width):
    return tf.cast(_float_results(products, height, width), products[0].dtype)


def _float_results(products, height, width):
    """A' m A: TAPS of [B h w, F] -> [B, H, W, F] in float32."""
    filters = products[0].shape[-1]
    half = [(height + 1) // 2, (width + 1) // 2]
    products = [
        tf.cast(tf.reshape(p, [-1, *half, filters]), tf.float32)
        for p in products
    ]
    # Along the columns of each row of taps, then along the rows.
    rows = [_pixel_sums(*products[i : i + 4]) for i in range(0, TAPS, 4)]
    columns = [_pixel_sums(*column) for column in zip(*rows, strict=True)]
    pixels = tf.stack([tf.stack(c, axis=2) for c in columns], axis=4)
    whole = tf.reshape(pixels, [-1, 2 * half[0], 2 * half[1], filters])
    return whole[:, :height, :width]


def _pixel_sums(first, second, third, fourth):
    """A' m: two pixels from four taps."""
    return first + second + third, second - third - fourth
