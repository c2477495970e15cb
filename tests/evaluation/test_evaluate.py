"""Slices are scored where they have data, and patients count once each."""

import dataclasses

import numpy as np
import pytest

from medgan_tf import errors
from medgan_tf.evaluation import evaluate

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


def test_a_constant_error_gives_the_numbers_worked_out_by_hand():
    rows = evaluate.score_slices([sample()], add(0.1)).rows

    values = rows[0].values
    # 0.1 of [-1, 1] is 100 HU and 12.75 grey levels: 162.56 squared, and
    # 10 log10(255^2 / 162.56) = 26.02 dB.
    assert values["mae"] == pytest.approx(100, rel=1e-5)
    assert values["mse"] == pytest.approx(162.5625, rel=1e-5)
    assert values["psnr"] == pytest.approx(26.0206, abs=1e-4)


def test_padding_does_not_change_the_scores():
    small = sample()
    padding = ((10, 22), (13, 19))
    padded = dataclasses.replace(
        small,
        source=np.pad(small.source, (*padding, (0, 0)), constant_values=-1),
        target=np.pad(small.target, (*padding, (0, 0)), constant_values=-1),
        mask=np.pad(small.mask, padding),
    )

    def blur(source):
        return 0.5 * (source + np.roll(source, 1, axis=1))

    small_row = evaluate.score_slices([small], blur).rows[0]
    padded_row = evaluate.score_slices([padded], blur).rows[0]

    assert padded_row.values == pytest.approx(small_row.values, abs=1e-9)


def test_what_is_painted_outside_the_box_does_not_count():
    given = sample()

    def paint(source):
        translated = source - 0.25
        translated[:, ~given.mask] = 1
        return translated

    values = evaluate.score_slices([given], paint).rows[0].values

    assert values["mse"] == pytest.approx(0, abs=1e-6)


def test_the_mask_alone_counts_for_the_error_in_the_mask():
    given = sample()
    given.mask[5:23, 7:21] = False  # a frame one pixel wide remains

    def wrong_in_the_middle(source):
        translated = source - 0.25
        translated[:, 10:15, 10:15] += 0.2
        return translated

    values = evaluate.score_slices([given], wrong_in_the_middle).rows[0].values

    assert values["mae"] == pytest.approx(0, abs=1e-3)
    assert values["mse"] == pytest.approx(0, abs=1e-3)


def test_slices_with_a_box_below_eleven_pixels_are_skipped_and_counted():
    narrow = sample(slice_index=1, box=(4, 24, 6, 16))
    enough = sample(slice_index=2, box=(4, 15, 6, 17))
    empty = sample(slice_index=3, box=(4, 4, 6, 6))

    scores = evaluate.score_slices([narrow, enough, empty], add(0.1))

    assert [row.slice_index for row in scores.rows] == [2]
    assert scores.num_skipped == 2


def test_no_slice_at_all_is_an_error():
    with pytest.raises(errors.DataError, match="No slice could be scored"):
        evaluate.score_slices([], add(0))


def test_source_and_baselines_are_scored_beside_the_translated_image():
    def air(given):
        return np.full(given.mask.shape, -1.0)

    rows = evaluate.score_slices(
        [sample()], add(0.1), score_source=True, baselines={"air": air}
    ).rows

    assert [row.image for row in rows] == ["source", "air", "translated"]
    # The source lies 0.25 of [-1, 1] above the target: 250 HU.
    assert rows[0].values["mae"] == pytest.approx(250, rel=1e-5)


def test_the_first_channel_is_the_source_where_further_ones_are_given():
    given = sample()
    other = np.full_like(given.target, -1)
    stacked = dataclasses.replace(
        given,
        source=np.concatenate([given.target, other, other], axis=-1),
    )

    rows = evaluate.score_slices(
        [stacked], lambda source: source[..., :1], score_source=True
    ).rows

    assert rows[0].values["mse"] == 0


def test_batches_are_full_but_for_the_last_and_keep_the_order():
    sizes = []

    def translate(source):
        sizes.append(len(source))
        return source[..., :1]

    samples = (sample(slice_index=k) for k in range(5))
    rows = evaluate.score_slices(samples, translate, batch_size=2).rows

    assert sizes == [2, 2, 1]
    assert [row.slice_index for row in rows] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("translate", "words"),
    [
        (lambda source: source[:, ::2, ::2], "gave"),
        (lambda source: source * 1000, "expected \\[-1, 1\\]"),
        (lambda source: source * np.nan, "slice 7 of patient a"),
    ],
)
def test_a_wrong_translation_is_named(translate, words):
    with pytest.raises(errors.DataError, match=words):
        evaluate.score_slices([sample(slice_index=7)], translate)


@pytest.mark.parametrize(
    "change",
    [
        {"mask": np.ones((SIZE, SIZE), np.uint8)},
        {"target": np.zeros((SIZE, SIZE), np.float32)},
        {"source": np.full((SIZE, SIZE, 1), np.nan)},
        {"target_window": (5.0, 5.0)},
    ],
)
def test_an_unusable_sample_is_refused_by_name(change):
    with pytest.raises(errors.DataError, match="slice 0 of patient a"):
        dataclasses.replace(sample(), **change)


def test_patients_count_once_each_however_many_slices_they_have():
    rows = [
        score("a", 0, 1.0),
        score("a", 1, 2.0),
        score("a", 2, 6.0),
        score("b", 0, 7.0),
    ]

    summary = evaluate.summarise(rows)["translated"]

    # Means of the patients 3 and 7: mean 5, sample SD sqrt(8); slices 16 / 4.
    assert summary.per_patient["a"]["mae"] == 3
    assert summary.patient_mean["mae"] == 5
    assert summary.patient_sd["mae"] == pytest.approx(np.sqrt(8))
    assert summary.slice_mean["mae"] == 4
    assert summary.num_slices == {"a": 3, "b": 1}


def test_one_patient_has_no_standard_deviation():
    summary = evaluate.summarise([score("a", 0, 1.0)])["translated"]

    assert np.isnan(summary.patient_sd["ssim"])


def test_an_infinite_psnr_is_left_out_and_counted():
    rows = [score("a", 0, 30.0), score("a", 1, 1.0), score("b", 0, 40.0)]
    rows[1].values["psnr"] = np.inf

    summary = evaluate.summarise(rows)["translated"]

    assert summary.patient_mean["psnr"] == 35
    assert summary.num_identical == 1
