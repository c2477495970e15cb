"""NIfTI, parsed from its raw header.

Because nibabel mends or ignores much of what should stop a medical program: a
wrong checksum, a slope that is not a number, a negative voxel size.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import pathlib
import warnings
import zlib

import nibabel as nib
import numpy as np

from medgan_tf import errors
from medgan_tf.data import volume as volumes

# Of the byte where voxels begin: before it lie extensions, which are skipped.
_LAST_START = 2**26
# By which voxel sizes may differ: registration leaves small scales in a sform.
_SIZE_TOLERANCE = 0.02
# Fields that say where a NIfTI image lies in the patient.
_PLACE_FIELDS = (
    "qform_code sform_code quatern_b quatern_c quatern_d "
    "qoffset_x qoffset_y qoffset_z srow_x srow_y srow_z"
).split()


def read(path: pathlib.Path) -> volumes.Volume:
    """Reads `.nii` or `.nii.gz`, as stored, to the end of the stream.

    Raises:
      DataError: it is damaged, too large or not a 3-D image of real numbers.
    """
    try:
        return _read(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise errors.refusal(
            path,
            f"a damaged gzip stream ({error})",
            "a stream that is whole up to its checksum",
            "copy the file again",
        ) from error


def write(
    path: pathlib.Path, volume: volumes.Volume, like: pathlib.Path | None
) -> None:
    """Writes float32 without any free text.

    Args:
      path: `.nii` or `.nii.gz`.
      volume: what to write.
      like: NIfTI file that has the grid of `volume`. Its position fields are
        copied bit by bit; without it the affine is rounded to float32, all
        that NIfTI-1 can hold.

    Raises:
      DataError: `volume` is not on the grid of `like`.
    """
    header = _header_like(like, volume) if like else _header_of(volume)
    with open(path, "wb") as file, _compressed(file, path) as stream:
        header.write_to(stream)
        stream.write(volume.array.astype("<f4").tobytes(order="F"))


def _read(path: pathlib.Path) -> volumes.Volume:
    with _decompressed(path) as stream:
        header = _read_header(path, stream)
        shape, dtype = _shape(path, header), _dtype(path, header)
        count = volumes.checked_count(path, shape, dtype.itemsize)
        start = _data_start(path, header)
        end = start + count * dtype.itemsize
        stream.seek(0)
        # One byte more than there should be, because only at the end of the
        # stream is the gzip checksum compared.
        contents = stream.read(end + 1)
    if len(contents) != end:
        more = "more than " if len(contents) > end else ""
        raise errors.refusal(
            path,
            f"{more}{min(len(contents), end)} bytes",
            f"{end} by its header",
            "copy the file again",
        )
    raw = np.frombuffer(contents, dtype, count, start)
    array = _scale(path, header, raw.reshape(shape, order="F"))
    return volumes.Volume(array, _affine(path, header))


def _decompressed(path: pathlib.Path):
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rb")
    return open(path, "rb")


def _compressed(file, path: pathlib.Path):
    if not path.name.lower().endswith(".gz"):
        return contextlib.nullcontext(file)
    # No name and no time in the gzip header: equal volumes, equal bytes.
    return gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)


def _read_header(path: pathlib.Path, stream) -> nib.Nifti1Header:
    """The header exactly as stored: nothing repaired."""
    block = stream.read(nib.Nifti2Header.sizeof_hdr)
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        if kind.may_contain_header(block):
            header = kind(block[: kind.sizeof_hdr], check=False)
            if (
                header["sizeof_hdr"] == kind.sizeof_hdr
                and header["magic"] == kind.single_magic
            ):
                return header
    raise errors.refusal(
        path, "no NIfTI header", "a single-file NIfTI image", "convert it"
    )


def _shape(path: pathlib.Path, header) -> tuple[int, int, int]:
    num_axes = int(header["dim"][0])
    sizes = [int(n) for n in header["dim"][1 : num_axes + 1]]
    found = " x ".join(map(str, sizes)) + " voxels"
    if min(sizes, default=0) < 1 or num_axes > 7:
        raise errors.refusal(
            path, f"size {found}", "at least 1 along each axis", "export again"
        )
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) == 4:
        found += f" ({sizes[3]} time points)"
    if len(sizes) != 3:
        raise errors.refusal(
            path,
            f"a {len(sizes)}-D image of {found}",
            "3 axes",
            "save one 3-D image per file",
        )
    return tuple(sizes)


def _dtype(path: pathlib.Path, header) -> np.dtype:
    remedy = "save it as int16 or float32"
    code = int(header["datatype"])
    try:
        dtype = header.get_data_dtype()
    except (KeyError, nib.spatialimages.HeaderDataError) as error:
        raise errors.refusal(
            path, f"unknown data type {code}", "real numbers", remedy
        ) from error
    if dtype.kind not in "iuf":
        kind = "complex" if dtype.kind == "c" else "colour"
        raise errors.refusal(path, f"{kind} voxels", "real numbers", remedy)
    if header["bitpix"] != 8 * dtype.itemsize:
        raise errors.refusal(
            path,
            f"bitpix {header['bitpix']}",
            f"{8 * dtype.itemsize} for {dtype.name}",
            "export again",
        )
    return dtype


def _data_start(path: pathlib.Path, header) -> int:
    """Byte at which the voxels start."""
    start = float(header["vox_offset"])
    if not header.sizeof_hdr <= start <= _LAST_START:
        raise errors.refusal(
            path,
            f"vox_offset {start:g}",
            f"{header.sizeof_hdr} to {_LAST_START}",
            "export again",
        )
    return int(start)


def _scale(path: pathlib.Path, header, raw: np.ndarray) -> np.ndarray:
    """float32 values in physical units."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite([slope, intercept]).all():
        raise errors.refusal(
            path,
            f"scl_slope {slope}, scl_inter {intercept}",
            "finite numbers",
            "correct the header: without them the unit is unknown",
        )
    if slope == 0:  # The standard's way to say "not scaled".
        slope, intercept = 1.0, 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        exact = raw
        if (slope, intercept) != (1.0, 0.0):
            exact = raw.astype(np.float64) * slope + intercept
        # Row-major, because resampling is twice as fast on it.
        array = exact.astype(np.float32, order="C")
        if np.any(np.isinf(array) & np.isfinite(raw)):
            raise errors.refusal(
                path,
                "values beyond the range of float32",
                "below 3.4e38",
                "check the header's scl_slope",
            )
    return array


def _affine(path: pathlib.Path, header) -> np.ndarray:
    """Voxel index -> RAS+ mm: sform, else qform, else by voxel size only."""
    spacing = np.asarray(header["pixdim"][1:4], np.float64)
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise errors.refusal(
            path,
            f"voxel size (pixdim) {tuple(spacing.tolist())}",
            "positive mm",
            "correct the header",
        )
    # Low three bits: unit of length; 1 metre, 3 micrometre, else mm.
    if int(header["xyzt_units"]) % 8 in (1, 3):
        raise errors.refusal(
            path, "lengths not in mm (xyzt_units)", "mm", "convert the header"
        )
    try:
        affine = header.get_best_affine()
    except (ValueError, nib.spatialimages.HeaderDataError) as error:
        raise errors.refusal(
            path, f"an impossible qform ({error})", "a rotation", "export again"
        ) from error
    found = nib.affines.voxel_sizes(affine)
    # One that is singular is refused, as that of any other format.
    is_sound = np.isfinite(affine).all() and np.linalg.det(affine) != 0
    if is_sound and not np.allclose(found, spacing, rtol=_SIZE_TOLERANCE):
        warnings.warn(
            f"{path}: voxels of {_in_mm(found)} by its sform and of "
            f"{_in_mm(spacing)} by its pixdim, took the sform; check which "
            "program changed one of them.",
            stacklevel=4,
        )
    _warn_of_two_places(path, header, affine)
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        warnings.warn(
            f"{path}: neither sform nor qform is set, assumed axes "
            f"{''.join(nib.aff2axcodes(affine))}; check left and right.",
            stacklevel=4,
        )
    return affine


def _warn_of_two_places(path: pathlib.Path, header, affine) -> None:
    """Says where sform and qform claim the same space and differ in it.

    In different spaces they may: of scanner and of atlas, for one.
    """
    code = int(header["sform_code"])
    if code == 0 or code != header["qform_code"]:
        return
    try:
        other = header.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError):
        return  # Nobody reads it.
    last = np.subtract(header["dim"][1:4], 1)
    corners = np.array(list(itertools.product(*((0, n) for n in last))))
    distance = np.linalg.norm(
        nib.affines.apply_affine(affine, corners)
        - nib.affines.apply_affine(other, corners),
        axis=1,
    ).max()
    # NaN, of an affine that is refused later, is not more.
    if distance > nib.affines.voxel_sizes(affine).max():
        warnings.warn(
            f"{path}: its sform and its qform are {distance:.4g} mm apart "
            "though of the same space, took the sform; check left and right, "
            "and which program changed one of them.",
            stacklevel=5,
        )


def _in_mm(sizes: np.ndarray) -> str:
    return f"{' x '.join(f'{size:.4g}' for size in sizes)} mm"


def _header_of(volume: volumes.Volume) -> nib.Nifti1Header:
    """A clean header with the place of `volume` in sform and qform."""
    header = _empty_header(nib.Nifti1Header, volume)
    header["pixdim"][1:4] = volume.spacing
    header.set_sform(volume.affine, code="scanner")
    try:
        header.set_qform(volume.affine, code="scanner", strip_shears=False)
    except nib.spatialimages.HeaderDataError:
        # Because a qform cannot hold shears, only the sform is valid then.
        header["qform_code"] = 0
    return header


def _header_like(path: pathlib.Path, volume: volumes.Volume):
    """A clean header with the place fields of another NIfTI file."""
    with _decompressed(path) as stream:
        theirs = _read_header(path, stream)
    same_shape = _shape(path, theirs) == volume.shape
    if not (
        same_shape and np.array_equal(theirs.get_best_affine(), volume.affine)
    ):
        raise errors.refusal(
            path,
            f"another grid than that of the {volume.shape} volume to write",
            "the same shape and affine",
            "bring the volume back to this grid first",
        )
    header = _empty_header(type(theirs), volume)
    header["pixdim"][:4] = theirs["pixdim"][:4]
    for field in _PLACE_FIELDS:
        header[field] = theirs[field]
    return header


def _empty_header(kind: type, volume: volumes.Volume):
    """float32, in mm, values as they are, and no words in it."""
    header = kind(endianness="<")
    header.set_data_dtype(np.float32)
    header.set_data_shape(volume.shape)
    header.set_xyzt_units("mm")
    header["magic"] = kind.single_magic
    header["vox_offset"] = kind.sizeof_hdr + 4  # 4 bytes: no extensions.
    header["scl_slope"], header["scl_inter"] = 1, 0
    return header
