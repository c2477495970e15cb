"""The files and the table agree with the scores."""

import csv
import json
import math

import numpy as np
import pytest

from medgan_tf import errors, tasks
from medgan_tf.evaluation import evaluate, protocols, report

CHEAP = protocols.VALIDATION
SETTINGS = {"task": "mr_ct", "method": "medgan", "simulated": False}


def rows():
    """Two patients of unequal size, source and translated, one equal slice."""
    rng = np.random.default_rng(0)
    found = []
    for patient, num_slices in (("a", 3), ("b, left", 1)):
        for k in range(num_slices):
            for image in ("source", "translated"):
                values = dict(
                    zip(
                        ["ssim", "psnr", "mse", "mae"],
                        rng.uniform(0.1, 0.9, 4),
                        strict=True,
                    )
                )
                found.append(
                    evaluate.Score(
                        patient, k, image, values, window=(-1000.0, 2000.0)
                    )
                )
    found[0].values["psnr"] = math.inf
    return found


def test_the_csv_gives_back_every_score(tmp_path):
    csv_path, _ = report.write_scores(
        tmp_path / "new", rows(), SETTINGS, protocol=CHEAP
    )

    with csv_path.open(newline="") as file:
        lines = list(csv.DictReader(file))

    assert len(lines) == 8
    for line, row in zip(lines, rows(), strict=True):
        assert line["patient"] == row.patient
        assert int(line["slice_index"]) == row.slice_index
        assert line["image"] == row.image
        for name, value in row.values.items():
            assert float(line[name]) == value
        assert line["protocol"] == "validation"
        assert float(line["window_high"]) == 2000


def test_the_json_holds_the_means_of_the_csv(tmp_path):
    csv_path, json_path = report.write_scores(
        tmp_path, rows(), SETTINGS, protocol=CHEAP
    )

    content = json.loads(json_path.read_text())
    with csv_path.open(newline="") as file:
        lines = [
            line
            for line in csv.DictReader(file)
            if line["image"] == "translated"
        ]

    found = content["images"]["translated"]
    mae = np.array([float(line["mae"]) for line in lines])
    assert found["slice_mean"]["mae"] == pytest.approx(mae.mean())
    assert found["per_patient"]["a"]["mae"] == pytest.approx(mae[:3].mean())
    assert found["patient_mean"]["mae"] == pytest.approx(
        (mae[:3].mean() + mae[3]) / 2
    )
    assert found["num_slices"] == {"a": 3, "b, left": 1}
    assert content["settings"] == SETTINGS
    protocol = content["protocol"]
    assert protocol["name"] == "validation"
    assert "11 x 11" in protocol["metrics"]["ssim"]["settings"]
    assert content["not_computed"] == {}
    assert "medgan_tf" in content["versions"]


def test_the_json_has_null_where_a_number_is_not_finite(tmp_path):
    def refuse(token):
        raise AssertionError(f"not strict JSON: {token}")

    one = [row for row in rows() if row.patient == "a"][:1]
    _, json_path = report.write_scores(
        tmp_path, one, {"seed": np.int64(3)}, protocol=CHEAP
    )

    content = json.loads(json_path.read_text(), parse_constant=refuse)
    found = content["images"]["source"]
    assert found["patient_mean"]["psnr"] is None
    assert found["patient_sd"]["ssim"] is None
    assert found["num_identical"] == 1
    assert content["settings"]["seed"] == 3


def test_nothing_temporary_is_left_and_old_scores_are_replaced(tmp_path):
    report.write_scores(tmp_path, rows(), SETTINGS, protocol=CHEAP)
    report.write_scores(tmp_path, rows()[:2], SETTINGS, protocol=CHEAP)

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "scores.csv",
        "scores.json",
    ]
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 3


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(errors.ResourceError, match="Cannot write"):
        report.write_scores(tmp_path / "file", rows(), SETTINGS, protocol=CHEAP)


def test_no_scores_are_an_error(tmp_path):
    with pytest.raises(errors.DataError, match="no scores"):
        report.write_scores(tmp_path, [], SETTINGS, protocol=CHEAP)


def test_the_table_is_aligned_and_points_to_the_better_direction():
    values = [
        ("source", [0.5, 20.0, 1500.0, 120.0]),
        ("translated", [0.9, 30.0, 65.0, 40.0]),
    ]
    scores = [
        evaluate.Score(
            patient,
            0,
            image,
            dict(
                zip(
                    ["ssim", "psnr", "mse", "mae"],
                    numbers,
                    strict=True,
                )
            ),
        )
        for patient in "ab"
        for image, numbers in values
    ]

    text = report.table(evaluate.summarise(scores), unit="HU", protocol=CHEAP)

    assert text.splitlines() == [
        "mean ± SD over patients (2)           source       translated",
        "SSIM ↑                       0.5000 ± 0.0000  0.9000 ± 0.0000",
        "PSNR (dB) ↑                     20.00 ± 0.00     30.00 ± 0.00",
        "MSE (0..255) ↓                1500.00 ± 0.00     65.00 ± 0.00",
        "MAE (HU) ↓                     120.00 ± 0.00     40.00 ± 0.00",
        "",
        "mean over slices (2)",
        "SSIM ↑                                0.5000           0.9000",
        "PSNR (dB) ↑                            20.00            30.00",
        "MSE (0..255) ↓                       1500.00            65.00",
        "MAE (HU) ↓                            120.00            40.00",
        "No 95 % interval: no interval from 2 patient(s), 5 needed.",
        "Protocol validation; its settings are in scores.json.",
    ]


def test_the_table_says_when_the_psnr_is_not_of_all_slices():
    text = report.table(evaluate.summarise(rows()), unit="HU", protocol=CHEAP)

    assert "PSNR of source leaves out 1 slice(s)" in text


def test_what_was_not_computed_has_a_reason_and_never_a_number(tmp_path):
    protocol = protocols.PROTOCOLS["paper"].fitted(tasks.MR)
    names = [name for name in protocol.measures if "lpips" not in name]
    scored = [
        evaluate.Score("a", 0, "translated", dict.fromkeys(names, 0.5)),
        evaluate.Score("b", 0, "translated", dict.fromkeys(names, 0.5)),
    ]
    scored[0].values["vif"] = math.nan
    reasons = {"lpips_alex": "no weights at /x.npz"}

    csv_path, json_path = report.write_scores(
        tmp_path, scored, SETTINGS, protocol=protocol, not_computed=reasons
    )
    text = report.table(
        evaluate.summarise(scored),
        unit="HU",
        protocol=protocol,
        not_computed=reasons,
    )

    content = json.loads(json_path.read_text())
    assert content["not_computed"] == {
        "lpips_alex": "no weights at /x.npz",
        "lpips_vgg": "it needs weights, which were not given",
    }
    assert "lpips_alex" not in content["images"]["translated"]["slice_mean"]
    with csv_path.open(newline="") as file:
        line = next(csv.DictReader(file))
    assert line["lpips_alex"] == "" and line["vif"] == "nan"
    assert "LPIPS (AlexNet) is not computed: no weights at /x.npz." in text
    assert "VIF of translated is not defined in 1 of 2 slice(s)." in text
    (row,) = [t for t in text.splitlines() if t.startswith("LPIPS (VGG-16) ↓")]
    assert row.endswith("not computed")


def test_intervals_and_paired_tests_stand_beside_the_means(tmp_path):
    """Of eight patients the translation beats the source in every one."""
    made = [
        evaluate.Score(
            f"p{k}",
            0,
            image,
            {
                "ssim": 0.5,
                "psnr": math.inf if image == "source" else 20.0 + k,
                "mse": 9.0,
                "mae": mae,
            },
        )
        for k in range(8)
        for image, mae in (("source", 50.0 + k), ("translated", 30.0 + k / 2))
    ]
    report.write_scores(tmp_path, made, SETTINGS, protocol=CHEAP)
    found = json.loads((tmp_path / "scores.json").read_text())["statistics"]
    ours = found["mae"]["images"]["translated"]
    assert ours["low"] < ours["mean"] == 31.75 < ours["high"]
    (compared,) = found["mae"]["comparisons"]
    # All eight differences have one sign: 2 / 2^8.
    assert compared["p"] == pytest.approx(2 / 256)
    assert abs(compared["mean_difference"]) == pytest.approx(53.5 - 31.75)
    assert abs(compared["rank_biserial"]) == 1
    # An image equal to its target has no finite PSNR, so none to compare.
    assert found["psnr"]["without_finite_numbers"] == ["source"]
    assert found["psnr"]["comparisons"] == []
    text = report.table(evaluate.summarise(made), unit="HU", protocol=CHEAP)
    assert f"MAE (HU) {ours['low']:.2f} to {ours['high']:.2f}" in text
