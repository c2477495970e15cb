"""Requests and answers of V1, as TensorFlow Serving's REST writes them.

JSON with `instances`, one for each slice, or `inputs`, one array for all;
bytes are {"b64": "..."}; `signature_name` picks a signature (RESTful API, in
TensorFlow Serving's guide).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import numpy as np

from medgan_tf.serving.server import protocols, statuses


def read(body: bytes, signatures: protocols.Signatures) -> protocols.Question:
    """Reads a request of V1.

    Args:
      body: JSON.
      signatures: of `medgan.json`.

    Raises:
      RefusedError: it is not such a request.
    """
    content = protocols.from_json(body)
    given = [key for key in ("instances", "inputs") if key in content]
    if len(given) != 1:
        raise statuses.invalid(
            "body", " and ".join(given) or "neither", "instances or inputs"
        )
    signature = content.get("signature_name", protocols.DEFAULT_SIGNATURE)
    names = protocols.known(signature, signatures)["inputs"]
    columns = content[given[0]]
    is_rows = given == ["instances"]
    if is_rows:
        columns = _columns(columns, names)
    elif not isinstance(columns, dict) or set(columns) == {"b64"}:
        columns = {_only(names): columns}
    inputs = {key: _array(key, value) for key, value in columns.items()}
    return protocols.Question(signature, inputs, is_rows)


def write(
    question: protocols.Question, outputs: Mapping[str, np.ndarray]
) -> bytes:
    """The answer to a request of V1, as JSON."""
    columns = {key: _lists(value) for key, value in outputs.items()}
    if not question.is_rows:
        if len(columns) == 1:
            (columns,) = columns.values()
        return protocols.to_json({"outputs": columns})
    if len(columns) == 1:
        (rows,) = columns.values()
    else:
        rows = [
            dict(zip(columns, row, strict=True))
            for row in zip(*columns.values(), strict=True)
        ]
    return protocols.to_json({"predictions": rows})


def _columns(rows: object, names: Mapping) -> dict[str, list]:
    """Input -> one value for each instance."""
    if not isinstance(rows, list) or not rows:
        raise statuses.invalid("instances", "no list, or none", "[...]")
    if not isinstance(rows[0], dict) or set(rows[0]) == {"b64"}:
        return {_only(names): rows}
    for row in rows:
        if not isinstance(row, dict) or row.keys() != rows[0].keys():
            raise statuses.invalid(
                "instances", "some that differ in their names", "the same names"
            )
    return {name: [row[name] for row in rows] for name in rows[0]}


def _only(names: Mapping) -> str:
    if len(names) != 1:
        raise statuses.invalid(
            "inputs of the signature", "no names", " and ".join(names)
        )
    return next(iter(names))


def _array(name: str, values: object) -> np.ndarray:
    """An array of V1: numbers, or {"b64": text}."""
    first = values
    while isinstance(first, list) and first:
        first = first[0]
    if isinstance(first, dict):
        return protocols.texts(name, _decoded(name, values))
    return protocols.floats(name, values)


def _decoded(name: str, values: object, most_axes: int = 8) -> object:
    if isinstance(values, list) and most_axes:
        return [_decoded(name, value, most_axes - 1) for value in values]
    try:
        (key, text), *_ = values.items()
        if key == "b64":
            return base64.b64decode(text, validate=True)
    except (AttributeError, TypeError, ValueError, binascii.Error):
        pass
    raise statuses.invalid(
        name, "bytes that are not base64", 'each as {"b64": "..."}'
    )


def _lists(array: np.ndarray) -> np.ndarray | list:
    if array.dtype != object:
        return np.ascontiguousarray(array)
    return [
        {"b64": base64.b64encode(text).decode()}
        if isinstance(text, bytes)
        else _lists(text)
        for text in array
    ]
