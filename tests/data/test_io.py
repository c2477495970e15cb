"""What the reader must refuse, and what the writer must never leave behind.

The files are made by nibabel and then damaged byte by byte.
"""

import gzip
import os
import struct
import warnings
import zlib

import nibabel as nib
import numpy as np
import pytest

from medgan_tf import errors
from medgan_tf.data import io, volume

# Voxels of 0.7 x 0.8 x 3 mm, turned by 20 degrees: not exact in float32.
_COS, _SIN = np.cos(np.radians(20)), np.sin(np.radians(20))
OBLIQUE = np.array(
    [
        [-0.7 * _COS, 0.8 * _SIN, 0, 31.123456789],
        [-0.7 * _SIN, -0.8 * _COS, 0, -7.3],
        [0, 0, 3, 101.1],
        [0, 0, 0, 1],
    ]
)


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)


def save(path, array, affine=OBLIQUE, kind=nib.Nifti1Image):
    kind(array, affine).to_filename(path)
    return path


def damage(path, **fields):
    """Overwrites raw header fields, which nibabel itself would mend."""
    contents = bytearray(path.read_bytes())
    for name, values in fields.items():
        dtype, offset = nib.nifti1.header_dtype.fields[name][:2]
        if isinstance(values, dict):
            for index, value in values.items():
                start = offset + index * dtype.base.itemsize
                raw = np.array(value, dtype.base).tobytes()
                contents[start : start + len(raw)] = raw
        else:
            raw = np.array(values, dtype).tobytes()
            contents[offset : offset + len(raw)] = raw
    path.write_bytes(contents)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_reads_values_and_affine_as_nibabel_does(tmp_path, array, suffix, kind):
    path = save(tmp_path / "a.nii", array, kind=kind)
    expected = nib.load(path)
    packed = tmp_path / f"b{suffix}"
    data = path.read_bytes()
    packed.write_bytes(data if suffix == ".nii" else gzip.compress(data))
    found = io.read_volume(packed)
    assert found.array.dtype == np.float32
    np.testing.assert_array_equal(found.array, array)
    np.testing.assert_array_equal(found.affine, expected.affine)


def test_big_endian_integers_with_slope_become_physical_units(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    counts = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nib.Nifti1Image(counts, np.eye(4), header)
    image.header.set_slope_inter(0.5, -1024)
    path = tmp_path / "ct.nii"
    image.to_filename(path)
    stored = nib.load(path).dataobj.get_unscaled()
    np.testing.assert_array_equal(
        io.read_volume(path).array, stored * 0.5 - 1024
    )


def test_a_slope_of_zero_means_not_scaled(tmp_path, array):
    path = damage(save(tmp_path / "a.nii", array), scl_slope=0, scl_inter=7)
    np.testing.assert_array_equal(io.read_volume(path).array, array)


def test_a_trailing_axis_of_length_one_is_dropped(tmp_path, array):
    path = save(tmp_path / "a.nii", array[..., None, None])
    assert io.read_volume(path).shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": {1: 0}}, "at least 1"),
        ({"dim": {1: -4}}, "at least 1"),
        ({"dim": {0: 2}}, "2-D"),
        ({"dim": {1: 32767, 2: 32767, 3: 32767}}, "at most 4 GB"),
        ({"dim": {3: 2}}, "more than"),
        ({"dim": {3: 4}}, "bytes"),
        ({"pixdim": {1: np.nan}}, "pixdim"),
        ({"pixdim": {2: 0}}, "pixdim"),
        ({"pixdim": {3: -1}}, "pixdim"),
        ({"scl_slope": np.nan}, "scl_slope nan"),
        ({"scl_slope": np.inf}, "scl_slope inf"),
        ({"scl_inter": np.nan}, "scl_inter nan"),
        ({"scl_slope": 3e38, "scl_inter": 3e38}, "float32"),
        ({"srow_x": (0, 0, 0, 1)}, "singular"),
        ({"srow_x": (np.nan, 0, 0, 1)}, "singular"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 9}, "qform"),
        ({"datatype": 128, "bitpix": 24}, "colour"),
        ({"datatype": 32, "bitpix": 64}, "complex"),
        ({"datatype": 12345}, "unknown data type"),
        ({"bitpix": 16}, "bitpix"),
        ({"vox_offset": np.nan}, "vox_offset"),
        ({"vox_offset": -1}, "vox_offset"),
        ({"xyzt_units": 3}, "mm"),
        ({"magic": b"ni1"}, "NIfTI header"),
        ({"sizeof_hdr": 347}, "NIfTI header"),
    ],
)
def test_a_header_that_cannot_be_right_is_refused(
    tmp_path, array, fields, message
):
    large = np.abs(array) + 1  # So that a slope of 3e38 overflows.
    path = damage(save(tmp_path / "bad.nii", large), **fields)
    with pytest.raises(errors.DataError, match=message) as caught:
        io.read_volume(path)
    assert "bad.nii" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_series_in_time_is_refused_with_its_number_of_points(tmp_path):
    path = save(tmp_path / "a.nii", np.zeros((2, 2, 2, 17), np.float32))
    with pytest.raises(errors.DataError, match="17 time points"):
        io.read_volume(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_counted_and_located(
    tmp_path, array, value
):
    array[1, 2, 0] = array[3, 4, 2] = value
    path = save(tmp_path / "a.nii", array)
    with pytest.raises(errors.DataError, match=r"2 voxels.*\(1, 2, 0\)"):
        io.read_volume(path)


def test_values_beyond_float32_are_refused(tmp_path):
    path = save(tmp_path / "a.nii", np.full((2, 2, 2), 1e300))
    with pytest.raises(errors.DataError, match="float32"):
        io.read_volume(path)


def test_without_form_codes_the_assumed_axes_are_announced(tmp_path, array):
    path = damage(save(tmp_path / "a.nii", array), sform_code=0, qform_code=0)
    with pytest.warns(UserWarning, match="assumed axes LAS"):
        io.read_volume(path)


def test_voxel_sizes_that_contradict_each_other_are_announced(tmp_path, array):
    path = damage(save(tmp_path / "a.nii", array), pixdim={1: 2.1})
    words = "voxels of 0.7 x 0.8 x 3 mm by its sform and of 2.1 x 0.8 x 3 mm"
    with pytest.warns(UserWarning, match=words):
        found = io.read_volume(path)
    np.testing.assert_allclose(found.spacing, [0.7, 0.8, 3.0], rtol=1e-6)


def test_a_scale_that_registration_left_is_not_announced(tmp_path, array):
    path = damage(save(tmp_path / "a.nii", array), pixdim={1: 0.705})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        io.read_volume(path)


def _with_sform(tmp_path, array, *, codes, sform):
    image = nib.Nifti1Image(array, OBLIQUE)
    image.set_qform(OBLIQUE, codes[0])
    image.set_sform(sform, codes[1])
    path = tmp_path / "a.nii"
    path.write_bytes(image.to_bytes())
    return path


MIRRORED = OBLIQUE @ np.diag([-1, 1, 1, 1])
MOVED = nib.affines.from_matvec(np.eye(3), [0, 0, 3.5]) @ OBLIQUE


@pytest.mark.parametrize(("sform", "distance"), [(MIRRORED, 4.2), (MOVED, 3.5)])
def test_two_places_in_one_space_are_announced(
    tmp_path, array, sform, distance
):
    path = _with_sform(tmp_path, array, codes=(1, 1), sform=sform)
    with pytest.warns(UserWarning, match=f"qform are {distance} mm apart"):
        found = io.read_volume(path)
    np.testing.assert_allclose(found.affine, sform, atol=1e-5)


@pytest.mark.parametrize(
    ("codes", "sform"),
    [
        # Of scanner and of atlas.
        ((1, 4), MIRRORED),
        ((0, 1), MIRRORED),
        # Within a voxel, which is 3 mm high.
        ((1, 1), nib.affines.from_matvec(np.eye(3), [0, 0, 2.5]) @ OBLIQUE),
    ],
)
def test_two_places_that_may_be_are_not_announced(
    tmp_path, array, codes, sform
):
    path = _with_sform(tmp_path, array, codes=codes, sform=sform)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        io.read_volume(path)


def _flipped(packed):
    # Stored without compression, so that only the checksum can tell.
    stored = bytearray(gzip.compress(gzip.decompress(packed), 0))
    stored[400] ^= 1
    return bytes(stored)


@pytest.mark.parametrize(
    "spoil",
    [
        _flipped,
        lambda packed: packed[:-8] + struct.pack("<I", 1) + packed[-4:],
        lambda packed: packed[:-9],
        lambda packed: packed[:5],
        lambda packed: packed + b"garbage",
        lambda packed: packed + gzip.compress(b"a second member"),
        lambda packed: packed[:20] + b"\xff" * 20 + packed[40:],
        gzip.decompress,
        lambda packed: b"",
    ],
    ids="flip crc cut head trailing members deflate plain empty".split(),
)
def test_a_damaged_gzip_file_is_refused(tmp_path, array, spoil):
    path = save(tmp_path / "a.nii.gz", array)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(errors.DataError, match="a.nii.gz"):
        io.read_volume(path)


def test_a_bomb_is_refused_before_it_unfolds(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((32000, 32000, 100))
    header["vox_offset"] = 352
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(10**6)))
    with pytest.raises(errors.DataError, match="GB"):
        io.read_volume(path)


def test_missing_file_folder_and_unknown_suffix_are_told(tmp_path):
    with pytest.raises(errors.DataError, match="no such file"):
        io.read_volume(tmp_path / "a.nii")
    (tmp_path / "a.jpg").touch()
    with pytest.raises(errors.DataError, match=r"\.nii or \.nii\.gz"):
        io.read_volume(tmp_path / "a.jpg")
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(errors.DataError, match=r"folder\.nii.*DICOM"):
        io.read_volume(tmp_path / "folder.nii")


@pytest.mark.parametrize("forms", [(1, 0), (0, 1), (4, 2), (2, 1)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_written_like_another_its_place_is_the_same_to_the_bit(
    tmp_path, array, forms, kind
):
    image = kind(array, OBLIQUE)
    image.header.set_qform(OBLIQUE, code=forms[1])
    image.header["sform_code"] = forms[0]
    # sform and qform may differ a little; neither may be derived anew.
    image.header["srow_x"][3] += 0.01
    source = tmp_path / "source.nii"
    source.write_bytes(image.to_bytes())
    read = io.read_volume(source)
    written = tmp_path / "out.nii.gz"
    io.write_volume(written, read, like=source)
    again = io.read_volume(written)
    np.testing.assert_array_equal(again.affine, read.affine)
    np.testing.assert_array_equal(again.array, read.array)
    theirs, ours = nib.load(source).header, nib.load(written).header
    for field in (
        "qform_code sform_code quatern_b quatern_c quatern_d qoffset_x "
        "qoffset_y qoffset_z srow_x srow_y srow_z pixdim"
    ).split():
        np.testing.assert_array_equal(ours[field], theirs[field], field)


def test_without_a_like_both_forms_hold_the_affine(tmp_path, array):
    path = tmp_path / "a.nii"
    io.write_volume(path, volume.Volume(array, OBLIQUE))
    image = nib.load(path)
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
    # 1e-5 mm: float32 at a distance of 100 mm.
    np.testing.assert_allclose(image.get_sform(), OBLIQUE, atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), OBLIQUE, atol=1e-4)
    np.testing.assert_array_equal(image.get_fdata(), array)


def test_a_sheared_affine_is_left_to_the_sform_alone(tmp_path, array):
    sheared = OBLIQUE.copy()
    sheared[0, 2] = 1.0
    path = tmp_path / "a.nii"
    io.write_volume(path, volume.Volume(array, sheared))
    header = nib.load(path).header
    assert (header["sform_code"], header["qform_code"]) == (1, 0)
    np.testing.assert_allclose(io.read_volume(path).affine, sheared, atol=1e-5)


def test_no_free_text_of_the_source_reaches_the_output(tmp_path, array):
    image = nib.Nifti1Image(array, OBLIQUE)
    secret = b"DOE^JOHN 1970"
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[field] = secret
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, secret))
    source, written = tmp_path / "DOE^JOHN 1970.nii", tmp_path / "out.nii.gz"
    image.to_filename(source)
    io.write_volume(written, io.read_volume(source), like=source)
    packed = written.read_bytes()
    assert b"DOE" not in packed
    assert b"DOE" not in gzip.decompress(packed)
    # Neither a name nor a time in the gzip header.
    assert packed[3] == 0 and packed[4:8] == bytes(4)


def test_an_output_on_another_grid_than_like_is_refused(tmp_path, array):
    source = save(tmp_path / "a.nii", array)
    moved = io.read_volume(source).affine.copy()
    moved[0, 3] += 0.5
    for wrong in (
        volume.Volume(array, moved),
        volume.Volume(array[1:], nib.load(source).affine),
    ):
        with pytest.raises(errors.DataError, match="another grid"):
            io.write_volume(tmp_path / "b.nii", wrong, like=source)
    with pytest.raises(errors.DataError, match="c.nii: found no such file"):
        io.write_volume(tmp_path / "b.nii", wrong, like=tmp_path / "c.nii")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path, array, monkeypatch
):
    path = save(tmp_path / "a.nii.gz", array)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.ResourceError, match="No space left"):
        io.write_volume(path, volume.Volume(array, OBLIQUE))
    assert os.listdir(tmp_path) == ["a.nii.gz"]
    assert path.read_bytes() == before


def test_missing_folder_bad_suffix_and_nan_are_not_written(tmp_path, array):
    good = volume.Volume(array, OBLIQUE)
    with pytest.raises(errors.ResourceError, match="folder"):
        io.write_volume(tmp_path / "none" / "a.nii", good)
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.ResourceError, match="folder"):
        io.write_volume(tmp_path / "file" / "a.nii", good)
    with pytest.raises(errors.DataError, match="suffix"):
        io.write_volume(tmp_path / "a.dcm", good)
    array[0, 0, 0] = np.nan
    with pytest.raises(errors.DataError, match="NaN"):
        io.write_volume(tmp_path / "a.nii", good)
    assert os.listdir(tmp_path) == ["file"]


def test_equal_volumes_give_equal_bytes(tmp_path, array):
    good = volume.Volume(array, OBLIQUE)
    io.write_volume(tmp_path / "a.nii.gz", good)
    io.write_volume(tmp_path / "b.nii.gz", good)
    first, second = (
        zlib.crc32((tmp_path / name).read_bytes())
        for name in ("a.nii.gz", "b.nii.gz")
    )
    assert first == second


@pytest.mark.shared_data
def test_real_images_read_as_nibabel_reads_them(shared_data):
    for name in ("CT", "MR_T1", "PET"):
        path = shared_data / "sarcoma" / "STS_025" / f"{name}_image.nii.gz"
        found, expected = io.read_volume(path), nib.load(path)
        np.testing.assert_array_equal(
            found.array, np.asarray(expected.dataobj, np.float32)
        )
        np.testing.assert_array_equal(found.affine, expected.affine)
