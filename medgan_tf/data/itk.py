"""MHA and NRRD, by SimpleITK.

ITK's space is LPS+ mm, ours RAS+: the first two rows of the affine change
their sign.
"""

from __future__ import annotations

import math
import os
import pathlib
import re
import zlib

import numpy as np
import SimpleITK as sitk

from medgan_tf import errors
from medgan_tf.data import volume as volumes

# Of a voxel, by MetaImage's word for its type.
_BYTES = {
    b"MET_CHAR": 1,
    b"MET_UCHAR": 1,
    b"MET_SHORT": 2,
    b"MET_USHORT": 2,
    b"MET_INT": 4,
    b"MET_UINT": 4,
    b"MET_LONG": 8,
    b"MET_ULONG": 8,
    b"MET_LONG_LONG": 8,
    b"MET_ULONG_LONG": 8,
    b"MET_FLOAT": 4,
    b"MET_DOUBLE": 8,
}
# A line of a header. ITK also takes a colon in place of the sign and cuts lines
# that are longer; nobody writes either, and we must read what ITK reads.
_FIELD = re.compile(rb"[ \t]*(\w+)[ \t]*=[ \t]*([^\0]*?)\s*")
_LONGEST_LINE = 400
_DETACHED = re.compile(rb"\s*data\s*file\s*:", re.IGNORECASE)
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read(path: pathlib.Path) -> volumes.Volume:
    """Reads one volume as stored.

    Raises:
      DataError: it is damaged, too large or not a 3-D image of real numbers.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _check_header(path, reader)
        if path.suffix.lower() == ".mha":
            _check_stream(path, reader.GetSize())
        else:
            _check_attached(path)
        image = reader.Execute()
    except RuntimeError as error:
        raise errors.refusal(
            path,
            f"a damaged image ({_reason(error)})",
            f"a whole {path.suffix} file",
            "copy the file again",
        ) from error
    array = sitk.GetArrayFromImage(image)
    array = array.reshape(array.shape[-3:]).transpose(2, 1, 0)
    return volumes.Volume(
        np.ascontiguousarray(array, np.float32), affine_of(image)
    )


def write(
    path: pathlib.Path, volume: volumes.Volume, like: pathlib.Path | None
) -> None:
    """Writes float32, compressed, without any free text.

    Args:
      path: `.mha` or `.nrrd`.
      volume: what to write.
      like: file of the same kind that has the grid of `volume`; its spacing,
        direction and origin are copied, in MHA to the bit. Without it, and by
        the writer of NRRD, they are worked out from the affine, to the last
        bit or two.

    Raises:
      DataError: `volume` is not on the grid of `like`, or its axes are not
        perpendicular, which these formats cannot hold.
    """
    array = np.ascontiguousarray(volume.array.T, np.float32)
    image = sitk.GetImageFromArray(array)
    if like is not None:
        theirs = sitk.ImageFileReader()
        theirs.SetFileName(str(like))
        theirs.ReadImageInformation()
        if theirs.GetSize()[:3] != volume.shape or not np.array_equal(
            affine_of(theirs), volume.affine
        ):
            raise errors.refusal(
                like,
                f"another grid than that of the {volume.shape} volume to write",
                "the same shape and affine",
                "bring the volume back to this grid first",
            )
        spacing, direction, origin = _place(theirs)
    else:
        lps = _LPS_TO_RAS @ volume.affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        direction, origin = lps[:3, :3] / spacing, lps[:3, 3]
        if np.abs(direction.T @ direction - np.eye(3)).max() > 1e-4:
            raise errors.refusal(
                path,
                "axes that are not perpendicular",
                "a grid without shear",
                "write NIfTI, which can hold it",
            )
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(origin.tolist())
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise OSError(0, _reason(error)) from error


def affine_of(image) -> np.ndarray:
    """Voxel index -> RAS+ mm of a SimpleITK image or of a reader's header."""
    spacing, direction, origin = _place(image)
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    affine[:3, 3] = origin
    return _LPS_TO_RAS @ affine


def _place(image) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spacing, direction (columns are axes) and origin in LPS mm."""
    size = image.GetDimension()
    direction = np.reshape(image.GetDirection(), (size, size))
    return (
        np.array(image.GetSpacing())[:3],
        direction[:3, :3],
        np.array(image.GetOrigin())[:3],
    )


def _check_header(path: pathlib.Path, reader) -> None:
    size = reader.GetSize()
    if len(size) < 3 or any(n != 1 for n in size[3:]):
        raise errors.refusal(
            path,
            f"a {len(size)}-D image of {' x '.join(map(str, size))} voxels",
            "3 axes",
            "save one 3-D image per file",
        )
    kind = reader.GetPixelID()
    # A complex number counts as two components.
    if reader.GetNumberOfComponents() != 1:
        raise errors.refusal(
            path,
            f"voxels of {sitk.GetPixelIDValueAsString(kind)}",
            "one real number each",
            "save it as 16-bit integer or float32",
        )
    # SimpleITK tells a type's size only once it is read: the largest is 8.
    volumes.checked_count(path, size[:3], 4)


def _check_stream(path: pathlib.Path, size: tuple[int, ...]) -> None:
    """Refuses voxels that are damaged or cut, which ITK only prints.

    Because it then goes on with what it could inflate.
    """
    with open(path, "rb") as file:
        fields = {}
        while b"ElementDataFile" not in fields:
            line = file.readline(_LONGEST_LINE)
            if not line:
                raise RuntimeError("its header does not end")
            field = _FIELD.fullmatch(line) if line.endswith(b"\n") else None
            if field is None:
                raise RuntimeError("its header has a line that is no field")
            fields[field[1]] = field[2]
        if fields[b"ElementDataFile"] != b"LOCAL":
            raise RuntimeError("its voxels are in another file")
        wanted = math.prod(size) * _BYTES.get(fields.get(b"ElementType"), 0)
        found = 0
        if fields.get(b"CompressedData", b"").lower() == b"true":
            inflate = zlib.decompressobj()
            while block := file.read(2**20):
                try:
                    found += len(inflate.decompress(block))
                except zlib.error as error:
                    raise RuntimeError(f"its stream: {error}") from error
                if found > wanted:
                    break
            if not inflate.eof:
                raise RuntimeError("its stream has no end")
        else:
            found = os.fstat(file.fileno()).st_size - file.tell()
    if found != wanted:
        raise RuntimeError(f"it has {found} bytes of voxels, not {wanted}")


def _check_attached(path: pathlib.Path) -> None:
    """Refuses an NRRD whose header leads to another file."""
    with open(path, "rb") as file:
        # The header ends with an empty line.
        while (line := file.readline(2**20)).strip():
            if _DETACHED.match(line):
                raise RuntimeError("its voxels are in another file")


def _reason(error: RuntimeError) -> str:
    """The last line of ITK's account, without its addresses."""
    line = str(error).strip().splitlines()[-1]
    return line.split("): ")[-1].strip().rstrip(".")
