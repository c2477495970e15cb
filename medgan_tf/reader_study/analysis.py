"""What readers say of images: the paper's Table 3, and how sure it is.

The paper gives, for each method, the mean and standard deviation of the
scores and how often its image was taken for the real one. Here each has an
interval over readers and cases. A case is a patient: the slices of one
resemble each other, so sixty slices of ten patients are ten cases.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np
from scipy import stats

from medgan_tf import errors
from medgan_tf.evaluation import statistics
from medgan_tf.reader_study import agreement, bootstrap, storage
from medgan_tf.reader_study.readings import TARGET, Readings

CASES = ("patient", "trial")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of Table 3.

    Attributes:
      label: "target" or a method.
      num_answers: how often it was seen.
      score: mean of 1 to 4.
      sd: sample standard deviation of the scores; None for one answer.
      num_judged_real: how often it was taken for the real image.
      judged_real: the same, in per cent of `num_answers`.
      wilson: (low, high), in per cent: Wilson's 95 % interval of that share
        as if all answers were independent, as published counts allow it.
    """

    label: str
    num_answers: int
    score: bootstrap.Estimate
    sd: float | None
    num_judged_real: int
    judged_real: bootstrap.Estimate
    wilson: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Whether the readers saw the same.

    Attributes:
      num_trials: those that all readers answered; only these count.
      fleiss: Fleiss' kappa of which image was judged real. Its interval, and
        that of `weighted`, is over cases only: a reader who is drawn twice
        would agree with himself.
      weighted: mean over pairs of readers of the quadratically weighted kappa
        of the scores.
      pairs: the two readers and their weighted kappa; None if not defined.
    """

    num_trials: int
    fleiss: bootstrap.Estimate
    weighted: bootstrap.Estimate
    pairs: tuple[tuple[str, str, float | None], ...]


@dataclasses.dataclass(frozen=True)
class Analysis:
    """All numbers of a study.

    Attributes:
      cases: what counts as one, see CASES.
      num_cases: how many.
      pooled: a row for each label, over all readers.
      per_reader: reader -> the same over the reader's answers, with intervals
        over cases.
      agreement: among the readers.
      comparisons: "score" and "judged_real" (per cent) -> every pair of
        labels, by the means per case over readers and trials. Each is a
        family of its own for Holm's correction.
      learning: what may change while a reader goes on ("target found",
        "score of methods", "seconds") -> Spearman's correlation with the
        place in the reader's order, mean over readers.
    """

    cases: str
    num_cases: int
    pooled: tuple[Row, ...]
    per_reader: dict[str, tuple[Row, ...]]
    agreement: Agreement
    comparisons: dict[str, tuple[statistics.Comparison, ...]]
    learning: dict[str, bootstrap.Estimate]


def analyse(
    readings: Readings, *, cases: str = "patient", seed: int = 0
) -> Analysis:
    """Computes everything.

    Args:
      readings: from `readings.read`; answers may be missing.
      cases: "patient", or "trial" as if no two slices resembled each other.
      seed: same answers and seed, same numbers.

    Raises:
      UsageError: `cases` is neither.
    """
    if cases not in CASES:
        raise errors.UsageError(
            f"cases must be one of {', '.join(CASES)}, got {cases!r}."
        )
    names = readings.patients if cases == "patient" else readings.trials
    names = np.asarray(names)

    return Analysis(
        cases=cases,
        num_cases=len(np.unique(names)),
        pooled=_rows(readings, names, seed),
        per_reader={
            reader: _rows(readings, names, seed, only=i)
            for i, reader in enumerate(readings.readers)
        },
        agreement=_agreement(readings, names, seed),
        comparisons={
            "score": _comparisons(readings, readings.scores, names, seed),
            "judged_real": _comparisons(
                readings, 100 * readings.judged, names, seed
            ),
        },
        learning=_learning(readings, names, seed),
    )


def flat(found: Analysis) -> list[dict]:
    """Table 3 as rows of a CSV: all readers as reader "", then each."""
    rows = []
    tables = {"": found.pooled, **found.per_reader}
    for reader, row in (
        (reader, row) for reader, table in tables.items() for row in table
    ):
        rows.append(
            {
                "reader": reader,
                "image": row.label,
                "num_answers": row.num_answers,
                "score": row.score.value,
                "score_low": row.score.low,
                "score_high": row.score.high,
                "score_sd": row.sd,
                "num_judged_real": row.num_judged_real,
                "judged_real_percent": row.judged_real.value,
                "judged_real_low": row.judged_real.low,
                "judged_real_high": row.judged_real.high,
                "wilson_low": row.wilson[0],
                "wilson_high": row.wilson[1],
            }
        )
    return rows


def wilson(count: int, number: int) -> tuple[float, float]:
    """95 % interval of a share, in per cent (Wilson 1927).

    Each of the `number` answers counts as independent of the others.
    """
    interval = stats.binomtest(count, number).proportion_ci(
        statistics.LEVEL, method="wilson"
    )
    return 100 * float(interval.low), 100 * float(interval.high)


def mean_of(values: np.ndarray) -> bootstrap.Statistic:
    """The mean of [R, T] values, without those that are NaN."""
    is_there = np.isfinite(values)
    values = np.where(is_there, values, 0.0)

    def statistic(readers: np.ndarray, trials: np.ndarray) -> np.ndarray:
        total, number = (
            (readers * _per_reader(trials, x)).sum(1)
            for x in (values, is_there.astype(float))
        )
        return _quotient(total, number)

    return statistic


def rank_correlation_of(
    first: np.ndarray, second: np.ndarray
) -> bootstrap.Statistic:
    """Spearman's correlation within each reader [R, T], mean over readers.

    Ranks are those among all the reader's answers, also in a resample. A
    reader whose values are all the same has none and is left out.
    """
    is_there = np.isfinite(first) & np.isfinite(second)
    weight = is_there.astype(float)
    x, y = (_ranks(values, is_there) for values in (first, second))

    def statistic(readers: np.ndarray, trials: np.ndarray) -> np.ndarray:
        total = functools.partial(_per_reader, trials)
        number = np.maximum(total(weight), 1)
        mean_x, mean_y = total(x) / number, total(y) / number
        covariance = total(x * y) / number - mean_x * mean_y
        variance_x = total(x * x) / number - mean_x**2
        variance_y = total(y * y) / number - mean_y**2
        # Of ranks that are scaled to 1: less is round-off.
        is_defined = (variance_x > 1e-9) & (variance_y > 1e-9)
        product = np.where(is_defined, variance_x * variance_y, 1)
        found = np.where(is_defined, covariance / np.sqrt(product), 0)
        return _quotient(
            (readers * found).sum(1), (readers * is_defined).sum(1)
        )

    return statistic


def _rows(
    readings: Readings, cases: np.ndarray, seed: int, only: int | None = None
) -> tuple[Row, ...]:
    """Table 3, of all readers or of one."""
    some = slice(None) if only is None else slice(only, only + 1)
    # Cases of which nothing is known are none.
    is_there = np.isfinite(readings.positions[some]).any(0)
    scores, judged = (
        values[some][:, is_there]
        for values in (readings.scores, readings.judged)
    )
    estimate = functools.partial(
        bootstrap.estimate,
        num_readers=len(scores),
        cases=cases[is_there],
        draw_readers=only is None,
        seed=seed,
    )
    rows = []
    for i, label in enumerate(readings.labels):
        there = scores[..., i][np.isfinite(scores[..., i])]
        count = int(np.nansum(judged[..., i]))
        rows.append(
            Row(
                label=label,
                num_answers=len(there),
                score=estimate(mean_of(scores[..., i])),
                sd=float(there.std(ddof=1)) if len(there) > 1 else None,
                num_judged_real=count,
                judged_real=estimate(mean_of(100 * judged[..., i])),
                wilson=wilson(count, len(there)),
            )
        )
    return tuple(rows)


def _agreement(readings: Readings, cases: np.ndarray, seed: int) -> Agreement:
    is_complete = np.isfinite(readings.positions).all(0)
    num_trials, num_readers = int(is_complete.sum()), len(readings.readers)
    if num_readers < 2 or not num_trials:
        nothing = bootstrap.Estimate(
            None, None, None, "no trial that two readers or more answered"
        )
        return Agreement(num_trials, nothing, nothing, ())

    estimate = functools.partial(
        bootstrap.estimate,
        num_readers=num_readers,
        cases=cases[is_complete],
        draw_readers=False,
        seed=seed,
    )
    counts = readings.judged[:, is_complete].sum(0)
    scores = readings.scores[:, is_complete]
    # [R, T, L, K] -> [pairs, T, K, K], a table of each trial's images.
    is_score = (scores[..., None] == np.array(storage.SCORES)).astype(float)
    pairs = list(itertools.combinations(range(num_readers), 2))
    tables = np.stack(
        [np.einsum("tli,tlj->tij", is_score[a], is_score[b]) for a, b in pairs]
    )

    def weighted(_: np.ndarray, trials: np.ndarray) -> np.ndarray:
        kappas = agreement.weighted_kappa(
            np.einsum("bt,ptij->bpij", trials, tables)
        )
        is_defined = np.isfinite(kappas)
        return _quotient(
            np.where(is_defined, kappas, 0).sum(1), is_defined.sum(1)
        )

    return Agreement(
        num_trials,
        estimate(lambda _, trials: agreement.fleiss_kappa(counts, trials)),
        estimate(weighted),
        tuple(
            (readings.readers[a], readings.readers[b], _or_none(kappa))
            for (a, b), kappa in zip(
                pairs, agreement.weighted_kappa(tables.sum(1)), strict=True
            )
        ),
    )


def _comparisons(
    readings: Readings, values: np.ndarray, cases: np.ndarray, seed: int
) -> tuple[statistics.Comparison, ...]:
    """Every pair of labels, by their means per case."""
    means = {}
    for i, label in enumerate(readings.labels):
        by_case = {
            str(case): values[:, cases == case, i] for case in np.unique(cases)
        }
        means[label] = {
            case: float(np.nanmean(found))
            for case, found in by_case.items()
            if np.isfinite(found).any()
        }
    return tuple(
        # The notes of `statistics` know patients only.
        dataclasses.replace(one, note=one.note.replace("patient", "case"))
        for one in statistics.compare_all(means, seed=seed)
    )


def _learning(
    readings: Readings, cases: np.ndarray, seed: int
) -> dict[str, bootstrap.Estimate]:
    target = readings.labels.index(TARGET)
    values = {
        "target found": readings.judged[..., target],
        "score of methods": np.delete(readings.scores, target, 2).mean(2),
        "seconds": readings.seconds,
    }
    return {
        name: bootstrap.estimate(
            rank_correlation_of(readings.positions, found),
            len(readings.readers),
            cases,
            seed=seed,
        )
        for name, found in values.items()
    }


def _ranks(values: np.ndarray, is_there: np.ndarray) -> np.ndarray:
    """Ranks within each row, from 0 to 1; 0 where there is no value."""
    ranks = np.zeros(values.shape)
    for row, found, there in zip(ranks, values, is_there, strict=True):
        row[there] = stats.rankdata(found[there]) / max(there.sum(), 1)
    return ranks


def _per_reader(trials: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums over trials that count so often: [B, T], [R, T] -> [B, R]."""
    # Not a product of matrices: on a busy machine its threads, which such
    # small ones do not need, wait for each other twenty times as long.
    return np.einsum("bt,rt->br", trials, values)


def _quotient(total: np.ndarray, number: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
