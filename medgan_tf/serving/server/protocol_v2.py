"""Requests and answers of V2, the Open Inference Protocol.

JSON that may be followed by raw arrays ("Binary Tensor Data Extension"); gRPC
has the same arrays. The parameter `signature_name` is ours: V2 knows a model
of one signature.
"""

from __future__ import annotations

import math
import struct
import uuid
from collections.abc import Mapping, Sequence

import numpy as np

from medgan_tf.serving.server import protocols, statuses

# Type in `medgan.json` -> type of V2.
DATATYPES = {"float32": "FP32", "string": "BYTES"}


def read(body: bytes, json_length: str | None) -> protocols.Question:
    """Reads a request of V2.

    Args:
      body: JSON, and after it the raw arrays.
      json_length: of the JSON, in bytes, as the header
        Inference-Header-Content-Length says; None: all of it.

    Raises:
      RefusedError: it is not such a request.
    """
    length = len(body)
    if json_length is not None:
        # Because Python refuses to read a number of thousands of digits.
        if not json_length.isdecimal() or int(json_length[:20]) > length:
            raise statuses.invalid(
                "Inference-Header-Content-Length",
                json_length[:20],
                f"at most {length}, the length of the body",
            )
        length = int(json_length[:20])
    content, rest = (
        protocols.from_json(body[:length]),
        memoryview(body)[length:],
    )
    inputs = {}
    for tensor in _list_of(content, "inputs"):
        name, size = (
            tensor.get("name"),
            _parameters(tensor).get("binary_data_size"),
        )
        if not isinstance(name, str) or name in inputs:
            raise statuses.invalid("inputs", repr(name)[:40], "a name, once")
        raw = None
        if size is not None:
            if not _is_count(size) or size > len(rest):
                raise statuses.invalid(
                    f"binary_data_size of {name}",
                    repr(size)[:20],
                    f"at most the {len(rest)} bytes that are left",
                )
            raw, rest = rest[:size], rest[size:]
        inputs[name] = tensor_of(
            name,
            tensor.get("datatype"),
            tensor.get("shape"),
            raw=raw,
            values=tensor.get("data"),
        )
    if len(rest):
        raise statuses.invalid(
            "body", f"{len(rest)} bytes too many", "the arrays that it tells of"
        )
    parameters = _parameters(content)
    is_raw = bool(parameters.get("binary_data_output", False))
    outputs = None
    if "outputs" in content:
        outputs = {
            str(output.get("name")): bool(
                _parameters(output).get("binary_data", is_raw)
            )
            for output in _list_of(content, "outputs")
        }
    return protocols.Question(
        parameters.get("signature_name", protocols.DEFAULT_SIGNATURE),
        inputs,
        id=str(content["id"]) if "id" in content else None,
        outputs=outputs,
        is_raw=is_raw,
    )


def write(
    question: protocols.Question,
    outputs: Mapping[str, np.ndarray],
    model: str,
    version: str,
) -> tuple[bytes, int | None]:
    """The answer to a request of V2.

    Args:
      question: from `read`.
      outputs: of the signature.
      model: its name.
      version: its number.

    Returns:
      The body, and the length of its JSON where arrays follow that.

    Raises:
      RefusedError: an output that is not there is wanted, or bytes as text.
    """
    described, raws = [], []
    for name, array in wanted(question, outputs).items():
        is_text = array.dtype == object
        told = {
            "name": name,
            "datatype": "BYTES" if is_text else "FP32",
            "shape": list(array.shape),
        }
        is_raw = question.is_raw
        if question.outputs is not None:
            is_raw = question.outputs[name]
        if is_raw:
            raws.append(to_raw(array))
            told["parameters"] = {"binary_data_size": len(raws[-1])}
        elif is_text:
            raise statuses.invalid(
                name,
                "bytes, which JSON cannot hold",
                "the parameter binary_data_output",
            )
        else:
            told["data"] = np.ravel(array)
        described.append(told)
    head = protocols.to_json(
        {
            "model_name": model,
            "model_version": version,
            "id": question.id or uuid.uuid4().hex,
            "outputs": described,
        }
    )
    return b"".join([head, *raws]), len(head) if raws else None


def wanted(
    question: protocols.Question, outputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The outputs that a request of V2 names, in its order.

    Raises:
      RefusedError: there is no such output.
    """
    names = outputs if question.outputs is None else question.outputs
    for name in names:
        if name not in outputs:
            raise statuses.invalid(
                "outputs", name[:40], f"among {', '.join(outputs)}"
            )
    return {name: outputs[name] for name in names}


def tensor_of(
    name: str,
    datatype: object,
    shape: object,
    *,
    raw: bytes | memoryview | None = None,
    values: Sequence | None = None,
) -> np.ndarray:
    """An array of V2.

    Args:
      name: for the refusal.
      datatype: "FP32" or "BYTES".
      shape: of the array.
      raw: little-endian floats, rows first; or texts, each after its length.
      values: the same as a list, flat or nested; read if `raw` is None.

    Raises:
      RefusedError: they do not go together.
    """
    if datatype not in DATATYPES.values():
        raise statuses.invalid(
            f"datatype of {name}", repr(datatype)[:20], "FP32 or BYTES"
        )
    is_list = isinstance(shape, Sequence) and not isinstance(shape, str)
    if not is_list or len(shape) > 8 or not all(map(_is_count, shape)):
        raise statuses.invalid(
            f"shape of {name}", repr(shape)[:60], "a few whole numbers"
        )
    if raw is not None:
        array = _from_raw(name, datatype, raw)
    elif datatype == "BYTES":
        array = protocols.texts(
            name,
            [v.encode() if isinstance(v, str) else v for v in _listed(values)],
        )
    else:
        array = protocols.floats(name, _listed(values))
    if array.size != math.prod(shape):
        raise statuses.invalid(
            name, f"{array.size} values", f"{math.prod(shape)}, as shape says"
        )
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError) as error:
        # Of no value, but of more lines than can be counted.
        raise statuses.invalid(
            f"shape of {name}", repr(shape)[:60], "one that memory can hold"
        ) from error


def to_raw(array: np.ndarray) -> bytes:
    """The inverse of `tensor_of` with `raw`."""
    if array.dtype == object:
        return b"".join(
            struct.pack("<I", len(text)) + text for text in array.ravel()
        )
    return array.astype("<f4").tobytes()


def _from_raw(name: str, datatype: str, raw: bytes | memoryview) -> np.ndarray:
    if datatype == "FP32":
        if len(raw) % 4:
            raise statuses.invalid(name, f"{len(raw)} bytes", "four a number")
        return np.frombuffer(raw, "<f4")
    texts, raw = [], bytes(raw)
    at = 0
    while at < len(raw):
        start = at + 4
        at = start + int.from_bytes(raw[at:start], "little")
        if at > len(raw) or start > len(raw):
            raise statuses.invalid(
                name, "a text that is cut", "each text after its length"
            )
        texts.append(raw[start:at])
    return protocols.texts(name, texts)


def _list_of(content: Mapping, key: str) -> list[dict]:
    found = content.get(key)
    if not isinstance(found, list) or not all(
        isinstance(one, dict) for one in found
    ):
        raise statuses.invalid(key, "no list of objects", "[{...}]")
    return found


def _listed(values: object) -> Sequence:
    """The values of an array, which JSON may lack or give as one."""
    if values is None:
        return []
    return values if isinstance(values, list) else [values]


def _parameters(content: Mapping) -> dict:
    found = content.get("parameters") or {}
    if not isinstance(found, dict):
        raise statuses.invalid("parameters", "no object", "{...}")
    return found


def _is_count(number: object) -> bool:
    return type(number) is int and number >= 0
