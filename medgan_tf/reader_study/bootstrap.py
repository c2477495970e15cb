"""How sure is a number that some readers gave on some cases?

Other readers would have judged otherwise, and other cases been easier or
harder. So readers and cases are both drawn anew, each with all its answers
("pigeonhole" bootstrap, Owen 2007). Answers drawn one by one, as if each had
its own reader and case, would give far too narrow an interval.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from medgan_tf.evaluation import statistics

NUM_RESAMPLES = 2000
FEWEST_READERS = 3
# In a resample, say, no answer may be left; more of them, and the rest is no
# fair picture.
_MOST_UNDEFINED = 0.05

# How often each reader [B, R] and each trial [B, T] counts -> [B].
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, in the number's unit.

    Attributes:
      value: None where it is not defined.
      low: lower end; None: see `note`.
      high: upper end; None: see `note`.
      note: why something is None; empty where nothing is.
    """

    value: float | None
    low: float | None
    high: float | None
    note: str = ""


def estimate(
    statistic: Statistic,
    num_readers: int,
    cases: Sequence[str],
    *,
    draw_readers: bool = True,
    seed: int = 0,
) -> Estimate:
    """The number, and its interval over readers and cases.

    The ends are percentiles of the resamples. Their level is the one at which
    a t interval with as few readers and cases would hold 95 %: degrees of
    freedom after Satterthwaite from the jackknife variances over readers and
    over cases, as Hesterberg (2015) does for one sample. With five readers of
    whom each has his own way, plain percentiles are too narrow. Where most of
    the spread is chance in each single answer, the interval is somewhat too
    wide, which is known of this bootstrap.

    Args:
      statistic: gives the number for each row of weights.
      num_readers: how many.
      cases: the case of each trial; trials of the same one are drawn
        together.
      draw_readers: whether other readers are imagined too; False where the
        number is about these ones.
      seed: same answers and seed, same interval.

    Returns:
      The estimate, without interval where there are fewer than
      FEWEST_READERS readers or `statistics.FEWEST_FOR_INTERVAL` cases.
    """
    names, case_of = np.unique(np.asarray(cases), return_inverse=True)
    num_cases, num_trials = len(names), len(case_of)
    one_reader = np.ones((1, num_readers))
    value = float(statistic(one_reader, np.ones((1, num_trials)))[0])
    if math.isnan(value):
        return Estimate(None, None, None, "not defined for these answers")
    if lack := _lack(num_readers if draw_readers else None, num_cases):
        return Estimate(value, None, None, lack)

    left_out = 1 - np.eye(num_cases)[:, case_of]
    ones = np.ones((num_cases, num_readers))
    variances = [_jackknife(statistic(ones, left_out))]
    numbers = [num_cases]
    if draw_readers:
        ones = np.ones((num_readers, num_trials))
        variances.append(_jackknife(statistic(1 - np.eye(num_readers), ones)))
        numbers.append(num_readers)

    trials = _drawn(num_cases, (seed, 0))[:, case_of]
    readers = one_reader.repeat(NUM_RESAMPLES, 0)
    if draw_readers:
        readers = _drawn(num_readers, (seed, 1))
    found = statistic(readers, trials)
    is_defined = np.isfinite(found)
    if not np.isfinite(variances).all() or (
        is_defined.mean() < 1 - _MOST_UNDEFINED
    ):
        return Estimate(
            value, None, None, "no interval, as too few answers differ"
        )
    found = found[is_defined]
    if np.ptp(found) <= 10.0**-statistics.DIGITS:
        return Estimate(
            value, None, None, "no interval, as all answers are alike"
        )
    beyond = stats.norm.sf(_quantile(np.array(variances), np.array(numbers)))
    low, high = np.quantile(found, [beyond, 1 - beyond])
    return Estimate(value, float(low), float(high))


@functools.lru_cache(maxsize=32)
def _drawn(number: int, seed: tuple[int, int]) -> np.ndarray:
    """How often each of `number` is drawn in each resample, [B, number]."""
    rng = np.random.default_rng(seed)
    shares = np.full(number, 1 / number)
    drawn = rng.multinomial(number, shares, NUM_RESAMPLES).astype(np.float64)
    drawn.setflags(write=False)
    return drawn


def _lack(num_readers: int | None, num_cases: int) -> str:
    """Why there can be no interval; empty where there can."""
    least = statistics.FEWEST_FOR_INTERVAL
    if num_readers is not None and num_readers < FEWEST_READERS:
        return (
            f"no interval from {num_readers} reader(s), {FEWEST_READERS} needed"
        )
    if num_cases < least:
        return f"no interval from {num_cases} case(s), {least} needed"
    return ""


def _jackknife(left_out: np.ndarray) -> float:
    """Variance of a number, from its values when each one is left out."""
    return (len(left_out) - 1) * float(np.var(left_out))


def _quantile(variances: np.ndarray, numbers: np.ndarray) -> float:
    """Of the normal distribution, to be applied to resamples.

    Args:
      variances: of the number, over cases and over readers.
      numbers: how many of them there are.
    """
    total, shrunk = variances.sum(), (variances * (1 - 1 / numbers)).sum()
    if total <= 10.0**-statistics.DIGITS:
        # Neither cases nor readers differ, only single answers.
        return float(stats.norm.ppf((1 + statistics.LEVEL) / 2))
    freedom = total**2 / (variances**2 / (numbers - 1)).sum()
    t = stats.t.ppf((1 + statistics.LEVEL) / 2, freedom)
    # By so much resamples differ less than new cases and readers would.
    return t * math.sqrt(total / shrunk)
