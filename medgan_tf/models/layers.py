"""Instance norm as in pix2pix-tensorflow; the paper's spectral projection.

Gamma N(1, 0.02) and epsilon 1e-5; Keras's own defaults differ in both.
"""

from __future__ import annotations

import keras
import tensorflow as tf


class InstanceNorm(keras.layers.GroupNormalization):
    """Instance normalisation: each channel of each image to mean 0, SD 1.

    [B, H, W, C] -> the same; statistics in float32. At batch size 1 this is
    batch normalisation with batch statistics, which is what pix2pix-tensorflow
    computes in training and test alike. In a lower precision it is TensorFlow's
    fused batch norm, which reads an image less often, more images being laid
    side by side as channels; in float32 that one adds up a map pixel by pixel,
    which shows where a map is nearly flat.

    Args:
      name: of the layer.
      dtype: Keras dtype policy.
    """

    def __init__(self, name: str, dtype=None):
        super().__init__(
            groups=-1,
            epsilon=1e-5,
            gamma_initializer=keras.initializers.RandomNormal(1.0, 0.02),
            name=name,
            dtype=dtype,
        )

    def call(self, image):
        if image.dtype == tf.float32:
            image -= tf.reduce_mean(image, axis=[1, 2], keepdims=True)
            variance = tf.reduce_mean(image**2, axis=[1, 2], keepdims=True)
            scale = self.gamma * tf.math.rsqrt(variance + self.epsilon)
            return image * scale + self.beta
        gamma = tf.cast(self.gamma, tf.float32)
        beta = tf.cast(self.beta, tf.float32)
        if image.shape[0] == 1:
            return self._normalised(image, gamma, beta)
        batch = tf.shape(image)[0]
        _, height, width, channels = image.shape
        # [B, H, W, C] -> [1, H, W, B * C]; where B is 1 nothing is copied.
        beside = tf.transpose(image, [1, 2, 0, 3])
        beside = tf.reshape(beside, [1, height, width, batch * channels])
        beside = self._normalised(
            beside, tf.tile(gamma, [batch]), tf.tile(beta, [batch])
        )
        beside = tf.reshape(beside, [height, width, batch, channels])
        return tf.transpose(beside, [2, 0, 1, 3])

    def _normalised(self, image, gamma, beta) -> tf.Tensor:
        """Batch normalisation with the statistics of these very pixels."""
        return tf.raw_ops.FusedBatchNormV3(
            x=image,
            scale=gamma,
            offset=beta,
            mean=[],
            variance=[],
            epsilon=self.epsilon,
        ).y


class SpectralProjection(tf.Module):
    """Divides kernels by their spectral norm (Algorithm 1, lines 12-13).

    Each kernel is taken as the matrix W of shape (height * width * inputs,
    outputs). Its largest singular value is estimated by power iteration from
    a vector u that is kept between calls; then W <- W / sigma. Called after
    an update of the discriminator and once after initialisation, never
    inside a forward pass, so no gradient goes through sigma.

    Example:
      projection = SpectralProjection(discriminator.kernels)
      projection()

    Args:
      kernels: the variables to project, shape [height, width, inputs,
        outputs] each.
      power_iterations: per call.
      seed: draws the starting vectors.
    """

    def __init__(
        self,
        kernels: list[keras.Variable],
        power_iterations: int = 1,
        seed: int = 0,
    ):
        super().__init__(name="spectral_projection")
        self._kernels = list(kernels)
        self._power_iterations = power_iterations
        self.vectors = [
            tf.Variable(
                tf.random.stateless_normal(
                    [1, kernel.shape[-1]], seed=[seed, index]
                ),
                trainable=False,
                name=f"u_{index}",
            )
            for index, kernel in enumerate(self._kernels)
        ]

    def __call__(self) -> None:
        """Projects every kernel in place."""
        for kernel, vector in zip(self._kernels, self.vectors, strict=True):
            value = tf.convert_to_tensor(kernel.value)
            matrix = tf.reshape(value, [-1, value.shape[-1]])
            sigma, u = power_iteration(matrix, vector, self._power_iterations)
            vector.assign(u)
            kernel.assign(value / sigma)


def power_iteration(
    matrix: tf.Tensor, u: tf.Tensor, num_iterations: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Estimates the largest singular value of a matrix.

    Args:
      matrix: float32 [M, N].
      u: float32 [1, N], the estimate so far of the right singular vector.
      num_iterations: at least 1.

    Returns:
      sigma, a scalar, and the next u.
    """
    v, u = _singular_vectors(matrix, u, num_iterations)
    return tf.matmul(tf.matmul(v, matrix), u, transpose_b=True)[0, 0], u


def spectral_norm(matrix: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
    """The largest singular value, with its gradient.

    The singular vectors are taken as constant (Miyato et al. 2018, Eq. 10).

    Args:
      matrix: float32 [M, N].
      u: float32 [1, N], near the right singular vector.

    Returns:
      A scalar.
    """
    v, u = _singular_vectors(tf.stop_gradient(matrix), u, 1)
    return tf.matmul(tf.matmul(v, matrix), u, transpose_b=True)[0, 0]


def _singular_vectors(matrix, u, num_iterations: int):
    """Left [1, M] and right [1, N] singular vector by power iteration."""
    for _ in range(num_iterations):
        v = tf.math.l2_normalize(tf.matmul(u, matrix, transpose_b=True))
        u = tf.math.l2_normalize(tf.matmul(v, matrix))
    return v, u
