"""Kappa against published examples and by hand."""

import numpy as np
import pytest

from medgan_tf.reader_study import agreement

# Fourteen raters, ten subjects, five categories: the worked example of
# Wikipedia's "Fleiss' kappa", 0.210.
COUNTS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]


def test_fleiss_kappa_of_a_published_example():
    assert agreement.fleiss_kappa(COUNTS) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_kappa_by_hand():
    # Three readers, two trials: all say A; two say B, one C.
    # Observed (1 + 1/3) / 2 = 2/3; shares 1/2, 1/3, 1/6, by chance 14/36.
    found = agreement.fleiss_kappa(np.array([[3, 0, 0], [0, 2, 1]]))
    assert found == pytest.approx((2 / 3 - 14 / 36) / (1 - 14 / 36))


def test_a_case_of_weight_two_counts_like_two_cases():
    weights = np.ones((1, 10))
    weights[0, 3] = 2
    found = agreement.fleiss_kappa(COUNTS, weights)
    assert found == pytest.approx(agreement.fleiss_kappa([*COUNTS, COUNTS[3]]))


def test_readers_who_all_gave_one_answer_have_no_kappa():
    assert np.isnan(agreement.fleiss_kappa([[3, 0], [3, 0]]))
    assert np.isnan(agreement.weighted_kappa([[9, 0], [0, 0]]))


def test_weighted_kappa_of_a_published_example():
    # 46, 44 and 10 against 50, 40 and 10: 0.9541 in the tests of scikit-learn.
    table = [[46, 0, 0], [4, 40, 0], [0, 0, 10]]
    assert agreement.weighted_kappa(table) == pytest.approx(0.9541, abs=5e-5)


def test_weighted_kappa_by_hand():
    # Of ten images one is missed by one place and one by three: 1 + 9.
    table = np.diag([2, 2, 2, 2])
    table[0, 1] = table[3, 0] = 1
    # Rows 3 2 2 3, columns 3 3 2 2; products times squares, over 10:
    by_chance = (
        3 * (0 * 3 + 1 * 3 + 4 * 2 + 9 * 2)
        + 2 * (1 * 3 + 0 * 3 + 1 * 2 + 4 * 2)
        + 2 * (4 * 3 + 1 * 3 + 0 * 2 + 1 * 2)
        + 3 * (9 * 3 + 4 * 3 + 1 * 2 + 0 * 2)
    ) / 10
    found = agreement.weighted_kappa(table)
    assert found == pytest.approx(1 - 10 / by_chance)


def test_tables_are_taken_side_by_side():
    tables = np.array([[[4, 1], [2, 3]], [[5, 0], [0, 5]]])
    found = agreement.weighted_kappa(tables)
    assert found[0] == pytest.approx(agreement.weighted_kappa(tables[0]))
    assert found[1] == 1
