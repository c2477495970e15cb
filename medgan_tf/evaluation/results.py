"""Several methods on the same patients: who is best, and is it sure?

Works on the files that an evaluation leaves, `scores.json` and `scores.csv`,
whoever made the images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

from medgan_tf import errors, sealed
from medgan_tf.evaluation import evaluate, examples, statistics

SCORES_FILE = "scores.json"
ROWS_FILE = "scores.csv"
# Of slices shown as the worst, in one study; neighbours are too much alike.
LEAST_DISTANCE = 5
_SAME = ("task", "split", "data_fingerprint", "unit", "lpips_weights")


@dataclasses.dataclass(frozen=True)
class Result:
    """The scores of one method.

    Attributes:
      name: of the method's run.
      label: the method for people.
      folder: where the files are.
      scores: `scores.json` as a dict.
    """

    name: str
    label: str
    folder: pathlib.Path
    scores: dict

    @property
    def images(self) -> dict[str, dict]:
        """Name of the image -> its averages."""
        return self.scores["images"]


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What one metric says of the methods.

    Attributes:
      best: names of those with the best mean over patients; several where
        they are equal.
      comparisons: of each other method with the reference, as
        `statistics.compare_all`; empty with one method, or where too little
        is finite.
      note: why there are none, or how many slices were left out.
    """

    best: tuple[str, ...]
    comparisons: tuple[statistics.Comparison, ...]
    note: str = ""


def read(name: str, label: str, folder: str | os.PathLike) -> Result:
    """Reads what `evaluate.py` wrote.

    Raises:
      ArtefactError: a file is missing or was changed.
    """
    folder = pathlib.Path(folder)
    try:
        scores = sealed.read(folder / SCORES_FILE)
        scores["images"]["translated"], scores["protocol"]["metrics"]
        rows = (folder / ROWS_FILE).read_bytes()
        if scores["rows_sha256"] != hashlib.sha256(rows).hexdigest():
            raise ValueError(f"{ROWS_FILE} is not the one that goes with it")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise errors.ArtefactError(
            f"{folder / SCORES_FILE} cannot be read "
            f"({str(error).splitlines()[0]}); evaluate again."
        ) from error
    return Result(name, label, folder, scores)


def check_comparable(results: Sequence[Result]) -> None:
    """Raises a DataError unless all were scored on the same, in the same way.

    Raises:
      DataError: task, split, data or protocol differ.
    """
    first = results[0]
    for other in results[1:]:
        for key in _SAME:
            a, b = (one.scores["settings"].get(key) for one in (first, other))
            if a != b:
                raise errors.refusal(
                    f"{other.folder} and {first.folder}",
                    f"{key} {b} and {a}",
                    "results of the same patients",
                    "evaluate both on the same data",
                )
        if other.scores["protocol"] != first.scores["protocol"]:
            raise errors.refusal(
                f"{other.folder} and {first.folder}",
                "other settings of the protocol",
                "the same protocol",
                "evaluate both with the same --protocol and version",
            )


def metrics_of(results: Sequence[Result]) -> dict[str, dict]:
    """Metric -> label, unit, direction: those that all results have."""
    described = results[0].scores["protocol"]["metrics"]
    return {
        name: metric
        for name, metric in described.items()
        if not any(name in one.scores["not_computed"] for one in results)
    }


def rank(results: Sequence[Result], metric: str, reference: str) -> Ranking:
    """Who is best by a metric, and whether the patients agree.

    Args:
      results: comparable ones, see `check_comparable`.
      metric: one of `metrics_of`.
      reference: name of the result that the others are compared with.

    Raises:
      DataError: the results are not of the same slices.
    """
    direction = results[0].scores["protocol"]["metrics"][metric][
        "higher_is_better"
    ]
    means = {
        one.name: one.images["translated"]["patient_mean"][metric]
        for one in results
    }
    # A metric may be undefined for all patients, and null then.
    worth = {
        name: _worth(mean, direction)
        for name, mean in means.items()
        if mean is not None
    }
    best = tuple(
        name for name, value in worth.items() if value == max(worth.values())
    )
    if len(results) < 2:
        return Ranking(best, (), "one method, nothing to compare")
    values = {
        one.name: statistics.read_scores(one.folder / ROWS_FILE, metric)[
            "translated"
        ]
        for one in results
    }
    if not any(
        all(math.isfinite(values[name][key]) for name in values)
        for key in next(iter(values.values()))
    ):
        return Ranking(best, (), "no slice in which all methods have a number")
    table = statistics.patient_table(values)
    left_out = table.num_identical + table.num_undefined
    return Ranking(
        best,
        tuple(statistics.compare_all(table.patient_means, reference)),
        f"without the {left_out} {results[0].scores['protocol']['scored']}(s) "
        "in which a method has no finite number"
        if left_out
        else "",
    )


def mean_ssim(
    results: Sequence[Result],
) -> dict[statistics.Slice, float]:
    """Slice -> its SSIM, mean over the methods: how hard it is.

    Raises:
      DataError: the results were scored by volume, or on other slices.
    """
    found = [
        statistics.read_scores(one.folder / ROWS_FILE, "ssim")["translated"]
        for one in results
    ]
    return {
        key: sum(values[key] for values in found) / len(found)
        for key in found[0]
    }


def choose_median(
    ssim: Mapping[statistics.Slice, float], *, num_patients: int = 4
) -> dict[tuple[str, str, int], str]:
    """One slice a patient, of median SSIM: see `examples.choose`."""
    rows = [
        evaluate.Score(patient, index, "translated", {"ssim": value}, study)
        for (patient, study, index), value in ssim.items()
    ]
    chosen = examples.choose(rows, num_patients=num_patients)
    return {key: kind for key, kind in chosen.items() if kind == "median"}


def choose_worst(
    ssim: Mapping[statistics.Slice, float], *, number: int = 5
) -> dict[tuple[str, str, int], str]:
    """The slices of lowest SSIM, no two of them neighbours.

    Args:
      ssim: as from `mean_ssim`.
      number: at most so many.

    Returns:
      (patient, study, slice_index) -> "worst", the worst first.
    """
    chosen = {}
    for key in sorted(ssim, key=ssim.get):
        patient, study, index = key
        near = (
            (patient, study) == other[:2]
            and abs(index - other[2]) < LEAST_DISTANCE
            for other in chosen
        )
        if not any(near):
            chosen[key] = "worst"
        if len(chosen) == number:
            break
    return chosen


def _worth(mean: float, higher_is_better: bool | None) -> float:
    """The higher, the better."""
    if higher_is_better is None:
        return -abs(mean)
    return mean if higher_is_better else -mean
