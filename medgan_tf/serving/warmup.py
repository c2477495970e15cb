"""Requests that a TensorFlow Serving replays before it answers anybody.

Without them the first caller waits while the graph is optimised. The file is
`assets.extra/tf_serving_warmup_requests`, a TFRecord of `PredictionLog`
messages (SavedModel Warmup, in TensorFlow Serving's guide).

The messages are defined by `prediction_log.proto`, `predict.proto` and
`model.proto` of tensorflow_serving/apis, whose Python package demands a whole
`tensorflow` of its own. All that is needed of them is a string or a message,
and these have one encoding (Protocol Buffers, "Encoding": tag, length,
bytes); so they are written here, field by field. Nothing is registered by the
names of TensorFlow Serving, which a program that uses both could not bear.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import tensorflow as tf

FILE = "assets.extra/tf_serving_warmup_requests"


def write(
    path: str | os.PathLike,
    model: str,
    requests: Mapping[str, Mapping[str, tf.TensorProto]],
) -> None:
    """Writes one record for each signature.

    Args:
      path: of the file.
      model: name under which it is served.
      requests: name of a signature -> its inputs by name.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests.items():
            writer.write(prediction_log(model, signature, inputs))


def prediction_log(
    model: str, signature: str, inputs: Mapping[str, tf.TensorProto]
) -> bytes:
    """A serialized `PredictionLog` that holds a `PredictRequest` alone."""
    # ModelSpec: name = 1, signature_name = 3.
    spec = _field(1, model.encode()) + _field(3, signature.encode())
    # PredictRequest: model_spec = 1, map<string, TensorProto> inputs = 2.
    request = _field(1, spec)
    for name, tensor in inputs.items():
        entry = _field(1, name.encode())
        request += _field(2, entry + _field(2, tensor.SerializeToString()))
    # PredictionLog: predict_log = 6; PredictLog: request = 1.
    return _field(6, _field(1, request))


def _field(number: int, content: bytes) -> bytes:
    """A field of wire type 2: its tag, the length, the bytes."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits at a time, the lowest first; the top bit says: more."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
