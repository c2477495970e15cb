"""One DICOM file: whether it is a plain slice, where it lies, its values.

A plain slice is one CT, MR or PET image of grey values. Not read: free text
and private fields. Philips' private MR scale is not applied: MR has no unit,
only its rescaled scanner values.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import warnings
from collections.abc import Iterator

import numpy as np
import pydicom
from pydicom import pixels, uid

from medgan_tf import errors

# Because pydicom tells every header value that breaks a rule, of every file,
# twice; what matters is checked here.
logging.getLogger("pydicom").setLevel(logging.ERROR)

# Kind of image (SOP class) -> its modality. All others are refused: several
# frames in a file, structures, segmentations, secondary captures.
MODALITIES = {
    uid.CTImageStorage: "CT",
    uid.MRImageStorage: "MR",
    uid.PositronEmissionTomographyImageStorage: "PT",
}

_GREY = ("MONOCHROME1", "MONOCHROME2")
_AIR_HU = -1024


def is_dicom(path: pathlib.Path) -> bool:
    """Whether a file is DICOM by its content; a DICOMDIR is an index, not one.

    Raises:
      DataError: the file is called .dcm but is not DICOM.
    """
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        # Part 10 of the standard: 128 bytes of anything, then this word.
        known = file.read(132)[128:] == b"DICM"
    if not known and path.suffix.lower() == ".dcm":
        raise errors.refusal(
            path,
            "no DICOM preamble",
            "a DICOM file",
            "copy the file again, or rename it if it is none",
        )
    if not known:
        return False
    with naming(path):
        meta = pydicom.filereader.read_file_meta_info(path)
        kind = meta.get("MediaStorageSOPClassUID")
    return kind != uid.MediaStorageDirectoryStorage


def read_header(
    path: pathlib.Path, names: list[str] | None = None
) -> pydicom.Dataset:
    """All of a file, or the named fields, but not its pixels.

    Raises:
      DataError: it is damaged or deflated, or belongs to no series.
    """
    with naming(path):
        meta = pydicom.filereader.read_file_meta_info(path)
        syntax = meta.TransferSyntaxUID
        # Because its header would have to be inflated, to any size, in memory.
        if syntax.is_deflated:
            raise _undecodable(path, syntax)
        header = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=names
        )
    if "SeriesInstanceUID" not in header:
        raise errors.refusal(
            path, "no SeriesInstanceUID", "a whole header", "export it again"
        )
    return header


def check_plain(header: pydicom.Dataset) -> None:
    """Refuses all but one slice of grey values with a place in space.

    Raises:
      DataError: what it is instead, or the field that it lacks.
    """

    def refuse(found: str, expected: str = "one slice of CT, MR or PET"):
        raise errors.refusal(
            path_of(header),
            brief(found),
            expected,
            "move it out of the series",
        )

    kind = uid.UID(header.get("SOPClassUID", ""))
    modality = MODALITIES.get(kind)
    if modality is None:
        refuse(kind.name or "no SOPClassUID")
    if header.get("Modality") != modality:
        refuse(f"Modality {header.get('Modality')}", f"{modality}, its class")
    if "LOCALIZER" in (header.get("ImageType") or []):
        refuse("a LOCALIZER")
    if int(header.get("NumberOfFrames") or 1) != 1:
        refuse(f"{header.NumberOfFrames} frames")
    if header.get("SamplesPerPixel") != 1:
        refuse(f"SamplesPerPixel {header.get('SamplesPerPixel')}", "1, grey")
    if header.get("PhotometricInterpretation") not in _GREY:
        refuse(
            f"colours, {header.get('PhotometricInterpretation')}",
            " or ".join(_GREY),
        )
    for name, count in {
        "Rows": 1,
        "Columns": 1,
        "PixelSpacing": 2,
        "BitsAllocated": 1,
        "BitsStored": 1,
    }.items():
        if not (numbers(header, name, count) > 0).all():
            refuse(f"{name} {header.get(name)}", "above 0")
    if header.get("HighBit") != header.BitsStored - 1:
        refuse(f"HighBit {header.get('HighBit')}", "BitsStored less 1")
    if header.get("PixelRepresentation") not in (0, 1):
        refuse("no PixelRepresentation", "0 or 1")
    numbers(header, "ImagePositionPatient", 3)
    axes = directions(header)
    if np.abs(axes @ axes.T - np.eye(2)).max() > 1e-3:
        refuse(
            f"ImageOrientationPatient {header.ImageOrientationPatient}",
            "two perpendicular directions of length 1",
        )
    if "ModalityLUTSequence" in header:
        refuse("a ModalityLUTSequence", "RescaleSlope and RescaleIntercept")
    if _rescale(header)[0] == 0:
        refuse("RescaleSlope 0", "another number")
    if modality == "CT" and header.get("RescaleType") not in (None, "", "HU"):
        refuse(f"RescaleType {header.RescaleType}", "HU")
    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_compressed and not _decodable(syntax):
        raise _undecodable(path_of(header), syntax)


def read_values(path: pathlib.Path, factor: float) -> np.ndarray:
    """Rescaled values of one slice times `factor`, float64, [rows, columns].

    Raises:
      DataError: it is damaged or has no pixels.
    """
    with naming(path):
        image = pydicom.dcmread(path)
        if "PixelData" not in image:
            raise errors.refusal(
                path, "no PixelData", "grey values", "export it again"
            )
        stored = image.pixel_array
        # Because bits above BitsStored may hold anything, such as overlays.
        unused = image.BitsAllocated - image.BitsStored
        stored = np.right_shift(np.left_shift(stored, unused), unused)
        slope, intercept = _rescale(image)
        values = stored.astype(np.float64) * slope + intercept
        if image.Modality == "CT":
            padding = _padding(image, stored)
            values[padding & (values < _AIR_HU)] = _AIR_HU
        return values * factor


def directions(header: pydicom.Dataset) -> np.ndarray:
    """Unit vectors in LPS: of growing column number, of growing row number."""
    return numbers(header, "ImageOrientationPatient", 6).reshape(2, 3)


def position(header: pydicom.Dataset) -> np.ndarray:
    """Centre of the first pixel, LPS mm."""
    return numbers(header, "ImagePositionPatient", 3)


def numbers(header: pydicom.Dataset, name: str, count: int) -> np.ndarray:
    """Values of a field, shape (count,)."""
    value = header.get(name)
    value = None if value == "" else value
    numbers = np.atleast_1d(np.array(value if value is not None else []))
    if numbers.shape != (count,):
        found = f"no {name}" if numbers.size == 0 else f"{name} {value}"
    elif np.isfinite(numbers := numbers.astype(np.float64)).all():
        return numbers
    else:
        found = f"{name} {value}"
    raise errors.refusal(
        path_of(header),
        brief(found),
        f"{count} finite number{'s' * (count > 1)} as {name}",
        "correct the header or export it again",
    )


def brief(text: object) -> str:
    """Short and on one line, because a damaged field may be all of a file."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    return line if len(line) <= 120 else f"{line[:120]} ..."


def path_of(header: pydicom.Dataset) -> pathlib.Path:
    return pathlib.Path(header.filename)


@contextlib.contextmanager
def naming(path: object) -> Iterator[None]:
    """Names the file in any error, and keeps pydicom's remarks to itself."""
    with warnings.catch_warnings():
        # Because older exports break small rules, of the length of a text.
        warnings.filterwarnings("ignore", module="pydicom")
        try:
            yield
        except errors.MedganError:
            raise
        # Because in a damaged file pydicom trips over anything, and even
        # raises an OSError of its own; one by the system has a number.
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason = str(error).strip() or type(error).__name__
            raise errors.refusal(
                path,
                f"a damaged DICOM file ({brief(reason).rstrip('.')})",
                "a whole one",
                "copy or export it again",
            ) from error


def _padding(image: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    """Where a CT says that there is no image."""
    limits = [
        image.get(name)
        for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")
    ]
    # Because some write a negative value as an unsigned one, or the reverse.
    limits = [
        np.int64(limit).astype(stored.dtype)
        for limit in limits
        if limit is not None
    ]
    if not limits:
        return np.zeros(stored.shape, bool)
    return (stored >= min(limits)) & (stored <= max(limits))


def _rescale(header: pydicom.Dataset) -> tuple[float, float]:
    """Slope and intercept; only MR may be without."""
    if header.Modality == "MR" and "RescaleSlope" not in header:
        return 1.0, 0.0
    slope = float(numbers(header, "RescaleSlope", 1)[0])
    return slope, float(numbers(header, "RescaleIntercept", 1)[0])


def _decodable(syntax: uid.UID) -> bool:
    try:
        return pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _undecodable(path: pathlib.Path, syntax: uid.UID) -> errors.DataError:
    return errors.refusal(
        path,
        f"transfer syntax {syntax.name} that cannot be decoded here",
        "one without compression",
        "export it as Explicit VR Little Endian",
    )
