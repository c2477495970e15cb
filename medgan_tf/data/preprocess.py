"""The way of a volume to square slices in [-1, 1], and exactly back.

Only the source image decides on the grid, the placement and its window, so
that a prediction, which has no target, walks the same way as the training:

    cut_source = cut([source], task)
    inputs = cut_source.normalised()
    ...
    from_slices(outputs, cut_source.geometry, fill=task.target.air)

A target takes the same grid and geometry. The paper gives voxel sizes
(Section 3.1) but neither interpolation nor intensity scaling; what we chose
stands at each function.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import nibabel as nib
import numpy as np
from scipy import ndimage

from medgan_tf import errors, tasks
from medgan_tf.data import volume as volumes

SLICE_SIZE = 256  # Pixels, Section 3.1.

# Grids that differ by less, in voxels, hold the same voxels: far below what
# can be seen, far above what rounding in a float32 header does.
_SAME_VOXEL = 1e-3

# More voxels above a window are a wrong unit, such as Bq/mL for SUV.
MOST_CLIPPED = 0.05
# As a share of the window: less is noise, or the ringing of a resampler.
CLEARLY_NEGATIVE = 0.05

# Share of the source that the target must cover to be taken for its partner.
_LEAST_OVERLAP = 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels are, without their values.

    Attributes:
      shape: number of voxels along the three axes.
      affine: float64, (4, 4): voxel index -> RAS+ mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Geometry:
    """All that leads from slices back to the original voxels.

    Attributes:
      original: grid of the source file.
      sliced: the LPS grid on which slices are cut.
      offsets: for each tile the pixel (column, row) of its slices on which
        the first voxel of `sliced` falls; negative where voxels are cropped.
        A body that fits into a slice has one tile.
      size: edge of the square slices in pixels.
    """

    original: Grid
    sliced: Grid
    offsets: tuple[tuple[int, int], ...]
    size: int = SLICE_SIZE


@dataclasses.dataclass(frozen=True, eq=False)
class CutVolume:
    """Source volumes as slices, and the way back.

    Attributes:
      slices: float32 [tiles * Z, 256, 256, C], each channel in the unit of
        its modality; all slices of the first tile come first.
      geometry: leads back to the voxels of the first volume.
      windows: (low, high) of each channel in its unit, shown as -1 and 1.
    """

    slices: np.ndarray
    geometry: Geometry
    windows: tuple[tuple[float, float], ...]

    def normalised(self) -> np.ndarray:
        """The slices in [-1, 1], as a network takes them."""
        channels = np.moveaxis(self.slices, -1, 0)
        return np.stack(
            [
                normalise(channel, window)
                for channel, window in zip(channels, self.windows, strict=True)
            ],
            axis=-1,
        )


def cut(sources: Sequence[volumes.Volume], task: tasks.Task) -> CutVolume:
    """All that training and prediction do to the sources of a patient.

    What is left is to normalise the slices, which an exported model does by
    itself.

    Args:
      sources: one for each of `task.sources`, in its unit, in any
        orientation; the first decides on grid and placement, the others are
        brought there.
      task: the row.

    Raises:
      DataError: a volume is empty or in another unit, too few or too many are
        given, or the body is larger than a slice and `task.too_large` says
        "refuse".
    """
    if len(sources) != len(task.sources):
        raise errors.DataError(
            f"Found {len(sources)} source images, expected "
            f"{len(task.sources)}: {', '.join(m.name for m in task.sources)}."
        )
    first, modality = sources[0], task.source
    windows = tuple(
        checked_window(volume, kind)
        for volume, kind in zip(sources, task.sources, strict=True)
    )
    grid = slice_grid(first, task.voxel_size_mm)
    on_grid = resample(first, grid, outside=modality.air)
    body = body_mask(on_grid, modality, windows[0])
    enlarged = _widest(body) / SLICE_SIZE
    if enlarged > 1 and task.too_large == "resample":
        spacing = nib.affines.voxel_sizes(grid.affine)
        # A voxel more on each side, because the mask shifts on another grid.
        enlarged *= SLICE_SIZE / (SLICE_SIZE - 2)
        grid = slice_grid(
            first,
            (spacing[0] * enlarged, spacing[1] * enlarged)
            + task.voxel_size_mm[2:],
        )
        on_grid = resample(first, grid, outside=modality.air)
        body = body_mask(on_grid, modality, windows[0])
    geometry = place(first, grid, body, tile=task.too_large == "tile")
    channels = [on_grid] + [
        resample(volume, grid, outside=kind.air)
        for volume, kind in zip(sources[1:], task.more_sources, strict=True)
    ]
    slices = [
        to_slices(volume.array, geometry, fill=kind.air)
        for volume, kind in zip(channels, task.sources, strict=True)
    ]
    return CutVolume(np.stack(slices, axis=-1), geometry, windows)


def checked_window(
    volume: volumes.Volume, modality: tasks.Modality
) -> tuple[float, float]:
    """The window of a volume, once its values look like the modality's."""
    window = window_of(volume, modality)
    highest = float(volume.array.max())
    if modality.window is not None and highest <= modality.body_above:
        raise errors.DataError(
            f"{modality.name} values go up to {highest:g}, expected some above "
            f"{modality.body_above} {modality.unit}: check the file and its "
            "unit."
        )
    clipped = clipped_share(volume.array, (-np.inf, window[1]))
    if clipped > MOST_CLIPPED:
        raise errors.DataError(
            f"{clipped:.0%} of the {modality.name} voxels are above "
            f"{window[1]:g} {modality.unit}, expected at most "
            f"{MOST_CLIPPED:.0%}: convert the image to {modality.unit}."
        )
    # CT is not asked: half of the noise of air lies below its window.
    if window[0] == 0:
        negative = clipped_share(
            volume.array, (-CLEARLY_NEGATIVE * window[1], np.inf)
        )
        if negative > MOST_CLIPPED:
            raise errors.DataError(
                f"{negative:.0%} of the {modality.name} voxels are clearly "
                f"below 0, expected at most {MOST_CLIPPED:.0%}: this is no "
                f"{modality.name}, or one that was normalised; give it as "
                "the scanner wrote it."
            )
    return window


def slice_grid(
    volume: volumes.Volume,
    voxel_size_mm: tuple[float | None, float | None, float | None],
) -> Grid:
    """The LPS grid over the field of view of a volume.

    The axes are those of the volume, only brought into the order and the
    direction next to left, posterior, superior: an oblique image is not
    straightened, because that would interpolate it for nothing. Where the
    spacing changes, the outer edge of the first voxel stays.

    Args:
      volume: in any orientation.
      voxel_size_mm: wanted spacing along L, P and S; None keeps the volume's.

    Raises:
      UsageError: a voxel size is not positive.
    """
    orientation = nib.orientations.ornt_transform(
        nib.io_orientation(volume.affine), nib.orientations.axcodes2ornt("LPS")
    )
    affine = volume.affine @ nib.orientations.inv_ornt_aff(
        orientation, volume.shape
    )
    shape = [volume.shape[i] for i in np.argsort(orientation[:, 0])]
    for axis, size in enumerate(voxel_size_mm):
        if size is None:
            continue
        if not (np.isfinite(size) and size > 0):
            raise errors.UsageError(
                f"Voxel size is {tuple(voxel_size_mm)} mm; expected positive "
                "numbers, or none to keep the spacing: check --voxel_size_mm."
            )
        spacing = np.linalg.norm(affine[:3, axis])
        extent = spacing * shape[axis]
        # A hundredth of a voxel from end to end is header noise.
        if abs(size - spacing) * shape[axis] < 0.01 * size:
            continue
        shape[axis] = max(1, round(extent / size))
        # A single voxel sits in the middle: its edge may be far outside.
        first = extent / 2 if shape[axis] == 1 else size / 2
        step = affine[:3, axis] / spacing
        affine[:3, 3] += step * (first - spacing / 2)
        affine[:3, axis] = step * size
    return Grid(tuple(shape), affine)


def resample(
    volume: volumes.Volume, grid: Grid, *, outside: float | None
) -> volumes.Volume:
    """The values of a volume at the voxels of a grid, aligned by the headers.

    Voxels that coincide are copied, bit by bit. Others are interpolated
    linearly, because a higher order overshoots at the skin and at metal,
    which makes HU and SUV that were never measured.

    Where the grid is coarser, a Gaussian first removes what it cannot carry.
    Along each axis of the volume its variance, in voxels, is

        sigma^2 = (r^2 - 1) / (8 ln 2),   r = grid spacing / volume spacing,

    the one that turns a point spread of one voxel (full width at half
    maximum) into that of the grid: Cardoso et al., Scale factor point spread
    function matching, MICCAI 2015.

    Args:
      volume: in any orientation and place.
      grid: where values are wanted (a Volume does as well).
      outside: value where the volume has no data; None continues its edge.
    """
    to_index = np.linalg.inv(volume.affine) @ grid.affine
    copied = _copy(volume, grid, to_index, outside)
    if copied is not None:
        return volumes.Volume(copied, grid.affine)
    ratio_squared = np.square(to_index[:3, :3]).sum(axis=1)
    sigma = np.sqrt(np.maximum(ratio_squared - 1, 0) / (8 * np.log(2)))
    smooth = ndimage.gaussian_filter(
        volume.array.astype(np.float32, copy=False), sigma, mode="nearest"
    )
    array = ndimage.affine_transform(
        smooth,
        to_index[:3, :3],
        to_index[:3, 3],
        output_shape=grid.shape,
        order=1,
        mode="nearest",
    )
    if outside is not None:
        array[~coverage(volume, grid)] = outside
    return volumes.Volume(array, grid.affine)


def coverage(volume: volumes.Volume, grid: Grid) -> np.ndarray:
    """Which voxel centres of a grid lie in the field of view of a volume.

    The field of view ends at the outer edges of the outermost voxels.

    Returns:
      bool, shape of the grid.
    """
    to_index = np.linalg.inv(volume.affine) @ grid.affine
    x, y, z = np.ogrid[tuple(slice(n) for n in grid.shape)]
    covered = np.ones(grid.shape, bool)
    for (a, b, c, d), count in zip(to_index[:3], volume.shape, strict=True):
        index = a * x + b * y + c * z + d
        covered &= index >= -0.5 - _SAME_VOXEL
        covered &= index <= count - 0.5 + _SAME_VOXEL
    return covered


def place(
    original: volumes.Volume,
    grid: Grid,
    body: np.ndarray,
    size: int = SLICE_SIZE,
    *,
    tile: bool = False,
) -> Geometry:
    """Where the voxels of a slice grid come to lie in square slices.

    What is smaller than a slice is centred. What is larger is cropped round
    the middle of the body, and only if the whole body fits: a patient with
    an arm cut off is another patient. A body that does not fit may be tiled:
    evenly, with the fewest tiles that overlap by a quarter or more.

    Args:
      original: the source volume, as read.
      grid: from `slice_grid`.
      body: bool, shape of `grid`; from `body_mask`.
      size: edge of a slice in pixels.
      tile: whether a body that does not fit is tiled.

    Raises:
      DataError: the body is larger than a slice and not to be tiled.
    """
    offsets = []
    for axis, word in enumerate(("wide", "deep")):
        count = grid.shape[axis]
        inside = np.flatnonzero(body.any(axis=(1 - axis, 2)))
        if count <= size or not inside.size:
            offsets.append([(size - count) // 2])
            continue
        start, end = int(inside[0]), int(inside[-1]) + 1
        width = end - start
        if width <= size:
            first = np.clip((start + end) // 2 - size // 2, 0, count - size)
            offsets.append([-int(first)])
        elif tile:
            overlap = size // 4
            num_tiles = math.ceil((width - overlap) / (size - overlap))
            firsts = np.rint(np.linspace(start, end - size, num_tiles))
            offsets.append([-int(first) for first in firsts])
        else:
            spacing = np.linalg.norm(grid.affine[:3, axis])
            raise errors.DataError(
                f"Body is {width} px {word} at {spacing:.4g} mm, {size} fit; "
                "crop the image, prepare with --too_large=tile or resample, "
                "or prepare and train with a larger "
                f"--voxel_size_mm (at least {spacing * width / size:.2f})."
            )
    return Geometry(
        Grid(original.shape, original.affine),
        grid,
        tuple((x, y) for y in offsets[1] for x in offsets[0]),
        size,
    )


def to_slices(
    array: np.ndarray, geometry: Geometry, *, fill: float
) -> np.ndarray:
    """Cuts an array on the slice grid into square images.

    Args:
      array: (X, Y, Z) on `geometry.sliced`: values, or a mask.
      geometry: from `place`.
      fill: value of the pixels that are added round it.

    Returns:
      [tiles * Z, size, size] of the same type; rows run anterior ->
      posterior, columns patient right -> left, slices inferior -> superior;
      all slices of the first tile come first.
    """
    size = geometry.size
    tiles = []
    for offset in geometry.offsets:
        slices = np.full((array.shape[2], size, size), fill, array.dtype)
        here, there = _overlap(geometry, offset)
        slices[:, here[1], here[0]] = array[there].transpose(2, 1, 0)
        tiles.append(slices)
    return np.concatenate(tiles)


def from_slices(
    slices: np.ndarray, geometry: Geometry, *, fill: float
) -> volumes.Volume:
    """Puts slices back where they came from: the inverse of `to_slices`.

    Where tiles overlap their mean counts, weighted by a Gaussian of an eighth
    of a tile round its middle, so that no seam shows.

    Args:
      slices: [tiles * Z, size, size], in physical units.
      geometry: of the source volume.
      fill: value of the voxels that had been cropped.

    Returns:
      A float32 volume with the shape and the affine of the original; the
      very values where nothing was interpolated or blended.
    """
    array = np.full(geometry.sliced.shape, fill, np.float32)
    tiles = np.split(slices, len(geometry.offsets))
    if len(tiles) == 1:
        here, there = _overlap(geometry, geometry.offsets[0])
        array[there] = tiles[0][:, here[1], here[0]].transpose(2, 1, 0)
    else:
        total = np.zeros(array.shape, np.float32)
        weights = np.zeros(array.shape[:2] + (1,), np.float32)
        middle = np.arange(geometry.size) - (geometry.size - 1) / 2
        bell = np.exp(-((middle / (geometry.size / 8)) ** 2) / 2)
        # Above 0 in float32 in the very corner too.
        weight = np.maximum(np.multiply.outer(bell, bell), 1e-6)[..., None]
        for tile, offset in zip(tiles, geometry.offsets, strict=True):
            here, there = _overlap(geometry, offset)
            values = tile[:, here[1], here[0]].transpose(2, 1, 0)
            total[there] += weight[here] * values
            weights[there] += weight[here]
        np.divide(total, weights, out=array, where=weights > 0)
    return resample(
        volumes.Volume(array, geometry.sliced.affine),
        geometry.original,
        # The slice grid may end up to half a voxel before the original does.
        outside=None,
    )


def window_of(
    volume: volumes.Volume, modality: tasks.Modality
) -> tuple[float, float]:
    """The values that become -1 and 1.

    Without a fixed window: 0 and the 99.9th percentile of the voxels above 0.
    Only those count, because the share of air depends on how the image was
    cropped; not the very maximum, because inflowing blood or a spike can be
    several times as bright as all tissue.

    Raises:
      DataError: the volume is empty.
    """
    if modality.window is not None:
        return modality.window
    signal = volume.array[volume.array > 0]
    if not signal.size:
        raise errors.DataError(
            f"{modality.name} volume is empty: no voxel of "
            f"{' x '.join(map(str, volume.shape))} is above 0; expected an "
            "image: check which file this is."
        )
    return 0.0, float(np.percentile(signal, 99.9))


def normalise(array: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Maps a window to [-1, 1], float32, and clips what is beyond."""
    low, high = window
    scaled = (np.asarray(array, np.float32) - low) * (2 / (high - low)) - 1
    return np.clip(scaled, -1, 1).astype(np.float32)


def denormalise(array: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Maps [-1, 1] back to a window, float32; the inverse of `normalise`."""
    low, high = window
    scaled = (np.asarray(array, np.float32) + 1) * ((high - low) / 2) + low
    return scaled.astype(np.float32)


def lost_share(array: np.ndarray, window: tuple[float, float]) -> float:
    """Share of the values, 0 to 1, that a window changes for good.

    Values that lie below its lower end by less than a twentieth of it are not
    counted: in air, where that end is, they are noise.
    """
    low, high = window
    return clipped_share(array, (low - CLEARLY_NEGATIVE * (high - low), high))


def clipped_share(array: np.ndarray, window: tuple[float, float]) -> float:
    """Share of the values, 0 to 1, that `normalise` would clip."""
    return float(np.mean((array < window[0]) | (array > window[1])))


def body_mask(
    volume: volumes.Volume,
    modality: tasks.Modality,
    window: tuple[float, float],
) -> np.ndarray:
    """Where the patient is: a threshold, without specks, holes filled.

    Args:
      volume: on the slice grid; holes are filled in each array[:, :, k].
      modality: says above which value.
      window: from `window_of`; its upper end is the robust maximum that
        `body_above` refers to where the modality has no fixed window.

    Returns:
      bool, shape of the volume; all False if nothing is above.
    """
    threshold = modality.body_above
    if modality.window is None:
        threshold *= window[1]
    labels, num_parts = ndimage.label(volume.array > threshold)
    if not num_parts:
        return np.zeros(volume.shape, bool)
    voxels = np.bincount(labels.ravel())
    voxels[0] = 0
    # A leg is a large part of the largest thing; noise and labels are not.
    body = (voxels >= 0.01 * voxels.max())[labels] & (labels > 0)
    for k in range(body.shape[2]):
        body[:, :, k] = ndimage.binary_fill_holes(body[:, :, k])
    return body


def field_of_view(
    volume: volumes.Volume, modality: tasks.Modality
) -> np.ndarray:
    """Where a volume has data: all but the padding that reaches its edge.

    Args:
      volume: in any orientation.
      modality: says which value is padding; one without it has data
        everywhere.

    Returns:
      bool, shape of the volume.
    """
    if modality.padding is None:
        return np.ones(volume.shape, bool)
    is_padding = volume.array == modality.padding
    # Grown from outside: zeros within the body are data.
    surrounded = np.pad(is_padding, 1, constant_values=True)
    labels, _ = ndimage.label(surrounded)
    return labels[1:-1, 1:-1, 1:-1] != labels[0, 0, 0]


def covered_share(source: volumes.Volume, target: volumes.Volume) -> float:
    """Share of the source's field of view, 0 to 1, that the target covers."""
    # 64 points along an axis tell a fifth from nothing.
    grid = slice_grid(source, (None, None, None))
    spacing = nib.affines.voxel_sizes(grid.affine)
    coarser = np.maximum(spacing, spacing * grid.shape / 64)
    samples = slice_grid(source, tuple(coarser))
    return float(coverage(target, samples).mean())


def check_pair(
    source: volumes.Volume,
    target: volumes.Volume,
    names: tuple[str, str],
) -> None:
    """Refuses two volumes that do not lie in the same place.

    Args:
      source: what is translated.
      target: what it should become.
      names: of the two files, for the message.

    Raises:
      DataError: the target covers less than 20 % of the source.
    """
    share = covered_share(source, target)
    if share < _LEAST_OVERLAP:
        raise errors.DataError(
            f"{names[1]} covers {share:.0%} of {names[0]}, expected at least "
            f"{_LEAST_OVERLAP:.0%}: {names[0]} spans {_span(source)}, "
            f"{names[1]} {_span(target)}; check that both are of one session."
        )


def _copy(
    volume: volumes.Volume,
    grid: Grid,
    to_index: np.ndarray,
    outside: float | None,
) -> np.ndarray | None:
    """The values on a grid that shares the voxels of the volume, else None.

    Args:
      to_index: (4, 4), index on the grid -> index in the volume.
    """
    nearest = np.rint(to_index)
    turn = np.abs(nearest[:3, :3])
    if (turn.sum(axis=0) != 1).any() or (turn.sum(axis=1) != 1).any():
        return None
    # The largest deviation is at a corner of the grid.
    corner = np.append(np.subtract(grid.shape, 1), 1)
    if (np.abs(to_index - nearest)[:3] @ corner).max() > _SAME_VOXEL:
        return None
    order = turn.argmax(axis=0)
    source = volume.array.transpose(order)
    indices = [
        int(nearest[i, j]) * np.arange(grid.shape[j]) + int(nearest[i, 3])
        for j, i in enumerate(order)
    ]
    last = np.subtract(source.shape, 1)
    clipped = [np.clip(i, 0, n) for i, n in zip(indices, last, strict=True)]
    array = source[np.ix_(*clipped)].astype(np.float32, copy=False)
    if outside is not None:
        for j, (i, c) in enumerate(zip(indices, clipped, strict=True)):
            np.moveaxis(array, j, 0)[i != c] = outside
    return array


def _widest(body: np.ndarray) -> int:
    """Voxels along the longer side of the box round a body, in the plane."""
    sides = []
    for axis in (0, 1):
        inside = np.flatnonzero(body.any(axis=(1 - axis, 2)))
        sides.append(int(inside[-1] - inside[0]) + 1 if inside.size else 0)
    return max(sides)


def _overlap(
    geometry: Geometry, offset: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """(columns, rows) of a slice and the (X, Y) voxels that fall on them."""
    pixels, voxels = [], []
    for axis, start in enumerate(offset):
        count = geometry.sliced.shape[axis]
        first, last = max(start, 0), min(start + count, geometry.size)
        pixels.append(slice(first, last))
        voxels.append(slice(first - start, last - start))
    return tuple(pixels), tuple(voxels)


def _span(volume: volumes.Volume) -> str:
    """The box round a field of view in words."""
    ends = [(-0.5, n - 0.5) for n in volume.shape]
    corners = np.stack(np.meshgrid(*ends), axis=-1).reshape(-1, 3)
    points = nib.affines.apply_affine(volume.affine, corners)
    low, high = points.min(axis=0), points.max(axis=0)
    return ", ".join(
        f"{name} {a:.1f} to {b:.1f} mm"
        for name, a, b in zip("xyz", low, high, strict=True)
    )
