"""A trained generator becomes a SavedModel that speaks physical units.

Callers send and receive HU, SUV or scanner units: normalise, translate and
de-normalise are all in the graph, and so are the checks of shape and
finiteness, which a signature alone does not make.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import secrets
import shutil

import keras
import tensorflow as tf

from medgan_tf import errors, tasks
from medgan_tf.data import preprocess
from medgan_tf.models import casnet
from medgan_tf.serving import predict
from medgan_tf.training import checkpoint

INTENDED_USE = (
    "Research only: technical post-processing of images. Not for diagnosis; "
    "a translated image may show what is not there and hide what is."
)


def export(
    run: checkpoint.Run,
    task: tasks.Task,
    output_dir: str | os.PathLike,
    *,
    version: int = 1,
    which: str = "best",
    precision: str = "float32",
) -> pathlib.Path:
    """Writes `output_dir/<version>/`, whole or not at all.

    The signature `serving_default` takes `source`, float32
    [B, 256, 256, C] in the source's unit, and, where the source has no fixed
    window (MR), `source_scale`, float32 [B], or [B, number of such channels]
    where there are several: the robust maximum of the volume that each slice
    is from. It gives `translated`, [B, 256, 256, 1] in the
    target's unit.

    Args:
      run: from `checkpoint.load_run`.
      task: the row, as the run's data was prepared.
      output_dir: folder of the model; servers pick the highest version.
      version: a whole number, new in that folder.
      which: "best" or "last" checkpoint.
      precision: "float32", or "bfloat16": weights of half the size, which
        is faster where the hardware that serves it multiplies bfloat16.

    Returns:
      The version's folder.

    Raises:
      errors.ArtefactError: no checkpoint.
      errors.ResourceError: the version exists, or the folder is not writable.
    """
    folder = pathlib.Path(output_dir) / str(version)
    # Because pathlib's own test fails on a name that is too long.
    if os.path.exists(folder):
        raise errors.ResourceError(
            f"{folder} exists; choose another --version or --output_dir."
        )
    generator, step = checkpoint.load_generator(run, which, precision)
    archive = keras.export.ExportArchive()
    archive.track(generator)
    archive.add_endpoint(
        predict.SIGNATURE,
        _physical(generator, task),
        input_signature=_signature(task, run.data["source_channels"]),
    )
    work = folder.with_name(f".{version}.incomplete-{secrets.token_hex(4)}")
    try:
        work.mkdir(parents=True)
        archive.write_out(str(work), verbose=False)
        info = work / predict.INFO_FILE
        info.parent.mkdir()
        info.write_text(
            json.dumps(_info(run, task, step), indent=1, allow_nan=False) + "\n"
        )
        os.rename(work, folder)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or error.message
        raise errors.ResourceError(
            f"{folder} cannot be written ({reason}); free some space or choose "
            "another --output_dir."
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _signature(task: tasks.Task, channels: int) -> list[tf.TensorSpec]:
    size = preprocess.SLICE_SIZE
    specs = [
        tf.TensorSpec([None, size, size, channels], tf.float32, name="source")
    ]
    if scaled := predict.scaled_channels(task):
        shape = [None] if len(scaled) == 1 else [None, len(scaled)]
        specs.append(tf.TensorSpec(shape, tf.float32, name="source_scale"))
    return specs


def _physical(generator: casnet.CasNet, task: tasks.Task):
    """The generator between a window and its inverse."""

    def serve(source, source_scale=None):
        channels = source.shape[-1]
        source = tf.ensure_shape(
            source,
            [None, preprocess.SLICE_SIZE, preprocess.SLICE_SIZE, channels],
        )
        source = tf.debugging.assert_all_finite(
            source, "source has values that are not finite"
        )
        if source_scale is not None:
            tf.debugging.assert_positive(
                source_scale, "source_scale must be above 0"
            )
            source_scale = tf.debugging.assert_all_finite(
                source_scale, "source_scale has values that are not finite"
            )
        # Each [1 or B, 1, 1, 1].
        lows, highs, scales = [], [], 0
        for modality in task.sources:
            if modality.window is None:
                scale = tf.reshape(source_scale, [tf.shape(source)[0], -1])
                highs.append(scale[:, scales, None, None, None])
                lows.append(tf.zeros_like(highs[-1]))
                scales += 1
            else:
                for ends, end in zip(
                    (lows, highs), modality.window, strict=True
                ):
                    ends.append(tf.reshape(end, [1, 1, 1, 1]))
        channels = [
            (channel - low) * (2 / (high - low)) - 1
            for channel, low, high in zip(
                tf.split(source, channels, axis=-1), lows, highs, strict=True
            )
        ]
        scaled = tf.concat(channels, axis=-1)
        translated = generator(tf.clip_by_value(scaled, -1.0, 1.0))
        if task.target == task.source:
            low, high = lows[0], highs[0]
        else:
            low, high = task.target.window
        return {"translated": (translated + 1) * ((high - low) / 2) + low}

    return serve


def _info(run: checkpoint.Run, task: tasks.Task, step: int) -> dict:
    return {
        "task": task.name,
        "title": task.title,
        "task_row": tasks.as_stored(task),
        "slice_size": preprocess.SLICE_SIZE,
        "orientation": "rows anterior to posterior, columns right to left",
        "method": dataclasses.asdict(run.method),
        "discriminator_steps": step,
        "data_fingerprint": run.data["fingerprint"],
        "trained_on_simulated_images": run.data["is_simulated"],
        "versions": run.versions,
        "intended_use": INTENDED_USE,
    }
