"""Motion in k-space: against the shift theorem and a turned image."""

import nibabel as nib
import numpy as np
import pytest

from medgan_tf import errors
from medgan_tf.data import mr_motion
from medgan_tf.data import volume as volumes

SPACING = (1.5, 1.0, 4.0)


def make_blobs(centres_mm, shape=(40, 56, 2), spacing=SPACING):
    """Smooth spots: known at any place, so they can be moved exactly."""
    x, y = (
        (np.arange(n) - (n - 1) / 2) * s
        for n, s in zip(shape[:2], spacing[:2], strict=True)
    )
    image = sum(
        (100.0 + 50 * i)
        * np.exp(-((x[:, None] - cx) ** 2 + (y[None, :] - cy) ** 2) / 32.0)
        for i, (cx, cy) in enumerate(centres_mm)
    )
    array = np.repeat(image[..., None], shape[2], axis=2).astype(np.float32)
    return volumes.Volume(array, np.diag([-spacing[0], -spacing[1], 4.0, 1.0]))


CENTRES = np.array([[0.0, 0.0], [10.0, -8.0], [-6.0, 12.0]])


def distance(a, b):
    """Root mean square difference, relative."""
    return np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2))


def test_no_motion_is_the_identity():
    still = make_blobs(CENTRES)
    pose = mr_motion.Parameters((0.0,) * 8, ((0.0, 0.0),) * 8)
    moved = mr_motion.apply(still, pose)
    assert distance(moved.array, still.array) < 1e-5
    assert moved.same_grid(still)
    assert moved.array.dtype == np.float32


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shift_mm", [(3.0, -2.0), (2.2, 5.7)])
def test_constant_translation_is_the_fourier_shift_theorem(axis, shift_mm):
    still = make_blobs(CENTRES, shape=(64, 80, 1))
    moved = mr_motion.apply(
        still, mr_motion.Parameters((0.0,) * 5, (shift_mm,) * 5, axis)
    )
    # Band-limited and far from the border, the moved spots are the theorem.
    expected = make_blobs(CENTRES + np.array(shift_mm), shape=(64, 80, 1))
    assert distance(moved.array, expected.array) < 1e-5


def test_translation_by_whole_pixels_rolls_the_noisiest_image():
    rng = np.random.default_rng(0)
    noise = volumes.Volume(
        rng.random((16, 15, 3), np.float32), np.diag([-1.5, -1.0, 4.0, 1.0])
    )
    moved = mr_motion.apply(
        noise, mr_motion.Parameters((0.0, 0.0), ((3.0, -4.0),) * 2)
    )
    expected = np.roll(noise.array, (2, -4), axis=(0, 1))
    assert distance(moved.array, expected) < 1e-5


@pytest.mark.parametrize("degrees", [5.0, -30.0, 90.0])
def test_constant_rotation_turns_the_image_in_mm_about_its_middle(degrees):
    still = make_blobs(CENTRES)
    moved = mr_motion.apply(
        still, mr_motion.Parameters((degrees,) * 3, ((0.0, 0.0),) * 3)
    )
    angle = np.radians(degrees)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    expected = make_blobs(CENTRES @ turn.T)
    # Cubic splines on spots of 4 mm sigma and pixels of 1.5 mm.
    assert distance(moved.array, expected.array) < 2e-3


def test_each_pose_moves_its_own_lines_only():
    still = make_blobs(CENTRES)
    half = mr_motion.Parameters((0.0, 0.0), ((0.0, 0.0), (0.0, 4.0)), 0)
    moved = mr_motion.apply(still, half).array
    # By hand: lines of frequency >= 0 along axis 0 see the shifted image.
    still_lines = np.fft.fftshift(np.fft.fft2(still.array, axes=(0, 1)), 0)
    shifted = np.roll(still.array, 4, axis=1)
    shifted_lines = np.fft.fftshift(np.fft.fft2(shifted, axes=(0, 1)), 0)
    lines = np.concatenate([still_lines[:20], shifted_lines[20:]])
    by_hand = np.abs(np.fft.ifft2(np.fft.ifftshift(lines, 0), axes=(0, 1)))
    assert distance(moved, by_hand) < 1e-5


def test_translations_keep_the_energy():
    still = make_blobs(CENTRES)
    rng = np.random.default_rng(5)
    shifts = tuple((float(a), float(b)) for a, b in rng.normal(0, 4, (20, 2)))
    moved = mr_motion.apply(still, mr_motion.Parameters((0.0,) * 20, shifts))
    energy = (moved.array.astype(float) ** 2).sum()
    assert energy == pytest.approx((still.array.astype(float) ** 2).sum(), 1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_more_severe_motion_does_more_harm(seed):
    still = make_blobs(CENTRES)
    harm = [
        distance(
            mr_motion.apply(
                still,
                mr_motion.draw_parameters(
                    np.random.default_rng(seed), severity=severity
                ),
            ).array,
            still.array,
        )
        for severity in (0.0, 0.2, 1.0)
    ]
    assert harm[0] < 1e-5 < 0.005 < harm[1] < harm[2]


def test_drawn_motion_is_zero_when_the_centre_of_k_space_is_measured():
    motion = mr_motion.draw_parameters(np.random.default_rng(9))
    assert len(motion.rotations_degrees) == len(motion.translations_mm) == 24
    assert motion.rotations_degrees[12] == 0.0
    assert motion.translations_mm[12] == (0.0, 0.0)


def test_equal_generators_give_equal_motion_and_equal_images():
    still = make_blobs(CENTRES)
    motions = [
        mr_motion.draw_parameters(np.random.default_rng(s)) for s in (4, 4, 5)
    ]
    assert motions[0] == motions[1] != motions[2]
    images = [mr_motion.apply(still, motion).array for motion in motions[:2]]
    np.testing.assert_array_equal(*images)


def test_nan_in_the_image_is_refused():
    still = make_blobs(CENTRES)
    still.array[0, 0, 0] = np.nan
    with pytest.raises(errors.DataError, match="NaN"):
        mr_motion.apply(still, mr_motion.Parameters((0.0,), ((0.0, 0.0),)))


def test_more_poses_than_lines_are_refused():
    still = make_blobs(CENTRES, shape=(10, 12, 1))
    motion = mr_motion.draw_parameters(np.random.default_rng(0))
    with pytest.raises(errors.DataError, match="24 poses"):
        mr_motion.apply(still, motion)


@pytest.mark.parametrize(
    "arguments",
    [
        ((0.0, 0.0), ((0.0, 0.0),)),
        ((), ()),
        ((np.nan,), ((0.0, 0.0),)),
        ((0.0,), ((0.0, 0.0),), 2),
    ],
)
def test_impossible_motion_is_refused(arguments):
    with pytest.raises(errors.UsageError, match="expected"):
        mr_motion.Parameters(*arguments)


@pytest.mark.shared_data
def test_a_real_brain_is_disturbed_but_stays_in_place(shared_data):
    image = nib.load(shared_data / "stroke" / "T1.nii.gz")
    array = np.asarray(image.dataobj[:, :, 60:62], np.float32)
    still = volumes.Volume(np.maximum(array, 0), image.affine)
    motion = mr_motion.draw_parameters(np.random.default_rng(1), severity=0.5)
    moved = mr_motion.apply(still, motion).array
    assert 0.02 < distance(moved, still.array) < 0.4
    assert np.corrcoef(moved.ravel(), still.array.ravel())[0, 1] > 0.9
