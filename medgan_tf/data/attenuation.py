"""How much 511 keV photons lose on their way, told from a CT.

CT measures attenuation of its own, softer X-rays. Up to water a voxel is a
mixture of air and water, above of water and bone, whose calcium stops X-rays
more than it stops 511 keV: two straight lines, of which the second depends on
the tube voltage (Carney et al., Medical Physics 33, 976, 2006).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from medgan_tf import errors
from medgan_tf.data import volume as volumes


@dataclasses.dataclass(frozen=True)
class BilinearScale:
    """Two lines from HU to attenuation at 511 keV in 1/cm.

    Attributes:
      break_hu: where the second line takes over.
      soft_slope: 1/cm per (HU + 1000), below.
      bone_slope: 1/cm per (HU + 1000), from there on.
      bone_intercept: 1/cm, of the second line at -1000 HU.
    """

    break_hu: float
    soft_slope: float
    bone_slope: float
    bone_intercept: float


# By the peak voltage of the CT's tube in kV: Carney et al., Table I.
CARNEY = {120: BilinearScale(47.0, 9.6e-5, 5.10e-5, 4.71e-2)}


def mu_map(ct: volumes.Volume, *, kilovolts: int = 120) -> volumes.Volume:
    """Linear attenuation at 511 keV of each voxel of a CT.

    Args:
      ct: HU; values below -1000 count as -1000, which attenuates nothing.
      kilovolts: peak voltage of the CT's tube, a row of CARNEY.

    Returns:
      1/cm >= 0, float32, on the same grid; water 0.096.

    Raises:
      UsageError: the voltage is not in the table.
      DataError: a voxel is NaN or infinite.
    """
    if kilovolts not in CARNEY:
        raise errors.UsageError(
            f"kilovolts is {kilovolts}, expected one of "
            f"{', '.join(map(str, CARNEY))}; see KVP in the CT's header."
        )
    if not np.isfinite(ct.array).all():
        raise errors.DataError(
            "The CT holds NaN or infinity, expected HU; replace them, for "
            "example by -1000."
        )
    scale = CARNEY[kilovolts]
    above_air = np.maximum(ct.array.astype(np.float32) + 1000, 0)
    per_cm = np.where(
        ct.array < scale.break_hu,
        scale.soft_slope * above_air,
        scale.bone_slope * above_air + scale.bone_intercept,
    )
    return volumes.Volume(per_cm.astype(np.float32), ct.affine.copy())
