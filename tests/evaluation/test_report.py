"""The files agree with the scores, and the picture can be opened."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest
from matplotlib import image as mpl_image

from medgan_tf import errors, tasks
from medgan_tf.evaluation import evaluate, report

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
                found.append(evaluate.Score(patient, k, image, values))
    found[0].values["psnr"] = math.inf
    return found


def example(kind="median", shape=(40, 30), bias=50.0):
    rng = np.random.default_rng(1)
    target = rng.uniform(-1000, 1000, shape)
    return evaluate.Example(
        patient="a",
        slice_index=3,
        kind=kind,
        source=rng.uniform(0, 400, shape),
        translated=target + bias,
        target=target,
        mask=np.ones(shape, bool),
        source_window=(0.0, 400.0),
        target_window=(-1000.0, 2000.0),
        ssim=0.5,
    )


def test_the_csv_gives_back_every_score(tmp_path):
    csv_path, _ = report.write_scores(tmp_path / "new", rows(), SETTINGS)

    with csv_path.open(newline="") as file:
        lines = list(csv.DictReader(file))

    assert len(lines) == 8
    for line, row in zip(lines, rows(), strict=True):
        assert line["patient"] == row.patient
        assert int(line["slice_index"]) == row.slice_index
        assert line["image"] == row.image
        for name, value in row.values.items():
            assert float(line[name]) == value


def test_the_json_holds_the_means_of_the_csv(tmp_path):
    csv_path, json_path = report.write_scores(tmp_path, rows(), SETTINGS)

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
    assert "11 x 11" in content["protocol"]
    assert "medgan_tf" in content["versions"]


def test_the_json_has_null_where_a_number_is_not_finite(tmp_path):
    def refuse(token):
        raise AssertionError(f"not strict JSON: {token}")

    one = [row for row in rows() if row.patient == "a"][:1]
    _, json_path = report.write_scores(tmp_path, one, {"seed": np.int64(3)})

    content = json.loads(json_path.read_text(), parse_constant=refuse)
    found = content["images"]["source"]
    assert found["patient_mean"]["psnr"] is None
    assert found["patient_sd"]["ssim"] is None
    assert found["num_identical"] == 1
    assert content["settings"]["seed"] == 3


def test_nothing_temporary_is_left_and_old_scores_are_replaced(tmp_path):
    report.write_scores(tmp_path, rows(), SETTINGS)
    report.write_scores(tmp_path, rows()[:2], SETTINGS)

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "scores.csv",
        "scores.json",
    ]
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 3


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(errors.ResourceError, match="Cannot write"):
        report.write_scores(tmp_path / "file", rows(), SETTINGS)


def test_no_scores_are_an_error(tmp_path):
    with pytest.raises(errors.DataError, match="no scores"):
        report.write_scores(tmp_path, [], SETTINGS)


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

    text = report.table(evaluate.summarise(scores), unit="HU")

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
    ]


def test_the_table_says_when_the_psnr_is_not_of_all_slices():
    text = report.table(evaluate.summarise(rows()), unit="HU")

    assert "PSNR of source leaves out 1 slice(s)" in text


@pytest.mark.parametrize("task", tasks.TASKS.values(), ids=tasks.TASKS)
def test_the_picture_opens_and_is_ten_inches_wide(tmp_path, task):
    path = report.picture(
        tmp_path / "new" / "examples.png",
        [example(), example("worst")],
        task=task,
        method="medgan",
        is_simulated=True,
    )

    height, width, _ = mpl_image.imread(path).shape
    assert width == 1500
    # At 150 dots per inch: two images of 2.2 in x 4 / 3 with captions of
    # 0.4 in, and 1.75 in for title and colour bar.
    assert height == pytest.approx(
        150 * (2 * (2.2 * 4 / 3 + 0.4) + 1.75), abs=2
    )


def test_a_picture_without_error_can_be_drawn(tmp_path):
    path = report.picture(
        tmp_path / "examples.png",
        [example(bias=0.0)],
        task=tasks.TASKS["mr_ct"],
        method="medgan",
        is_simulated=False,
    )

    assert mpl_image.imread(path).size


def test_a_dollar_sign_in_a_name_is_not_read_as_a_formula(tmp_path):
    odd = dataclasses.replace(example(shape=(11, 200)), patient=r"$\frac$")

    path = report.picture(
        tmp_path / "examples.png",
        [odd],
        task=tasks.TASKS["mr_ct"],
        method="medgan",
        is_simulated=False,
    )

    assert mpl_image.imread(path).size


def test_no_examples_are_an_error(tmp_path):
    with pytest.raises(errors.DataError, match="no examples"):
        report.picture(
            tmp_path / "examples.png",
            [],
            task=tasks.TASKS["mr_ct"],
            method="medgan",
            is_simulated=False,
        )
