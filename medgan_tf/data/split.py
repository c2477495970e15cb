"""Deals patients, never slices, to training, validation and test.

Slices of one patient resemble each other, so a patient on two sides would
make a score look better than it is.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from medgan_tf import errors

SIDES = ("train", "validation", "test")


def split_patients(
    patients: Iterable[str],
    *,
    test: Iterable[str] = (),
    validation: Iterable[str] = (),
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> dict[str, list[str]]:
    """Assigns every patient to one side.

    The result depends on the names and the seed, not on the order in which
    the names come. A side with a fraction above 0 gets at least one patient
    as long as training keeps one; validation goes without first.

    Args:
      patients: names; a name that comes twice is one patient.
      test: names to test on; if given, no others are.
      validation: names to validate on; if given, no others are.
      fractions: shares of training, validation and test, together 1. Where a
        side is given by name, the others share the rest in proportion.
      seed: of the random draw.

    Returns:
      Sorted names under "train", "validation" and "test".

    Raises:
      DataError: an unknown name, one on two sides, nobody left to train on.
      UsageError: fractions are negative or do not add up to 1.

    Example:
      >>> split_patients(["ann", "bob", "eve"], test=["eve"], seed=1)
      {'train': ['ann'], 'validation': ['bob'], 'test': ['eve']}
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise errors.UsageError(
            f"Fractions of train, validation and test are {tuple(fractions)}; "
            "expected three numbers from 0 to 1 that add up to 1."
        )
    named = {"validation": set(validation), "test": set(test)}
    _check_names(set(patients := list(patients)), named)
    rest = sorted(set(patients) - named["validation"] - named["test"])
    open_sides = ["train"] + [side for side in named if not named[side]]
    counts = _counts(
        len(rest), {s: fractions[SIDES.index(s)] for s in open_sides}
    )
    shuffled = [str(p) for p in np.random.default_rng(seed).permutation(rest)]
    split = {side: sorted(names) for side, names in named.items()}
    for side in open_sides:
        split[side] = sorted(shuffled[: counts[side]])
        shuffled = shuffled[counts[side] :]
    if not split["train"]:
        raise errors.DataError(
            f"No patient of {len(set(patients))} is left to train on "
            f"(validation {len(split['validation'])}, test "
            f"{len(split['test'])}); expected at least one: name fewer, or "
            "raise the fraction of training."
        )
    return {side: split[side] for side in SIDES}


def given_split(sides: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The split that a manifest says.

    Args:
      sides: patient and side of each study.

    Returns:
      As `split_patients`.

    Raises:
      DataError: a side is unknown or missing, a patient is on two, or nobody
        is left to train on.
    """
    side_of = {}
    for patient, side in sides:
        if side not in SIDES:
            raise errors.DataError(
                f"The split of patient {patient} is {side!r}; expected "
                f"{', '.join(SIDES)} for each patient, or no column `split`."
            )
        if side_of.setdefault(patient, side) != side:
            raise errors.DataError(
                f"Patient {patient} is on two sides, {side_of[patient]} and "
                f"{side}; expected one: what is tested would have been "
                "trained on."
            )
    split = {
        side: sorted(p for p, own in side_of.items() if own == side)
        for side in SIDES
    }
    if not split["train"]:
        raise errors.DataError(
            "The column `split` leaves no patient to train on; expected some "
            "with train."
        )
    return split


def _check_names(patients: set[str], named: dict[str, set[str]]) -> None:
    for side, names in named.items():
        if unknown := sorted(names - patients):
            raise errors.DataError(
                f"{side.capitalize()} names unknown patients "
                f"{', '.join(unknown)}; expected some of "
                f"{', '.join(sorted(patients))}."
            )
    if both := sorted(named["validation"] & named["test"]):
        raise errors.DataError(
            f"Patients {', '.join(both)} are in validation and in test; "
            "expected each on one side: name them once."
        )


def _counts(num_patients: int, fractions: dict[str, float]) -> dict[str, int]:
    """How many patients each side that is not given by name gets."""
    total = sum(fractions.values())
    if fractions["train"] == 0:
        return dict.fromkeys(fractions, 0)
    counts = {
        side: max(1, round(num_patients * fraction / total)) if fraction else 0
        for side, fraction in fractions.items()
        if side != "train"
    }
    while sum(counts.values()) >= max(num_patients, 1):
        # The largest gives one up; of equal ones, validation.
        side = max(counts, key=lambda s: (counts[s], s == "validation"))
        counts[side] -= 1
    return {"train": num_patients - sum(counts.values()), **counts}
