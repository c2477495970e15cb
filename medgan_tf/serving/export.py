"""A trained generator becomes a model that speaks physical units.

`<output_dir>/<version>/` is the layout of TensorFlow Serving and, for ONNX, of
Triton; beside the model lie `assets.extra/medgan.json`, which says to programs
what it is, and `MODEL_CARD.md`, which says it to people.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable

import tensorflow as tf

from medgan_tf import errors, sealed, tasks
from medgan_tf.data import preprocess
from medgan_tf.models import casnet
from medgan_tf.serving import model_card, predict, saved_model
from medgan_tf.training import checkpoint

INTENDED_USE = (
    "Research only: technical post-processing of images. Not for diagnosis; "
    "a translated image may show what is not there and hide what is."
)

Writer = Callable[[casnet.CasNet, tasks.Task, int, pathlib.Path, str], dict]


def export(
    run: checkpoint.Run,
    task: tasks.Task,
    output_dir: str | os.PathLike,
    *,
    version: int = 1,
    which: str = "best",
    precision: str = "float32",
    write: Writer = saved_model.write,
) -> pathlib.Path:
    """Writes `output_dir/<version>/`, whole or not at all.

    Args:
      run: from `checkpoint.load_run`.
      task: the row, as the run's data was prepared.
      output_dir: folder of the model; servers pick the highest version.
      version: a whole number, new in that folder.
      which: "best" or "last" checkpoint.
      precision: "float32", or "bfloat16": weights of half the size, which
        is faster where the hardware that serves it multiplies bfloat16.
      write: puts the model into an empty folder and returns facts for
        `medgan.json`: `saved_model.write`, or one of `formats.WRITERS`.

    Returns:
      The version's folder.

    Raises:
      errors.ArtefactError: no checkpoint, one that does not survive the
        conversion, or scores that cannot be read.
      errors.ResourceError: the version exists, other versions are of another
        format, or the folder is not writable.
    """
    output_dir = pathlib.Path(output_dir)
    folder = output_dir / str(version)
    # Because pathlib's own test fails on a name that is too long.
    if os.path.exists(folder):
        raise errors.ResourceError(
            f"{folder} exists; choose another --version or --output_dir."
        )
    generator, step = checkpoint.load_generator(run, which, precision)
    scores = model_card.scores_of(run.workdir, which, step)
    work = folder.with_name(f".{version}.incomplete-{secrets.token_hex(4)}")
    try:
        work.mkdir(parents=True)
        facts = write(
            generator,
            task,
            run.data["source_channels"],
            work,
            output_dir.absolute().name,
        )
        _check_alone(work, output_dir)
        info = {**_info(run, task, which, step, precision), **facts}
        path = work / predict.INFO_FILE
        path.parent.mkdir(exist_ok=True)
        sealed.write(path, info)
        card = model_card.text(info, model_card.patients_of(run.data), scores)
        (work / model_card.FILE).write_text(card, encoding="utf-8")
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


def _check_alone(work: pathlib.Path, output_dir: pathlib.Path) -> None:
    """Refuses a version that those who read the others could not."""
    name = "saved_model.pb"
    for other in output_dir.iterdir():
        if other.name.isdigit() and (
            (other / name).exists() != (work / name).exists()
        ):
            raise errors.ResourceError(
                f"{other} is a model of another format; choose another "
                "--output_dir for this one."
            )


def _info(
    run: checkpoint.Run, task: tasks.Task, which: str, step: int, precision: str
) -> dict:
    return {
        "task": task.name,
        "title": task.title,
        "task_row": tasks.as_stored(task),
        "slice_size": preprocess.SLICE_SIZE,
        "orientation": "rows anterior to posterior, columns right to left",
        "method": dataclasses.asdict(run.method),
        "flip": run.config.flip,
        "checkpoint": which,
        "discriminator_steps": step,
        "precision": precision,
        "data_fingerprint": run.data["fingerprint"],
        "data_origin": run.data.get("origin"),
        "trained_on_simulated_images": run.data["is_simulated"],
        "versions": run.versions,
        "intended_use": INTENDED_USE,
    }
