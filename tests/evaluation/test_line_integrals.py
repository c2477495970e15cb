"""Errors along lines through a body, against circles worked out by hand."""

import math

import numpy as np
import pytest

from medgan_tf.data import attenuation, volume
from medgan_tf.evaluation import line_integrals

WATER = 0.096
SPACING = (2.0, 2.0)


def disc(radius_mm, *, shape=(60, 60), spacing=SPACING, centre=(0.0, 0.0)):
    x, y = (
        (np.arange(n) - (n - 1) / 2) * s - c
        for n, s, c in zip(shape, spacing, centre, strict=True)
    )
    return (np.hypot(x[:, None], y) <= radius_mm).astype(np.float32)


def errors_of(translated, target, **options):
    return line_integrals.line_integral_errors(
        translated, target, **{"spacing_mm": SPACING, **options}
    )


def test_the_same_map_has_no_error():
    target = WATER * disc(50)
    found = errors_of(target, target)
    assert found[:3] == (0.0, 0.0, 0.0)
    # 36 angles and lines 2 mm apart over the 100 mm of the disc, of which
    # those whose chord is under 10 mm, 0.5 mm at the rim, do not count.
    assert found.num_lines == pytest.approx(36 * 50, rel=0.05)


def test_a_map_too_dense_by_a_share_is_wrong_by_that_share_on_every_line():
    target = WATER * disc(50)
    found = errors_of(1.05 * target, target)
    assert found.mean_relative == pytest.approx(5.0, rel=1e-3)
    # The mean chord of a disc is pi / 2 of its radius: 7.854 cm of water.
    assert found.mean == pytest.approx(0.05 * WATER * 7.854, rel=0.02)
    assert found.mean_absolute == pytest.approx(found.mean)


def test_too_thin_is_as_wrong_as_too_dense_but_of_the_other_sign():
    target = WATER * disc(50)
    less, more = (
        errors_of(0.9 * target, target),
        errors_of(1.1 * target, target),
    )
    assert less.mean == pytest.approx(-more.mean, rel=1e-3)
    assert less.mean_absolute == pytest.approx(more.mean_absolute, rel=1e-3)


def test_the_integral_through_the_middle_is_the_diameter_times_the_value():
    # One line: 200 mm of water is 1.92, and 10 % more of it 0.192.
    target = np.zeros((3, 120), np.float32)
    target[1, 10:110] = WATER
    found = errors_of(1.1 * target, target, num_angles=1)
    # At 0 degrees the lines run along Y; a bin shares the pixel with another.
    assert found.num_lines == 2
    assert 2 * found.mean == pytest.approx(0.192, rel=1e-3)


def test_errors_that_cancel_along_a_line_do_no_harm_there():
    target = np.full((40, 40), WATER, np.float32)
    translated = target.copy()
    translated[:, 5] += 0.01
    translated[:, 6] -= 0.01
    along = errors_of(translated, target, num_angles=1)
    assert along.mean_absolute == pytest.approx(0.0, abs=1e-6)
    across = errors_of(translated.T, target, num_angles=1)
    assert across.mean_absolute > 0.003


def test_voxels_may_be_oblong():
    square = WATER * disc(50)
    oblong = WATER * disc(50, shape=(60, 30), spacing=(2.0, 4.0))
    one = errors_of(1.1 * square, square)
    other = errors_of(1.1 * oblong, oblong, spacing_mm=(2.0, 4.0))
    assert one.mean == pytest.approx(other.mean, rel=0.02)


def test_slices_are_pooled_and_one_without_a_body_does_not_count():
    target = WATER * np.stack([disc(50), disc(30), 0 * disc(1)], -1)
    translated = np.stack(
        [1.1 * target[..., 0], target[..., 1], 0.01 + target[..., 2]], -1
    )
    pooled = errors_of(translated, target)
    first, second = (
        errors_of(translated[..., k], target[..., k]) for k in range(2)
    )
    assert pooled.num_lines == first.num_lines + second.num_lines
    assert pooled.mean_relative == pytest.approx(
        first.mean_relative * first.num_lines / pooled.num_lines, rel=1e-3
    )


def test_where_there_is_no_body_there_is_no_error():
    found = errors_of(np.ones((8, 8)), np.zeros((8, 8)))
    assert found.num_lines == 0
    assert all(map(math.isnan, found[:3]))


@pytest.mark.parametrize(
    ("translated", "target", "options", "words"),
    [
        (np.zeros((4, 4)), np.zeros((4, 5)), {}, "one shape"),
        (np.zeros(4), np.zeros(4), {}, "one shape"),
        (np.full((4, 4), np.nan), np.zeros((4, 4)), {}, "NaN"),
        (np.zeros((4, 4)), np.zeros((4, 4)), {"spacing_mm": (0, 1)}, "mm"),
        (np.zeros((4, 4)), np.zeros((4, 4)), {"num_angles": 0}, "one angle"),
    ],
)
def test_what_cannot_be_compared_is_refused(translated, target, options, words):
    with pytest.raises(ValueError, match=words):
        errors_of(translated, target, **options)


def test_a_ct_that_is_water_made_denser_is_as_much_too_dense_along_lines():
    """100 HU more than water: by Carney's second line at 120 kVp."""
    target = np.full((60, 80), -1000.0)
    target[10:50, 20:60] = 0
    translated = np.where(target == 0, 100.0, target)
    lines = line_integrals.measures((2.0, 1.0))
    denser = attenuation.mu_map(
        volume.Volume(np.array([[[0.0, 100.0]]], np.float32), np.eye(4)),
        kilovolts=120,
    ).array[0, 0]
    expected = 100 * (denser[1] / denser[0] - 1)
    options = {"data_range": 3000.0, "mask": target > -500}
    found = lines["line_mare"].function(translated, target, **options)
    assert found == pytest.approx(expected, rel=2e-2)
    assert lines["line_me"].function(translated, target, **options) > 0
    stacked = [np.stack([array] * 3) for array in (translated, target)]
    of_volume = lines["line_mare"].function(*stacked, **options)
    assert of_volume == pytest.approx(found, rel=1e-5)


def test_rows_and_columns_have_their_own_spacing():
    """A block of 10 x 40 mm, whichever way it is stored."""
    target = np.full((40, 40), -1000.0)
    target[15:20, 0:40] = 0  # 5 rows 2 mm apart, 40 columns 1 mm apart.
    translated = np.where(target == 0, 50.0, target)
    options = {"data_range": 3000.0, "mask": target > -500}
    ours, theirs = (
        line_integrals.measures(spacing)["line_me"].function(a, b, **options)
        for spacing, a, b in (
            ((2.0, 1.0), translated, target),
            ((1.0, 2.0), translated.T, target.T),
        )
    )
    assert ours == pytest.approx(theirs, rel=1e-3)
