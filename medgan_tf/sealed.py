"""JSON files that tell when they were changed.

`dataset.json`, `run.json`, `best.json` and `medgan.json` say which windows,
voxel sizes and networks the numbers beside them belong to, `scores.json` what
is published: one wrong digit there is believed without a word.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib

from medgan_tf import json_files

SEAL = "sha256"


def dumps(content: dict) -> str:
    """The text of a file: the content, and the SHA-256 of it.

    Raises:
      ValueError: a number is not finite.
      TypeError: it holds what is not JSON.
    """
    sealed = {**content, SEAL: _digest(content)}
    return json.dumps(sealed, indent=1, allow_nan=False) + "\n"


def loads(text: str) -> dict:
    """The content of a file; lines and spaces may have changed.

    Raises:
      ValueError: it is not as `dumps` wrote it.
    """
    return _opened(json_files.loads(text))


def write(path: pathlib.Path, content: dict) -> None:
    """Writes a file, whole or not at all."""
    # Several processes may prepare the same study.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(dumps(content))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: pathlib.Path) -> dict:
    """Reads a file that `write` wrote.

    Raises:
      ValueError: it was changed since.
      OSError: it cannot be read.
    """
    return _opened(json_files.read(path))


def _opened(content: object) -> dict:
    if not isinstance(content, dict) or SEAL not in content:
        raise ValueError(f"no {SEAL} of its content")
    if content.pop(SEAL) != _digest(content):
        raise ValueError("its content has another SHA-256 than when written")
    return content


def _digest(content: dict) -> str:
    # Sorted only after keys are text, which is all that JSON has.
    as_stored = json.loads(json.dumps(content, allow_nan=False))
    text = json.dumps(as_stored, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
