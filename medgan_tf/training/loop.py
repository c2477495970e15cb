"""A whole training run, from top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from medgan_tf import errors, methods, run_record, tasks
from medgan_tf.data import pipeline, records
from medgan_tf.data import sample as samples
from medgan_tf.evaluation import evaluate, metrics
from medgan_tf.training import (
    checkpoint,
    health,
    peers,
    runtime,
    summaries,
    watch,
)
from medgan_tf.training import config as configs
from medgan_tf.training import step as steps

_log = logging.getLogger(__name__)


@peers.naming_lost
def train(
    task: tasks.Task,
    method: methods.Method,
    config: configs.TrainConfig,
    dataset: records.Dataset,
    workdir: str | os.PathLike,
    *,
    progress: Callable,
    strategy: tf.distribute.Strategy | None = None,
) -> checkpoint.Run:
    """Trains a method on a data set, or goes on where the run stopped.

    Args:
      task: the row.
      method: the row, resolved.
      config: how long, how fast, how often.
      dataset: from `records.open_dataset`.
      workdir: the run folder.
      progress: makes a progress bar from `total` and `initial`, such as tqdm.
      strategy: from `runtime.strategy`, made before any tensor; None: one
        device.

    Returns:
      The run.

    Raises:
      errors.UsageError: the batch cannot be split over the devices, or the
        method not at all.
      errors.DataError: the records are of another task or another row of
        it, or too few.
      errors.ArtefactError: the folder holds another run, or the workers
        of a cluster do not run the same.
      errors.PeerLostError: another process of the cluster is gone.
      errors.DivergedError: too many steps are not finite, or the training
        has diverged and `config.on_divergence` says so.
      errors.ResourceError: another process trains in the folder.
      errors.Stopped: a signal came; everything is saved.
    """
    records.check_task(dataset, task)
    strategy = strategy or tf.distribute.get_strategy()
    _check_batch(config, strategy.num_replicas_in_sync)
    if config.patience and isinstance(
        strategy, tf.distribute.MultiWorkerMirroredStrategy
    ):
        raise errors.UsageError(
            "--patience stops the process that validates and would leave the "
            "others waiting; expected --patience=0 with several machines."
        )
    if config.deterministic and method.adversarial_form == "wgan_gp":
        raise errors.UsageError(
            "adversarial_form=wgan_gp adds up three gradients, in an order "
            "that TensorFlow leaves to chance: expected --nodeterministic."
        )
    # Because a run goes on in the precision that it began with, wherever.
    config = dataclasses.replace(
        config, precision=runtime.precision(config.precision)
    )
    if config.on_divergence == "rollback" and isinstance(
        strategy, tf.distribute.MultiWorkerMirroredStrategy
    ):
        raise errors.UsageError(
            "--on_divergence=rollback is decided by the process that validates "
            "and would leave the others where they are; expected warn or stop "
            "with several machines."
        )
    steps_per_epoch = pipeline.steps_per_epoch(dataset, config.batch_size)
    num_steps = config.num_steps(steps_per_epoch)
    peers.check_same(strategy, peers.facts(task, method, config, dataset.info))
    run = checkpoint.open_run(workdir, task, method, config, dataset)
    xla = runtime.uses_xla(config.xla)
    with strategy.scope():
        trainer = steps.Trainer(
            method,
            source_channels=dataset.info["source_channels"],
            target_channels=dataset.info["target_channels"],
            num_steps=num_steps,
            precision=config.precision,
            vgg_weights=config.vgg_weights,
            seed=config.seed,
            xla=xla,
            winograd=runtime.uses_winograd(config.precision, xla),
            accumulate=config.accumulate,
            recompute=config.recompute,
        )
    if not runtime.is_chief(strategy):
        _follow(trainer, run, dataset, strategy, num_steps)
        return run
    # Not before the trainer is there: a run that never began leaves nothing.
    with checkpoint.locked(run):
        run.save()
        _lead(trainer, run, config, dataset, strategy, num_steps, progress)
    return run


def _lead(
    trainer: steps.Trainer,
    run: checkpoint.Run,
    config: configs.TrainConfig,
    dataset: records.Dataset,
    strategy: tf.distribute.Strategy,
    num_steps: int,
    progress: Callable,
) -> None:
    """Training in the process that reports, validates and saves."""
    checkpoints = checkpoint.Checkpoints(run, trainer)
    first_step = peers.chief_first(strategy, checkpoints.restore)
    batches = _batches(dataset, config, strategy, first_step)
    steps_per_epoch = pipeline.steps_per_epoch(dataset, config.batch_size)
    validate_every = config.validate_every or steps_per_epoch
    _log_facts(
        trainer,
        config,
        dataset,
        strategy.num_replicas_in_sync,
        steps_per_epoch,
        num_steps,
        first_step,
    )
    validation = _spread(dataset, "validation", config.validation_slices)
    some = validation or _spread(dataset, "train", 3)
    shown = some[len(some) // 2]
    skips = health.SkippedSteps(trainer, config, dataset)
    signs = _watch(run, config, first_step)
    log = summaries.Summaries(run.workdir)
    clock = _Clock()
    with (
        contextlib.closing(log),
        peers.Stops(strategy) as stops,
        progress(total=num_steps, initial=first_step) as bar,
    ):
        step = first_step
        is_spent = _is_spent(config, checkpoints, step, validate_every)
        while step < num_steps and not is_spent:
            count = _steps_at_once(config, step, num_steps, validate_every)
            with _naming_damage(dataset):
                terms = _take(trainer, batches, count, clock)
            step += count
            clock.count(count * config.batch_size)
            is_last = step == num_steps
            if _is_event(config, step, num_steps, validate_every):
                skips.look(step, checkpoints.last)
            if step % config.summary_every == 0 or step == 1 or is_last:
                values = {name: float(value) for name, value in terms.items()}
                with trainer.looking():
                    seen = health.measure(trainer, shown, values)
                bar.set_postfix_str(
                    " ".join(
                        f"{name} {values[f'{name}_total']:.3g}"
                        for name in ("generator", "discriminator")
                        if f"{name}_total" in values
                    )
                )
                log.scalars(
                    "train",
                    step,
                    {
                        **_tagged(values),
                        **seen,
                        **watch.limits(seen),
                        **skips.counted,
                        **clock.read(),
                    },
                )
                health.tell(signs.look(step, seen), step)
                began = signs.diverged_at(step)
                if began and config.on_divergence == "stop":
                    raise errors.DivergedError(
                        f"Step {step}: the training has diverged since step "
                        f"{began}; the last checkpoint is {checkpoints.last}: "
                        "start again in a new folder with a lower "
                        "--set=learning_rate=..."
                    )
                if began and config.on_divergence == "rollback":
                    before, step = (
                        step,
                        health.go_back(trainer, checkpoints, began),
                    )
                    batches = _batches(dataset, config, strategy, step)
                    signs = _watch(run, config, step)
                    bar.update(step - before + count)
                    continue
            if step % config.image_every == 0 or step == 1 or is_last:
                with trainer.looking():
                    strip = _strip(trainer, shown)
                log.strip("validation", step, strip)
            if validation and (step % validate_every == 0 or is_last):
                health.check_finite(trainer, checkpoints, step)
                with trainer.looking():
                    scores = _validate(trainer, validation)
                log.scalars(
                    "validation",
                    step,
                    {f"metrics/{name}": v for name, v in scores.items()},
                )
                checkpoints.save_if_best(
                    step,
                    config.best_metric,
                    scores[config.best_metric],
                    metrics.METRICS[config.best_metric].higher_is_better,
                )
                is_spent = _is_spent(config, checkpoints, step, validate_every)
            bar.update(count)
            is_last = is_last or is_spent
            is_due = step % config.save_every == 0 or is_last
            if is_due:
                _save(trainer, checkpoints, step)
            if code := stops.told(is_last):
                if not is_due:
                    _save(trainer, checkpoints, step)
                raise peers.stopped(code, step, num_steps, run.workdir)
    if is_spent:
        _log.info(
            "Stopped at step %d of %d: no better %s on the validation patients "
            "since step %d.",
            step,
            num_steps,
            config.best_metric,
            checkpoints.best_step,
        )
    _log.info("Most memory held: %.1f GB.", runtime.peak_memory_bytes() / 1e9)


def _watch(
    run: checkpoint.Run, config: configs.TrainConfig, first_step: int
) -> watch.Watch:
    """A watch that knows what the run went through until a step."""
    before = {}
    if first_step:
        # One that was taken away is begun anew; any other that cannot be read
        # cannot be written either, which is told as soon as it is.
        with contextlib.suppress(OSError):
            recorded = run_record.read(run.workdir, "train")
            before = {k: v for k, v in recorded.items() if k <= first_step}
    return watch.Watch(config.divergence_steps, before)


def _save(
    trainer: steps.Trainer, checkpoints: checkpoint.Checkpoints, step: int
) -> None:
    # A checkpoint to go back to must be worth it.
    health.check_finite(trainer, checkpoints, step)
    checkpoints.save(step)


def _is_spent(
    config: configs.TrainConfig,
    checkpoints: checkpoint.Checkpoints,
    step: int,
    validate_every: int,
) -> bool:
    """Whether the last validations brought nothing better."""
    best = checkpoints.best_step
    if not config.patience or best is None:
        return False
    return step - best >= config.patience * validate_every


def _check_batch(config: configs.TrainConfig, num_replicas: int) -> None:
    """Raises unless every replica gets the same whole parts of a batch."""
    parts = num_replicas * config.accumulate
    if config.batch_size % parts:
        raise errors.UsageError(
            f"--batch_size={config.batch_size} cannot be split over "
            f"{num_replicas} devices in {config.accumulate} parts each; "
            f"expected a multiple of {parts}."
        )


def _batches(
    dataset: records.Dataset,
    config: configs.TrainConfig,
    strategy: tf.distribute.Strategy,
    first_step: int,
):
    """Iterator over what the replicas of this process train on."""

    def share(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return pipeline.training_batches(
            dataset,
            batch_size=config.batch_size,
            seed=config.seed,
            jitter_size=config.jitter_size,
            flip=config.flip,
            first_step=first_step,
            worker=context.input_pipeline_id,
            num_workers=context.num_input_pipelines,
            num_replicas=context.num_replicas_in_sync,
        )

    return iter(strategy.distribute_datasets_from_function(share))


def _take(trainer: steps.Trainer, batches, count: int, clock: _Clock) -> dict:
    """So many steps; the wait for input is only seen between single ones."""
    if count > 1:
        return trainer.train_steps(batches, tf.constant(count))
    with clock.waiting():
        source, target = next(batches)
    return trainer.train_step(source, target)


def _follow(
    trainer: steps.Trainer,
    run: checkpoint.Run,
    dataset: records.Dataset,
    strategy: tf.distribute.Strategy,
    num_steps: int,
) -> None:
    """Training in a process that is not the chief: the same steps, no files.

    As many at once as the chief takes, because what workers exchange is
    matched by the order in which each has traced it.
    """
    _log.info("This process follows the chief, which reports and saves.")
    config = run.config
    step = peers.chief_first(
        strategy, lambda: checkpoint.Checkpoints(run, trainer).restore()
    )
    batches = _batches(dataset, config, strategy, step)
    validate_every = config.validate_every or pipeline.steps_per_epoch(
        dataset, config.batch_size
    )
    clock = _Clock()
    with peers.Stops(strategy) as stops:
        while step < num_steps:
            count = _steps_at_once(config, step, num_steps, validate_every)
            with _naming_damage(dataset):
                _take(trainer, batches, count, clock)
            step += count
            if code := stops.told(is_last=step == num_steps):
                raise peers.stopped(code, step, num_steps, run.workdir)


def _steps_at_once(
    config: configs.TrainConfig, step: int, num_steps: int, validate_every: int
) -> int:
    """Steps until something is to be logged, shown, scored or saved."""
    if step == 0:
        return 1
    until_event = (
        every - step % every for every in _intervals(config, validate_every)
    )
    return min(config.steps_per_execution, num_steps - step, *until_event)


def _is_event(
    config: configs.TrainConfig, step: int, num_steps: int, validate_every: int
) -> bool:
    """Whether something is logged, shown, scored or saved after a step."""
    return step in (1, num_steps) or any(
        step % every == 0 for every in _intervals(config, validate_every)
    )


def _intervals(config: configs.TrainConfig, validate_every: int) -> list[int]:
    return [
        config.summary_every,
        config.image_every,
        config.save_every,
        validate_every,
    ]


def _log_facts(
    trainer,
    config,
    dataset,
    num_replicas,
    steps_per_epoch,
    num_steps,
    first_step,
) -> None:
    """What a user wants to know before the first step."""
    num_parameters = {
        network.name: network.count_params()
        for network in (trainer.generator, trainer.discriminator, trainer.vgg)
        if network
    }
    _log.info(
        "%s: %s.",
        trainer.method.title,
        ", ".join(
            f"{name} {n:,} parameters" for name, n in num_parameters.items()
        ),
    )
    _log.info(
        "Memory: about %.1f GB at most.",
        (
            trainer.memory_bytes(config.batch_size)
            + pipeline.memory_bytes(dataset)
        )
        / 1e9,
    )
    _log.info(
        "%d training slices of %d patients%s; %d steps an epoch, %d steps in "
        "all (%d generator updates each), %s on %d device%s%s.",
        dataset.num_slices("train"),
        len(dataset.patients("train")),
        " (simulated images)" if dataset.info["is_simulated"] else "",
        steps_per_epoch,
        num_steps,
        trainer.method.generator_updates,
        config.precision,
        num_replicas,
        "" if num_replicas == 1 else "s",
        f", going on from step {first_step}" if first_step else "",
    )


@contextlib.contextmanager
def _naming_damage(dataset: records.Dataset):
    """Turns a wrong checksum of a record into an error that names the data."""
    try:
        yield
    except tf.errors.DataLossError as error:
        raise errors.DataError(
            f"{dataset.folder} holds a damaged training record (its checksum "
            "is wrong); copy the data set again or prepare it again."
        ) from error


def _tagged(values: dict[str, float]) -> dict[str, float]:
    """TensorBoard tags: each term, its share of the total, probabilities."""
    generator_terms = {
        name: abs(value)
        for name, value in values.items()
        if not name.startswith(("discriminator", "p_"))
        and not name.endswith("_total")
    }
    total = sum(generator_terms.values())
    return {
        **{
            f"discriminator/{name}"
            if name.startswith("p_")
            else f"loss/{name}": value
            for name, value in values.items()
        },
        **{
            f"share/{name}": value / total if total else 0.0
            for name, value in generator_terms.items()
        },
    }


def _strip(trainer: steps.Trainer, sample: samples.Sample) -> list[np.ndarray]:
    """Source, target and the image after each U-block, first channels."""
    stages = [image.numpy()[0] for image in trainer.stages(sample.source[None])]
    return [image[..., 0] for image in (sample.source, sample.target, *stages)]


def _validate(
    trainer: steps.Trainer, validation: list[samples.Sample]
) -> dict[str, float]:
    """Mean over patients of each metric."""
    scores = evaluate.score_slices(validation, trainer.translate, batch_size=1)
    return evaluate.summarise(scores.rows)["translated"].patient_mean


def _spread(
    dataset: records.Dataset, split: str, most: int
) -> list[samples.Sample]:
    """At most so many slices of a split, evenly spread over it."""
    count = dataset.num_slices(split)
    chosen = set(np.linspace(0, count - 1, min(most, count)).astype(int))
    return [s for i, s in enumerate(dataset.samples(split)) if i in chosen]


class _Clock:
    """Images per second, and the share of time spent waiting for input."""

    def __init__(self):
        self._start = time.perf_counter()
        self._waited = 0.0
        self._images = 0

    @contextlib.contextmanager
    def waiting(self):
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def count(self, images: int) -> None:
        self._images += images

    def read(self) -> dict[str, float]:
        """The figures since the last reading."""
        seconds = time.perf_counter() - self._start
        figures = {
            "perf/images_per_second": self._images / seconds,
            "perf/input_wait_share": self._waited / seconds,
        }
        self.__init__()
        return figures
