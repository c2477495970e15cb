"""Signs that a training has diverged, and for how long they have been there.

The numbers stand in TensorBoard under `health/`, each beside its limit. No
paper gives these limits: they are ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

# |output| above this counts as saturated: the tanh's slope is below 0.02.
SATURATED_ABOVE = 0.99


@dataclasses.dataclass(frozen=True)
class Sign:
    """A number that has a limit.

    Attributes:
      tag: of the number; `TAG_limit` is its limit's.
      limit: what it must not pass.
      is_most: whether it may not be above the limit; else not below.
      words: what is wrong where it is passed.
    """

    tag: str
    limit: float
    is_most: bool
    words: str

    def is_shown(self, value: float) -> bool:
        """Whether the number is past its limit; one that is NaN is."""
        within = value <= self.limit if self.is_most else value >= self.limit
        return not within


SIGNS = (
    Sign(
        "health/discriminator_margin",
        0.98,
        True,
        "the discriminator tells all images apart, so the generator learns "
        "nothing from it",
    ),
    Sign(
        "health/output_spread",
        0.02,
        False,
        "the translated image is nearly constant",
    ),
    Sign(
        "health/saturated_excess",
        0.5,
        True,
        "the output is saturated where the target is not",
    ),
)


def measure(
    translated: np.ndarray,
    target: np.ndarray,
    p_target: float | None = None,
    p_translated: float | None = None,
) -> dict[str, float]:
    """The numbers of SIGNS that can be told.

    Args:
      translated: image in [-1, 1].
      target: of the same shape.
      p_target: probability that the discriminator gives real images, or None
        where its output is none.
      p_translated: the same for translated ones.

    Returns:
      `discriminator_margin`, the difference of the two; `output_spread`,
      standard deviation of the translated image over the target's, absent if
      the target is constant; `saturated_excess`, share of saturated pixels
      over the target's own.
    """
    excess = saturation(translated) - saturation(target)
    values = {"health/saturated_excess": excess}
    if np.std(target) > 0:
        spread = np.std(translated) / np.std(target)
        values["health/output_spread"] = float(spread)
    if p_target is not None and p_translated is not None:
        values["health/discriminator_margin"] = p_target - p_translated
    return values


def saturation(image: np.ndarray) -> float:
    """Share of the pixels of an image in [-1, 1] that are saturated."""
    return float(np.mean(np.abs(image) > SATURATED_ABOVE))


def limits(values: dict[str, float]) -> dict[str, float]:
    """`TAG_limit` of each of `values`, to be drawn beside it."""
    return {
        f"{sign.tag}_limit": sign.limit for sign in SIGNS if sign.tag in values
    }


class Watch:
    """Remembers since when each sign is there.

    A training that goes on is watched as if it had never stopped, by what
    is on record.

    Args:
      patience: steps after which a sign is taken seriously.
      recorded: step -> numbers, of the steps before by steps; one that is no
        number was not finite.
    """

    def __init__(
        self, patience: int, recorded: Mapping[int, Mapping] | None = None
    ):
        self._patience = patience
        self._since: dict[str, int] = {}
        self._told: set[str] = set()
        for step, values in (recorded or {}).items():
            finite = {
                tag: v if isinstance(v, (int, float)) else math.nan
                for tag, v in values.items()
            }
            self.look(step, finite)

    def look(self, step: int, values: dict[str, float]) -> list[Sign]:
        """Takes note of the numbers of a step.

        Returns:
          The signs that have been there for `patience` steps and were not
          told of before.
        """
        told = []
        for sign in SIGNS:
            if sign.tag not in values or not sign.is_shown(values[sign.tag]):
                self._since.pop(sign.tag, None)
                self._told.discard(sign.tag)
                continue
            since = self._since.setdefault(sign.tag, step)
            if step - since >= self._patience and sign.tag not in self._told:
                self._told.add(sign.tag)
                told.append(sign)
        return told

    def diverged_at(self, step: int) -> int | None:
        """Since which step a sign has been there for twice `patience`."""
        first = min(self._since.values(), default=step)
        return first if step - first >= 2 * self._patience else None
