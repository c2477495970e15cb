"""No patient on two sides, ever."""

import pytest

from medgan_tf import errors
from medgan_tf.data import split

PATIENTS = [f"patient{i:02d}" for i in range(20)]


def sizes(result):
    return tuple(len(result[side]) for side in ("train", "validation", "test"))


@pytest.mark.parametrize("seed", range(5))
def test_every_patient_is_on_exactly_one_side(seed):
    result = split.split_patients(PATIENTS, seed=seed)
    dealt = sum(result.values(), [])
    assert sorted(dealt) == PATIENTS
    assert sizes(result) == (14, 2, 4)


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    first = split.split_patients(PATIENTS, seed=3)
    assert first == split.split_patients(PATIENTS[::-1], seed=3)
    assert first == split.split_patients(PATIENTS * 2, seed=3)
    assert first != split.split_patients(PATIENTS, seed=4)


@pytest.mark.parametrize(
    ("num_patients", "expected"),
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (2, 1, 1))],
)
def test_few_patients_give_each_side_one_and_training_first(
    num_patients, expected
):
    assert sizes(split.split_patients(PATIENTS[:num_patients])) == expected


def test_training_keeps_a_patient_even_with_a_small_fraction():
    result = split.split_patients(PATIENTS[:3], fractions=(0.02, 0.08, 0.9))
    assert sizes(result) == (1, 1, 1)


def test_a_fraction_of_zero_gets_nobody():
    result = split.split_patients(PATIENTS, fractions=(0.8, 0.0, 0.2))
    assert sizes(result) == (16, 0, 4)


def test_names_win_over_fractions_and_the_rest_is_shared():
    result = split.split_patients(
        PATIENTS, test=PATIENTS[:4], fractions=(0.4, 0.4, 0.2)
    )
    assert result["test"] == PATIENTS[:4]
    # Of the other 16, training : validation = 0.4 : 0.4.
    assert sizes(result) == (8, 8, 4)
    both = split.split_patients(
        PATIENTS, test=["patient00"], validation=["patient01"]
    )
    assert both["train"] == PATIENTS[2:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test": ["nobody"]}, "unknown patients nobody"),
        (
            {"test": ["patient01"], "validation": ["patient01"]},
            "patient01 are in validation and in test",
        ),
        ({"test": PATIENTS}, "left to train"),
        ({"fractions": (0.0, 0.5, 0.5)}, "left to train"),
    ],
)
def test_a_split_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(errors.DataError, match=message):
        split.split_patients(PATIENTS, **arguments)


def test_nobody_at_all_is_refused():
    with pytest.raises(errors.DataError, match="No patient of 0"):
        split.split_patients([])


@pytest.mark.parametrize("fractions", [(0.7, 0.1, 0.1), (1.2, -0.4, 0.2)])
def test_fractions_that_are_no_shares_are_refused(fractions):
    with pytest.raises(errors.UsageError, match="add up to 1"):
        split.split_patients(PATIENTS, fractions=fractions)


def test_a_split_that_is_given_is_taken_to_the_letter():
    assert split.given_split(
        [("eve", "test"), ("ann", "train"), ("eve", "test"), ("bob", "train")]
    ) == {"train": ["ann", "bob"], "validation": [], "test": ["eve"]}


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        ([("ann", "train"), ("ann", "test")], "ann is on two sides"),
        ([("ann", "train"), ("bob", "")], "split of patient bob is ''"),
        ([("ann", "Training")], "'Training'; expected train, validation, te"),
        ([("ann", "test")], "no patient to train on"),
    ],
)
def test_a_split_that_is_none_is_refused(sides, words):
    with pytest.raises(errors.DataError, match=words):
        split.given_split(sides)
