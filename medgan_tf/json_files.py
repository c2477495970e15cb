"""JSON that may come from anyone, read without a crash or a wait.

Because Python's reader ends in a RecursionError on a few kilobytes of
brackets, and opening a pipe waits for whoever writes to it.
"""

from __future__ import annotations

import json
import os
import pathlib


def read(path: str | os.PathLike) -> object:
    """The content of a JSON file.

    Raises:
      OSError: it cannot be read.
      ValueError: it is no JSON, or no file but a pipe or a device.
    """
    path = pathlib.Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError("it is no regular file")
    return loads(path.read_bytes())


def loads(text: str | bytes) -> object:
    """The content of JSON, in UTF-8 where it is bytes.

    Raises:
      ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
