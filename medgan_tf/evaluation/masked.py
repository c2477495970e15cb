"""Structural similarity of volumes, averaged within a mask.

As the SynthRAD challenges score synthetic CT: a map over the whole volume, of
which only the voxels of the mask count. Their programs were published; what
they do is kept here, flaws included, and the repaired version stands beside.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medgan_tf.evaluation import metrics

# scikit-image's default: the mean of 7 voxels along each axis.
WINDOW = 7
# Wang et al. 2003, from fine to coarse.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# The smallest side of which the coarsest of five scales holds one window.
SMALLEST_SIDE = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1
# Voxels per piece of work, so that the many maps of a volume stay small.
PIECE = 2_000_000


def ssim_in_mask(
    translated: np.ndarray,
    target: np.ndarray,
    *,
    mask: np.ndarray,
    data_range: float,
) -> float:
    """Mean of the SSIM map of a volume over the voxels of a mask.

    A uniform window of 7 voxels along each axis, sample variances, K1 0.01 and
    K2 0.03; the outermost 3 voxels of the volume do not count. The map sees
    what stands outside the mask: put something definite there. Equal to
    scikit-image's `structural_similarity(..., full=True)`, averaged.
    SynthRAD2023, metrics, `3200007`.

    Args:
      translated: volume, any number of axes, each of 7 voxels or more.
      target: volume of the same shape.
      mask: bool, of the same shape.
      data_range: highest minus lowest value a voxel can take, > 0.

    Returns:
      A number in [-1, 1]; NaN if no voxel of the mask counts.

    Raises:
      ValueError: shapes differ or are too small, a value is not finite, or
        `data_range` is not positive.
    """
    translated, target, mask = _checked(translated, target, mask, data_range)
    if min(target.shape) < WINDOW:
        raise ValueError(
            f"SSIM of a volume needs {WINDOW} voxels along each axis, got "
            f"shape {target.shape}."
        )

    def similarity(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        means, variance_x, variance_y, covariance = _moments(x, y)
        c2 = (metrics.SSIM_K2 * data_range) ** 2
        structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
        return _luminance(*means, data_range) * structure

    return _mean_in_mask(similarity, translated, target, mask)


def ms_ssim_in_mask(
    translated: np.ndarray,
    target: np.ndarray,
    *,
    mask: np.ndarray,
    data_range: float,
) -> float:
    """Multi-scale SSIM within a mask, after Wang et al. (2003), repaired.

    Of each of five scales the mean over the mask of contrast times structure,
    to the power of the scale's weight; luminance enters at the coarsest scale
    alone. A scale is half the one before: means of 2 voxels along each axis,
    the border repeated; the mask is every second voxel. Volumes below 97
    voxels along an axis are first padded to that by repeating their border.

    Args and Raises: as for `ssim_in_mask`; three axes of any length.

    Returns:
      A number in [0, 1]; NaN if the mask vanishes at a coarse scale.
    """
    return _multi_scale(
        translated,
        target,
        mask,
        data_range,
        luminance_weights=(0, 0, 0, 0, SCALE_WEIGHTS[-1]),
        border="nearest",
    )


def ms_ssim_synthrad2025(
    translated: np.ndarray,
    target: np.ndarray,
    *,
    mask: np.ndarray,
    data_range: float,
) -> float:
    """Multi-scale SSIM within a mask as SynthRAD2025 scores it.

    As `ms_ssim_in_mask` with the two flaws of the published program:
    luminance enters at every scale, and zeros are mixed into the first voxels
    of each axis when a scale is halved. SynthRAD2025, evaluation, `17cac47`.

    Args, Returns and Raises: as for `ms_ssim_in_mask`.
    """
    return _multi_scale(
        translated,
        target,
        mask,
        data_range,
        luminance_weights=SCALE_WEIGHTS,
        border="constant",
    )


def _multi_scale(
    translated, target, mask, data_range, *, luminance_weights, border
) -> float:
    """The product over the scales; `border` as in `scipy.ndimage`."""
    x, y, mask = _checked(translated, target, mask, data_range)
    if y.ndim != 3:
        raise ValueError(f"MS-SSIM needs a volume, got shape {y.shape}.")
    missing = [max(0, SMALLEST_SIDE - side) for side in y.shape]
    padding = [(more // 2, more - more // 2) for more in missing]
    x, y, mask = (np.pad(array, padding, mode="edge") for array in (x, y, mask))

    product = 1.0
    for weight, luminance_weight in zip(
        SCALE_WEIGHTS, luminance_weights, strict=True
    ):

        def similarity(
            x, y, weight=weight, luminance_weight=luminance_weight
        ) -> np.ndarray:
            means, variance_x, variance_y, covariance = _moments(x, y)
            c2 = (metrics.SSIM_K2 * data_range) ** 2
            deviations = np.sqrt(
                np.maximum(variance_x, 0) * np.maximum(variance_y, 0)
            )
            luminance = _luminance(*means, data_range)
            contrast = (2 * deviations + c2) / (variance_x + variance_y + c2)
            structure = (covariance + c2 / 2) / (deviations + c2 / 2)
            return (
                np.maximum(luminance, 0) ** luminance_weight
                * np.maximum(contrast, 0) ** weight
                * np.maximum(structure, 0) ** weight
            )

        product *= np.clip(_mean_in_mask(similarity, x, y, mask), 0, 1)
        x, y = (
            ndimage.uniform_filter(array, 2, mode=border)[::2, ::2, ::2]
            for array in (x, y)
        )
        mask = mask[::2, ::2, ::2]
    return float(product)


def _checked(
    translated: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray,
    data_range: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    translated, target = metrics.checked(translated, target, data_range)
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != target.shape:
        raise ValueError(
            f"A mask must be bool of shape {target.shape}, got {mask.dtype} "
            f"{mask.shape}."
        )
    return translated, target, mask


def _moments(x: np.ndarray, y: np.ndarray):
    """Local means, sample variances and covariance."""
    number = WINDOW**x.ndim
    sample = number / (number - 1)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (
        ndimage.uniform_filter(array, WINDOW)
        for array in (x, y, x * x, y * y, x * y)
    )
    return (
        (mean_x, mean_y),
        sample * (mean_xx - mean_x * mean_x),
        sample * (mean_yy - mean_y * mean_y),
        sample * (mean_xy - mean_x * mean_y),
    )


def _luminance(
    mean_x: np.ndarray, mean_y: np.ndarray, data_range: float
) -> np.ndarray:
    c1 = (metrics.SSIM_K1 * data_range) ** 2
    return (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)


def _mean_in_mask(similarity, x, y, mask) -> float:
    """Mean of `similarity(x, y)` over the mask, less the volume's border.

    Piece by piece along the first axis, each with the neighbours its windows
    reach: the result is that of the whole.
    """
    radius = WINDOW // 2
    inside = slice(radius, -radius)
    rows = max(1, PIECE // (y[0].size or 1))
    total, count = 0.0, 0
    for first in range(radius, len(y) - radius, rows):
        last = min(first + rows, len(y) - radius)
        piece = slice(first - radius, last + radius)
        within = (inside,) * y.ndim
        counts = mask[piece][within]
        if counts.any():
            values = similarity(x[piece], y[piece])[within]
            total += values[counts].sum()
            count += counts.sum()
    return float(total / count) if count else float("nan")
