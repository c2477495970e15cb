"""A volume: voxel values together with where they are in the patient."""

from __future__ import annotations

import dataclasses
import math

import nibabel as nib
import numpy as np

from medgan_tf import errors

# A header can declare any size in a few bytes: refuse before reading.
MAX_GB = 4


@dataclasses.dataclass(frozen=True)
class Volume:
    """Voxel values and their place in space.

    Attributes:
      array: float32 values, shape (X, Y, Z), in the physical unit of the
        modality (HU, SUV, scanner units).
      affine: float64, shape (4, 4): voxel index -> RAS+ millimetres, as in
        nibabel.
    """

    array: np.ndarray
    affine: np.ndarray

    def __post_init__(self):
        if self.array.ndim != 3:
            raise ValueError(
                f"A Volume has 3 axes (X, Y, Z), got shape {self.array.shape}."
            )
        if np.shape(self.affine) != (4, 4):
            raise ValueError(
                "An affine is a 4 x 4 matrix, got shape "
                f"{np.shape(self.affine)}."
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along X, Y and Z."""
        return self.array.shape

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring voxels along each axis."""
        return tuple(float(s) for s in nib.affines.voxel_sizes(self.affine))

    @property
    def orientation(self) -> str:
        """Where each axis points, such as "LPS"."""
        return "".join(nib.aff2axcodes(self.affine))

    def same_grid(self, other: Volume, tolerance_mm: float = 1e-3) -> bool:
        """Whether both volumes have the same voxels in the same places."""
        if self.shape != other.shape:
            return False
        corners = np.array(
            [[0, 0, 0, 1], *(np.diag(self.shape + (1,))[:3] + [0, 0, 0, 1])]
        )
        difference = corners @ (self.affine - other.affine).T
        return bool(np.abs(difference).max() <= tolerance_mm)


def checked_count(where: object, shape: tuple[int, ...], itemsize: int) -> int:
    """Number of voxels that a header declares, refused if memory is in danger.

    Args:
      where: the file, for the message.
      shape: voxels along each axis.
      itemsize: bytes of a stored voxel.

    Raises:
      DataError: more than MAX_GB as stored or as float32.
    """
    count = math.prod(int(n) for n in shape)
    gigabytes = count * max(itemsize, 4) / 1e9
    if gigabytes > MAX_GB:
        raise errors.refusal(
            where,
            f"{' x '.join(map(str, shape))} voxels, {gigabytes:.1f} GB",
            f"at most {MAX_GB} GB",
            "crop it, or check its header",
        )
    return count
