"""Errors by tissue of a CT and bias of the uptake in regions of a PET.

Averages over a whole image hide what matters: bone is a few per cent of the
voxels and most of the attenuation. Regions are thresholds of the target, so
that every method is judged on the same voxels, and no segmentation enters.
All functions take arrays of any shape, in the physical unit, cut to the pixels
that count.
"""

from __future__ import annotations

import functools

import numpy as np

from medgan_tf.evaluation import metrics

# (low, high) of the target in HU; the ends belong to soft tissue.
TISSUES_HU = {
    "air": (-np.inf, -200.0),
    "soft": (-200.0, 200.0),
    "bone": (200.0, np.inf),
}
BONE_ABOVE_HU = 200.0
# The body as `tasks.PET` has it, and what a reader takes for uptake of note.
PET_BODY_ABOVE_SUV = 0.1
PET_UPTAKE_ABOVE_SUV = 2.5


def in_tissue(target: np.ndarray, tissue: str) -> np.ndarray:
    """bool, shape of the target: air < -200, bone > 200 HU, soft between."""
    target = np.asarray(target)
    low, high = TISSUES_HU[tissue]
    if tissue == "soft":
        return (target >= low) & (target <= high)
    return (target > low) & (target < high)


def tissue_mae(
    translated: np.ndarray,
    target: np.ndarray,
    *,
    data_range: float,
    tissue: str,
) -> float:
    """Mean absolute error in HU where the target shows a tissue.

    Args:
      translated: in HU.
      target: in HU, of the same shape.
      data_range: checked but does not enter: all metrics are called alike.
      tissue: a key of TISSUES_HU.

    Returns:
      HU; NaN where the target shows none of it.

    Raises:
      ValueError: shapes differ, a value is not finite, or `data_range` is not
        positive.
    """
    translated, target = metrics.checked(translated, target, data_range)
    return _mean(np.abs(translated - target)[in_tissue(target, tissue)])


def tissue_me(
    translated: np.ndarray,
    target: np.ndarray,
    *,
    data_range: float,
    tissue: str,
) -> float:
    """Mean error, translated minus target, in HU; else as `tissue_mae`."""
    translated, target = metrics.checked(translated, target, data_range)
    return _mean((translated - target)[in_tissue(target, tissue)])


def bone_dice(
    translated: np.ndarray, target: np.ndarray, *, data_range: float
) -> float:
    """Dice overlap of the voxels above 200 HU in either image.

    Args and Raises: as for `tissue_mae`.

    Returns:
      A number in [0, 1]; NaN where neither image shows bone.
    """
    translated, target = metrics.checked(translated, target, data_range)
    found, real = translated > BONE_ABOVE_HU, target > BONE_ABOVE_HU
    both = found.sum() + real.sum()
    return float(2 * (found & real).sum() / both) if both else float("nan")


def suv_mean_bias(
    translated: np.ndarray,
    target: np.ndarray,
    *,
    data_range: float,
    above: float,
) -> float:
    """Bias of the mean SUV in a region, in per cent of the target's.

    Args:
      translated: in SUV.
      target: in SUV, of the same shape.
      data_range: checked but does not enter: all metrics are called alike.
      above: the region is where the target is above this SUV, 0 or more.

    Returns:
      Per cent, positive where the translated image is too hot; NaN where the
      target is nowhere above.

    Raises:
      ValueError: as for `tissue_mae`.
    """
    translated, target = metrics.checked(translated, target, data_range)
    region = target > above
    if not region.any():
        return float("nan")
    real = target[region].mean()
    return float(100 * (translated[region].mean() - real) / real)


def suv_max_bias(
    translated: np.ndarray,
    target: np.ndarray,
    *,
    data_range: float,
    above: float,
) -> float:
    """Bias of the highest SUV in a region; else as `suv_mean_bias`."""
    translated, target = metrics.checked(translated, target, data_range)
    region = target > above
    if not region.any():
        return float("nan")
    real = target[region].max()
    return float(100 * (translated[region].max() - real) / real)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


_TISSUE_WORDS = {
    "air": "target below -200 HU",
    "soft": "target of -200 to 200 HU",
    "bone": "target above 200 HU",
}

CT = {
    **{
        f"{name}_{tissue}": metrics.Metric(
            f"{label} {tissue}",
            functools.partial(function, tissue=tissue),
            higher_is_better=better,
            settings=words,
            keeps_unit=True,
        )
        for tissue, words in _TISSUE_WORDS.items()
        for name, label, function, better in (
            ("mae", "MAE", tissue_mae, False),
            ("me", "ME", tissue_me, None),
        )
    },
    "bone_dice": metrics.Metric(
        "Dice bone",
        bone_dice,
        higher_is_better=True,
        settings="above 200 HU in either image",
    ),
}

PET = {
    f"suv_{name}_bias_{region}": metrics.Metric(
        f"SUV{name} bias {region}",
        functools.partial(function, above=above),
        higher_is_better=None,
        settings=f"target above {above} SUV; per cent of the target's value",
        unit="%",
    )
    for region, above in (
        ("body", PET_BODY_ABOVE_SUV),
        ("uptake", PET_UPTAKE_ABOVE_SUV),
    )
    for name, function in (("mean", suv_mean_bias), ("max", suv_max_bias))
}
