"""From a CT, real or synthetic, to the map that corrects a PET's attenuation.

What MR or PET translated to CT is for: the map of linear attenuation at
511 keV, on the grid and at the sharpness of the PET, in a file that the
program which reconstructs the PET can read.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage

from medgan_tf import errors, tasks
from medgan_tf.data import attenuation, dicom, dicom_slice, io, preprocess
from medgan_tf.data import volume as volumes

# A line of response is a tube as wide as what the scanner resolves: 4 to 5 mm
# near the axis for crystals of 4 mm (NEMA NU 2). A map that is sharper gives
# the tube along a skin or rib the wrong mean; a filter of the finished PET
# image comes after the correction and has no part in it.
FWHM_MM = 4.5

# Where the axes of a gantry point in a patient, by DICOM's PatientPosition:
# x to the right as one looks into the gantry from the bed, y down to the
# floor, z out of the gantry along the bed (STIR, DiscretisedDensity).
POSITIONS = {"HFS": "LPI", "HFP": "RAI", "FFS": "RPS", "FFP": "LAS"}
INTERFILE_SUFFIX = ".hv"

# What is thinner than this in an axial slice is no part of a body: the shells
# of a bed are of a few mm of carbon fibre, their core is foam.
_THICKEST_BED_MM = 12.0
# A forearm is more of the largest thing in view than this, a clip is not.
_LEAST_PART = 0.01
# Interfile has no word for a rotation; less at the far corner is none.
_MOST_TILT_MM = 0.1


class Said(NamedTuple):
    """What the header of a DICOM series says, None where it is silent.

    Attributes:
      modality: "CT", "MR" or "PT".
      kilovolts: KVP, peak voltage of the CT's tube.
      position: PatientPosition, such as "HFS".
      grid: where its voxels are.
    """

    modality: str | None = None
    kilovolts: float | None = None
    position: str | None = None
    grid: preprocess.Grid | None = None


def header_of(path: str | os.PathLike) -> Said:
    """What can be known of a scan without its values; no pixel is read.

    Args:
      path: as `io.read_volume` takes it; a file that is not DICOM says
        nothing.

    Raises:
      DataError: it is missing, is no series on one grid, or its slices differ
        in what they say.
    """
    path = pathlib.Path(path)
    if not io.is_series(path):
        return Said()
    stack = dicom.read_stack(io.files_of(path), path)
    return Said(
        stack.modality,
        _common(stack, "KVP", float, path),
        _common(stack, "PatientPosition", str, path),
        preprocess.Grid(stack.shape, stack.affine),
    )


def make(
    ct: volumes.Volume,
    *,
    kilovolts: float,
    table: str = "carney",
    grid: preprocess.Grid | volumes.Volume | None = None,
    fwhm_mm: float = FWHM_MM,
    remove_bed: bool = False,
) -> volumes.Volume:
    """The attenuation map of a CT on the grid of a PET.

    HU become attenuation before anything is averaged, because the relation is
    bent and the mean along a line is what counts. Then the map is blurred to
    the width asked for, or to that of the grid where this is coarser, and
    interpolated linearly. Beyond the CT's field of view in the axial plane is
    air.

    Args:
      ct: HU, in any orientation.
      kilovolts: peak voltage of the CT's tube; for a synthetic CT, of the CTs
        from which the model learnt.
      table: a row of `attenuation.TABLES`.
      grid: of the PET; None keeps that of the CT.
      fwhm_mm: full width at half maximum of the Gaussian, >= 0; 0 blurs only
        as far as a coarser grid demands.
      remove_bed: whether all but the body becomes air, see `body_of`.

    Returns:
      1/cm >= 0 at 511 keV, float32, on the grid.

    Raises:
      UsageError: the voltage is not in the table, there is no such table, or
        the width is negative.
      DataError: this is no CT in HU, shows no body, or does not reach all
        axial slices of the grid.
    """
    if not 0 <= fwhm_mm < math.inf:
        raise errors.UsageError(
            f"The width of the blur is {fwhm_mm} mm, expected 0 or more."
        )
    lowest = float(ct.array.min())
    if lowest > attenuation.LEAST_AIR_HU:
        raise errors.DataError(
            f"The CT goes down to {lowest:g}, expected air below "
            f"{attenuation.LEAST_AIR_HU} HU; check which file it is and its "
            "unit."
        )
    grid = ct if grid is None else grid
    _check_reach(ct, grid)
    mu = attenuation.mu_map(ct, kilovolts=kilovolts, table=table)
    if remove_bed:
        mu.array[~body_of(ct)] = 0
    return preprocess.resample(_blurred(mu, grid, fwhm_mm), grid, outside=0.0)


def body_of(ct: volumes.Volume) -> np.ndarray:
    """Where the patient is, without the bed.

    What is above -500 HU is eroded in each axial slice until a bed is gone,
    the large parts that remain grow back to their skin, and holes in a slice,
    such as lungs, belong to the body. Of a bed on which the skin lies, 1.5 mm
    remain under it.

    Returns:
      bool, shape of the CT.

    Raises:
      DataError: nothing is thicker than a bed.
    """
    axis = _axial_axis(ct.affine)
    # A view whose last axis is that of the slices.
    solid = np.moveaxis(ct.array > tasks.CT.body_above, axis, -1)
    spacing = np.delete(ct.spacing, axis)
    reach = _THICKEST_BED_MM / 2
    core = np.stack(
        [
            ndimage.distance_transform_edt(plane, spacing) > reach
            for plane in np.moveaxis(solid, -1, 0)
        ],
        -1,
    )
    # A plane without any air has no distance to it.
    core |= solid.all((0, 1))
    labels, num_parts = ndimage.label(core)
    if not num_parts:
        raise errors.DataError(
            f"The CT shows nothing above {tasks.CT.body_above:g} HU that is "
            f"{_THICKEST_BED_MM:g} mm thick, expected a body; check which "
            "file it is, or keep the bed."
        )
    voxels = np.bincount(labels.ravel())
    voxels[0] = 0
    core = (voxels >= _LEAST_PART * voxels.max())[labels] & core
    body = np.zeros(solid.shape, bool)
    for k in np.flatnonzero(core.any((0, 1))):
        # A little farther back, because an erosion blunts corners.
        near = ndimage.distance_transform_edt(~core[..., k], spacing)
        body[..., k] = ndimage.binary_fill_holes(
            solid[..., k] & (near <= 1.25 * reach)
        )
    return np.moveaxis(body, -1, axis)


def check_writable(path: str | os.PathLike) -> None:
    """Refuses a path that `write` could not write, before the work.

    Raises:
      DataError: the name has a suffix that cannot be written.
      ResourceError: the folder is missing or not writable.
    """
    path = pathlib.Path(path)
    if not is_interfile(path):
        io.check_writable(path)
    elif not os.access(path.parent, os.W_OK | os.X_OK) or path.is_dir():
        raise errors.ResourceError(
            f"{path}: cannot be written; check that the folder exists and is "
            "writable, and that the name is not a folder's."
        )


def is_interfile(path: str | os.PathLike) -> bool:
    """Whether a name is that of an Interfile header."""
    return pathlib.Path(path).suffix.lower() == INTERFILE_SUFFIX


def write_interfile(
    path: str | os.PathLike, mu: volumes.Volume, *, position: str
) -> None:
    """Writes a header `.hv` and beside it the values `.v`, for STIR and SIRF.

    The keys are those of Interfile 3.3 with STIR's for PET. Values are
    float32, little endian, x fastest and z slowest, along the axes of the
    gantry. `first pixel offset (mm)` is, as STIR has it, the place of the
    middle of the first voxel: the patient's coordinates along these axes, so
    that the file lies where the DICOM or NIfTI did. STIR's own images have 0
    in the middle of the gantry; CASToR takes the values as they stand and
    wants the grid of its reconstruction.

    Args:
      path: ends in `.hv`; both files are replaced if they exist.
      mu: 1/cm, its axes along those of the patient in any order.
      position: how the patient lay in the PET, a key of POSITIONS.

    Raises:
      UsageError: the position is another.
      DataError: the axes are oblique, which Interfile cannot say.
      ResourceError: the folder is missing, not writable or full.
    """
    path = pathlib.Path(path)
    if position not in POSITIONS:
        raise errors.UsageError(
            f"The patient's position is {position}, expected one of "
            f"{', '.join(POSITIONS)}."
        )
    array, spacing, first = _along_gantry(path, mu, POSITIONS[position])
    data = path.with_suffix(".v")
    header = _header(data.name, array.shape, spacing, first, position)
    # The header last: where it is, its values are whole.
    contents = {
        data: array.astype("<f4").tobytes(order="F"),
        path: header.encode(),
    }
    unfinished = {
        final: final.with_name(f".{os.getpid()}.{final.name}")
        for final in contents
    }
    try:
        for final, content in contents.items():
            with open(unfinished[final], "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for final in contents:
            os.replace(unfinished[final], final)
    except OSError as error:
        raise errors.ResourceError(
            f"{path}: cannot be written ({error.strerror}); check that the "
            "folder exists, is writable and has space."
        ) from error
    finally:
        for temporary in unfinished.values():
            with contextlib.suppress(OSError):
                temporary.unlink()


def _common(
    stack: dicom.Stack, name: str, kind: type, where: pathlib.Path
) -> float | str | None:
    """The one value of a field in all slices, or None if none has it."""
    with dicom_slice.naming(where):
        values = [header.get(name) for header in stack.headers]
        found = {None if v in (None, "") else kind(v) for v in values}
    if len(found) > 1:
        raise errors.refusal(
            where,
            f"{name} {' and '.join(sorted(map(str, found)))} in one series",
            "one value",
            "split the series, or correct the header",
        )
    return found.pop()


def _axial_axis(affine: np.ndarray) -> int:
    """The axis of an array that runs along the patient."""
    return int(np.flatnonzero(nib.io_orientation(affine)[:, 0] == 2)[0])


def _check_reach(ct: volumes.Volume, grid) -> None:
    """Refuses a grid with axial slices in which the CT shows nothing."""
    axis = _axial_axis(grid.affine)
    reached = np.moveaxis(preprocess.coverage(ct, grid), axis, 0)
    missing = int(np.count_nonzero(~reached.any((1, 2))))
    if missing:
        raise errors.DataError(
            f"The CT does not reach {missing} of the {len(reached)} axial "
            "slices of the PET, expected all, because without attenuation "
            "they would be corrected wrongly; crop the PET to the CT, or "
            "check that both are of one patient."
        )


def _blurred(mu: volumes.Volume, grid, fwhm_mm: float) -> volumes.Volume:
    """What is missing from the width once `preprocess.resample` has blurred."""
    to_index = np.linalg.inv(mu.affine) @ grid.affine
    added = np.maximum(np.square(to_index[:3, :3]).sum(axis=1) - 1, 0)
    missing = np.square(fwhm_mm / np.array(mu.spacing)) - added
    sigma = np.sqrt(np.maximum(missing, 0) / (8 * math.log(2)))
    return volumes.Volume(
        ndimage.gaussian_filter(mu.array, sigma, mode="nearest"), mu.affine
    )


def _along_gantry(path: pathlib.Path, mu: volumes.Volume, axes: str):
    """Values, mm between voxels, and the first voxel's place in mm.

    Args:
      path: for the message.
      mu: in any order of the patient's axes.
      axes: where x, y and z point in the patient, such as "LPI".
    """
    reordering = nib.orientations.ornt_transform(
        nib.io_orientation(mu.affine), nib.orientations.axcodes2ornt(axes)
    )
    array = nib.apply_orientation(mu.array, reordering)
    to_patient = mu.affine @ nib.orientations.inv_ornt_aff(reordering, mu.shape)
    signs = [1.0 if axis in "RAS" else -1.0 for axis in axes]
    to_gantry = np.diag(signs) @ to_patient[:3]
    spacing = np.diag(to_gantry)
    tilt = np.abs(to_gantry[:, :3] - np.diag(spacing)) @ array.shape
    if tilt.max() > _MOST_TILT_MM:
        raise errors.refusal(
            path,
            f"axes that are {tilt.max():.1f} mm oblique at the far corner",
            "axes along those of the gantry, because Interfile knows no "
            "rotation",
            "give the grid of an upright PET, or write NIfTI",
        )
    return array, spacing, to_gantry[:, 3]


def _header(
    data_name: str,
    shape: tuple[int, int, int],
    spacing: np.ndarray,
    first: np.ndarray,
    position: str,
) -> str:
    lines = [
        "!INTERFILE :=",
        "!imaging modality := PT",
        f"name of data file := {data_name}",
        "!GENERAL DATA :=",
        "!GENERAL IMAGE DATA :=",
        "!type of data := PET",
        "patient orientation := "
        + {"H": "head_in", "F": "feet_in"}[position[0]],
        "patient rotation := " + {"S": "supine", "P": "prone"}[position[2]],
        "imagedata byte order := LITTLEENDIAN",
        "!PET STUDY (General) :=",
        "!PET data type := Image",
        "process status := Reconstructed",
        "!number format := float",
        "!number of bytes per pixel := 4",
        "number of dimensions := 3",
    ]
    for i, axis in enumerate("xyz"):
        lines += [
            f"matrix axis label [{i + 1}] := {axis}",
            f"!matrix size [{i + 1}] := {shape[i]}",
            f"scaling factor (mm/pixel) [{i + 1}] := {spacing[i]:.9g}",
        ]
    lines += [
        f"first pixel offset (mm) [{i + 1}] := {place:.9g}"
        for i, place in enumerate(first)
    ]
    lines += ["number of time frames := 1", "!END OF INTERFILE :="]
    return "\n".join([*lines, ""])
