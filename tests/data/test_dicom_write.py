"""A derived series: read back by us and by SimpleITK, and its fields."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import uid

from medgan_tf import errors
from medgan_tf.data import dicom, dicom_slice, dicom_write
from medgan_tf.data import volume as volumes

CLASSES = {name: kind for kind, name in dicom_slice.MODALITIES.items()}
TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
ORIENTATIONS = {
    "axial": np.eye(3)[:2],
    "flipped": np.array([[-1.0, 0, 0], [0, 1, 0]]),
    "sagittal": np.array([[0.0, 1, 0], [0, 0, -1]]),
    "oblique": TURN[:2],
}
SHAPE = (6, 4, 5)  # columns, rows, slices


def make_source(folder, modality="MR", orientation="oblique", **fields):
    """A series with private fields and a free text, in reverse order."""
    folder.mkdir()
    rows = ORIENTATIONS[orientation]
    step = -1.3 * np.cross(*rows)
    study, series, frame = (uid.generate_uid() for _ in range(3))
    for k in range(SHAPE[2]):
        image = pydicom.Dataset()
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        image.SpecificCharacterSet = "ISO_IR 100"
        image.SOPClassUID = CLASSES[modality]
        image.SOPInstanceUID = uid.generate_uid()
        image.Modality = modality
        image.PatientName, image.PatientID = "Müller^Änne", "P1"
        image.PatientBirthDate, image.PatientSex = "19700101", "F"
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.FrameOfReferenceUID = frame
        image.StudyDate, image.StudyTime = "20260301", "101500"
        image.StudyID, image.AccessionNumber = "S1", "A1"
        image.SeriesNumber = 7
        image.PatientPosition = "HFS"
        image.Manufacturer = "Scanner & Co."
        image.ImageComments = "private talk"
        image.InstitutionName = "A hospital"
        image.private_block(9, "SCANNER", create=True).add_new(1, "LO", "x")
        place = np.array([-31.7, 12.25, 88]) + k * step
        image.ImagePositionPatient = [f"{x:.12f}"[:16] for x in place]
        image.ImageOrientationPatient = [f"{x:.12f}"[:16] for x in rows.flat]
        image.PixelSpacing = ["0.9", "0.7"]
        image.SliceThickness = "1.3"
        image.Rows, image.Columns = SHAPE[1], SHAPE[0]
        image.SamplesPerPixel = 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 1
        if modality != "MR":
            image.RescaleSlope, image.RescaleIntercept = 1, 0
        if modality == "PT":
            image.Units = "GML"
        image.PixelData = np.full(SHAPE[:2], k, np.int16).tobytes()
        for name, value in fields.items():
            setattr(image, name, value)
        image.save_as(folder / f"{(k * 2) % 5}", enforce_file_format=True)
    return folder


def make_volume(source, modality):
    """Values of the modality, a very different range in each slice."""
    scale = {"CT": [1000] * 5, "PT": [20, 1, 0.1, 0, 3], "MR": [7] * 5}
    values = np.random.default_rng(1).uniform(-1, 1, SHAPE)
    values = values * np.array(scale[modality])
    if modality == "PT":
        values = np.abs(values)
    affine = dicom.read_series(source).affine
    return volumes.Volume(values.astype(np.float32), affine)


def write(folder, volume, source, modality, **options):
    options = {
        "series_description": "computed",
        "description": "By a network.",
        **options,
    }
    dicom_write.write_derived(
        folder, volume, source, modality=modality, **options
    )
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("output", ["CT", "MR", "PT"])
@pytest.mark.parametrize("source", ["CT", "MR", "PT"])
def test_what_is_written_is_read_again(tmp_path, source, output, orientation):
    folder = make_source(tmp_path / "source", source, orientation)
    volume = make_volume(folder, output)
    images = write(tmp_path / "out", volume, folder, output)
    found = dicom.read_series(tmp_path / "out")
    np.testing.assert_array_equal(found.affine, volume.affine)
    # Half a step of the slope, and the last bit of float32.
    steps = np.array([float(image.RescaleSlope) for image in images])
    error = np.abs(found.array - volume.array)
    assert (error <= steps / 2 + 1e-6 * np.abs(volume.array)).all()
    peak = np.abs(volume.array).max(axis=(0, 1))
    if output == "PT":  # A step is as fine as the slice allows.
        np.testing.assert_allclose(
            steps[peak > 0], peak[peak > 0] / 32767, rtol=1e-7
        )
        assert steps[3] == 1  # An empty slice has no peak.
    elif output == "MR":
        np.testing.assert_allclose(steps, peak.max() / 32767, rtol=1e-7)
    else:
        np.testing.assert_array_equal(steps, 1)


@pytest.mark.parametrize("output", ["CT", "MR", "PT"])
def test_simpleitk_reads_the_same_values_in_the_same_place(tmp_path, output):
    folder = make_source(tmp_path / "source", "MR")
    volume = make_volume(folder, output)
    write(tmp_path / "out", volume, folder, output)
    images = []
    for path in (folder, tmp_path / "out"):
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
        images.append(reader.Execute())
    source, found = images
    assert found.GetOrigin() == source.GetOrigin()
    assert found.GetSpacing() == source.GetSpacing()
    assert found.GetDirection() == source.GetDirection()
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(found).T,
        dicom.read_series(tmp_path / "out").array,
        rtol=1e-6,
    )


def test_patient_study_and_space_are_the_source_s_and_the_series_is_new(
    tmp_path,
):
    folder = make_source(tmp_path / "source", "MR")
    source = dicom.read_stack(dicom.files_of(folder), folder).headers
    images = write(tmp_path / "out", make_volume(folder, "CT"), folder, "CT")
    for theirs, ours in zip(source, images, strict=True):
        for name in (
            "PatientName PatientID PatientBirthDate PatientSex "
            "StudyInstanceUID StudyDate StudyTime StudyID AccessionNumber "
            "FrameOfReferenceUID PatientPosition PixelSpacing "
            "ImagePositionPatient ImageOrientationPatient SliceThickness"
        ).split():
            assert ours[name].value == theirs[name].value
        (reference,) = ours.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == theirs.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == uid.MRImageStorage
        assert ours.SOPClassUID == uid.CTImageStorage
        assert ours.SeriesInstanceUID != theirs.SeriesInstanceUID
        assert ours.SOPInstanceUID != theirs.SOPInstanceUID
        assert ours.file_meta.MediaStorageSOPInstanceUID == ours.SOPInstanceUID
    assert len({image.SOPInstanceUID for image in images}) == 5
    assert len({image.SeriesInstanceUID for image in images}) == 1
    assert [image.InstanceNumber for image in images] == [1, 2, 3, 4, 5]


def test_it_says_what_it_is_and_tells_nothing_else(tmp_path):
    folder = make_source(tmp_path / "source", "MR")
    for image in write(
        tmp_path / "out", make_volume(folder, "CT"), folder, "CT"
    ):
        assert image.Modality == "CT"
        assert image.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert image.RescaleType == "HU"
        assert image.SeriesDescription == "computed"
        assert image.DerivationDescription == "By a network."
        assert "Not for diagnostic use" in image.ImageComments
        assert image.Manufacturer == "medgan_tf"
        text = str(image)
        for secret in ("private talk", "A hospital", "Scanner", "SCANNER"):
            assert secret not in text
        assert not any(element.tag.is_private for element in image)


# Type 1 must hold a value, type 2 must be there: DICOM PS3.3 C.8.2.1 (CT),
# C.8.3.1 (MR), C.8.9.1 to C.8.9.4 (PET) and the modules that all share.
SHARED_1 = (
    "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality "
    "FrameOfReferenceUID PixelSpacing ImageOrientationPatient "
    "ImagePositionPatient SamplesPerPixel PhotometricInterpretation Rows "
    "Columns BitsAllocated BitsStored HighBit PixelRepresentation PixelData "
    "ImageType"
)
SHARED_2 = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime "
    "ReferringPhysicianName StudyID AccessionNumber SeriesNumber Manufacturer "
    "PositionReferenceIndicator InstanceNumber SliceThickness Laterality"
)
TYPE_1 = {
    "CT": "RescaleIntercept RescaleSlope RescaleType",
    "MR": "ScanningSequence SequenceVariant",
    "PT": "SeriesDate SeriesTime Units CountsSource SeriesType NumberOfSlices "
    "DecayCorrection RescaleIntercept RescaleSlope FrameReferenceTime "
    "ImageIndex",
}
TYPE_2 = {
    "CT": "KVP AcquisitionNumber PatientPosition",
    "MR": "ScanOptions MRAcquisitionType RepetitionTime EchoTime "
    "EchoTrainLength PatientPosition",
    "PT": "CorrectedImage CollimatorType AcquisitionDate AcquisitionTime "
    "ActualFrameDuration RadiopharmaceuticalInformationSequence "
    "PatientOrientationCodeSequence PatientGantryRelationshipCodeSequence",
}


@pytest.mark.parametrize("output", ["CT", "MR", "PT"])
@pytest.mark.parametrize("source", ["CT", "MR", "PT"])
def test_all_that_the_standard_demands_is_there(tmp_path, source, output):
    folder = make_source(tmp_path / "source", source)
    volume = make_volume(folder, output)
    for image in write(tmp_path / "out", volume, folder, output):
        for name in f"{SHARED_1} {TYPE_1[output]}".split():
            assert image.get(name) not in (None, "", []), name
        for name in f"{SHARED_2} {TYPE_2[output]}".split():
            assert name in image, name
        if output == "PT":
            assert (image.Units, image.SUVType) == ("GML", "BW")
            assert image.NumberOfSlices == 5
            assert image.RescaleIntercept == 0


def test_a_pet_from_a_pet_keeps_what_was_injected(tmp_path):
    drug = pydicom.Dataset()
    drug.RadionuclideTotalDose = "4E8"
    drug.RadionuclideCodeSequence = []
    drug.private_block(9, "SCANNER", create=True).add_new(1, "LO", "x")
    folder = make_source(
        tmp_path / "source",
        "PT",
        RadiopharmaceuticalInformationSequence=[drug],
        DecayCorrection="START",
        DecayFactor="1.1",
        CorrectedImage=["ATTN", "DECY"],
        SeriesDate="20260301",
        SeriesTime="110000",
    )
    for image in write(
        tmp_path / "out", make_volume(folder, "PT"), folder, "PT"
    ):
        (found,) = image.RadiopharmaceuticalInformationSequence
        assert found.RadionuclideTotalDose == 4e8
        assert (0x0009, 0x1001) not in found
        assert image.DecayFactor == 1.1
        assert image.CorrectedImage == ["ATTN", "DECY"]
        assert (image.SeriesDate, image.SeriesTime) == ("20260301", "110000")


def test_what_breaks_a_rule_in_the_source_is_not_handed_on(tmp_path):
    folder = make_source(tmp_path / "source")
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        with pytest.warns(UserWarning, match="exceeds the maximum"):
            image.StudyID = "longer than 16 characters"
        image.save_as(file)
    images = write(tmp_path / "out", make_volume(folder, "MR"), folder, "MR")
    assert {image.StudyID for image in images} == {""}
    assert {image.AccessionNumber for image in images} == {"A1"}


def test_one_series_among_several_can_be_the_source(tmp_path):
    folder = make_source(tmp_path / "source")
    files = list(folder.iterdir())
    images = write(tmp_path / "out", make_volume(folder, "CT"), files, "CT")
    again = write(tmp_path / "again", make_volume(folder, "CT"), files[0], "CT")
    assert len(images) == len(again) == 5


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda a, m: (a[:, :, 1:], m), "another grid"),
        (lambda a, m: (a, m @ np.diag([1, 1, -1, 1])), "another grid"),
        (lambda a, m: (a * np.nan, m), "not finite"),
        (lambda a, m: (a * 100, m), "HU"),
    ],
)
def test_a_volume_that_does_not_fit_leaves_nothing_behind(
    tmp_path, change, found
):
    folder = make_source(tmp_path / "source")
    volume = make_volume(folder, "CT")
    wrong = volumes.Volume(*change(volume.array, volume.affine))
    with pytest.raises(errors.DataError, match=found):
        write(tmp_path / "out", wrong, folder, "CT")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_source_without_a_frame_of_reference_is_refused(tmp_path):
    folder = make_source(tmp_path / "source")
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        del image.FrameOfReferenceUID
        image.save_as(file)
    with pytest.raises(errors.DataError, match="FrameOfReferenceUID"):
        write(tmp_path / "out", make_volume(folder, "CT"), folder, "CT")


def test_a_folder_in_use_is_left_as_it_is(tmp_path):
    folder = make_source(tmp_path / "source")
    volume = make_volume(folder, "CT")
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(errors.ResourceError, match="not empty"):
        write(folder, volume, folder, "CT")
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    with pytest.raises(errors.ResourceError, match="cannot be written"):
        write(tmp_path / "absent" / "out", volume, folder, "CT")
    (tmp_path / "empty").mkdir()
    assert len(write(tmp_path / "empty", volume, folder, "CT")) == 5


@pytest.mark.parametrize(
    ("modality", "options", "found"),
    [
        ("PET", {}, "modality must be"),
        ("CT", {"series_description": "x" * 65}, "series_description"),
        ("CT", {"description": "x" * 1025}, "description"),
    ],
)
def test_words_that_dicom_does_not_allow_are_wrong_usage(
    tmp_path, modality, options, found
):
    folder = make_source(tmp_path / "source")
    volume = make_volume(folder, "CT")
    with pytest.raises(errors.UsageError, match=found):
        write(tmp_path / "out", volume, folder, modality, **options)


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "modality"), [("CT", "CT"), ("MR_T1", "MR"), ("PET", "PT")]
)
def test_a_real_series_goes_out_and_comes_back(
    shared_data, tmp_path, name, modality
):
    source = shared_data / "sarcoma_dicom" / "STS_025" / name / "image"
    volume = dicom.read_series(source)
    images = write(tmp_path / "out", volume, source, modality)
    found = dicom.read_series(tmp_path / "out")
    np.testing.assert_array_equal(found.affine, volume.affine)
    steps = np.array([float(image.RescaleSlope) for image in images])
    error = np.abs(found.array - volume.array)
    assert (error <= steps / 2 + 1e-6 * np.abs(volume.array)).all()
