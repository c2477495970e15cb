"""Algorithm 1 on small networks: who is updated when, and by what.

Steps run eagerly, where each costs half a second, except in the tests of
the graph, which needs some seconds to be traced.
"""

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import methods
from medgan_tf.losses import pixel, style
from medgan_tf.models import discriminator, u_block, vgg19
from medgan_tf.training import config, step

MEDGAN = (
    "adversarial",
    "perceptual_pixel",
    "perceptual_features",
    "style",
    "content",
)
DISCRIMINATOR = ("discriminator_adversarial",)
TERMS = {
    "cgan": MEDGAN[:1],
    "perceptual": MEDGAN[:3],
    "style_content": ("adversarial", "style", "content"),
    "medgan_1g": MEDGAN,
    "medgan": MEDGAN,
    "pix2pix": ("adversarial", "l1"),
    "pan": ("adversarial", "perceptual_features", "discriminator_margin"),
    "id_cgan": ("adversarial", "content", "l2"),
    "fila_sgan": (
        "adversarial",
        "style",
        "content",
        "l1",
        "total_variation",
    ),
    "pix2pix_tf": ("adversarial", "l1"),
    "supervised": ("l1",),
}


def small(name, *settings):
    """A method's row with few filters and the first layer of VGG-19."""
    smaller = ["ngf=4", "ndf=4"]
    smaller += ["style_layers=block1_conv1", "content_layers=block1_conv1"]
    if name == "medgan":
        smaller.append("num_u_blocks=2")
    return methods.override(methods.METHODS[name], [*smaller, *settings])


def make(name, *settings, **options):
    return step.Trainer(small(name, *settings), vgg_weights="random", **options)


@pytest.fixture(scope="module")
def images():
    """A source and a target: a disc, dark on bright and bright on dark."""
    rows, columns = np.indices([256, 256]) - 128
    disc = np.tanh((80 - np.hypot(rows, columns)) / 20)
    disc = tf.constant(disc[None, ..., None], tf.float32)
    return disc * -0.8, disc * 0.5


@pytest.fixture
def eagerly():
    """Runs functions without tracing them, for as long as a test lasts."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def values(network):
    return [weight.numpy() for weight in network.weights]


def are_equal(first, second):
    return all(map(np.array_equal, first, second))


def norms(trainer):
    """The largest singular value of each kernel of the discriminator."""
    return [
        np.linalg.norm(kernel.numpy().reshape(-1, kernel.shape[-1]), 2)
        for kernel in trainer.discriminator.kernels
    ]


@pytest.mark.slow
def test_an_update_of_the_generator_changes_nothing_else(eagerly, images):
    trainer = make("medgan_1g")
    networks = trainer.generator, trainer.discriminator, trainer.vgg
    before = [values(network) for network in networks]
    trainer._update_generator(images[0], trainer._reference(*images))
    changed = [
        not are_equal(values(network), weights)
        for network, weights in zip(networks, before, strict=True)
    ]
    assert changed == [True, False, False]


def test_an_update_of_the_discriminator_changes_nothing_else(eagerly, images):
    trainer = make("medgan_1g")
    networks = trainer.generator, trainer.discriminator, trainer.vgg
    before = [values(network) for network in networks]
    translated = trainer.generator(images[0])
    trainer._update_discriminator(*images, translated)
    trainer.projection()
    changed = [
        not are_equal(values(network), weights)
        for network, weights in zip(networks, before, strict=True)
    ]
    assert changed == [False, True, False]


@pytest.mark.parametrize(
    ("name", "giver"), [("medgan_1g", "target"), ("fila_sgan", "source")]
)
def test_style_is_taken_from_the_image_the_method_names(images, name, giver):
    trainer = make(name, "ngf=1")
    given = dict(zip(("source", "target"), images, strict=True))
    features = trainer.vgg(given[giver])["block1_conv1"]
    reference = trainer._reference(*images)
    np.testing.assert_allclose(
        reference.style_grams[0], style.gram_matrix(features), rtol=1e-5
    )
    np.testing.assert_allclose(
        reference.content_features[0],
        trainer.vgg(given["target"])["block1_conv1"],
        rtol=1e-5,
    )


@pytest.mark.slow
def test_the_discriminator_learns_from_a_fresh_translation(eagerly, images):
    """Line 10 translates again, after the three updates."""
    trainer = make("pix2pix", "learning_rate=0.01")
    generator = trainer.generator.get_weights()
    discriminator = trainer.discriminator.get_weights()
    told = float(trainer.train_step(*images)["p_translated"])

    def probability():
        logits, _ = trainer.discriminator(
            images[0], trainer.generator(images[0])
        )
        return float(tf.reduce_mean(tf.sigmoid(logits)))

    trainer.discriminator.set_weights(discriminator)
    fresh = probability()
    trainer.generator.set_weights(generator)
    stale = probability()
    assert told == pytest.approx(fresh, abs=1e-6)
    assert abs(told - stale) > 1e-4


@pytest.mark.slow
def test_the_same_seed_gives_bit_equal_losses(eagerly, images):
    told = []
    for seed in (5, 5, 6):
        trainer = make("medgan_1g", "generator_updates=1", seed=seed)
        terms = trainer.train_step(*images)
        told.append({name: float(value) for name, value in terms.items()})
    assert told[0] == told[1]
    assert told[0]["generator_total"] != told[2]["generator_total"]


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_makes_a_step_and_tells_its_terms(eagerly, images, name):
    trainer = make(name)
    told = {n: float(v) for n, v in trainer.train_step(*images).items()}
    totals = {"generator_total", "discriminator_total"}
    adversary = {*DISCRIMINATOR, *totals, "p_target", "p_translated"}
    if name == "supervised":
        adversary = totals = {"generator_total"}
    assert set(told) == {*TERMS[name], *adversary}
    assert all(np.isfinite(value) for value in told.values())
    for total, is_in in (
        ("discriminator_total", lambda n: n.startswith("discriminator_")),
        ("generator_total", lambda n: not n.startswith(("d", "p_"))),
    ):
        if total not in totals:
            continue
        parts = sum(v for n, v in told.items() if is_in(n) and n not in totals)
        assert told[total] == pytest.approx(parts, rel=1e-5)
    for probability in {"p_target", "p_translated"} & set(told):
        assert 0 < told[probability] < 1
    assert trainer.step == 1
    updates = 1 if name in ("pix2pix_tf", "supervised") else 3
    assert int(trainer.generator_optimizer.iterations) == updates
    assert (trainer.vgg is None) == (not trainer.method.vgg_layers)


@pytest.mark.slow
def test_pix2pix_tf_takes_both_gradients_before_either_update(eagerly, images):
    """Its discriminator does not see what the generator learns meanwhile."""
    settings = "dropout=0", "learning_rate=0.01"
    trainer = make("pix2pix_tf", *settings)
    told = float(trainer.train_step(*images)["p_translated"])
    after = trainer.discriminator.get_weights()
    again = make("pix2pix_tf", *settings)
    translated = again.generator(images[0])
    logits, _ = again.discriminator(images[0], translated)
    assert told == pytest.approx(
        float(tf.reduce_mean(tf.sigmoid(logits))), abs=1e-6
    )
    again._update_discriminator(*images, translated)
    assert trainer.projection is None
    for found, expected in zip(
        after, again.discriminator.get_weights(), strict=True
    ):
        # Adam's first step is 0.01 whatever the gradient; biases before a
        # norm have gradients of pure rounding.
        if found.ndim == 4:
            np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
def test_bfloat16_agrees_with_float32_and_keeps_float32_weights(
    eagerly, images
):
    trainer = make("medgan_1g")
    exact = trainer.train_step(*images)
    trainer = make("medgan_1g", precision="mixed_bfloat16")
    rough = trainer.train_step(*images)
    assert {value.dtype for value in rough.values()} == {tf.float32}
    trained = (
        trainer.generator.weights
        + trainer.discriminator.weights
        + trainer.generator_optimizer.variables[2:]
    )
    assert {str(variable.dtype) for variable in trained} == {"float32"}
    for name, value in exact.items():
        # 8 bits are 0.4 %; three updates and twenty layers add theirs.
        assert float(rough[name]) == pytest.approx(float(value), rel=0.03), name


@pytest.mark.slow
def test_projection_comes_before_the_first_step_and_leaves_biases_alone():
    projected = make("cgan", "power_iterations=200")
    plain = make("cgan", "spectral_norm=none")
    assert plain.projection is None
    np.testing.assert_allclose(norms(projected), 1, atol=1e-3)
    assert max(norms(plain)) < 0.9
    kernels = {id(kernel) for kernel in projected.discriminator.kernels}
    for ours, theirs in zip(
        projected.discriminator.weights,
        plain.discriminator.weights,
        strict=True,
    ):
        if id(ours) not in kernels:
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert are_equal(values(projected.generator), values(plain.generator))


@pytest.mark.slow
def test_the_last_of_the_stages_is_the_translation(eagerly, images):
    trainer = make("medgan")
    first, last = trainer.stages(images[0])
    np.testing.assert_array_equal(last, trainer.generator(images[0]))
    np.testing.assert_array_equal(last, trainer.translate(images[0]))
    np.testing.assert_array_equal(last, trainer.generator.blocks[1](first))


@pytest.mark.slow
def test_what_training_changes_is_named_for_the_checkpoint():
    state = make("pix2pix_tf").checkpointable
    assert len(state["random_states"]) == 3
    assert "projection" not in state
    state = make("cgan").checkpointable
    assert set(state) == {
        "generator",
        "discriminator",
        "generator_optimizer",
        "discriminator_optimizer",
        "step",
        "skips",
        "pace",
        "projection",
    }


def test_the_average_of_the_weights_leaves_the_training_as_it_is(
    eagerly, images
):
    plain, averaging = make("cgan"), make("cgan", "averaging=0.75")
    for trainer in (plain, averaging):
        trainer.train_step(*images)
    assert are_equal(values(plain.generator), values(averaging.generator))
    assert are_equal(
        values(plain.discriminator), values(averaging.discriminator)
    )


def test_the_average_follows_the_weights_and_is_what_translates(
    eagerly, images
):
    trainer = make("cgan", "averaging=0.75")
    assert trainer.translator is trainer.averaged
    expected = values(trainer.averaged)
    # Step 1: a tenth of the old average stays, step 2: two elevenths; the
    # decay is reached at step 27, where 27 / 36 = 0.75.
    for step_number, decay in ((1, 1 / 10), (2, 2 / 11), (27, 0.75)):
        trainer._step.assign(step_number - 1)
        trainer.train_step(*images)
        expected = [
            decay * old + (1 - decay) * new
            for old, new in zip(
                expected, values(trainer.generator), strict=True
            )
        ]
        for found, wanted in zip(
            values(trainer.averaged), expected, strict=True
        ):
            np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_array_equal(
        trainer.translate(images[0]), trainer.averaged(images[0])
    )
    assert "averaged" in trainer.checkpointable


def test_the_estimate_of_memory_counts_every_convolution():
    features = vgg19.VGG19Features(("block2_conv1",))
    # Two of 64 filters at 256 x 256 and one of 128 at 128 x 128.
    expected = 2 * 256**2 * 64 + 128**2 * 128
    assert step._num_activations(features.convolutions) == expected
    judge = discriminator.PatchDiscriminator(ndf=4)
    judge(*[tf.zeros([1, 256, 256, 1])] * 2)
    expected = 128**2 * 4 + 127**2 * 8 + 126**2
    assert step._num_activations(judge.convolutions) == expected
    block = u_block.UBlock(ngf=1)
    block.build((1, 256, 256, 1))
    # Filters at each side, on the way down, up, or on both.
    filters = {128: 2, 64: 4, 32: 8, 16: 16, 8: 16, 4: 16, 2: 16, 1: 8}
    expected = sum(side**2 * number for side, number in filters.items())
    assert step._num_activations(block.convolutions) == expected + 256**2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "bytes_of_a_weight"),
    # Weights, gradients and Adam's two moments in float32; weights and
    # gradients in bfloat16.
    [("float32", 16), ("mixed_bfloat16", 20)],
)
def test_the_estimate_of_memory_grows_with_the_batch(
    precision, bytes_of_a_weight
):
    trainer = make("cgan", precision=precision)
    one, two, three = (trainer.memory_bytes(n) for n in (1, 2, 3))
    assert one < two and three - two == two - one
    weights = trainer.generator.count_params()
    weights += trainer.discriminator.count_params()
    expected = bytes_of_a_weight * weights
    if not tf.config.list_physical_devices("GPU"):
        expected += step.TENSORFLOW_BYTES
    assert 2 * one - two == expected


class Counted:
    """A network that counts how often it is called."""

    def __init__(self, network):
        self._network = network
        self.num_calls = 0

    def __call__(self, *images):
        self.num_calls += 1
        return self._network(*images)

    def __getattr__(self, name):
        return getattr(self._network, name)


@pytest.fixture(scope="module")
def trained(images):
    """MedGAN-1G after 25 steps in a graph on one pair of images."""
    trainer = make("medgan_1g", "learning_rate=0.002")
    trainer.vgg = Counted(trainer.vgg)
    trainer.discriminator = Counted(trainer.discriminator)
    before = pixel.l1_loss(trainer.generator(images[0]), images[1])
    vgg = values(trainer.vgg)
    steps = [trainer.train_step(*images) for _ in range(25)]
    after = pixel.l1_loss(trainer.generator(images[0]), images[1])
    return trainer, steps, (float(before), float(after)), vgg


@pytest.mark.slow
def test_three_updates_of_the_generator_go_to_one_of_the_other(trained):
    trainer = trained[0]
    assert int(trainer.generator_optimizer.iterations) == 3 * 25
    assert int(trainer.discriminator_optimizer.iterations) == 25
    assert trainer.step == 25


@pytest.mark.slow
def test_training_on_one_pair_of_images_brings_the_translation_nearer(trained):
    _, steps, (before, after), _ = trained
    assert after < before / 2
    assert all(np.isfinite(float(v)) for told in steps for v in told.values())


@pytest.mark.slow
def test_what_depends_on_the_target_alone_is_computed_once_a_sample(trained):
    """Calls while tracing, where the update of the generator is traced once.

    VGG-19: target; translation. Discriminator: target; translation; target
    and fresh translation in its own update.
    """
    trainer = trained[0]
    assert trainer.vgg.num_calls == 2
    assert trainer.discriminator.num_calls == 4


@pytest.mark.slow
def test_vgg_is_the_same_bit_by_bit_after_training(trained):
    trainer, _, _, before = trained
    assert are_equal(values(trainer.vgg), before)


@pytest.mark.slow
def test_kernels_of_the_discriminator_stay_at_norm_one(trained):
    """One power iteration a step follows the kernels as they change."""
    np.testing.assert_allclose(norms(trained[0]), 1, atol=0.05)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"save_every": -1}, "save_every must be at least 1"),
        ({"jitter_size": 255}, "jitter_size must be at least 256"),
        ({"precision": "float16"}, "one of auto, float32, mixed_bfloat16"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        config.TrainConfig(**options)


def test_the_papers_schedule_counts_steps_of_the_discriminator():
    """200 epochs of 1,935 slices (Section 3.1.1)."""
    assert config.TrainConfig().num_steps(1935) == 387_000
    assert config.TrainConfig(max_steps=10).num_steps(1935) == 10
    assert config.TrainConfig(epochs=1, max_steps=10).num_steps(4) == 4
