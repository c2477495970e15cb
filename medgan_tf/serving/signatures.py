"""What can be asked of an exported model, in physical units.

Normalise, translate, de-normalise and clip are in the graph, and so are the
checks of shape, finiteness and signs, which a signature alone does not make:
they hold in every server, and what they refuse is the caller's error (gRPC
InvalidArgument, HTTP 400).

  serving_default   float slices
  serve_png_bytes   16-bit PNG files, with slope and offset
  serve_examples    serialized tf.train.Example

All three run one graph, so that they give the same numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from medgan_tf import tasks
from medgan_tf.data import preprocess
from medgan_tf.models import casnet
from medgan_tf.serving import predict

PNG = "serve_png_bytes"
EXAMPLES = "serve_examples"

_SIZE = preprocess.SLICE_SIZE
_MOST = 2**16 - 1
# All that comes before the pixels of a PNG file of 16 bits, grey, not
# interlaced or interlaced: signature, length and name of the first chunk,
# width, height, bits, colour type (PNG specification, 5.2 and 11.2.1).
_PNG_START = b"\x89PNG\r\n\x1a\n" + struct.pack(
    ">I4sIIBB", 13, b"IHDR", _SIZE, _SIZE, 16, 0
)
_PNG_EXPECTED = (
    f"png_bytes must be PNG files of {_SIZE} x {_SIZE} pixels, 16 bits, grey"
)


def translator(generator: casnet.CasNet, task: tasks.Task) -> Callable:
    """The generator between a window and its inverse, as a tf.function.

    Takes `source`, float32 [B, 256, 256, C], each channel in the unit of its
    modality, and, where there are channels without a fixed window (MR),
    `source_scale`, float32 [B], or [B, number of such channels] where there
    are several: the robust maximum of the volume that each slice is from.
    Gives `translated`, [B, 256, 256, 1] in the target's unit, within the
    target's window.
    """

    @tf.function(autograph=False)
    def translate(source, source_scale=None):
        num_channels = source.shape[-1]
        source = tf.ensure_shape(source, [None, _SIZE, _SIZE, num_channels])
        source = tf.debugging.assert_all_finite(
            source, "source has values that are not finite"
        )
        num_slices = tf.shape(source)[0]
        source = _checked(source, num_slices > 0, "source holds no slice")
        if source_scale is not None:
            source_scale = _checked(
                source_scale,
                tf.math.is_finite(source_scale) & (source_scale > 0),
                "source_scale must be finite and above 0",
            )
            source_scale = _checked(
                source_scale,
                tf.shape(source_scale)[0] == num_slices,
                "source_scale must hold a line for each slice of source",
            )
        windows = _windows(task, source_scale)
        channels = [
            (channel - low) * (2 / (high - low)) - 1
            for channel, (low, high) in zip(
                tf.split(source, num_channels, axis=-1), windows, strict=True
            )
        ]
        scaled = tf.clip_by_value(tf.concat(channels, axis=-1), -1.0, 1.0)
        low, high = _target_window(task, windows)
        translated = (generator(scaled) + 1) * ((high - low) / 2) + low
        # TensorFlow's tanh stays within; other programs approximate it.
        return tf.clip_by_value(translated, low, high)

    return translate


def specs(task: tasks.Task, channels: int) -> dict[str, list[tf.TensorSpec]]:
    """The inputs of each signature, in order.

    Args:
      task: the row.
      channels: C of the source; where it is 1, `png_bytes`, `slope` and
        `offset` have the shape [B], else [B, C].
    """
    image = [None, _SIZE, _SIZE, channels]
    each = [None] if channels == 1 else [None, channels]
    scale = []
    if scaled := predict.scaled_channels(task):
        shape = [None] if len(scaled) == 1 else [None, len(scaled)]
        scale.append(tf.TensorSpec(shape, tf.float32, "source_scale"))
    return {
        predict.SIGNATURE: [tf.TensorSpec(image, tf.float32, "source"), *scale],
        PNG: [
            tf.TensorSpec(each, tf.string, "png_bytes"),
            tf.TensorSpec(each, tf.float32, "slope"),
            tf.TensorSpec(each, tf.float32, "offset"),
            *scale,
        ],
        EXAMPLES: [tf.TensorSpec([None], tf.string, "examples")],
    }


def endpoints(
    generator: casnet.CasNet, task: tasks.Task, channels: int
) -> dict[str, Callable]:
    """The function behind each signature.

    `serve_png_bytes`: a value v of a PNG file stands for slope * v + offset in
    the unit of the modality. Gives `translated_bytes` [B], PNG files alike,
    `translated_slope` and `translated_offset`, float32 [B]: 0 is the low end
    of the target's window and 65535 the high one, so that rounding changes a
    value by at most half a slope (0.023 HU, 0.00015 SUV).

    `serve_examples`: each Example has the features `source`, a list of
    256 * 256 * C floats, rows first, channels last, and `source_scale`, one
    float for each channel without a fixed window. Gives `translated`.
    """
    translate = translator(generator, task)
    num_scales = len(predict.scaled_channels(task))

    def serve_slices(source, source_scale=None):
        return {"translated": translate(source, source_scale)}

    def serve_png_bytes(png_bytes, slope, offset, source_scale=None):
        shape = tf.shape(png_bytes)
        for name, tensor in (("slope", slope), ("offset", offset)):
            png_bytes = _checked(
                png_bytes,
                tf.shape(tensor) == shape,
                f"{name} must hold a number for each of png_bytes",
            )
        slope = _checked(
            slope,
            tf.math.is_finite(slope) & (slope > 0),
            "slope must be finite and above 0",
        )
        png_bytes = _checked(
            png_bytes,
            tf.strings.substr(png_bytes, 0, len(_PNG_START)) == _PNG_START,
            _PNG_EXPECTED,
        )
        values = tf.map_fn(
            lambda png: tf.io.decode_png(png, 1, tf.uint16),
            tf.reshape(png_bytes, [-1]),
            fn_output_signature=tf.TensorSpec([_SIZE, _SIZE, 1], tf.uint16),
        )
        # [B * C, 256, 256, 1] -> [B, 256, 256, C]
        values = tf.reshape(values, [-1, channels, _SIZE, _SIZE])
        values = tf.cast(tf.transpose(values, [0, 2, 3, 1]), tf.float32)
        slope, offset = (
            tf.reshape(tensor, [-1, 1, 1, channels])
            for tensor in (slope, offset)
        )
        translated = translate(slope * values + offset, source_scale)
        low, high = _target_window(task, _windows(task, source_scale))
        step = (high - low) / _MOST
        values = tf.round((translated - low) / step)
        values = tf.cast(tf.clip_by_value(values, 0, _MOST), tf.uint16)
        ones = tf.ones_like(translated[:, 0, 0, 0])
        return {
            "translated_bytes": tf.io.encode_png(values),
            "translated_slope": tf.reshape(step, [-1]) * ones,
            "translated_offset": tf.reshape(low, [-1]) * ones,
        }

    def serve_examples(examples):
        wanted = {
            "source": tf.io.FixedLenFeature(
                [_SIZE, _SIZE, channels], tf.float32
            )
        }
        if num_scales:
            shape = [] if num_scales == 1 else [num_scales]
            wanted["source_scale"] = tf.io.FixedLenFeature(shape, tf.float32)
        return serve_slices(**tf.io.parse_example(examples, wanted))

    return {
        predict.SIGNATURE: serve_slices,
        PNG: serve_png_bytes,
        EXAMPLES: serve_examples,
    }


def example(source: np.ndarray, source_scale: np.ndarray | None = None):
    """A slice as a tf.train.Example for `serve_examples`.

    Args:
      source: float32 [256, 256, C], in physical units.
      source_scale: [number of channels without a fixed window], where there
        are such.
    """
    features = tf.train.Features()
    features.feature["source"].float_list.value.extend(np.ravel(source))
    if source_scale is not None:
        scale = np.ravel(source_scale)
        features.feature["source_scale"].float_list.value.extend(scale)
    return tf.train.Example(features=features)


def smallest_requests(
    task: tasks.Task, channels: int
) -> dict[str, dict[str, tf.TensorProto]]:
    """A request of one slice for each signature: zeros, at scale 1."""
    found = {}
    for name, inputs in specs(task, channels).items():
        texts = {
            "png_bytes": tf.io.encode_png(
                np.zeros([_SIZE, _SIZE, 1], np.uint16)
            ).numpy(),
            "examples": example(
                np.zeros([_SIZE, _SIZE, channels], np.float32),
                np.ones(len(predict.scaled_channels(task)), np.float32),
            ).SerializeToString(),
            "source": 0.0,
            "offset": 0.0,
        }
        found[name] = {
            spec.name: tf.make_tensor_proto(
                texts.get(spec.name, 1.0),
                spec.dtype,
                [1, *spec.shape[1:]],
            )
            for spec in inputs
        }
    return found


def _checked(tensor: tf.Tensor, condition: tf.Tensor, message: str):
    """The tensor, once the condition holds everywhere."""
    check = tf.debugging.Assert(tf.reduce_all(condition), [message])
    with tf.control_dependencies([check]):
        return tf.identity(tensor)


def _windows(task: tasks.Task, source_scale: tf.Tensor | None) -> list:
    """(low, high) of each channel of the source, [1 or B, 1, 1, 1] each."""
    windows, scaled = [], predict.scaled_channels(task)
    for channel, modality in enumerate(task.sources):
        if modality.window is None:
            scales = tf.reshape(source_scale, [-1, len(scaled)])
            high = scales[:, scaled.index(channel)]
            high = tf.reshape(high, [-1, 1, 1, 1])
            windows.append((tf.zeros_like(high), high))
        else:
            low, high = modality.window
            windows.append(
                (tf.reshape(low, [1, 1, 1, 1]), tf.reshape(high, [1, 1, 1, 1]))
            )
    return windows


def _target_window(task: tasks.Task, windows: list) -> tuple:
    """(low, high) of the target; an MR image keeps the scale of its source."""
    if task.target == task.source:
        return windows[0]
    low, high = task.target.window
    return tf.reshape(low, [1, 1, 1, 1]), tf.reshape(high, [1, 1, 1, 1])
