"""Errors by tissue and biases of the uptake, by hand."""

import math

import numpy as np
import pytest

from medgan_tf.evaluation import regions

# Air, the two ends of soft tissue, bone.
TARGET = np.array([-1000.0, -201.0, -200.0, 0.0, 200.0, 201.0, 1200.0])
TRANSLATED = np.array([-990.0, -181.0, -170.0, -40.0, 250.0, 261.0, 1130.0])


@pytest.mark.parametrize(
    ("tissue", "mae", "me"),
    [
        ("air", (10 + 20) / 2, (10 + 20) / 2),
        ("soft", (30 + 40 + 50) / 3, (30 - 40 + 50) / 3),
        ("bone", (60 + 70) / 2, (60 - 70) / 2),
    ],
)
def test_errors_count_where_the_target_shows_the_tissue(tissue, mae, me):
    arguments = {"data_range": 3000, "tissue": tissue}
    assert regions.tissue_mae(TRANSLATED, TARGET, **arguments) == (
        pytest.approx(mae)
    )
    assert regions.tissue_me(TRANSLATED, TARGET, **arguments) == (
        pytest.approx(me)
    )


def test_every_value_is_of_one_tissue():
    values = np.linspace(-1024, 3071, 4096)
    counts = sum(
        regions.in_tissue(values, tissue).astype(int)
        for tissue in regions.TISSUES_HU
    )
    assert (counts == 1).all()


def test_the_dice_of_bone_by_hand():
    # Bone of the target: 201, 1200; of the translation: 250, 261, 1130.
    found = regions.bone_dice(TRANSLATED, TARGET, data_range=3000)
    assert found == pytest.approx(2 * 2 / (3 + 2))


def test_a_tissue_that_is_not_there_has_no_error():
    water = np.zeros(5)
    for tissue in ("air", "bone"):
        found = regions.tissue_mae(water, water, data_range=3000, tissue=tissue)
        assert math.isnan(found)
    assert math.isnan(regions.bone_dice(water, water, data_range=3000))


def test_biases_are_per_cent_of_the_target_in_its_own_region():
    target = np.array([0.0, 1.0, 3.0, 5.0])
    translated = np.array([9.0, 1.0, 3.0, 4.0])

    def bias(function, above):
        return function(translated, target, data_range=20, above=above)

    # Above 2.5: means 3.5 and 4, highest 4 and 5.
    assert bias(regions.suv_mean_bias, 2.5) == pytest.approx(-12.5)
    assert bias(regions.suv_max_bias, 2.5) == pytest.approx(-20)
    # Above 0.1: 8 / 3 and 9 / 3; the 9 outside does not count.
    assert bias(regions.suv_mean_bias, 0.1) == pytest.approx(-100 / 9)
    assert math.isnan(bias(regions.suv_mean_bias, 7))
    assert math.isnan(bias(regions.suv_max_bias, 7))


@pytest.mark.parametrize("table", [regions.CT, regions.PET])
def test_what_the_tables_hold_can_be_called_as_any_metric(table):
    rng = np.random.default_rng(0)
    target = rng.uniform(-1000, 1000, 500)
    for metric in table.values():
        found = metric.function(target + 1, target, data_range=3000)
        assert np.isfinite(found)
        with pytest.raises(ValueError, match="shape"):
            metric.function(target[1:], target, data_range=3000)
