"""CT to attenuation at 511 keV: against tables of physics."""

import numpy as np
import pytest

from medgan_tf import errors
from medgan_tf.data import attenuation
from medgan_tf.data import volume as volumes


def per_cm(*hounsfield):
    array = np.array(hounsfield, np.float32).reshape(-1, 1, 1)
    ct = volumes.Volume(array, np.diag([-1.0, -1.0, 3.0, 1.0]))
    result = attenuation.mu_map(ct)
    assert result.same_grid(ct)
    assert result.array.dtype == np.float32
    return result.array.ravel()


def test_water_and_air_are_those_of_physics():
    # NIST XCOM: 0.0960 cm2/g for water at 511 keV; air 1e-4.
    water, air = per_cm(0.0, -1000.0)
    assert water == pytest.approx(0.096, abs=0.001)
    assert air == 0.0


def test_below_air_nothing_is_lost():
    assert per_cm(-3024.0)[0] == 0.0


def test_cortical_bone_is_near_its_tabulated_value():
    # ICRU cortical bone, 1.92 g/cm3 x 0.0895 cm2/g (NIST) = 0.172; about
    # 1900 HU at 120 kV, and no two programs agree better than this.
    assert per_cm(1900.0)[0] == pytest.approx(0.172, rel=0.15)


@pytest.mark.parametrize("row", attenuation.CARNEY.values())
def test_the_two_lines_meet(row):
    soft = row.soft_slope * (row.break_hu + 1000)
    bone = row.bone_slope * (row.break_hu + 1000) + row.bone_intercept
    assert soft == pytest.approx(bone, rel=0.01)


def test_values_above_the_break_follow_the_second_line():
    # By hand: 5.10e-5 * 2000 + 4.71e-2.
    assert per_cm(1000.0)[0] == pytest.approx(0.1491, abs=1e-5)
    assert per_cm(46.9)[0] == pytest.approx(9.6e-5 * 1046.9, abs=1e-6)


def test_what_is_no_ct_is_refused():
    with pytest.raises(errors.DataError, match="expected HU"):
        per_cm(np.nan)
    ct = volumes.Volume(np.zeros((1, 1, 1), np.float32), np.eye(4))
    with pytest.raises(errors.UsageError, match="expected one of 120"):
        attenuation.mu_map(ct, kilovolts=70)
