"""Reads an image into a Volume, and writes a Volume, whatever the format.

To add a format, write a module with `read(path)` and `write(path, volume,
like)` and add its suffix to FORMATS.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import types

import numpy as np

from medgan_tf import errors
from medgan_tf.data import dicom, dicom_slice, itk, nifti, stacks
from medgan_tf.data import volume as volumes

# Suffix -> the module that reads and writes it.
FORMATS = {
    ".nii": nifti,
    ".nii.gz": nifti,
    ".mha": itk,
    ".nrrd": itk,
    ".npy": stacks,
    ".png": stacks,
    ".tif": stacks,
    ".tiff": stacks,
    ".dcm": dicom,
}


def read_volume(
    path: str | os.PathLike,
    *,
    spacing_mm: tuple[float, float, float] | None = None,
) -> volumes.Volume:
    """Reads one 3-D image, whole, and refuses what cannot be trusted.

    Args:
      path: a file with a suffix of FORMATS; or a folder with the slices of
        one volume, DICOM or 16-bit PNG or TIFF; or one DICOM file, whatever
        its name: then the whole series that it belongs to, in its folder.
      spacing_mm: of `.npy`, PNG and TIFF that do not say it themselves.

    Returns:
      The volume; float32 values in the physical unit (HU of CT and SUV of PET
      from DICOM, else the file's own values after its slope and intercept),
      (X, Y, Z) in the order of the file, affine in RAS+ mm.

    Raises:
      DataError: the file is missing, damaged, too large, not a 3-D image of
        real finite numbers, or does not say where it lies.
      ResourceError: the system does not let us read it.
    """
    path = pathlib.Path(path)
    _check_exists(path)
    form = _format(path)
    try:
        if form is stacks:
            volume = stacks.read(path, spacing_mm)
        elif form is dicom:
            volume = dicom.read_series(path)
        else:
            volume = form.read(path)
    except OSError as error:
        raise errors.ResourceError(
            f"{path}: cannot be read ({error.strerror or error}); check that "
            "it is an image and that you have permission."
        ) from error
    _check_affine(path, volume.affine)
    _check_finite(path, volume.array)
    return volume


def write_volume(
    path: str | os.PathLike,
    volume: volumes.Volume,
    like: str | os.PathLike | None = None,
) -> None:
    """Writes a volume without any free text, whole or not at all.

    NIfTI, MHA and NRRD hold float32; PNG and TIFF 16 bits with slope and
    intercept in a file `volume.json` beside them. A DICOM series, which needs
    to know whose it is, is written by `dicom_write`.

    Args:
      path: file to write, replaced if it exists; `folder/*.png` writes one
        PNG for each slice into a new folder.
      volume: what to write.
      like: file that has the grid of `volume`. If it is of the same format,
        its position is copied bit by bit, so that any viewer lays the two
        exactly upon each other.

    Raises:
      DataError: values are not finite, or `volume` is not on the grid of
        `like`, or the name has another suffix.
      ResourceError: the folder is missing, not writable or full.
    """
    path = pathlib.Path(path)
    check_writable(path)
    _check_finite(path, volume.array)
    form = _format(path)
    if like is not None:
        like = pathlib.Path(like)
        _check_exists(like)
        like = like if _format(like) is form else None
    final = stacks.folder_of(path)
    # The name is unlike any other's, and beside `path`, because os.replace
    # is only atomic within one file system.
    unfinished = final.with_name(f".{os.getpid()}.{final.name}")
    try:
        if final == path:
            form.write(unfinished, volume, like)
            with open(unfinished, "rb") as file:
                os.fsync(file.fileno())
        else:
            unfinished.mkdir()
            form.write(unfinished / path.name, volume, like)
        os.replace(unfinished, final)
    except OSError as error:
        raise errors.ResourceError(
            f"{path}: cannot be written ({error.strerror}); check that the "
            "folder exists, is writable and has space."
        ) from error
    finally:
        # Gone already if all went well; its absence must hide no error.
        with contextlib.suppress(OSError):
            unfinished.unlink()
        shutil.rmtree(unfinished, ignore_errors=True)


def check_writable(path: str | os.PathLike) -> None:
    """Refuses a path that `write_volume` could not write, before the work.

    Raises:
      DataError: the name has a suffix that cannot be written.
      ResourceError: the folder is missing or not writable, or holds files
        already.
    """
    path = pathlib.Path(path)
    suffixes = [s for s, form in FORMATS.items() if hasattr(form, "write")]
    if _suffix(path) not in suffixes:
        raise errors.refusal(
            path,
            f"suffix {path.suffix or '(none)'}",
            " or ".join(suffixes),
            "rename it",
        )
    final = stacks.folder_of(path)
    if final != path and os.path.isdir(final) and any(final.iterdir()):
        raise errors.ResourceError(
            f"{final} exists and is not empty; choose a new folder for the "
            "slices."
        )
    note = stacks.note_of(path)
    if (
        final == path
        and _format(path) is stacks
        and (os.path.exists(note) and not os.path.exists(path))
    ):
        raise errors.ResourceError(
            f"{note}, which is to say where {path.name} lies, exists; choose "
            "another name."
        )
    if not os.access(final.parent, os.W_OK | os.X_OK) or path.is_dir():
        raise errors.ResourceError(
            f"{path}: cannot be written; check that the folder exists and is "
            "writable, and that the name is not a folder's."
        )


def files_of(path: str | os.PathLike) -> list[pathlib.Path]:
    """The files that a path stands for, as `read_volume` takes it."""
    path = pathlib.Path(path)
    form = _format(path)
    if form is dicom:
        return dicom.files_of(path)
    if form is not stacks:
        return [path]
    folder = stacks.folder_of(path)
    if os.path.isdir(folder):
        return sorted(file for file in folder.iterdir() if file.is_file())
    note = stacks.note_of(path)
    return [path, note] if os.path.exists(note) else [path]


def is_series(path: str | os.PathLike) -> bool:
    """Whether a path is of DICOM."""
    path = pathlib.Path(path)
    _check_exists(path)
    return _format(path) is dicom


def has_suffix(path: pathlib.Path) -> bool:
    """Whether a name says its format; a dot alone does not."""
    return _suffix(path) is not None


def volumes_in(folder: str | os.PathLike) -> list[pathlib.Path]:
    """What in a folder is a volume each, sorted by name.

    Files, and folders that hold a DICOM series; none if the folder itself is
    one volume.

    Raises:
      DataError: it holds slices and volumes.
    """
    folder = pathlib.Path(folder)
    whole = (".nii", ".nii.gz", ".mha", ".nrrd", ".npy")
    found = sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(whole)
        or (os.path.isdir(path) and dicom.files_of(path))
    )
    if found and (slices := dicom.files_of(folder)):
        raise errors.refusal(
            folder,
            f"a DICOM series ({slices[0].name}, ...) and also {found[0].name}",
            "one or the other",
            "move the series into a folder of its own",
        )
    return found


def _check_exists(path: pathlib.Path) -> None:
    # Because pathlib's own test fails on a name that is too long.
    if not os.path.exists(stacks.folder_of(path)):
        raise errors.refusal(path, "no such file", "an image", "check the path")


def _format(path: pathlib.Path) -> types.ModuleType:
    """The module for a path; DICOM files need no suffix."""
    if os.path.isdir(path):
        return stacks if stacks.is_stack(path) else dicom
    if not _suffix(path):
        if dicom_slice.is_dicom(path):
            return dicom
        raise errors.refusal(
            path,
            f"suffix {path.suffix or '(none)'}",
            " or ".join(FORMATS),
            "convert the image",
        )
    return FORMATS[_suffix(path)]


def _suffix(path: pathlib.Path) -> str | None:
    """The longest known suffix of a file name."""
    known = [s for s in FORMATS if path.name.lower().endswith(s)]
    return max(known, key=len, default=None)


def _check_affine(path: pathlib.Path, affine: np.ndarray) -> None:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Volume of a voxel over that of a box with the same edges.
        volume_share = abs(np.linalg.det(affine[:3, :3])) / lengths.prod()
    if not (np.isfinite(affine).all() and volume_share > 1e-6):
        raise errors.refusal(
            path,
            "an affine that is singular or not finite",
            "three independent axes in mm",
            "correct the header's sform or qform",
        )


def _check_finite(path: pathlib.Path, array: np.ndarray) -> None:
    bad = ~np.isfinite(array)
    if bad.any():
        first = np.unravel_index(int(np.argmax(bad)), array.shape)
        raise errors.refusal(
            path,
            f"{np.count_nonzero(bad)} voxels that are NaN or infinite, the "
            f"first at index {tuple(int(i) for i in first)}",
            "finite values",
            "replace them, or repeat what made them",
        )
