"""The 4 x 4 convolutions of generator and discriminator.

On a CPU TensorFlow is slow at small maps, for which it brings the kernel into
another order each time, at one filter, and at the gradient of a kernel (here
of the generator's). There the same products are summed as products of
matrices; the results differ by rounding alone.
"""

from __future__ import annotations

import itertools

import keras
import tensorflow as tf

from medgan_tf.models import layers

KERNEL_SIZE = 4
# Pixels of a map up to which products of matrices are faster.
SMALL_MAP = 256

_PAD_ONE = [[0, 0], [1, 1], [1, 1], [0, 0]]


class DownConvolution(keras.layers.Conv2D):
    """Stride 2, "same": [B, H, W, C] -> [B, H/2, W/2, filters]."""

    def __init__(self, filters: int, name: str, dtype=None):
        super().__init__(
            filters,
            KERNEL_SIZE,
            strides=2,
            padding="same",
            kernel_initializer=_initializer(),
            name=name,
            dtype=dtype,
        )

    def call(self, image):
        kernel = tf.convert_to_tensor(self.kernel)
        return tf.nn.bias_add(_halve(image, kernel), self.bias)


class UpConvolution(keras.layers.Conv2DTranspose):
    """Transposed, stride 2, "same": [B, H, W, C] -> [B, 2H, 2W, filters]."""

    def __init__(self, filters: int, name: str, dtype=None):
        super().__init__(
            filters,
            KERNEL_SIZE,
            strides=2,
            padding="same",
            kernel_initializer=_initializer(),
            name=name,
            dtype=dtype,
        )

    def call(self, image):
        kernel = tf.convert_to_tensor(self.kernel)
        return tf.nn.bias_add(_double(image, kernel), self.bias)


class PatchConvolution(keras.layers.Conv2D):
    """Pads by one pixel of zeros: at stride 1, [B, H, W, C] -> [B, H-1, ...].

    Because "same" would keep a 128 x 128 map at stride 1 where the patch
    discriminator has 127 x 127.

    Args:
      filters: how many.
      strides: 1 or 2.
      spectral: divide the kernel by its spectral norm where it is used; the
        vector of the power iteration moves by `advance` alone.
      name: of the layer.
      dtype: Keras dtype policy.
    """

    def __init__(
        self,
        filters: int,
        strides: int,
        name: str,
        dtype=None,
        spectral: bool = False,
    ):
        super().__init__(
            filters,
            KERNEL_SIZE,
            strides=strides,
            kernel_initializer=_initializer(),
            name=name,
            dtype=dtype,
            # Else a mixed policy would round the kernel before its norm.
            autocast=False,
        )
        self.spectral = spectral

    def build(self, input_shape):
        super().build(input_shape)
        if self.spectral:
            self.vector = self.add_weight(
                shape=(1, self.filters),
                initializer="random_normal",
                trainable=False,
                dtype="float32",
                name="spectral_vector",
            )

    def advance(self, num_iterations: int) -> None:
        """Brings the vector nearer to the kernel's singular vector."""
        _, u = layers.power_iteration(
            self._matrix(self.kernel), self.vector.value, num_iterations
        )
        self.vector.value.assign(u)

    def _matrix(self, kernel) -> tf.Tensor:
        return tf.reshape(tf.convert_to_tensor(kernel), [-1, self.filters])

    def call(self, image):
        image = tf.cast(image, self.compute_dtype)
        kernel = tf.convert_to_tensor(self.kernel)
        if self.spectral:
            kernel /= layers.spectral_norm(
                self._matrix(kernel), self.vector.value
            )
        kernel = tf.cast(kernel, image.dtype)
        is_single = self.filters == 1 and self.strides == (1, 1)
        # In bfloat16 the sum must stay in one product, which adds in float32.
        is_exact = image.dtype == tf.float32
        if is_single and is_exact and _is_slow_in_tensorflow():
            convolved = _one_filter(image, kernel)
        else:
            # The convolution could pad, but oneDNN has no gradient of that.
            padded = tf.pad(image, _PAD_ONE)
            convolved = tf.nn.conv2d(padded, kernel, self.strides, "VALID")
        return tf.nn.bias_add(convolved, tf.cast(self.bias, image.dtype))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        padded = (batch, height + 2, width + 2, channels)
        return super().compute_output_shape(padded)


def _initializer() -> keras.initializers.Initializer:
    """As in pix2pix-tensorflow; a new one each time, because one draws once."""
    return keras.initializers.RandomNormal(0.0, 0.02)


def _is_slow_in_tensorflow() -> bool:
    """Whether sums are better made here than by TensorFlow's kernels."""
    return not tf.config.list_physical_devices("GPU")


def _is_small(image: tf.Tensor) -> bool:
    _, height, width, _ = image.shape
    return height * width <= SMALL_MAP and _is_slow_in_tensorflow()


@tf.custom_gradient
def _halve(image: tf.Tensor, kernel: tf.Tensor):
    """The convolution; its gradient is the transposed one."""

    def gradient(upstream):
        return (
            _transposed(upstream, kernel),
            _kernel_gradient(image, upstream, kernel),
        )

    return _convolved(image, kernel), gradient


@tf.custom_gradient
def _double(image: tf.Tensor, kernel: tf.Tensor):
    """The transposed convolution; its gradient is the plain one."""

    def gradient(upstream):
        return (
            _convolved(upstream, kernel),
            _kernel_gradient(upstream, image, kernel),
        )

    return _transposed(image, kernel), gradient


def _convolved(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    if not _is_small(image):
        return tf.nn.conv2d(image, kernel, 2, "SAME")
    _, height, width, _ = image.shape
    filters = kernel.shape[3]
    if (height, width) == (2, 2):
        # The rest of the kernel meets zeros.
        windows, kernel = image, kernel[1:3, 1:3]
    else:
        windows = _windows(image)
    kernel = tf.reshape(kernel, [-1, filters])
    sums = tf.matmul(tf.reshape(windows, [-1, kernel.shape[0]]), kernel)
    return tf.reshape(sums, [-1, height // 2, width // 2, filters])


def _transposed(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    _, height, width, channels = image.shape
    filters = kernel.shape[2]
    if (height, width) == (1, 1) and _is_slow_in_tensorflow():
        middle = tf.reshape(kernel[1:3, 1:3], [-1, channels])
        image = tf.reshape(image, [-1, channels])
        sums = tf.matmul(image, middle, transpose_b=True)
        return tf.reshape(sums, [-1, 2, 2, filters])
    is_single = filters == 1 and _is_slow_in_tensorflow()
    if is_single or _is_small(image):
        return _overlap_add(image, kernel)
    shape = [tf.shape(image)[0], 2 * height, 2 * width, filters]
    return tf.nn.conv2d_transpose(image, kernel, shape, 2, "SAME")


def _kernel_gradient(large, small, kernel) -> tf.Tensor:
    if _is_slow_in_tensorflow():
        sums = tf.matmul(
            _windows(large),
            tf.reshape(small, [-1, small.shape[-1]]),
            transpose_a=True,
        )
        return tf.reshape(sums, kernel.shape)
    return tf.raw_ops.Conv2DBackpropFilter(
        input=large,
        filter_sizes=kernel.shape,
        out_backprop=small,
        strides=[1, 2, 2, 1],
        padding="SAME",
    )


def _windows(image: tf.Tensor) -> tf.Tensor:
    """What the kernel sees at each place, [B x H/2 x W/2, 16 x C]."""
    _, height, width, channels = image.shape
    pairs = tf.reshape(
        tf.pad(image, _PAD_ONE), [-1, height // 2 + 1, 2, width + 2, channels]
    )
    rows = tf.concat([pairs[:, :-1], pairs[:, 1:]], axis=2)
    pairs = tf.reshape(
        rows, [-1, height // 2, KERNEL_SIZE, width // 2 + 1, 2, channels]
    )
    taps = tf.concat([pairs[:, :, :, :-1], pairs[:, :, :, 1:]], axis=4)
    # [B, H/2, 4, W/2, 4, C] -> [B, H/2, W/2, 4, 4, C]
    taps = tf.transpose(taps, [0, 1, 3, 2, 4, 5])
    return tf.reshape(taps, [-1, KERNEL_SIZE**2 * channels])


def _overlap_add(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The transposed convolution as one product and a sum of shifts.

    Pixel i of a row reaches 2i - 1 .. 2i + 2 by the kernel's taps 0 .. 3. In
    pairs of pixels that begin with the odd ones, -1 and 0 being pair 0: taps 0
    and 1 fill pair i, taps 2 and 3 pair i + 1; the same for columns.
    """
    _, height, width, channels = image.shape
    filters = kernel.shape[2]
    taps = tf.matmul(
        tf.reshape(kernel, [-1, channels]),
        tf.reshape(image, [-1, channels]),
        transpose_b=True,
    )
    # In bfloat16 each tap is rounded, but not what they add up to.
    taps = tf.reshape(
        tf.cast(taps, tf.float32),
        [KERNEL_SIZE, KERNEL_SIZE, filters, -1, height, width],
    )
    # [B, height, 4, width, 4, filters]
    taps = tf.transpose(taps, [3, 4, 0, 5, 1, 2])
    for axis in (1, 3):
        first, second = tf.split(taps, 2, axis=axis + 1)
        taps = _padded(first, axis, 0, 1) + _padded(second, axis, 1, 0)
    # [B, height + 1, 2, width + 1, 2, filters], without the outermost pixels
    summed = tf.reshape(taps, [-1, 2 * height + 2, 2 * width + 2, filters])
    return tf.cast(summed[:, 1:-1, 1:-1], image.dtype)


def _padded(array: tf.Tensor, axis: int, before: int, after: int) -> tf.Tensor:
    """An array with so many zeros before and after it along an axis."""
    paddings = [[0, 0]] * len(array.shape)
    paddings[axis] = [before, after]
    return tf.pad(array, paddings)


def _one_filter(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """A convolution with one filter: what each tap gives, then its place."""
    _, height, width, channels = image.shape
    taps = tf.matmul(
        tf.reshape(image, [-1, channels]),
        # [4, 4, channels, 1] -> [channels, 16]
        tf.reshape(tf.transpose(kernel, [2, 0, 1, 3]), [channels, -1]),
    )
    taps = tf.reshape(taps, [-1, height, width, KERNEL_SIZE**2])
    taps = tf.unstack(tf.pad(taps, _PAD_ONE), axis=-1)
    height, width = height - 1, width - 1
    places = itertools.product(range(KERNEL_SIZE), repeat=2)
    return sum(
        tap[:, row : row + height, column : column + width, None]
        for tap, (row, column) in zip(taps, places, strict=True)
    )
