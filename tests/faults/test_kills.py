"""Pull the plug: at any moment, the same command goes on as if nothing was.

The children are killed with -9 and started again. What they leave is compared
with a run that nobody touched, to the last bit.
"""

import hashlib
import random
import signal
import time

import pytest
import tensorflow as tf

from medgan_tf import methods, tasks
from medgan_tf.training import checkpoint
from medgan_tf.training import config as configs
from medgan_tf.training import step as steps

pytestmark = [
    pytest.mark.slow,
    pytest.mark.faults,
    pytest.mark.timeout(3600),
]

KILLS = 20
SMALL = ("--set=ngf=4", "--set=ndf=4")
# Style and content of the first layer alone: VGG-19 in a few MB.
ONE_LAYER = (
    "--set=style_layers=block1_conv1",
    "--set=content_layers=block1_conv1",
)
METHODS = {
    "pix2pix_tf": SMALL,  # It has dropout.
    "medgan_1g": (*SMALL, *ONE_LAYER),
}


def arguments(dataset, workdir, method, **flags):
    flags = {
        "task": "mr_ct",
        "data_dir": dataset.folder,
        "workdir": workdir,
        "method": method,
        "vgg_weights": "random",
        "seed": 3,
        "summary_every": 1000,
        "image_every": 1000,
        "validate_every": 1000,
        "validation_slices": 1,
        **flags,
    }
    given = [f"--{name}={value}" for name, value in flags.items()]
    return ["train.py", *given, *METHODS[method]]


def finish(process, seconds=1800):
    """Exit code and standard error."""
    _, told = process.communicate(timeout=seconds)
    return process.returncode, told


def saved_steps(workdir):
    """Steps of the checkpoints that are there, by name."""
    return sorted(
        int(path.stem.rsplit("-", 1)[1])
        for path in (workdir / "checkpoints").glob("ckpt-*.index")
    )


def digest(workdir, step):
    """SHA-256 of all that a checkpoint holds, but for how often it saved."""
    path = str(workdir / "checkpoints" / f"ckpt-{step}")
    reader = tf.train.load_checkpoint(path)
    found = hashlib.sha256()
    for name in sorted(reader.get_variable_to_shape_map()):
        if not name.startswith(("_CHECKPOINTABLE", "save_counter")):
            found.update(name.encode())
            value = reader.get_tensor(name)
            found.update(getattr(value, "tobytes", lambda v=value: v)())
    return found.hexdigest()


def wait_for(condition, process, seconds=1800):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_killed_at_any_step_ends_bit_by_bit_the_same(
    tmp_path, dataset, child, method, precision
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = {
        "max_steps": 40,
        "save_every": 8,
        "precision": precision,
        "deterministic": True,
    }
    code, told = finish(child(*arguments(dataset, whole, method, **flags)))
    assert code == 0, told
    # Between two saves, and anywhere within it.
    draw = random.Random(method)
    process = child(*arguments(dataset, killed, method, **flags))
    wait_for(lambda: 16 in saved_steps(killed), process)
    time.sleep(draw.uniform(0, 0.2))
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    (last,) = saved_steps(killed)[-1:]
    assert last < 40
    process = child(*arguments(dataset, killed, method, **flags))
    code, told = finish(process)
    assert code == 0 and f"going on from step {last}" in told, told
    assert digest(killed, 40) == digest(whole, 40)


# Saves without end. Every weight of a checkpoint is its step, so that one
# which mixes two saves is seen; what was said to be saved must be there.
SAVES = """
import sys

from medgan_tf import methods, tasks
from medgan_tf.data import records
from medgan_tf.training import checkpoint, config, step

dataset = records.open_dataset(sys.argv[1])
method = methods.override(
    methods.METHODS["pix2pix_tf"], ["ngf=8", "ndf=8"]
)
run = checkpoint.open_run(
    sys.argv[2], tasks.TASKS["mr_ct"], method, config.TrainConfig(), dataset
)
with checkpoint.locked(run):
    run.save()
    trainer = step.Trainer(method)
    checkpoints = checkpoint.Checkpoints(run, trainer)
    now = checkpoints.restore()
    weights = trainer.generator.weights + trainer.discriminator.weights
    values = {float(v) for w in weights for v in (w[..., 0].numpy().flat)}
    assert now == 0 or values == {now}, (now, values)
    print("restored", now, flush=True)
    while True:
        now += 1
        trainer._step.assign(now)
        for weight in weights:
            weight.assign(weight * 0 + now)
        checkpoints.save(now)
        print("saved", now, flush=True)
"""


def test_twenty_kills_during_saves_lose_nothing_that_was_saved(
    tmp_path, dataset, child
):
    script = tmp_path / "saves.py"
    script.write_text(SAVES)
    draw = random.Random(0)
    saved = 0
    for _ in range(KILLS):
        process = child(script, dataset.folder, tmp_path / "run")
        line = process.stdout.readline().split()
        assert line, process.communicate()[1]
        # One more where the kill came after the save and before the word.
        assert line[0] == "restored" and saved <= int(line[1]) <= saved + 1
        saved = int(line[1])
        for _ in range(draw.randint(1, 5)):
            saved = int(process.stdout.readline().split()[1])
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        rest, told = process.communicate()
        assert process.returncode == -signal.SIGKILL, told
        assert "damaged" not in told
        lines = [line for line in rest.splitlines() if line[:5] == "saved"]
        saved = int(lines[-1].split()[1]) if lines else saved
    assert not list(tmp_path.rglob("*.corrupt"))


# Exports one version after the other, without end.
EXPORTS = """
import itertools
import pathlib
import sys

from medgan_tf.serving import export
from medgan_tf.training import checkpoint

run = checkpoint.load_run(sys.argv[1])
output = pathlib.Path(sys.argv[2])
for version in itertools.count(1):
    if not (output / str(version)).exists():
        print("export", version, flush=True)
        export.export(
            run, run.restored_task(), output, version=version, which="last"
        )
"""


def test_kills_during_exports_leave_no_version_that_does_not_load(
    tmp_path, dataset, child
):
    workdir, output = tmp_path / "run", tmp_path / "models"
    method = methods.override(methods.METHODS["pix2pix_tf"], ["ngf=4", "ndf=4"])
    run = checkpoint.open_run(
        workdir, tasks.TASKS["mr_ct"], method, configs.TrainConfig(), dataset
    )
    run.save()
    trainer = steps.Trainer(method)
    trainer._step.assign(1)
    checkpoint.Checkpoints(run, trainer).save(1)
    script = tmp_path / "exports.py"
    script.write_text(EXPORTS)
    draw = random.Random(1)

    def begin():
        process = child(script, workdir, output)
        assert process.stdout.readline().startswith("export")
        return process

    # The first is finished, to know how long one takes.
    process = begin()
    start = time.monotonic()
    assert process.stdout.readline() == "export 2\n"
    seconds = time.monotonic() - start
    process.kill()
    for _ in range(KILLS):
        process = begin()
        time.sleep(draw.uniform(0, 1.2 * seconds))
        process.kill()
        process.wait()
    versions = [path for path in output.iterdir() if path.name.isdigit()]
    assert output / "1" in versions
    for folder in versions:
        signatures = tf.saved_model.load(str(folder)).signatures
        assert "serving_default" in signatures
        assert (folder / "MODEL_CARD.md").exists()
        assert (folder / "assets.extra" / "medgan.json").exists()
