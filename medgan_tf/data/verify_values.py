"""What the values of one image say, whatever it belongs to.

A finding is its code, see `verify.CODES`, and one sentence.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

import nibabel as nib
import numpy as np
import pydicom

from medgan_tf import tasks
from medgan_tf.data import dicom_slice, io, preprocess
from medgan_tf.data import volume as volumes

MUCH_CLIPPED = 0.01
# Air is -1000 HU; a CT without any is none, or was shifted.
CT_AIR_BELOW_HU = -200.0
CT_POSSIBLE_HU = (-2000.0, 20000.0)
# A bladder or the place of the injection, but no tissue; and so no more
# voxels than a hot spot has.
PET_POSSIBLE_SUV = 100.0
HOT_SPOT_SHARE = 0.001

Note = tuple[str, str]


def look_at(
    volume: volumes.Volume, path: pathlib.Path, modality: tasks.Modality | None
) -> Iterator[Note]:
    """Yields what is wrong with the values of an image.

    Args:
      volume: as read.
      path: of its file; a DICOM file says which modality it is.
      modality: which it is taken for; None: a label map.
    """
    low, high = float(volume.array.min()), float(volume.array.max())
    if low == high:
        text = f"found {low:g} in every voxel, expected an image; check "
        yield "CONSTANT", f"{text}which file this is."
        return
    yield from _look_at_slices(volume)
    if modality is None:
        return
    stated = _stated_modality(path)
    if stated not in ("", modality.name):
        text = f"found {stated} by its header, expected {modality.name}; name "
        yield "MODALITY", f"{text}the right series."
        return
    if modality == tasks.CT:
        yield from _look_at_ct(low, high)
    else:
        yield from _look_at_signal(volume.array, low, high, modality)
    clipped = preprocess.clipped_share(
        volume.array, (-np.inf, preprocess.window_of(volume, modality)[1])
    )
    if MUCH_CLIPPED < clipped <= preprocess.MOST_CLIPPED:
        text = (
            f"found {clipped:.1%} of the voxels above the window, expected "
            f"at most {MUCH_CLIPPED:.0%}; check the unit."
        )
        yield "CLIPPED", text


def _look_at_ct(low: float, high: float) -> Iterator[Note]:
    if low > CT_AIR_BELOW_HU:
        yield (
            "CT_UNIT",
            f"found {low:g} HU at least, expected air below "
            f"{CT_AIR_BELOW_HU:g}; convert the CT to HU (often 1024 less), or "
            "check which file this is.",
        )
    if low < CT_POSSIBLE_HU[0] or high > CT_POSSIBLE_HU[1]:
        yield (
            "RANGE",
            f"found {low:g} to {high:g} HU, expected {CT_POSSIBLE_HU[0]:g} to "
            f"{CT_POSSIBLE_HU[1]:g}; check whether it is padding or metal, "
            "which the window clips.",
        )


def _look_at_signal(
    array: np.ndarray, low: float, high: float, modality: tasks.Modality
) -> Iterator[Note]:
    """What PET and MR have in common: they measure a signal above 0."""
    window = (0.0, float(np.percentile(array, 99.9)))
    if modality.window is not None:
        window = modality.window
    limit = -preprocess.CLEARLY_NEGATIVE * max(window[1], 0.0)
    negative = preprocess.clipped_share(array, (limit, np.inf))
    if negative > preprocess.MOST_CLIPPED:
        yield (
            "MODALITY",
            f"found {negative:.0%} of the voxels clearly below 0, down to "
            f"{low:g}, expected a {modality.name}; check whether it is a CT, "
            "or was normalised.",
        )
    elif negative > 0:
        yield (
            "RANGE",
            f"found values down to {low:g}, expected none clearly below 0 "
            f"{modality.unit}; check what made them, the window clips them.",
        )
    if modality == tasks.PET and high > PET_POSSIBLE_SUV:
        hot = float(np.mean(array > PET_POSSIBLE_SUV))
        text = (
            f"found up to {high:g}, {hot:.2%} of the voxels above "
            f"{PET_POSSIBLE_SUV:g}, expected SUV; "
        )
        if hot > HOT_SPOT_SHARE:
            yield "PET_UNIT", f"{text}convert it from Bq/mL or counts."
        else:
            yield "RANGE", f"{text}check whether it is a hot spot."


def _look_at_slices(volume: volumes.Volume) -> Iterator[Note]:
    """Slices along the patient's axis that cannot be images."""
    axes = nib.io_orientation(volume.affine)[:, 0]
    slices = np.moveaxis(volume.array, int(np.flatnonzero(axes == 2)[0]), 0)
    is_flat = np.array([s.min() == s.max() for s in slices])
    # Those at the ends are padding.
    shown = np.flatnonzero(~is_flat)
    flat = [k for k in np.flatnonzero(is_flat) if shown[0] < k < shown[-1]]
    if flat:
        yield (
            "FLAT_SLICES",
            f"found one value in slices {_listed(flat)}, expected an image; "
            "check whether slices were lost.",
        )
    repeated = [
        k + 1
        for k in range(len(slices) - 1)
        if not is_flat[k] and np.array_equal(slices[k], slices[k + 1])
    ]
    if repeated:
        yield (
            "REPEATED_SLICES",
            f"found slices {_listed(repeated)} equal to the one before, "
            "expected others; check how the volume was put together.",
        )


def _listed(numbers: Sequence[int]) -> str:
    text = ", ".join(str(number) for number in numbers[:5])
    return f"{text} and {len(numbers) - 5} more" if numbers[5:] else text


def _stated_modality(path: pathlib.Path) -> str:
    """What a DICOM file says that it is; other files say nothing."""
    file = io.files_of(path)[0]
    if not dicom_slice.is_dicom(file):
        return ""
    header = pydicom.dcmread(
        file, stop_before_pixels=True, specific_tags=["Modality"]
    )
    return {"PT": "PET"}.get(header.Modality, header.Modality)
