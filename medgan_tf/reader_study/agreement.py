"""Do several readers see the same? Kappa: agreement beyond chance.

Both kappas are 1 where all agree, 0 where they agree as often as chance would
have it, and not defined where all gave one and the same answer to everything.
"""

from __future__ import annotations

import numpy as np


def fleiss_kappa(
    counts: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Agreement of many readers on unordered categories (Fleiss 1971).

    Args:
      counts: [N, K]: how many readers put case n into category k; the same
        number of readers, two or more, for each case.
      weights: [B, N], how often each case counts; None: once.

    Returns:
      [B], or a single number; NaN where it is not defined.
    """
    counts = np.asarray(counts, np.float64)
    if weights is None:
        return fleiss_kappa(counts, np.ones((1, len(counts))))[0]
    num_readers = counts[0].sum()
    agreeing = (counts * (counts - 1)).sum(1) / num_readers / (num_readers - 1)
    num_cases = weights.sum(1)
    observed = weights @ agreeing / num_cases
    shares = weights @ counts / (num_readers * num_cases[:, None])
    return _beyond(1 - observed, 1 - (shares**2).sum(1))


def weighted_kappa(table: np.ndarray) -> np.ndarray:
    """Agreement of two readers on ordered categories (Cohen 1968).

    A disagreement weighs the square of its distance.

    Args:
      table: [..., K, K]: how many images the first reader put into the
        category of the row and the second into that of the column.

    Returns:
      [...]; NaN where it is not defined.
    """
    table = np.asarray(table, np.float64)
    table = table / table.sum((-2, -1), keepdims=True)
    places = np.arange(table.shape[-1])
    weights = (places[:, None] - places) ** 2
    by_chance = table.sum(-1)[..., None] * table.sum(-2)[..., None, :]
    return _beyond(
        (weights * table).sum((-2, -1)), (weights * by_chance).sum((-2, -1))
    )


def _beyond(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """1 - observed / expected disagreement."""
    # Sums that are 0 on paper.
    is_defined = expected > 1e-12
    return np.where(
        is_defined, 1 - observed / np.where(is_defined, expected, 1), np.nan
    )
