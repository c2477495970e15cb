"""What an MR image looks like when the head moves while it is measured.

Section 3.1.2 pairs scans with and without motion of the same volunteer. Where
only the still scan is at hand we move it: an MR scanner measures the Fourier
transform line by line, and line k sees the head in the pose it has by then,

    S(kx, ky) = F{R(angle(k)) x}(kx, ky) exp(-2 pi i (kx tx + ky ty)),

and the image is F^-1 S, shown as its magnitude. All slices share one motion,
as in an interleaved multi-slice scan, where line k of every slice is measured
within one repetition. The head is rigid and moves in the axial plane: nodding,
and any other motion through the plane, is not modelled. A single coil without
phase.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection

import numpy as np
from scipy import fft, ndimage

from medgan_tf import errors
from medgan_tf.data import mr_trajectories
from medgan_tf.data import volume as volumes

# When each line is measured: (lines, interleaves) -> the lines' numbers in the
# order of time, counted from the most negative frequency; lines // 2 is zero.
ORDERINGS: dict[str, Callable[[int, int], np.ndarray]] = {
    "sequential": lambda lines, interleaves: np.arange(lines),
    # Every n-th line, then their neighbours: first the comb with the centre.
    "interleaved": lambda lines, interleaves: np.argsort(
        (np.arange(lines) - lines // 2) % interleaves, kind="stable"
    ),
    "centric": lambda lines, interleaves: np.argsort(
        np.abs(np.arange(lines) - lines // 2), kind="stable"
    ),
}
# What the head turns about.
ROTATION_CENTRES = ("slice", "head")


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The head's poses during one scan; `Parameters(**asdict(p)) == p`.

    The lines are shared out evenly: with num_segments poses, the i-th measured
    of n lines is seen in pose i * num_segments // n. As many poses as lines is
    allowed.

    Attributes:
      rotations_degrees: per pose in the order of time, about
        `rotation_centre`; positive turns axis 0 towards axis 1 (in LPS left
        towards posterior).
      translations_mm: per pose, along axis 0 and axis 1 of the array, after
        the rotation.
      phase_encode_axis: 0 or 1; lines differ in their frequency along it.
      ordering: a row of ORDERINGS: which line is measured when.
      interleaves: combs of lines, for ordering "interleaved".
      rotation_centre: "slice", the middle of the array's axes 0 and 1, or
        "head", the centre of the signal's mass in the whole volume.
    """

    rotations_degrees: tuple[float, ...]
    translations_mm: tuple[tuple[float, float], ...]
    phase_encode_axis: int = 1
    ordering: str = "sequential"
    interleaves: int = 4
    rotation_centre: str = "slice"

    def __post_init__(self):
        # JSON gives lists, which are never equal to tuples.
        object.__setattr__(
            self, "rotations_degrees", tuple(self.rotations_degrees)
        )
        object.__setattr__(
            self, "translations_mm", tuple(map(tuple, self.translations_mm))
        )
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
        if self.interleaves < 1:
            raise errors.UsageError(
                f"interleaves is {self.interleaves}, expected 1 or more; 1 is "
                "the same as the sequential ordering."
            )
        _check_choice("ordering", self.ordering, ORDERINGS)
        _check_choice("rotation_centre", self.rotation_centre, ROTATION_CENTRES)


def _check_choice(name: str, choice: str, allowed: Collection[str]) -> None:
    if choice not in allowed:
        raise errors.UsageError(
            f"{name} is {choice!r}, expected one of {', '.join(allowed)}; "
            "choose one of them."
        )


def draw_parameters(
    rng: np.random.Generator,
    *,
    trajectory: str = "tremble_and_jerks",
    severity: float = 1.0,
    num_segments: int = 24,
    ordering: str = "sequential",
    interleaves: int = 4,
    rotation_centre: str = "slice",
    phase_encode_axis: int = -1,
) -> Parameters:
    """A motion during one scan.

    The pose in the middle of k-space is the zero, because the centre decides
    where the head appears: so the moved image stays aligned with the still
    one. (To within one pose, where the lines cannot be shared out evenly.)

    Args:
      rng: draws the motion; equal states and a larger `severity` give the
        same trajectory, enlarged.
      trajectory: a row of `mr_trajectories.TRAJECTORIES`.
      severity: factor on all motion, >= 0; 1 has movements of about 3 degrees
        and 3 mm, as a volunteer told to move.
      num_segments: poses per scan; as many as there are lines moves each.
      ordering: see `Parameters`.
      interleaves: see `Parameters`.
      rotation_centre: see `Parameters`.
      phase_encode_axis: 0 or 1; -1: drawn.

    Raises:
      UsageError: an option is out of its range.
    """
    if not 0.0 <= severity < math.inf or num_segments < 1:
        raise errors.UsageError(
            f"severity is {severity} and num_segments {num_segments}, expected "
            ">= 0 and >= 1; severity 1 is a volunteer told to move."
        )
    if phase_encode_axis not in (-1, 0, 1):
        raise errors.UsageError(
            f"phase_encode_axis is {phase_encode_axis}, expected 0, 1 or -1; "
            "-1 draws one."
        )
    _check_choice("trajectory", trajectory, mr_trajectories.TRAJECTORIES)
    # [num_segments, 3]: degrees, mm, mm.
    poses = mr_trajectories.TRAJECTORIES[trajectory](rng, num_segments)
    # Always drawn, so that the choice of an axis leaves later draws alone.
    drawn_axis = int(rng.integers(2))
    still = Parameters(
        rotations_degrees=(0.0,) * num_segments,
        translations_mm=((0.0, 0.0),) * num_segments,
        phase_encode_axis=(
            drawn_axis if phase_encode_axis == -1 else phase_encode_axis
        ),
        ordering=ordering,
        interleaves=interleaves,
        rotation_centre=rotation_centre,
    )
    # As on slices of 256 lines; the sequential ordering has n // 2 on all.
    order = ORDERINGS[ordering](256, interleaves)
    central = int(np.flatnonzero(order == 128)[0]) * num_segments // 256
    poses = severity * (poses - poses[central])
    return dataclasses.replace(
        still,
        rotations_degrees=tuple(float(p) for p in poses[:, 0]),
        translations_mm=tuple((float(x), float(y)) for x, y in poses[:, 1:]),
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
    return volumes.Volume(
        np.abs(complex_image(volume, parameters)), volume.affine.copy()
    )


def complex_image(volume: volumes.Volume, parameters: Parameters) -> np.ndarray:
    """The image before the magnitude is taken, for those who model phase.

    Args and errors are those of `apply`.

    Returns:
      complex64, shape (X, Y, Z), scanner units; without motion it is real.
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
    pose_of_line = np.empty(num_lines, int)
    order = ORDERINGS[parameters.ordering](num_lines, parameters.interleaves)
    pose_of_line[order] = np.arange(num_lines) * num_poses // num_lines
    # fftfreq begins at zero frequency, the orderings at the most negative one.
    pose_of_line = fft.ifftshift(pose_of_line)
    degrees = np.array(parameters.rotations_degrees)[pose_of_line]
    signal = _signal_of_turned(still, degrees, volume.spacing, parameters)
    # The shift theorem, for each line with its own translation: [X, Y].
    along = [1, 1]
    along[axis] = num_lines
    translations = np.float32(parameters.translations_mm)[pose_of_line]
    frequencies = [
        fft.fftfreq(n, s).astype(np.float32)
        for n, s in zip(volume.shape[:2], volume.spacing[:2], strict=True)
    ]
    shift = frequencies[0][:, None] * translations[:, 0].reshape(along)
    shift = shift + frequencies[1] * translations[:, 1].reshape(along)
    signal *= np.exp(-2j * np.pi * shift).astype(np.complex64)
    image = fft.ifft2(signal, overwrite_x=True)
    return np.ascontiguousarray(np.moveaxis(image, 0, 2))


def _signal_of_turned(
    still: np.ndarray,
    degrees: np.ndarray,
    spacing: tuple[float, ...],
    parameters: Parameters,
) -> np.ndarray:
    """Fourier transform of slices [Z, X, Y], line by line at its own angle."""
    centre = (np.asarray(still.shape[1:]) - 1) / 2
    if parameters.rotation_centre == "head" and still.any():
        centre = np.asarray(ndimage.center_of_mass(still)[1:])
    # Cubic splines, fitted once: linear interpolation would blur.
    splines = ndimage.spline_filter1d(still, axis=1, output=np.float32)
    splines = ndimage.spline_filter1d(splines, axis=2, output=np.float32)
    signal = np.empty(still.shape, np.complex64)
    for angle in np.unique(degrees):
        lines = [slice(None)] * 3
        lines[parameters.phase_encode_axis + 1] = np.flatnonzero(
            degrees == angle
        )
        turned = _rotate(splines, angle, spacing, centre) if angle else still
        signal[tuple(lines)] = fft.fft2(turned)[tuple(lines)]
    return signal


def _rotate(
    splines: np.ndarray,
    degrees: float,
    spacing: tuple[float, ...],
    centre: np.ndarray,
) -> np.ndarray:
    """Slices [Z, X, Y] turned about a pixel, from their spline coefficients."""
    cos = math.cos(math.radians(degrees))
    sin = math.sin(math.radians(degrees))
    # Where an output pixel comes from: to mm, turned back, to pixels.
    scale = np.asarray(spacing[:2])
    matrix = np.array([[cos, sin], [-sin, cos]]) * scale / scale[:, None]
    offset = centre - matrix @ centre
    return np.stack(
        [
            ndimage.affine_transform(
                coefficients, matrix, offset, prefilter=False
            )
            for coefficients in splines
        ]
    )
