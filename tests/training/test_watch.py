"""Signs of divergence, on images whose numbers can be told by hand."""

import math

import numpy as np
import pytest

from medgan_tf.training import watch

HALF = np.array([-1.0, -1.0, 0.0, 0.0])
SPREAD = np.array([-0.5, 0.5, -0.5, 0.5])


def shown(**numbers):
    return [
        sign.tag.removeprefix("health/")
        for sign in watch.SIGNS
        if sign.is_shown(watch.measure(**numbers).get(sign.tag, sign.limit))
    ]


@pytest.mark.parametrize(
    ("numbers", "signs"),
    [
        ({"translated": HALF, "target": HALF}, []),
        ({"translated": SPREAD, "target": HALF}, []),
        # Air is saturated in the target too.
        ({"translated": np.full(4, -1.0), "target": np.full(4, -1.0)}, []),
        (
            {"translated": np.full(4, 0.3), "target": HALF},
            ["output_spread"],
        ),
        (
            {"translated": np.array([1.0, -1.0, 1.0, -1.0]), "target": SPREAD},
            ["saturated_excess"],
        ),
        (
            {"translated": HALF * np.nan, "target": HALF},
            ["output_spread"],
        ),
        (
            {
                "translated": HALF,
                "target": HALF,
                "p_target": 0.995,
                "p_translated": 0.005,
            },
            ["discriminator_margin"],
        ),
        # ln 4: it cannot tell at all, which is where a GAN is meant to end.
        (
            {
                "translated": HALF,
                "target": HALF,
                "p_target": 0.5,
                "p_translated": 0.5,
            },
            [],
        ),
    ],
)
def test_a_sign_is_shown_where_its_limit_is_passed(numbers, signs):
    assert shown(**numbers) == signs


def test_a_constant_target_says_nothing_of_the_spread():
    values = watch.measure(SPREAD, np.zeros(4))
    assert "health/output_spread" not in values


def test_every_number_has_its_limit_beside_it():
    values = watch.measure(SPREAD, HALF, 0.7, 0.2)
    assert values["health/discriminator_margin"] == pytest.approx(0.5)
    # Standard deviations of 0.5 and 0.5.
    assert values["health/output_spread"] == pytest.approx(1.0)
    # Half of the target is saturated, nothing of the translated image.
    assert values["health/saturated_excess"] == pytest.approx(-0.5)
    assert watch.limits(values).keys() == {f"{tag}_limit" for tag in values}


CONSTANT = {"health/output_spread": 0.001}
GOOD = {"health/output_spread": 0.9}


def test_a_sign_is_told_once_after_it_was_there_for_long_enough():
    looks = watch.Watch(patience=20)
    told = [len(looks.look(step, CONSTANT)) for step in range(10, 80, 10)]
    assert told == [0, 0, 1, 0, 0, 0, 0]


def test_a_sign_that_goes_away_starts_anew():
    looks = watch.Watch(patience=20)
    for step, values in ((10, CONSTANT), (20, GOOD), (30, CONSTANT)):
        assert not looks.look(step, values)
    assert not looks.look(40, CONSTANT)
    assert looks.look(50, CONSTANT)
    assert looks.diverged_at(50) is None


def test_divergence_is_twice_as_long_and_names_its_first_step():
    looks = watch.Watch(patience=20)
    found = []
    for step in range(10, 70, 10):
        looks.look(step, CONSTANT)
        found.append(looks.diverged_at(step))
    assert found == [None, None, None, None, 10, 10]


def test_what_is_on_record_counts_as_if_it_had_been_watched():
    record = {10: GOOD, 20: CONSTANT, 30: {"health/output_spread": None}}
    looks = watch.Watch(20, record)
    assert looks.look(40, CONSTANT) and looks.diverged_at(60) == 20
    # Told before: not again.
    assert not watch.Watch(10, record).look(40, CONSTANT)


def test_a_number_that_is_not_finite_passes_every_limit():
    assert all(sign.is_shown(math.nan) for sign in watch.SIGNS)


def test_saturation_is_the_share_of_pixels_near_either_end():
    assert watch.saturation(np.float32([1, -0.995, 0.98, 0])) == 0.5
