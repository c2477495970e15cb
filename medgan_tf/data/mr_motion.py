"""What an MR image looks like when the head moves while it is measured.

Section 3.1.2 pairs scans with and without motion of the same volunteer. Where
only the still scan is at hand we move it: an MR scanner measures the Fourier
transform line by line, and line k sees the head in the pose it has by then,

    S(kx, ky) = F{R(angle(k)) x}(kx, ky) exp(-2 pi i (kx tx + ky ty)),

and the image is |F^-1 S|. All slices share one motion, as in an interleaved
multi-slice scan, where line k of every slice is measured within one repetition.
The head is rigid and moves in the axial plane; a single coil without phase.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import fft, ndimage

from medgan_tf import errors
from medgan_tf.data import volume as volumes


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The head's poses during one scan, in the order of time.

    The lines are measured from the most negative to the most positive
    frequency and shared out evenly: with num_segments poses, line i of n is
    seen in pose i * num_segments // n. As many poses as lines is allowed.

    Attributes:
      rotations_degrees: per pose, about the middle of the slice; positive
        turns axis 0 towards axis 1 (in LPS left towards posterior).
      translations_mm: per pose, along axis 0 and axis 1 of the array, after
        the rotation.
      phase_encode_axis: 0 or 1; lines differ in their frequency along it.
    """

    rotations_degrees: tuple[float, ...]
    translations_mm: tuple[tuple[float, float], ...]
    phase_encode_axis: int = 1

    def __post_init__(self):
        poses = len(self.rotations_degrees), len(self.translations_mm)
        if poses[0] != poses[1] or poses[0] < 1:
            raise errors.UsageError(
                f"The motion has {poses[0]} rotations and {poses[1]} "
                "translations, expected one of each per pose; add what lacks."
            )
        numbers = [self.rotations_degrees, *self.translations_mm]
        if not all(math.isfinite(n) for row in numbers for n in row):
            raise errors.UsageError(
                "The motion holds NaN or infinity, expected finite degrees and "
                "mm; mend the trajectory."
            )
        if self.phase_encode_axis not in (0, 1):
            raise errors.UsageError(
                f"phase_encode_axis is {self.phase_encode_axis}, expected 0 or "
                "1; slices lie along axis 2."
            )


def draw_parameters(
    rng: np.random.Generator, *, severity: float = 1.0, num_segments: int = 24
) -> Parameters:
    """A head that trembles, and jerks to a new pose two to five times.

    The pose in the middle of k-space is the zero, because the centre decides
    where the head appears: so the moved image stays aligned with the still one.

    Args:
      rng: draws the motion; equal states and a larger `severity` give the
        same trajectory, enlarged.
      severity: factor on all motion, >= 0; 1 has jerks of about 3 degrees and
        3 mm and a tremor of 0.2, as a volunteer told to move.
      num_segments: poses per scan.

    Raises:
      UsageError: `severity` is negative or `num_segments` below 1.
    """
    if not severity >= 0.0 or num_segments < 1:
        raise errors.UsageError(
            f"severity is {severity} and num_segments {num_segments}, expected "
            ">= 0 and >= 1; severity 1 is a volunteer told to move."
        )
    # [num_segments, 3]: degrees, mm, mm.
    steps = rng.normal(0.0, 0.2, (num_segments, 3))
    for jerk in rng.integers(0, num_segments, rng.integers(2, 6)):
        steps[jerk] += rng.normal(0.0, 3.0, 3)
    poses = np.cumsum(steps, axis=0)
    poses = severity * (poses - poses[num_segments // 2])
    return Parameters(
        rotations_degrees=tuple(float(p) for p in poses[:, 0]),
        translations_mm=tuple((float(x), float(y)) for x, y in poses[:, 1:]),
        phase_encode_axis=int(rng.integers(2)),
    )


def apply(volume: volumes.Volume, parameters: Parameters) -> volumes.Volume:
    """The magnitude image of a head that moved as `parameters` say.

    Args:
      volume: MR, shape (X, Y, Z), scanner units; axis 2 counts axial slices.
        In-plane spacing may differ along X and Y. Values below 0, which
        resampling leaves in magnitude images, count as 0.
      parameters: see `Parameters`; equal ones give equal images.

    Returns:
      Magnitude >= 0, float32, on the same grid.

    Raises:
      DataError: a voxel is NaN or infinite, or there are fewer lines than
        poses.
    """
    if not np.isfinite(volume.array).all():
        raise errors.DataError(
            "The MR volume holds NaN or infinity, expected finite values; "
            "replace them, for example by 0."
        )
    # [X, Y, Z] -> [Z, X, Y], so that a slice lies together in memory.
    still = np.maximum(np.moveaxis(volume.array, 2, 0), 0.0, dtype=np.float32)
    axis = parameters.phase_encode_axis
    num_lines, num_poses = volume.shape[axis], len(parameters.translations_mm)
    if num_poses > num_lines:
        raise errors.DataError(
            f"The motion has {num_poses} poses, but the image only {num_lines} "
            f"lines along axis {axis}; draw it with fewer segments."
        )
    frequencies = [
        fft.fftfreq(n, s).astype(np.float32)
        for n, s in zip(volume.shape[:2], volume.spacing[:2], strict=True)
    ]
    pose_of_line = np.arange(num_lines) * num_poses // num_lines
    # fftfreq begins at zero frequency, the scan at the most negative one.
    pose_of_line = fft.ifftshift(pose_of_line)
    # Cubic splines, fitted once: linear interpolation would blur.
    splines = ndimage.spline_filter1d(still, axis=1, output=np.float32)
    splines = ndimage.spline_filter1d(splines, axis=2, output=np.float32)
    measured = np.empty(still.shape, np.complex64)
    for pose, (degrees, millimetres) in enumerate(
        zip(
            parameters.rotations_degrees,
            parameters.translations_mm,
            strict=True,
        )
    ):
        lines = [slice(None), slice(None), slice(None)]
        lines[axis + 1] = np.flatnonzero(pose_of_line == pose)
        shift = np.add.outer(
            frequencies[0] * millimetres[0], frequencies[1] * millimetres[1]
        )
        moved = _rotate(splines, degrees, volume.spacing) if degrees else still
        signal = fft.fft2(moved)
        signal *= np.exp(-2j * np.pi * shift).astype(np.complex64)
        measured[tuple(lines)] = signal[tuple(lines)]
    image = np.abs(fft.ifft2(measured))
    return volumes.Volume(
        np.ascontiguousarray(np.moveaxis(image, 0, 2), np.float32),
        volume.affine.copy(),
    )


def _rotate(
    splines: np.ndarray, degrees: float, spacing: tuple[float, ...]
) -> np.ndarray:
    """Slices [Z, X, Y] turned about their middle, from spline coefficients."""
    cos = math.cos(math.radians(degrees))
    sin = math.sin(math.radians(degrees))
    # Where an output pixel comes from: to mm, turned back, to pixels.
    scale = np.asarray(spacing[:2])
    matrix = np.array([[cos, sin], [-sin, cos]]) * scale / scale[:, None]
    middle = (np.asarray(splines.shape[1:]) - 1) / 2
    offset = middle - matrix @ middle
    return np.stack(
        [
            ndimage.affine_transform(
                coefficients, matrix, offset, prefilter=False
            )
            for coefficients in splines
        ]
    )
