"""Where the images are that another program translated.

They come in one of two forms, always in the target's unit:

- slices: one file for each slice of the records, named
  `<patient>[_<study>]_<slice_index>`, on the very pixels of the records'
  slices: rows from anterior to posterior, columns from the patient's right to
  the left;
- volumes: one for each study, named `<patient>[_<study>]`, on the voxels of
  its source. Records hold slices without their place, so the source's file is
  needed again: it is cut as it was for the records, which proves that it is
  the same, and the translated volume is cut where it was.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from medgan_tf import errors, json_files, tasks
from medgan_tf.data import io, preprocess
from medgan_tf.data import volume as volume_module
from medgan_tf.data.sample import Sample

# Patient and study.
Study = tuple[str, str]
# Slices of one study -> their images, float32 [N, H, W] in the target's unit.
Read = Callable[[list[Sample]], np.ndarray]

_SLICE = re.compile(r"(?P<stem>.+)_(?P<index>\d+)(\.npy|\.png|\.tiff?)", re.I)

# Voxels that lie nearer to the source's are taken for them: more than rounding
# in a header, less than can be seen.
_SAME_VOXEL = 0.05
# Of the normalised slices of a source that is cut again.
_SAME_VALUE = 1e-3


def wanted(samples: Iterable[Sample]) -> dict[Study, list[int]]:
    """Which slices of which studies an image is needed for."""
    found = collections.defaultdict(list)
    for sample in samples:
        found[study_of(sample)].append(sample.slice_index)
    return dict(found)


def slices(
    folder: str | os.PathLike,
    needed: Mapping[Study, Collection[int]],
    *,
    others: Collection[str] = (),
) -> Read:
    """A folder with a file for each slice.

    A `.npy` holds the values in the target's unit, [H, W]; so does a TIFF of
    16 or 32 bits. A PNG, and a TIFF of 8 bits, holds numbers that lead to the
    unit by `{"slope": s, "intercept": i}` in a file `volume.json` in the
    folder, which then holds for every PNG and TIFF.

    Args:
      folder: where they are.
      needed: see `wanted`.
      others: patients of whom there may be images too, which are left alone.

    Returns:
      What reads the slices of a study. It raises a DataError if a file is
      damaged, in colour, of another size or without a scale, or holds values
      that are not finite.

    Raises:
      DataError: no folder, a slice without an image, one with two, or a file
        of no known patient or slice.
    """
    folder = pathlib.Path(folder)
    studies = _by_stem(needed)
    files = {}
    for entry in _entries(folder):
        match = _SLICE.fullmatch(entry.name)
        study = match and studies.get(match["stem"])
        if study and int(match["index"]) in needed[study]:
            _put(files, (*study, int(match["index"])), entry)
        elif study:
            raise errors.refusal(
                entry,
                f"slice {int(match['index'])}",
                f"one that the records hold ({min(needed[study])} to "
                f"{max(needed[study])}, without those that were dropped)",
                "number the slices as the records do, and remove others",
            )
        elif not _is_known(match["stem"] if match else "", others):
            raise errors.refusal(
                entry,
                "the name of no slice of a known patient",
                "PATIENT[_STUDY]_SLICE and .npy, .png or .tif",
                "rename or remove it, or, for volumes, name their sources by "
                "--manifest or --input_dir",
            )
    lacking = {
        study: [k for k in indices if (*study, k) not in files]
        for study, indices in needed.items()
    }
    _check_complete(
        folder,
        [
            f"{stem(study)} ({len(found)} of {len(needed[study])} slices, "
            f"the first {found[0]})"
            for study, found in lacking.items()
            if found
        ],
        len(needed),
    )
    scale = _scale(folder)

    def read(samples: list[Sample]) -> np.ndarray:
        return np.stack(
            [
                _read_slice(
                    files[(*study_of(sample), sample.slice_index)],
                    sample.mask.shape,
                    scale,
                )
                for sample in samples
            ]
        )

    return read


def volumes(
    folder: str | os.PathLike,
    needed: Mapping[Study, Collection[int]],
    *,
    others: Collection[str] = (),
    sources: Mapping[Study, pathlib.Path],
    task: tasks.Task,
    spacing_mm: tuple[float, float, float] | None = None,
) -> Read:
    """A folder with a volume for each study, in any format of `io`.

    Args:
      folder: where they are; a DICOM series or a stack of slices is a folder
        in it.
      needed: see `wanted`.
      others: patients of whom there may be images too, which are left alone.
      sources: the file of each study's first source.
      task: the row that the records were prepared for.
      spacing_mm: of formats that do not say it; see `io.read_volume`.

    Returns:
      What reads the slices of a study. It raises a DataError if the source is
      not the one of the records, or the volume cannot be read or does not lie
      on the voxels of the source.

    Raises:
      DataError: no folder, a study without a volume or without a source, one
        with two volumes, or a file of no known patient.
    """
    folder = pathlib.Path(folder)
    studies = _by_stem(needed)
    files = {}
    for entry in _entries(folder):
        name = _volume_name(entry)
        if study := studies.get(name):
            _put(files, study, entry)
        elif not _is_known(name, others):
            raise errors.refusal(
                entry,
                "the name of no known patient",
                "PATIENT[_STUDY] and a suffix such as .nii.gz or .mha, or a "
                "folder of that name",
                "rename or remove it",
            )
    _check_complete(
        folder, [stem(s) for s in needed if s not in files], len(needed)
    )
    if unknown := [stem(study) for study in needed if study not in sources]:
        raise errors.refusal(
            folder,
            f"no source of {', '.join(unknown)}",
            "the sources that the records were prepared from",
            "name them as for prepare_data.py; where they were simulated, "
            "give slices instead of volumes",
        )
    first_only = dataclasses.replace(task, more_sources=())

    def read(samples: list[Sample]) -> np.ndarray:
        study = study_of(samples[0])
        path = sources[study]
        source = io.read_volume(path, spacing_mm=spacing_mm)
        try:
            cut = preprocess.cut([source], first_only)
        except errors.DataError as error:
            raise errors.DataError(f"{path}: {error}") from error
        _check_source(path, cut, samples)
        translated = _on_voxels_of(
            source,
            io.read_volume(files[study], spacing_mm=spacing_mm),
            (files[study], path),
        )
        air = task.target.air
        on_grid = preprocess.resample(
            translated, cut.geometry.sliced, outside=air
        )
        images = preprocess.to_slices(on_grid.array, cut.geometry, fill=air)
        return images[[sample.slice_index for sample in samples]]

    return read


def study_of(sample: Sample) -> Study:
    """The patient and study of a slice."""
    return sample.patient, sample.study


def stem(study: Study) -> str:
    """What the files of a study are called, without slice and suffix."""
    return "_".join(part for part in study if part)


def _by_stem(needed: Iterable[Study]) -> dict[str, Study]:
    """What the files of a study are called -> the study."""
    found = {}
    for study in needed:
        other = found.setdefault(stem(study), study)
        if other != study:
            raise errors.DataError(
                f"Patient {other[0]}, study {other[1]!r} and patient "
                f"{study[0]}, study {study[1]!r} would both be called "
                f"{stem(study)}; prepare the data with other names."
            )
    return found


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
    """Images, as far as the names tell."""
    # Because pathlib's own test fails on a name that is too long.
    if not os.path.isdir(folder):
        raise errors.refusal(
            folder, "no folder", "one with translated images", "check the path"
        )
    return [
        entry
        for entry in sorted(folder.iterdir())
        # `volume.json`, or NAME.json beside NAME.npy, belongs to an image.
        if not entry.name.startswith(".") and entry.suffix != ".json"
    ]


def _volume_name(entry: pathlib.Path) -> str:
    """The name without the suffix of a volume; empty for another file."""
    if os.path.isdir(entry):
        return entry.name
    known = [s for s in io.FORMATS if entry.name.lower().endswith(s)]
    return entry.name[: -len(max(known, key=len))] if known else ""


def _is_known(name: str, patients: Collection[str]) -> bool:
    """Whether a file is of one of the patients, in whatever study."""
    return any(name == p or name.startswith(f"{p}_") for p in patients)


def _put(files: dict, key: tuple, entry: pathlib.Path) -> None:
    if key in files:
        raise errors.refusal(
            entry, f"{files[key].name} too", "one image", "remove one of them"
        )
    files[key] = entry


def _check_complete(
    folder: pathlib.Path, lacking: list[str], num_studies: int
) -> None:
    if lacking:
        raise errors.refusal(
            folder,
            f"no image for {len(lacking)} of {num_studies} studies: "
            f"{', '.join(lacking)}",
            "one for each patient of the split",
            "translate them too, or choose another --split",
        )


def _scale(folder: pathlib.Path) -> tuple[float, float] | None:
    """Slope and intercept of PNG and TIFF, if the folder says them."""
    note = folder / "volume.json"
    if not os.path.exists(note):
        return None
    try:
        content = json_files.read(note)
        scale = float(content["slope"]), float(content["intercept"])
        if not np.isfinite(scale).all() or scale[0] == 0:
            raise ValueError(f"they are {scale[0]} and {scale[1]}")
    except (ValueError, KeyError, TypeError) as error:
        raise errors.refusal(
            note,
            f"no slope and intercept ({error})",
            '{"slope": s, "intercept": i}',
            "mend it",
        ) from error
    return scale


def _read_slice(
    path: pathlib.Path,
    shape: tuple[int, int],
    scale: tuple[float, float] | None,
) -> np.ndarray:
    """The values of one file in the unit, float32 [H, W]."""
    if path.suffix.lower() == ".npy":
        array = _load(path)
    else:
        array = _read_picture(path, scale)
    if array.shape != shape:
        raise errors.refusal(
            path,
            f"shape {array.shape}",
            f"{shape}, as in the records",
            "write one slice a file, without resizing or cropping it",
        )
    if not np.isfinite(array).all():
        raise errors.refusal(
            path,
            f"{np.count_nonzero(~np.isfinite(array))} pixels that are NaN or "
            "infinite",
            "finite values",
            "repeat what made them",
        )
    return array.astype(np.float32)


def _load(path: pathlib.Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
            raise ValueError("it holds something else")
    except (ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise errors.refusal(
            path,
            f"no array of real numbers ({reason})",
            "what numpy.save wrote",
            "save the array again, without objects",
        ) from error
    return array


def _read_picture(
    path: pathlib.Path, scale: tuple[float, float] | None
) -> np.ndarray:
    """The values of a PNG or TIFF in the unit."""
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise errors.refusal(
            path, "a damaged image", "a PNG or TIFF", "copy the file again"
        ) from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise errors.refusal(
            path, "colours", "one number a pixel", "save it as grey values"
        )
    is_8_bit = image.GetPixelID() in (sitk.sitkUInt8, sitk.sitkInt8)
    if scale is None and (is_8_bit or path.suffix.lower() == ".png"):
        raise errors.refusal(
            path,
            f"{sitk.GetPixelIDValueAsString(image.GetPixelID())} without a "
            "scale",
            'a file volume.json beside it with {"slope": s, "intercept": i}, '
            "which lead from the grey value to the unit",
            "write it, or save .npy in the unit",
        )
    slope, intercept = scale or (1.0, 0.0)
    return sitk.GetArrayFromImage(image).astype(np.float64) * slope + intercept


def _check_source(
    path: pathlib.Path, cut: preprocess.CutVolume, samples: list[Sample]
) -> None:
    """Refuses a source that is not the one the samples were cut from."""
    found = cut.normalised()[..., 0]
    is_same = all(
        sample.slice_index < len(found)
        and sample.mask.shape == found.shape[1:]
        and np.abs(found[sample.slice_index] - sample.source[..., 0]).max()
        <= _SAME_VALUE
        for sample in samples
    )
    if not is_same:
        raise errors.refusal(
            path,
            f"other slices than those of {stem(study_of(samples[0]))} in the "
            "records",
            "the source that they were prepared from",
            "name the files that prepare_data.py had, or prepare the data "
            "again",
        )


def _on_voxels_of(
    source: volume_module.Volume,
    volume: volume_module.Volume,
    paths: tuple[pathlib.Path, pathlib.Path],
) -> volume_module.Volume:
    """The volume, in LPS order, exactly where the source lies.

    Args:
      source: where it has to lie.
      volume: the same voxels, in any order of the axes.
      paths: of the volume and the source, for the message.

    Raises:
      DataError: it lies elsewhere.
    """
    keep = (None, None, None)
    wanted_grid = preprocess.slice_grid(source, keep)
    grid = preprocess.slice_grid(volume, keep)
    is_same = grid.shape == wanted_grid.shape
    if is_same:
        last = np.subtract(grid.shape, 1)
        corners = np.array(list(itertools.product(*((0, n) for n in last))))
        moved = nib.affines.apply_affine(
            np.linalg.inv(wanted_grid.affine) @ grid.affine, corners
        )
        is_same = np.abs(moved - corners).max() <= _SAME_VOXEL
    if not is_same:
        raise errors.refusal(
            paths[0],
            _grid_text(volume),
            f"the voxels of its source {paths[1]}, {_grid_text(source)}",
            "resample it to the source, or write it with the source's header",
        )
    upright = preprocess.resample(volume, grid, outside=None)
    return volume_module.Volume(upright.array, wanted_grid.affine)


def _grid_text(volume: volume_module.Volume) -> str:
    """Such as "256 x 256 x 90 voxels of 1 x 1 x 3 mm from (-128, ...)"."""
    size = " x ".join(map(str, volume.shape))
    spacing = " x ".join(f"{s:.4g}" for s in volume.spacing)
    first = ", ".join(f"{x:.1f}" for x in volume.affine[:3, 3])
    return f"{size} voxels of {spacing} mm from ({first}) mm RAS"
