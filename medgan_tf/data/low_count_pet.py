"""What a PET image would look like had the scanner counted fewer photons.

Section 3.1.3 pairs scans of 25 % of the acquisition time with full ones.
Where only the full scan is at hand we make the short one as physics does:

    y ~ Poisson(fraction * scale * P G x),    x_low = OSEM(y; P G)

with x the image [SUV], G the scanner's blur, P the parallel-beam projection of
every slice and OSEM the usual reconstruction (Hudson and Larkin 1994). Noise
is therefore born in the counts and gets its texture from the reconstruction.

Because x stands for the expected activity, noise that x already has comes on
top. Attenuation, scatter and randoms have no map here: their mean loss is in
`counts_per_suv_ml`, their pattern is not modelled.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
from scipy import ndimage, sparse

from medgan_tf import errors
from medgan_tf.data import volume as volumes

# Bins of the scanner, whatever the image's grid: half of a 4 mm crystal.
BIN_MM = 2.0
# Full width at half maximum of a Gaussian over its standard deviation.
FWHM_PER_SIGMA = math.sqrt(8.0 * math.log(2.0))


@dataclasses.dataclass(frozen=True)
class Parameters:
    """One low-count scan, down to its noise.

    Attributes:
      fraction: counts kept, in (0, 1]; 0.25 in Section 3.1.3.
      counts_per_suv_ml: true counts that 1 mL of SUV 1 adds to the full scan.
        3.4 kBq/mL (370 MBq in 75 kg after 60 min) x 180 s x 1.5 % sensitivity
        x 1/5 not attenuated (a head; 1/10 in a torso) = 1800. Time of flight
        is worth about twice as many.
        One factor for a volume, so that a slice gets counts in proportion to
        its own activity, and a cut-out gets those of the whole scan.
      psf_fwhm_mm: blur of the scanner, also known to the reconstruction.
      num_angles: views over 180 degrees; 120 resolve 5 mm in a 380 mm body.
      subsets: of views; divides `num_angles`.
      iterations: passes of OSEM over all views.
      seed: draws the Poisson noise.
    """

    fraction: float = 0.25
    counts_per_suv_ml: float = 1800.0
    psf_fwhm_mm: float = 4.5
    num_angles: int = 120
    subsets: int = 12
    iterations: int = 3
    seed: int = 0

    def __post_init__(self):
        if not 0.0 < self.fraction <= 1.0:
            raise errors.UsageError(
                f"fraction is {self.fraction}, expected in (0, 1]; "
                "0.25 keeps a quarter of the counts."
            )
        if not (self.counts_per_suv_ml > 0.0 and self.psf_fwhm_mm >= 0.0):
            raise errors.UsageError(
                f"counts_per_suv_ml is {self.counts_per_suv_ml} and "
                f"psf_fwhm_mm {self.psf_fwhm_mm}, expected above 0 and not "
                "below 0; leave them out for a clinical scan."
            )
        if min(self.num_angles, self.subsets, self.iterations) < 1 or (
            self.num_angles % self.subsets
        ):
            raise errors.UsageError(
                f"num_angles is {self.num_angles}, subsets {self.subsets} and "
                f"iterations {self.iterations}, expected 1 or more each; "
                "choose subsets that divide num_angles."
            )


def draw_parameters(
    rng: np.random.Generator, *, fraction: float = 0.25
) -> Parameters:
    """Parameters of a scan with `fraction` of the counts and its own noise."""
    return Parameters(fraction=fraction, seed=int(rng.integers(2**31)))


def apply(volume: volumes.Volume, parameters: Parameters) -> volumes.Volume:
    """The image that the scanner would show for fewer counts.

    Args:
      volume: PET, SUV, shape (X, Y, Z); axis 2 counts axial slices. In-plane
        spacing may differ along X and Y.
      parameters: see `Parameters`; equal ones give equal images.

    Returns:
      SUV >= 0, float32, on the same grid.

    Raises:
      DataError: a voxel is negative, NaN or infinite.
    """
    lowest = float(np.min(volume.array, initial=0.0))
    if not (lowest >= 0.0 and np.isfinite(volume.array).all()):
        raise errors.DataError(
            f"PET values go down to {lowest} or are not finite, expected "
            "finite SUV >= 0; set negative voxels to 0 after resampling."
        )
    num_x, num_y, num_slices = volume.shape
    projectors = projector(
        (num_x, num_y),
        tuple(round(s, 4) for s in volume.spacing[:2]),
        parameters.num_angles,
        parameters.subsets,
    )
    sigma = [
        parameters.psf_fwhm_mm / FWHM_PER_SIGMA / s for s in volume.spacing
    ]
    voxel_ml = float(np.prod(volume.spacing)) / 1000.0
    # Counts per SUV in one view: every view sees every voxel once.
    scale = (
        parameters.fraction
        * parameters.counts_per_suv_ml
        * voxel_ml
        / parameters.num_angles
    )

    def blur(pixels: np.ndarray) -> np.ndarray:
        # Reflection makes the blur symmetric (its own transpose) and keeps
        # activity, so every voxel has the same sensitivity, corners too.
        blurred = ndimage.gaussian_filter(
            pixels.reshape(volume.shape), sigma, mode="reflect"
        )
        return blurred.reshape(-1, num_slices)

    # [X, Y, Z] -> [X * Y, Z]: one column a slice, all projected at once.
    activity = np.ascontiguousarray(volume.array, np.float32)
    counts = count(blur(activity), projectors, scale, parameters.seed)
    estimate = _reconstruct(counts, projectors, blur, parameters)
    return volumes.Volume(
        (estimate / scale).reshape(volume.shape).astype(np.float32),
        volume.affine.copy(),
    )


# Two geometries, because one of 256 x 256 pixels takes about 200 MB.
@functools.lru_cache(maxsize=2)
def projector(
    shape: tuple[int, int],
    spacing: tuple[float, float],
    num_angles: int,
    subsets: int,
) -> tuple[sparse.csr_array, ...]:
    """Parallel-beam projection of a slice, one sparse matrix per subset.

    A weight is the share of the pixel's area that lies in the strip of a bin,
    so each view sums to the pixel's value exactly, in the corners as well.

    Args:
      shape: pixels (X, Y).
      spacing: mm along X and Y.
      num_angles: views over 180 degrees.
      subsets: matrices returned, with interleaved views.

    Returns:
      float32 matrices [num_angles / subsets * bins, X * Y].
    """
    centres = [
        (np.arange(n) - (n - 1) / 2) * s
        for n, s in zip(shape, spacing, strict=True)
    ]
    radius = math.hypot(
        *(n * s / 2 for n, s in zip(shape, spacing, strict=True))
    )
    num_bins = 2 * math.ceil(radius / BIN_MM) + 2
    pixels = np.arange(shape[0] * shape[1])
    per_subset = num_angles // subsets
    matrices = []
    for subset in range(subsets):
        rays, columns, weights = [], [], []
        for view in range(per_subset):
            angle = math.pi * (subset + view * subsets) / num_angles
            direction = math.cos(angle), math.sin(angle)
            # The shadow of a pixel is a box convolved with a box: widths mm.
            widths = [
                max(abs(d) * s, 1e-3 * s)
                for d, s in zip(direction, spacing, strict=True)
            ]
            middle = np.add.outer(
                direction[0] * centres[0], direction[1] * centres[1]
            ).ravel()
            first = np.floor((middle - sum(widths) / 2) / BIN_MM).astype(int)
            edge = first * BIN_MM - middle
            below = _shadow_below(edge, widths)
            for step in range(math.ceil(sum(widths) / BIN_MM) + 1):
                above = _shadow_below(edge + (step + 1) * BIN_MM, widths)
                rays.append(view * num_bins + num_bins // 2 + first + step)
                columns.append(pixels)
                weights.append((above - below).astype(np.float32))
                below = above
        entries = np.concatenate(weights)
        indices = np.concatenate(rays), np.concatenate(columns)
        kept = entries > 1e-6
        matrices.append(
            sparse.csr_array(
                (entries[kept], (indices[0][kept], indices[1][kept])),
                shape=(per_subset * num_bins, pixels.size),
            )
        )
    return tuple(matrices)


def _shadow_below(edge: np.ndarray, widths: list[float]) -> np.ndarray:
    """Share in [0, 1] of a pixel's shadow below `edge` mm from its middle."""
    a, b = widths

    def ramp(offset: float) -> np.ndarray:
        return np.maximum(edge + offset, 0.0) ** 2

    corners = (
        ramp((a + b) / 2)
        - ramp((a - b) / 2)
        - ramp((b - a) / 2)
        + ramp(-(a + b) / 2)
    )
    return corners / (2 * a * b)


def count(
    pixels: np.ndarray,
    projectors: tuple[sparse.csr_array, ...],
    scale: float,
    seed: int,
) -> list[np.ndarray]:
    """Poisson counts, per subset [rays, Z], of activity `pixels` [X * Y, Z]."""
    rng = np.random.default_rng(seed)
    return [
        rng.poisson(scale * (matrix @ pixels)).astype(np.float32)
        for matrix in projectors
    ]


def _reconstruct(
    counts: list[np.ndarray],
    projectors: tuple[sparse.csr_array, ...],
    blur: Callable[[np.ndarray], np.ndarray],
    parameters: Parameters,
) -> np.ndarray:
    """OSEM from a uniform start; [X * Y, Z] in expected counts per view."""
    views = parameters.num_angles // parameters.subsets
    total = sum(c.sum(dtype=np.float64) for c in counts) / parameters.num_angles
    shape = projectors[0].shape[1], counts[0].shape[1]
    estimate = np.full(shape, total / math.prod(shape), np.float32)
    for _ in range(parameters.iterations):
        for measured, matrix in zip(counts, projectors, strict=True):
            expected = matrix @ blur(estimate)
            ratio = np.divide(
                measured,
                expected,
                out=np.zeros_like(measured),
                where=expected > 0.0,
            )
            estimate *= blur(matrix.T @ ratio) / views
    # Because the last subset alone sets the sum, and it saw few counts.
    estimated = float(estimate.sum(dtype=np.float64))
    return estimate * float(total / estimated) if estimated else estimate
