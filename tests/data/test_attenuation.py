"""CT to attenuation at 511 keV: against tables of physics."""

import itertools

import numpy as np
import pytest

from medgan_tf import errors
from medgan_tf.data import attenuation
from medgan_tf.data import volume as volumes

ROWS = [
    pytest.param(table, kilovolts, id=f"{table} {kilovolts} kV")
    for table in attenuation.TABLES
    for kilovolts in attenuation.TABLES[table].lines
]


def per_cm(*hounsfield, **options):
    array = np.array(hounsfield, np.float32).reshape(-1, 1, 1)
    ct = volumes.Volume(array, np.diag([-1.0, -1.0, 3.0, 1.0]))
    result = attenuation.mu_map(ct, **options)
    assert result.same_grid(ct)
    assert result.array.dtype == np.float32
    return result.array.ravel()


@pytest.mark.parametrize(("table", "kilovolts"), ROWS)
def test_water_and_air_are_those_of_physics(table, kilovolts):
    # NIST XCOM: 0.0960 cm2/g for water at 511 keV; air 1e-4.
    water, air, below = per_cm(
        0.0, -1000.0, -3024.0, table=table, kilovolts=kilovolts
    )
    assert water == pytest.approx(0.096, abs=0.001)
    assert air == 0.0
    assert below == 0.0


def test_what_is_nearly_air_loses_nearly_nothing_and_never_gains():
    found = per_cm(*np.linspace(-1000, -999, 50))
    assert (found >= 0).all()
    assert found[-1] == pytest.approx(9.6e-5, rel=1e-3)


def test_cortical_bone_is_near_its_tabulated_value():
    # ICRU cortical bone, 1.92 g/cm3 x 0.0895 cm2/g (NIST) = 0.172; about
    # 1900 HU at 120 kV, and no two programs agree better than this.
    assert per_cm(1900.0)[0] == pytest.approx(0.172, rel=0.15)


@pytest.mark.parametrize("table", attenuation.TABLES)
def test_the_softer_the_x_rays_the_less_is_meant_by_a_bright_bone(table):
    # Calcium stops soft X-rays most, so a bone looks the brighter the lower
    # the voltage; to 511 keV it is the same bone.
    found = [
        per_cm(1000.0, table=table, kilovolts=kilovolts)[0]
        for kilovolts in sorted(attenuation.TABLES[table].lines)
    ]
    assert found == sorted(set(found))


@pytest.mark.parametrize(("table", "kilovolts"), ROWS)
def test_the_lines_meet(table, kilovolts):
    lines = attenuation.lines_of(table, kilovolts)
    for below, above in itertools.pairwise(lines):
        assert below.at(above.from_hu) == pytest.approx(
            above.at(above.from_hu), rel=0.01
        )


@pytest.mark.parametrize(
    ("kilovolts", "expected"),
    [
        # By hand from the paper's a (HU + 1000) + b, at 1000 HU.
        (80, 2 * 3.64e-2 + 6.26e-2),
        (100, 2 * 4.43e-2 + 5.44e-2),
        (110, 2 * 4.92e-2 + 4.88e-2),
        (120, 2 * 5.10e-2 + 4.71e-2),
        (130, 2 * 5.51e-2 + 4.24e-2),
        (140, 2 * 5.64e-2 + 4.08e-2),
    ],
)
def test_carney_s_second_line_is_the_published_one(kilovolts, expected):
    assert per_cm(1000.0, kilovolts=kilovolts)[0] == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.parametrize(
    ("kilovolts", "at_1000", "at_2000"),
    [
        # By hand from GE's intercept + slope x HU.
        (100, 0.0985 + 0.04560, 0.1520 + 0.011400),
        (120, 0.0982 + 0.05110, 0.1519 + 0.012776),
        (140, 0.0980 + 0.05600, 0.1519 + 0.014000),
    ],
)
def test_ge_s_second_and_third_lines_are_the_published_ones(
    kilovolts, at_1000, at_2000
):
    found = per_cm(1000.0, 2000.0, table="ge", kilovolts=kilovolts)
    assert found == pytest.approx([at_1000, at_2000], rel=1e-4)


def test_the_second_line_begins_at_the_break():
    assert per_cm(46.9)[0] == pytest.approx(9.6e-5 * 1046.9, abs=1e-6)
    assert per_cm(47.0)[0] == pytest.approx(5.1e-5 * 1047 + 4.71e-2, abs=1e-6)


def test_what_is_no_ct_is_refused():
    with pytest.raises(errors.DataError, match="expected HU"):
        per_cm(np.nan)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kilovolts": 90}, "90 kV, expected one of 80, 100, 110, 120, 130"),
        ({"kilovolts": 119.9}, "119.9 kV"),
        ({"kilovolts": 80, "table": "ge"}, "one of 100, 120, 140"),
        ({"table": "siemens"}, "siemens, expected one of carney, ge"),
    ],
)
def test_what_was_not_published_is_refused_not_interpolated(options, words):
    with pytest.raises(errors.UsageError, match=words):
        per_cm(0.0, **options)


def test_the_header_s_decimal_is_the_same_voltage():
    assert per_cm(500.0, kilovolts=140.0) == per_cm(500.0, kilovolts=140)
