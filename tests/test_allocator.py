"""Memory that was freed is used again without asking the kernel."""

import subprocess
import sys

import pytest

from medgan_tf import allocator

# Blocks of 64 MB, which glibc by default maps anew each time: 16,384 pages
# of 4 kB that the kernel has to clear.
COUNT_FAULTS = """
import resource, sys
from medgan_tf import allocator
if "keep" in sys.argv:
    assert allocator.keep_freed_memory()
for i in range(6):
    if i == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(b"1") * 2**26
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(
    sys.platform != "linux", reason="the settings are those of glibc"
)
def test_a_freed_block_is_kept_for_the_next():
    assert faults("keep") < faults() / 10


def test_another_c_library_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.keep_freed_memory() is False
