"""Algorithm 1 of the paper, line by line.

Within the scope of a `tf.distribute.Strategy` each replica takes its part of
the batch: gradients are summed over replicas, every network stays the same on
all of them, and what depends on weights alone (spectral projection, moving
average) is done once, outside.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable

import keras
import tensorflow as tf

from medgan_tf import errors, fan_out, methods
from medgan_tf.losses import objective
from medgan_tf.models import casnet, discriminator, layers, vgg19
from medgan_tf.training import adam
from medgan_tf.training import skips as skipping

SLICE_SIZE = 256
_GENERATOR = ("generator",)
_DISCRIMINATOR = ("discriminator",)
# What a process holds besides arrays: the program, its libraries and graphs.
# Measured.
TENSORFLOW_BYTES = 800_000_000


class Trainer:
    """Networks, optimizers and one training step of a method.

    To train on several devices, make it within the strategy's scope.

    Attributes:
      method: the row that is trained.
      generator: CasNet.
      averaged: the moving average of its weights as a network of its own, or
        None.
      discriminator: PatchDiscriminator.
      vgg: VGG19Features or None where the method does not use it; frozen.
      generator_optimizer: counts three updates for each discriminator's one.
      discriminator_optimizer: its `iterations` are the steps of a run, but
        for those that were skipped.
      projection: the spectral projection, or None.
      skips: counts the steps that had a number which is not finite. Such an
        update changes nothing.

    Args:
      method: the row.
      source_channels: channels of the source image.
      target_channels: channels of the target image.
      precision: Keras dtype policy; with "mixed_float16" the loss is scaled.
      vgg_weights: see VGG19Features.
      seed: draws all weights.
      xla: compile the whole step, or on several replicas each gradient.
      winograd: see VGG19Features.
      accumulate: parts of a batch whose gradients are added up.
      recompute: see CasNet.
      num_steps: of the whole run, for a learning rate that falls.

    Raises:
      errors.UsageError: a method whose step depends on more than the sum over
        slices, in parts or on several replicas.
    """

    def __init__(
        self,
        method: methods.Method,
        *,
        source_channels: int = 1,
        target_channels: int = 1,
        precision: str = "float32",
        vgg_weights: str = "imagenet",
        seed: int = 0,
        xla: bool = False,
        winograd: bool = False,
        accumulate: int = 1,
        recompute: bool = False,
        num_steps: int = 0,
    ):
        keras.utils.set_random_seed(seed)
        self.method = method
        self._seed = seed
        self._num_steps = num_steps
        self._strategy = tf.distribute.get_strategy()
        self._accumulate = accumulate
        _check_divisible(
            method,
            accumulate,
            self._strategy.num_replicas_in_sync,
            recompute,
            num_steps,
        )
        self.generator = build_generator(
            method, source_channels, target_channels, precision, recompute
        )
        self.discriminator = discriminator.PatchDiscriminator(
            method.discriminator_layers,
            method.ndf,
            dtype=precision,
            spectral=method.spectral_norm == "reparam",
        )
        self.discriminator(
            tf.zeros([1, SLICE_SIZE, SLICE_SIZE, source_channels]),
            tf.zeros([1, SLICE_SIZE, SLICE_SIZE, target_channels]),
        )
        self.vgg = None
        if method.vgg_layers:
            self.vgg = vgg19.VGG19Features(
                method.vgg_layers,
                vgg_weights,
                seed=seed,
                dtype=precision.removeprefix("mixed_"),
                winograd=winograd,
            )
        self.generator_optimizer = _adam(method, self.generator, precision)
        self.discriminator_optimizer = _adam(
            method, self.discriminator, precision
        )
        self._step = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.skips = skipping.Skips()
        self._pace = tf.Variable(1.0, trainable=False)
        self.projection = None
        if method.spectral_norm == "projection":
            self.projection = layers.SpectralProjection(
                self.discriminator.kernels, method.power_iterations, seed
            )
            # Because Algorithm 1 trains the generator first: without this the
            # first three updates would see a discriminator of any scale.
            self.projection()
        if method.spectral_norm == "reparam":
            # The vectors start anywhere; ten steps bring them near.
            self.discriminator.advance(10)
        # Last, so that all other weights are drawn as without it.
        self.averaged = None
        if method.averaging:
            self.averaged = build_generator(
                method, source_channels, target_channels, precision
            )
        # An update sums gradients over replicas, which XLA cannot.
        is_alone = self._strategy.num_replicas_in_sync == 1
        # No `if` or loop in Python looks at a tensor, and AutoGraph would read
        # hundreds of functions to see that: half the time of tracing.
        self.train_step = tf.function(
            self._train_step, autograph=False, jit_compile=xla and is_alone
        )
        self._gradients = tf.function(
            self._gradients_of_parts,
            autograph=False,
            jit_compile=xla and not is_alone,
        )

    @property
    def translator(self) -> casnet.CasNet:
        """The generator that is validated, scored and exported."""
        return self.averaged or self.generator

    @property
    def step(self) -> int:
        """Discriminator steps so far."""
        return int(self._step.numpy())

    @property
    def pace(self) -> float:
        """By which the method's learning rate is multiplied."""
        return float(self._pace.numpy())

    @pace.setter
    def pace(self, value: float) -> None:
        self._pace.assign(value)

    def is_finite(self) -> bool:
        """Whether all that training has changed is."""
        # All is asked before the first answer is waited for.
        are_finite = [
            tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(variable)))
            for variable in (
                *self.generator.trainable_variables,
                *self.discriminator.trainable_variables,
                *self.generator_optimizer.variables,
                *self.discriminator_optimizer.variables,
            )
            if tf.as_dtype(variable.dtype).is_floating
        ]
        return bool(tf.reduce_all(are_finite))

    @property
    def checkpointable(self) -> dict:
        """All that training changes, to be saved and restored together.

        Networks are given as their weights by name, see `named_weights`. Keras
        leaves random states out of a checkpoint too, so they are given here.
        """
        state = {
            "generator": named_weights(self.generator),
            "discriminator": named_weights(self.discriminator),
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
            "step": self._step,
            "skips": self.skips,
            "pace": self._pace,
        }
        if self.averaged:
            state["averaged"] = named_weights(self.averaged)
        if self.projection:
            state["projection"] = self.projection
        if self._random_states:
            state["random_states"] = self._random_states
        return state

    @property
    def _random_states(self) -> list[tf.Variable]:
        """What the Dropout layers draw from."""
        return [
            layer.seed_generator.state.value
            for network in (self.generator, self.averaged)
            if network
            for block in network.blocks
            for layer in block.dropouts
        ]

    @contextlib.contextmanager
    def looking(self):
        """Within it, translating leaves no trace in the training.

        Because dropout draws when an image is shown or scored as well, and
        how often one looks must not change what is learnt.
        """
        before = [state.numpy() for state in self._random_states]
        yield
        for state, value in zip(self._random_states, before, strict=True):
            state.assign(value)

    def memory_bytes(self, batch_size: int) -> int:
        """Estimate of the most memory that training takes.

        TensorFlow itself (on a GPU its host's memory, which is not counted),
        weights, gradients, Adam's two moments and the averaged weights in
        float32, weights and gradients in a lower precision too, VGG-19, and
        three copies of each convolution's output (before norm, after it, after
        the activation), which the backward pass needs.

        Args:
          batch_size: slices per step.
        """
        trained = self.generator.count_params()
        trained += self.discriminator.count_params()
        item = tf.as_dtype(self.generator.compute_dtype).size
        convolutions = 2 * self.discriminator.convolutions
        for block in self.generator.blocks:
            convolutions += block.convolutions
        on_gpu = tf.config.list_physical_devices("GPU")
        total = 4 * 4 * trained + (0 if on_gpu else TENSORFLOW_BYTES)
        if item < 4:
            # Weights and gradients once more, as convolutions have them.
            total += 2 * item * trained
        if self.averaged:
            total += 4 * self.averaged.count_params()
        if self.vgg:
            convolutions += self.vgg.convolutions
            total += item * self.vgg.count_params()
            total += item * self.vgg.count_sums(batch_size)
        return total + 3 * item * batch_size * _num_activations(convolutions)

    @tf.function
    def train_steps(self, batches, count: tf.Tensor) -> dict:
        """So many steps without a look from Python.

        Args:
          batches: iterator over (source, target).
          count: int32 scalar, at least 1.

        Returns:
          The terms of the last step.
        """
        terms = self.train_step(*next(batches))
        for _ in tf.range(count - 1):
            terms = self.train_step(*next(batches))
        return terms

    def _train_step(self, source: tf.Tensor, target: tf.Tensor) -> dict:
        """One sample through Algorithm 1; called as `train_step`.

        Args:
          source: y, float32 [B, 256, 256, C] in [-1, 1]; on several replicas
            what the strategy's distributed data set gives.
          target: x, float32 [B, 256, 256, C] in [-1, 1].

        Returns:
          Float32 scalars: each weighted loss term of the last generator
          update, `generator_total`, each of the discriminator's,
          `discriminator_total`, and the mean probabilities `p_target` and
          `p_translated` that the discriminator gave before its update. The
          last four are absent where there is no adversary.
        """
        self._set_learning_rate()
        if self.method.update_order == "simultaneous":
            replica_step = self._simultaneous_step
        else:
            replica_step = self._alternating_step
        before = self._num_updates()
        terms = self._strategy.run(replica_step, (source, target))
        done = self._num_updates() - before
        # So that a step without an update leaves everything as it was.
        tf.cond(done > 0, self._follow_weights, lambda: None)
        self._step.assign_add(1)
        self.skips.count(
            self._step.value(), done < self.method.updates_per_step
        )
        return {
            name: self._strategy.reduce("mean", value, axis=None)
            for name, value in terms.items()
        }

    def _num_updates(self) -> tf.Tensor:
        """Of both networks, so far."""
        return tf.add_n(
            [
                tf.cast(optimizer.iterations, tf.int64)
                for optimizer in (
                    self.generator_optimizer,
                    self.discriminator_optimizer,
                )
            ]
        )

    def _follow_weights(self) -> None:
        """What comes after the updates of a step, from the weights alone."""
        # Lines 12-13: each weight matrix divided by its spectral norm.
        if self.projection:
            self.projection()
        if self.method.spectral_norm == "reparam":
            self.discriminator.advance(self.method.power_iterations)
        if self.averaged:
            self._average()

    def _alternating_step(self, source, target) -> dict:
        # What depends on the target alone: once per sample.
        compared_with = self._reference(source, target)
        # Lines 2-8: N_G updates of the generator on this sample.
        for _ in range(self.method.generator_updates):
            terms = self._update_generator(source, compared_with)
        if not self.method.uses_discriminator:
            return terms
        # Lines 9-11: one update of the discriminator on a fresh translation.
        translated = self.generator(source)
        terms |= self._update_discriminator(source, target, translated)
        return terms

    @tf.function(autograph=False)
    def stages(self, source: tf.Tensor) -> list[tf.Tensor]:
        """The image after each U-block: [B, 256, 256, C] in [-1, 1] each."""
        return self.translator.stages(source)

    def translate(self, source: tf.Tensor) -> tf.Tensor:
        """G(y): [B, 256, 256, C] in [-1, 1] to the same."""
        return self.stages(source)[-1]

    def _reference(self, source, target) -> objective.Reference:
        features = []
        if self.method.uses_discriminator_features:
            _, features = self.discriminator(source, target)
        target_vgg = self._vgg_features(target)
        style_vgg = target_vgg
        if self.method.style_target == "source":
            style_vgg = self._vgg_features(source)
        return objective.reference(
            self.method, target, features, target_vgg, style_vgg
        )

    def _vgg_features(self, image) -> dict[str, tf.Tensor]:
        return self.vgg(image) if self.vgg else {}

    def _update_generator(self, source, compared_with) -> dict:
        return self._update(_GENERATOR, (source, compared_with))

    def _generator_terms(self, source, compared_with):
        total, terms, _, _ = self._generator_objective(source, compared_with)
        return [total], {**terms, "generator_total": total}

    def _generator_objective(self, source, compared_with):
        """Total, terms, and the discriminator's view of the translation."""
        for_discriminator, for_vgg, translated = fan_out.readers(
            self.generator(source), 3
        )
        logits, features = None, []
        if self.method.uses_discriminator:
            logits, features = self.discriminator(source, for_discriminator)
        total, terms = objective.generator_objective(
            self.method,
            translated,
            logits,
            features,
            self._vgg_features(for_vgg),
            compared_with,
        )
        return total, terms, logits, features

    def _update_discriminator(self, source, target, translated) -> dict:
        # Drawn for the whole batch, so that its parts share nothing; from the
        # step, so that a resumed run draws the same.
        places = tf.random.stateless_uniform(
            [tf.shape(source)[0], 1, 1, 1],
            tf.stack([tf.cast(self._seed, tf.int64), self._step]),
        )
        return self._update(
            _DISCRIMINATOR, (source, target, translated, places)
        )

    def _discriminator_terms(self, source, target, translated, places):
        between = None
        if self.method.adversarial_form == "wgan_gp":
            between = self._gradients_between(
                source, target, translated, places
            )
        total, terms = self._discriminator_objective(
            self.discriminator(source, target),
            self.discriminator(source, translated),
            between,
        )
        return [total], terms

    def _gradients_between(self, source, target, translated, places):
        """Of the discriminator, where `places` (0 to 1) lie between two
        images."""
        image = target + places * (translated - target)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            logits, _ = self.discriminator(source, image)
            # Slices do not touch each other: the sum's gradient is each one's.
            value = tf.reduce_sum(tf.reduce_mean(logits, axis=[1, 2, 3]))
        return tape.gradient(value, image)

    def _discriminator_objective(self, on_target, on_translated, between=None):
        """Total, and the terms with the mean probabilities."""
        total, terms = objective.discriminator_objective(
            self.method,
            on_target[0],
            on_translated[0],
            on_target[1],
            on_translated[1],
            between,
        )
        return total, {
            **terms,
            "discriminator_total": total,
            "p_target": tf.reduce_mean(tf.sigmoid(on_target[0])),
            "p_translated": tf.reduce_mean(tf.sigmoid(on_translated[0])),
        }

    def _simultaneous_step(self, source, target) -> dict:
        """Both gradients from one forward pass, then both updates.

        pix2pix-tensorflow shares the forward pass too. With TensorFlow 1's
        reference variables its generator's backward pass goes through the
        discriminator already updated, which moves a gradient by 0.2 %; with
        resource variables, as here, both see the state before either update.
        """
        return self._update(
            _GENERATOR + _DISCRIMINATOR,
            (source, target, self._reference(source, target)),
        )

    def _simultaneous_terms(self, source, target, compared_with):
        total, terms, logits, features = self._generator_objective(
            source, compared_with
        )
        discriminator_total, discriminator_terms = (
            self._discriminator_objective(
                self.discriminator(source, target), (logits, features)
            )
        )
        terms = {**terms, "generator_total": total, **discriminator_terms}
        return [total, discriminator_total], terms

    def _update(self, names: tuple[str, ...], inputs) -> dict:
        """One update of each network by its own total.

        Args:
          names: of the generator, the discriminator, or both.
          inputs: nested tensors [B, ...] of this replica, as the function that
            gives their totals takes them.

        Returns:
          The terms, mean over the slices of this replica.
        """
        # By name, so that the three updates of the generator are one graph.
        gradients, terms = self._gradients(names, inputs)
        replica = tf.distribute.get_replica_context()
        for name, own in zip(names, gradients, strict=True):
            optimizer, variables = self._trained(name)
            optimizer.apply(replica.all_reduce("sum", own), variables)
        return terms

    def _gradients_of_parts(self, names, inputs):
        """Mean gradients over the parts of a batch, one part after another."""
        shares = self._accumulate * self._strategy.num_replicas_in_sync
        if self._accumulate == 1:
            return self._part_gradients(names, inputs, shares)
        # [B, ...] -> [parts, B / parts, ...]
        parts = tf.nest.map_structure(
            lambda tensor: tf.reshape(
                tensor, [self._accumulate, -1, *tensor.shape[1:]]
            ),
            inputs,
        )

        def compute(index):
            part = tf.nest.map_structure(lambda tensor: tensor[index], parts)
            return self._part_gradients(names, part, shares)

        def add(index, sums):
            return index + 1, tf.nest.map_structure(
                tf.add, sums, compute(index)
            )

        # A loop in the graph: unrolled, the parts would be in memory together.
        _, (gradients, terms) = tf.while_loop(
            lambda index, _: index < self._accumulate,
            add,
            (tf.constant(1), compute(0)),
            parallel_iterations=1,
        )
        return gradients, {n: t / self._accumulate for n, t in terms.items()}

    def _part_gradients(self, names, inputs, shares: int):
        totals_and_terms = {
            _GENERATOR: self._generator_terms,
            _DISCRIMINATOR: self._discriminator_terms,
            _GENERATOR + _DISCRIMINATOR: self._simultaneous_terms,
        }[names]
        trained = [self._trained(name) for name in names]
        with contextlib.ExitStack() as stack:
            tapes = [stack.enter_context(_tape(v)) for _, v in trained]
            totals, terms = totals_and_terms(*inputs)
            scaled = [
                optimizer.scale_loss(total) / shares
                for (optimizer, _), total in zip(trained, totals, strict=True)
            ]
        gradients = [
            tape.gradient(total, variables)
            for tape, total, (_, variables) in zip(
                tapes, scaled, trained, strict=True
            )
        ]
        return gradients, terms

    def _trained(self, name: str):
        """Optimizer and variables of a network."""
        if (name,) == _GENERATOR:
            return self.generator_optimizer, self.generator.trainable_variables
        return (
            self.discriminator_optimizer,
            self.discriminator.trainable_variables,
        )

    def _set_learning_rate(self) -> None:
        rate = self.method.learning_rate * self._pace
        if self.method.learning_rate_decay:
            left = tf.cast(self._num_steps - self._step, tf.float32)
            share = left / (self.method.learning_rate_decay * self._num_steps)
            rate *= tf.clip_by_value(share, 0.0, 1.0)
        for optimizer in (
            self.generator_optimizer,
            self.discriminator_optimizer,
        ):
            inner = getattr(optimizer, "inner_optimizer", optimizer)
            inner.learning_rate.assign(rate)

    def _average(self) -> None:
        """Moves the averaged weights towards the generator's.

        Faster at first, so that the random weights of the start are soon
        forgotten.
        """
        step = tf.cast(self._step + 1, tf.float32)
        decay = tf.minimum(self.method.averaging, step / (step + 9.0))
        for kept, weight in zip(
            self.averaged.weights, self.generator.weights, strict=True
        ):
            kept.assign(weight + decay * (kept - weight))


def build_generator(
    method: methods.Method,
    source_channels: int,
    target_channels: int,
    precision: str = "float32",
    recompute: bool = False,
) -> casnet.CasNet:
    """The generator of a method, its weights made."""
    generator = casnet.CasNet(
        method.num_u_blocks,
        target_channels,
        method.ngf,
        method.bottleneck_norm,
        method.dropout,
        recompute,
        dtype=precision,
    )
    generator.build((1, SLICE_SIZE, SLICE_SIZE, source_channels))
    return generator


def named_weights(network: keras.Model) -> dict[str, tf.Variable]:
    """The weights of a network by their path, for a checkpoint.

    Because a checkpoint of a Keras 3 model passes without a word over layers
    that the model keeps in lists.
    """
    return {weight.path: weight.value for weight in network.weights}


def _num_activations(convolutions: Iterable[keras.Layer]) -> int:
    """Numbers that convolutions give for one slice."""
    shapes = (
        layer.compute_output_shape(layer.get_build_config()["input_shape"])
        for layer in convolutions
    )
    return sum(math.prod(shape[1:]) for shape in shapes)


def _adam(
    method: methods.Method, network: keras.Model, precision: str
) -> keras.optimizers.Optimizer:
    """Section 2.5; beta_2 as in pix2pix-tensorflow."""
    optimizer = adam.FusedAdam(
        method.learning_rate,
        beta_1=method.beta_1,
        beta_2=0.999,
        epsilon=method.epsilon,
    )
    if precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(network.trainable_variables)
    return optimizer


def _check_divisible(
    method: methods.Method,
    accumulate: int,
    replicas: int,
    recompute: bool,
    num_steps: int,
) -> None:
    """Raises where parts of a batch would not add up to the whole."""
    if method.learning_rate_decay and not num_steps:
        raise ValueError("a learning rate that falls needs num_steps.")
    if method.adversarial_form == "wgan_gp" and replicas > 1:
        raise errors.UsageError(
            "adversarial_form=wgan_gp draws a place for each slice of a batch, "
            "so it trains on one device: expected --distribute=none."
        )
    if method.perceptual_margin and accumulate * replicas > 1:
        raise errors.UsageError(
            f"{method.name} has a margin on the whole batch, so it trains on "
            "one device and in one part: expected --distribute=none and "
            "--accumulate=1."
        )
    if method.dropout and (recompute or replicas > 1):
        raise errors.UsageError(
            f"{method.name} has dropout, which would draw anew: expected "
            "--distribute=none and --norecompute, or --set=dropout=0."
        )


@contextlib.contextmanager
def _tape(variables: list[keras.Variable]):
    """A gradient tape that records only what these variables touch."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([v.value for v in variables])
        yield tape
