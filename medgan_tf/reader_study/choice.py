"""Which slices become trials: of all patients alike, and far apart."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from medgan_tf import errors, tasks
from medgan_tf.data.sample import Sample
from medgan_tf.evaluation import compare

# Of the study's largest section of the body; beyond, a slice shows the crown
# of the head or the tips of the toes.
LEAST_BODY = 0.25

# Patient, study and slice.
Place = tuple[str, str, int]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A slice that may become a trial.

    Attributes:
      patient: as in `Sample`.
      study: as in `Sample`.
      slice_index: as in `Sample`.
      body: pixels of the body in the target, within the mask.
    """

    patient: str
    study: str
    slice_index: int
    body: int

    @property
    def place(self) -> Place:
        """By which the slice is known."""
        return self.patient, self.study, self.slice_index


def candidates(
    samples: Iterable[Sample], target: tasks.Modality
) -> list[Candidate]:
    """All slices, with how much of the body they show."""
    window = target.window or (0.0, 1.0)
    return [
        Candidate(
            one.patient,
            one.study,
            one.slice_index,
            int(
                np.count_nonzero(
                    one.mask
                    & (
                        compare.physical(one.target[..., 0], window)
                        > target.body_above
                    )
                )
            ),
        )
        for one in samples
    ]


def with_body(found: Sequence[Candidate]) -> list[Candidate]:
    """Those with at least LEAST_BODY of their study's largest section."""
    largest = collections.Counter()
    for one in found:
        study = one.patient, one.study
        largest[study] = max(largest[study], one.body)
    return [
        one
        for one in found
        if one.body >= max(1, LEAST_BODY * largest[one.patient, one.study])
    ]


def choose(
    found: Sequence[Candidate], num_trials: int, rng: np.random.Generator
) -> list[Candidate]:
    """Slices of all patients alike, spread over each of them.

    The numbers of trials of two patients differ by one at most, unless one
    has no more slices. A patient's slices lie evenly from a place that is
    drawn; two are neighbours only where there is no other way.

    Args:
      found: from `with_body`.
      num_trials: how many.
      rng: draws who has one more, and where each patient's slices begin.

    Returns:
      The slices, patient by patient.

    Raises:
      DataError: there are too few.
    """
    by_patient = collections.defaultdict(list)
    for one in sorted(found, key=lambda one: one.place):
        by_patient[one.patient].append(one)
    if len(found) < num_trials:
        raise errors.DataError(
            f"Found {len(found)} slice(s) of {len(by_patient)} patient(s) "
            f"with enough of the body, expected {num_trials}, one for each "
            "trial; lower --num_trials, or take more patients."
        )
    numbers = collections.Counter()
    while numbers.total() < num_trials:
        for patient in rng.permutation(list(by_patient)):
            if numbers.total() < num_trials and numbers[patient] < len(
                by_patient[patient]
            ):
                numbers[patient] += 1
    return [
        slices[place]
        for patient, slices in by_patient.items()
        for place in _spread(len(slices), numbers[patient], rng.random())
    ]


def _spread(number: int, wanted: int, start: float) -> list[int]:
    """So many places of 0..number - 1, evenly, from `start` in [0, 1) on."""
    gap = 1 if number >= 2 * wanted - 1 else 0
    room = number - gap * (wanted - 1)
    return [int((i + start) * room / wanted) + gap * i for i in range(wanted)]
