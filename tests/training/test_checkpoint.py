"""A run folder is gone on with as it was, or it is refused."""

import dataclasses
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from medgan_tf import errors, methods, sealed, tasks
from medgan_tf.data import records
from medgan_tf.training import checkpoint
from medgan_tf.training import config as configs
from medgan_tf.training import step as steps

PIX2PIX = methods.METHODS["pix2pix"]
MR_CT = tasks.TASKS["mr_ct"]
INFO = {
    "fingerprint": "f" * 64,
    "origin": "files",
    "is_simulated": False,
    "source_channels": 1,
    "target_channels": 1,
    "task_row": tasks.as_stored(MR_CT),
    "splits": {"train": {"patients": ["ann"]}},
}


def open_run(workdir, task=MR_CT, method=PIX2PIX, info=INFO, **settings):
    config = configs.TrainConfig(**settings)
    dataset = records.Dataset(workdir.parent / "data", info)
    run = checkpoint.open_run(workdir, task, method, config, dataset)
    run.save()
    return run


@pytest.mark.parametrize("name", methods.METHODS)
def test_run_json_gives_back_the_method_and_the_settings(tmp_path, name):
    method = methods.METHODS[name]
    run = open_run(tmp_path / "run", method=method, seed=7, epochs=3)
    again = checkpoint.load_run(tmp_path / "run")
    assert again.method == method and again.task == "mr_ct"
    assert again.config == configs.TrainConfig(seed=7, epochs=3)
    assert again.data["fingerprint"] == INFO["fingerprint"]
    assert again.versions == run.versions
    assert {"medgan_tf", "tensorflow", "keras"} < again.versions.keys()


def test_a_row_that_was_changed_comes_back_changed(tmp_path):
    method = methods.override(
        methods.METHODS["medgan"],
        ["ngf=32", "style_layers=block1_conv1", "perceptual_layers=1,2.5,3"],
    )
    open_run(tmp_path / "run", method=method)
    assert checkpoint.load_run(tmp_path / "run").method == method


def test_a_longer_run_is_the_same_run(tmp_path):
    open_run(tmp_path / "run", max_steps=10)
    open_run(tmp_path / "run", max_steps=20, summary_every=1)
    assert checkpoint.load_run(tmp_path / "run").config.max_steps == 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": tasks.TASKS["pet_ct"]}, "task=mr_ct;"),
        ({"method": methods.METHODS["medgan"]}, "method=pix2pix, perceptual=0"),
        ({"method": methods.override(PIX2PIX, ["ngf=8"])}, "with ngf=64;"),
        ({"seed": 1}, "with seed=0;"),
        ({"batch_size": 2}, "with batch_size=1;"),
        (
            {"info": {**INFO, "fingerprint": "0" * 64}},
            r"other data \(.*data\);",
        ),
    ],
)
def test_another_run_s_folder_is_refused_by_the_difference(
    tmp_path, change, words
):
    open_run(tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(errors.ArtefactError, match=words) as caught:
        open_run(tmp_path / "run", **change)
    assert caught.value.exit_code == 5
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(errors.ArtefactError, match="holds no run.json"):
        open_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["checkpoints", "best", "train", "validation"])
def test_a_file_in_place_of_a_folder_of_the_run_is_refused(tmp_path, name):
    open_run(tmp_path / "run")
    (tmp_path / "run" / name).write_text("hi")
    with pytest.raises(errors.ArtefactError, match=f"{name} is a file"):
        open_run(tmp_path / "run")


def test_a_run_that_was_killed_as_it_began_begins_again(tmp_path):
    (tmp_path / ".run.json.tmp").touch()
    (tmp_path / ".lock").touch()
    open_run(tmp_path)


@pytest.mark.parametrize("name", ["file", "file/run", "x" * 300])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(errors.ResourceError, match="cannot be written"):
        open_run(tmp_path / name)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: text.replace('"task"', '"work"'),
        lambda text: text.replace('"ngf"', '"width"'),
        lambda text: text.replace('"ngf": 64', '"ngf": 96'),
    ],
)
def test_a_run_json_that_was_changed_is_refused(tmp_path, change):
    open_run(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(errors.ArtefactError, match="run.json cannot be read"):
        checkpoint.load_run(tmp_path / "run")


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(errors.ArtefactError, match="holds no run.json"):
        checkpoint.load_run(tmp_path)


TINY = methods.override(methods.METHODS["pix2pix_tf"], ["ngf=4", "ndf=4"])


def make_trainer(seed: int, step: int = 0) -> steps.Trainer:
    trainer = steps.Trainer(TINY, seed=seed)
    trainer._step.assign(step)
    return trainer


@pytest.fixture(scope="module")
def trainer():
    return make_trainer(seed=1)


@pytest.fixture
def saved(tmp_path, trainer):
    """A run with checkpoints of steps 4, 5 and 6, of which two are kept."""
    run = open_run(tmp_path / "run", method=TINY)
    checkpoints = checkpoint.Checkpoints(run, trainer)
    for step in (4, 5, 6):
        trainer._step.assign(step)
        checkpoints.save(step)
    return run


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def variables(trainer):
    for network in (trainer.generator, trainer.discriminator):
        yield from network.variables
    for optimizer in (
        trainer.generator_optimizer,
        trainer.discriminator_optimizer,
    ):
        yield from optimizer.variables
    for layer in trainer.generator.blocks[0].dropouts:
        yield layer.seed_generator.state


def test_the_last_two_checkpoints_are_kept(saved):
    assert files(saved.workdir / "checkpoints") == [
        "checkpoint",
        "ckpt-5.data-00000-of-00001",
        "ckpt-5.index",
        "ckpt-6.data-00000-of-00001",
        "ckpt-6.index",
    ]


@pytest.mark.slow
def test_all_that_training_changes_comes_back(saved, trainer):
    other = make_trainer(seed=2)
    assert checkpoint.Checkpoints(saved, other).restore() == 6
    pairs = list(zip(variables(trainer), variables(other), strict=True))
    # 16 layers with weights, two Adam slots each, three states of dropout.
    assert len(pairs) > 100
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_without_checkpoints_starts_at_step_0(tmp_path, trainer):
    run = open_run(tmp_path / "run", method=TINY)
    assert checkpoint.Checkpoints(run, trainer).restore() == 0
    with pytest.raises(errors.ArtefactError, match="holds no best checkpoint"):
        checkpoint.load_generator(run)


def damaged(run, how, step=6):
    """Damages a checkpoint; returns the names that its files then have."""
    folder = run.workdir / "checkpoints"
    data = folder / f"ckpt-{step}.data-00000-of-00001"
    index = folder / f"ckpt-{step}.index"
    if how == "data cut":
        data.write_bytes(data.read_bytes()[:1000])
    elif how == "data flipped":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif how == "data gone":
        data.unlink()
    elif how == "index flipped":
        content = bytearray(index.read_bytes())
        content[len(content) // 2] ^= 255
        index.write_bytes(content)
    elif how == "index cut":
        index.write_bytes(index.read_bytes()[:100])
    elif how == "index empty":
        index.write_bytes(b"")


DAMAGES = (
    "data cut",
    "data flipped",
    "data gone",
    "index flipped",
    "index cut",
    "index empty",
)


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_said_renamed_and_the_one_before_used(
    saved, how, caplog
):
    damaged(saved, how)
    other = make_trainer(seed=2)
    with caplog.at_level("WARNING"):
        checkpoints = checkpoint.Checkpoints(saved, other)
        assert checkpoints.restore() == 5
    assert "ckpt-6 is damaged" in caplog.text
    folder = saved.workdir / "checkpoints"
    assert (folder / "ckpt-6.index.corrupt").exists()
    assert not (folder / "ckpt-6.index").exists()
    # It goes on as if the damaged one had never been.
    for step in (6, 7):
        other._step.assign(step)
        checkpoints.save(step)
    kept = [name for name in files(folder) if name.endswith(".index")]
    assert kept == ["ckpt-6.index", "ckpt-7.index"]
    assert checkpoint.Checkpoints(saved, make_trainer(seed=3)).restore() == 7


def test_checkpoints_that_changed_their_names_are_told(saved, trainer):
    folder = saved.workdir / "checkpoints"
    for path in folder.glob("ckpt-6.*"):
        path.rename(path.with_name(path.name.replace("ckpt-6", "ckpt-60")))
    words = "ckpt-60 holds step 6"
    with pytest.raises(errors.ArtefactError, match=words):
        checkpoint.load_generator(saved, "last")
    with pytest.raises(errors.ArtefactError, match=words):
        checkpoint.Checkpoints(saved, trainer).restore()


def test_a_best_checkpoint_that_changed_its_name_is_told(saved, trainer):
    checkpoint.Checkpoints(saved, trainer).save_if_best(5, "ssim", 0.9, True)
    for path in (saved.workdir / "best").glob("ckpt-5.*"):
        path.rename(path.with_name(path.name.replace("ckpt-5", "ckpt-9")))
    with pytest.raises(errors.ArtefactError, match="ckpt-9 holds step 5"):
        checkpoint.load_generator(saved, "best")


def test_another_sealed_file_is_no_best_json(saved, trainer):
    checkpoints = checkpoint.Checkpoints(saved, trainer)
    sealed.write(saved.workdir / "best.json", {"task": "mr_ct"})
    with pytest.raises(errors.ArtefactError, match="remove it to choose"):
        _ = checkpoints.best_step


@pytest.mark.slow
def test_where_all_are_damaged_nothing_starts_at_step_0(saved, trainer):
    damaged(saved, "data cut", step=5)
    damaged(saved, "index empty", step=6)
    with pytest.raises(
        errors.ArtefactError, match="no checkpoint there can be used"
    ):
        checkpoint.Checkpoints(saved, make_trainer(seed=2)).restore()


@pytest.mark.parametrize(
    "content",
    [None, "", "garbage", 'model_checkpoint_path: "../../elsewhere/ckpt-9"'],
)
def test_the_list_of_checkpoints_is_made_anew_from_what_is_there(
    saved, trainer, content
):
    file = saved.workdir / "checkpoints" / "checkpoint"
    file.unlink()
    if content is not None:
        file.write_text(content)
    checkpoints = checkpoint.Checkpoints(saved, trainer)
    assert checkpoints.restore() == 6
    checkpoints.save(7)
    assert "ckpt-5.index" not in files(file.parent)


def test_checkpoints_that_were_damaged_stay_so_the_next_time(saved, trainer):
    folder = saved.workdir / "checkpoints"
    for path in folder.glob("ckpt-*.data-*"):
        path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(errors.ArtefactError, match="can be used"):
            checkpoint.Checkpoints(saved, trainer).restore()


@pytest.mark.parametrize("gone", ["ckpt-*.index", "ckpt-6.index"])
def test_an_index_that_is_gone_is_told(saved, trainer, caplog, gone):
    folder = saved.workdir / "checkpoints"
    for path in folder.glob(gone):
        path.unlink()
    if "*" in gone:
        with pytest.raises(errors.ArtefactError, match="can be used"):
            checkpoint.Checkpoints(saved, trainer).restore()
    else:
        assert checkpoint.Checkpoints(saved, trainer).restore() == 5
        assert "ckpt-6 has no index" in caplog.text


def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_damaged(
    saved, trainer, monkeypatch
):
    monkeypatch.setattr(checkpoint.os, "access", lambda path, mode: False)
    before = files(saved.workdir / "checkpoints")
    with pytest.raises(PermissionError, match="ckpt-6"):
        checkpoint.Checkpoints(saved, trainer).restore()
    assert files(saved.workdir / "checkpoints") == before


def test_a_value_that_is_no_number_is_never_the_best(saved, trainer):
    checkpoints = checkpoint.Checkpoints(saved, trainer)
    (saved.workdir / "best.json").unlink(missing_ok=True)
    for value in (float("nan"), float("inf")):
        assert not checkpoints.save_if_best(7, "psnr", value, True)
    assert checkpoints.best_step is None


def test_a_best_json_with_another_digit_is_refused(saved, trainer):
    checkpoints = checkpoint.Checkpoints(saved, trainer)
    checkpoints.save_if_best(7, "psnr", 99.5, True)
    path = saved.workdir / "best.json"
    path.write_text(path.read_text().replace("99.5", "19.5"))
    with pytest.raises(errors.ArtefactError, match="remove it to choose"):
        _ = checkpoint.Checkpoints(saved, trainer).best_step


def test_a_first_save_that_was_broken_off_begins_again(saved, trainer, caplog):
    folder = saved.workdir / "checkpoints"
    for path in folder.glob("ckpt-*"):
        if not path.name.startswith("ckpt-6.data"):
            path.unlink()
    assert checkpoint.Checkpoints(saved, trainer).restore() == 0
    assert "training begins at step 0" in caplog.text


def test_what_a_save_left_that_was_broken_off_is_removed(saved, trainer):
    leftover = saved.workdir / "checkpoints" / "ckpt-7_temp"
    leftover.mkdir()
    (leftover / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"x")
    checkpoint.Checkpoints(saved, trainer)
    assert not leftover.exists()


def test_a_checkpoint_of_another_network_is_left_alone(saved, trainer):
    """It is whole: what does not fit is the program."""
    wider = methods.override(TINY, ["ngf=8"])
    with pytest.raises(errors.ArtefactError, match="cannot be restored"):
        checkpoint.Checkpoints(saved, steps.Trainer(wider)).restore()
    assert "ckpt-6.index" in files(saved.workdir / "checkpoints")


def test_a_folder_is_locked_while_it_is_trained_in(tmp_path):
    run = open_run(tmp_path / "new" / "run")
    with checkpoint.locked(run):
        with pytest.raises(errors.ResourceError, match="in use by process"):
            with checkpoint.locked(run):
                pass
        # Another process, too, and it is told who.
        told = subprocess.run(
            [
                sys.executable,
                "-c",
                "import fcntl, sys\n"
                "file = open(sys.argv[1])\n"
                "print(file.read())\n"
                "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)",
                run.workdir / ".lock",
            ],
            capture_output=True,
            text=True,
        )
        assert str(os.getpid()) in told.stdout
        assert "BlockingIOError" in told.stderr
    with checkpoint.locked(run):
        pass
    # A run that was killed before it wrote anything is a new one.
    assert open_run(run.workdir).workdir == run.workdir


@pytest.mark.slow
def test_without_its_last_checkpoint_a_run_goes_back_to_the_one_before(saved):
    for name in ("ckpt-6.data-00000-of-00001", "ckpt-6.index"):
        (saved.workdir / "checkpoints" / name).unlink()
    restored = checkpoint.Checkpoints(saved, make_trainer(seed=2)).restore()
    assert restored == 5
    assert checkpoint.load_generator(saved, "last")[1] == 5


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_refused(saved):
    wider = dataclasses.replace(saved, method=methods.override(TINY, ["ngf=8"]))
    with pytest.raises(errors.ArtefactError, match="cannot be restored"):
        checkpoint.load_generator(wider, "last")


@pytest.mark.slow
def test_the_generator_that_validated_best_is_kept(saved, trainer):
    checkpoints = checkpoint.Checkpoints(saved, trainer)
    kernel = trainer.generator.blocks[0].last.kernel
    before = kernel.numpy()
    for step, value, is_best in ((1, 0.5, True), (2, 0.4, False)):
        kernel.assign(np.full_like(before, step))
        kept = checkpoints.save_if_best(step, "ssim", value, True)
        assert kept is is_best
    # After a restart the value to beat is known.
    checkpoints = checkpoint.Checkpoints(saved, trainer)
    assert not checkpoints.save_if_best(3, "ssim", 0.5, True)
    assert checkpoints.save_if_best(4, "mse", 0.1, False)
    checkpoints.save_if_best(4, "ssim", 0.7, True)
    kernel.assign(before)
    best = sealed.read(saved.workdir / "best.json")
    assert best == {"step": 4, "metric": "ssim", "value": 0.7}
    generator, step = checkpoint.load_generator(saved)
    assert step == 4
    assert (generator.blocks[0].last.kernel.numpy() == 2).all()
    assert checkpoint.load_generator(saved, "last")[1] == 6


@pytest.mark.slow
@pytest.mark.parametrize("which", ["best", "last"])
def test_with_averaging_the_averaged_generator_is_the_one_to_use(
    tmp_path, which
):
    method = methods.override(TINY, ["averaging=0.9"])
    run = open_run(tmp_path / "run", method=method)
    trainer = steps.Trainer(method)
    checkpoints = checkpoint.Checkpoints(run, trainer)
    trainer._step.assign(1)
    checkpoints.save(1)
    checkpoints.save_if_best(1, "ssim", 0.5, True)
    generator, _ = checkpoint.load_generator(run, which)
    # Two networks of other random weights, so the wrong one would be seen.
    for found, averaged in zip(
        generator.weights, trainer.averaged.weights, strict=True
    ):
        np.testing.assert_array_equal(found, averaged)


@pytest.mark.slow
def test_without_validation_there_is_a_last_generator_and_no_best(
    saved, trainer
):
    with pytest.raises(errors.ArtefactError, match="no best checkpoint"):
        checkpoint.load_generator(saved, "best")
    generator, step = checkpoint.load_generator(saved, "last")
    assert step == 6
    for ours, theirs in zip(
        generator.weights, trainer.generator.weights, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_run_can_be_moved(saved, tmp_path):
    shutil.move(saved.workdir, tmp_path / "elsewhere")
    run = checkpoint.load_run(tmp_path / "elsewhere")
    assert checkpoint.load_generator(run, "last")[1] == 6
    assert checkpoint.Checkpoints(run, make_trainer(seed=2)).restore() == 6
