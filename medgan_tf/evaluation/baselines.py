"""Answers without a network, beside which a translation can be judged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medgan_tf import tasks
from medgan_tf.data import preprocess
from medgan_tf.data import volume as volumes
from medgan_tf.data.sample import Sample


def answers(
    task: tasks.Task, mean: float
) -> dict[str, Callable[[Sample], np.ndarray]]:
    """What a translation is worth can be seen beside these.

    - "mean in source's body": the mean of the training bodies everywhere in
      the body as the source shows it, air elsewhere: anybody could do that.
    - "mean in target's body": the same in the body as the target shows it,
      which no method knows: hard to beat where the patient moved between
      source and target.
    - "target in source's body": the target itself, but only within the body
      as the source shows it, and the mean where the target has air there. Its
      error comes from where the two outlines differ: the patient moved, or a
      threshold sees in one image what it does not see in the other (a table,
      noise). A method that keeps the outline of its source hardly gets below.

    Args:
      task: what is translated.
      mean: of the target's values in the training bodies, in the target's
        unit, from `dataset.json`.

    Returns:
      Name -> function: sample -> image [H, W] in [-1, 1].
    """

    def in_source(sample: Sample) -> np.ndarray:
        return image(sample, _source_body(sample, task), mean)

    def in_target(sample: Sample) -> np.ndarray:
        return image(sample, _target_body(sample, task), mean)

    def target_in_source(sample: Sample) -> np.ndarray:
        target = preprocess.denormalise(
            sample.target[..., 0], sample.target_window
        )
        tissue = np.where(_target_body(sample, task), target, mean)
        return image(sample, _source_body(sample, task), tissue)

    def image(sample: Sample, body: np.ndarray, tissue) -> np.ndarray:
        return preprocess.normalise(
            np.where(body, tissue, task.target.air), sample.target_window
        )

    return {
        "mean in source's body": in_source,
        "mean in target's body": in_target,
        "target in source's body": target_in_source,
    }


def _source_body(sample: Sample, task: tasks.Task) -> np.ndarray:
    return _body(sample.source, sample.source_window, task.source)


def _target_body(sample: Sample, task: tasks.Task) -> np.ndarray:
    return _body(sample.target, sample.target_window, task.target)


def _body(
    image: np.ndarray, window: tuple[float, float], modality: tasks.Modality
) -> np.ndarray:
    """bool [H, W]: the body in the first channel, whose window it is."""
    values = preprocess.denormalise(image[..., 0], window)
    one_slice = volumes.Volume(values[..., None], np.eye(4))
    return preprocess.body_mask(one_slice, modality, window)[..., 0]
