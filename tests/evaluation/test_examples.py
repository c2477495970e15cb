"""The pictures show the median and the worst slice, and what was scored."""

import numpy as np
import pytest

from medgan_tf import errors
from medgan_tf.evaluation import evaluate, examples

SIZE = 32
# 1 of [-1, 1] is 1000 HU, or 127.5 grey levels.
WINDOW = (-1000.0, 1000.0)


def sample(patient="a", slice_index=0, box=(4, 24, 6, 22), size=SIZE):
    """A textured slice whose mask fills the box (top, bottom, left, right)."""
    rng = np.random.default_rng(slice_index)
    top, bottom, left, right = box
    target = np.full((size, size, 1), -1, np.float32)
    target[top:bottom, left:right] = rng.uniform(
        -0.5, 0.5, (bottom - top, right - left, 1)
    )
    mask = np.zeros((size, size), bool)
    mask[top:bottom, left:right] = True
    return evaluate.Sample(
        patient=patient,
        slice_index=slice_index,
        source=target + np.float32(0.25),
        target=target,
        mask=mask,
        source_window=(0.0, 20.0),
        target_window=WINDOW,
    )


def add(amount):
    """A translation that returns the target plus a constant."""
    return lambda source: source[..., :1] - 0.25 + amount


def score(patient, slice_index, value, image="translated"):
    return evaluate.Score(
        patient,
        slice_index,
        image,
        dict.fromkeys(["ssim", "psnr", "mse", "mae"], value),
    )


def test_the_median_and_the_worst_slice_of_each_patient_are_chosen():
    values = {"a": [0.5, 0.9, 0.7], "b": [0.8]}
    rows = [
        score(patient, k, value)
        for patient, found in values.items()
        for k, value in enumerate(found)
    ]
    rows.append(score("a", 9, 0.1, image="source"))

    chosen = examples.choose(rows)

    assert chosen == {
        ("a", "", 2): "median",
        ("a", "", 0): "worst",
        ("b", "", 0): "median",
    }


def test_few_of_many_patients_span_the_worst_and_the_best():
    rows = [score(f"p{k}", 0, k / 10) for k in range(9)]

    chosen = examples.choose(rows, num_patients=3)

    assert [patient for patient, *_ in chosen] == ["p0", "p4", "p8"]


def test_examples_are_cut_to_the_box_in_physical_units():
    samples = [sample(slice_index=k) for k in range(3)]

    example = examples.translate_chosen(
        samples, add(0.1), {("a", "", 1): "median"}
    )[0]

    assert example.target.shape == (20, 16)
    np.testing.assert_allclose(
        example.target, samples[1].target[4:24, 6:22, 0] * 1000, atol=1e-3
    )
    np.testing.assert_allclose(
        example.translated - example.target, 100, atol=1e-3
    )
    rows = evaluate.score_slices(samples, add(0.1)).rows
    assert example.ssim == rows[1].values["ssim"]


def test_samples_that_can_be_read_only_once_are_noticed():
    with pytest.raises(errors.DataError, match="read twice"):
        examples.translate_chosen(iter([]), add(0), {("a", "", 1): "worst"})
