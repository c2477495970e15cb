"""Reads an image file into a Volume, and writes a Volume to a file.

NIfTI is parsed here from its raw header, because nibabel mends or ignores
much of what should stop a medical program: a wrong checksum, a slope that is
not a number, a negative voxel size. To add a format, add one line to READERS.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import pathlib
import warnings
import zlib

import nibabel as nib
import numpy as np

from medgan_tf import errors
from medgan_tf.data import volume as volumes

# A header can declare any size in a few bytes: refuse before reading.
MAX_VOLUME_GB = 4

# Fields that say where a NIfTI image lies in the patient.
_PLACE_FIELDS = (
    "qform_code sform_code quatern_b quatern_c quatern_d "
    "qoffset_x qoffset_y qoffset_z srow_x srow_y srow_z"
).split()


def read_volume(path: str | os.PathLike) -> volumes.Volume:
    """Reads one 3-D image, whole, and refuses what cannot be trusted.

    Args:
      path: a file whose name ends in one of READERS.

    Returns:
      The volume; float32 values after the file's own slope and intercept,
      (X, Y, Z) in the order of the file, affine in RAS+ mm.

    Raises:
      DataError: the file is missing, damaged, too large, not a 3-D image of
        real finite numbers, or does not say where it lies.
      ResourceError: the system does not let us read it.
    """
    path = pathlib.Path(path)
    read = READERS[_suffix(path)]
    with _naming(path):
        volume = read(path)
    _check_affine(path, volume.affine)
    _check_finite(path, volume.array)
    return volume


def write_volume(
    path: str | os.PathLike,
    volume: volumes.Volume,
    like: str | os.PathLike | None = None,
) -> None:
    """Writes float32 NIfTI without any free text, whole or not at all.

    Args:
      path: file to write, `.nii` or `.nii.gz`; replaced if it exists.
      volume: what to write.
      like: NIfTI file that has the grid of `volume`. Its position fields are
        copied bit by bit, so that any viewer lays the two exactly upon each
        other. Without it the affine is rounded to float32, all that
        NIfTI-1 can hold; a `like` of another format counts as none.

    Raises:
      DataError: values are not finite, or `volume` is not on the grid of
        `like`, or the name has another suffix.
      ResourceError: the folder is missing, not writable or full.
    """
    path = pathlib.Path(path)
    check_writable(path)
    _check_finite(path, volume.array)
    if like is not None and _suffix(pathlib.Path(like)) in _NIFTI:
        header = _header_like(pathlib.Path(like), volume)
    else:
        header = _header_of(volume)
    # The name is unlike any other's, and beside `path`, because os.replace
    # is only atomic within one file system.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, "wb") as file:
            with _compressed(file, path) as stream:
                header.write_to(stream)
                stream.write(volume.array.astype("<f4").tobytes(order="F"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise errors.ResourceError(
            f"{path}: cannot be written ({error.strerror}); check that the "
            "folder exists, is writable and has space."
        ) from error
    finally:
        # Gone already if all went well; its absence must hide no error.
        with contextlib.suppress(OSError):
            unfinished.unlink()


def check_writable(path: str | os.PathLike) -> None:
    """Refuses a path that `write_volume` could not write, before the work.

    Raises:
      DataError: the name has a suffix that cannot be written.
      ResourceError: the folder is missing or not writable.
    """
    path = pathlib.Path(path)
    if _suffix(path) not in _NIFTI:
        raise errors.refusal(
            path, f"suffix {path.suffix}", " or ".join(_NIFTI), "rename it"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK) or path.is_dir():
        raise errors.ResourceError(
            f"{path}: cannot be written; check that the folder exists and is "
            "writable, and that the name is not a folder's."
        )


@contextlib.contextmanager
def _naming(path: pathlib.Path):
    """Turns what goes wrong while reading into an error that names the file."""
    if not path.exists():
        raise errors.refusal(path, "no such file", "an image", "check the path")
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise errors.refusal(
            path,
            f"a damaged gzip stream ({error})",
            "a stream that is whole up to its checksum",
            "copy the file again",
        ) from error
    except OSError as error:
        raise errors.ResourceError(
            f"{path}: cannot be read ({error.strerror}); check that it is a "
            "file and that you have permission."
        ) from error


def _read_nifti(path: pathlib.Path) -> volumes.Volume:
    """Reads `.nii` or `.nii.gz`."""
    with _decompressed(path) as stream:
        header = _read_header(path, stream)
        shape, dtype = _shape(path, header), _dtype(path, header)
        count = int(np.prod(shape, dtype=object))
        gigabytes = count * max(dtype.itemsize, 4) / 1e9
        if gigabytes > MAX_VOLUME_GB:
            raise errors.refusal(
                path,
                f"{' x '.join(map(str, shape))} voxels, {gigabytes:.1f} GB",
                f"at most {MAX_VOLUME_GB} GB",
                "crop it, or check the header's dim",
            )
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


# Suffix -> reader: (path) -> Volume.
READERS = {".nii": _read_nifti, ".nii.gz": _read_nifti}
_NIFTI = (".nii", ".nii.gz")


def _suffix(path: pathlib.Path) -> str:
    """The longest known suffix of a file name."""
    known = [s for s in READERS if path.name.lower().endswith(s)]
    if not known:
        raise errors.refusal(
            path,
            f"suffix {path.suffix or '(none)'}",
            " or ".join(READERS),
            "convert the image",
        )
    return max(known, key=len)


def _decompressed(path: pathlib.Path):
    gzipped = _suffix(path).endswith(".gz")
    return gzip.open(path, "rb") if gzipped else open(path, "rb")


def _compressed(file, path: pathlib.Path):
    if not _suffix(path).endswith(".gz"):
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
    if not header.sizeof_hdr <= start <= MAX_VOLUME_GB * 1e9:
        raise errors.refusal(
            path,
            f"vox_offset {start:g}",
            f"at least {header.sizeof_hdr}",
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
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        warnings.warn(
            f"{path}: neither sform nor qform is set, assumed axes "
            f"{''.join(nib.aff2axcodes(affine))}; check left and right.",
            stacklevel=4,
        )
    return affine


def _check_affine(path: pathlib.Path, affine: np.ndarray) -> None:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Volume of a voxel over that of a box with the same edges.
        volume_share = abs(np.linalg.det(affine[:3, :3])) / lengths.prod()
    if not (np.isfinite(affine).all() and volume_share > 1e-6):
        raise errors.refusal(
            path,
            "an affine that is singular or not finite",
            "three independent axes in mm",
            "correct the header's sform or qform",
        )


def _check_finite(path: pathlib.Path, array: np.ndarray) -> None:
    bad = ~np.isfinite(array)
    if bad.any():
        first = np.unravel_index(int(np.argmax(bad)), array.shape)
        raise errors.refusal(
            path,
            f"{np.count_nonzero(bad)} voxels that are NaN or infinite, the "
            f"first at index {tuple(int(i) for i in first)}",
            "finite values",
            "replace them, or repeat what made them",
        )


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
    with _naming(path), _decompressed(path) as stream:
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
