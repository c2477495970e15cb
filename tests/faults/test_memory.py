"""A small file cannot take the memory, and its lack is told in a line."""

import subprocess
import sys
import zlib

import nibabel as nib
import numpy as np
import pytest

MB = 2**20

# Reads a file; tells the error and by how much it took the memory, in MB.
READ = """
import resource, sys
from medgan_tf import errors
from medgan_tf.data import io

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before = peak()
try:
    io.read_volume(sys.argv[1])
except errors.DataError as error:
    print(error)
print(peak() - before)
"""


def header(*shape, kind=np.float32):
    made = nib.Nifti1Header()
    made.set_data_dtype(kind)
    made.set_data_shape(shape)
    made.set_sform(np.diag([-1, -1, 1, 1]), 1)
    made["vox_offset"] = 352
    return made.binaryblock + bytes(4)


def bomb(path, first, num_bytes):
    """So many zeros behind a header, compressed a thousandfold."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    with open(path, "wb") as file:
        file.write(packer.compress(first))
        for _ in range(num_bytes // (16 * MB)):
            file.write(packer.compress(bytes(16 * MB)))
        file.write(packer.flush())


# name -> (header, zeros behind it, words of the message)
BOMBS = {
    "4.2 GB by its header": (header(1024, 1024, 1000), 64 * MB, "at most 4 GB"),
    "more than its header says": (header(64, 64, 4), 1024 * MB, "more than"),
    "less than its header says": (header(1000, 1000, 990), 16 * MB, "bytes"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_no_memory(tmp_path, name):
    first, num_bytes, words = BOMBS[name]
    path = tmp_path / "bomb.nii.gz"
    bomb(path, first, num_bytes)
    assert path.stat().st_size < 4 * MB
    done = subprocess.run(
        [sys.executable, "-c", READ, path], capture_output=True, text=True
    )
    told, grown = done.stdout.splitlines()
    assert words in told and str(path) in told, done.stderr
    assert float(grown) < 200


# Trains with little more memory than TensorFlow has taken already.
TRAIN = """
import pathlib, resource, sys
import medgan_tf.tools.train as train
from medgan_tf.tools import _run

first = train.main

def main(arguments):
    _run.import_tensorflow()
    import tensorflow as tf
    from medgan_tf.training import loop

    whole = loop.train

    def with_little(*arguments, **settings):
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 400 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        return whole(*arguments, **settings)

    loop.train = with_little
    first(arguments)

main.__module__ = "medgan_tf.tools.train"
_run.run(main)
"""


@pytest.mark.slow
@pytest.mark.faults
def test_a_batch_that_does_not_fit_is_told_with_what_takes_less(
    tmp_path, dataset, child
):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    process = child(
        script,
        "--task=mr_ct",
        "--method=pix2pix_tf",
        f"--data_dir={dataset.folder}",
        f"--workdir={tmp_path / 'run'}",
        "--batch_size=4",
        "--jitter_size=256",
    )
    _, told = process.communicate(timeout=300)
    last = told.strip().splitlines()[-1]
    assert process.returncode == 6, told
    assert "out of memory with --batch_size=4 in 1 part of 256 x 256" in last
    assert "try --accumulate=2, --recompute," in last
