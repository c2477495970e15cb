"""Algorithm 1 of the paper, line by line."""

from __future__ import annotations

import contextlib

import keras
import tensorflow as tf

from medgan_tf import methods
from medgan_tf.losses import objective
from medgan_tf.models import casnet, discriminator, layers, vgg19
from medgan_tf.training import adam

SLICE_SIZE = 256
# |output| above this counts as saturated: the tanh's slope is below 0.02.
SATURATED_ABOVE = 0.99


class Trainer:
    """Networks, optimizers and one training step of a method.

    Attributes:
      method: the row that is trained.
      generator: CasNet.
      averaged: the moving average of its weights as a network of its own, or
        None.
      discriminator: PatchDiscriminator.
      vgg: VGG19Features or None where the method does not use it; frozen.
      generator_optimizer: counts three updates for each discriminator's one.
      discriminator_optimizer: its `iterations` are the steps of a run.
      projection: the spectral projection, or None.

    Args:
      method: the row.
      source_channels: channels of the source image.
      target_channels: channels of the target image.
      precision: "float32" or "mixed_bfloat16".
      vgg_weights: see VGG19Features.
      seed: draws all weights.
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
    ):
        keras.utils.set_random_seed(seed)
        self.method = method
        self.generator = build_generator(
            method, source_channels, target_channels, precision
        )
        self.discriminator = discriminator.PatchDiscriminator(
            method.discriminator_layers, method.ndf, dtype=precision
        )
        self._source = tf.zeros([1, SLICE_SIZE, SLICE_SIZE, source_channels])
        self._target = tf.zeros([1, SLICE_SIZE, SLICE_SIZE, target_channels])
        self.discriminator(self._source, self._target)
        self.vgg = None
        if method.vgg_layers:
            self.vgg = vgg19.VGG19Features(
                method.vgg_layers,
                vgg_weights,
                seed=seed,
                dtype=precision.removeprefix("mixed_"),
            )
        self.generator_optimizer = _adam(method, self.generator)
        self.discriminator_optimizer = _adam(method, self.discriminator)
        self.projection = None
        if method.spectral_norm == "projection":
            self.projection = layers.SpectralProjection(
                self.discriminator.kernels, method.power_iterations, seed
            )
            # Because Algorithm 1 trains the generator first: without this the
            # first three updates would see a discriminator of any scale.
            self.projection()
        # Last, so that all other weights are drawn as without it.
        self.averaged = None
        if method.averaging:
            self.averaged = build_generator(
                method, source_channels, target_channels, precision
            )

    @property
    def translator(self) -> casnet.CasNet:
        """The generator that is validated, scored and exported."""
        return self.averaged or self.generator

    @property
    def step(self) -> int:
        """Discriminator steps so far."""
        return int(self.discriminator_optimizer.iterations)

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
        """Estimate of the memory that a training step takes.

        Weights, gradients, Adam's two moments and the averaged weights in
        float32, VGG-19, and three copies of each convolution's output (before
        norm, after it, after the activation), which the backward pass needs.

        Args:
          batch_size: slices per step.
        """
        trained = self.generator.count_params()
        trained += self.discriminator.count_params()
        item = tf.as_dtype(self.generator.compute_dtype).size
        networks = [(self.generator, self._source)]
        networks += [(self.discriminator, self._source, self._target)] * 2
        total = 4 * 4 * trained
        if self.averaged:
            total += 4 * self.averaged.count_params()
        if self.vgg:
            networks.append((self.vgg, self._target))
            total += item * self.vgg.count_params()
        activations = sum(_num_activations(*network) for network in networks)
        return total + 3 * item * batch_size * activations

    @tf.function
    def train_step(self, source: tf.Tensor, target: tf.Tensor) -> dict:
        """One sample through Algorithm 1.

        Args:
          source: y, float32 [B, 256, 256, C] in [-1, 1].
          target: x, float32 [B, 256, 256, C] in [-1, 1].

        Returns:
          Float32 scalars: each weighted loss term of the last generator
          update, `generator_total`, each of the discriminator's,
          `discriminator_total`, and the mean probabilities `p_target` and
          `p_translated` that the discriminator gave before its update.
        """
        if self.method.update_order == "simultaneous":
            terms = self._simultaneous_step(source, target)
        else:
            terms = self._alternating_step(source, target)
        if self.averaged:
            self._average()
        return terms

    def _alternating_step(self, source, target) -> dict:
        # What depends on the target alone: once per sample.
        compared_with = self._reference(source, target)
        # Lines 2-8: N_G updates of the generator on this sample.
        for _ in range(self.method.generator_updates):
            terms = self._update_generator(source, compared_with)
        # Lines 9-11: one update of the discriminator on a fresh translation.
        translated = self.generator(source)
        terms |= self._update_discriminator(source, target, translated)
        # Lines 12-13: each weight matrix divided by its spectral norm.
        if self.projection:
            self.projection()
        return terms

    @tf.function
    def translate(self, source: tf.Tensor) -> tf.Tensor:
        """G(y): [B, 256, 256, C] in [-1, 1] to the same."""
        return self.translator(source)

    @tf.function
    def saturation(self, source: tf.Tensor) -> tf.Tensor:
        """Share of saturated pixels after each U-block, [num_u_blocks]."""
        return tf.stack(
            [
                tf.reduce_mean(
                    tf.cast(tf.abs(image) > SATURATED_ABOVE, tf.float32)
                )
                for image in self.translator.stages(source)
            ]
        )

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

    @tf.function
    def _update_generator(self, source, compared_with) -> dict:
        variables = self.generator.trainable_variables
        with _tape(variables) as tape:
            total, terms, _, _ = self._generator_objective(
                source, compared_with
            )
        self.generator_optimizer.apply(
            tape.gradient(total, variables), variables
        )
        return {**terms, "generator_total": total}

    def _generator_objective(self, source, compared_with):
        """Total, terms, and the discriminator's view of the translation."""
        translated = self.generator(source)
        logits, features = self.discriminator(source, translated)
        total, terms = objective.generator_objective(
            self.method,
            translated,
            logits,
            features,
            self._vgg_features(translated),
            compared_with,
        )
        return total, terms, logits, features

    def _update_discriminator(self, source, target, translated) -> dict:
        variables = self.discriminator.trainable_variables
        with _tape(variables) as tape:
            logits, features = self.discriminator(source, target)
            total, terms = self._discriminator_objective(
                (logits, features), self.discriminator(source, translated)
            )
        self.discriminator_optimizer.apply(
            tape.gradient(total, variables), variables
        )
        return terms

    def _discriminator_objective(self, on_target, on_translated):
        """Total, and the terms with the mean probabilities."""
        total, terms = objective.discriminator_objective(
            self.method,
            on_target[0],
            on_translated[0],
            on_target[1],
            on_translated[1],
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
        compared_with = self._reference(source, target)
        generator_variables = self.generator.trainable_variables
        discriminator_variables = self.discriminator.trainable_variables
        with (
            _tape(discriminator_variables) as discriminator_tape,
            _tape(generator_variables) as generator_tape,
        ):
            total, terms, logits, features = self._generator_objective(
                source, compared_with
            )
            discriminator_total, discriminator_terms = (
                self._discriminator_objective(
                    self.discriminator(source, target), (logits, features)
                )
            )
        generator_gradients = generator_tape.gradient(
            total, generator_variables
        )
        discriminator_gradients = discriminator_tape.gradient(
            discriminator_total, discriminator_variables
        )
        self.generator_optimizer.apply(generator_gradients, generator_variables)
        self.discriminator_optimizer.apply(
            discriminator_gradients, discriminator_variables
        )
        if self.projection:
            self.projection()
        return {**terms, "generator_total": total, **discriminator_terms}

    def _average(self) -> None:
        """Moves the averaged weights towards the generator's.

        Faster at first, so that the random weights of the start are soon
        forgotten.
        """
        step = tf.cast(self.discriminator_optimizer.iterations, tf.float32)
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
) -> casnet.CasNet:
    """The generator of a method, its weights made."""
    generator = casnet.CasNet(
        method.num_u_blocks,
        target_channels,
        method.ngf,
        method.bottleneck_norm,
        method.dropout,
        dtype=precision,
    )
    generator(tf.zeros([1, SLICE_SIZE, SLICE_SIZE, source_channels]))
    return generator


def named_weights(network: keras.Model) -> dict[str, tf.Variable]:
    """The weights of a network by their path, for a checkpoint.

    Because a checkpoint of a Keras 3 model passes without a word over layers
    that the model keeps in lists.
    """
    return {weight.path: weight.value for weight in network.weights}


def _num_activations(network: keras.Model, *images: tf.Tensor) -> int:
    """Numbers that the convolutions of a network give for one slice."""
    graph = tf.function(network).get_concrete_function(*images).graph
    return sum(
        operation.outputs[0].shape.num_elements()
        for operation in graph.get_operations()
        # Each convolution ends with its bias.
        if operation.type == "BiasAdd"
    )


def _adam(method: methods.Method, network: keras.Model) -> adam.FusedAdam:
    """Section 2.5; beta_2 as in pix2pix-tensorflow."""
    optimizer = adam.FusedAdam(
        method.learning_rate,
        beta_1=method.beta_1,
        beta_2=0.999,
        epsilon=method.epsilon,
    )
    optimizer.build(network.trainable_variables)
    return optimizer


@contextlib.contextmanager
def _tape(variables: list[keras.Variable]):
    """A gradient tape that records only what these variables touch."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([v.value for v in variables])
        yield tape
