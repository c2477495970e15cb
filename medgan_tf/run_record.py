"""`metrics.jsonl`: the numbers of a run, a line for each look at it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping

from medgan_tf import json_files

FILE = "metrics.jsonl"


def append(
    workdir: pathlib.Path, split: str, step: int, values: Mapping[str, float]
) -> None:
    """Adds a line; a number that is not finite is null in it.

    Raises:
      OSError: it cannot be written.
    """
    line = {"step": step, "split": split, "time": round(time.time(), 3)}
    for name, value in values.items():
        line[name] = value if math.isfinite(value) else None
    with open(workdir / FILE, "ab+") as file:
        if file.tell():
            # A crash may have cut the last line off.
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(line).encode() + b"\n")


def read(workdir: pathlib.Path, split: str) -> dict[int, dict]:
    """Step -> line of a split, by steps.

    A step that was taken again counts as it was taken last; a line that a
    crash cut off is passed over.

    Raises:
      OSError: there is none, or it cannot be read.
    """
    found = {}
    for text in (workdir / FILE).read_bytes().splitlines():
        with contextlib.suppress(
            ValueError, LookupError, TypeError, OverflowError
        ):
            line = json_files.loads(text)
            if line["split"] == split:
                found[int(line["step"])] = line
    return dict(sorted(found.items()))
