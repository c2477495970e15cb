"""Is one method better than another, or were the patients merely kind to it?

The slices of one patient resemble each other, so a thousand slices of ten
patients are ten observations, not a thousand. Everything here therefore works
on patient -> value, each patient counting once:

    slices = statistics.read_scores("run/scores.csv", "ssim")
    table = statistics.patient_table(slices).patient_means
    description = statistics.describe(table["translated"])
    comparisons = statistics.compare_all(table, reference="translated")

A value that is not finite is refused, save in `patient_table`, where the rule
for slices in which a metric is not defined or infinite is written.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from medgan_tf import errors

LEVEL = 0.95
NUM_RESAMPLES = 9999
# Because with four patients even the highest of them is drawn four times in
# a row more often (4^-4) than the interval may miss on that side (1.2e-4).
FEWEST_FOR_INTERVAL = 5
SIGNIFICANT = 0.05
# Above it the normal approximation is as good, and quicker.
MOST_PAIRS_FOR_EXACT_P = 200
# Differences are told apart in this many digits of the largest value, so
# that 0.9 - 0.8 and 0.8 - 0.7 are a tie, as they are on paper.
DIGITS = 12

SCORE_COLUMNS = ("patient", "study", "slice_index", "image")
# Patient, study and slice index; None for a volume scored as a whole.
Slice = tuple[str, str, int | None]


@dataclasses.dataclass(frozen=True)
class Description:
    """One method, one metric, described over patients, in the metric's unit.

    Attributes:
      mean: over patients.
      sd: sample standard deviation (n - 1) over patients; None for one.
      median: middle patient.
      q1: first quartile, linear between patients.
      q3: third quartile.
      low: lower end of the 95 % interval of the mean; None: see `note`.
      high: upper end; None: see `note`.
      num_patients: how many.
      note: why something is None; empty where nothing is.
    """

    mean: float
    sd: float | None
    median: float
    q1: float
    q3: float
    low: float | None
    high: float | None
    num_patients: int
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two methods on the same patients; differences are first - second.

    Attributes:
      first: name of a method.
      second: name of the other.
      mean_difference: over patients, in the metric's unit.
      low: lower end of its 95 % interval; None: see `note`.
      high: upper end; None: see `note`.
      rank_biserial: in [-1, 1]: 1 where the first is higher in every patient.
      p: of the two-sided Wilcoxon signed-rank test.
      p_holm: p corrected for the family compared; None where there is none.
      num_pairs: patients.
      num_equal: patients in whom both methods have the same value.
      note: what the reader should know; empty where nothing is.
    """

    first: str
    second: str
    mean_difference: float
    low: float | None
    high: float | None
    rank_biserial: float
    p: float
    p_holm: float | None
    num_pairs: int
    num_equal: int
    note: str = ""


@dataclasses.dataclass(frozen=True)
class PatientTable:
    """What `describe` and `compare_all` need, and what was left out for it.

    Attributes:
      patient_means: method -> patient -> mean over the patient's slices.
      num_slices: slices behind each method's values, the same for all.
      num_identical: slices left out because a method equals the target there
        and its value is infinite.
      num_undefined: slices left out because the metric is not defined there.
      patients_left_out: patients of whom no slice was left, by name.
    """

    patient_means: dict[str, dict[str, float]]
    num_slices: int
    num_identical: int
    num_undefined: int
    patients_left_out: tuple[str, ...]


def read_scores(
    path: str | os.PathLike, metric: str
) -> dict[str, dict[Slice, float]]:
    """One metric of every slice from a `scores.csv` of an evaluation.

    Args:
      path: the file; columns patient, study, slice_index, image and one per
        metric.
      metric: name of a column, such as "ssim".

    Returns:
      Image ("source", "translated", ...) -> slice -> value, in the order of
      the file. Infinite values are kept; "nan" and an empty cell, where the
      metric is not defined, are NaN.

    Raises:
      DataError: the file cannot be read, has no lines, misses a column, holds
        a slice twice, or a value that is no number.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or ())
            lines = [(reader.line_num, line) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise errors.refusal(
            path,
            f"no readable scores ({error})",
            "a scores.csv of evaluate.py",
            "evaluate again or give another path",
        ) from error
    if missing := {*SCORE_COLUMNS, metric} - {*columns}:
        raise errors.refusal(
            path,
            f"the columns {','.join(columns) or '(none)'}",
            f"also {','.join(sorted(missing))}",
            "choose one of its metrics or evaluate again",
        )
    if not lines:
        raise errors.refusal(
            path, "no scores", "one line per slice and image", "evaluate again"
        )

    scores = collections.defaultdict(dict)
    for number, line in lines:
        where = f"{path} line {number}"
        try:
            index = int(line["slice_index"]) if line["slice_index"] else None
            value = math.nan if line[metric] == "" else float(line[metric])
        except (TypeError, ValueError) as error:
            raise errors.refusal(
                where,
                f"{metric} {line[metric]!r} of slice {line['slice_index']!r}",
                "a number and a whole number",
                "evaluate again",
            ) from error
        key = (line["patient"], line["study"], index)
        if key in scores[line["image"]]:
            raise errors.refusal(
                where,
                f"image {line['image']!r} of slice {key} again",
                "each slice and image once",
                "remove the second or evaluate again",
            )
        scores[line["image"]][key] = value
    return dict(scores)


def patient_table(scores: Mapping[str, Mapping[Slice, float]]) -> PatientTable:
    """The means per patient of methods that were scored on the same slices.

    The PSNR of an image equal to its target is infinite, and a metric may not
    be defined where there is no bone, say. A slice in which one method has no
    finite value is left out for all, not for that one alone: else a method
    would lose its best slices and be compared on harder ones than its rivals.
    A patient without a slice left is left out, and named. Where every value
    is finite, the means are those of `scores.json`. Give only what is to be
    compared: a baseline made from the target is often equal to it.

    Args:
      scores: method -> slice -> value, as `read_scores` gives it for one run;
        for several runs, a dict of their "translated" images.

    Returns:
      The table; methods and patients in the order given.

    Raises:
      UsageError: there are no methods.
      DataError: a method lacks slices that another has, or no slice is left.
    """
    if not scores:
        raise errors.UsageError("No method to compare; give at least one.")
    first, slices = next(iter(scores.items()))
    for method, values in scores.items():
        if odd := {*values} ^ {*slices}:
            raise errors.refusal(
                f"{method} and {first}",
                f"{len(odd)} slice(s) scored in one only, such as "
                f"{min(odd, key=str)}",
                "the same slices",
                "evaluate both on the same split",
            )
    found = {key: [values[key] for values in scores.values()] for key in slices}
    undefined = {key for key in found if np.isnan(found[key]).any()}
    infinite = {key for key in found if np.isinf(found[key]).any()} - undefined
    left = [key for key in found if key not in undefined | infinite]
    if not left:
        raise errors.refusal(
            " and ".join(scores),
            f"no finite value in any of {len(found)} slice(s)",
            "a slice in which all methods have one",
            "choose a metric that was computed and is finite, such as MSE",
        )
    return PatientTable(
        patient_means={
            method: per_patient((key[0], values[key]) for key in left)
            for method, values in scores.items()
        },
        num_slices=len(left),
        num_identical=len(infinite),
        num_undefined=len(undefined),
        patients_left_out=tuple(
            sorted({key[0] for key in found} - {key[0] for key in left})
        ),
    )


def per_patient(rows: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The mean of each patient's values, be they few or many.

    Args:
      rows: patient and value, one per slice; every slice of a patient weighs
        the same, of whichever study.

    Returns:
      Patient -> mean, in the order of first appearance.

    Raises:
      DataError: a value is not finite.
    """
    values = collections.defaultdict(list)
    for patient, value in rows:
        values[patient].append(value)
    means = {name: float(np.mean(found)) for name, found in values.items()}
    _finite("means of patients", means)
    return means


def describe(patients: Mapping[str, float], *, seed: int = 0) -> Description:
    """Mean, spread and a 95 % interval over patients.

    Args:
      patients: patient -> value.
      seed: of the interval's bootstrap, see `mean_interval`.

    Returns:
      The description. None, with the reason in `note`, for the standard
      deviation of one patient and where `mean_interval` gives None.

    Raises:
      DataError: there are no patients, or a value is not finite.
    """
    values = _finite("patients", patients)
    low, high, note = mean_interval(values, seed=seed)
    q1, median, q3 = np.quantile(values, [0.25, 0.5, 0.75])
    return Description(
        mean=float(np.mean(values)),
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        median=float(median),
        q1=float(q1),
        q3=float(q3),
        low=low,
        high=high,
        num_patients=len(values),
        note=note,
    )


def mean_interval(
    values: Sequence[float] | np.ndarray, *, seed: int = 0
) -> tuple[float | None, float | None, str]:
    """95 % bootstrap interval of the mean, from independent values.

    Bias-corrected and accelerated (BCa, Efron 1987), which follows a skewed
    metric, at the expanded level of Hesterberg ("What Teachers Should Know
    About the Bootstrap", The American Statistician 69, 2015): the normal
    quantile z is replaced by sqrt(n / (n - 1)) t, t with n - 1 degrees of
    freedom. Without it the interval is too narrow for few patients. How often
    it holds the true mean of simulated patients (10 000 normal samples; in
    brackets: exponential, that is, strongly skewed):

        patients             5            10           20
        BCa                  84 (80) %    91 (88) %    93 (91) %
        BCa, expanded        92 (88) %    95 (92) %    95 (94) %

    With fewer than ten patients, read it as a 90 % interval.

    Args:
      values: one per patient, in any order; ties do no harm.
      seed: same values and seed, same interval.

    Returns:
      Low, high and "". Or None, None and the reason: fewer than five values,
      where no such interval lies within the range of the values, or all
      values equal but for round-off, where nothing can be drawn anew.

    Raises:
      DataError: a value is not finite.
    """
    # Sorted, because the order of the patients must not matter.
    values = np.sort(np.asarray(values, dtype=np.float64))
    _finite("values", dict(enumerate(values)))
    n = len(values)
    if n < FEWEST_FOR_INTERVAL:
        reason = (
            f"no interval from {n} patient(s), {FEWEST_FOR_INTERVAL} needed"
        )
        return None, None, reason
    centre, spread = values.mean(), np.ptp(values)
    if spread <= 10.0**-DIGITS * np.abs(values).max():
        return None, None, "no interval, as all patients have the same value"

    expanded = math.sqrt(n / (n - 1)) * stats.t.ppf((1 + LEVEL) / 2, n - 1)
    interval = stats.bootstrap(
        # Because the cubes of tiny values would be zero.
        ((values - centre) / spread,),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        batch=1000,
        confidence_level=1 - 2 * stats.norm.sf(expanded),
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    low, high = centre + spread * np.array(interval)
    return float(low), float(high), ""


def compare(
    first: Mapping[str, float],
    second: Mapping[str, float],
    *,
    names: tuple[str, str] = ("first", "second"),
    seed: int = 0,
) -> Comparison:
    """Two methods on the same patients.

    The effect size is the matched-pairs rank-biserial correlation (King,
    Rosopa and Minium 2011; Kerby 2014): the share of the rank sum in favour
    of the first minus that in favour of the second. The ranks of patients
    without a difference favour neither and stay in the whole, n (n + 1) / 2.

    Args:
      first: patient -> value.
      second: patient -> value.
      names: of the two methods.
      seed: of the interval's bootstrap, see `mean_interval`.

    Returns:
      The comparison, with the p of `signed_rank` and no `p_holm`. The note
      says where even the clearest difference could not reach p < 0.05: with
      fewer than six patients who differ.

    Raises:
      DataError: the patients differ or are none, or a value is not finite.
    """
    if odd := {*first} ^ {*second}:
        raise errors.refusal(
            f"{names[0]} and {names[1]}",
            f"{len(odd)} patient(s) in one only, such as {min(odd)}",
            "the same patients",
            "evaluate both on the same split",
        )
    a = _finite(names[0], first)
    b = _finite(names[1], {name: second[name] for name in first})
    differences = _rounded(a - b, scale=max(np.abs(a).max(), np.abs(b).max()))
    low, high, note = mean_interval(differences, seed=seed)
    ranks = stats.rankdata(np.abs(differences))
    num_equal = int(np.sum(differences == 0))
    return Comparison(
        first=names[0],
        second=names[1],
        mean_difference=float(np.mean(differences)),
        low=low,
        high=high,
        rank_biserial=float(ranks @ np.sign(differences) / ranks.sum()),
        p=signed_rank(differences),
        p_holm=None,
        num_pairs=len(differences),
        num_equal=num_equal,
        note=_join(note, _too_few(len(differences) - num_equal, 1)),
    )


def signed_rank(differences: Sequence[float] | np.ndarray) -> float:
    """Two-sided p of the Wilcoxon signed-rank test: symmetric about zero?

    Equal sizes share the mean of their ranks. Zeros are ranked with the rest
    and their ranks then dropped (Pratt 1959), so that a method cannot gain by
    an equal patient. Given the ranks, each sign is a fair coin: up to 200
    values the chance of a rank sum as far from its mean or farther is counted
    exactly, ties and zeros included; above, Pratt's normal approximation.

    Args:
      differences: one per patient, at least one; zeros and ties must be exact.

    Returns:
      p in (0, 1]; 1 where all differences are zero.

    Raises:
      DataError: there are no differences, or one is not finite.
    """
    differences = np.asarray(differences, dtype=np.float64)
    _finite("differences", dict(enumerate(differences)))
    if not np.any(differences):
        return 1.0
    if len(differences) > MOST_PAIRS_FOR_EXACT_P:
        return float(
            stats.wilcoxon(
                differences, zero_method="pratt", method="asymptotic"
            ).pvalue
        )
    # Twice the ranks, because the mean of two ranks may end in a half.
    ranks = np.rint(2 * stats.rankdata(np.abs(differences))).astype(int)
    total = ranks[differences != 0].sum()
    found = ranks[differences > 0].sum()
    chance = np.zeros(total + 1)  # Of each sum of the positive ranks.
    chance[0] = 1.0
    for rank in ranks[differences != 0]:
        chance[rank:] = chance[rank:] + chance[:-rank]
        chance /= 2
    distance = np.abs(2 * np.arange(total + 1) - total)
    p = chance[distance >= abs(2 * found - total)].sum()
    return float(min(p, 1.0))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979).

    The smallest of m is multiplied by m, the next by m - 1 and so on; none
    falls below one before it, nor exceeds 1. The chance of any false finding
    in the family stays below the level, however the tests depend.

    Args:
      p_values: one per comparison, in [0, 1].

    Returns:
      The corrected p-values, in the order given.

    Raises:
      UsageError: a p-value is outside [0, 1] or NaN.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    if not np.all((p_values >= 0) & (p_values <= 1)):
        raise errors.UsageError(
            f"P-values must lie in [0, 1], got {p_values.tolist()}."
        )
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(p_values[order] * factors)
    return np.minimum(corrected, 1).tolist()


def compare_all(
    table: Mapping[str, Mapping[str, float]],
    reference: str | None = None,
    *,
    seed: int = 0,
) -> list[Comparison]:
    """Every method with the reference, or with every other, Holm-corrected.

    The family is this call: the comparisons returned, of one metric. Who
    tests several metrics has several families, and should name one of them
    the main one beforehand.

    Args:
      table: method -> patient -> value.
      reference: a method; each other one is compared with it, as the first.
        None: all pairs, in the table's order.
      seed: of the intervals' bootstrap, see `mean_interval`.

    Returns:
      The comparisons with `p_holm`. Their note says where the family is too
      large for its patients: where even the clearest of the differences could
      not reach a corrected p < 0.05.

    Raises:
      UsageError: fewer than two methods, or the reference is not among them.
      DataError: as for `compare`.
    """
    if len(table) < 2:
        raise errors.UsageError(
            f"A comparison needs two methods, got {list(table)}; add one."
        )
    if reference is not None and reference not in table:
        raise errors.UsageError(
            f"The reference {reference!r} is none of the methods "
            f"{', '.join(table)}; choose one of them."
        )
    pairs = itertools.combinations(table, 2)
    if reference is not None:
        pairs = ((name, reference) for name in table if name != reference)
    rows = [
        compare(table[a], table[b], names=(a, b), seed=seed) for a, b in pairs
    ]
    most = max(row.num_pairs - row.num_equal for row in rows)
    note = _too_few(most, len(rows)) if len(rows) > 1 else ""
    return [
        dataclasses.replace(row, p_holm=p, note=_join(row.note, note))
        for row, p in zip(rows, holm([row.p for row in rows]), strict=True)
    ]


def _rounded(differences: np.ndarray, *, scale: float) -> np.ndarray:
    """To twelve digits of `scale`, so that round-off makes no rank."""
    if scale == 0:
        return differences
    step = 10.0 ** (math.floor(math.log10(scale)) + 1 - DIGITS)
    return np.rint(differences / step) * step


def _too_few(num_different: int, num_comparisons: int) -> str:
    """A sentence where significance is out of reach, else nothing."""
    # All signs alike: one way in 2^n, and its mirror image.
    smallest = min(1.0, num_comparisons * 2.0 ** (1 - num_different))
    if smallest < SIGNIFICANT:
        return ""
    holm_p = "p" if num_comparisons == 1 else "p_holm"
    return (
        f"{num_different} patient(s) who differ cannot give {holm_p} < "
        f"{SIGNIFICANT} in {num_comparisons} comparison(s), at best "
        f"{smallest:.3g}"
    )


def _join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _finite(where: str, patients: Mapping[str, float]) -> np.ndarray:
    """The values as an array, or an error that names the patient."""
    values = np.array(list(patients.values()), dtype=np.float64)
    if values.size and np.isfinite(values).all():
        return values
    odd = [key for key, value in patients.items() if not np.isfinite(value)]
    raise errors.refusal(
        where,
        f"{patients[odd[0]]} for {odd[0]}" if odd else "no values",
        "one finite value or more",
        "mend the images, or take a metric that is finite",
    )
