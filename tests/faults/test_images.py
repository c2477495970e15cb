"""Damaged images are told by their code and refused; good ones never are.

A fault takes the path of a good image and leaves a damaged one; it returns the
path of that, which may have another name. The verifier tells each by the code
of its table, the preparation refuses each in one line that names the file.
"""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from medgan_tf import errors, tasks
from medgan_tf.data import io, manifest, pairs, verify

KEEP = (None, None, None)
MR_CT = tasks.adapted(tasks.TASKS["mr_ct"], voxel_size_mm=KEEP)
PET_CT = tasks.adapted(tasks.TASKS["pet_ct"], voxel_size_mm=KEEP)


# Faults of a header: its bytes are overwritten, because nibabel would mend
# what it is asked to write.


def field(name, value, index=None):
    """Overwrites a field of the header, or one number of it."""

    def fault(path):
        dtype, offset = nib.nifti1.header_dtype.fields[name][:2]
        raw = np.array(value, dtype if index is None else dtype.base).tobytes()
        start = offset + (index or 0) * dtype.base.itemsize
        return spliced(path, start, raw)

    return fault


def fields(*faults):
    def fault(path):
        for one in faults:
            path = one(path)
        return path

    return fault


def spliced(path, start, raw):
    content = bytearray(path.read_bytes())
    content[start : start + len(raw)] = raw
    path.write_bytes(content)
    return path


# Faults of a file.


def content(change):
    """Changes the bytes of the file."""

    def fault(path):
        path.write_bytes(change(path.read_bytes()))
        return path

    return fault


def packed(change=lambda packed: packed):
    """Compresses the file, then changes the bytes."""

    def fault(path):
        new = path.with_name(f"{path.name}.gz")
        new.write_bytes(change(gzip.compress(path.read_bytes(), 6)))
        path.unlink()
        return new

    return fault


def flipped(packed):
    # Stored without compression, so that only the checksum can tell.
    stored = bytearray(gzip.compress(gzip.decompress(packed), 0))
    stored[len(stored) // 2] ^= 1
    return bytes(stored)


def wrong_checksum(packed):
    (crc,) = struct.unpack("<I", packed[-8:-4])
    return packed[:-8] + struct.pack("<I", crc ^ 1) + packed[-4:]


def bomb(path):
    """A few kB that say that they are 400 GB."""
    header = nib.Nifti1Header()
    header.set_data_shape((32000, 32000, 100))
    header["vox_offset"] = 352
    new = path.with_name(f"{path.name}.gz")
    new.write_bytes(gzip.compress(header.binaryblock + bytes(10**6)))
    return new


def folder_instead(path):
    path.unlink()
    path.mkdir()
    return path


def link_to_nothing(path):
    path.unlink()
    path.symlink_to("elsewhere.nii")
    return path


def gone(path):
    path.unlink()
    return path


# Faults of the values.


def values(change):
    """Changes the array and the affine."""

    def fault(path):
        image = nib.load(path, mmap=False)
        array, affine = change(image.get_fdata(), image.affine.copy())
        nib.save(nib.Nifti1Image(array.astype(np.float32), affine), path)
        return path

    return fault


def voxel(value):
    def change(array, affine):
        array[2, 3, 1] = value
        return array, affine

    return values(change)


def moved(*mm):
    return values(lambda array, affine: (array, affine + column(mm)))


def column(mm):
    step = np.zeros((4, 4))
    step[:3, 3] = mm
    return step


# Faults of other formats.


def converted(suffix):
    """The same image in another format."""

    def fault(path):
        volume = io.read_volume(path)
        new = path.with_name(f"{path.stem}{suffix}")
        io.write_volume(new, volume)
        path.unlink()
        return new

    return fault


def cut_by_half(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def stack_without_a_slice(path):
    folder = path.with_name("slices")
    io.write_volume(folder / "*.png", io.read_volume(path))
    (folder / "0002.png").unlink()
    return folder


def stack_with_a_cut_slice(path):
    folder = path.with_name("slices")
    io.write_volume(folder / "*.png", io.read_volume(path))
    cut_by_half(folder / "0002.png")
    return folder


def array_of_objects(path):
    """An .npy that would run what it holds, were it unpickled."""
    new = path.with_suffix(".npy")
    np.save(new, np.array([{}], object), allow_pickle=True)
    return new


def array_without_a_place(path):
    new = path.with_suffix(".npy")
    np.save(new, io.read_volume(path).array)
    return new


# name -> (fault of the target, code of the verifier, words of its finding)
DAMAGED = {
    "no voxels": (field("dim", 0, 1), "UNREADABLE", "at least 1"),
    "negative size": (field("dim", -4, 1), "UNREADABLE", "at least 1"),
    "two axes": (field("dim", 2, 0), "UNREADABLE", "2-D"),
    "nine axes": (field("dim", 9, 0), "UNREADABLE", "found"),
    "a series in time": (
        values(lambda a, m: (np.stack([a, a], -1), m)),
        "UNREADABLE",
        "2 time points",
    ),
    "huge by its header": (
        field("dim", (3, 32767, 32767, 32767, 1, 1, 1, 1)),
        "UNREADABLE",
        "at most 4 GB",
    ),
    "one slice too many": (field("dim", 5, 3), "UNREADABLE", "more than"),
    "one slice too few": (field("dim", 7, 3), "UNREADABLE", "bytes"),
    "size not a number": (field("pixdim", np.nan, 1), "UNREADABLE", "pixdim"),
    "size zero": (field("pixdim", 0, 2), "UNREADABLE", "pixdim"),
    "size below zero": (field("pixdim", -1, 3), "UNREADABLE", "pixdim"),
    "slope not a number": (
        field("scl_slope", np.nan),
        "UNREADABLE",
        "scl_slope nan",
    ),
    "slope infinite": (field("scl_slope", np.inf), "UNREADABLE", "finite"),
    "slope too large": (field("scl_slope", 3e38), "UNREADABLE", "float32"),
    "intercept not a number": (
        field("scl_inter", np.nan),
        "UNREADABLE",
        "scl_inter nan",
    ),
    "flat affine": (field("srow_x", (0, 0, 0, 1)), "UNREADABLE", "singular"),
    "affine not a number": (
        field("srow_x", (np.nan, 0, 0, 1)),
        "UNREADABLE",
        "singular",
    ),
    "impossible rotation": (
        fields(
            field("sform_code", 0),
            field("qform_code", 1),
            field("quatern_b", 9),
        ),
        "UNREADABLE",
        "qform",
    ),
    "colour": (
        fields(field("datatype", 128), field("bitpix", 24)),
        "UNREADABLE",
        "colour",
    ),
    "complex": (
        fields(field("datatype", 32), field("bitpix", 64)),
        "UNREADABLE",
        "complex",
    ),
    "unknown type": (field("datatype", 12345), "UNREADABLE", "unknown data"),
    "wrong bits": (field("bitpix", 16), "UNREADABLE", "bitpix 16"),
    "voxels nowhere": (
        field("vox_offset", np.nan),
        "UNREADABLE",
        "vox_offset nan",
    ),
    "voxels before the file": (
        field("vox_offset", -1),
        "UNREADABLE",
        "vox_offset -1",
    ),
    "in metres": (field("xyzt_units", 1), "UNREADABLE", "not in mm"),
    "another magic": (field("magic", b"ni1"), "UNREADABLE", "NIfTI"),
    "another header": (field("sizeof_hdr", 347), "UNREADABLE", "NIfTI"),
    "empty file": (content(lambda whole: b""), "UNREADABLE", "found"),
    "cut in the header": (
        content(lambda whole: whole[:200]),
        "UNREADABLE",
        "found",
    ),
    "cut in the voxels": (
        content(lambda whole: whole[:-9]),
        "UNREADABLE",
        "bytes",
    ),
    "bytes behind": (
        content(lambda whole: whole + b"x"),
        "UNREADABLE",
        "more than",
    ),
    "a page of text": (
        content(lambda whole: b"404 not found\n" * 99),
        "UNREADABLE",
        "found",
    ),
    "gzip under a plain name": (
        content(gzip.compress),
        "UNREADABLE",
        "NIfTI",
    ),
    "plain under a gzip name": (
        packed(gzip.decompress),
        "UNREADABLE",
        "damaged gzip",
    ),
    "gzip with a flipped bit": (packed(flipped), "UNREADABLE", "damaged gzip"),
    "gzip with a wrong checksum": (
        packed(wrong_checksum),
        "UNREADABLE",
        "damaged gzip",
    ),
    "gzip that was cut": (
        packed(lambda packed: packed[:-9]),
        "UNREADABLE",
        "damaged gzip",
    ),
    "gzip with bytes behind": (
        packed(lambda packed: packed + b"garbage"),
        "UNREADABLE",
        "damaged gzip",
    ),
    "gzip twice over": (
        packed(lambda packed: packed + gzip.compress(b"more")),
        "UNREADABLE",
        "more than",
    ),
    "a bomb": (bomb, "UNREADABLE", "at most 4 GB"),
    "no file": (gone, "UNREADABLE", "no such file"),
    "a link to nothing": (link_to_nothing, "UNREADABLE", "no such file"),
    "a folder instead": (folder_instead, "UNREADABLE", "found"),
    "a voxel that is not a number": (
        voxel(np.nan),
        "UNREADABLE",
        "1 voxels that are NaN or infinite, the first at index (2, 3, 1)",
    ),
    "an infinite voxel": (voxel(-np.inf), "UNREADABLE", "(2, 3, 1)"),
    "no numbers at all": (
        values(lambda a, m: (a * np.nan, m)),
        "UNREADABLE",
        "10560 voxels",
    ),
    "one value everywhere": (
        values(lambda a, m: (a * 0 + 7, m)),
        "CONSTANT",
        "found 7 in every voxel",
    ),
    "elsewhere": (moved(0, 900, 0), "OVERLAP", "covers 0%"),
    "a cut mha": (
        fields(converted(".mha"), cut_by_half),
        "UNREADABLE",
        "damaged image",
    ),
    "a cut nrrd": (
        fields(converted(".nrrd"), cut_by_half),
        "UNREADABLE",
        "found",
    ),
    "a cut npy": (
        fields(converted(".npy"), cut_by_half),
        "UNREADABLE",
        "no array",
    ),
    "objects in an npy": (array_of_objects, "UNREADABLE", "no array"),
    "an npy that lies nowhere": (
        array_without_a_place,
        "UNREADABLE",
        "no spacing",
    ),
    "a stack without a slice": (
        stack_without_a_slice,
        "UNREADABLE",
        "expected 44 x 40 x 6",
    ),
    "a stack with a cut slice": (
        stack_with_a_cut_slice,
        "UNREADABLE",
        "0002.png: found a damaged image",
    ),
    "a suffix that says nothing": (
        lambda path: path.rename(path.with_suffix(".txt")),
        "UNREADABLE",
        "suffix .txt",
    ),
}


def check(study, task=MR_CT):
    return verify.check_study(task, pairs.Options(), study)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_image_is_told_and_refused(study, name):
    fault, code, words = DAMAGED[name]
    path = fault(study.target)
    study = manifest.Study("ann", study.sources, path)
    found = [f for f in check(study).findings if f.severity == verify.ERROR]
    assert [finding.code for finding in found] == [code]
    (finding,) = found
    assert words in finding.text and finding.files[-1] == str(path)
    with pytest.raises(errors.DataError) as caught:
        pairs.prepare_study(MR_CT, pairs.Options(), study)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_the_table_holds_what_the_bar_asks_for():
    assert len(DAMAGED) >= 40 and len(GOOD) >= 12


# What only the verifier can tell: the numbers are possible, but not likely.
# name -> (fault of the target, code, whether it is an error)
SUSPICIOUS = {
    "a CT from 0 up": (
        values(lambda a, m: (a + 1024, m)),
        "CT_UNIT",
        True,
    ),
    "left and right exchanged": (
        values(lambda a, m: (a[::-1], m)),
        "FLIPPED",
        False,
    ),
    "a patient who moved": (moved(16, 0, 0), "SHIFTED", False),
    "no form codes": (
        fields(field("sform_code", 0), field("qform_code", 0)),
        "PLACE",
        False,
    ),
    "a value beyond the unit": (voxel(-3024), "RANGE", False),
}


@pytest.mark.parametrize("name", SUSPICIOUS)
def test_what_is_suspicious_is_told(study, name):
    fault, code, is_error = SUSPICIOUS[name]
    path = fault(study.target)
    found = check(manifest.Study("ann", study.sources, path)).findings
    assert code in [finding.code for finding in found]
    assert is_error == any(f.severity == verify.ERROR for f in found)


# Good files that a careless check would refuse.


def as_integers(kind, slope, intercept):
    """Stores the values as integers, with a slope."""

    def make(path):
        image = nib.load(path, mmap=False)
        raw = np.rint((image.get_fdata() - intercept) / slope).astype(kind)
        header = nib.Nifti1Header(endianness=kind[0])
        header.set_data_dtype(kind)
        stored = nib.Nifti1Image(raw, image.affine, header)
        stored.header.set_slope_inter(slope, intercept)
        nib.save(stored, path)
        return path

    return make


def saved_as(kind, dtype=np.float32):
    def make(path):
        image = nib.load(path, mmap=False)
        array = image.get_fdata().astype(dtype)
        nib.save(kind(array, image.affine), path)
        return path

    return make


def other_axes(codes):
    """The same image with its axes in another order and direction."""

    def make(path):
        image = nib.load(path, mmap=False)
        turn = nib.orientations.ornt_transform(
            nib.io_orientation(image.affine),
            nib.orientations.axcodes2ornt(codes),
        )
        nib.save(image.as_reoriented(turn), path)
        return path

    return make


def finer(path):
    """The same image on a grid of half the spacing."""
    volume = io.read_volume(path)
    array = volume.array.repeat(2, 0).repeat(2, 1)
    affine = volume.affine @ np.diag([0.5, 0.5, 1, 1])
    affine[:3, 3] -= (affine[:3, 0] + affine[:3, 1]) / 2
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def named(name):
    def make(path):
        new = path.with_name("ordner für Zoë") / name
        new.parent.mkdir()
        return path.rename(new)

    return make


def linked(path):
    real = path.rename(path.with_name("real.nii"))
    path.symlink_to(real)
    return path


def stack(path):
    folder = path.with_name("slices")
    io.write_volume(folder / "*.png", io.read_volume(path))
    return folder


def with_words(path):
    """A header as a hospital fills it in."""
    path = field("descrip", b"axial, kV 120")(path)
    return field("db_name", b"visit 2")(path)


GOOD = {
    "as it is": lambda path: path,
    "gzip": packed(),
    "NIfTI-2": saved_as(nib.Nifti2Image),
    "double precision": saved_as(nib.Nifti1Image, np.float64),
    "integers, little endian": as_integers("<i2", 1, -1024),
    "integers, big endian": as_integers(">i2", 0.5, -1024),
    "slope zero: not scaled": fields(field("scl_slope", 0.0)),
    "place by both forms": field("qform_code", 1),
    "place by the qform alone": fields(
        field("sform_code", 0), field("qform_code", 1)
    ),
    "a fourth axis of one": values(lambda a, m: (a[..., None], m)),
    "LPS": other_axes("LPS"),
    "slices along x": other_axes("SAR"),
    "a finer grid than the source": finer,
    "mha": converted(".mha"),
    "nrrd": converted(".nrrd"),
    "npy with its note": converted(".npy"),
    "a stack of PNG": stack,
    "spaces and umlauts": named("größe 1.nii"),
    "a name of 255 bytes": named("n" * 251 + ".nii"),
    "a link in its folder": linked,
    "words in the header": with_words,
    "the bed below zero": voxel(-1500),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_image_is_never_refused(study, name):
    path = GOOD[name](study.target)
    study = manifest.Study("ann", study.sources, path)
    found = [f for f in check(study).findings if f.severity == verify.ERROR]
    assert found == []
    prepared = pairs.prepare_study(MR_CT, pairs.Options(), study)
    assert len(prepared.samples) == 6


# Faults of a source, which another modality would not have.


@pytest.mark.parametrize(
    ("task", "name", "fault", "code"),
    [
        (MR_CT, "MR", values(lambda a, m: (a - 500, m)), "MODALITY"),
        (PET_CT, "PET", values(lambda a, m: (a * 5e3, m)), "PET_UNIT"),
    ],
)
def test_a_source_in_another_unit_is_told_and_refused(
    study, images, task, name, fault, code
):
    path = study.target.with_name(f"{name}.nii")
    volume = images[name]
    nib.save(nib.Nifti1Image(volume.array, volume.affine), path)
    study = manifest.Study("ann", (fault(path),), study.target)
    assert code in [finding.code for finding in check(study, task).findings]
    with pytest.raises(errors.DataError) as caught:
        pairs.prepare_study(task, pairs.Options(), study)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
