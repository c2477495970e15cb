"""Images without geometry: slices in 16-bit PNG or TIFF files, and .npy.

They hold numbers, neither millimetres nor units. What is missing stands in
`volume.json` in the folder of the slices, or in `NAME.json` beside NAME.npy:

    {"affine": [[...], ...], "shape": [256, 256, 90],
     "slope": 1.0, "intercept": -1024.0}

`affine` is 4 x 4, voxel index -> RAS+ mm; `slope` and `intercept` lead from
the stored number to the unit; `shape`, by which a missing slice is seen, may
be left out. In place of the file the user may give the spacing: the axes are
then taken for left, posterior, superior, the values for the unit.
"""

from __future__ import annotations

import json
import os
import pathlib
import re

import numpy as np
import SimpleITK as sitk

from medgan_tf import errors, json_files
from medgan_tf.data import volume as volumes

SUFFIXES = (".png", ".tif", ".tiff")
_STEPS = 2**16 - 1


def folder_of(path: pathlib.Path) -> pathlib.Path:
    """The folder that `folder/*.png` stands for; any other path itself."""
    return path.parent if path.name.startswith("*.") else path


def note_of(path: pathlib.Path) -> pathlib.Path:
    """The JSON file that says where a volume lies; it may be absent."""
    if path.suffix.lower() == ".npy":
        return path.with_suffix(".json")
    folder = folder_of(path)
    return (folder if os.path.isdir(folder) else folder.parent) / "volume.json"


def is_stack(folder: pathlib.Path) -> bool:
    """Whether a folder holds slices in PNG or TIFF files."""
    return bool(_slices(folder))


def read(
    path: pathlib.Path, spacing_mm: tuple[float, float, float] | None
) -> volumes.Volume:
    """Reads a folder of slices, a TIFF file of several pages, or .npy.

    Slices follow one another by the numbers in their names: 2 before 10. A
    slice's columns become axis 0 and its rows axis 1.

    Args:
      path: see above; `folder/*.png` is the folder.
      spacing_mm: used where no JSON file stands beside.

    Raises:
      DataError: slices differ in size, are of 8 bits or in colour, an array
        is not of real numbers and three axes, or the spacing is unknown.
    """
    path = folder_of(path)
    note = note_of(path)
    if path.suffix.lower() == ".npy":
        stored = _load(path)
    else:
        files = _slices(path) if os.path.isdir(path) else [path]
        stored = _read_slices(path, files)
    affine, slope, intercept = _place(path, note, stored.shape, spacing_mm)
    array = stored.astype(np.float64) * slope + intercept
    return volumes.Volume(np.ascontiguousarray(array, np.float32), affine)


def write(
    path: pathlib.Path, volume: volumes.Volume, like: pathlib.Path | None
) -> None:
    """Writes slices of 16 bits, or .npy in float32, and what leads back.

    Args:
      path: `folder/*.png`, `folder/*.tif`, or a file `.npy`.
      volume: what to write; 16 bits keep its range in 65535 steps.
      like: not needed, the affine is kept to the last bit.

    Raises:
      DataError: the name is that of a single slice.
    """
    del like
    note = {
        "affine": volume.affine.tolist(),
        "shape": list(volume.shape),
        "slope": 1.0,
        "intercept": 0.0,
    }
    if path.suffix.lower() == ".npy":
        with open(path, "wb") as file:
            np.save(file, np.ascontiguousarray(volume.array, np.float32))
        # The name without that of the process that writes it.
        name = re.sub(r"^\.\d+\.", "", path.name)
        beside = path.with_name(name).with_suffix(".json")
        beside.write_text(json.dumps(note) + "\n")
        return
    if not path.name.startswith("*."):
        raise errors.refusal(
            path, "one file", "a slice in each", f"write to *{path.suffix}"
        )
    low, high = float(volume.array.min()), float(volume.array.max())
    note["slope"] = (high - low) / _STEPS or 1.0
    note["intercept"] = low
    stored = (volume.array.astype(np.float64) - low) / note["slope"]
    stored = np.rint(stored).astype(np.uint16)
    for k in range(volume.shape[2]):
        image = sitk.GetImageFromArray(np.ascontiguousarray(stored[:, :, k].T))
        sitk.WriteImage(image, str(path.parent / f"{k:04d}{path.suffix}"))
    (path.parent / "volume.json").write_text(json.dumps(note) + "\n")


def _slices(folder: pathlib.Path) -> list[pathlib.Path]:
    """Files of slices in the order of the numbers in their names."""
    files = [
        file
        for file in folder.iterdir()
        # macOS leaves "._NAME" beside each file.
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    ]

    def natural(file: pathlib.Path):
        parts = re.split(r"(\d+)", file.name)
        return [int(p) if p.isdigit() else p for p in parts]

    return sorted(files, key=natural)


def _read_slices(path: pathlib.Path, files: list[pathlib.Path]) -> np.ndarray:
    """Stored numbers, [X, Y, Z]."""
    planes = []
    for file in files:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
            size = reader.GetSize()
            volumes.checked_count(path, (*size, len(files)), 2)
            kind = reader.GetPixelID()
            if kind in (sitk.sitkUInt8, sitk.sitkInt8) or (
                reader.GetNumberOfComponents() != 1
            ):
                raise errors.refusal(
                    file,
                    sitk.GetPixelIDValueAsString(kind),
                    "16 bits, one number a pixel",
                    "save it again without turning it into 8 bits or colour",
                )
            image = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].split("): ")[-1]
            raise errors.refusal(
                file,
                f"a damaged image ({reason.strip().rstrip('.')})",
                "a PNG or TIFF image",
                "copy the file again",
            ) from error
        planes.append(image.reshape(-1, *image.shape[-2:]))
        if planes[-1].shape[1:] != planes[0].shape[1:]:
            raise errors.refusal(
                file,
                f"{planes[-1].shape[2]} x {planes[-1].shape[1]} pixels",
                f"{planes[0].shape[2]} x {planes[0].shape[1]} as in "
                f"{files[0].name}",
                "keep slices of one volume in a folder",
            )
    return np.concatenate(planes).transpose(2, 1, 0)


def _load(path: pathlib.Path) -> np.ndarray:
    try:
        # Asked first, because NumPy takes anything else for an archive, or for
        # objects.
        with open(path, "rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise ValueError("another kind of file")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise errors.refusal(
            path,
            f"no array of numbers ({error})",
            "what numpy.save wrote",
            "save the array again, without objects",
        ) from error
    if array.ndim != 3 or array.dtype.kind not in "iuf":
        raise errors.refusal(
            path,
            f"{array.dtype} of shape {array.shape}",
            "real numbers along three axes (X, Y, Z)",
            "save one volume a file",
        )
    volumes.checked_count(path, array.shape, array.dtype.itemsize)
    return array


def _place(
    path: pathlib.Path,
    note: pathlib.Path,
    shape: tuple[int, ...],
    spacing_mm: tuple[float, float, float] | None,
) -> tuple[np.ndarray, float, float]:
    """Affine, slope and intercept, from the JSON file or the user."""
    if os.path.exists(note):
        try:
            content = json_files.read(note)
            affine = np.array(content["affine"], np.float64)
            slope, intercept = (
                float(content.get(k, d))
                for k, d in (("slope", 1.0), ("intercept", 0.0))
            )
            if (
                affine.shape != (4, 4)
                or not np.isfinite([slope, intercept]).all()
            ):
                raise ValueError("the affine is not 4 x 4 or a number is NaN")
            wanted = tuple(content.get("shape", shape))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.refusal(
                note,
                f"no description of a volume ({error})",
                '{"affine": 4 x 4 numbers, "slope": s, "intercept": i}',
                "mend it, or remove it and give --spacing_mm",
            ) from error
        if wanted != shape:
            raise errors.refusal(
                path,
                f"{' x '.join(map(str, shape))} voxels",
                f"{' x '.join(map(str, wanted))} by {note.name}",
                "complete the slices",
            )
        return affine, slope, intercept
    if spacing_mm is None:
        raise errors.refusal(
            path,
            "no spacing",
            f"--spacing_mm=X,Y,Z or a file {note.name} beside it",
            "give the distance of the voxels in mm",
        )
    if len(spacing_mm) != 3 or not (
        np.isfinite(spacing_mm).all() and min(spacing_mm) > 0
    ):
        raise errors.UsageError(
            f"--spacing_mm is {spacing_mm}, expected three positive numbers."
        )
    # Left and posterior are negative in RAS.
    return (
        np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0]),
        1.0,
        0.0,
    )
