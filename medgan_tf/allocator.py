"""Keeps freed memory in the process, because a training step wants it back.

By default glibc asks the kernel for every tensor of more than 32 MB and gives
it back when the tensor is gone; the kernel then clears the same pages anew,
hundreds of thousands of times a step. All scripts that use TensorFlow do it.
"""

from __future__ import annotations

import ctypes

# mallopt(3): parameters and values.
_SETTINGS = (
    (-8, 1),  # M_ARENA_MAX: one heap, from which all threads take
    (-4, 0),  # M_MMAP_MAX: nothing outside of it
    (-2, 2**28),  # M_TOP_PAD: it grows by 256 MB
    (-1, 2**31 - 1),  # M_TRIM_THRESHOLD: and hardly shrinks
)


def keep_freed_memory() -> bool:
    """Tells the C library's allocator so; at best before any thread starts.

    Returns:
      False where the C library is not glibc and so has no such settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(parameter, value) for parameter, value in _SETTINGS
    )


def return_freed_memory() -> None:
    """Gives back what was kept, for a process that now waits."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
