"""The whole objective: from a method's row and tensors to named terms (Eq. 12).

The only reader of the weights in a Method row. What depends on the target
alone is computed once per sample (`Reference`), not in each of the three
generator updates.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from medgan_tf import fan_out, methods
from medgan_tf.losses import adversarial, perceptual, pixel, style


class Reference(NamedTuple):
    """What the translation of one sample is compared with.

    Attributes:
      target: [B, H, W, C].
      discriminator_features: of the target, as PatchDiscriminator returns.
      style_grams: Gram matrices of the image that gives the style.
      content_features: VGG-19 features of the target.
    """

    target: tf.Tensor
    discriminator_features: list[tf.Tensor]
    style_grams: list[tf.Tensor]
    content_features: list[tf.Tensor]


def reference(
    method: methods.Method,
    target: tf.Tensor,
    discriminator_features: list[tf.Tensor],
    target_vgg: dict[str, tf.Tensor],
    style_vgg: dict[str, tf.Tensor],
) -> Reference:
    """Gathers what stays the same while the generator is updated.

    Args:
      method: the row.
      target: [B, H, W, C] in [-1, 1].
      discriminator_features: hidden layers for the target; may be empty
        where the method does not use them.
      target_vgg: VGG-19 features of the target, by layer name.
      style_vgg: VGG-19 features of the image that gives the style.
    """
    return Reference(
        target,
        discriminator_features,
        _grams(method, style_vgg),
        _contents(method, target_vgg),
    )


def generator_objective(
    method: methods.Method,
    translated: tf.Tensor,
    translated_logits: tf.Tensor,
    translated_features: list[tf.Tensor],
    translated_vgg: dict[str, tf.Tensor],
    compared_with: Reference,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """What the generator minimises (Eq. 12).

    Args:
      method: the row.
      translated: [B, H, W, C] in [-1, 1].
      translated_logits: the discriminator on the translation.
      translated_features: its hidden layers.
      translated_vgg: VGG-19 features of the translation, by layer name.
      compared_with: see `reference`.

    Returns:
      The weighted sum, and each term already weighted, by name; perceptual is
      given in two terms, pixel (i = 0) and features (i > 0). Terms that the
      method leaves out are absent. All float32 scalars.
    """
    target = compared_with.target
    for_pixel, for_l1, for_l2, for_variation = fan_out.readers(translated, 4)
    terms = {}
    if method.adversarial:
        terms["adversarial"] = method.adversarial * (
            adversarial.generator_loss(
                translated_logits,
                form=method.adversarial_form,
                probabilities=method.probabilities,
            )
        )
    if method.perceptual and method.perceptual_layers[0]:
        terms["perceptual_pixel"] = method.perceptual * (
            perceptual.perceptual_loss(
                [for_pixel], [target], method.perceptual_layers[:1]
            )
        )
    if method.perceptual and any(method.perceptual_layers[1:]):
        terms["perceptual_features"] = method.perceptual * (
            perceptual.perceptual_loss(
                translated_features,
                compared_with.discriminator_features,
                method.perceptual_layers[1:],
            )
        )
    if method.style:
        terms["style"] = method.style * style.style_loss(
            _grams(method, translated_vgg),
            compared_with.style_grams,
            form=method.style_form,
        )
    if method.content:
        terms["content"] = method.content * style.content_loss(
            _contents(method, translated_vgg),
            compared_with.content_features,
            form=method.content_form,
        )
    if method.l1:
        terms["l1"] = method.l1 * pixel.l1_loss(for_l1, target)
    if method.l2:
        terms["l2"] = method.l2 * pixel.l2_loss(for_l2, target)
    if method.total_variation:
        terms["total_variation"] = method.total_variation * (
            pixel.total_variation_loss(for_variation)
        )
    return sum(terms.values()), terms


def discriminator_objective(
    method: methods.Method,
    target_logits: tf.Tensor,
    translated_logits: tf.Tensor,
    target_features: list[tf.Tensor],
    translated_features: list[tf.Tensor],
    between: tf.Tensor | None = None,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """What the discriminator minimises (Eq. 3, and PAN's hinge).

    Args:
      method: the row.
      target_logits: the discriminator on the target.
      translated_logits: on the translation.
      target_features: its hidden layers on the target.
      translated_features: on the translation.
      between: gradients for "wgan_gp", see `adversarial.gradient_penalty`.

    Returns:
      The weighted sum, and each term weighted, by name.
    """
    terms = {
        "discriminator_adversarial": adversarial.discriminator_loss(
            target_logits,
            translated_logits,
            form=method.adversarial_form,
            probabilities=method.probabilities,
        )
    }
    if between is not None:
        terms["discriminator_gradient_penalty"] = method.gradient_penalty * (
            adversarial.gradient_penalty(between)
        )
    if method.perceptual_margin:
        terms["discriminator_margin"] = perceptual.margin_loss(
            perceptual.perceptual_loss(
                translated_features,
                target_features,
                method.perceptual_layers[1:],
            ),
            method.perceptual_margin,
        )
    return sum(terms.values()), terms


def _grams(method, features: dict[str, tf.Tensor]) -> list[tf.Tensor]:
    layers = method.style_layers if method.style else ()
    return [style.gram_matrix(features[name]) for name in layers]


def _contents(method, features: dict[str, tf.Tensor]) -> list[tf.Tensor]:
    layers = method.content_layers if method.content else ()
    return [features[name] for name in layers]
