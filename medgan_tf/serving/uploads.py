"""A file that a stranger sends becomes a volume, or one line that says why not.

Its name decides on nothing but the format, its header may not ask for more
memory than a page can show, and what is told of it names no folder of ours.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import pathlib
import shutil
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import nibabel as nib
import SimpleITK as sitk

from medgan_tf import errors, tasks
from medgan_tf.data import io, preprocess
from medgan_tf.data import volume as volumes

# Formats that are one file and say where they lie.
SUFFIXES = (".nii.gz", ".nii", ".mha")
# 512 x 512 x 512: 0.5 GB as float32, and what a browser can still show.
MOST_VOXELS = 2**27

# Because warnings are caught for all threads at once.
_WARNINGS = threading.Lock()


def save(
    folder: pathlib.Path, stem: str, name: str, contents: BinaryIO
) -> pathlib.Path:
    """Copies an upload to a file of our own name.

    Args:
      folder: where to.
      stem: of the new name.
      name: what the sender calls it; only its suffix counts.
      contents: read to the end.

    Raises:
      DataError: the suffix is none of SUFFIXES.
    """
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), None)
    if suffix is None:
        raise errors.refusal(
            stem,
            "another kind of file",
            " or ".join(SUFFIXES),
            "convert the image, or use predict.py for DICOM",
        )
    path = folder / f"{stem}{suffix}"
    with open(path, "wb") as file:
        shutil.copyfileobj(contents, file, 2**20)
    return path


def read(path: pathlib.Path, notes: list[str]) -> volumes.Volume:
    """Reads a volume that is not too large.

    Args:
      path: from `save`.
      notes: gets a line for each doubt about the file.

    Raises:
      DataError: it is damaged, or larger than MOST_VOXELS.
    """
    count = _declared_voxels(path)
    if count > MOST_VOXELS:
        raise errors.refusal(
            path,
            f"{count / 1e6:.0f} million voxels",
            f"at most {MOST_VOXELS / 1e6:.0f} million",
            "crop it, or use predict.py",
        )
    with _WARNINGS, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = io.read_volume(path)
    notes += [
        str(warning.message).replace(f"{path.parent}/", "")
        for warning in caught
        if issubclass(warning.category, UserWarning)
    ]
    return volume


def check_size(
    path: pathlib.Path, volume: volumes.Volume, task: tasks.Task
) -> None:
    """Refuses a source whose slices would be more than a page can show.

    Raises:
      DataError: they have more than MOST_VOXELS.
    """
    shape = preprocess.slice_grid(volume, task.voxel_size_mm).shape
    area = max(math.prod(shape[:2]), preprocess.SLICE_SIZE**2)
    if area * shape[2] > MOST_VOXELS:
        raise errors.refusal(
            path,
            f"{shape[2]} slices of {shape[0]} x {shape[1]} pixels as the model "
            "takes them",
            f"at most {MOST_VOXELS / 1e6:.0f} million pixels",
            "crop it, or use predict.py",
        )


def check(
    path: pathlib.Path, volume: volumes.Volume, modality: tasks.Modality
) -> None:
    """Refuses values that do not look like those of a modality.

    Raises:
      DataError: the volume is empty or in another unit.
    """
    try:
        preprocess.checked_window(volume, modality)
    except errors.DataError as error:
        raise errors.DataError(f"{path}: {error}") from error


@contextlib.contextmanager
def own_words(folder: pathlib.Path) -> Iterator[None]:
    """Tells an error about a file in `folder` in one line, without it.

    Raises:
      MedganError: of the same kind as the error.
      ResourceError: disk space or memory is lacking.
    """
    try:
        yield
    except errors.MedganError as error:
        line = " ".join(str(error).replace(f"{folder}/", "").split())
        raise type(error)(line) from error
    except OSError as error:
        raise errors.ResourceError(
            f"The server cannot keep the volume ({error.strerror}); free some "
            "space on its disk."
        ) from error
    except MemoryError as error:
        raise errors.ResourceError(
            "The server has too little memory for the volume; crop it, or use "
            "predict.py on a larger machine."
        ) from error


def _declared_voxels(path: pathlib.Path) -> int:
    """Voxels by the header; 0 where `io.read_volume` is to say what is wrong.

    Because a header of a few bytes, or a small file that is well compressed,
    can ask for all memory there is.
    """
    try:
        if path.suffix == ".mha":
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            return math.prod(reader.GetSize())
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rb") as stream:
            block = stream.read(nib.Nifti2Header.sizeof_hdr)
        for kind in (nib.Nifti1Header, nib.Nifti2Header):
            if kind.may_contain_header(block):
                header = kind(block[: kind.sizeof_hdr], check=False)
                sizes = header["dim"][1 : int(header["dim"][0]) + 1]
                return math.prod(max(int(size), 1) for size in sizes)
    except (RuntimeError, OSError, EOFError, zlib.error, ValueError):
        pass
    return 0
