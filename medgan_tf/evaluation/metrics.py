"""How alike are two images? One number per metric, the target being the truth.

The metrics of Tables 1 and 2. The paper names no settings; its MSE of 30 to
340 and PSNR of 24 to 35 dB fit only grey levels of 0..255, so that is the
scale on which `METRICS` asks for them. SSIM is that of Wang et al. (2004).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import ndimage

# Wang et al. 2004: an 11 x 11 Gaussian window of sigma 1.5.
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1 = 0.01
SSIM_K2 = 0.03


def ssim(
    translated: np.ndarray, target: np.ndarray, *, data_range: float
) -> float:
    """Structural similarity: 1 for equal images, about 0 for unrelated ones.

    Local means, population variances and covariance under the Gaussian
    window; the mean is taken where the window lies wholly inside the image.
    Not invariant to shifts: [-1, 1] and 0..255 give different values for one
    pair, whatever `data_range`. Equal to scikit-image's
    `structural_similarity` with `gaussian_weights=True`, `sigma=1.5` and
    `use_sample_covariance=False`.

    Args:
      translated: image [H, W], or [H, W, C] for the mean over channels; H and
        W at least 11.
      target: image of the same shape.
      data_range: highest minus lowest value an image can take, > 0.

    Returns:
      A number in [-1, 1].

    Raises:
      ValueError: shapes differ or are too small, a value is not finite, or
        `data_range` is not positive.
    """
    translated, target = _checked(translated, target, data_range)
    if min(target.shape[:2]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs images of {SSIM_WINDOW} x {SSIM_WINDOW} pixels or "
            f"more, got shape {target.shape}."
        )

    radius = SSIM_WINDOW // 2
    inside = slice(radius, -radius)

    def local_mean(image: np.ndarray) -> np.ndarray:
        filtered = ndimage.gaussian_filter(
            image, SSIM_SIGMA, radius=radius, axes=(0, 1)
        )
        return filtered[inside, inside]

    mean_x, mean_y = local_mean(translated), local_mean(target)
    variance_x = local_mean(translated**2) - mean_x**2
    variance_y = local_mean(target**2) - mean_y**2
    covariance = local_mean(translated * target) - mean_x * mean_y
    c1 = (SSIM_K1 * data_range) ** 2
    c2 = (SSIM_K2 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return float(np.mean(luminance * structure))


def psnr(
    translated: np.ndarray, target: np.ndarray, *, data_range: float
) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(data_range^2 / MSE).

    Args: as for `ssim`, of any size.

    Returns:
      Decibels; `inf` for identical images.

    Raises:
      ValueError: as for `ssim`, size apart.
    """
    error = mse(translated, target, data_range=data_range)
    if error == 0:
        return float("inf")
    return float(10 * np.log10(data_range**2 / error))


def mse(
    translated: np.ndarray, target: np.ndarray, *, data_range: float
) -> float:
    """Mean squared error, in the squared unit of the images given.

    `data_range` is checked but does not enter: all metrics are called alike.
    Args and Raises: as for `psnr`.
    """
    translated, target = _checked(translated, target, data_range)
    return float(np.mean((translated - target) ** 2))


def mae(
    translated: np.ndarray, target: np.ndarray, *, data_range: float
) -> float:
    """Mean absolute error, in the unit of the images given.

    `data_range` is checked but does not enter: all metrics are called alike.
    Args and Raises: as for `psnr`.
    """
    translated, target = _checked(translated, target, data_range)
    return float(np.mean(np.abs(translated - target)))


@dataclasses.dataclass(frozen=True)
class Metric:
    """One row of the table below.

    Attributes:
      label: the word for tables.
      function: `function(translated, target, *, data_range)` -> float.
      higher_is_better: whether a larger value means a better image.
      is_physical: True: computed on, and given in, the target's physical unit
        (HU, SUV, scanner units); False: computed on grey levels, that is, on
        the target's window stretched to 0..255 without rounding.
      in_mask: True: over the pixels where source and target both have data,
        as a list without neighbours; False: over their bounding box.
      unit: unit of the value, where it is not the target's.
    """

    label: str
    function: Callable[..., float]
    higher_is_better: bool
    is_physical: bool = False
    in_mask: bool = False
    unit: str = ""


METRICS = {
    "ssim": Metric("SSIM", ssim, higher_is_better=True),
    "psnr": Metric("PSNR", psnr, higher_is_better=True, unit="dB"),
    "mse": Metric("MSE", mse, higher_is_better=False, unit="0..255"),
    "mae": Metric(
        "MAE",
        mae,
        higher_is_better=False,
        is_physical=True,
        in_mask=True,
    ),
}


def _checked(
    translated: np.ndarray, target: np.ndarray, data_range: float
) -> tuple[np.ndarray, np.ndarray]:
    """Both images as float64, or a ValueError that says what is wrong."""
    translated = np.asarray(translated, dtype=np.float64)
    target = np.asarray(target, dtype=np.float64)
    if translated.shape != target.shape or target.size == 0:
        raise ValueError(
            "A metric compares two images of one shape, got "
            f"{translated.shape} and {target.shape}."
        )
    if not (np.isfinite(translated).all() and np.isfinite(target).all()):
        raise ValueError("An image has values that are not finite.")
    if not (np.isfinite(data_range) and data_range > 0):
        raise ValueError(
            f"data_range must be a positive number, got {data_range}."
        )
    return translated, target
