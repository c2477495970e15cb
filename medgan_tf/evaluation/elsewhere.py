"""Images that another program translated, scored like those of our network.

`attach` lets each image travel with its sample, as one more channel of the
source, and `translate` is the network that finds it there:

    read = elsewhere_files.slices(folder, elsewhere_files.wanted(samples))
    scores = evaluate.score_slices(
        elsewhere.attach(samples, read, task.target), elsewhere.translate
    )

So they are clipped to the window, masked and compared as ours are.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from medgan_tf import errors, tasks
from medgan_tf.data import preprocess
from medgan_tf.data.sample import RANGE_TOLERANCE, Sample
from medgan_tf.evaluation import elsewhere_files

# Below 0, as a share of the end of the window: a network without an end to its
# values goes a little below, one whose values are [-1, 1] goes to -1.
_CLEARLY_NEGATIVE = 0.025
# Where less of the target is air, it is gas, which any method may miss.
_LEAST_AIR = 0.05
# As a share of air's distance from 0; a table or a sheet is not quite air.
_NEAR_ZERO = 0.15
# Whole numbers in a narrower window are grey values.
_GREY_LEVELS = 255


@dataclasses.dataclass
class Values:
    """What was found within the masks, before it was clipped.

    Attributes:
      lowest: in the target's unit.
      highest: in the target's unit.
      num_lost: values that the window changed for good, see
        `preprocess.lost_share`.
      num_values: how many there were.
    """

    lowest: float = np.inf
    highest: float = -np.inf
    num_lost: float = 0
    num_values: int = 0

    @property
    def lost_share(self) -> float:
        """Share of the values, 0 to 1, that the window changed."""
        return self.num_lost / max(self.num_values, 1)

    def add(self, values: np.ndarray, window: tuple[float, float]) -> None:
        """Counts the values of one more study."""
        self.lowest = min(self.lowest, float(values.min()))
        self.highest = max(self.highest, float(values.max()))
        self.num_lost += preprocess.lost_share(values, window) * values.size
        self.num_values += values.size


def attach(
    samples: Iterable[Sample],
    read: elsewhere_files.Read,
    target: tasks.Modality,
    values: Values | None = None,
) -> Iterator[Sample]:
    """Yields each sample with its translated image as the last channel.

    Args:
      samples: the slices, those of a study one after the other; the images of
        one study are in memory at a time.
      read: from `elsewhere_files`.
      target: modality of the images.
      values: is told what was found; None: a second look at a few slices,
        which say too little to judge the values by.

    Raises:
      DataError: values that cannot be in the target's unit; see `read`, too.
    """
    for study, group in itertools.groupby(
        samples, key=elsewhere_files.study_of
    ):
        group = list(group)
        images = read(group)
        if values is not None:
            name = elsewhere_files.stem(study)
            _check_values(name, images, group, target, values)
        for sample, image in zip(group, images, strict=True):
            image = preprocess.normalise(image, sample.target_window)
            yield dataclasses.replace(
                sample,
                source=np.concatenate([sample.source, image[..., None]], -1),
            )


def translate(sources: np.ndarray) -> np.ndarray:
    """The last channel of what `attach` gave: [B, H, W, C] -> [B, H, W, 1]."""
    return sources[..., -1:]


def _check_values(
    who: str,
    images: np.ndarray,
    samples: list[Sample],
    target: tasks.Modality,
    found: Values,
) -> None:
    """Refuses values that are not in the target's unit, as far as they tell.

    A poor translation is none of this: our own network, at whatever step,
    stays within the window.
    """
    masks = np.stack([sample.mask for sample in samples])
    if not masks.any():
        return
    window = samples[0].target_window
    low, high = window
    values = images[masks]
    found.add(values, window)
    in_words = (
        f"values of {values.min():.4g} to {values.max():.4g} "
        f"{target.unit} (median {np.median(values):.4g})"
    )

    def check(is_wrong: bool, why: str, expected: str) -> None:
        if is_wrong:
            raise errors.refusal(
                f"Translated images of {who}",
                f"{in_words}, {why}",
                expected,
                f"convert them to {target.unit}: neither grey values nor "
                "[-1, 1]",
            )

    above = preprocess.clipped_share(values, (-np.inf, high))
    check(
        above > preprocess.MOST_CLIPPED,
        f"{above:.0%} of them above {high:g}",
        f"at most {preprocess.MOST_CLIPPED:.0%}",
    )
    if low == 0:
        below = preprocess.clipped_share(
            values, (-_CLEARLY_NEGATIVE * high, np.inf)
        )
        check(
            below > preprocess.MOST_CLIPPED,
            f"{below:.0%} of them clearly below 0",
            f"at most {preprocess.MOST_CLIPPED:.0%}",
        )
    top = values.max()
    check(
        low == 0 and 0.25 < top <= 1 + RANGE_TOLERANCE < 0.01 * high,
        "none above 1",
        f"some near {high:.4g}",
    )
    check(
        high - low < _GREY_LEVELS and top > 1 and (values % 1 == 0).all(),
        "whole numbers only",
        f"finer steps in a window of {low:g} to {high:g}",
    )
    # Grey values, [-1, 1], [0, 1], HU + 1024 and a blackened background have
    # in common that air is near 0.
    wanted = np.stack([sample.target[..., 0] for sample in samples])[masks]
    is_air = preprocess.denormalise(wanted, window) <= target.body_above
    check(
        low < 0
        and is_air.mean() >= _LEAST_AIR
        and values.min() >= -_CLEARLY_NEGATIVE * abs(low)
        and abs(np.percentile(values[is_air], 5)) <= _NEAR_ZERO * abs(low),
        "about 0 where the target shows air",
        f"air near {target.air:g}",
    )
