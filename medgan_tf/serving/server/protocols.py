"""What a request asks, whichever protocol it came by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import orjson

from medgan_tf.serving.server import statuses

DEFAULT_SIGNATURE = "serving_default"

Signatures = Mapping[str, Mapping]


@dataclasses.dataclass(frozen=True)
class Question:
    """What a request asks.

    Attributes:
      signature: its name.
      inputs: name -> float32 array, or array of bytes objects.
      is_rows: V1 with `instances`: the answer comes slice by slice.
      id: V2: comes back with the answer.
      outputs: V2: name -> whether as raw bytes; None: all of them.
      is_raw: V2: whether as raw bytes where `outputs` does not say.
    """

    signature: str
    inputs: dict[str, np.ndarray]
    is_rows: bool = False
    id: str | None = None
    outputs: dict[str, bool] | None = None
    is_raw: bool = False


def known(signature: object, signatures: Signatures) -> Mapping:
    """What `medgan.json` says of a signature.

    Raises:
      RefusedError: there is none of that name.
    """
    if not isinstance(signature, str) or signature not in signatures:
        raise statuses.invalid(
            "signature_name",
            repr(signature)[:40],
            f"one of {', '.join(signatures)}",
        )
    return signatures[signature]


def from_json(body: bytes | memoryview) -> dict:
    """A JSON object.

    Raises:
      RefusedError: it is none.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise statuses.invalid("body", f"no JSON ({error})", "JSON") from error
    if not isinstance(content, dict):
        raise statuses.invalid("body", "no JSON object", "{...}")
    return content


def to_json(content: dict) -> bytes:
    """The inverse; an array becomes nested lists."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def floats(name: str, values: object) -> np.ndarray:
    """Nested lists of numbers as float32.

    Raises:
      RefusedError: rows differ in length, or something is no number.
    """
    expected = "numbers, as many in each row"
    # As objects, because numpy would make every value as long as the longest
    # text among them: a small body could ask for all memory.
    try:
        array = np.array(values, dtype=object)
    except ValueError as error:
        raise statuses.invalid(name, "rows that differ", expected) from error
    kinds = set(map(type, array.ravel()))
    if list in kinds:
        raise statuses.invalid(name, "rows that differ", expected)
    if not kinds <= {int, float}:
        raise statuses.invalid(name, "what is no number", expected)
    # What is too large becomes infinite, which the model refuses.
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def texts(name: str, values: object) -> np.ndarray:
    """Nested lists of bytes as an array of objects.

    Raises:
      RefusedError: rows differ in length, or something is no bytes.
    """
    try:
        array = np.array(values, dtype=object)
    except ValueError:
        array = np.array([None])
    if not all(isinstance(text, bytes) for text in array.ravel()):
        raise statuses.invalid(
            name, "what is no bytes", "bytes, as many in each row"
        )
    return array
