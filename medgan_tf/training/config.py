"""How long, how fast and how often: what a run needs besides its method."""

from __future__ import annotations

import dataclasses

_CHOICES = {
    "precision": ("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    "xla": ("auto", "on", "off"),
    "best_metric": ("mae", "ssim", "psnr", "mse"),
    "distribute": ("auto", "none", "mirrored", "multiworker"),
    "on_divergence": ("warn", "stop", "rollback"),
}
_LEAST = {
    "epochs": 1,
    "max_steps": 0,
    "batch_size": 1,
    "accumulate": 1,
    "steps_per_execution": 1,
    "seed": 0,
    "jitter_size": 256,
    "summary_every": 1,
    "image_every": 1,
    "save_every": 1,
    "validate_every": 0,
    "validation_slices": 0,
    "patience": 0,
    "divergence_steps": 1,
    "max_skipped_steps": 1,
    "cluster_timeout_s": 1,
}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of a run that are not part of a method.

    Attributes:
      epochs: passes over the training slices (Section 2.5: 200).
      max_steps: stop after so many discriminator steps; 0: no limit.
      batch_size: slices per step, over all replicas (Section 2.5: 1).
      accumulate: each batch goes through the networks in so many parts, whose
        gradients are added up: less memory, the same step.
      recompute: the backward pass computes each U-block again instead of
        keeping its inside: less memory, a third more work, the same step.
      precision: a Keras dtype policy; weights, losses and Gram matrices are
        float32 in each. "auto": see `runtime.precision`.
      xla: compile the step as a whole: "on", "off" or "auto", see
        `runtime.uses_xla`.
      deterministic: the same bits every time; see
        `runtime.make_deterministic`.
      distribute: over which devices; see `runtime.strategy`.
      cluster_timeout_s: seconds to wait for the others of a cluster.
      steps_per_execution: steps that TensorFlow takes between two looks from
        Python.
      vgg_weights: "imagenet", a path, or "random"; see VGG19Features.
      seed: draws weights, order of slices and jitter.
      jitter_size: slices are enlarged to this side and cropped back to 256 at
        a random place, as pix2pix-tensorflow does; 256: never.
      flip: mirror half of the slices left to right.
      summary_every: discriminator steps between scalars.
      image_every: discriminator steps between image strips.
      save_every: discriminator steps between checkpoints.
      validate_every: discriminator steps between validations; 0: each epoch.
      validation_slices: at most so many slices, evenly spread, each time.
      best_metric: by which the best checkpoint is chosen: "mae", "ssim",
        "psnr" or "mse", mean over the validation patients. Not SSIM unless
        asked: at batch size 1 the level of the image swings from step to
        step, which SSIM hardly sees and a user of HU or SUV does.
      patience: stop after so many validations in a row without a better one;
        0: never.
      on_divergence: what to do when the training has diverged (see
        `watch.SIGNS`): "warn", "stop", or "rollback" to the checkpoint before
        and go on at half the learning rate.
      divergence_steps: a sign is told after so many steps in a row, and taken
        for divergence after twice as many.
      max_skipped_steps: stop after so many that were not finite, in all.
    """

    epochs: int = 200
    max_steps: int = 0
    batch_size: int = 1
    accumulate: int = 1
    recompute: bool = False
    precision: str = "auto"
    xla: str = "auto"
    deterministic: bool = False
    distribute: str = "auto"
    cluster_timeout_s: int = 300
    steps_per_execution: int = 1
    vgg_weights: str = "imagenet"
    seed: int = 0
    jitter_size: int = 286
    flip: bool = True
    summary_every: int = 50
    image_every: int = 500
    save_every: int = 1000
    validate_every: int = 0
    validation_slices: int = 100
    best_metric: str = "mae"
    patience: int = 0
    on_divergence: str = "warn"
    divergence_steps: int = 200
    max_skipped_steps: int = 100

    def __post_init__(self):
        for field, least in _LEAST.items():
            if getattr(self, field) < least:
                raise ValueError(
                    f"{field} must be at least {least}, "
                    f"got {getattr(self, field)}."
                )
        for field, allowed in _CHOICES.items():
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"{field} must be one of {', '.join(allowed)}, "
                    f"got {getattr(self, field)!r}."
                )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate must divide batch_size={self.batch_size}, "
                f"got {self.accumulate}."
            )

    def num_steps(self, steps_per_epoch: int) -> int:
        """Discriminator steps of the whole run."""
        steps = self.epochs * steps_per_epoch
        return min(steps, self.max_steps) if self.max_steps else steps
