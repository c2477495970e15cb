"""Small pictures of a pair: source, target, and whether they fit together."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib.image
import nibabel as nib
import numpy as np
from scipy import ndimage

from medgan_tf import tasks
from medgan_tf.data import preprocess
from medgan_tf.data import volume as volumes

# Pixels along the longer side, and along a field of the chequerboard.
SIZE = 224
FIELD = 28
# Bone and soft tissue in one grey scale.
_CT_HU = (-300.0, 700.0)
_PET_AT_LEAST_SUV = 1.0
_OUTLINE = (255, 176, 0)

# Caption and PNG.
Picture = tuple[str, bytes]


def of_volumes(
    images: Sequence[tuple[str, volumes.Volume, tasks.Modality]],
) -> list[Picture]:
    """The axial slice in the middle of the body of the first image.

    Args:
      images: caption, volume and modality; source and target.

    Returns:
      For each image its caption and a PNG, anterior above, the patient's
      right on the left; all on the grid of the first. For two images also
      those of `pair`.
    """
    if not images:
        return []
    _, first, modality = images[0]
    grid = _slice_through(first, modality)
    planes, greys = [], []
    for _, volume, kind in images:
        plane = preprocess.resample(volume, grid, outside=kind.air)
        planes.append(plane)
        greys.append(grey(plane.array[:, :, 0].T, kind))
    if len(images) != 2:
        return [
            (caption, _png(_coloured(image)))
            for (caption, _, _), image in zip(images, greys, strict=True)
        ]
    body = _body(planes[1], images[1][1], images[1][2])
    captions = (images[0][0], images[1][0])
    return pair(captions, greys[0], greys[1], body[:, :, 0].T)


def pair(
    captions: tuple[str, str],
    source: np.ndarray,
    target: np.ndarray,
    body: np.ndarray,
) -> list[Picture]:
    """Both, the source with the target's outline, and a chequerboard of both.

    Args:
      captions: of source and target.
      source: uint8 [H, W].
      target: uint8 [H, W].
      body: bool [H, W], the target's body.
    """
    outlined = _coloured(source)
    outlined[body & ~ndimage.binary_erosion(body)] = _OUTLINE
    rows, columns = np.indices(source.shape) // FIELD
    fields = np.where((rows + columns) % 2, target, source)
    return [
        (captions[0], _png(_coloured(source))),
        (captions[1], _png(_coloured(target))),
        ("source, target's outline", _png(outlined)),
        ("both in turn", _png(_coloured(fields))),
    ]


def grey(plane: np.ndarray, modality: tasks.Modality) -> np.ndarray:
    """Values in the modality's unit as uint8, dark to bright."""
    if modality == tasks.CT:
        low, high = _CT_HU
    else:
        low, high = 0.0, float(np.percentile(plane, 99.5))
        if modality == tasks.PET:
            high = max(high, _PET_AT_LEAST_SUV)
    scaled = (plane - low) / max(high - low, 1e-6)
    if modality == tasks.PET:
        scaled = 1 - scaled  # As on a reading screen.
    return (255 * np.clip(scaled, 0, 1)).astype(np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    # Without matplotlib's name and version: equal images, equal bytes.
    matplotlib.image.imsave(
        file, pixels, format="png", metadata={"Software": None}
    )
    return file.getvalue()


def _coloured(plane: np.ndarray) -> np.ndarray:
    return np.repeat(plane[:, :, None], 3, axis=2)


def _body(
    plane: volumes.Volume, whole: volumes.Volume, modality: tasks.Modality
) -> np.ndarray:
    if not (whole.array > 0).any():
        return np.zeros(plane.shape, bool)
    window = preprocess.window_of(whole, modality)
    return preprocess.body_mask(plane, modality, window)


def _slice_through(
    volume: volumes.Volume, modality: tasks.Modality
) -> preprocess.Grid:
    """Square pixels on the axial slice in the middle of the body."""
    own = preprocess.slice_grid(volume, (None, None, None))
    spacing = nib.affines.voxel_sizes(own.affine)
    pixel = float((spacing * own.shape)[:2].max() / SIZE)
    coarse = preprocess.slice_grid(volume, tuple(np.maximum(spacing, 4.0)))
    rough = preprocess.resample(volume, coarse, outside=modality.air)
    inside = np.flatnonzero(_body(rough, volume, modality).any(axis=(0, 1)))
    middle = coarse.shape[2] // 2
    if inside.size:
        middle = int(inside[inside.size // 2])
    grid = preprocess.slice_grid(volume, (pixel, pixel, spacing[2]))
    # The same height on the finer grid, which begins at the same edge.
    ratio = nib.affines.voxel_sizes(coarse.affine)[2] / spacing[2]
    index = int(np.clip((middle + 0.5) * ratio - 0.5, 0, grid.shape[2] - 1))
    affine = grid.affine.copy()
    affine[:3, 3] += index * affine[:3, 2]
    return preprocess.Grid((*grid.shape[:2], 1), affine)
