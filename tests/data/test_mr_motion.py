"""Motion in k-space: against the shift theorem and a turned image."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medgan_tf import errors
from medgan_tf.data import mr_motion, mr_trajectories
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


@pytest.mark.parametrize("ordering", mr_motion.ORDERINGS)
def test_constant_translation_is_the_theorem_for_noise_and_phase_too(ordering):
    rng = np.random.default_rng(0)
    noise = volumes.Volume(
        rng.random((15, 22, 2), np.float32), np.diag([-1.5, -1.0, 4.0, 1.0])
    )
    parameters = mr_motion.Parameters(
        (0.0,) * 7, ((1.3, -2.6),) * 7, ordering=ordering
    )
    image = mr_motion.complex_image(noise, parameters)
    # In double precision, frequencies in cycles per mm.
    fx, fy = np.fft.fftfreq(15, 1.5)[:, None], np.fft.fftfreq(22, 1.0)
    ramp = np.exp(-2j * np.pi * (fx * 1.3 - fy * 2.6))[..., None]
    signal = np.fft.fft2(noise.array, axes=(0, 1)) * ramp
    expected = np.fft.ifft2(signal, axes=(0, 1))
    assert np.abs(image - expected).max() < 1e-5
    assert image.dtype == np.complex64
    magnitude = mr_motion.apply(noise, parameters).array
    np.testing.assert_array_equal(magnitude, np.abs(image))


def test_the_same_motion_on_all_lines_is_the_image_moved_by_scipy():
    still = make_blobs(CENTRES, shape=(61, 61, 1), spacing=(1.0, 1.0, 4.0))
    moved = mr_motion.apply(
        still, mr_motion.Parameters((12.0,) * 9, ((2.5, -1.25),) * 9)
    ).array
    # SciPy turns the second of its axes towards the first.
    turned = ndimage.rotate(still.array, 12.0, axes=(1, 0), reshape=False)
    expected = ndimage.shift(turned, (2.5, -1.25, 0.0))
    assert distance(moved, expected) < 2e-3


def test_a_right_angle_is_exact_in_mm_on_pixels_that_are_not_square():
    # (x, y) -> (-y, x), in mm: what was 60 px of 1 mm is 30 px of 2 mm.
    still = make_blobs(CENTRES, (40, 60, 1), (2.0, 1.0, 4.0))
    turned = mr_motion.apply(
        still, mr_motion.Parameters((90.0,) * 2, ((0.0, 0.0),) * 2)
    )
    expected = make_blobs(
        np.stack([-CENTRES[:, 1], CENTRES[:, 0]], 1), (40, 60, 1), (2.0, 1.0, 4)
    )
    assert distance(turned.array, expected.array) < 2e-3
    # With a pixel in the middle every other one falls on a pixel, whatever
    # the image: no interpolation at all.
    noise = volumes.Volume(
        np.random.default_rng(1).random((41, 61, 1), np.float32),
        np.diag([-2.0, -1.0, 4.0, 1.0]),
    )
    turned = mr_motion.apply(
        noise, mr_motion.Parameters((90.0,) * 2, ((0.0, 0.0),) * 2)
    )
    on_pixels = turned.array[6:35, 0:61:2, 0]
    expected = noise.array[5:36, 58:1:-2, 0].T
    np.testing.assert_allclose(on_pixels, expected, atol=1e-4)


def test_a_head_turns_about_its_own_centre_if_asked():
    spot = make_blobs([[12.0, -8.0]])
    motion = mr_motion.Parameters(
        (30.0,) * 2, ((0.0, 0.0),) * 2, rotation_centre="head"
    )
    # A round spot that turns about itself stays where it is.
    assert distance(mr_motion.apply(spot, motion).array, spot.array) < 2e-3
    about_slice = dataclasses.replace(motion, rotation_centre="slice")
    moved = mr_motion.apply(spot, about_slice).array
    angle = np.radians(30.0)
    turned = make_blobs(
        [
            [
                12.0 * np.cos(angle) + 8.0 * np.sin(angle),
                12.0 * np.sin(angle) - 8.0 * np.cos(angle),
            ]
        ]
    )
    assert distance(moved, turned.array) < 2e-3


@pytest.mark.parametrize("num_lines", [1, 2, 7, 40, 57])
@pytest.mark.parametrize("interleaves", [1, 2, 3, 64])
@pytest.mark.parametrize("ordering", mr_motion.ORDERINGS)
def test_every_ordering_measures_every_line_exactly_once(
    ordering, interleaves, num_lines
):
    order = mr_motion.ORDERINGS[ordering](num_lines, interleaves)
    assert sorted(order) == list(range(num_lines))


def test_orderings_are_those_of_their_names():
    orders = {
        name: list(order(8, 2)) for name, order in mr_motion.ORDERINGS.items()
    }
    # Line 4 of 8 has frequency 0.
    assert orders == {
        "sequential": [0, 1, 2, 3, 4, 5, 6, 7],
        "interleaved": [0, 2, 4, 6, 1, 3, 5, 7],
        "centric": [4, 3, 5, 2, 6, 1, 7, 0],
    }


@pytest.mark.parametrize(
    ("moved_quarter", "harmed"),
    [(0, {"interleaved", "centric"}), (3, {"interleaved"})],
)
def test_an_ordering_decides_which_frequencies_a_jerk_meets(
    moved_quarter, harmed
):
    # Smooth spots have low frequencies only: at the start of a centric scan,
    # at neither end of a sequential one, and in every interleave.
    still = make_blobs(CENTRES)
    jerk = [(0.0, 0.0)] * 4
    jerk[moved_quarter] = (6.0, 6.0)
    for ordering in mr_motion.ORDERINGS:
        motion = mr_motion.Parameters((0.0,) * 4, jerk, 1, ordering)
        harm = distance(mr_motion.apply(still, motion).array, still.array)
        assert (harm > 0.1) if ordering in harmed else (harm < 1e-3)


def test_lines_of_one_comb_leave_ghosts_at_its_distance():
    still = make_blobs([[0.0, -20.0]], shape=(40, 80, 1))
    comb = mr_motion.Parameters(
        (0.0, 0.0), ((0.0, 0.0), (4.0, 0.0)), 1, "interleaved", 2
    )
    moved = mr_motion.apply(still, comb).array[:, :, 0]
    # Every other line differs: a ghost half the field of view, 40 mm, away.
    ghost = moved[:, 50:70].max()
    assert ghost > 0.2 * moved.max()
    assert moved[:, 35:45].max() < 0.1 * ghost


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


@pytest.mark.parametrize("trajectory", mr_trajectories.TRAJECTORIES)
def test_severity_enlarges_the_same_trajectory_and_0_is_the_identity(
    trajectory,
):
    still = make_blobs(CENTRES)
    none, mild, full = (
        mr_motion.draw_parameters(
            np.random.default_rng(6), trajectory=trajectory, severity=severity
        )
        for severity in (0.0, 0.5, 1.0)
    )
    assert distance(mr_motion.apply(still, none).array, still.array) < 1e-5
    for name in ("rotations_degrees", "translations_mm"):
        np.testing.assert_allclose(
            2 * np.array(getattr(mild, name)), getattr(full, name), atol=1e-12
        )
    assert distance(mr_motion.apply(still, full).array, still.array) > 0.01


@pytest.mark.parametrize(
    ("ordering", "central"),
    [("sequential", 12), ("interleaved", 3), ("centric", 0)],
)
def test_the_pose_of_the_central_line_is_the_zero(ordering, central):
    motion = mr_motion.draw_parameters(
        np.random.default_rng(2), trajectory="random_walk", ordering=ordering
    )
    zeros = np.flatnonzero(np.array(motion.rotations_degrees) == 0.0)
    assert list(zeros) == [central]


def test_the_choice_of_an_axis_leaves_the_motion_alone():
    drawn, along_0, along_1 = (
        mr_motion.draw_parameters(np.random.default_rng(3), **options)
        for options in ({}, {"phase_encode_axis": 0}, {"phase_encode_axis": 1})
    )
    assert (along_0.phase_encode_axis, along_1.phase_encode_axis) == (0, 1)
    assert dataclasses.replace(along_0, phase_encode_axis=1) == along_1
    assert drawn in (along_0, along_1)


def test_parameters_come_back_from_json():
    drawn = mr_motion.draw_parameters(
        np.random.default_rng(1), ordering="centric", rotation_centre="head"
    )
    stored = json.loads(json.dumps(dataclasses.asdict(drawn)))
    assert mr_motion.Parameters(**stored) == drawn


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"trajectory": "jump"}, "one of tremble_and_jerks, drift, sudden"),
        ({"ordering": "spiral"}, "one of sequential, interleaved, centric"),
        ({"rotation_centre": "neck"}, "one of slice, head"),
        ({"phase_encode_axis": 2}, "expected 0, 1 or -1"),
        ({"interleaves": 0}, "expected 1 or more"),
        ({"severity": np.inf}, "expected >= 0"),
        ({"num_segments": 0}, "expected >= 0 and >= 1"),
    ],
)
def test_a_wrong_option_is_told_the_right_ones(option, told):
    with pytest.raises(errors.UsageError, match=told):
        mr_motion.draw_parameters(np.random.default_rng(0), **option)


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
