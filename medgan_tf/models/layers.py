"""Instance norm as in pix2pix-tensorflow; the paper's spectral projection.

Gamma N(1, 0.02) and epsilon 1e-5; Keras's own defaults differ in both.
"""

from __future__ import annotations

import keras
import tensorflow as tf


def instance_norm(name: str, dtype=None) -> keras.Layer:
    """Instance normalisation: each channel of each image to mean 0, SD 1.

    At batch size 1 this is batch normalisation with batch statistics, which
    is what pix2pix-tensorflow computes in training and test alike. Keras's
    group normalisation with one group per channel (`groups=-1`).
    """
    return keras.layers.GroupNormalization(
        groups=-1,
        epsilon=1e-5,
        gamma_initializer=keras.initializers.RandomNormal(1.0, 0.02),
        name=name,
        dtype=dtype,
    )


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
