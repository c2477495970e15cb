"""What the faults are done to: good images, and places without room."""

import contextlib
import pathlib
import resource
import subprocess

import nibabel as nib
import pytest

from medgan_tf.data import manifest, phantom


@pytest.fixture(scope="session")
def images():
    """MR, CT and PET of one patient, 44 x 40 x 6 voxels of 8 mm."""
    return phantom.patient(3, shape=(44, 40, 6), spacing=(8.0, 8.0, 8.0))


@pytest.fixture
def study(tmp_path, images):
    """Files ann/MR.nii and ann/CT.nii, MR to CT."""
    folder = tmp_path / "ann"
    folder.mkdir()
    for name in ("MR", "CT"):
        volume = images[name]
        image = nib.Nifti1Image(volume.array, volume.affine)
        nib.save(image, folder / f"{name}.nii")
    return manifest.Study("ann", (folder / "MR.nii",), folder / "CT.nii")


@contextlib.contextmanager
def _small_disk(folder: pathlib.Path, num_bytes: int):
    size = f"size={num_bytes}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)],
        capture_output=True,
    )
    if mounted.returncode == 0:
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        return
    # Who may not mount gets files that may not grow beyond the size.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path):
    """A function: a folder that takes so many bytes, inside `with`."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    return lambda num_bytes: _small_disk(folder, num_bytes)
