"""Trivial answers that a method has to beat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from medgan_tf import tasks
from medgan_tf.data import preprocess
from medgan_tf.data.sample import Sample


def training_means(
    task: tasks.Task, mean: float
) -> dict[str, Callable[[Sample], np.ndarray]]:
    """The mean of the training bodies everywhere in the body, air elsewhere.

    Twice: in the body as the source shows it, which anybody could do; and in
    that of the target, which no method knows and which is hard to beat where
    the patient moved between source and target.

    Args:
      task: what is translated.
      mean: of the target's values in the training bodies, in the target's
        unit, from `dataset.json`.

    Returns:
      Name -> function: sample -> image [H, W] in [-1, 1].
    """

    def in_body(of_source: bool) -> Callable[[Sample], np.ndarray]:
        def image(sample: Sample) -> np.ndarray:
            body = (
                _body(sample.source, sample.source_window, task.source)
                if of_source
                else _body(sample.target, sample.target_window, task.target)
            )
            return preprocess.normalise(
                np.where(body, mean, task.target.air), sample.target_window
            )

        return image

    return {
        "mean in source's body": in_body(of_source=True),
        "mean in target's body": in_body(of_source=False),
    }


def _body(
    image: np.ndarray, window: tuple[float, float], modality: tasks.Modality
) -> np.ndarray:
    """bool [H, W]: above the modality's threshold in the middle channel."""
    threshold = modality.body_above
    if modality.window is None:
        threshold *= window[1]
    values = preprocess.denormalise(image[..., image.shape[2] // 2], window)
    return ndimage.binary_fill_holes(values > threshold)
