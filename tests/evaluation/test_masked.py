"""SSIM within a mask against scikit-image and against the whole volume."""

import math

import numpy as np
import pytest
from skimage import metrics as reference

from medgan_tf.evaluation import masked

BOTH_SCALES = [masked.ms_ssim_in_mask, masked.ms_ssim_synthrad2025]


def volume(shape=(20, 24, 22)):
    """A translation, its target and a mask, on 0..4000."""
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]]
    target = 1500 + 900 * np.sin(x / 4) * np.cos(y / 5 + z / 3)
    translated = target + 400 * (rng.random(shape) - 0.5)
    return translated, target, (z - 9) ** 2 + (x - 11) ** 2 < 60


def test_the_map_is_scikit_image_s_and_its_border_does_not_count():
    translated, target, mask = volume()
    _, similarity = reference.structural_similarity(
        target, translated, data_range=4000, full=True
    )
    inside = (slice(3, -3),) * 3

    found = masked.ssim_in_mask(translated, target, mask=mask, data_range=4000)

    expected = similarity[inside][mask[inside]].mean()
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("function", [masked.ssim_in_mask, *BOTH_SCALES])
def test_working_piece_by_piece_changes_nothing(function, monkeypatch):
    translated, target, mask = volume()
    whole = function(translated, target, mask=mask, data_range=4000)
    monkeypatch.setattr(masked, "PIECE", 3 * 97 * 97)

    pieces = function(translated, target, mask=mask, data_range=4000)

    assert pieces == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("function", [masked.ssim_in_mask, *BOTH_SCALES])
def test_equal_volumes_score_1_and_unequal_ones_less(function):
    translated, target, mask = volume()

    equal = function(target, target, mask=mask, data_range=4000)
    other = function(translated, target, mask=mask, data_range=4000)

    assert equal == pytest.approx(1, abs=1e-9)
    assert 0 < other < 0.99


def test_a_shift_of_brightness_counts_at_one_scale_of_the_repaired_alone():
    _, target, mask = volume()
    brighter = target + 500

    repaired, published = (
        function(brighter, target, mask=mask, data_range=4000)
        for function in BOTH_SCALES
    )

    # Contrast and structure are equal, so what remains is the luminance: to
    # the power 0.1333, or of nearly 1 in sum.
    assert 1 > repaired > published


@pytest.mark.parametrize("function", [masked.ssim_in_mask, *BOTH_SCALES])
def test_without_a_voxel_in_the_mask_there_is_no_number(function):
    translated, target, mask = volume()

    found = function(
        translated, target, mask=np.zeros_like(mask), data_range=4000
    )

    assert math.isnan(found)


def test_a_mask_of_another_kind_and_a_thin_volume_are_refused():
    translated, target, mask = volume()
    with pytest.raises(ValueError, match="bool"):
        masked.ssim_in_mask(
            translated, target, mask=np.float32(mask), data_range=4000
        )
    with pytest.raises(ValueError, match="7 voxels"):
        masked.ssim_in_mask(
            translated[:6], target[:6], mask=mask[:6], data_range=4000
        )
