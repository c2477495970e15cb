"""What the faults are done to: good images, and places without room."""

import contextlib
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import nibabel as nib
import pytest

from medgan_tf.data import manifest, phantom

TOOLS = pathlib.Path(__file__).parents[2] / "tools"


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
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    if shutil.which("mount") and not subprocess.call(
        mount, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ):
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


@pytest.fixture(scope="session")
def dataset(write_records, tmp_path_factory):
    """Records of MR to CT: two patients of two slices, one to validate on."""
    folder = tmp_path_factory.mktemp("faults") / "data"
    return write_records(folder, ("train", "train", "validation"))


@pytest.fixture
def child(tmp_path):
    """A function: starts a tool in a process of its own, with its own TMPDIR.

    Because a TensorFlow that is killed leaves files there.
    """
    started = []
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    def start(tool, *arguments, **settings):
        process = subprocess.Popen(
            [sys.executable, TOOLS / tool, *map(str, arguments)],
            env={**os.environ, "TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **settings,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        # SIGTERM may be swallowed.
        process.kill()
        process.communicate()
