"""Each row of the table goes the whole way, and can be stopped on it."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tqdm

from medgan_tf import methods, tasks
from medgan_tf.evaluation import evaluate
from medgan_tf.serving import export, predict
from medgan_tf.training import checkpoint, loop
from medgan_tf.training import config as configs
from medgan_tf.training import step as steps

pytestmark = pytest.mark.slow

TASK = tasks.adapted(tasks.TASKS["pet_ct"], voxel_size_mm=(None, None, None))
SMALL = (
    "ngf=2",
    "ndf=2",
    "style_layers=block1_conv1",
    "content_layers=block1_conv1",
    "num_u_blocks=1",
    # A third of the graph; test_step makes three of them.
    "generator_updates=1",
)


@pytest.fixture(scope="module")
def dataset(write_records, tmp_path_factory):
    """A patient to train on, one to validate on and one to test on."""
    folder = tmp_path_factory.mktemp("every") / "data"
    return write_records(folder, ("train", "validation", "test"), "pet_ct")


def arrays(path):
    """Name -> array of all that a checkpoint holds of a training."""
    reader = tf.train.load_checkpoint(str(path))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if not name.startswith(("_CHECKPOINTABLE", "save_counter"))
    }


# With one U-block MedGAN is MedGAN-1G.
@pytest.mark.parametrize("name", [n for n in methods.METHODS if n != "medgan"])
def test_it_trains_goes_on_is_scored_and_exported(name, dataset, tmp_path):
    method = methods.override(methods.METHODS[name], list(SMALL))
    config = configs.TrainConfig(
        max_steps=2, save_every=1, vgg_weights="random", jitter_size=256
    )
    silent = functools.partial(tqdm.tqdm, disable=True)
    workdir = tmp_path / "run"
    run = loop.train(TASK, method, config, dataset, workdir, progress=silent)
    assert checkpoint.load_run(workdir).method == method
    first, last = (
        arrays(workdir / "checkpoints" / f"ckpt-{step}") for step in (1, 2)
    )
    moved = [key for key in first if not np.array_equal(first[key], last[key])]
    assert any(key.startswith("generator/") for key in moved)

    # Whoever goes on has all that was saved.
    other = steps.Trainer(method, vgg_weights="random", seed=9)
    assert checkpoint.Checkpoints(run, other).restore() == 2
    state = tf.train.Checkpoint(**other.checkpointable)
    again = arrays(state.write(tmp_path / "again"))
    assert again.keys() == last.keys()
    for key, value in last.items():
        np.testing.assert_array_equal(again[key], value, key)

    generator, step = checkpoint.load_generator(run, "last")
    assert step == 2
    found = evaluate.score_slices(dataset.samples("test"), generator)
    assert np.isfinite([row.values["mae"] for row in found.rows]).all()

    model = predict.load(export.export(run, TASK, tmp_path / "m", which="last"))
    sample = next(dataset.samples("test"))
    source = (sample.source[None] + 1) * 10  # SUV, of a window of 20.
    answer = model.translate(source=tf.constant(source))["translated"]
    assert answer.shape == (1, 256, 256, 1)
    if not method.dropout:
        expected = (generator(sample.source[None]) + 1) * 1500 - 1000
        np.testing.assert_allclose(answer, expected, atol=0.05)
