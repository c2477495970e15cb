"""What a run does about numbers that go wrong, whenever one looks at it."""

from __future__ import annotations

import logging

from medgan_tf import errors
from medgan_tf.data import pipeline, records
from medgan_tf.data import sample as samples
from medgan_tf.training import checkpoint, watch
from medgan_tf.training import config as configs
from medgan_tf.training import step as steps

# After so many steps in a row that were not finite there is no hope; a loss
# scale finds its level within fewer.
MAX_SKIPPED_IN_A_ROW = 20
# A training is slowed down to this share of its learning rate, not further.
SLOWEST_PACE = 1 / 8

_log = logging.getLogger(__name__)


class SkippedSteps:
    """Tells of steps that were left out, when one looks anyway."""

    def __init__(
        self,
        trainer: steps.Trainer,
        config: configs.TrainConfig,
        dataset: records.Dataset,
    ):
        self._skips = trainer.skips
        self._config = config
        self._dataset = dataset
        self._total = trainer.skips.total
        # With a loss scale they are how it finds its level.
        self._are_faults = config.precision != "mixed_float16"

    @property
    def counted(self) -> dict[str, float]:
        """For TensorBoard."""
        return {"health/skipped_steps": self._total}

    def look(self, step: int, last_checkpoint: str) -> None:
        """Says which steps were skipped since the last look, and of what.

        Raises:
          errors.DivergedError: too many were.
        """
        before, self._total = self._total, self._skips.total
        if self._are_faults and self._total > before:
            for skipped in self._skips.steps[before - self._total :]:
                _log.warning(
                    "Step %d was left out, as its gradients are not finite: "
                    "%s.",
                    skipped,
                    ", ".join(
                        " ".join(
                            filter(
                                None,
                                (s.patient, s.study, f"slice {s.slice_index}"),
                            )
                        )
                        for s in pipeline.slices_of_step(
                            self._dataset,
                            skipped - 1,
                            batch_size=self._config.batch_size,
                            seed=self._config.seed,
                        )
                    ),
                )
        in_a_row = self._skips.in_a_row
        if in_a_row >= MAX_SKIPPED_IN_A_ROW or (
            self._are_faults and self._total >= self._config.max_skipped_steps
        ):
            raise errors.DivergedError(
                f"Step {step}: {self._total} steps were not finite, the last "
                f"{in_a_row} in a row; the last checkpoint is "
                f"{last_checkpoint}: start again in a new folder with a lower "
                "--set=learning_rate=... or --precision=float32."
            )


def check_finite(
    trainer: steps.Trainer, checkpoints: checkpoint.Checkpoints, step: int
) -> None:
    """Raises DivergedError where a weight or a moment is not finite."""
    if not trainer.is_finite():
        raise errors.DivergedError(
            f"Step {step}: weights are not finite and are not saved; the last "
            f"checkpoint is {checkpoints.last}: start again in a new folder "
            "with a lower --set=learning_rate=... or --precision=float32."
        )


def tell(signs: list[watch.Sign], step: int) -> None:
    """Logs what `Watch.look` found."""
    for sign in signs:
        _log.warning(
            "Step %d: %s (%s is past %g).",
            step,
            sign.words,
            sign.tag,
            sign.limit,
        )


def go_back(
    trainer: steps.Trainer, checkpoints: checkpoint.Checkpoints, began: int
) -> int:
    """Restores the state from before divergence, and slows down.

    Returns:
      The step to go on from.

    Raises:
      errors.DivergedError: slowed down as often as is sensible, or there is
        no checkpoint from before.
    """
    pace = trainer.pace / 2
    if pace < SLOWEST_PACE:
        raise errors.DivergedError(
            f"The training has diverged since step {began}, at {trainer.pace:g}"
            f" of its learning rate too; the last checkpoint is "
            f"{checkpoints.last}: start again in a new folder with other "
            "--set=..."
        )
    step = checkpoints.go_back(began)
    trainer.pace = pace
    _log.warning(
        "Diverged since step %d: going back to step %d, at %g of the learning "
        "rate.",
        began,
        step,
        pace,
    )
    return step


def measure(
    trainer: steps.Trainer, shown: samples.Sample, terms: dict[str, float]
) -> dict[str, float]:
    """Saturation of each U-block, and what the watch looks at.

    Args:
      trainer: its translator is asked.
      shown: the slice that is translated.
      terms: of the step.

    Returns:
      TensorBoard tag -> number.
    """
    stages = [image.numpy()[0] for image in trainer.stages(shown.source[None])]
    logits_are_odds = trainer.method.adversarial_form in (
        "non_saturating",
        "saturating",
    )
    return {
        **{
            f"health/saturated_u_block_{i}": watch.saturation(image)
            for i, image in enumerate(stages, start=1)
        },
        **watch.measure(
            stages[-1],
            shown.target,
            *(
                terms.get(name) if logits_are_odds else None
                for name in ("p_target", "p_translated")
            ),
        ),
    }
