"""Without room, or without permission, work ends in one line and stays whole.

The disk is a few MB of memory where the tests may mount one, else files may
not grow beyond as much.
"""

import contextlib
import json
import os
import pathlib
import resource
import tempfile

import numpy as np
import pytest

from medgan_tf import errors, methods, tasks
from medgan_tf.data import io, manifest, pairs, prepare, records
from medgan_tf.data import volume as volumes
from medgan_tf.training import checkpoint, loop, summaries
from medgan_tf.training import config as configs
from medgan_tf.training import step as steps

MB = 2**20
MR_CT = tasks.TASKS["mr_ct"]
TINY = methods.override(methods.METHODS["pix2pix_tf"], ["ngf=4", "ndf=4"])


@pytest.fixture(scope="module")
def trainer():
    return steps.Trainer(TINY, seed=1)


def open_run(workdir, dataset):
    config = configs.TrainConfig(vgg_weights="random")
    return checkpoint.open_run(workdir, MR_CT, TINY, config, dataset)


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def no_network(*_, **__):
    raise AssertionError("the networks were built")


def file_in_place(folder):
    folder.touch()


def file_above(folder):
    folder.parent.mkdir()
    folder.parent.rmdir()
    folder.parent.touch()


def unwritable(folder):
    folder.mkdir(mode=0o555)


@pytest.mark.parametrize(
    "fault", [file_in_place, file_above, unwritable], ids=lambda f: f.__name__
)
def test_a_run_folder_that_cannot_be_written_is_told_before_the_networks(
    tmp_path, dataset, monkeypatch, fault
):
    workdir = tmp_path / "runs" / "1"
    if fault is not file_above:
        workdir.parent.mkdir()
    fault(workdir)
    if fault is unwritable and os.access(workdir, os.W_OK):
        # Root may write anywhere.
        def refuse(dir, **_):
            raise PermissionError(13, "Permission denied", str(dir))

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(steps, "Trainer", no_network)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(errors.ResourceError, match="cannot be written") as info:
        loop.train(
            MR_CT,
            TINY,
            configs.TrainConfig(),
            dataset,
            workdir,
            progress=None,
        )
    assert info.value.exit_code == 6 and str(workdir) in str(info.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_trying_to_write_leaves_no_folder(tmp_path, dataset):
    open_run(tmp_path / "new" / "er" / "run", dataset)
    assert list(tmp_path.iterdir()) == []


def leave(disk, num_bytes):
    """Leaves so much room on a small disk; returns what gives it back."""
    state = os.statvfs(disk)
    room = state.f_bavail * state.f_frsize
    if room > 64 * MB:
        # It is none: files may not grow instead.
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    filler = disk / "filler"
    filler.write_bytes(bytes(room - num_bytes))
    return filler.unlink


def test_a_disk_that_fills_up_during_a_save_costs_that_save_alone(
    small_disk, dataset, trainer
):
    with small_disk(6 * MB) as disk:
        run = open_run(disk / "run", dataset)
        run.save()
        checkpoints = checkpoint.Checkpoints(run, trainer)
        trainer._step.assign(1)
        checkpoints.save(1)
        before = files(disk)
        size = sum(path.stat().st_size for path in disk.rglob("ckpt-1.*"))
        assert MB < size < 5 * MB
        filler = leave(disk, size // 2)
        with pytest.raises(errors.ResourceError, match="step 2 .*free") as info:
            checkpoints.save(2)
        assert info.value.exit_code == 6 and "\n" not in str(info.value)
        filler()
        assert files(disk) == before
        assert not list(disk.rglob("*_temp"))
        assert checkpoint.Checkpoints(run, trainer).restore() == 1


def test_a_disk_that_fills_up_during_training_is_told_within_an_interval(
    small_disk,
):
    """TensorBoard's writer loses events without a word."""
    with small_disk(64 * 1024) as disk:
        log = summaries.Summaries(disk)
        values = {f"loss/{k}": 0.123456789 for k in range(99)}
        with pytest.raises(errors.ResourceError, match="be written") as info:
            for step in range(1, 99):
                log.scalars("train", step, values)
        assert info.value.exit_code == 6 and "\n" not in str(info.value)
        with contextlib.suppress(errors.ResourceError):
            log.close()
        lines = (disk / "metrics.jsonl").read_text().splitlines()
        # All before are there; the one that is told may be cut.
        told = [json.loads(line)["step"] for line in lines[: step - 1]]
        assert told == list(range(1, step))


def test_a_disk_that_fills_up_during_a_preparation_leaves_no_data_set(
    small_disk, study
):
    task = tasks.adapted(MR_CT, voxel_size_mm=(None, None, None))
    studies = [
        manifest.Study(name, study.sources, study.target)
        for name in ("ann", "bob", "cem")
    ]
    split = {"train": ["ann", "bob", "cem"], "validation": [], "test": []}
    with small_disk(24 * 1024) as disk:
        with pytest.raises((errors.ResourceError, OSError)) as info:
            prepare.prepare(task, studies, disk / "data", split=split)
        assert "\n" not in str(info.value)
        assert not (disk / "data").exists()
        left = [name for name in files(disk) if not name.startswith(".")]
        # What is left is whole, for the next attempt to take over.
        for name in left:
            assert name.endswith((".json", ".tfrecord"))
            if name.endswith(".json"):
                path = disk / "data.incomplete" / name
                facts = json.loads(path.read_text())
                shard = path.with_suffix(f".{records.SHARD_SUFFIX}")
                assert records.is_whole(shard, facts["shard"])


def test_a_disk_that_fills_up_during_a_translation_leaves_no_image(small_disk):
    noise = np.random.default_rng(0).normal(size=(64, 64, 16))
    volume = volumes.Volume(noise.astype(np.float32), np.eye(4))
    with small_disk(64 * 1024) as disk:
        with pytest.raises(errors.ResourceError, match="out.nii.gz"):
            io.write_volume(disk / "out.nii.gz", volume)
        assert files(disk) == []


def test_a_lock_says_who_holds_it(tmp_path, dataset):
    run = open_run(tmp_path / "run", dataset)
    with checkpoint.locked(run):
        with pytest.raises(errors.ResourceError) as info:
            with checkpoint.locked(open_run(tmp_path / "run", dataset)):
                pass
    assert info.value.exit_code == 6
    for words in (f"in use by process {os.getpid()} on ", "wait for it"):
        assert words in str(info.value)
    assert pathlib.Path(run.workdir).is_dir()


def test_a_preparation_tells_a_folder_of_its_own(tmp_path):
    (tmp_path / "file").touch()
    options = pairs.Options()
    with pytest.raises(errors.ResourceError, match="cannot be made"):
        prepare.prepare(
            MR_CT, [0], tmp_path / "file" / "data", split={}, options=options
        )
