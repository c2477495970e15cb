"""How wrong the attenuation along lines through the body is.

A PET scanner never sees a voxel of the attenuation map, only its integral
along the line between two detectors: what it counts is multiplied by the
exponential of that integral. So errors of a synthetic CT that cancel along a
line do no harm, and those that add up do, which no error per voxel can tell.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from medgan_tf.data import attenuation, tomography
from medgan_tf.data import volume as volumes
from medgan_tf.evaluation import metrics

# Half of water: between the body and the air around it, as -500 HU is.
BODY_ABOVE_PER_CM = 0.048
# A line that grazes the skin has almost nothing to be compared with.
LEAST_PATH_MM = 10.0
NUM_ANGLES = 36
# Of the X-rays with which both CT are taken to be made: the usual voltage.
KILOVOLTS = 120


class LineErrors(NamedTuple):
    """Errors of the integral of attenuation, translated less target.

    Attributes:
      mean: of the error over the lines; without unit. 0.01 makes the PET
        about 1 % too bright.
      mean_absolute: of its absolute value; without unit.
      mean_relative: of its absolute value over the target's integral, in
        per cent.
      num_lines: that meet the body.
    """

    mean: float
    mean_absolute: float
    mean_relative: float
    num_lines: int


def line_integral_errors(
    translated: np.ndarray,
    target: np.ndarray,
    *,
    spacing_mm: tuple[float, float],
    num_angles: int = NUM_ANGLES,
) -> LineErrors:
    """Compares two attenuation maps along parallel lines in axial slices.

    Each slice is crossed by lines 2 mm apart from `num_angles` directions over
    180 degrees. A line counts if it goes through 10 mm of the body, which is
    where the target attenuates more than half of what water does.

    Args:
      translated: 1/cm, shape (X, Y) or (X, Y, Z), X and Y in the axial plane.
      target: 1/cm, same shape; attenuation of the real CT.
      spacing_mm: of the voxels along X and Y.
      num_angles: directions.

    Returns:
      See `LineErrors`; NaN where no line meets a body.

    Raises:
      ValueError: shapes differ or have another number of axes, a value is not
        finite, or a spacing or the number of angles is not positive.
    """
    translated = np.asarray(translated, np.float32)
    target = np.asarray(target, np.float32)
    if translated.shape != target.shape or target.ndim not in (2, 3):
        raise ValueError(
            "Line integrals need two maps of one shape, (X, Y) or (X, Y, Z), "
            f"got {translated.shape} and {target.shape}."
        )
    if not (np.isfinite(translated).all() and np.isfinite(target).all()):
        raise ValueError("An attenuation map holds NaN or infinity.")
    spacing = tuple(float(s) for s in spacing_mm)
    if len(spacing) != 2 or min(spacing) <= 0 or num_angles < 1:
        raise ValueError(
            "Line integrals need two positive distances in mm and at least "
            f"one angle, got {spacing_mm} and {num_angles}."
        )
    projectors = tomography.projector(target.shape[:2], spacing, num_angles, 1)

    def along_lines(array: np.ndarray) -> np.ndarray:
        pixels = array.reshape(target.shape[0] * target.shape[1], -1)
        return tomography.line_integrals(pixels, projectors, spacing)[0]

    body = target > BODY_ABOVE_PER_CM
    meets = along_lines(body.astype(np.float32)) >= LEAST_PATH_MM
    num_lines = int(np.count_nonzero(meets))
    if not num_lines:
        return LineErrors(np.nan, np.nan, np.nan, 0)
    # The projection is per mm, the map per cm.
    expected = along_lines(target)[meets].astype(np.float64) / 10
    error = along_lines(translated)[meets].astype(np.float64) / 10 - expected
    absolute = np.abs(error)
    return LineErrors(
        float(error.mean()),
        float(absolute.mean()),
        float(100 * (absolute / expected).mean()),
        num_lines,
    )


def measures(spacing_mm: tuple[float, float]) -> dict[str, metrics.Metric]:
    """What line integrals say of a synthetic CT, as metrics of two CT in HU.

    Args:
      spacing_mm: of the voxels along the rows' and the columns' direction of
        a slice [H, W] or of a volume [slices, H, W]: from one row to the
        next, from one column to the next.

    Returns:
      Name -> metric.
    """
    settings = (
        f"attenuation at 511 keV (Carney, {KILOVOLTS} kVp) along parallel "
        f"lines in {NUM_ANGLES} directions that meet the target's body"
    )
    return {
        f"line_{name}": metrics.Metric(
            label,
            functools.partial(_of_ct, which=which, spacing_mm=spacing_mm),
            higher_is_better=better,
            settings=settings,
            unit=unit,
        )
        for name, label, which, better, unit in (
            ("mare", "MARE of lines", "mean_relative", False, "%"),
            ("me", "ME of lines", "mean", None, ""),
        )
    }


def _of_ct(
    translated: np.ndarray,
    target: np.ndarray,
    *,
    data_range: float,
    mask: np.ndarray,
    which: str,
    spacing_mm: tuple[float, float],
) -> float:
    """One of the errors of two CT in HU, [H, W] or [slices, H, W]."""
    del data_range, mask  # What is outside has the same value in both.
    maps = []
    for ct in (translated, target):
        slices = ct[None] if ct.ndim == 2 else ct
        array = np.moveaxis(slices, 0, -1).astype(np.float32)
        ct = volumes.Volume(array, np.eye(4))
        maps.append(attenuation.mu_map(ct, kilovolts=KILOVOLTS).array)
    errors = line_integral_errors(*maps, spacing_mm=spacing_mm)
    return float(getattr(errors, which))
