"""Whether two images of one patient lie upon each other, asked of the images.

Headers say where voxels are; only the images tell whether that is true. The
measure is the normalised mutual information of Studholme et al., An overlap
invariant entropy measure of 3D medical image alignment, Pattern Recognition
1999: it does not need one tissue to be equally bright in both images, so MR
and CT can be compared, and it depends little on how much of them overlaps.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import nibabel as nib
import numpy as np

from medgan_tf import tasks
from medgan_tf.data import preprocess
from medgan_tf.data import volume as volumes

# Coarse enough to be quick, fine enough to see tissue.
SPACING_MM = 4.0
REACH_MM = 20.0
NUM_BINS = 32
# Slices in the middle say enough of a whole body.
_MOST_SLICES = 64
# Voxels in common; fewer say nothing.
_LEAST_VOXELS = 1000


class Match(NamedTuple):
    """How well two images agree, and where.

    Attributes:
      information: normalised mutual information less 1: 0 none, 1 all.
      shift_mm: how far the target was moved for it along L, P and S.
    """

    information: float
    shift_mm: tuple[float, float, float]

    @property
    def distance_mm(self) -> float:
        """Length of the shift."""
        return float(np.linalg.norm(self.shift_mm))


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How two images lie upon each other.

    Attributes:
      as_is: by their headers.
      best: at the shift, up to REACH_MM along each axis, where they agree
        most.
      mirrored: the same, where one of them is flipped left-right about the
        middle of its own field of view.
      inside: share of the target's body, where both have data, that lies in
        the source's body.
    """

    as_is: Match
    best: Match
    mirrored: Match
    inside: float


class _Image(NamedTuple):
    """An image on the common grid: bins 0 to NUM_BINS - 1, where it has data,
    and where the body is."""

    bins: np.ndarray
    seen: np.ndarray
    body: np.ndarray

    def cropped(self, box: tuple[slice, ...]) -> _Image:
        return _Image(*(array[box] for array in self))


def align(
    source: volumes.Volume,
    target: volumes.Volume,
    modalities: tuple[tasks.Modality, tasks.Modality],
) -> Alignment:
    """Compares two images as they are, shifted, and flipped left-right.

    Args:
      source: in its unit, in any orientation.
      target: the same.
      modalities: of the two.

    Raises:
      DataError: an image without a fixed window is empty.
    """
    spacing = preprocess.slice_grid(source, (None, None, None))
    spacing = np.maximum(nib.affines.voxel_sizes(spacing.affine), SPACING_MM)
    grid = preprocess.slice_grid(source, tuple(spacing))
    middle = max((grid.shape[2] - _MOST_SLICES) // 2, 0)
    box = (slice(None), slice(None), slice(middle, middle + _MOST_SLICES))
    first = _on_grid(source, modalities[0], grid).cropped(box)
    second = _on_grid(target, modalities[1], grid).cropped(box)
    flipped = _on_grid(_flipped(target), modalities[1], grid).cropped(box)
    first_flipped = first.cropped((slice(None, None, -1),))
    both = first.seen & second.seen & second.body
    return Alignment(
        Match(_information(first, second, (0, 0, 0)), (0.0, 0.0, 0.0)),
        _best(first, second, spacing),
        max(
            _best(first_flipped, second, spacing),
            _best(first, flipped, spacing),
        ),
        float((both & first.body).sum() / max(both.sum(), 1)),
    )


def normalised_mutual_information(
    first: np.ndarray, second: np.ndarray
) -> float:
    """(H(A) + H(B)) / H(A, B) of the joint histogram of two arrays.

    Args:
      first: whole numbers from 0 to NUM_BINS - 1, in one axis.
      second: the same of the other image.

    Returns:
      1 if one says nothing of the other, 2 if it says all.
    """
    joint = np.bincount(first * NUM_BINS + second, minlength=NUM_BINS**2)
    joint = joint.reshape(NUM_BINS, NUM_BINS)
    whole = _entropy(joint.ravel())
    if whole == 0:
        return 1.0
    return (_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / whole


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _on_grid(
    volume: volumes.Volume, modality: tasks.Modality, grid: preprocess.Grid
) -> _Image:
    window = preprocess.window_of(volume, modality)
    seen = volumes.Volume(
        preprocess.field_of_view(volume, modality).astype(np.float32),
        volume.affine,
    )
    on_grid = preprocess.resample(volume, grid, outside=modality.air)
    scaled = (preprocess.normalise(on_grid.array, window) + 1) / 2
    return _Image(
        np.minimum(scaled * NUM_BINS, NUM_BINS - 1).astype(np.int64),
        preprocess.resample(seen, grid, outside=0.0).array > 0.5,
        preprocess.body_mask(on_grid, modality, window),
    )


def _flipped(volume: volumes.Volume) -> volumes.Volume:
    """Left and right exchanged within the same field of view."""
    axis = int(np.flatnonzero(nib.io_orientation(volume.affine)[:, 0] == 0)[0])
    return volumes.Volume(np.flip(volume.array, axis), volume.affine)


def _best(first: _Image, second: _Image, spacing: np.ndarray) -> Match:
    """The shift of the second image at which both agree most.

    Every second voxel is tried within reach, then the neighbours of the best
    until none is better.
    """
    reach = [
        min(int(REACH_MM // step), count // 3)
        for step, count in zip(spacing, first.bins.shape, strict=True)
    ]
    known = {}

    def value(shift: tuple[int, ...]) -> float:
        if shift not in known:
            known[shift] = _information(first, second, shift)
        return known[shift]

    best = max(
        itertools.product(*(range(-(n // 2 * 2), n + 1, 2) for n in reach)),
        key=value,
    )
    while True:
        around = itertools.product(
            *(
                range(max(k - 1, -n), min(k + 1, n) + 1)
                for k, n in zip(best, reach, strict=True)
            )
        )
        better = max(around, key=value)
        if value(better) <= value(best):
            break
        best = better
    return Match(
        value(best), tuple(float(d) for d in np.multiply(best, spacing))
    )


def _information(
    first: _Image, second: _Image, shift: tuple[int, ...]
) -> float:
    """Agreement where both have data, once the second is moved by `shift`."""
    here = tuple(slice(max(d, 0), min(d, 0) or None) for d in shift)
    there = tuple(slice(max(-d, 0), min(-d, 0) or None) for d in shift)
    seen = first.seen[here] & second.seen[there]
    if np.count_nonzero(seen) < _LEAST_VOXELS:
        return 0.0
    a, b = first.bins[here][seen], second.bins[there][seen]
    return normalised_mutual_information(a, b) - 1
