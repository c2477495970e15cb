"""The card says what is known of a model, and no more."""

import pytest

from medgan_tf import errors, methods, sealed, tasks
from medgan_tf.serving import model_card

SUV = {"dtype": "float32", "shape": [None, 256, 256, 1]}
INFO = {
    "task": "pet_ct",
    "task_row": tasks.as_stored(tasks.TASKS["pet_ct"]),
    "slice_size": 256,
    "orientation": "rows anterior to posterior",
    "method": {
        "name": "medgan",
        "title": "MedGAN",
        "num_u_blocks": 6,
        "ngf": 64,
        "dropout": 0.0,
    },
    "checkpoint": "best",
    "discriminator_steps": 600,
    "precision": "float32",
    "format": "savedmodel",
    "data_fingerprint": "f" * 64,
    "data_origin": "files",
    "trained_on_simulated_images": False,
    "versions": {"medgan_tf": "1.2.3"},
    "intended_use": "Research only. Not for diagnosis.",
    "signatures": {
        "serving_default": {
            "inputs": {"source": SUV},
            "outputs": {"translated": SUV},
        }
    },
}
PATIENTS = {"train": 40, "validation": 5, "test": 7}


def scores(**settings):
    """As `evaluate.py` writes them: MAE of seven patients, no LPIPS."""
    found = {"mean": 50.0, "sd": 5.0, "low": 46.25, "high": 54.0, "note": ""}
    return {
        "settings": {
            "split": "test",
            "checkpoint": "best",
            "discriminator_steps": 600,
            "is_simulated": False,
            "data_fingerprint": "f" * 64,
            **settings,
        },
        "protocol": {
            "name": "canonical",
            "metrics": {
                "mae": {"label": "MAE", "unit": "HU"},
                "lpips_alex": {"label": "LPIPS", "unit": ""},
            },
        },
        "images": {
            "translated": {"num_slices": {f"p{i}": 10 for i in range(7)}}
        },
        "statistics": {"mae": {"images": {"translated": found}}},
    }


def test_scores_stand_with_their_intervals_and_without_names():
    text = model_card.text(INFO, PATIENTS, [scores()])
    assert "# MedGAN: PET to CT" in text
    assert "| MAE (HU) | 50.00 ± 5.00 | 46.25 to 54.00 |" in text
    assert "Protocol `canonical`" in text
    assert "7 patients, 70 images." in text
    assert "LPIPS" not in text and "p3" not in text
    assert "train 40, validation 5, test 7" in text
    assert "- Simulated images: no" in text
    assert "| source | PET | SUV | 0 to 20 |" in text
    assert "Voxel size (mm, left, posterior, superior): 1 x 1 x 1." in text
    assert "- input `source`: float32 [B, 256, 256, 1]" in text
    assert "Not for diagnosis" in text


def test_too_few_patients_have_no_interval():
    content = scores()
    found = content["statistics"]["mae"]["images"]["translated"]
    note = "no interval from 3 patient(s), 5 needed"
    found.update(low=None, high=None, note=note)
    text = model_card.text(INFO, PATIENTS, [content])
    assert "| MAE (HU) | 50.00 ± 5.00 | - |" in text
    assert "Without an interval: no interval from 3 patient(s)" in text


def test_scores_on_other_records_say_so():
    other = scores(data_fingerprint="e" * 64)
    text = model_card.text(INFO, PATIENTS, [other])
    assert "of other records than the training's" in text
    assert "of other records" not in model_card.text(INFO, PATIENTS, [scores()])


def test_what_limits_a_model_is_told():
    info = INFO | {
        "trained_on_simulated_images": True,
        "precision": "bfloat16",
        "method": INFO["method"] | {"dropout": 0.5},
    }
    text = model_card.text(info, dict.fromkeys(PATIENTS), [])
    assert "Not evaluated on test patients." in text
    assert "train not known" in text
    assert "trained on simulated images" in text
    assert "Its weights are in bfloat16" in text
    assert "draws noise" in text


def test_a_converted_model_shows_how_near_it_is():
    facts = {
        "format": "onnx",
        "file": "model.onnx",
        "num_bytes": 27_400_000,
        "parity": [{"images": "air alone", "largest": 1.7e-6, "mean": 1e-7}],
    }
    text = model_card.text(INFO | facts, PATIENTS, [])
    assert "| air alone | 1.7e-06 |" in text
    assert "`model.onnx`, 27.4 MB." in text
    assert "This format checks no values" in text
    plain = model_card.text(INFO, PATIENTS, [])
    assert "Conversion" not in plain and "checks no values" not in plain


def test_only_scores_of_this_checkpoint_on_test_patients_count(tmp_path):
    for folder, settings in {
        "test_best": {},
        "test_best_canonical": {},
        "test_best_old": {"discriminator_steps": 300},
        "test_last": {"checkpoint": "last"},
        "validation_best": {"split": "validation"},
    }.items():
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "scores.json"
        sealed.write(path, scores(**settings))
    assert model_card.scores_of(tmp_path, "best", 600) == 2 * [scores()]
    assert model_card.scores_of(tmp_path, "last", 600) == [
        scores(checkpoint="last")
    ]
    assert model_card.scores_of(tmp_path / "none", "best", 600) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        sealed.dumps({}),
        sealed.dumps(scores()).replace("50", "51"),
    ],
)
def test_damaged_scores_are_refused(tmp_path, text):
    (tmp_path / "test_best").mkdir()
    (tmp_path / "test_best" / "scores.json").write_text(text)
    with pytest.raises(errors.ArtefactError, match="evaluate again"):
        model_card.scores_of(tmp_path, "best", 600)


def test_without_the_records_only_the_trained_patients_are_counted(tmp_path):
    data = {
        "folder": str(tmp_path / "gone"),
        "fingerprint": "f" * 64,
        "train_patients": ["ann", "bob"],
    }
    assert model_card.patients_of(data) == {
        "train": 2,
        "validation": None,
        "test": None,
    }


def test_every_row_of_the_tables_has_a_card():
    for task in tasks.TASKS.values():
        for method in methods.METHODS.values():
            info = INFO | {
                "task_row": tasks.as_stored(task),
                "method": vars(method),
            }
            assert method.title in model_card.text(info, PATIENTS, [])
