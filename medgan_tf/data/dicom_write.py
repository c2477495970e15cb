"""Writes a computed volume as a derived DICOM series that any viewer opens.

The series is new; patient, study, frame of reference and the place of each
slice are the source's, so that a viewer lays the two upon each other. Modules
are those of DICOM PS3.3 A.3 (CT), A.4 (MR) and A.21 (PET). No private field,
no device and, but for what belongs to the patient and the study, no free text
of the source is copied, and nothing is burned into the pixels.
"""

from __future__ import annotations

import copy
import datetime
import os
import pathlib
import re
import shutil
from collections.abc import Iterable

import numpy as np
import pydicom
from pydicom import config, uid, valuerep
from pydicom.sr.codedict import codes

import medgan_tf
from medgan_tf import errors
from medgan_tf.data import dicom, dicom_slice
from medgan_tf.data import volume as volumes

COMMENT = "Computed image for research. Not for diagnostic use."

_MAX_STORED = 32767  # int16

# What the source says of the patient, the study and the place. The standard
# lets the first be empty, so they are where the source has none.
_COPIED_OR_EMPTY = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime "
    "ReferringPhysicianName StudyID AccessionNumber AcquisitionDate "
    "AcquisitionTime PositionReferenceIndicator Laterality SliceThickness"
).split()
_COPIED_IF_THERE = (
    "IssuerOfPatientID PatientAge PatientSize PatientWeight "
    "PatientIdentityRemoved DeidentificationMethod "
    "DeidentificationMethodCodeSequence "
    "LongitudinalTemporalInformationModified StudyDescription SeriesDate "
    "SeriesTime TimezoneOffsetFromUTC BodyPartExamined SpacingBetweenSlices "
    "SliceLocation LossyImageCompression LossyImageCompressionRatio "
    "LossyImageCompressionMethod"
).split()

# Codes, in which a scanner or a person may yet write anything: other words than
# these are left out.
_CODES = {
    "PatientSex": "[MFO]",
    "Laterality": "[RL]",
    "PatientIdentityRemoved": "YES|NO",
    "TimezoneOffsetFromUTC": r"[+-]\d{4}",
    "BodyPartExamined": "[A-Z]+",
    "PositionReferenceIndicator": "[A-Z]+",
}

# What the output's class must say of how it was acquired: the source's word
# where it is of the same modality, else this; None is "empty", by the
# standard "unknown". RM is research mode.
_ACQUISITION = {
    "CT": {"KVP": None, "AcquisitionNumber": None},
    "MR": {
        "ScanningSequence": "RM",
        "SequenceVariant": "NONE",
        "ScanOptions": None,
        "MRAcquisitionType": None,
        "RepetitionTime": None,
        "EchoTime": None,
        "EchoTrainLength": None,
    },
    "PT": {
        "CorrectedImage": None,
        "DecayCorrection": "NONE",
        "CollimatorType": None,
        "CountsSource": "EMISSION",
        "FrameReferenceTime": 0,
        "ActualFrameDuration": None,
        "RadiopharmaceuticalInformationSequence": None,
        "PatientOrientationCodeSequence": None,
        "PatientGantryRelationshipCodeSequence": None,
    },
}

_FIXED = {
    "CT": {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"], "RescaleType": "HU"},
    "MR": {"ImageType": ["DERIVED", "SECONDARY", "OTHER"], "RescaleType": "US"},
    "PT": {
        "ImageType": ["DERIVED", "PRIMARY"],
        "SeriesType": ["STATIC", "IMAGE"],
        "Units": "GML",
        "SUVType": "BW",
    },
}


def write_derived(
    folder: pathlib.Path,
    volume: volumes.Volume,
    source: pathlib.Path | Iterable[pathlib.Path],
    *,
    modality: str,
    series_description: str,
    description: str,
) -> None:
    """Writes a volume as a series derived from another, whole or not at all.

    The source may be of another modality: an MR makes a synthetic CT. Then
    what the output's class says of its acquisition is left empty where the
    standard allows (CT: KVP, AcquisitionNumber; MR: times, options, type; PT:
    radiopharmaceutical, corrections, frame duration, gantry), and says
    "research mode" (MR) or "not decay corrected" (PT, where in SUV it has no
    bearing) where it does not.

    Args:
      folder: new, or empty.
      volume: on the source's grid; CT in HU, PT in SUVbw (g/mL), MR in any
        unit.
      source: the series that it was computed from: its folder, one of its
        files or all its files.
      modality: "CT", "MR" or "PT", of `volume`.
      series_description: at most 64 characters.
      description: how the image was made, at most 1024 characters.

    Raises:
      UsageError: a description or the modality is not allowed.
      DataError: the values are not finite or too large, the grid is not the
        source's, or the source is unusable.
      ResourceError: the folder is in use or cannot be written.
    """
    _check_words(modality, series_description, description)
    folder = pathlib.Path(os.path.abspath(folder))
    where = folder
    if isinstance(source, str | os.PathLike):
        where = source
        source = dicom.files_of(pathlib.Path(source))
    stack = dicom.read_stack(source, where)
    _check_volume(folder, volume, stack)
    _check_free(folder)
    # Beside the folder, because a rename is whole only within one file system.
    unfinished = folder.with_name(f".{os.getpid()}.{folder.name}")
    try:
        unfinished.mkdir()
        # Because a source that breaks a small rule, as of length, is no news.
        with dicom_slice.naming(where):
            series = _series(stack, modality, series_description, description)
            for k in range(len(stack.headers)):
                image = _image(stack, k, series, volume)
                image.save_as(
                    unfinished / f"{k + 1:04d}.dcm", enforce_file_format=True
                )
        os.replace(unfinished, folder)
    except OSError as error:
        raise errors.ResourceError(
            f"{folder}: cannot be written ({error.strerror}); check that its "
            "parent exists, is writable and has space."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_words(modality: str, series_description: str, description: str):
    if modality not in _FIXED:
        raise errors.UsageError(
            f"modality must be {', '.join(_FIXED)}, got {modality!r}; choose "
            "that of the computed image."
        )
    for name, kind, text in (
        ("series_description", "LO", series_description),
        ("description", "ST", description),
    ):
        try:
            valuerep.validate_value(kind, text, config.RAISE)
        except ValueError as error:
            raise errors.UsageError(
                f"{name} is not allowed in DICOM: {error}; shorten it."
            ) from error


def _check_volume(folder, volume: volumes.Volume, stack: dicom.Stack) -> None:
    grid = volumes.Volume(np.broadcast_to(0, stack.shape), stack.affine)
    if not volume.same_grid(grid):
        raise errors.refusal(
            folder,
            f"a volume of {volume.shape} voxels on another grid than the "
            f"source's {stack.shape}",
            "the same voxels in the same places",
            "bring the volume back to the source's grid first",
        )
    if not np.isfinite(volume.array).all():
        raise errors.refusal(
            folder, "values that are not finite", "numbers", "replace them"
        )
    if "FrameOfReferenceUID" not in stack.headers[0]:
        raise errors.refusal(
            folder,
            "a source without FrameOfReferenceUID",
            "the space that the new series is to share",
            "add the field to the source",
        )


def _check_free(folder: pathlib.Path) -> None:
    if os.path.lexists(folder) and not (
        folder.is_dir() and not any(folder.iterdir())
    ):
        raise errors.ResourceError(
            f"{folder} exists and is not empty; choose a new folder for the "
            "series."
        )


def _series(
    stack: dicom.Stack, modality: str, series_description: str, description: str
) -> pydicom.Dataset:
    """The fields that all slices share."""
    first = stack.headers[0]
    now = datetime.datetime.now()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S.%f")
    kinds = {name: kind for kind, name in dicom_slice.MODALITIES.items()}
    series = pydicom.Dataset()
    series.SpecificCharacterSet = "ISO_IR 192"  # UTF-8
    series.SOPClassUID = kinds[modality]
    series.Modality = modality
    series.StudyInstanceUID = first.StudyInstanceUID
    series.FrameOfReferenceUID = first.FrameOfReferenceUID
    series.SeriesInstanceUID = uid.generate_uid()
    series.SeriesNumber = 1000 + int(first.get("SeriesNumber") or 0)
    series.SeriesDescription = series_description
    series.Manufacturer = "medgan_tf"
    series.ManufacturerModelName = "medgan_tf"
    series.SoftwareVersions = medgan_tf.__version__
    if modality == "PT":
        # The source's, if it has them, come later.
        series.SeriesDate, series.SeriesTime = date, time
        series.NumberOfSlices = len(stack.headers)
    series.InstanceCreationDate = series.ContentDate = date
    series.InstanceCreationTime = series.ContentTime = time
    series.DerivationDescription = description
    series.ImageComments = COMMENT
    series.BurnedInAnnotation = "NO"
    series.Rows, series.Columns = first.Rows, first.Columns
    series.SamplesPerPixel = 1
    series.PhotometricInterpretation = "MONOCHROME2"
    series.BitsAllocated = series.BitsStored = 16
    series.HighBit = 15
    series.PixelRepresentation = 1
    series.PixelSpacing = _decimal(first.PixelSpacing)
    series.ImageOrientationPatient = _decimal(first.ImageOrientationPatient)
    for name, value in _FIXED[modality].items():
        setattr(series, name, value)
    return series


def _image(
    stack: dicom.Stack,
    k: int,
    series: pydicom.Dataset,
    volume: volumes.Volume,
) -> pydicom.Dataset:
    """Slice k, ready to be saved."""
    header = stack.headers[k]
    image = copy.deepcopy(series)
    for name in _COPIED_OR_EMPTY:
        _copy(image, header, name, None)
    for name in _COPIED_IF_THERE:
        if header.get(name):
            _copy(image, header, name, image.get(name))
    same = stack.modality == series.Modality
    for name, default in _ACQUISITION[series.Modality].items():
        _copy(image, header if same else {}, name, default)
    # What the standard asks for only in these cases.
    if image.get("DecayCorrection", "NONE") != "NONE":
        _copy(image, header, "DecayFactor", None)
    if "IR" in image.get("ScanningSequence", ""):
        _copy(image, header, "InversionTime", None)
    if series.Modality != "PT":  # Else PatientOrientationCodeSequence.
        _copy(image, header, "PatientPosition", None)
    image.SOPInstanceUID = uid.generate_uid()
    image.InstanceNumber = k + 1
    image.ImagePositionPatient = _decimal(header.ImagePositionPatient)
    image.SourceImageSequence = [_reference(header)]
    _set_pixels(image, k, volume.array)
    image.remove_private_tags()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return image


def _set_pixels(image: pydicom.Dataset, k: int, array: np.ndarray) -> None:
    """int16 with slope: of 1 in CT, of the slice in PET, of the volume in MR.

    Raises:
      DataError: HU that int16 cannot hold.
    """
    values = array[:, :, k].astype(np.float64)
    peak = np.abs(array if image.Modality == "MR" else values).max()
    if image.Modality == "CT":
        if peak > _MAX_STORED:
            raise errors.refusal(
                f"slice {k}",
                f"{peak:.0f} HU",
                f"at most {_MAX_STORED}",
                "check the unit",
            )
        slope = 1.0
    else:
        # Rounded to what the header holds, and up, so that the peak fits.
        slope = float(f"{peak / _MAX_STORED * (1 + 1e-8):.9e}") or 1.0
    image.RescaleSlope = f"{slope:.9e}" if slope != 1 else "1"
    image.RescaleIntercept = "0"
    if image.Modality == "PT":
        image.ImageIndex = k + 1
    stored = np.rint(values / slope).astype("<i2")
    image.PixelData = stored.T.tobytes()


def _reference(header: pydicom.Dataset) -> pydicom.Dataset:
    """Which image of the source this one was computed from."""
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    code = pydicom.Dataset()
    code.CodeValue = purpose.value
    code.CodingSchemeDesignator = purpose.scheme_designator
    code.CodeMeaning = purpose.meaning
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [code]
    item.SpatialLocationsPreserved = "YES"
    return item


def _copy(image: pydicom.Dataset, header, name: str, default) -> None:
    """The source's field if it has a valid one, else the default."""
    value = header.get(name)
    kind = pydicom.datadict.dictionary_VR(name)
    if (
        value is None
        or value == ""
        or not _is_valid(kind, value)
        or not re.fullmatch(_CODES.get(name, ".*"), str(value), re.DOTALL)
    ):
        value = default
    if value is None and kind == "SQ":
        value = []
    # Because a name remembers the character set that it was read in.
    setattr(image, name, str(value) if value and kind == "PN" else value)


def _is_valid(kind: str, value) -> bool:
    """Whether the standard allows a value that some file holds."""
    if kind == "SQ":
        return True
    try:
        several = isinstance(value, list | pydicom.multival.MultiValue)
        for item in value if several else [value]:
            valuerep.validate_value(kind, str(item), config.RAISE)
    except ValueError:
        return False
    return True


def _decimal(values: Iterable) -> list:
    """Decimal strings as they stand, if they keep to 16 characters."""
    return [
        value
        if len(str(value)) <= 16
        else valuerep.DSfloat(float(value), auto_format=True)
        for value in values
    ]
