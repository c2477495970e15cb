"""A generator as a SavedModel with all of its signatures."""

from __future__ import annotations

import hashlib
import pathlib

import tensorflow as tf

from medgan_tf import tasks
from medgan_tf.models import casnet
from medgan_tf.serving import predict, signatures, warmup


def write(
    generator: casnet.CasNet,
    task: tasks.Task,
    channels: int,
    folder: pathlib.Path,
    model: str,
) -> dict:
    """Writes the SavedModel and its warm-up requests.

    Args:
      generator: with its weights.
      task: the row.
      channels: of the source.
      folder: is there, and empty.
      model: name under which it is served.

    Returns:
      What `medgan.json` says of it: `format`, `signatures`, each with the
      type and shape of its inputs and outputs, and `graph_sha256`.
    """
    # Not Keras's ExportArchive, which stores every weight twice.
    module = tf.Module()
    module.weights = [weight.value for weight in generator.variables]
    inputs = signatures.specs(task, channels)
    described, served = {}, {}
    for name, function in signatures.endpoints(
        generator, task, channels
    ).items():
        function = tf.function(
            function, input_signature=inputs[name], autograph=False
        )
        served[name] = function.get_concrete_function()
        outputs = served[name].structured_outputs
        described[name] = {
            "inputs": {spec.name: _described(spec) for spec in inputs[name]},
            "outputs": {key: _described(out) for key, out in outputs.items()},
        }
    tf.saved_model.save(module, str(folder), signatures=served)
    path = folder / warmup.FILE
    path.parent.mkdir()
    warmup.write(path, model, signatures.smallest_requests(task, channels))
    graph = (folder / predict.GRAPH_FILE).read_bytes()
    return {
        "format": "savedmodel",
        "signatures": described,
        # Of the graph; TensorFlow itself has checksums of the weights.
        "graph_sha256": hashlib.sha256(graph).hexdigest(),
    }


def _described(tensor: tf.TensorSpec | tf.Tensor) -> dict:
    return {"dtype": tensor.dtype.name, "shape": tensor.shape.as_list()}
