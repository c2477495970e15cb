"""Every way to take a step gives what the plain float32 step gives.

A large epsilon keeps Adam from dividing noise by noise: its first updates are
of one size however small the gradient.
"""

import json
import os
import pickle
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import errors, methods
from medgan_tf.models import casnet
from medgan_tf.training import step

SMALL = (
    "ngf=4",
    "ndf=4",
    "generator_updates=1",
    "epsilon=1e-3",
    "style_layers=block1_conv1",
    "content_layers=block1_conv1",
)
# With the first convolution that Winograd's method makes.
WIDE = (*SMALL[:-1], "content_layers=block2_conv2")


def make(name="medgan_1g", settings=SMALL, **options):
    row = methods.override(methods.METHODS[name], list(settings))
    return step.Trainer(row, vgg_weights="random", **options)


def images(batch_size=2):
    draw = np.random.default_rng(0).uniform(-1, 1, (2, batch_size, 256, 256, 1))
    return tf.constant(draw, tf.float32)


def state(trainer):
    """Weights, spectral vectors and terms after two steps."""
    source, target = images()
    for _ in range(2):
        terms = trainer.train_step(source, target)
    variables = [*trainer.generator.weights, *trainer.discriminator.weights]
    if trainer.projection:
        variables += trainer.projection.vectors
    terms = {name: float(value) for name, value in terms.items()}
    return [np.array(v) for v in variables], terms


def all_state(trainer):
    """Name -> array of all that a checkpoint holds, but for the counters."""
    found = {
        f"{name}_{variable.path}": variable.numpy()
        for name, optimizer in (
            ("generator", trainer.generator_optimizer),
            ("discriminator", trainer.discriminator_optimizer),
        )
        for variable in optimizer.variables
    }
    for network in (
        trainer.generator,
        trainer.discriminator,
        trainer.averaged,
    ):
        for variable in network.weights if network else ():
            found[f"{network.name}/{variable.path}"] = variable.numpy()
    if trainer.projection:
        for index, vector in enumerate(trainer.projection.vectors):
            found[f"u_{index}"] = vector.numpy()
    return found


def assert_same(found, plain, tolerance):
    for ours, theirs in zip(found[0], plain[0], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)
    for name, value in plain[1].items():
        assert found[1][name] == pytest.approx(value, rel=30 * tolerance)


@pytest.fixture(scope="module")
def plain():
    trainer = make()
    found = state(trainer)
    # Nothing is traced again after the first step.
    assert trainer.train_step.experimental_get_tracing_count() == 1
    return found


@pytest.fixture(scope="module")
def wide():
    return state(make(settings=WIDE))


def assert_skips(trainer):
    """A batch that is not finite changes no weight; the next one trains on."""
    source, target = images()
    first = trainer.step
    before = all_state(trainer)
    hole = tf.one_hot([7, 9], 256)[:, None, :, None] * np.float32(np.nan)
    for bad in ((source + hole, target), (source, target + hole)):
        trainer.train_step(*bad)
    # The step counts all the same: it is the place in the data.
    assert trainer.step == first + 2
    assert trainer.skips.steps == [first + 1, first + 2]
    assert (trainer.skips.total, trainer.skips.in_a_row) == (2, 2)
    after = all_state(trainer)
    assert after.keys() == before.keys()
    changed = {n for n in after if not np.array_equal(after[n], before[n])}
    # A loss scale is lowered by what overflows.
    assert all(n.endswith(("dynamic_scale", "step_counter")) for n in changed)
    trainer.train_step(source, target)
    assert trainer.skips.in_a_row == 0
    assert trainer.is_finite()


# The average follows the weights and changes none.
AVERAGED = (*SMALL, "averaging=0.9")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"accumulate": 2, "recompute": True}, 1e-6),
        ({"xla": True}, 1e-6),
        ({"precision": "mixed_bfloat16"}, 1e-3),
    ],
)
def test_every_way_is_the_same_step_and_leaves_out_what_is_not_finite(
    plain, options, tolerance
):
    trainer = make(settings=AVERAGED, **options)
    found = state(trainer)
    assert_same(found, plain, tolerance)
    assert all(array.dtype == np.float32 for array in found[0])
    assert_skips(trainer)


@pytest.mark.slow
def test_a_step_with_winograds_convolutions_is_the_same(wide):
    trainer = make(settings=WIDE, winograd=True)
    assert_same(state(trainer), wide, 1e-5)
    assert trainer.train_step.experimental_get_tracing_count() == 1


@pytest.mark.slow
def test_float16_stays_near_and_skips_an_update_that_overflows(plain):
    trainer = make(settings=AVERAGED, precision="mixed_float16")
    assert_same(state(trainer), plain, 1e-3)
    assert_skips(trainer)
    optimizer = trainer.generator_optimizer
    optimizer.dynamic_scale.assign(1e30)
    before = trainer.generator.get_weights()
    trainer.train_step(*images())
    for weight, kept in zip(
        trainer.generator.get_weights(), before, strict=True
    ):
        np.testing.assert_array_equal(weight, kept)
    assert float(optimizer.dynamic_scale) == pytest.approx(1e30 / 2)
    # Two steps before, one after those that were left out.
    assert int(optimizer.iterations) == 3
    assert trainer.step == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "options"),
    [
        ("medgan_1g", (*AVERAGED, "spectral_norm=reparam"), {"accumulate": 2}),
        ("pix2pix_tf", ("ngf=4", "ndf=4", "dropout=0"), {}),
    ],
)
def test_a_batch_that_is_not_finite_changes_no_weight(name, settings, options):
    trainer = make(name, settings, **options)
    trainer.train_step(*images())
    assert_skips(trainer)


def test_a_weight_that_is_not_finite_is_found():
    trainer = make("cgan", ("ngf=4", "ndf=4"))
    assert trainer.is_finite()
    bias = trainer.generator.trainable_variables[-1]
    bias.assign(bias * 0 + np.inf)
    assert not trainer.is_finite()


@pytest.mark.slow
def test_several_steps_at_once_are_the_same_steps(plain):
    trainer = make()
    source, target = images()
    batches = iter(tf.data.Dataset.from_tensors((source, target)).repeat())
    trainer.train_steps(batches, tf.constant(2))
    assert trainer.step == 2
    weights = [*trainer.generator.weights, *trainer.discriminator.weights]
    for ours, theirs in zip(weights, plain[0], strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_recomputed_blocks_have_the_same_gradient():
    source = images(1)[0]
    gradients = []
    for recompute in (False, True):
        keras.utils.set_random_seed(0)
        network = casnet.CasNet(2, ngf=1, recompute=recompute)
        network(source)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(source) ** 2)
        gradients.append(tape.gradient(loss, network.trainable_variables))
    for kept, again in zip(*gradients, strict=True):
        np.testing.assert_allclose(again, kept, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("pan", {"accumulate": 2}, "margin on the whole batch"),
        ("pix2pix_tf", {"recompute": True}, "dropout, which would draw anew"),
    ],
)
def test_what_does_not_add_up_is_refused(name, options, words):
    with pytest.raises(errors.UsageError, match=words):
        make(name, ["ngf=1", "ndf=1"], **options)


MIRRORED = """
import sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)
sys.path.insert(0, sys.argv[1])
import pickle
import test_ways
from medgan_tf.training import runtime
with open(sys.argv[2], "rb") as file:
    plain, wide = pickle.load(file)
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
for settings, options, expected, tolerance in (
    (test_ways.SMALL, {}, plain, 1e-6),
    (test_ways.SMALL, {"xla": True}, plain, 1e-6),
    (test_ways.WIDE, {"winograd": True}, wide, 1e-5),
):
    strategy = runtime.strategy("mirrored")
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        trainer = test_ways.make(settings=settings, **options)
    whole = test_ways.images()
    half = [
        strategy.experimental_distribute_values_from_function(
            lambda c: image[c.replica_id_in_sync_group :][:1]
        )
        for image in whole
    ]
    test_ways.images = lambda: half
    found = test_ways.state(trainer)
    test_ways.images = lambda: whole
    test_ways.assert_same(found, expected, tolerance)
    assert trainer.step == 2
    before = test_ways.all_state(trainer)
    # One replica's share is not finite.
    hole = strategy.experimental_distribute_values_from_function(
        lambda c: tf.constant([0.0, float("nan")])[c.replica_id_in_sync_group]
    )
    source = strategy.run(tf.add, (half[0], hole))
    trainer.train_step(source, half[1])
    assert trainer.skips.total == 1
    for name, kept in test_ways.all_state(trainer).items():
        test_ways.np.testing.assert_array_equal(kept, before[name])
print("same")
"""


@pytest.mark.slow
def test_two_devices_with_half_the_batch_each_are_one_with_all_of_it(
    plain, wide, tmp_path
):
    expected = tmp_path / "expected"
    expected.write_bytes(pickle.dumps((plain, wide)))
    done = subprocess.run(
        [
            *(sys.executable, "-c", MIRRORED),
            *(os.path.dirname(__file__), str(expected)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.strip() == "same", done.stderr[-2000:]


def _ports(count):
    """Ports that are free now."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _last_terms(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {
        name: value
        for name, value in rows[-2].items()
        if name.startswith("loss/")
    }


@pytest.mark.slow
@pytest.mark.faults
def test_two_processes_train_as_one(tmp_path):
    """Over loopback; the second one writes nothing."""
    command = [
        *(sys.executable, "-m", "medgan_tf.tools.train"),
        *(f"--set={setting}" for setting in SMALL),
        *("--task=pet_denoise", "--method=medgan_1g", "--vgg_weights=random"),
        *("--max_steps=4", "--batch_size=2", "--precision=float32"),
        "--steps_per_execution=2",
    ]
    alone = [*command, f"--workdir={tmp_path / 'one'}", "--num_phantoms=3"]
    subprocess.run(alone, check=True, capture_output=True, timeout=300)
    (data,) = tmp_path.glob("pet_denoise_phantoms*")
    cluster = {"worker": [f"localhost:{port}" for port in _ports(2)]}
    workers = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = {"cluster": cluster, "task": task}
        where = f"--data_dir={data}", f"--workdir={tmp_path / 'two'}"
        workers.append(
            subprocess.Popen(
                [*command, *where],
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
        )
    said = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    assert "follows the chief" in said[1]
    expected = _last_terms(tmp_path / "one")
    assert _last_terms(tmp_path / "two") == pytest.approx(expected, rel=1e-4)
