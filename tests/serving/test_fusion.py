"""Several answers become one, and their spread is where they disagree."""

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import errors, tasks
from medgan_tf.data import volume
from medgan_tf.serving import fusion, predict

KEEP = (None, None, None)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
COSINE, SINE = np.cos(np.pi / 6), np.sin(np.pi / 6)
# Axes of the file: posterior, superior, right; turned by 30 degrees.
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = np.array(
    [[COSINE, -SINE, 0], [SINE, COSINE, 0], [0, 0, 1]]
) @ np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]])
OBLIQUE[:3, 3] = 12.3, -45.6, 78.9


def make(change=lambda source: source, modality=tasks.PET, info=None, **row):
    task = tasks.Task("test", "", modality, modality, KEEP, **row)

    def translate(source, source_scale=None):
        return {"translated": change(source)}

    return predict.Model(None, translate, task, info or {})


def noise(shape, affine=LPS):
    values = np.random.default_rng(0).uniform(0, 19, shape)
    return volume.Volume(values.astype(np.float32), affine)


def test_one_answer_is_that_of_predict_to_the_bit():
    model = make(lambda source: tf.sin(source))
    source = noise((9, 5, 14), OBLIQUE)
    expected = predict.translate_volume(model, [source])
    result, spread = fusion.translate_volume([model], [source])
    np.testing.assert_array_equal(result.array, expected.array)
    np.testing.assert_array_equal(result.affine, source.affine)
    assert spread is None


@pytest.mark.parametrize("affine", [LPS, OBLIQUE])
@pytest.mark.parametrize("modality", [tasks.PET, tasks.MR])
def test_all_planes_and_mirrors_of_the_identity_give_the_source(
    affine, modality
):
    source = noise((9, 5, 14), affine)
    # Below the middle, so that nothing is above an MR's 99.9th percentile.
    result, spread = fusion.translate_volume(
        [make(modality=modality)], [source], planes="three", mirror=True
    )
    np.testing.assert_array_equal(result.array, source.array)
    np.testing.assert_array_equal(result.affine, source.affine)
    assert not spread.array.any()


def test_slices_of_each_plane_lie_as_on_a_display():
    seen = []

    def look(source):
        seen.append(source.numpy()[..., 0])
        return source

    # 4 columns to the left, 6 to posterior, 2 up; one bright voxel that is
    # right, anterior and superior.
    array = np.full((4, 6, 2), 1, np.float32)
    array[0, 0, 1] = 7
    source = volume.Volume(array, LPS)
    fusion.translate_volume(
        [make(look)], [source], planes="three", batch_size=100
    )
    axial, coronal, sagittal = seen
    assert [len(slices) for slices in seen] == [2, 6, 4]
    # (slice, row, column); 256 pixels round 4, 6 and 2.
    assert np.argwhere(axial == 7).tolist() == [[1, 125, 126]]
    # Rows from superior, columns from the right; slices from anterior.
    assert np.argwhere(coronal == 7).tolist() == [[0, 127, 126]]
    # Rows from superior, columns from anterior; slices from the left.
    assert np.argwhere(sagittal == 7).tolist() == [[3, 127, 125]]


def test_other_planes_have_the_pixel_of_the_axial_one():
    seen = []

    def look(source):
        seen.append(tf.reduce_any(source > 0, axis=0).numpy()[..., 0])
        return source

    # Pixels of 1 mm, slices of 3 mm: 20 slices are 60 rows.
    source = volume.Volume(
        np.full((40, 30, 20), 5, np.float32), np.diag([-1.0, -1.0, 3.0, 1.0])
    )
    result, spread = fusion.translate_volume(
        [make(look)], [source], planes="three", batch_size=100
    )
    boxes = [(mask.any(axis=1).sum(), mask.any(axis=0).sum()) for mask in seen]
    assert boxes == [(30, 40), (60, 40), (60, 30)]
    np.testing.assert_array_equal(result.array, source.array)
    assert not spread.array.any()


def test_a_patient_longer_than_a_slice_is_tiled_in_the_other_planes():
    source = noise((8, 8, 300))
    result, spread = fusion.translate_volume(
        [make()], [source], planes="three", batch_size=100
    )
    # Two thirds of the answers are the source to the bit.
    np.testing.assert_allclose(result.array, source.array, rtol=1e-6)
    assert spread.array.max() < 1e-5


def test_a_mirrored_answer_is_mirrored_back():
    ramp = tf.reshape(tf.range(256.0), [1, 1, 256, 1])
    source = volume.Volume(np.full((4, 4, 2), 5, np.float32), LPS)
    result, spread = fusion.translate_volume(
        [make(lambda source: source + ramp)], [source], mirror=True
    )
    # Of columns c and 255 - c: the mean is 127.5 more everywhere; the sample
    # standard deviation of two numbers is their distance over sqrt(2).
    np.testing.assert_allclose(result.array, 132.5)
    columns = np.arange(126, 130)
    expected = np.abs(255 - 2 * columns) / np.sqrt(2)
    np.testing.assert_allclose(
        spread.array, np.broadcast_to(expected[:, None, None], (4, 4, 2))
    )


def test_an_outlier_among_three_models_does_not_move_the_median():
    models = [make(lambda s, add=add: s + add) for add in (1, 2, 900)]
    source = noise((4, 4, 2))
    result, spread = fusion.translate_volume(models, [source])
    np.testing.assert_allclose(result.array, source.array + 2, rtol=1e-6)
    # Of 1, 2 and 900: mean 301, squares 90000, 89401 and 358801, over 2.
    np.testing.assert_allclose(spread.array, np.sqrt(538202 / 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("num_models", "planes", "mirror", "expected"),
    [
        (1, "axial", False, 1),
        (1, "axial", True, 2),
        (1, "three", False, 3),
        # A sagittal slice has no left and right.
        (1, "three", True, 5),
        (2, "three", True, 10),
    ],
)
def test_answers_are_counted_as_they_are_made(
    num_models, planes, mirror, expected
):
    passes = []

    def progress(batches):
        passes.append(1)
        return batches

    fusion.translate_volume(
        [make()] * num_models,
        [noise((4, 4, 2))],
        planes=planes,
        mirror=mirror,
        progress=progress,
    )
    assert len(passes) == expected
    assert fusion.count_answers(num_models, planes, mirror) == expected


def test_models_of_another_task_or_unit_are_no_ensemble():
    fusion.check_ensemble({"a": make()})
    fusion.check_ensemble({"a": make(), "b": make()})
    with pytest.raises(
        errors.ArtefactError,
        match=r"=a and --model=b differ in source \(PET in SUV and CT in HU\)",
    ):
        fusion.check_ensemble({"a": make(), "b": make(modality=tasks.CT)})
    with pytest.raises(errors.ArtefactError, match="differ in too_large"):
        fusion.check_ensemble({"a": make(), "b": make(too_large="tile")})


def test_a_model_that_never_saw_a_mirrored_slice_is_given_none():
    fusion.check_mirrored({"a": make(info={"flip": True}), "b": make()})
    with pytest.raises(errors.ArtefactError, match="with --noflip"):
        fusion.check_mirrored({"a": make(info={"flip": False})})
