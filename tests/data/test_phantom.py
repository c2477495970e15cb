"""Simulated patients: values as in a textbook, one anatomy, no two alike."""

import numpy as np
import pytest
from scipy import ndimage

from medgan_tf import errors
from medgan_tf.data import phantom

SMALL = {"shape": (64, 64, 8), "spacing": (4.0, 4.0, 12.0)}


@pytest.fixture(scope="module")
def head():
    return phantom.patient(0)


@pytest.fixture(scope="module")
def torso():
    return phantom.patient(1)


def test_images_lie_on_one_lps_grid_of_the_wanted_shape(head):
    assert set(head) == {"PET", "CT", "MR"}
    for volume in head.values():
        assert volume.shape == (128, 128, 24)
        assert volume.spacing == (2.0, 2.0, 4.0)
        assert volume.orientation == "LPS"
        assert volume.array.dtype == np.float32
        assert np.isfinite(volume.array).all()
        assert volume.same_grid(head["CT"])


@pytest.mark.parametrize("seed", [2, 3])
def test_one_seed_is_one_patient(seed):
    first, second = (phantom.patient(seed, **SMALL) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name].array, second[name].array)


@pytest.mark.parametrize("first", [0, 1])
def test_other_seeds_are_other_patients(first):
    arrays = [
        phantom.patient(seed, **SMALL)["CT"].array
        for seed in range(first, first + 8, 2)
    ]
    for i, one in enumerate(arrays):
        for other in arrays[:i]:
            # Far above the 20 HU of quantum noise.
            assert np.sqrt(np.mean((one - other) ** 2)) > 80.0


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_same_patient_is_seen_at_every_voxel_size(seed):
    fine = phantom.patient(seed, shape=(96, 96, 6), spacing=(2.0, 2.0, 4.0))
    coarse = phantom.patient(seed, shape=(48, 48, 6), spacing=(4.0, 4.0, 4.0))
    averaged = fine["CT"].array.reshape(48, 2, 48, 2, 6).mean(axis=(1, 3))
    correlation = np.corrcoef(averaged.ravel(), coarse["CT"].array.ravel())
    assert correlation[0, 1] > 0.95


def test_head_has_the_hounsfield_units_of_air_brain_and_bone(head):
    ct = head["CT"].array
    assert np.median(ct[:8]) == pytest.approx(-1000.0, abs=5.0)
    brain = ct[52:76, 52:76, 8:18]
    assert np.median(brain) == pytest.approx(32.0, abs=8.0)
    assert 700.0 < np.percentile(ct[ct > 300.0], 75) < 1500.0


def test_torso_has_the_hounsfield_units_of_lung_fat_and_muscle(torso):
    ct = torso["CT"].array
    counts, edges = np.histogram(ct, bins=np.arange(-1010.0, 400.0, 20.0))
    middles = edges[:-1] + 10.0

    def peak(low, high):
        inside = (middles > low) & (middles < high)
        return middles[inside][counts[inside].argmax()]

    assert peak(-950, -600) == pytest.approx(-800.0, abs=50.0)
    assert peak(-200, -20) == pytest.approx(-100.0, abs=20.0)
    assert peak(-10, 150) == pytest.approx(50.0, abs=20.0)


def test_brain_takes_up_more_fdg_than_everything_round_it(head):
    pet, ct = head["PET"].array, head["CT"].array
    inside = ndimage.binary_erosion(np.abs(ct - 35.0) < 60.0, iterations=2)
    inside &= ndimage.binary_erosion(pet > 2.0, iterations=2)
    # Grey matter 9 and white 2.9, mixed by 5 mm resolution.
    assert 6.0 < np.percentile(pet[inside], 95) < 10.0
    assert 2.0 < np.percentile(pet[inside], 10) < 4.0
    assert pet[ct < -900.0].mean() < 0.05


def test_torso_uptake_is_that_of_muscle_and_liver():
    # Seed 3 shows the liver on the patient's right: low x, as LPS runs left.
    torso = phantom.patient(3)
    pet = torso["PET"].array
    assert np.median(pet[30:45, 55:70, 4:8]) == pytest.approx(2.5, abs=0.5)
    soft = (torso["CT"].array > 35.0) & (torso["CT"].array < 75.0)
    assert np.percentile(pet[soft], 25) < 0.9


@pytest.mark.parametrize("seed", [0, 1])
def test_pet_ct_and_mr_share_the_outline_of_the_body(seed, head, torso):
    images = (head, torso)[seed]
    # Thresholds between air and skin; lungs and skull are filled.
    bodies = {
        "CT": images["CT"].array > -500.0,
        "PET": images["PET"].array > 0.15,
        "MR": ndimage.median_filter(images["MR"].array, 3) > 150.0,
    }
    bodies = {
        name: np.stack(
            [ndimage.binary_fill_holes(m) for m in np.moveaxis(mask, 2, 0)]
        )
        for name, mask in bodies.items()
    }
    body = bodies["CT"]
    for name, mask in bodies.items():
        dice = 2 * (mask & body).sum() / (mask.sum() + body.sum())
        assert dice > 0.95, name


def test_mr_is_positive_and_up_to_about_a_thousand(head, torso):
    for images in (head, torso):
        mr = images["MR"].array
        assert mr.min() >= 0.0
        assert 500.0 < np.percentile(mr, 99.5) < 1200.0


def test_body_leaves_air_on_every_side_of_the_slice(torso):
    ct = torso["CT"].array
    for border in (ct[:2], ct[-2:], ct[:, :2], ct[:, -2:]):
        assert border.max() < -850.0


def test_smallest_grid_works():
    images = phantom.patient(5, shape=(1, 2, 1), spacing=(4.0, 4.0, 4.0))
    assert images["MR"].shape == (1, 2, 1)


@pytest.mark.parametrize(
    "arguments", [{"seed": -1}, {"seed": 0, "shape": (8, 0, 8)}]
)
def test_impossible_requests_are_refused(arguments):
    with pytest.raises(errors.UsageError, match="expected"):
        phantom.patient(**arguments)
