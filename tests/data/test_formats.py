"""Formats beside NIfTI against SimpleITK and NumPy, there and back."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from medgan_tf import errors
from medgan_tf.data import io, volume

# A turn of 30 degrees about z of a permuted grid of unlike spacings, LPS.
COSINE, SINE = np.cos(np.pi / 6), 0.5
DIRECTION = np.array([[0, COSINE, -SINE], [0, SINE, COSINE], [1, 0, 0]])
SPACING, ORIGIN = (0.7, 1.1, 3.27), (12.3, -45.6, 78.9)


@pytest.fixture
def array():
    """[X, Y, Z] of unlike sizes."""
    values = np.random.default_rng(0).normal(0, 500, (5, 4, 3))
    return values.astype(np.float32)


def itk_image(array, kind=np.float32):
    image = sitk.GetImageFromArray(array.T.astype(kind))
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION.ravel().tolist())
    return image


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_values_and_places_are_those_that_simpleitk_gives(
    tmp_path, array, suffix, kind
):
    image = itk_image(array, kind)
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    read = io.read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read.array, array.astype(kind))
    for index in ((0, 0, 0), (4, 0, 0), (0, 3, 0), (1, 2, 2)):
        left, posterior, up = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(
            read.affine @ (*index, 1), [-left, -posterior, up, 1], atol=1e-9
        )


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_there_and_back_keeps_the_affine_to_the_last_bit(
    tmp_path, array, suffix
):
    source = tmp_path / f"source{suffix}"
    sitk.WriteImage(itk_image(array), str(source))
    first = io.read_volume(source)
    io.write_volume(tmp_path / f"a{suffix}", first, like=source)
    again = io.read_volume(tmp_path / f"a{suffix}")
    # NRRD stores spacing times direction, and its reader divides them again.
    last_bit = {".mha": 0, ".nrrd": 1e-15}[suffix]
    np.testing.assert_allclose(again.affine, first.affine, last_bit, last_bit)
    np.testing.assert_array_equal(again.array, first.array)
    # Without the source it is worked out from the affine.
    io.write_volume(tmp_path / f"b{suffix}", first)
    again = io.read_volume(tmp_path / f"b{suffix}")
    np.testing.assert_allclose(again.affine, first.affine, rtol=0, atol=1e-12)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"a{suffix}",
        f"b{suffix}",
        f"source{suffix}",
    ]


def test_another_grid_and_a_sheared_one_are_refused(tmp_path, array):
    source = tmp_path / "source.mha"
    sitk.WriteImage(itk_image(array), str(source))
    moved = io.read_volume(source).affine + np.eye(4, k=3)
    with pytest.raises(errors.DataError, match="another grid"):
        io.write_volume(
            tmp_path / "a.mha", volume.Volume(array, moved), like=source
        )
    sheared = volume.Volume(array, np.eye(4) + np.eye(4, k=1))
    with pytest.raises(errors.DataError, match="not perpendicular"):
        io.write_volume(tmp_path / "a.mha", sheared)
    assert [p.name for p in tmp_path.iterdir()] == ["source.mha"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sitk.Image([4, 4], sitk.sitkInt16), "2-D image"),
        (lambda: sitk.Image([4, 4, 2, 3], sitk.sitkInt16), "4-D image"),
        (lambda: sitk.Image([4, 4, 2], sitk.sitkVectorUInt8, 3), "vector of 8"),
        (
            lambda: sitk.Image([4, 4, 2], sitk.sitkComplexFloat32),
            "vector of 32",
        ),
    ],
)
def test_what_is_no_volume_of_real_numbers_is_refused(tmp_path, make, words):
    sitk.WriteImage(make(), str(tmp_path / "a.mha"))
    with pytest.raises(errors.DataError, match=words):
        io.read_volume(tmp_path / "a.mha")


def test_a_file_that_was_cut_or_declares_too_much_is_refused(tmp_path, array):
    path = tmp_path / "a.mha"
    sitk.WriteImage(itk_image(array), str(path), useCompression=True)
    whole = path.read_bytes()
    for content in (whole[:-20], whole[:100], b""):
        path.write_bytes(content)
        with pytest.raises(errors.DataError, match="a.mha: found") as caught:
            io.read_volume(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole.replace(b"5 4 3", b"9999 9999 9999"))
    with pytest.raises(errors.DataError, match="at most 4 GB"):
        io.read_volume(path)


@pytest.mark.parametrize(
    "line",
    ["ElementDataFile : {}", "A : 1\nElementDataFile = {}", "A = " + 500 * "x"],
)
def test_a_header_never_leads_to_another_file(tmp_path, array, line):
    """ITK takes a colon for the sign too, and cuts lines that are too long."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(10_000))
    path = tmp_path / "a.mha"
    sitk.WriteImage(itk_image(array), str(path))
    header, voxels = path.read_bytes().split(b"ElementDataFile = LOCAL\n")
    line = line.format(secret).encode() + b"\nElementDataFile = LOCAL\n"
    path.write_bytes(header + line + voxels)
    with pytest.raises(errors.DataError, match="a line that is no field"):
        io.read_volume(path)


@pytest.mark.parametrize("field", ["data file", "datafile", "Data File"])
def test_an_nrrd_never_leads_to_another_file(tmp_path, array, field):
    sitk.WriteImage(itk_image(array), str(tmp_path / "a.nrrd"))
    header, voxels = (tmp_path / "a.nrrd").read_bytes().split(b"\n\n", 1)
    (tmp_path / "secret").write_bytes(voxels)
    line = f"\n{field}: secret\n".encode()
    (tmp_path / "b.nrrd").write_bytes(header + line)
    with pytest.raises(errors.DataError, match="voxels are in another file"):
        io.read_volume(tmp_path / "b.nrrd")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_stack_comes_back_within_half_a_step_and_in_its_place(
    tmp_path, array, suffix
):
    affine = np.eye(4)
    affine[:3, :3] = DIRECTION * SPACING
    affine[:3, 3] = ORIGIN
    io.write_volume(
        tmp_path / "out" / f"*{suffix}", volume.Volume(array, affine)
    )
    assert len(list((tmp_path / "out").glob(f"*{suffix}"))) == 3
    read = io.read_volume(tmp_path / "out")
    np.testing.assert_array_equal(read.affine, affine)
    half_a_step = np.ptp(array) / 65535 / 2
    np.testing.assert_allclose(
        read.array, array, rtol=0, atol=half_a_step * 1.001
    )
    with pytest.raises(errors.ResourceError, match="not empty"):
        io.write_volume(tmp_path / "out" / f"*{suffix}", read)


def test_slices_of_other_programs_need_a_spacing_and_follow_their_numbers(
    tmp_path,
):
    for number in (10, 2, 1):
        plane = np.full((3, 4), number, np.uint16)  # 3 rows, 4 columns
        plane[0, 1] = 1000
        sitk.WriteImage(
            sitk.GetImageFromArray(plane), str(tmp_path / f"s{number}.png")
        )
    with pytest.raises(errors.DataError, match="no spacing"):
        io.read_volume(tmp_path)
    read = io.read_volume(tmp_path, spacing_mm=(0.5, 0.6, 2.0))
    assert read.shape == (4, 3, 3) and read.orientation == "LPS"
    assert read.array[0, 0].tolist() == [1, 2, 10]
    assert read.array[1, 0, 0] == 1000
    assert read.spacing == (0.5, 0.6, 2.0)
    for wrong in ((1, 1), (1, 1, 0), (1, 1, np.nan)):
        with pytest.raises(errors.UsageError, match="three positive"):
            io.read_volume(tmp_path, spacing_mm=wrong)


def test_the_note_beside_a_stack_gives_place_and_unit(tmp_path):
    plane = np.full((3, 4), 1064, np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(plane), str(tmp_path / "1.png"))
    note = {"affine": np.eye(4).tolist(), "slope": 0.5, "intercept": -1000}
    (tmp_path / "volume.json").write_text(json.dumps(note))
    read = io.read_volume(tmp_path)
    assert (read.array == 1064 * 0.5 - 1000).all()
    for text in ("{}", "[", '{"affine": 3}', '{"affine": [[1]]}'):
        (tmp_path / "volume.json").write_text(text)
        with pytest.raises(errors.DataError, match="volume.json: found no des"):
            io.read_volume(tmp_path)


@pytest.mark.parametrize(
    ("planes", "words"),
    [
        ([np.zeros((3, 4), np.uint8)], "8-bit unsigned.*expected 16 bits"),
        ([np.zeros((3, 4, 3), np.uint8)], "vector.*expected 16 bits"),
        (
            [np.zeros((3, 4), np.uint16), np.zeros((4, 4), np.uint16)],
            "4 x 4 pixels, expected 4 x 3 as in 0.png",
        ),
    ],
)
def test_slices_that_are_no_volume_are_refused_by_name(tmp_path, planes, words):
    for number, plane in enumerate(planes):
        image = sitk.GetImageFromArray(plane, isVector=plane.ndim == 3)
        sitk.WriteImage(image, str(tmp_path / f"{number}.png"))
    with pytest.raises(errors.DataError, match=words):
        io.read_volume(tmp_path, spacing_mm=(1, 1, 1))


def test_a_slice_that_was_cut_is_refused_by_name(tmp_path):
    image = sitk.GetImageFromArray(np.ones((90, 90), np.uint16))
    sitk.WriteImage(image, str(tmp_path / "1.png"))
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[:40])
    with pytest.raises(errors.DataError, match="1.png: found a damaged image"):
        io.read_volume(tmp_path, spacing_mm=(1, 1, 1))


def test_npy_comes_back_and_needs_a_spacing_without_its_note(tmp_path, array):
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    io.write_volume(tmp_path / "a.npy", volume.Volume(array, affine))
    read = io.read_volume(tmp_path / "a.npy")
    np.testing.assert_array_equal(read.array, array)
    np.testing.assert_array_equal(read.affine, affine)
    (tmp_path / "a.json").unlink()
    with pytest.raises(errors.DataError, match="a.npy: found no spacing"):
        io.read_volume(tmp_path / "a.npy")
    read = io.read_volume(tmp_path / "a.npy", spacing_mm=(2, 2, 3))
    np.testing.assert_array_equal(read.affine, affine)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.zeros((2, 3)), r"float64 of shape \(2, 3\)"),
        (np.zeros((2, 3, 4), complex), "complex128"),
        (np.array([{}], object), "no array of numbers"),
    ],
)
def test_arrays_that_are_no_volume_are_refused(tmp_path, content, words):
    np.save(tmp_path / "a.npy", content, allow_pickle=True)
    with pytest.raises(errors.DataError, match=words):
        io.read_volume(tmp_path / "a.npy", spacing_mm=(1, 1, 1))


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("compress", [True, False])
def test_a_damaged_mha_is_never_read_as_good(tmp_path, place, compress):
    """ITK prints that it could not inflate the voxels, and goes on."""
    values = np.random.default_rng(0).normal(0, 500, (30, 40, 20))
    path = tmp_path / "a.mha"
    sitk.WriteImage(
        itk_image(np.rint(values), np.int16), str(path), useCompression=compress
    )
    whole = io.read_volume(path).array
    content = bytearray(path.read_bytes())
    if compress:
        content[int(place * len(content))] ^= 255
    else:
        del content[int(place * len(content)) :]
    path.write_bytes(content)
    with pytest.raises(errors.DataError, match="a.mha: found a damaged image"):
        io.read_volume(path)
    assert whole.shape == (30, 40, 20)


def test_a_stack_of_which_a_slice_is_missing_is_refused(tmp_path, array):
    io.write_volume(tmp_path / "s" / "*.png", volume.Volume(array, np.eye(4)))
    (tmp_path / "s" / "0001.png").unlink()
    with pytest.raises(errors.DataError, match="5 x 4 x 2 voxels, expected 5"):
        io.read_volume(tmp_path / "s")


@pytest.mark.parametrize("content", [b"", b"PK\3\4"])
def test_what_is_no_array_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(errors.DataError, match="a.npy: found no array"):
        io.read_volume(tmp_path / "a.npy", spacing_mm=(1, 1, 1))


def test_the_note_of_a_stack_is_one_of_its_files(tmp_path, array):
    """Because a changed slope changes every value."""
    io.write_volume(tmp_path / "a.npy", volume.Volume(array, np.eye(4)))
    names = [path.name for path in io.files_of(tmp_path / "a.npy")]
    assert names == ["a.npy", "a.json"]
    io.write_volume(tmp_path / "s" / "*.png", volume.Volume(array, np.eye(4)))
    assert len(io.files_of(tmp_path / "s")) == 4


def test_a_note_of_something_else_is_not_overwritten(tmp_path, array):
    (tmp_path / "a.json").write_text("mine")
    with pytest.raises(errors.ResourceError, match="a.json.*exists"):
        io.write_volume(tmp_path / "a.npy", volume.Volume(array, np.eye(4)))
    assert (tmp_path / "a.json").read_text() == "mine"
