"""DICOM series against SimpleITK's reader, and what must be refused."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import uid

from medgan_tf import errors
from medgan_tf.data import dicom, dicom_slice
from medgan_tf.data import volume as volumes

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

# Of the image's rows and columns, LPS: all axes, some turned about, some on
# end, one in no plane of the body.
TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
ORIENTATIONS = {
    "axial": [1, 0, 0, 0, 1, 0],
    "flipped": [-1, 0, 0, 0, 1, 0],
    "coronal": [1, 0, 0, 0, 0, -1],
    "sagittal": [0, 1, 0, 0, 0, -1],
    "permuted": [0, 0, 1, 1, 0, 0],
    "oblique": TURN[:2].ravel().tolist(),
}
CLASSES = {modality: kind for kind, modality in dicom_slice.MODALITIES.items()}


def make_slices(
    modality="CT", orientation="oblique", step=None, num_slices=5, **fields
):
    """Slices of 4 rows and 6 columns, 0.7 mm between columns, 0.9 rows, 2.5."""
    rng = np.random.default_rng(0)
    along_row, along_column = np.reshape(ORIENTATIONS[orientation], (2, 3))
    if step is None:
        step = 2.5 * np.cross(along_row, along_column)
    study, series, frame = (pydicom.uid.generate_uid() for _ in range(3))
    slices = []
    for k in range(num_slices):
        image = pydicom.Dataset()
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        image.SOPClassUID = CLASSES[modality]
        image.SOPInstanceUID = pydicom.uid.generate_uid()
        image.Modality = modality
        image.PatientID = "P1"
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.FrameOfReferenceUID = frame
        image.SeriesDescription = "test"
        # A number that contradicts the place.
        image.InstanceNumber = (k * 3) % num_slices + 1
        image.ImagePositionPatient = decimals([-31.7, 12.25, 88] + k * step)
        image.ImageOrientationPatient = decimals(ORIENTATIONS[orientation])
        image.PixelSpacing = [0.9, 0.7]
        image.SliceThickness = 5
        image.Rows, image.Columns = 4, 6
        image.SamplesPerPixel = 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit = 15
        image.PixelRepresentation = 1
        if modality != "MR":
            image.RescaleSlope = 0.25 * (k + 1) if modality == "PT" else 2
            image.RescaleIntercept = 0 if modality == "PT" else -1024
        if modality == "PT":
            image.Units = "GML"
        stored = rng.integers(-500, 2000, size=(4, 6), dtype=np.int16)
        image.PixelData = stored.tobytes()
        for name, value in fields.items():
            setattr(image, name, value)
        slices.append(image)
    return slices


def decimals(numbers):
    return [f"{number:.12f}"[:16] for number in np.asarray(numbers, float)]


def save(folder, slices, seed=5):
    """Names in an order that has nothing to do with the place."""
    folder.mkdir(exist_ok=True)
    names = np.random.default_rng(seed).permutation(len(slices))
    for name, image in zip(names, slices, strict=True):
        image.save_as(folder / f"IM{name:03}", enforce_file_format=True)
    return folder


def read_by_itk(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    directions = np.reshape(image.GetDirection(), (3, 3))
    affine[:3, :3] = directions * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, TO_RAS @ affine


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_values_and_place_are_those_of_simpleitk(
    tmp_path, modality, orientation
):
    folder = save(tmp_path / "s", make_slices(modality, orientation))
    found = dicom.read_series(folder)
    array, affine = read_by_itk(folder)
    assert found.array.dtype == np.float32
    np.testing.assert_allclose(found.array, array, rtol=1e-6)
    # ITK makes the axes perpendicular to its own precision.
    np.testing.assert_allclose(found.affine, affine, atol=1e-9)


def test_affine_is_the_header_to_the_last_bit(tmp_path):
    slices = make_slices("MR", "axial", np.array([0, 0, 1.1]), 4)
    found = dicom.read_series(save(tmp_path / "s", slices)).affine
    first, last = (float(s.ImagePositionPatient[2]) for s in slices[::3])
    expected = np.diag([-0.7, -0.9, (last - first) / 3, 1])
    expected[:3, 3] = [31.7, -12.25, 88]
    np.testing.assert_array_equal(found, expected)


def test_slices_are_sorted_along_the_normal_though_stored_in_reverse(tmp_path):
    up = make_slices("MR", "axial", np.array([0, 0, 2.5]))
    down = make_slices("MR", "axial", np.array([0, 0, -2.5]))
    found = dicom.read_series(save(tmp_path / "down", down))
    expected = dicom.read_series(save(tmp_path / "up", up))
    np.testing.assert_array_equal(found.array, expected.array[:, :, ::-1])
    assert found.affine[2, 2] == 2.5
    assert found.affine[2, 3] == 78


def test_a_tilted_gantry_shears_the_grid(tmp_path):
    tilted = np.array([0, 0.5, 2.5])
    folder = save(tmp_path / "s", make_slices("CT", "axial", tilted))
    affine = dicom.read_series(folder).affine
    np.testing.assert_allclose(affine[:3, 2], [0, -0.5, 2.5], atol=1e-12)


def test_each_slice_of_a_pet_has_its_own_slope_and_the_series_one_factor(
    tmp_path,
):
    slices = make_slices("PT", "axial", DecayCorrection="ADMIN", Units="BQML")
    for image in slices:
        image.PatientWeight = 80
        image.CorrectedImage = ["ATTN", "DECY"]
        drug = pydicom.Dataset()
        drug.RadionuclideTotalDose = 4e8
        image.RadiopharmaceuticalInformationSequence = [drug]
    found = dicom.read_series(save(tmp_path / "s", slices)).array
    for k, image in enumerate(slices):
        expected = image.pixel_array.T * (0.25 * (k + 1)) * (80e3 / 4e8)
        np.testing.assert_allclose(found[:, :, k], expected, rtol=1e-7)


def test_padding_of_a_ct_below_air_becomes_air_and_nothing_else_does(tmp_path):
    # Stored as unsigned, as some do, though the pixels are signed.
    slices = make_slices("CT", num_slices=1)
    stored = np.array([-2000, -1990, 0, 500, -1999, 7] * 4, np.int16)
    slices[0].PixelData = stored.tobytes()
    slices[0].RescaleSlope = 1
    slices[0].add_new("PixelPaddingValue", "US", 2**16 - 2000)
    found = dicom.read_series(save(tmp_path / "s", slices)).array
    np.testing.assert_array_equal(
        found[:, 0, 0], [-1024, -3014, -1024, -524, -3023, -1017]
    )
    slices[0].add_new("PixelPaddingRangeLimit", "US", 2**16 - 1990)
    found = dicom.read_series(save(tmp_path / "s", slices)).array
    assert found.min() == -1024


def test_bits_above_those_stored_are_not_part_of_the_value(tmp_path):
    slices = make_slices("MR", num_slices=1, BitsStored=12, HighBit=11)
    # The 12 bits of -1 and of 5, with an overlay's bit above.
    slices[0].PixelData = np.array([0x1FFF, 0x1005] * 12, "<u2").tobytes()
    found = dicom.read_series(save(tmp_path / "s", slices)).array
    np.testing.assert_array_equal(found[:2, 0, 0], [-1, 5])


@pytest.mark.parametrize(
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless],
)
def test_other_transfer_syntaxes_give_the_same_volume(tmp_path, syntax):
    slices = make_slices("CT")
    expected = dicom.read_series(save(tmp_path / "plain", slices)).array
    folder = tmp_path / "other"
    folder.mkdir()
    for k, image in enumerate(slices):
        if syntax == uid.RLELossless:
            image.compress(syntax)
        elif syntax == uid.ExplicitVRBigEndian:
            image.PixelData = image.pixel_array.astype(">i2").tobytes()
        image.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(folder / str(k), image, enforce_file_format=True)
    np.testing.assert_array_equal(dicom.read_series(folder).array, expected)


def test_what_is_not_dicom_is_passed_over_and_what_should_be_is_named(tmp_path):
    folder = save(tmp_path / "s", make_slices())
    (folder / "LICENSE").write_text("CC BY")
    (folder / ".DS_Store").write_bytes(b"\0" * 300)
    (folder / "folder").mkdir()
    index = pydicom.Dataset()
    index.file_meta = pydicom.dataset.FileMetaDataset()
    index.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    index.SOPClassUID = uid.MediaStorageDirectoryStorage
    index.SOPInstanceUID = pydicom.uid.generate_uid()
    index.save_as(folder / "DICOMDIR", enforce_file_format=True)
    assert dicom.read_series(folder).shape == (6, 4, 5)
    (folder / "broken.dcm").write_text("not DICOM")
    with pytest.raises(errors.DataError, match="broken.dcm.*preamble"):
        dicom.read_series(folder)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_file_cut_short_is_named(tmp_path, share):
    folder = save(tmp_path / "s", make_slices())
    contents = (folder / "IM002").read_bytes()
    (folder / "IM002").write_bytes(contents[: int(share * len(contents))])
    with pytest.raises(errors.DataError, match="IM002"):
        dicom.read_series(folder)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "LICENSE").write_text("CC BY")
    with pytest.raises(errors.DataError, match="no DICOM image"):
        dicom.read_series(tmp_path)


def test_one_file_stands_for_its_series(tmp_path):
    one = make_slices("CT", num_slices=3)
    other = make_slices("MR", num_slices=4)
    folder = save(tmp_path / "s", one + other)
    with pytest.raises(errors.DataError, match="IM.* and IM.* differ"):
        dicom.read_series(folder)
    shapes = {dicom.read_series(f).shape for f in folder.iterdir()}
    assert shapes == {(6, 4, 3), (6, 4, 4)}


def test_a_tree_is_listed_by_series(tmp_path):
    one = make_slices("CT", num_slices=3)
    other = make_slices(
        "MR",
        num_slices=4,
        PatientID="P0",
        FrameOfReferenceUID=one[0].FrameOfReferenceUID,
    )
    save(tmp_path / "a", one[:1] + other)
    save(tmp_path / "a" / "b", one[1:])
    found = dicom.list_series(tmp_path)
    assert [(s.patient, s.modality, s.num_files) for s in found] == [
        ("P0", "MR", 4),
        ("P1", "CT", 3),
    ]
    assert found[0].frame_of_reference == found[1].frame_of_reference
    assert found[1].series_uid == one[0].SeriesInstanceUID
    assert found[1].study_uid == one[0].StudyInstanceUID
    assert found[1].description == "test"
    assert dicom.read_files(found[1].files, "b").shape == (6, 4, 3)


ELSEWHERE = [0.6, 0.8, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PatientID", "P2"),
        ("StudyInstanceUID", "1.2.3"),
        ("SeriesInstanceUID", "1.2.3"),
        ("FrameOfReferenceUID", "1.2.3"),
        ("PixelSpacing", [0.9, 0.701]),
        ("ImageOrientationPatient", ELSEWHERE),
        ("Rows", 3),
        ("Columns", 5),
    ],
)
def test_slices_that_do_not_belong_together_are_named(tmp_path, name, value):
    slices = make_slices()
    setattr(slices[2], name, value)
    folder = save(tmp_path / "s", slices)
    with pytest.raises(
        errors.DataError, match=f"IM0.* and IM0.* differ in {name}"
    ):
        dicom.read_series(folder)


def saved_name(folder, image):
    for file in folder.iterdir():
        if pydicom.dcmread(file).SOPInstanceUID == image.SOPInstanceUID:
            return file.name


def test_a_gap_is_refused_and_its_two_sides_are_named(tmp_path):
    slices = make_slices(num_slices=7)
    folder = save(tmp_path / "s", slices[:3] + slices[4:])
    sides = [saved_name(folder, slices[k]) for k in (2, 4)]
    found = f"{sides[0]} and {sides[1]} 5.000 mm apart, others 2.500"
    with pytest.raises(errors.DataError, match=found):
        dicom.read_series(folder)


def test_every_second_slice_left_out_is_told(tmp_path):
    slices = make_slices(num_slices=7)
    for k, image in enumerate(slices):
        image.InstanceNumber = k + 1
    folder = save(tmp_path / "s", slices[::2])
    with pytest.warns(UserWarning, match="numbers 1 to 7 rise by 2 or more"):
        dicom.read_series(folder)


def test_slices_much_thinner_than_their_distance_are_told(tmp_path):
    slices = make_slices()
    for image in slices:
        image.SliceThickness = 1.25
    folder = save(tmp_path / "s", slices)
    with pytest.warns(UserWarning, match="1.25 mm thick and lie 2.5 mm apart"):
        dicom.read_series(folder)


def test_two_slices_in_one_place_are_refused_and_named(tmp_path):
    slices = make_slices()
    slices[3].ImagePositionPatient = slices[1].ImagePositionPatient
    folder = save(tmp_path / "s", slices)
    with pytest.raises(errors.DataError, match="same place") as error:
        dicom.read_series(folder)
    assert saved_name(folder, slices[1]) in str(error.value)
    assert saved_name(folder, slices[3]) in str(error.value)


@pytest.mark.parametrize(
    ("moved", "refused"),
    [([0, 0, 0.024], False), ([0, 0, 0.026], True), ([0.1, 0, 0], True)],
)
def test_a_slice_may_lie_one_percent_off_its_place(tmp_path, moved, refused):
    slices = make_slices("CT", "axial", np.array([0, 0, 2.5]))
    place = slices[2].ImagePositionPatient
    slices[2].ImagePositionPatient = decimals(np.add(place, moved))
    folder = save(tmp_path / "s", slices)
    if refused:
        with pytest.raises(errors.DataError, match="equal distances"):
            dicom.read_series(folder)
    else:
        assert dicom.read_series(folder).affine[2, 2] == 2.5


def test_a_lone_slice_has_the_extent_that_its_header_says(tmp_path):
    lone = make_slices("MR", "axial", num_slices=1)
    folder = save(tmp_path / "s", lone)
    assert dicom.read_series(folder).spacing == pytest.approx((0.7, 0.9, 5))
    lone[0].SpacingBetweenSlices = 6
    save(folder, lone)
    assert dicom.read_series(folder).spacing == pytest.approx((0.7, 0.9, 6))
    del lone[0].SpacingBetweenSlices, lone[0].SliceThickness
    save(folder, lone)
    with pytest.raises(errors.DataError, match="SliceThickness"):
        dicom.read_series(folder)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"SOPClassUID": uid.RTStructureSetStorage}, "RT Structure Set"),
        ({"SOPClassUID": uid.SegmentationStorage}, "Segmentation"),
        ({"SOPClassUID": uid.EnhancedCTImageStorage}, "Enhanced CT"),
        ({"SOPClassUID": uid.SecondaryCaptureImageStorage}, "Secondary"),
        ({"Modality": "RTSTRUCT"}, "Modality RTSTRUCT"),
        ({"NumberOfFrames": 2}, "2 frames"),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel 3"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "LOCALIZER"),
        ({"PixelSpacing": [0.9, 0]}, "PixelSpacing"),
        ({"PixelSpacing": None}, "no PixelSpacing"),
        ({"ImagePositionPatient": None}, "no ImagePositionPatient"),
        ({"ImagePositionPatient": [1, 2]}, "ImagePositionPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "perpendicular"),
        ({"RescaleSlope": None}, "no RescaleSlope"),
        ({"RescaleIntercept": None}, "no RescaleIntercept"),
        ({"RescaleSlope": 0}, "RescaleSlope 0"),
        ({"RescaleType": "ED"}, "RescaleType ED"),
        ({"HighBit": 11}, "HighBit 11"),
        ({"PixelData": None}, "no PixelData"),
        ({"Rows": 5}, "number of bytes"),
        ({"SeriesInstanceUID": None}, "no SeriesInstanceUID"),
    ],
)
def test_what_is_not_a_plain_slice_is_named(tmp_path, fields, found):
    slices = make_slices(**fields)
    for image in slices:
        for name, value in fields.items():
            if value is None:
                del image[name]
    with pytest.raises(errors.DataError, match=f"IM0.*{found}"):
        dicom.read_series(save(tmp_path / "s", slices))


@pytest.mark.parametrize(
    "syntax", [uid.MPEG2MPML, uid.DeflatedExplicitVRLittleEndian]
)
def test_a_compression_that_cannot_be_undone_is_named(tmp_path, syntax):
    slices = make_slices()
    for image in slices:
        if syntax.is_encapsulated:
            image.PixelData = pydicom.encaps.encapsulate([b"\0" * 10])
        image.file_meta.TransferSyntaxUID = syntax
    with pytest.raises(errors.DataError, match=f"IM0.*{syntax.name}"):
        dicom.read_series(save(tmp_path / "s", slices))


def test_a_header_that_declares_too_much_is_refused_unread(tmp_path):
    slices = make_slices(Rows=60000, Columns=60000)
    folder = save(tmp_path / "s", slices)
    with pytest.raises(errors.DataError, match=f"at most {volumes.MAX_GB} GB"):
        dicom.read_series(folder)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["CT", "MR_T1", "PET"])
def test_a_real_patient_is_the_same_volume_as_dicom_and_as_nifti(
    shared_data, name
):
    found = dicom.read_series(
        shared_data / "sarcoma_dicom" / "STS_025" / name / "image"
    )
    other = nib.load(
        shared_data / "sarcoma" / "STS_025" / f"{name}_image.nii.gz"
    )
    # To the precision of float32, in which the NIfTI holds its affine.
    np.testing.assert_allclose(found.affine, other.affine, atol=1e-5)
    np.testing.assert_allclose(found.array, other.get_fdata(), rtol=1e-6)


@pytest.mark.shared_data
def test_a_real_patient_is_listed_in_one_frame_of_reference(shared_data):
    series = dicom.list_series(shared_data / "sarcoma_dicom")
    images = {s.modality: s.num_files for s in series if s.num_files > 1}
    assert images == {"CT": 47, "MR": 25, "PT": 47}
    assert len({(s.patient, s.frame_of_reference) for s in series}) == 1
