"""Two images of one patient are told from two that do not lie together."""

import numpy as np
import pytest

from medgan_tf import tasks
from medgan_tf.data import alignment, phantom
from medgan_tf.data import volume as volumes

MR_CT = (tasks.MR, tasks.CT)


@pytest.fixture(scope="module")
def head():
    """MR and CT of a head on voxels of 4 mm, axes LPS."""
    images = phantom.patient(4, shape=(56, 56, 8), spacing=(4.0, 4.0, 4.0))
    return images["MR"], images["CT"]


def test_an_image_tells_all_of_itself_and_nothing_of_chance():
    rng = np.random.default_rng(0)
    first = rng.integers(0, alignment.NUM_BINS, 200_000)
    measure = alignment.normalised_mutual_information
    assert measure(first, first) == pytest.approx(2)
    # Any other names for the same values say the same.
    assert measure(first, alignment.NUM_BINS - 1 - first) == pytest.approx(2)
    assert measure(first, rng.permutation(first)) < 1.001
    assert measure(np.zeros(9, int), np.zeros(9, int)) == 1


def test_the_measure_is_that_of_a_joint_table_by_hand():
    # Counts 1 1 / 0 2: H(A) = H(B-marginals by hand) in bits.
    first, second = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    whole = 1.5  # 1/4, 1/4, 1/2
    marginal = 0.25 * 2 + 0.75 * np.log2(4 / 3)
    found = alignment.normalised_mutual_information(first, second)
    assert found == pytest.approx((1 + marginal) / whole)


def test_a_right_pair_agrees_best_where_it_is(head):
    found = alignment.align(*head, MR_CT)
    assert found.best == found.as_is
    assert found.mirrored.information < found.best.information
    assert found.inside > 0.99


def test_a_target_that_was_moved_is_found_where_it_went(head):
    mr, ct = head
    affine = ct.affine.copy()
    affine[1, 3] -= 12.0  # RAS: to posterior.
    moved = volumes.Volume(ct.array, affine)
    found = alignment.align(mr, moved, MR_CT)
    assert found.best.shift_mm == pytest.approx((0, -12, 0))
    assert found.best.distance_mm == pytest.approx(12)
    assert found.best.information > found.as_is.information
    assert found.inside < 0.99


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("orientation", [1, -1])
def test_left_and_right_exchanged_in_either_is_seen(head, which, orientation):
    images = list(head)
    volume = images[which]
    affine = volume.affine.copy()
    array = volume.array[::-1]
    if orientation < 0:
        # The same wrong image, stored the other way round.
        array = array[::-1]
        affine[:3, 3] += affine[:3, 0] * (volume.shape[0] - 1)
        affine[:3, 0] *= -1
    images[which] = volumes.Volume(array, affine)
    found = alignment.align(*images, MR_CT)
    right = alignment.align(*head, MR_CT)
    assert found.mirrored.information == pytest.approx(right.best.information)
    assert found.best.information < 0.9 * found.mirrored.information


def test_images_that_share_no_voxel_say_nothing(head):
    mr, ct = head
    affine = ct.affine.copy()
    affine[2, 3] += 500.0
    found = alignment.align(mr, volumes.Volume(ct.array, affine), MR_CT)
    assert found.as_is.information == 0 and found.inside == 0
