"""HOW a translation is trained: one frozen row per method of the paper.

Rows `cgan` to `medgan` are Table 1, `pix2pix` to `fila_sgan` are Table 2,
`pix2pix_tf` is pix2pix-tensorflow itself, on which the paper's comparison was
built: the anchor against which this code is checked number by number.
`supervised` is ours: the same generator without an adversary, the baseline that
a GAN has to beat.
Section 3.2.2: all compared methods share "the same settings, hyperparameters
and architecture (a single U-block generator and patch discriminator)".
"""

from __future__ import annotations

import dataclasses

# Adversarial losses that are logs of a probability.
LOG_FORMS = ("non_saturating", "saturating")
FIRST_CONVOLUTIONS = tuple(f"block{j}_conv1" for j in range(1, 6))


@dataclasses.dataclass(frozen=True)
class Method:
    """Everything in which two methods differ.

    A loss weight of 0 leaves the term out, and with it the work it costs.

    Attributes:
      name: the word for `--method`.
      title: one line for people.
      adversarial: weight of the generator's adversarial loss (Eq. 3).
      adversarial_form: "non_saturating" -log D(G(y), y) (Algorithm 1, line
        4) or "saturating" log(1 - D(G(y), y)); beyond the paper "lsgan" (Mao
        et al. 2017), "hinge" (Lim and Ye 2017), "wgan_gp" (Gulrajani et al.
        2017).
      gradient_penalty: weight of the penalty of "wgan_gp".
      probabilities: "logits" computes the log losses from logits; "epsilon"
        adds 1e-12 inside each log of the sigmoid, as pix2pix-tensorflow does.
      perceptual: weight lambda_1 of the perceptual loss (Eq. 7).
      perceptual_layers: lambda_p of Eq. 7 for i = 0 (the images) and each
        hidden layer of the discriminator. "Chosen to allow both layers of
        the discriminator to have equal influence"; the values are ours.
      perceptual_margin: PAN's margin m; 0 leaves the discriminator's hinge
        out.
      style: weight lambda_2 of the style loss (Eq. 10).
      style_layers: VGG-19 layers of the style loss, each with weight 1.
        Section 2.5: "only the first and last convolutional blocks".
      style_form: "paper" (Eq. 9-10) or "mean_absolute" (Fila-sGAN).
      style_target: which image gives the style: "target" or "source".
      content: weight lambda_3 of the content loss (Eq. 11).
      content_layers: VGG-19 layers of the content loss, each with weight 1.
        Section 2.5: "all but the deepest".
      content_form: "mean_squared" (Eq. 11) or "mean_absolute".
      l1: weight of the mean absolute difference to the target.
      l2: weight of the mean squared difference to the target.
      total_variation: weight of the total variation of the output.
      num_u_blocks: U-blocks in the generator (Section 2.4.2: six).
      ngf: filters of the generator's first convolution.
      bottleneck_norm: normalise at 1 x 1. False: there instance norm erases
        its input and 23 % of a U-block never learns (see UBlock).
      dropout: rate in the three deepest decoder layers.
      ndf: filters of the discriminator's first convolution.
      discriminator_layers: hidden layers with stride 2: 1 gives 16 x 16
        patches (Section 2.4.3), 3 gives 70 x 70.
      spectral_norm: "projection" (Algorithm 1, lines 12-13), "reparam"
        (Miyato et al. 2018: kernels are divided where they are used, and the
        gradient goes through the division) or "none".
      power_iterations: per projection.
      generator_updates: N_G of Algorithm 1.
      update_order: "generator_first" (Algorithm 1) or "simultaneous": both
        gradients from one forward pass, taken before either update.
      learning_rate: of Adam, for both networks.
      learning_rate_decay: share of the run, at its end, over which the
        learning rate falls linearly to 0 (pix2pixHD: a half); 0: constant.
      beta_1: of Adam ("momentum value of 0.5", Section 2.5).
      epsilon: of Adam (TensorFlow 1's default, as in pix2pix-tensorflow).
      averaging: decay, per discriminator step, of a moving average of the
        generator's weights; the average is then what is validated, scored
        and exported. 0: none. The paper has none; at batch size 1 it takes
        out the swings from sample to sample.
    """

    name: str
    title: str
    adversarial: float = 1.0
    adversarial_form: str = "non_saturating"
    gradient_penalty: float = 10.0
    probabilities: str = "logits"
    perceptual: float = 0.0
    perceptual_layers: tuple[float, ...] = (1.0, 1.0, 1.0)
    perceptual_margin: float = 0.0
    style: float = 0.0
    style_layers: tuple[str, ...] = ("block1_conv1", "block5_conv1")
    style_form: str = "paper"
    style_target: str = "target"
    content: float = 0.0
    content_layers: tuple[str, ...] = FIRST_CONVOLUTIONS[:4]
    content_form: str = "mean_squared"
    l1: float = 0.0
    l2: float = 0.0
    total_variation: float = 0.0
    num_u_blocks: int = 1
    ngf: int = 64
    bottleneck_norm: bool = False
    dropout: float = 0.0
    ndf: int = 64
    discriminator_layers: int = 1
    spectral_norm: str = "projection"
    power_iterations: int = 1
    generator_updates: int = 3
    update_order: str = "generator_first"
    learning_rate: float = 2e-4
    learning_rate_decay: float = 0.0
    beta_1: float = 0.5
    epsilon: float = 1e-8
    averaging: float = 0.0

    def __post_init__(self):
        for field, allowed in _CHOICES.items():
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"{field} must be one of {', '.join(allowed)}, "
                    f"got {getattr(self, field)!r}."
                )
        for field in _COUNTS:
            if getattr(self, field) < 1:
                raise ValueError(
                    f"{field} must be at least 1, got {getattr(self, field)}."
                )
        for field in _WEIGHTS:
            if not 0 <= getattr(self, field) < float("inf"):
                raise ValueError(
                    f"{field} must be a finite number of at least 0, "
                    f"got {getattr(self, field)}."
                )
        terms = (*_WEIGHTS[:2], "style", "content", "l1", "l2")
        if not any(getattr(self, field) for field in terms):
            raise ValueError(
                "all loss weights of the generator are 0; set one of "
                f"{', '.join(terms)}."
            )
        for field in ("style", "content"):
            if getattr(self, field) and not getattr(self, f"{field}_layers"):
                raise ValueError(
                    f"{field}_layers must name at least one layer of VGG-19, "
                    f"or {field} be 0."
                )
        for field in ("dropout", "beta_1", "averaging"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(
                    f"{field} must be in [0, 1), got {getattr(self, field)}."
                )
        if self.discriminator_layers > 6:
            raise ValueError(
                "discriminator_layers must be at most 6 (patches of 574 "
                f"pixels), got {self.discriminator_layers}."
            )
        if not all(0 <= w < float("inf") for w in self.perceptual_layers):
            raise ValueError(
                "perceptual_layers must be finite numbers of at least 0, got "
                f"{self.perceptual_layers}."
            )
        if self.uses_discriminator_features and (
            len(self.perceptual_layers) != self.discriminator_layers + 2
        ):
            raise ValueError(
                "perceptual_layers must hold one weight for the images and one "
                f"for each of the {self.discriminator_layers + 1} hidden "
                f"layers of the discriminator, got {self.perceptual_layers}."
            )
        if not self.learning_rate_decay <= 1:
            raise ValueError(
                "learning_rate_decay is a share of the run, from 0 to 1, got "
                f"{self.learning_rate_decay}."
            )
        if self.update_order == "simultaneous" and self.generator_updates != 1:
            raise ValueError(
                "update_order=simultaneous takes generator_updates=1, "
                f"got {self.generator_updates}."
            )
        is_simultaneous = self.update_order == "simultaneous"
        if is_simultaneous and self.adversarial_form == "wgan_gp":
            raise ValueError(
                "adversarial_form=wgan_gp takes update_order=generator_first."
            )
        if is_simultaneous and not self.uses_discriminator:
            raise ValueError(
                "without an adversary update_order must be generator_first."
            )
        if self.probabilities == "epsilon" and (
            self.adversarial_form not in LOG_FORMS
        ):
            raise ValueError(
                f"adversarial_form={self.adversarial_form} has no "
                "probabilities; set probabilities=logits."
            )

    @property
    def uses_discriminator(self) -> bool:
        """Whether there is an adversary at all."""
        return self.adversarial > 0 or self.uses_discriminator_features

    @property
    def updates_per_step(self) -> int:
        """Of both networks."""
        return self.generator_updates + self.uses_discriminator

    @property
    def uses_discriminator_features(self) -> bool:
        """Whether a loss compares hidden layers of the discriminator."""
        return self.perceptual > 0 or self.perceptual_margin > 0

    @property
    def vgg_layers(self) -> tuple[str, ...]:
        """The VGG-19 layers that the weights in use need, shallow first."""
        layers = set(self.style_layers if self.style else ())
        layers |= set(self.content_layers if self.content else ())
        return tuple(sorted(layers))


_CHOICES = {
    "adversarial_form": (*LOG_FORMS, "lsgan", "hinge", "wgan_gp"),
    "probabilities": ("logits", "epsilon"),
    "style_form": ("paper", "mean_absolute"),
    "style_target": ("target", "source"),
    "content_form": ("mean_squared", "mean_absolute"),
    "spectral_norm": ("projection", "reparam", "none"),
    "update_order": ("generator_first", "simultaneous"),
}
_COUNTS = (
    "num_u_blocks",
    "ngf",
    "ndf",
    "discriminator_layers",
    "power_iterations",
    "generator_updates",
)
_WEIGHTS = (
    "adversarial",
    "perceptual",
    "perceptual_margin",
    "style",
    "content",
    "l1",
    "l2",
    "total_variation",
    "gradient_penalty",
    "learning_rate",
    "learning_rate_decay",
    "epsilon",
)

_MEDGAN_1G = Method(
    "medgan_1g",
    "MedGAN with one U-block",
    perceptual=20.0,
    style=1e-4,
    content=1e-4,
)

METHODS = {
    method.name: method
    for method in (
        Method("cgan", "conditional GAN, adversarial loss alone"),
        Method("perceptual", "cGAN and perceptual loss", perceptual=20.0),
        Method(
            "style_content",
            "cGAN with style and content losses",
            style=1e-4,
            content=1e-4,
        ),
        _MEDGAN_1G,
        dataclasses.replace(
            _MEDGAN_1G, name="medgan", title="MedGAN", num_u_blocks=6
        ),
        # The weight 100 is pix2pix's; the paper gives none.
        Method("pix2pix", "pix2pix (Isola et al. 2017)", l1=100.0),
        # PAN's official weights 5, 1.5, 1.5, 1 are for four layers; the
        # mapping to our two hidden layers is ours. No pixel term.
        Method(
            "pan",
            "PAN (Wang et al. 2018)",
            perceptual=1.0,
            perceptual_layers=(0.0, 5.0, 1.5),
            perceptual_margin=3.0,
        ),
        # Official ratio 1 : 150 : 150, the content weight divided by 127.5^2
        # because our VGG-19 sees 0..255 where theirs sees [-1, 1].
        Method(
            "id_cgan",
            "ID-CGAN (Zhang et al. 2017)",
            l2=150.0,
            content=150.0 / 127.5**2,
            content_layers=("block2_conv2",),
        ),
        # Official weights; style 10 is shared by five layers, and the L1
        # weight is pix2pix's. The paper: style input replaced by "the
        # original source domain images".
        Method(
            "fila_sgan",
            "Fila-sGAN (Zhao et al. 2017)",
            l1=100.0,
            style=10.0 / 5,
            style_layers=FIRST_CONVOLUTIONS,
            style_form="mean_absolute",
            style_target="source",
            content=1.0,
            content_layers=("block4_conv2",),
            content_form="mean_absolute",
            total_variation=100.0,
        ),
        Method(
            "pix2pix_tf",
            "pix2pix-tensorflow to the letter",
            l1=100.0,
            probabilities="epsilon",
            bottleneck_norm=True,
            dropout=0.5,
            discriminator_layers=3,
            spectral_norm="none",
            generator_updates=1,
            update_order="simultaneous",
        ),
        # Ours. The weight is pix2pix's, so that the two differ by the
        # adversary alone; one update a step, because there is one network.
        Method(
            "supervised",
            "supervised, L1 alone",
            adversarial=0.0,
            l1=100.0,
            spectral_norm="none",
            generator_updates=1,
        ),
    )
}


def override(method: Method, settings: list[str]) -> Method:
    """Returns `method` with fields replaced by texts such as "ngf=32".

    Args:
      method: the row to start from.
      settings: "field=value" each; a tuple field takes values separated by
        commas.

    Raises:
      ValueError: for an unknown field (with the list of fields) or a value
        that is not of the field's type.
    """
    fields = {
        field.name: getattr(method, field.name)
        for field in dataclasses.fields(Method)
        if field.name not in ("name", "title")
    }
    changes = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set={setting}: expected field=value.")
        if name not in fields:
            raise ValueError(
                f"--set={setting}: no field {name!r}; fields are "
                f"{', '.join(fields)}."
            )
        try:
            changes[name] = _parse(text, fields[name])
        except ValueError as error:
            raise ValueError(f"--set={setting}: {error}") from None
    try:
        return dataclasses.replace(method, **changes)
    except ValueError as error:
        raise ValueError(f"--set: {error}") from None


def _parse(text: str, example):
    """Reads `text` as a value of the type of `example`."""
    if isinstance(example, tuple):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return tuple(_parse(part, example[0]) for part in parts)
    if isinstance(example, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"expected true or false, got {text!r}.")
        return text.lower() == "true"
    try:
        return type(example)(text)
    except ValueError:
        kind = {int: "a whole number", float: "a number"}[type(example)]
        raise ValueError(f"expected {kind}, got {text!r}.") from None
