"""From a slice to what a ring of detectors sees of it, and the two ways back.

The projection P is parallel-beam, slice by slice; a *view* is all bins of one
angle. `osem` is the iterative reconstruction of Hudson and Larkin (1994),
`filtered_back_projection` the inverse of the Radon transform (Kak and Slaney,
Principles of Computerized Tomographic Imaging, Section 3.3).

Everywhere a slice is one column of [X * Y, Z], so that a volume is projected
at once, and a sinogram is a list with one array [rays, Z] per subset of views.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import fft, sparse

# Bins of the scanner, whatever the image's grid: half of a 4 mm crystal.
BIN_MM = 2.0
# What bins of that width can carry, in cycles per mm.
NYQUIST_PER_MM = 0.5 / BIN_MM

# What a filter leaves at a frequency, given as a share in [0, 1] of its
# cut-off; it leaves nothing above.
WINDOWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ramp": np.ones_like,
    "shepp_logan": lambda share: np.sinc(share / 2),
    "hamming": lambda share: 0.54 + 0.46 * np.cos(np.pi * share),
    "hann": lambda share: 0.5 + 0.5 * np.cos(np.pi * share),
}


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


def line_integrals(
    pixels: np.ndarray,
    projectors: Sequence[sparse.csr_array],
    spacing: tuple[float, float],
) -> list[np.ndarray]:
    """Sinogram of the integral of `pixels` along each ray, in value x mm.

    The mean over the width of the bin, because a strip is no line.

    Args:
      pixels: [X * Y, Z].
      projectors: of `projector`.
      spacing: mm along X and Y.
    """
    per_sum = np.float32(math.prod(spacing) / BIN_MM)
    return [(matrix @ pixels) * per_sum for matrix in projectors]


def osem(
    counts: Sequence[np.ndarray],
    projectors: Sequence[sparse.csr_array],
    num_angles: int,
    iterations: int,
    *,
    blur: Callable[[np.ndarray], np.ndarray],
    survival: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """The image that explains the counts, reached from a uniform one.

    Expected counts are A P G x, with G the scanner's blur and A the survival.

    Args:
      counts: sinogram >= 0.
      projectors: of `projector`, one per subset.
      num_angles: views in all subsets together.
      iterations: passes over all subsets.
      blur: G for [X * Y, Z]; its own transpose, and keeps the sum.
      survival: sinogram of the share in (0, 1] that each ray lets through;
        None: all of it.

    Returns:
      float32 [X * Y, Z], x >= 0 in counts per view. It expects as many counts
      as were measured.
    """
    sensitivity = num_angles // len(projectors)
    total = sum(c.sum(dtype=np.float64) for c in counts) / num_angles
    shape = projectors[0].shape[1], counts[0].shape[1]
    estimate = np.full(shape, total / math.prod(shape), np.float32)
    for _ in range(iterations):
        for subset, matrix in enumerate(projectors):
            expected = matrix @ blur(estimate)
            # A cancels in A y / (A P G x), but not in the sensitivity.
            ratio = np.divide(
                counts[subset],
                expected,
                out=np.zeros_like(expected),
                where=expected > 0.0,
            )
            if survival is not None:
                # Made anew each time, because one per subset, kept, would
                # take many times the memory of the image.
                sensitivity = blur(matrix.T @ survival[subset])
            estimate *= blur(matrix.T @ ratio) / sensitivity
    # Because the last subset alone sets the sum, and it saw few counts.
    if survival is None:
        expected_total = float(estimate.sum(dtype=np.float64))
    else:
        blurred = blur(estimate)
        expected_total = (
            sum(
                float(np.vdot(passed, matrix @ blurred))
                for passed, matrix in zip(survival, projectors, strict=True)
            )
            / num_angles
        )
    return estimate * float(total / expected_total) if total else estimate


def filtered_back_projection(
    sinogram: Sequence[np.ndarray],
    projectors: Sequence[sparse.csr_array],
    num_angles: int,
    spacing: tuple[float, float],
    *,
    window: str,
    cutoff_per_mm: float,
) -> np.ndarray:
    """The inverse of the projection, blurred by the window and no more.

    Args:
      sinogram: sums of pixel values per bin, as `projector` makes them.
      projectors: of `projector`, one per subset.
      num_angles: views in all subsets together.
      spacing: mm along X and Y.
      window: a row of WINDOWS.
      cutoff_per_mm: frequency above which nothing is left, in (0,
        NYQUIST_PER_MM]. Hann leaves a point about 1 / cutoff_per_mm mm wide.

    Returns:
      float32 [X * Y, Z] in the pixels' unit; noise goes below 0.
    """
    views = num_angles // len(projectors)
    num_bins = projectors[0].shape[0] // views
    num_padded = fft.next_fast_len(2 * num_bins, real=True)
    ramp = _ramp(num_padded)
    share = fft.rfftfreq(num_padded, BIN_MM) / cutoff_per_mm
    ramp *= np.where(share <= 1, WINDOWS[window](np.minimum(share, 1)), 0)
    # Sums over a bin to integrals along it, and d(angle) of half a turn.
    ramp *= math.prod(spacing) / BIN_MM * math.pi / num_angles
    image = np.zeros((projectors[0].shape[1], sinogram[0].shape[1]), np.float32)
    for sums, matrix in zip(sinogram, projectors, strict=True):
        spectrum = fft.rfft(
            sums.reshape(views, num_bins, -1), num_padded, axis=1
        )
        spectrum *= ramp.astype(np.float32)[:, None]
        filtered = fft.irfft(spectrum, num_padded, axis=1)[:, :num_bins]
        image += matrix.T @ filtered.reshape(sums.shape)
    return image


def _ramp(num_bins: int) -> np.ndarray:
    """Response of |frequency| in 1/mm, from its samples in space.

    Because a ramp sampled in frequency has 0 at 0 and takes away the mean:
    Ramachandran and Lakshminarayanan (1971).
    """
    distance = fft.fftfreq(num_bins, 1 / num_bins)
    odd = distance % 2 == 1
    kernel = np.zeros(num_bins)
    kernel[0] = 0.25
    kernel[odd] = -1 / (np.pi * distance[odd]) ** 2
    return fft.rfft(kernel).real / BIN_MM
