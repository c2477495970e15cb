"""The model for other programs than TensorFlow: ONNX and TensorFlow Lite.

A conversion that does not give the same numbers is refused: both models
translate the same slices before anything gets its final name.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import time
import warnings
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from medgan_tf import errors, tasks
from medgan_tf.data import preprocess
from medgan_tf.models import casnet, convolutions, layers
from medgan_tf.serving import predict, saved_model, signatures

try:
    import onnxruntime
    import tf2onnx
except ImportError:
    onnxruntime = tf2onnx = None

# Largest difference to TensorFlow, as a share of half a window, which is the
# network's own unit.
BOUND = 1e-4
# That all of Triton, TensorRT, OpenVINO and ONNX Runtime read.
OPSET = 18
NUM_TIMED = 5

# name of an input -> array; gives `translated`.
Model = Callable[[dict[str, np.ndarray]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Parity:
    """How far two models are apart on one kind of slice.

    Attributes:
      images: what they showed.
      largest: difference, as a share of half the target's window.
      mean: of the differences, likewise.
    """

    images: str
    largest: float
    mean: float


def write_onnx(
    generator: casnet.CasNet,
    task: tasks.Task,
    channels: int,
    folder: pathlib.Path,
    model: str,
) -> dict:
    """Writes `model.onnx`; see `export.Writer`.

    Raises:
      errors.UsageError: tf2onnx and ONNX Runtime are not installed, or the
        method draws noise.
      errors.ArtefactError: it does not give the same numbers.
    """
    if tf2onnx is None:
        raise errors.UsageError(
            "--format=onnx needs tf2onnx, onnx and onnxruntime; "
            "pip install 'medgan_tf[onnx]'."
        )
    reference = _reference(generator, task, channels)
    _use_plain_layers(generator)
    inputs = signatures.specs(task, channels)[predict.SIGNATURE]
    function = signatures.endpoints(generator, task, channels)
    proto, _ = tf2onnx.convert.from_function(
        tf.function(
            function[predict.SIGNATURE],
            input_signature=inputs,
            autograph=False,
        ),
        inputs,
        opset=OPSET,
    )
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )

    def translate(inputs):
        return session.run(["translated"], inputs)[0]

    return {
        "format": "onnx",
        **_compared(path, translate, reference, task, channels),
    }


def write_tflite(
    generator: casnet.CasNet,
    task: tasks.Task,
    channels: int,
    folder: pathlib.Path,
    model: str,
) -> dict:
    """Writes `model.tflite`, of built-in operations alone; see `export.Writer`.

    Raises:
      errors.UsageError: the method draws noise.
      errors.ArtefactError: it does not give the same numbers.
    """
    reference = _reference(generator, task, channels)
    _use_plain_layers(generator)
    whole = folder / "saved_model"
    whole.mkdir()
    saved_model.write(generator, task, channels, whole, model)
    content = tf.lite.TFLiteConverter.from_saved_model(
        str(whole), signature_keys=[predict.SIGNATURE]
    ).convert()
    tf.io.gfile.rmtree(str(whole))
    path = folder / "model.tflite"
    path.write_bytes(content)
    with warnings.catch_warnings():
        # Its successor, ai_edge_litert, is a package of its own.
        warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is")
        interpreter = tf.lite.Interpreter(str(path))
    runner = interpreter.get_signature_runner(predict.SIGNATURE)

    def translate(inputs):
        return runner(**inputs)["translated"]

    return {
        "format": "tflite",
        **_compared(path, translate, reference, task, channels),
    }


WRITERS = {"onnx": write_onnx, "tflite": write_tflite}


def table(info: dict) -> str:
    """The parity, size and speed of a converted model, as lines.

    Args:
      info: `medgan.json` as a dict.
    """
    lines = ["difference to TensorFlow      largest      mean"]
    lines += [
        f"{row['images']:28}{row['largest']:9.1e} {row['mean']:9.1e}"
        for row in info["parity"]
    ]
    lines += [
        f"As shares of half the target's window; at most {BOUND:.0e} allowed.",
        f"{info['file']}: {info['num_bytes'] / 1e6:.1f} MB; one slice in "
        f"{info['ms_per_slice']:.0f} ms on this CPU, in TensorFlow in "
        f"{info['ms_per_slice_tensorflow']:.0f} ms (median of {NUM_TIMED}).",
    ]
    return "\n".join(lines)


def _reference(
    generator: casnet.CasNet, task: tasks.Task, channels: int
) -> Model:
    """The same in TensorFlow, as it was trained."""
    if any(block.dropouts for block in generator.blocks):
        raise errors.UsageError(
            "the method draws noise (dropout), so a conversion cannot be "
            "checked; export it with --format=savedmodel."
        )
    inputs = signatures.specs(task, channels)[predict.SIGNATURE]
    function = signatures.endpoints(generator, task, channels)
    function = tf.function(
        function[predict.SIGNATURE], input_signature=inputs, autograph=False
    ).get_concrete_function()

    def translate(arrays):
        tensors = {name: tf.constant(array) for name, array in arrays.items()}
        return function(**tensors)["translated"].numpy()

    return translate


class _InstanceNorm(layers.InstanceNorm):
    """The same in an order that other programs round less.

    They add up a map one value after the other, and lose in a flat one what
    a division by sqrt(1e-5) then enlarges: so the mean is taken off first,
    and is the mean of the rows' means. [B, H, W, C] -> the same.
    """

    def call(self, image):
        centred = image - _mean_of_map(image)
        variance = _mean_of_map(tf.square(centred))
        scale = tf.math.rsqrt(variance + self.epsilon) * self.gamma
        return centred * scale + self.beta


def _mean_of_map(image: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] -> [B, 1, 1, C]."""
    rows = tf.reduce_mean(image, axis=2, keepdims=True)
    return tf.reduce_mean(rows, axis=1, keepdims=True)


def _use_plain_layers(generator: casnet.CasNet) -> None:
    """Turns layers into what other programs do well; the weights stay.

    Our transposed convolution goes round what is slow in TensorFlow on a CPU;
    TensorFlow Lite cannot read it.
    """
    for block in generator.blocks:
        for layer in (*block.up, block.last):
            if type(layer) is convolutions.UpConvolution:
                layer.__class__ = keras.layers.Conv2DTranspose
        for layer in (*block.down_norms, *block.up_norms):
            if type(layer) is layers.InstanceNorm:
                layer.__class__ = _InstanceNorm


def _compared(
    path: pathlib.Path,
    translate: Model,
    reference: Model,
    task: tasks.Task,
    channels: int,
) -> dict:
    """Facts of a converted model; refuses one that differs."""
    rows = []
    for images, inputs in _probes(task, channels).items():
        expected = reference(inputs)
        low, high = task.target.window or (0.0, inputs["source_scale"].max())
        differences = np.abs(translate(inputs) - expected) * (2 / (high - low))
        rows.append(
            Parity(images, float(differences.max()), float(differences.mean()))
        )
    worst = max(rows, key=lambda row: row.largest)
    # Not the other way round, because a NaN is not below anything.
    if not worst.largest <= BOUND or not all(np.isfinite(r.mean) for r in rows):
        raise errors.ArtefactError(
            f"{path.name} differs from TensorFlow by {worst.largest:.1e} of "
            f"half the window on {worst.images}, expected at most "
            f"{BOUND:.0e}; use --format=savedmodel."
        )
    return {
        "file": path.name,
        "num_bytes": path.stat().st_size,
        "signatures": {predict.SIGNATURE: _described(task, channels)},
        "parity": [dataclasses.asdict(row) for row in rows],
        "ms_per_slice": _milliseconds(translate, inputs),
        "ms_per_slice_tensorflow": _milliseconds(reference, inputs),
    }


def _probes(
    task: tasks.Task, channels: int
) -> dict[str, dict[str, np.ndarray]]:
    """Slices of one image each: what a volume has, and what is hardest."""
    size = preprocess.SLICE_SIZE
    rows, columns = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    disc = np.sqrt(rows**2 + columns**2) < 0.7
    smooth = disc * (0.4 + 0.3 * np.cos(5 * rows) * np.sin(7 * columns))
    noise = np.random.default_rng(0).uniform(-0.1, 1.1, [size, size])
    scaled = predict.scaled_channels(task)
    scale = np.full([1, len(scaled)] if len(scaled) > 1 else [1], 1000.0)
    found = {}
    for name, image in {
        "air alone": np.zeros([size, size]),
        "a smooth disc in air": smooth,
        "noise over the window": noise,
    }.items():
        source = np.empty([1, size, size, channels], np.float32)
        for channel, modality in enumerate(task.sources):
            low, high = modality.window or (0.0, 1000.0)
            source[0, ..., channel] = low + (high - low) * image
        found[name] = {"source": source}
        if scaled:
            found[name]["source_scale"] = scale.astype(np.float32)
    return found


def _described(task: tasks.Task, channels: int) -> dict:
    inputs = signatures.specs(task, channels)[predict.SIGNATURE]
    size = preprocess.SLICE_SIZE
    return {
        "inputs": {
            spec.name: {"dtype": "float32", "shape": spec.shape.as_list()}
            for spec in inputs
        },
        "outputs": {
            "translated": {"dtype": "float32", "shape": [None, size, size, 1]}
        },
    }


def _milliseconds(model: Model, inputs: dict[str, np.ndarray]) -> float:
    """The median time of a call."""
    times = []
    for _ in range(NUM_TIMED):
        start = time.perf_counter()
        model(inputs)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000
