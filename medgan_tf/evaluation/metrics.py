"""How alike are two images? One number per metric, the target being the truth.

The metrics of Tables 1 and 2, with MAE, mean error and NRMSE beside them. Each
is a pure function of two arrays and of the range of their values, which is
never guessed. On which values and pixels they are computed is decided in
`protocols.py`.
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

# Sheikh and Bovik's program `vifp_mscale`: Gaussian windows of 17, 9, 5 and 3
# pixels with a sigma of a fifth, on grey levels of 0..255.
VIF_WINDOWS = (17, 9, 5, 3)
VIF_NOISE_VARIANCE = 2.0
VIF_GREY_LEVELS = 255.0
# The smallest image of which every scale holds one window.
VIF_SMALLEST = 41
VIF_FLAT = 1e-10

UQI_WINDOW = 8
# In parts of the range: what float32 cannot tell from a constant.
UQI_FLAT = 1e-6


def ssim(
    translated: np.ndarray, target: np.ndarray, *, data_range: float
) -> float:
    """Structural similarity: 1 for equal images, about 0 for unrelated ones.

    Local means, population variances and covariance under the Gaussian
    window; the mean is taken where the window lies wholly inside the image.
    Not invariant to shifts: [-1, 1] and 0..255 give different values for one
    pair, whatever `data_range`. Equal to scikit-image's
    `structural_similarity` with `gaussian_weights=True`, `sigma=1.5` and
    `use_sample_covariance=False`. Wang et al. (2004).

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
    translated, target = checked(translated, target, data_range)
    _check_size("SSIM", target, SSIM_WINDOW)
    window = _gaussian(SSIM_WINDOW, SSIM_SIGMA)
    mean_x, mean_y = _inside(translated, window), _inside(target, window)
    variance_x = _inside(translated**2, window) - mean_x**2
    variance_y = _inside(target**2, window) - mean_y**2
    covariance = _inside(translated * target, window) - mean_x * mean_y
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
    translated, target = checked(translated, target, data_range)
    return float(np.mean((translated - target) ** 2))


def mae(
    translated: np.ndarray, target: np.ndarray, *, data_range: float
) -> float:
    """Mean absolute error, in the unit of the images given.

    `data_range` is checked but does not enter: all metrics are called alike.
    Args and Raises: as for `psnr`.
    """
    translated, target = checked(translated, target, data_range)
    return float(np.mean(np.abs(translated - target)))


def me(
    translated: np.ndarray, target: np.ndarray, *, data_range: float
) -> float:
    """Mean error, translated minus target, in the unit of the images given.

    `data_range` is checked but does not enter: all metrics are called alike.
    Args and Raises: as for `psnr`.
    """
    translated, target = checked(translated, target, data_range)
    return float(np.mean(translated - target))


def nrmse(
    translated: np.ndarray, target: np.ndarray, *, data_range: float
) -> float:
    """Root of the summed squared error over that of the summed squared target.

    The "euclidean" normalisation, scikit-image's default. It depends on what
    is called zero; the protocols ask for it with 0 at the low end of the
    window. Divided by the range instead it would only be the PSNR once more.
    `data_range` is checked but does not enter: all metrics are called alike.
    Args and Raises: as for `psnr`.

    Returns:
      A number of 0 or more; NaN where the target is 0 everywhere.
    """
    translated, target = checked(translated, target, data_range)
    norm = np.sqrt(np.sum(target**2))
    if norm == 0:
        return float("nan")
    return float(np.sqrt(np.sum((translated - target) ** 2)) / norm)


def vif(
    translated: np.ndarray, target: np.ndarray, *, data_range: float
) -> float:
    """Visual information fidelity in the pixel domain (VIFp), of 4 scales.

    The part of the target's information that is still found in the translated
    image, both seen through noise of variance 2. That variance is a number of
    grey levels, so the images are brought to 0..255 first. Sheikh and Bovik
    (2006), in the pixel-domain variant of their program `vifp_mscale`; not
    symmetric. Equal to sewar's `vifp(target, translated)` on 0..255.

    Args:
      translated: image [H, W]; H and W at least 41.
      target: image of the same shape.
      data_range: as for `ssim`.

    Returns:
      0 for nothing in common, 1 for equal images, above 1 for a translated
      image of higher contrast. NaN for a target without any information,
      that is, one that is flat.

    Raises:
      ValueError: as for `ssim`, or the image has channels.
    """
    translated, target = checked(translated, target, data_range)
    _check_size("VIF", target, VIF_SMALLEST, channels=False)
    x = translated * (VIF_GREY_LEVELS / data_range)
    y = target * (VIF_GREY_LEVELS / data_range)
    found = present = 0.0
    for size in VIF_WINDOWS:
        window = _gaussian(size, size / 5)
        if size != VIF_WINDOWS[0]:
            x, y = (_inside(image, window)[::2, ::2] for image in (x, y))
        mean_x, mean_y = _inside(x, window), _inside(y, window)
        variance_x = _inside(x**2, window) - mean_x**2
        variance_y = _inside(y**2, window) - mean_y**2
        covariance = _inside(x * y, window) - mean_x * mean_y

        is_flat = (variance_x < VIF_FLAT) | (variance_y < VIF_FLAT)
        gain = covariance / (np.maximum(variance_y, 0) + VIF_FLAT)
        gain[is_flat | (covariance < 0)] = 0
        rest = np.maximum(variance_x - gain * covariance, VIF_FLAT)
        variance_y[variance_y < VIF_FLAT] = 0
        signal = gain**2 * variance_y / (rest + VIF_NOISE_VARIANCE)
        found += np.sum(np.log1p(signal))
        present += np.sum(np.log1p(variance_y / VIF_NOISE_VARIANCE))
    return float(found / present) if present > 0 else float("nan")


def uqi(
    translated: np.ndarray, target: np.ndarray, *, data_range: float
) -> float:
    """Universal image quality index of Wang and Bovik (2002).

    The mean over all 8 x 8 windows of correlation times likeness of the means
    times likeness of the contrasts:

      4 cov(x, y) mean(x) mean(y)
      -----------------------------------------------------
      (var(x) + var(y)) (mean(x)^2 + mean(y)^2)

    Where this is 0 / 0 their program decides, and so do we: a window that is
    flat in both images counts its likeness of the means alone,
    2 mean(x) mean(y) / (mean(x)^2 + mean(y)^2), that is, 1 if they are equal;
    a window with both means 0 counts 1. A window that is flat in one image
    only counts 0. Theirs takes a window for flat only if its variance is
    exactly 0, which float arithmetic never gives; here it is flat where its
    standard deviation, and 0 where its mean, is below a millionth of the
    range. For 8-bit images the two are the same. Large flat backgrounds
    decide on the value: noise there that no eye can see costs half of it.

    Args:
      translated: image [H, W]; H and W at least 8.
      target: image of the same shape.
      data_range: as for `ssim`.

    Returns:
      A number in [-1, 1].

    Raises:
      ValueError: as for `ssim`, or the image has channels.
    """
    translated, target = checked(translated, target, data_range)
    _check_size("UQI", target, UQI_WINDOW, channels=False)

    def local_mean(image: np.ndarray) -> np.ndarray:
        # An even window reaches one pixel further back than forward.
        reach = UQI_WINDOW // 2
        everywhere = ndimage.uniform_filter(image, UQI_WINDOW)
        return everywhere[reach : 1 - reach, reach : 1 - reach]

    mean_x, mean_y = local_mean(translated), local_mean(target)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance = local_mean(translated * target) - product
    variances = local_mean(translated**2 + target**2) - squares

    negligible = (UQI_FLAT * data_range) ** 2
    is_flat, is_dark = variances <= negligible, squares <= negligible
    numerator = np.where(is_flat, 2 * product, 4 * covariance * product)
    denominator = np.where(is_flat, squares, variances * squares)
    quality = np.ones_like(squares)
    np.divide(numerator, denominator, out=quality, where=~is_dark)
    return float(np.mean(quality))


def uqi_sewar(
    translated: np.ndarray, target: np.ndarray, *, data_range: float
) -> float:
    """What the package sewar calls UQI, which is not Wang and Bovik's index.

    It puts the means of the windows where the formula has their sums, so that
    the variances all but vanish beside the squared means: unrelated images
    score almost 1 if their brightness is alike, and where a float image is 0
    rounding decides, so that values outside [-1, 1] occur. Many published
    numbers are of this kind, hence this function. Equal to sewar's
    `uqi(target, translated)`, version 0.4.

    Args: as for `uqi`; H and W at least 9. `data_range` does not enter.

    Raises:
      ValueError: as for `uqi`.
    """
    translated, target = checked(translated, target, data_range)
    _check_size("UQI of sewar", target, UQI_WINDOW + 1, channels=False)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (
        ndimage.uniform_filter(image, UQI_WINDOW)
        for image in (
            target,
            translated,
            target * target,
            translated * translated,
            target * translated,
        )
    )
    count = UQI_WINDOW**2
    product = mean_x * mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    numerator = 4 * (count * mean_xy - product) * product
    variances = count * (mean_xx + mean_yy) - squares
    denominator = variances * squares
    quality = np.ones_like(squares)
    no_variance = (variances == 0) & (squares != 0)
    np.divide(2 * product, squares, out=quality, where=no_variance)
    np.divide(numerator, denominator, out=quality, where=denominator != 0)
    border = UQI_WINDOW // 2
    return float(np.mean(quality[border:-border, border:-border]))


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a number is, whatever it is computed on.

    Attributes:
      label: the word for tables.
      function: `function(translated, target, *, data_range)` -> float, and
        with `mask=` where a protocol says so; None: it needs weights that are
        not part of this package.
      higher_is_better: whether a larger value means a better image; None: the
        nearer to 0 the better.
      settings: window sizes and constants, in words.
      unit: unit of the value, where it is not that of the images.
      keeps_unit: the value has the unit of the images.
      smallest: least height and width it can be computed on.
    """

    label: str
    function: Callable[..., float] | None
    higher_is_better: bool | None
    settings: str = ""
    unit: str = ""
    keeps_unit: bool = False
    smallest: int = 1


METRICS = {
    "ssim": Metric(
        "SSIM",
        ssim,
        higher_is_better=True,
        settings="Gaussian window 11 x 11, sigma 1.5, K1 0.01, K2 0.03, "
        "population covariance, fully covered interior",
        smallest=SSIM_WINDOW,
    ),
    "psnr": Metric(
        "PSNR",
        psnr,
        higher_is_better=True,
        settings="10 log10(range^2 / MSE); infinite for identical images",
        unit="dB",
    ),
    "mse": Metric("MSE", mse, higher_is_better=False, keeps_unit=True),
    "vif": Metric(
        "VIF",
        vif,
        higher_is_better=True,
        settings="pixel domain (VIFp), 4 scales, Gaussian windows 17, 9, 5, 3 "
        "with sigma a fifth, noise variance 2 on 0..255; undefined for a flat "
        "target or a box below 41 pixels",
        smallest=VIF_SMALLEST,
    ),
    "uqi": Metric(
        "UQI",
        uqi,
        higher_is_better=True,
        settings="Wang and Bovik, 8 x 8 windows; windows flat in both images "
        "(SD below 1e-6 of the range) count the likeness of their means alone",
        smallest=UQI_WINDOW,
    ),
    "uqi_sewar": Metric(
        "UQI of sewar",
        uqi_sewar,
        higher_is_better=True,
        settings="what the package sewar calls UQI; not Wang and Bovik's",
        smallest=UQI_WINDOW + 1,
    ),
    "lpips_alex": Metric(
        "LPIPS (AlexNet)",
        None,
        higher_is_better=False,
        settings="version 0.1, AlexNet, grey repeated to three channels; "
        "undefined for a box below 31 pixels",
        smallest=31,
    ),
    "lpips_vgg": Metric(
        "LPIPS (VGG-16)",
        None,
        higher_is_better=False,
        settings="version 0.1, VGG-16, grey repeated to three channels; "
        "undefined for a box below 16 pixels",
        smallest=16,
    ),
    "mae": Metric("MAE", mae, higher_is_better=False, keeps_unit=True),
    "me": Metric(
        "ME",
        me,
        higher_is_better=None,
        settings="translated minus target",
        keeps_unit=True,
    ),
    "nrmse": Metric(
        "NRMSE",
        nrmse,
        higher_is_better=False,
        settings="root of summed squared error over that of summed squared "
        "target, 0 being the low end of the window",
    ),
}


def checked(
    translated: np.ndarray, target: np.ndarray, data_range: float
) -> tuple[np.ndarray, np.ndarray]:
    """Both images as float64.

    Raises:
      ValueError: shapes differ, there is no pixel, a value is not finite, or
        `data_range` is not positive.
    """
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


def _check_size(
    name: str, image: np.ndarray, smallest: int, channels: bool = True
) -> None:
    """A ValueError unless the image is [H, W] and large enough."""
    if image.ndim not in ((2, 3) if channels else (2,)) or (
        min(image.shape[:2]) < smallest
    ):
        raise ValueError(
            f"{name} needs images of {smallest} x {smallest} pixels or more, "
            f"got shape {image.shape}."
        )


def _gaussian(size: int, sigma: float) -> np.ndarray:
    """A Gaussian window of odd size, of sum 1."""
    distance = np.arange(size) - size // 2
    weights = np.exp(-(distance**2) / (2 * sigma**2))
    return weights / weights.sum()


def _inside(image: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Weighted mean of rows and columns where the window is all inside."""
    radius = window.size // 2
    inside = slice(radius, -radius)
    for axis in (0, 1):
        image = ndimage.correlate1d(image, window, axis=axis)
    return image[inside, inside]
