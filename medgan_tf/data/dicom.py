"""A DICOM series, one slice a file: CT, MR or PET, put back together.

Files are known by what they hold, and slices are sorted by where they lie;
names and numbers of files mean nothing. What does not make one even grid is
refused and the files are named.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Iterable

import numpy as np
import pydicom

from medgan_tf import errors
from medgan_tf.data import dicom_slice, suv
from medgan_tf.data import volume as volumes

# What makes slices one series, and what makes them one grid.
_SAME = (
    "PatientID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID "
    "SOPClassUID Rows Columns RescaleType"
).split()
_SAME_WITHIN = {"ImageOrientationPatient": 1e-4, "PixelSpacing": 1e-4}

# A slice may lie this far from its place on the even grid, the larger of:
_OFF_GRID_MM = 0.01
_OFF_GRID_SHARE = 0.01  # of the distance between slices

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclasses.dataclass(frozen=True)
class Series:
    """One series, of any modality, as found in a tree of folders.

    Attributes:
      patient: PatientID.
      study_uid: StudyInstanceUID.
      series_uid: SeriesInstanceUID.
      frame_of_reference: FrameOfReferenceUID; series of one patient that
        share it lie in one space. "" where a series has none.
      modality: such as "CT", "MR", "PT" or "RTSTRUCT".
      description: SeriesDescription.
      files: sorted by name; `read_files` makes them a volume.
    """

    patient: str
    study_uid: str
    series_uid: str
    frame_of_reference: str
    modality: str
    description: str
    files: tuple[pathlib.Path, ...]

    @property
    def num_files(self) -> int:
        """Number of files."""
        return len(self.files)


@dataclasses.dataclass(frozen=True)
class Stack:
    """The headers of one series in the order of the slices.

    Attributes:
      modality: "CT", "MR" or "PT".
      headers: without pixels; positions grow along the normal of the slices.
      affine: float64, shape (4, 4): voxel index -> RAS+ mm.
    """

    modality: str
    headers: tuple[pydicom.Dataset, ...]
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows and slices."""
        first = self.headers[0]
        return (int(first.Columns), int(first.Rows), len(self.headers))


def list_series(folder: pathlib.Path) -> list[Series]:
    """Every series in a tree of folders, from the headers alone.

    Raises:
      DataError: a file is damaged.
    """
    names = (
        "PatientID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID "
        "Modality SeriesDescription"
    ).split()
    fields: dict[tuple[str, ...], tuple[str, ...]] = {}
    files: dict[tuple[str, ...], list[pathlib.Path]] = {}

    def refuse(error: OSError):
        raise error

    for parent, _, children in sorted(os.walk(folder, onerror=refuse)):
        paths = [pathlib.Path(parent, child) for child in sorted(children)]
        for path in filter(dicom_slice.is_dicom, paths):
            header = dicom_slice.read_header(path, names)
            with dicom_slice.naming(path):
                values = tuple(str(header.get(name) or "") for name in names)
            # Copies under another name may keep the UIDs of the original.
            fields.setdefault(values[:3], values)
            files.setdefault(values[:3], []).append(path)
    found = [Series(*fields[key], tuple(files[key])) for key in fields]
    return sorted(found, key=dataclasses.astuple)


def read_series(path: pathlib.Path) -> volumes.Volume:
    """Reads the one series in a folder, or the one that a file belongs to.

    Args:
      path: a folder; files in it that are not DICOM are passed over. Or one
        file: then all files of its series beside it.

    Returns:
      See `read_files`.

    Raises:
      DataError: there is no series, or several, or see `read_files`.
    """
    return read_files(files_of(path), path)


def files_of(path: pathlib.Path) -> list[pathlib.Path]:
    """The files that `read_series` puts together, sorted by name.

    Raises:
      DataError: a file is damaged.
    """
    folder = path if path.is_dir() else path.parent
    files = [
        file for file in sorted(folder.iterdir()) if dicom_slice.is_dicom(file)
    ]
    if path == folder:
        return files
    mine = _series_uid(path)
    return [file for file in files if _series_uid(file) == mine]


def read_files(files: Iterable[pathlib.Path], where: object) -> volumes.Volume:
    """Makes the files of one series a volume.

    Values are worked out in float64, with each slice's own slope, and
    rounded once to float32. Padding of CT (PixelPaddingValue) that lies below
    -1024 HU, as the corners outside a round field of view do, becomes -1024,
    air; all else stays as stored.

    Args:
      files: of one series, in any order.
      where: the series, for the messages.

    Returns:
      (X, Y, Z): columns and rows in the order of the file, slices in the
      order in which their positions grow along the normal (row direction x
      column direction). CT in HU, PET in SUVbw, MR in rescaled scanner
      units. The affine is the header's, RAS+ mm: along Z the mean step
      between positions (never SliceThickness), sheared where the gantry was
      tilted.

    Raises:
      DataError: the files are not one series of plain slices on one even
        grid (every slice within 0.01 mm, or 1 % of the distance between
        slices, of its place), are damaged or too large, or see
        `suv.suvbw_factor`.
    """
    stack = read_stack(files, where)
    factor = 1.0
    if stack.modality == "PT":
        with dicom_slice.naming(where):
            factor = suv.suvbw_factor(stack.headers, where)
    array = np.empty(stack.shape, np.float32)
    for k, header in enumerate(stack.headers):
        array[:, :, k] = dicom_slice.read_values(
            dicom_slice.path_of(header), factor
        ).T
    return volumes.Volume(array, stack.affine)


def read_stack(files: Iterable[pathlib.Path], where: object) -> Stack:
    """The headers of one series, checked and sorted; no pixel is read.

    Args:
      files: of one series, in any order.
      where: the series, for the messages.

    Raises:
      DataError: see `read_files`.
    """
    headers = [dicom_slice.read_header(path) for path in files]
    if not headers:
        raise errors.refusal(
            where,
            "no DICOM image",
            "the slices of one series",
            "check the path",
        )
    for header in headers:
        with dicom_slice.naming(dicom_slice.path_of(header)):
            dicom_slice.check_plain(header)
    with dicom_slice.naming(where):
        _check_same(headers, where)
        first = headers[0]
        volumes.checked_count(
            where,
            (first.Columns, first.Rows, len(headers)),
            first.BitsAllocated // 8,
        )
        normal = np.cross(*dicom_slice.directions(first))
        headers.sort(key=lambda header: normal @ dicom_slice.position(header))
        return Stack(
            dicom_slice.MODALITIES[first.SOPClassUID],
            tuple(headers),
            _LPS_TO_RAS @ _affine(headers, normal, where),
        )


def _check_same(headers: list[pydicom.Dataset], where: object) -> None:
    first = headers[0]
    for header in headers[1:]:
        for name in (*_SAME, *_SAME_WITHIN):
            ours, theirs = first.get(name), header.get(name)
            if name in _SAME_WITHIN:
                limit = _SAME_WITHIN[name]
                same = np.allclose(ours, theirs, rtol=0, atol=limit)
            else:
                same = (ours or None) == (theirs or None)
            if not same:
                found = f"{_name(first)} and {_name(header)} differ in {name}"
                # Because a message may be kept: it names no patient.
                if not name.endswith("ID"):
                    found += dicom_slice.brief(f" ({ours} and {theirs})")
                raise errors.refusal(
                    where,
                    found,
                    "the slices of one series on one grid",
                    "keep each series in a folder of its own",
                )


def _affine(
    headers: list[pydicom.Dataset], normal: np.ndarray, where: object
) -> np.ndarray:
    """Voxel index -> LPS+ mm, if the sorted slices make an even grid."""
    first = headers[0]
    positions = np.array([dicom_slice.position(header) for header in headers])
    if len(headers) > 1:
        step = (positions[-1] - positions[0]) / (len(headers) - 1)
        _check_even(headers, positions, normal, where)
        _tell_thinned(headers, float(np.linalg.norm(step)), where)
    else:
        step = normal * _single_spacing(first)
    rows_mm, columns_mm = dicom_slice.numbers(first, "PixelSpacing", 2)
    along_row, along_column = dicom_slice.directions(first)
    affine = np.eye(4)
    affine[:3, 0] = along_row * columns_mm
    affine[:3, 1] = along_column * rows_mm
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    return affine


def _check_even(headers, positions, normal, where: object) -> None:
    """Refuses two slices in one place, a gap, and a slice off the line."""
    steps = np.diff(positions, axis=0)
    usual = np.median(steps, axis=0)
    nearest = int(np.argmin(steps @ normal))
    worst = int(np.argmax(np.linalg.norm(steps - usual, axis=1)))
    if steps[nearest] @ normal <= _OFF_GRID_MM:
        raise errors.refusal(
            where,
            f"{_name(headers[nearest])} and "
            f"{_name(headers[nearest + 1])} in the same place",
            "one slice in each place",
            "keep one time point, echo or reconstruction",
        )
    even = np.linspace(positions[0], positions[-1], len(positions))
    off = np.linalg.norm(positions - even, axis=1).max()
    if off > max(_OFF_GRID_MM, _OFF_GRID_SHARE * np.linalg.norm(usual)):
        raise errors.refusal(
            where,
            f"{_name(headers[worst])} and "
            f"{_name(headers[worst + 1])} "
            f"{np.linalg.norm(steps[worst]):.3f} mm apart, others "
            f"{np.linalg.norm(usual):.3f} mm",
            "slices in a straight line with equal distances",
            "find the slice that is missing or moved",
        )


def _tell_thinned(
    headers: list[pydicom.Dataset], step_mm: float, where: object
) -> None:
    """Warns of slices left out so evenly that the places do not show it."""
    thickness = float(headers[0].get("SliceThickness") or 0)
    if 0 < 1.9 * thickness < step_mm:
        warnings.warn(
            f"{where}: slices are {thickness:g} mm thick and lie "
            f"{step_mm:.4g} mm apart, as if some between them were left out; "
            "check that the series is whole.",
            stacklevel=6,
        )
    numbers = sorted({int(h.get("InstanceNumber") or 0) for h in headers})
    least = int(np.diff(numbers).min(initial=2**31))
    if len(numbers) == len(headers) and least > 1:
        warnings.warn(
            f"{where}: instance numbers {numbers[0]} to {numbers[-1]} rise by "
            f"{least} or more, as if slices between them were left out; check "
            "that the series is whole.",
            stacklevel=6,
        )


def _single_spacing(header: pydicom.Dataset) -> float:
    """What only the header can say of a lone slice."""
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        if header.get(name) and float(header.get(name)) > 0:
            return float(header.get(name))
    raise errors.refusal(
        dicom_slice.path_of(header),
        "one slice without SpacingBetweenSlices or SliceThickness",
        "its extent along the normal",
        "add the field, or the other slices",
    )


def _series_uid(path: pathlib.Path) -> str:
    name = "SeriesInstanceUID"
    return dicom_slice.read_header(path, [name])[name].value


def _name(header: pydicom.Dataset) -> str:
    return dicom_slice.path_of(header).name
