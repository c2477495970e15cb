"""The attenuation map of a PET: physics, place, and another's file format."""

import numpy as np
import pydicom
import pytest
from pydicom import uid

from medgan_tf import errors
from medgan_tf.data import attenuation, preprocess
from medgan_tf.data import volume as volumes
from medgan_tf.serving import mumap

WATER = 0.096
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def air(shape=(40, 36, 8), spacing=(2.0, 2.0, 3.0), origin=(30.0, 20.0, -50.0)):
    """All of -1000 HU, stored as DICOM does: axes to L, P and S."""
    affine = LPS @ np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return volumes.Volume(np.full(shape, -1000, np.float32), affine)


def places(volume):
    """RAS mm of each voxel, (X, Y, Z, 3)."""
    index = np.moveaxis(np.indices(volume.shape), 0, -1)
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def middle(volume):
    """RAS mm of the centre of mass."""
    weights = volume.array / volume.array.sum(dtype=np.float64)
    return np.einsum("xyz,xyzc->c", weights, places(volume))


def test_on_its_own_grid_without_a_blur_it_is_the_table_and_no_more():
    ct = air()
    ct.array[10:30, 10:30] = np.linspace(-900, 2000, 20)[:, None]
    for table in attenuation.TABLES:
        expected = attenuation.mu_map(ct, kilovolts=140, table=table)
        found = mumap.make(ct, kilovolts=140, table=table, fwhm_mm=0)
        np.testing.assert_array_equal(found.array, expected.array)


@pytest.mark.parametrize(
    ("step", "fwhm_mm", "expected"),
    [
        (1.0, 6.0, 6.0),
        (3.0, 6.0, 6.0),
        (3.0, 4.5, 4.5),
        # A grid of 8 mm carries no less than that; the CT's voxels had 1.
        (8.0, 4.5, np.sqrt(8**2 - 1)),
        (8.0, 0.0, np.sqrt(8**2 - 1)),
    ],
)
def test_the_map_is_as_sharp_as_was_asked(step, fwhm_mm, expected):
    ct = air(shape=(101, 9, 4), spacing=(1.0, 1.0, 1.0))
    ct.array[50] = 0
    # One grid of large voxels, four times over, between itself: a profile of
    # the sheet sampled every quarter of them.
    positions, profile = [], []
    for shift in np.arange(4) * step / 4:
        affine = ct.affine @ np.diag([step, 1, 1, 1])
        affine[0, 3] -= shift
        grid = preprocess.Grid((int(100 // step), 9, 4), affine)
        found = mumap.make(ct, kilovolts=120, grid=grid, fwhm_mm=fwhm_mm)
        positions.extend(places(found)[:, 4, 2, 0])
        profile.extend(found.array[:, 4, 2])
    profile = np.array(profile) / np.sum(profile)
    positions = np.array(positions) - np.dot(positions, profile)
    width = np.sqrt(8 * np.log(2) * np.dot(positions**2, profile))
    # Interpolation between voxels of 1 mm adds 1/6 mm2 to the variance.
    assert width == pytest.approx(expected, abs=0.2)


def test_what_is_coarser_loses_no_attenuation():
    ct = air(shape=(60, 60, 8), spacing=(1.0, 1.0, 3.0))
    ct.array[20:40, 25:35] = 0
    ct.array[28:32, 28:32] = 1500
    grid = preprocess.Grid((14, 14, 8), ct.affine @ np.diag([4.3, 4.3, 1, 1]))
    fine = mumap.make(ct, kilovolts=120, fwhm_mm=0)
    coarse = mumap.make(ct, kilovolts=120, grid=grid)
    assert coarse.array.sum() * 4.3**2 == pytest.approx(
        fine.array.sum(), rel=0.01
    )


def test_a_thing_stays_in_its_place_whatever_the_axes_of_the_pet():
    ct = air()
    ct.array[8:20, 20:30, 2:5] = 40
    turned = np.array(
        [[0, 0, 3.5, -40], [2.5, 0, 0, -50], [0, -3.0, 0, -29], [0, 0, 0, 1.0]]
    )
    grid = preprocess.Grid((30, 8, 24), turned)
    found = mumap.make(ct, kilovolts=120, grid=grid)
    assert found.shape == grid.shape
    expected = middle(mumap.make(ct, kilovolts=120, fwhm_mm=0))
    np.testing.assert_allclose(middle(found), expected, atol=0.3)


def test_a_pet_wider_than_the_ct_has_air_round_it():
    ct = air(shape=(20, 20, 4))
    ct.array[:] = 0
    ct.array[0, 0] = -1000
    grid = air(shape=(60, 60, 4), origin=(70.0, 60.0, -50.0))
    found = mumap.make(ct, kilovolts=120, grid=grid).array
    assert (found[:15] == 0).all() and (found[45:] == 0).all()
    assert found[30, 30, 1] == pytest.approx(WATER, abs=1e-4)


@pytest.mark.parametrize("moved_mm", [-9.0, 9.0, 500.0])
def test_a_pet_longer_than_the_ct_is_refused(moved_mm):
    ct = air()
    ct.array[10:30] = 0
    grid = air(origin=(30.0, 20.0, -50.0 + moved_mm))
    missing = min(abs(moved_mm) // 3, 8)
    with pytest.raises(errors.DataError, match=f"not reach {missing:.0f} of"):
        mumap.make(ct, kilovolts=120, grid=grid)


def test_what_makes_no_map_is_refused():
    water = volumes.Volume(np.zeros((8, 8, 8), np.float32), np.eye(4))
    with pytest.raises(errors.DataError, match="expected air below -200 HU"):
        mumap.make(water, kilovolts=120)
    with pytest.raises(errors.UsageError, match="90 kV"):
        mumap.make(air(), kilovolts=90)
    for fwhm_mm in (-1.0, np.inf, np.nan):
        with pytest.raises(errors.UsageError, match="expected 0 or more"):
            mumap.make(air(), kilovolts=120, fwhm_mm=fwhm_mm)
    with pytest.raises(errors.DataError, match="expected a body"):
        mumap.make(air(), kilovolts=120, remove_bed=True)


def patient_on_a_bed():
    """CT with a bed in touch with the skin, and the same without it."""
    ct = air(shape=(120, 90, 6))
    x = 2.0 * (np.arange(120) - 59.5)[:, None]
    y = 2.0 * (np.arange(90) - 40)
    body = np.hypot(x / 90, y / 60) <= 1
    arm = np.hypot(x - 108, y - 10) <= 12
    ct.array[body | arm] = 30
    for side in (-40, 40):
        ct.array[np.hypot((x - side) / 25, y / 35) <= 1] = -850
    without = volumes.Volume(ct.array.copy(), ct.affine)
    # A shell that touches the back at 60 mm, foam, and the lower shell.
    ct.array[15:105, 71:73] = 200
    ct.array[15:105, 73:80] = -930
    ct.array[15:105, 80:82] = 200
    ct.array[15:17, 71:82] = 200
    ct.array[103:105, 71:82] = 200
    return ct, without


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_bed_goes_and_the_patient_stays(order):
    ct, without = patient_on_a_bed()
    affine = ct.affine.copy()
    affine[:, :3] = affine[:, order]
    turned = volumes.Volume(ct.array.transpose(order), affine)
    found = mumap.make(turned, kilovolts=120, fwhm_mm=0, remove_bed=True)
    found = found.array.transpose(np.argsort(order))
    expected = mumap.make(without, kilovolts=120, fwhm_mm=0).array
    # All of the patient, lungs and the arm beside the bed too; of the bed a
    # voxel at most, where the skin touches it.
    is_body = expected > 0
    is_body[:, 71:] = False
    np.testing.assert_array_equal(found[is_body], expected[is_body])
    assert (found[:, 73:] == 0).all()
    assert found.sum() == pytest.approx(expected.sum(), rel=0.005)


# -- Interfile ----------------------------------------------------------------

# From STIR's axes to LPS, as its DiscretisedDensity has it.
STIR_TO_LPS = {
    "HFS": (1, 1, -1),
    "HFP": (-1, -1, -1),
    "FFS": (-1, 1, 1),
    "FFP": (1, -1, 1),
}


def read_interfile(path):
    """Header and values [z, y, x], by the letter of the format."""
    lines = path.read_text("utf-8").splitlines()
    assert lines[0].replace(" ", "") == "!INTERFILE:="
    assert lines[-1].replace(" ", "") == "!ENDOFINTERFILE:="
    keys = {}
    for line in lines:
        key, value = line.split(":=")
        keys[key.strip().lstrip("!").lower()] = value.strip()
    assert keys["number format"] == "float"
    assert keys["number of bytes per pixel"] == "4"
    assert keys["imagedata byte order"] == "LITTLEENDIAN"
    labels = [keys[f"matrix axis label [{i}]"] for i in (1, 2, 3)]
    assert labels == ["x", "y", "z"]

    def three(key):
        return np.array([float(keys[f"{key} [{i}]"]) for i in (1, 2, 3)])

    shape = three("matrix size").astype(int)
    values = np.fromfile(path.parent / keys["name of data file"], "<f4")
    return (
        keys,
        values.reshape(shape[::-1]),
        three("scaling factor (mm/pixel)"),
        three("first pixel offset (mm)"),
    )


def marked(axes):
    """A map with one bright voxel, and its place in LPS mm."""
    signs = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1)}
    signs |= {"S": (2, 1), "I": (2, -1)}
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (axis, spacing) in enumerate(zip(axes, (2, 3, 5), strict=True)):
        row, sign = signs[axis]
        affine[row, column] = sign * spacing
    affine[:3, 3] = 11.5, -7.25, 364.83
    array = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    array[1, 3, 4] = 9
    place = (LPS @ affine @ [1, 3, 4, 1])[:3]
    return volumes.Volume(array, affine), place


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LPI", "SRP", "PSL"])
@pytest.mark.parametrize("position", mumap.POSITIONS)
def test_interfile_puts_every_voxel_where_stir_looks_for_it(
    tmp_path, axes, position
):
    mu, place = marked(axes)
    path = tmp_path / "a map, ü.hv"
    mumap.write_interfile(path, mu, position=position)
    keys, values, spacing, first = read_interfile(path)
    assert keys["patient orientation"] == (
        "head_in" if position[0] == "H" else "feet_in"
    )
    assert keys["patient rotation"] == (
        "supine" if position[2] == "S" else "prone"
    )
    index = np.unravel_index(values.argmax(), values.shape)[::-1]
    in_gantry = first + spacing * index
    np.testing.assert_allclose(
        in_gantry * STIR_TO_LPS[position], place, atol=1e-5
    )
    assert sorted(values.ravel()) == sorted(mu.array.ravel())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a map, ü.hv",
        "a map, ü.v",
    ]


def test_what_interfile_cannot_say_is_refused_and_leaves_nothing(tmp_path):
    mu, _ = marked("LPS")
    angle = np.deg2rad(1)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [
        [np.cos(angle), -np.sin(angle)],
        [np.sin(angle), np.cos(angle)],
    ]
    oblique = volumes.Volume(mu.array, tilt @ mu.affine)
    with pytest.raises(errors.DataError, match="knows no rotation"):
        mumap.write_interfile(tmp_path / "a.hv", oblique, position="HFS")
    with pytest.raises(errors.UsageError, match="HFDR, expected one of HFS"):
        mumap.write_interfile(tmp_path / "a.hv", mu, position="HFDR")
    with pytest.raises(errors.ResourceError, match="cannot be written"):
        mumap.write_interfile(tmp_path / "no" / "a.hv", mu, position="HFS")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_told_before_the_work(tmp_path):
    mumap.check_writable(tmp_path / "a.hv")
    mumap.check_writable(tmp_path / "a.nii.gz")
    with pytest.raises(errors.ResourceError, match="cannot be written"):
        mumap.check_writable(tmp_path / "no" / "a.hv")
    with pytest.raises(errors.DataError, match="suffix .dat"):
        mumap.check_writable(tmp_path / "a.dat")


# -- What DICOM says ----------------------------------------------------------


def save_ct(folder, *kilovolts, **fields):
    """One slice for each tube voltage."""
    folder.mkdir()
    study, series = (uid.generate_uid() for _ in range(2))
    for k, voltage in enumerate(kilovolts):
        image = pydicom.Dataset()
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        image.SOPClassUID = uid.CTImageStorage
        image.SOPInstanceUID = uid.generate_uid()
        image.Modality = "CT"
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.ImagePositionPatient = [-10, 4, 3 * k]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.PixelSpacing = [2, 2]
        image.Rows, image.Columns = 4, 6
        image.SamplesPerPixel, image.PixelRepresentation = 1, 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit = 15
        image.RescaleSlope, image.RescaleIntercept = 1, -1024
        image.PixelData = np.zeros((4, 6), np.int16).tobytes()
        image.KVP = voltage
        for name, value in fields.items():
            setattr(image, name, value)
        image.save_as(folder / f"{k}", enforce_file_format=True)
    return folder


def test_dicom_says_the_voltage_and_how_the_patient_lay(tmp_path):
    ct = save_ct(tmp_path / "ct", 120, "120", PatientPosition="FFS")
    said = mumap.header_of(ct)
    assert said[:3] == ("CT", 120.0, "FFS")
    assert said.grid.shape == (6, 4, 2)


def test_what_dicom_does_not_say_is_none(tmp_path):
    said = mumap.header_of(save_ct(tmp_path / "ct", None, None))
    assert said.kilovolts is None and said.position is None
    (tmp_path / "ct.nii").touch()
    assert mumap.header_of(tmp_path / "ct.nii") == mumap.Said()


def test_slices_of_two_voltages_are_refused(tmp_path):
    with pytest.raises(errors.DataError, match="KVP 120.0 and 140.0 in one"):
        mumap.header_of(save_ct(tmp_path / "ct", 120, 140))
    with pytest.raises(errors.DataError, match="KVP 120.0 and None in one"):
        mumap.header_of(save_ct(tmp_path / "more", 120, None))


@pytest.mark.shared_data
def test_a_real_scanner_says_both(shared_data):
    folder = shared_data / "sarcoma_dicom" / "STS_025"
    assert mumap.header_of(folder / "CT" / "image")[:3] == ("CT", 140.0, "FFS")
    assert mumap.header_of(folder / "PET" / "image")[:3] == ("PT", None, "FFS")
