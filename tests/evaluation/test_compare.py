"""A protocol decides on window and pixels, and volumes are put together."""

import dataclasses
import json

import numpy as np
import pytest

from medgan_tf import errors, tasks
from medgan_tf.data.sample import Sample
from medgan_tf.evaluation import compare, evaluate, protocols

PAPER = protocols.PROTOCOLS["paper"]
CANONICAL = protocols.PROTOCOLS["canonical"]
# Without the slow one.
VOLUMES = dataclasses.replace(
    CANONICAL,
    measures={n: m for n, m in CANONICAL.measures.items() if n != "ms_ssim"},
)
WINDOW = (-1000.0, 2000.0)


def sample(slice_index=0, patient="a", study="", seed=0, size=48):
    """A CT slice: 40 HU with some bone in a square of 30, air around it."""
    rng = np.random.default_rng(seed)
    target = np.full((size, size), -1000.0)
    target[9:39, 9:39] = 40 + 60 * rng.random((30, 30))
    target[20:24, 12:36] = 900
    target = np.float32((target + 1000) / 1500 - 1)[..., None]
    return Sample(
        patient=patient,
        slice_index=slice_index,
        source=target,
        target=target,
        mask=np.ones((size, size), bool),
        source_window=WINDOW,
        target_window=WINDOW,
        study=study,
    )


def add(hounsfield):
    return lambda source: np.clip(
        source[..., :1] + np.float32(hounsfield / 1500), -1, 1
    )


def score(samples, protocol, target=tasks.CT, translate=None, **arguments):
    return evaluate.score_slices(
        samples,
        translate or add(30),
        protocol=protocol.fitted(target),
        **arguments,
    )


def test_the_paper_s_protocol_has_every_metric_and_those_of_the_tissues():
    (row,) = score([sample()], PAPER).rows
    # 30 HU too much everywhere, 25.5 / 10 of 255 grey levels.
    assert row.values["mae"] == pytest.approx(30, rel=1e-5)
    assert row.values["me_bone"] == pytest.approx(30, rel=1e-5)
    assert row.values["mse"] == pytest.approx(2.55**2, rel=1e-4)
    assert row.values["bone_dice"] == 1
    assert 0 < row.values["uqi"] < 1 and row.values["vif"] > 0.9
    assert row.window == WINDOW
    assert "lpips_alex" not in row.values


def test_a_metric_with_weights_gets_the_grey_box_and_its_range():
    seen = {}

    def distance(translated, target, data_range):
        seen.update(shape=target.shape, high=target.max(), range=data_range)
        return 0.25

    given = sample()
    given.mask[:] = False
    given.mask[10:40, 4:44] = True
    (row,) = score([given], PAPER, weighted={"lpips_vgg": distance}).rows
    assert row.values["lpips_vgg"] == 0.25
    assert "lpips_alex" not in row.values
    assert seen["shape"] == (30, 40) and seen["range"] == 255
    assert seen["high"] == pytest.approx(1900 / 3000 * 255, rel=1e-5)

    given.mask[30:] = False  # too small for AlexNet's layers
    (row,) = score([given], PAPER, weighted={"lpips_alex": distance}).rows
    assert np.isnan(row.values["lpips_alex"])


@pytest.mark.parametrize("window", [(-1000.0, 2000.0), (0.0, 0.3)])
def test_the_ends_of_the_window_are_0_and_255_to_the_last_bit(window):
    ends = []

    def distance(translated, target, data_range):
        ends.append((translated.min(), translated.max()))
        return 0.0

    given = dataclasses.replace(sample(), target_window=window)
    translate = lambda source: np.sign(source[..., :1])  # noqa: E731
    weighted = {"lpips_vgg": distance}
    score([given], PAPER, translate=translate, weighted=weighted)
    assert ends == [(0, 255)]


def test_a_box_too_small_for_vif_leaves_it_out_and_says_so():
    given = sample()
    given.mask[:, 40:] = False
    (row,) = score([given], PAPER).rows
    assert np.isnan(row.values["vif"]) and np.isfinite(row.values["uqi"])
    summary = evaluate.summarise([row])["translated"]
    assert summary.num_undefined == {"vif": 1}


def test_a_volume_is_the_slices_of_a_patient_s_study_in_any_order():
    samples = [sample(k, seed=k) for k in range(8)]
    samples += [sample(k, study="later", seed=k) for k in (5, 3)]
    samples += [sample(0, patient="b", seed=9)]

    rows = score(samples, VOLUMES, batch_size=3).rows

    assert [(r.patient, r.study, r.slice_index) for r in rows] == [
        ("a", "", None),
        ("a", "later", None),
        ("b", "", None),
    ]
    reordered = score(samples[7::-1], VOLUMES).rows[0]
    assert reordered.values == pytest.approx(
        rows[0].values, rel=1e-12, nan_ok=True
    )
    summary = evaluate.summarise(rows)["translated"]
    assert summary.num_slices == {"a": 2, "b": 1}
    # Seven slices hold a window of the volume's SSIM, fewer do not.
    assert np.isfinite(rows[0].values["ssim"])
    assert np.isnan(rows[1].values["ssim"])


def test_only_the_body_counts_for_a_volume():
    def wrong_in_the_air(source):
        translated = source[..., :1].copy()
        translated[:, :5] = 1
        return translated

    (row,) = score(
        [sample(k) for k in range(7)], VOLUMES, translate=wrong_in_the_air
    ).rows
    assert row.values["mae"] == pytest.approx(0, abs=1e-3)
    assert row.values["psnr"] > 100
    assert row.values["ssim"] == pytest.approx(1, abs=1e-6)


def test_a_missing_slice_keeps_its_place_outside_the_mask():
    samples = [sample(k, seed=k) for k in (0, 1, 2, 3, 5, 6, 7)]
    noisy = lambda source: np.clip(source[..., :1] * 0.9, -1, 1)  # noqa: E731
    with_gap = score(samples, VOLUMES, translate=noisy).rows[0]
    closed = score(
        [dataclasses.replace(s, slice_index=k) for k, s in enumerate(samples)],
        VOLUMES,
        translate=noisy,
    ).rows[0]
    assert with_gap.values["mae"] == pytest.approx(closed.values["mae"])
    assert with_gap.values["ssim"] != pytest.approx(closed.values["ssim"])


def test_the_challenges_window_gives_the_psnr_its_range():
    samples = [sample(k) for k in range(7)]
    psnr = {
        name: score(samples, protocols.PROTOCOLS[name]).rows[0].values["psnr"]
        for name in ("canonical", "synthrad2023", "synthrad2025")
    }
    # One error of 30 HU, ranges of 3000, 4024 and 4095 HU.
    for name, data_range in zip(psnr, (3000, 4024, 4095), strict=True):
        assert psnr[name] == pytest.approx(
            20 * np.log10(data_range / 30), abs=1e-3
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"slice_index": 0}, "Slice 0 of patient a comes twice"),
        ({"target_window": (-1000.0, 1000.0)}, "differ in size or window"),
    ],
)
def test_slices_that_are_no_volume_are_refused(change, words):
    other = dataclasses.replace(sample(1), **change)
    with pytest.raises(errors.DataError, match=words):
        score([sample(0), other], VOLUMES)


def test_patients_that_come_mixed_are_refused():
    mixed = [sample(0), sample(0, patient="b"), sample(1)]
    with pytest.raises(errors.DataError, match="one after the other"):
        score(mixed, VOLUMES)


def test_slices_are_scored_beside_volumes_for_the_pictures():
    scores = score([sample(k) for k in range(3)], VOLUMES)
    assert [row.slice_index for row in scores.slices] == [0, 1, 2]
    assert all(0 < row.values["ssim"] <= 1 for row in scores.slices)


def test_a_volume_without_body_is_skipped_and_counted():
    air = dataclasses.replace(
        sample(patient="b"), target=np.full((48, 48, 1), -1, np.float32)
    )
    scores = score([sample(), air], VOLUMES)
    assert [row.patient for row in scores.rows] == ["a"]
    assert scores.num_skipped == 1
    with pytest.raises(errors.DataError, match="No volume could be scored"):
        score([air], VOLUMES)


@pytest.mark.parametrize("target", [tasks.MR, tasks.PET])
def test_the_challenges_protocols_are_for_ct(target):
    with pytest.raises(errors.UsageError, match="is for CT"):
        protocols.PROTOCOLS["synthrad2025"].fitted(target)


def test_tiles_are_no_volume():
    with pytest.raises(errors.UsageError, match="overlapping tiles"):
        compare.check_volumes(CANONICAL, "tile")
    compare.check_volumes(PAPER, "tile")
    compare.check_volumes(CANONICAL, "refuse")


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_every_setting_can_be_written_as_json(name):
    text = json.dumps(
        protocols.PROTOCOLS[name].fitted(tasks.CT).described(),
        allow_nan=False,
    )
    found = json.loads(text)
    assert found["name"] == name and found["source"]
    assert found["metrics"]["mae"]["unit"] == "HU"
    assert "bone_dice" in found["metrics"]


def test_pet_gets_the_biases_of_its_uptake_and_mr_nothing():
    names = {
        target.name: set(PAPER.fitted(target).measures) - set(PAPER.measures)
        for target in (tasks.CT, tasks.PET, tasks.MR)
    }
    assert "suv_mean_bias_uptake" in names["PET"] and len(names["PET"]) == 4
    assert len(names["CT"]) == 7 and not names["MR"]
