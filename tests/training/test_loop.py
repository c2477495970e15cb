"""A run ends with the same numbers, however often it was interrupted."""

import functools
import json
import math
import pathlib
import re
import signal

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from medgan_tf import errors, methods, tasks
from medgan_tf.data import pipeline, records
from medgan_tf.training import checkpoint, loop
from medgan_tf.training import config as configs

TASK = tasks.adapted(tasks.TASKS["mr_ct"], voxel_size_mm=(None, None, None))
SMALL = ["ngf=4", "ndf=4", "generator_updates=1"]
PIX2PIX = methods.override(
    methods.METHODS["pix2pix_tf"], [*SMALL, "averaging=0.9"]
)
ONE_LAYER = ["style_layers=block1_conv1", "content_layers=block1_conv1"]
# For what every method shares: it has no discriminator to be traced.
SUPERVISED = methods.override(methods.METHODS["supervised"], SMALL)
MEDGAN = methods.override(methods.METHODS["medgan_1g"], [*SMALL, *ONE_LAYER])
SETTINGS = {
    "max_steps": 6,
    "seed": 3,
    "vgg_weights": "random",
    "summary_every": 2,
    "image_every": 3,
    "save_every": 100,
    "validate_every": 4,
    "validation_slices": 1,
}


class Bar:
    """A progress bar that shows nothing, and calls when a step is reached."""

    def __init__(self, total, initial, at=0, call=None):
        self._step, self._at, self._call = initial, at, call

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def set_postfix_str(self, text):
        pass

    def update(self, steps):
        self._step += steps
        if self._step == self._at:
            self._call()


@pytest.fixture(scope="module")
def dataset(write_records, tmp_path_factory):
    """Two patients of two slices to train on and one to validate on."""
    folder = tmp_path_factory.mktemp("loop") / "data"
    return write_records(folder, ("train", "train", "validation"))


def train(method, dataset, workdir, progress=Bar, task=TASK, **changes):
    config = configs.TrainConfig(**{**SETTINGS, **changes})
    return loop.train(task, method, config, dataset, workdir, progress=progress)


def state(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    """All that a checkpoint holds, but for how often one was saved."""
    path = workdir / "checkpoints" / f"ckpt-{step}"
    reader = tf.train.load_checkpoint(str(path))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if not name.startswith(("_CHECKPOINTABLE", "save_counter"))
    }


def assert_same_state(first: pathlib.Path, second: pathlib.Path, step: int):
    ours, theirs = state(first, step), state(second, step)
    assert ours.keys() == theirs.keys()
    differing = [
        name for name in ours if not np.array_equal(ours[name], theirs[name])
    ]
    assert differing == []


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """Folders of a run of six steps in one go with each of two methods."""
    folder = tmp_path_factory.mktemp("whole")
    for method in (PIX2PIX, MEDGAN):
        train(method, dataset, folder / method.name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method", [PIX2PIX, MEDGAN], ids=lambda m: m.name)
def test_a_run_that_was_stopped_and_gone_on_with_ends_bit_by_bit_the_same(
    method, dataset, whole, tmp_path
):
    before = signal.getsignal(signal.SIGINT)
    interrupt = functools.partial(signal.raise_signal, signal.SIGINT)
    progress = functools.partial(Bar, at=3, call=interrupt)
    with pytest.raises(errors.Stopped, match="SIGINT at step 3 of 6") as caught:
        train(method, dataset, tmp_path / "run", progress)
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert state(tmp_path / "run", 3)
    train(method, dataset, tmp_path / "run")
    assert_same_state(tmp_path / "run", whole / method.name, 6)


@pytest.mark.slow
def test_how_often_one_looks_does_not_change_the_training(
    dataset, whole, tmp_path
):
    never = {"summary_every": 99, "image_every": 99, "validate_every": 99}
    train(PIX2PIX, dataset, tmp_path / "run", **never)
    assert_same_state(tmp_path / "run", whole / PIX2PIX.name, 6)


@pytest.mark.slow
def test_the_state_holds_weights_slots_projection_and_dropout(whole):
    names = {
        method.name: " ".join(state(whole / method.name, 6))
        for method in (PIX2PIX, MEDGAN)
    }
    for part in ("generator/", "discriminator/", "generator_optimizer/"):
        assert all(part in found for found in names.values())
    assert names["medgan_1g"].count("projection/vectors/") == 3
    assert "averaged/" in names["pix2pix_tf"]
    # Three of the generator, three of its average.
    assert names["pix2pix_tf"].count("random_states/") == 6


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(dataset, whole):
    log = whole / MEDGAN.name / "metrics.jsonl"
    before = log.read_bytes()
    run = train(MEDGAN, dataset, whole / MEDGAN.name)
    assert log.read_bytes() == before
    assert run.method == MEDGAN


@pytest.mark.slow
def test_metrics_jsonl_tells_losses_shares_and_health(whole):
    text = (whole / MEDGAN.name / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    trained = [line for line in lines if line["split"] == "train"]
    assert [line["step"] for line in trained] == [1, 2, 4, 6]
    for line in trained:
        shares = {k: v for k, v in line.items() if k.startswith("share/")}
        assert set(shares) == {
            "share/adversarial",
            "share/perceptual_pixel",
            "share/perceptual_features",
            "share/style",
            "share/content",
        }
        # A sum of four numbers in double precision.
        assert math.isclose(sum(shares.values()), 1, abs_tol=1e-9)
        losses = [line[k.replace("share", "loss")] for k in shares]
        # The total was added up in single precision.
        assert math.isclose(
            sum(losses), line["loss/generator_total"], rel_tol=1e-5
        )
        for name in ("p_target", "p_translated"):
            assert 0 < line[f"discriminator/{name}"] < 1
        assert 0 <= line["health/saturated_u_block_1"] <= 1
        assert line["perf/images_per_second"] > 0
        assert 0 <= line["perf/input_wait_share"] <= 1
    validated = [line for line in lines if line["split"] == "validation"]
    assert [line["step"] for line in validated] == [4, 6]
    assert all(0 < line["metrics/ssim"] < 1 for line in validated)


@pytest.mark.slow
def test_tensorboard_shows_the_numbers_of_metrics_jsonl_and_the_images(whole):
    folder = whole / MEDGAN.name
    text = (folder / "metrics.jsonl").read_text()
    for split in ("train", "validation"):
        events = event_accumulator.EventAccumulator(
            str(folder / split), size_guidance={event_accumulator.TENSORS: 0}
        )
        events.Reload()
        shown = {
            (event.step, tag): float(tf.make_ndarray(event.tensor_proto))
            for tag in events.Tags()["tensors"]
            if not tag.startswith("samples/")
            for event in events.Tensors(tag)
        }
        written = {
            (line["step"], tag): value
            for line in map(json.loads, text.splitlines())
            if line["split"] == split
            for tag, value in line.items()
            if "/" in tag
        }
        # Because TensorBoard keeps single precision.
        assert shown == pytest.approx(written, rel=1e-6)
    strips = events.Tensors("samples/source_target_u_blocks")
    assert [strip.step for strip in strips] == [1, 3, 6]
    width, height, _ = tf.make_ndarray(strips[0].tensor_proto)
    # Source, target and the image after the only U-block.
    assert (int(width), int(height)) == (3 * 256, 256)


@pytest.mark.slow
def test_the_best_generator_is_the_one_that_validated_best(whole):
    folder = whole / MEDGAN.name
    text = (folder / "metrics.jsonl").read_text()
    errors_by_step = {
        line["step"]: line["metrics/mae"]
        for line in map(json.loads, text.splitlines())
        if line["split"] == "validation"
    }
    best = json.loads((folder / "best.json").read_text())
    assert best["step"] == min(errors_by_step, key=errors_by_step.get)
    assert best["value"] == errors_by_step[best["step"]]
    run = checkpoint.load_run(folder)
    assert checkpoint.load_generator(run)[1] == best["step"]


@pytest.fixture
def spoil(monkeypatch):
    """Makes the targets of chosen steps (from 1) all NaN, or another value."""
    make = pipeline.training_batches

    def spoil(wanted, value=math.nan):
        def batches(*arguments, first_step, **settings):
            def fill(index, images):
                step = index + first_step + 1
                is_bad = tf.reduce_any(step == tf.constant(wanted, tf.int64))
                return images[0], tf.where(is_bad, value, images[1])

            stream = make(*arguments, first_step=first_step, **settings)
            return stream.enumerate().map(fill)

        monkeypatch.setattr(pipeline, "training_batches", batches)

    return spoil


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_left_out_and_told_with_its_slices(
    dataset, spoil, caplog, tmp_path
):
    spoil([2, 5])
    train(SUPERVISED, dataset, tmp_path / "run")
    told = [
        record.getMessage()
        for record in caplog.records
        if record.name == "medgan_tf.training.health"
    ]
    for step, line in zip((2, 5), told, strict=True):
        (of_step,) = pipeline.slices_of_step(
            dataset, step - 1, batch_size=1, seed=SETTINGS["seed"]
        )
        assert line == (
            f"Step {step} was left out, as its gradients are not finite: "
            f"{of_step.patient} slice {of_step.slice_index}."
        )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == "train"]
    counts = {row["step"]: row["health/skipped_steps"] for row in rows}
    assert counts == {1: 0, 2: 1, 4: 1, 6: 2}
    saved = state(tmp_path / "run", 6)
    assert all(np.isfinite(array).all() for array in saved.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("holes", "settings", "count"),
    [
        ([3, 5], {"max_skipped_steps": 2}, "2 steps were not finite, the last"),
        (range(3, 99), {"max_steps": 24, "save_every": 11}, "20 in a row"),
    ],
)
def test_too_many_steps_that_are_not_finite_end_the_run(
    holes, settings, count, dataset, spoil, tmp_path
):
    spoil(list(holes))
    never = {"summary_every": 99, "image_every": 99, "validate_every": 99}
    settings = {**never, "save_every": 2, **settings}
    with pytest.raises(errors.DivergedError, match=count) as end:
        train(SUPERVISED, dataset, tmp_path / "run", **settings)
    assert end.value.exit_code == 4
    last = max((tmp_path / "run" / "checkpoints").glob("ckpt-*.index"))
    assert str(last.with_suffix("")) in str(end.value)


@pytest.mark.slow
def test_weights_that_are_not_finite_are_not_saved(
    dataset, monkeypatch, tmp_path
):
    monkeypatch.setattr(loop.steps.Trainer, "is_finite", lambda _: False)
    with pytest.raises(errors.DivergedError, match="checkpoint is none"):
        train(SUPERVISED, dataset, tmp_path / "run")
    assert not list((tmp_path / "run").glob("*/ckpt-*"))


DIVERGING = {
    "max_steps": 99,
    "summary_every": 1,
    "image_every": 999,
    "validate_every": 999,
    "divergence_steps": 2,
}


@pytest.mark.slow
def test_divergence_is_told_and_stops_the_run_where_asked(
    dataset, caplog, tmp_path
):
    # A thousand times the usual: the image is constant from the first step.
    method = methods.override(SUPERVISED, ["learning_rate=0.3"])
    settings = {**DIVERGING, "on_divergence": "stop"}
    with pytest.raises(errors.DivergedError, match="diverged since") as end:
        train(method, dataset, tmp_path / "run", **settings)
    assert end.value.exit_code == 4
    assert "(health/output_spread is past 0.02)" in caplog.text


@pytest.mark.slow
def test_a_record_that_cannot_be_read_is_told_when_a_run_goes_on(
    dataset, tmp_path
):
    interrupt = functools.partial(signal.raise_signal, signal.SIGINT)
    progress = functools.partial(Bar, at=3, call=interrupt)
    with pytest.raises(errors.Stopped):
        train(PIX2PIX, dataset, tmp_path / "run", progress)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    with pytest.raises(errors.ResourceError, match="metrics.jsonl cannot be"):
        train(PIX2PIX, dataset, tmp_path / "run")


@pytest.mark.slow
def test_a_run_that_dies_does_not_forget_since_when_it_diverges(
    dataset, tmp_path
):
    class Dying(Bar):
        def set_postfix_str(self, text):
            if self._step == 4:
                raise RuntimeError("the power went")

    method = methods.override(SUPERVISED, ["learning_rate=0.3"])
    settings = {**DIVERGING, "on_divergence": "stop", "save_every": 2}
    with pytest.raises(RuntimeError, match="power"):
        train(method, dataset, tmp_path / "run", Dying, **settings)
    with pytest.raises(errors.DivergedError, match="Step 6: .* since step 2"):
        train(method, dataset, tmp_path / "run", **settings)


@pytest.mark.slow
def test_divergence_goes_back_to_the_checkpoint_before_and_slows_down(
    dataset, spoil, caplog, tmp_path
):
    # White targets: the image becomes white, whatever the learning rate.
    spoil(list(range(5, 99)), value=1.0)
    method = methods.override(SUPERVISED, ["learning_rate=0.05"])
    settings = {**DIVERGING, "on_divergence": "rollback", "save_every": 2}
    with pytest.raises(errors.DivergedError, match="0.125 of its learning"):
        train(method, dataset, tmp_path / "run", **settings)
    paces = re.findall(r"going back to step \d+, at (.+) of", caplog.text)
    assert paces == ["0.5", "0.25", "0.125"]
    assert list((tmp_path / "run" / "checkpoints").glob("*.diverged"))


def test_records_of_another_task_are_refused(dataset, tmp_path):
    with pytest.raises(errors.DataError, match="prepared for --task=mr_ct"):
        train(
            PIX2PIX, dataset, tmp_path / "run", task=tasks.TASKS["pet_denoise"]
        )
    assert not (tmp_path / "run").exists()


def test_records_made_by_another_row_of_the_task_are_refused(dataset, tmp_path):
    row = {**dataset.info["task_row"], "simulator": "mr_motion"}
    other = records.Dataset(dataset.folder, {**dataset.info, "task_row": row})
    with pytest.raises(errors.DataError, match="the row of task mr_ct was an"):
        train(PIX2PIX, other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        (MEDGAN, {}, "method=pix2pix_tf"),
        (PIX2PIX, {"seed": 4}, "seed=3"),
    ],
)
@pytest.mark.slow
def test_the_folder_of_another_run_is_refused(
    dataset, whole, method, changes, words
):
    folder = whole / PIX2PIX.name
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(errors.ArtefactError, match=words):
        train(method, dataset, folder, **changes)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_run_without_the_weights_of_vgg_leaves_no_folder(dataset, tmp_path):
    with pytest.raises(errors.ResourceError, match="no file .*no.npz"):
        train(
            MEDGAN,
            dataset,
            tmp_path / "run",
            vgg_weights=str(tmp_path / "no.npz"),
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_damaged_record_is_told_when_it_is_read(dataset, tmp_path):
    shard = pathlib.Path(dataset.shards("train")[0])
    content = shard.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 16
    shard.write_bytes(flipped)
    try:
        with pytest.raises(errors.DataError, match="damaged training record"):
            train(PIX2PIX, dataset, tmp_path / "run")
    finally:
        shard.write_bytes(content)


@pytest.mark.slow
def test_a_run_without_progress_stops_early_and_does_not_go_on(
    dataset, tmp_path
):
    """With a learning rate of 0 the first validation stays the best."""
    still = methods.override(SUPERVISED, ["learning_rate=0"])
    settings = {"max_steps": 9, "validate_every": 2, "patience": 2}
    train(still, dataset, tmp_path / "run", best_metric="ssim", **settings)
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    assert (best["step"], best["metric"]) == (2, "ssim")
    # Validations at 4 and 6 were no better.
    assert state(tmp_path / "run", 6)
    steps = []
    bar = functools.partial(Bar, at=7, call=lambda: steps.append(7))
    train(still, dataset, tmp_path / "run", bar, best_metric="ssim", **settings)
    assert steps == []
    # Of another metric the best is another.
    with pytest.raises(errors.ArtefactError, match="best_metric=ssim"):
        train(still, dataset, tmp_path / "run", **settings)
