"""Names and clocks of a user's machine: spaces, umlauts, jumps in time."""

import os
import time

import pytest

from medgan_tf import errors, methods, tasks
from medgan_tf.data import pipeline, records
from medgan_tf.training import checkpoint
from medgan_tf.training import config as configs
from medgan_tf.training import step as steps

TINY = methods.override(methods.METHODS["pix2pix_tf"], ["ngf=4", "ndf=4"])
# The records are first made in a folder with ".incomplete" behind the name.
NAMES = ["läuft schon (2)", "Zoë & Ann's 50%, {new}", "n" * 244, "-v"]


@pytest.fixture(scope="module")
def trainer():
    return steps.Trainer(TINY, seed=1)


def checkpoints_in(workdir, dataset, trainer):
    config = configs.TrainConfig(vgg_weights="random")
    run = checkpoint.open_run(
        workdir, tasks.TASKS["mr_ct"], TINY, config, dataset
    )
    run.save()
    return checkpoint.Checkpoints(run, trainer)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_may_have_any_name(tmp_path, dataset, trainer, name):
    """Records are read and a run is saved and gone on with."""
    folder = tmp_path / name
    with records.Writer(folder, "mr_ct") as writer:
        for split in ("train", "validation"):
            writer.add(split, dataset.samples(split))
        copy = writer.finish(
            {k: v for k, v in dataset.info.items() if k != "splits"}
        )
    records.check_whole(records.open_dataset(folder))
    batches = pipeline.training_batches(
        copy, batch_size=1, seed=0, jitter_size=256, flip=False
    )
    assert len(list(batches.take(4))) == 4
    workdir = folder / "run"
    for step in (1, 2, 3):
        trainer._step.assign(step)
        checkpoints_in(workdir, copy, trainer).save(step)
    assert checkpoints_in(workdir, copy, trainer).restore() == 3
    assert checkpoint.step_of(checkpoint.load_run(workdir), "last") == 3


def test_steps_and_not_times_say_which_checkpoint_is_the_last(
    tmp_path, dataset, trainer
):
    """A clock may be set back, and a copy has the time of copying."""
    workdir = tmp_path / "run"
    checkpoints = checkpoints_in(workdir, dataset, trainer)
    for step, age in ((1, 0), (2, 10**6), (3, -(10**6))):
        trainer._step.assign(step)
        checkpoints.save(step)
        for path in workdir.rglob(f"ckpt-{step}.*"):
            os.utime(path, (time.time() - age,) * 2)
    trainer._step.assign(0)
    checkpoints = checkpoints_in(workdir, dataset, trainer)
    assert checkpoints.restore() == 3
    checkpoints.save(4)
    kept = {path.name for path in workdir.rglob("ckpt-*.index")}
    assert kept == {"ckpt-3.index", "ckpt-4.index"}


@pytest.mark.parametrize("name", ["run [new]", "run*", "what?", "run\\1"])
def test_a_name_that_tensorflow_reads_as_a_pattern_is_refused(
    tmp_path, dataset, trainer, name
):
    """Or whole checkpoints would be taken for damaged ones."""
    words = "takes for a pattern of names; rename"
    with pytest.raises(errors.ArtefactError, match=words) as caught:
        checkpoints_in(tmp_path / name, dataset, trainer)
    assert caught.value.exit_code == 5 and not list(tmp_path.iterdir())
    # One that was renamed later.
    checkpoints_in(tmp_path / "run", dataset, trainer)
    (tmp_path / "run").rename(tmp_path / name)
    with pytest.raises(errors.ArtefactError, match=words):
        checkpoint.load_run(tmp_path / name)
