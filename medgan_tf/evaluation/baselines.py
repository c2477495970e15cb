"""Trivial answers that a method has to beat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from medgan_tf import tasks
from medgan_tf.data import preprocess
from medgan_tf.data.sample import Sample


def training_mean(
    modality: tasks.Modality, mean: float
) -> Callable[[Sample], np.ndarray]:
    """The mean of the training bodies everywhere in the body, air elsewhere.

    It is told where the body of the target is, which no method knows: hard
    to beat where the patient moved between source and target.

    Args:
      modality: of the target.
      mean: in its unit, from `dataset.json`.

    Returns:
      Sample -> image [H, W] in [-1, 1].
    """

    def image(sample: Sample) -> np.ndarray:
        window = sample.target_window
        threshold = modality.body_above
        if modality.window is None:
            threshold *= window[1]
        target = preprocess.denormalise(sample.target[..., 0], window)
        body = ndimage.binary_fill_holes(target > threshold)
        return preprocess.normalise(np.where(body, mean, modality.air), window)

    return image
