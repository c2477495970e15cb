"""What is logged can be read back, by us and by TensorBoard."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from medgan_tf import errors, run_record
from medgan_tf.training import summaries


@pytest.fixture
def log(tmp_path):
    log = summaries.Summaries(tmp_path)
    yield log
    log.close()


def read_events(folder):
    events = event_accumulator.EventAccumulator(
        str(folder), size_guidance={event_accumulator.TENSORS: 0}
    )
    events.Reload()
    return events


def test_each_line_is_json_with_step_split_and_values(log, tmp_path):
    log.scalars("train", 1, {"loss/l1": 0.25})
    log.scalars("validation", 3, {"metrics/ssim": 0.5, "metrics/psnr": 20.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert {k: first[k] for k in ("step", "split", "loss/l1")} == {
        "step": 1,
        "split": "train",
        "loss/l1": 0.25,
    }
    assert second["metrics/psnr"] == 20.0 and second["time"] >= first["time"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_json_does_not_know_becomes_null(log, tmp_path, value):
    log.scalars("train", 1, {"loss/l1": value})

    def refuse(word):
        raise AssertionError(word)

    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=refuse)["loss/l1"] is None


def test_a_second_run_appends(log, tmp_path):
    log.scalars("train", 1, {"loss/l1": 1.0})
    summaries.Summaries(tmp_path).scalars("train", 2, {"loss/l1": 2.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_tensorboard_reads_the_same_numbers(log, tmp_path):
    for step in (1, 2, 3):
        log.scalars("train", step, {"loss/l1": step / 4})
    events = read_events(tmp_path / "train")
    assert events.Tags()["tensors"] == ["loss/l1"]
    found = [
        (event.step, float(tf.make_ndarray(event.tensor_proto)))
        for event in events.Tensors("loss/l1")
    ]
    assert found == [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_the_strip_shows_the_images_side_by_side_from_black_to_white(
    log, tmp_path
):
    black, grey, white = (np.full([4, 6], v, np.float32) for v in (-1, 0, 1))
    log.strip("validation", 7, [black, grey, white])
    events = read_events(tmp_path / "validation")
    (event,) = events.Tensors("samples/source_target_u_blocks")
    width, height, png = tf.make_ndarray(event.tensor_proto)
    assert (event.step, int(width), int(height)) == (7, 18, 4)
    pixels = tf.io.decode_png(png).numpy()[..., 0]
    # Grey is 127.5, which may be rounded either way.
    assert set(pixels[:, 6:12].ravel().tolist()) <= {127, 128}
    assert (pixels[:, :6] == 0).all() and (pixels[:, 12:] == 255).all()


@pytest.mark.parametrize("name", ["metrics.jsonl", "train"])
def test_what_stands_in_the_way_is_told_in_words(tmp_path, name):
    where = tmp_path / name
    where.touch() if name == "train" else where.mkdir()
    with pytest.raises(errors.ResourceError, match=f"{name} cannot") as told:
        summaries.Summaries(tmp_path).scalars("train", 1, {"loss/l1": 1.0})
    assert "mend what is in the way" in str(told.value)
    assert "Op" not in str(told.value) and "\n" not in str(told.value)


def test_the_record_is_read_by_steps_as_last_taken(log, tmp_path):
    for step, value in ((2, 0.2), (4, 0.4), (1, 0.1), (2, math.nan)):
        log.scalars("train", step, {"loss/l1": value})
    log.scalars("validation", 3, {"metrics/ssim": 0.5})
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'\xff[\n{"step": 5, "split": "tr')
    found = run_record.read(tmp_path, "train")
    assert [(k, v["loss/l1"]) for k, v in found.items()] == [
        (1, 0.1),
        (2, None),
        (4, 0.4),
    ]


def test_a_record_that_cannot_be_written_is_told(tmp_path):
    log = summaries.Summaries(tmp_path / "gone")
    with pytest.raises(errors.ResourceError, match="metrics.jsonl cannot be"):
        log.scalars("train", 1, {"loss/l1": 1.0})
