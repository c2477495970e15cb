"""Trains a method on a task, or goes on with a run that was stopped.

Without --data_dir it trains on built-in patients, who are simulated.

Examples:
  train.py --task=pet_denoise
  train.py --task=mr_ct --method=medgan_1g --data_dir=data/mr_ct \\
      --workdir=runs/mr_ct --vgg_weights=vgg19.npz --max_steps=1500
"""

from __future__ import annotations

import functools
import os
import pathlib

from absl import flags

from medgan_tf import errors, methods, tasks
from medgan_tf.tools import _run, _training
from medgan_tf.training import config as configs

flags.adopt_module_key_flags(_training)

_METHOD = flags.DEFINE_enum(
    "method", "medgan", list(methods.METHODS), "How to train it."
)
_SET = flags.DEFINE_multi_string(
    "set",
    [],
    "field=value changes a field of the method, such as ngf=32 (an unknown "
    "field lists them all); may be given several times.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run folder (default: runs/TASK_METHOD)."
)
_VERIFY = flags.DEFINE_enum(
    "verify",
    "full",
    ["full", "size"],
    "What of the records is compared with dataset.json before the first step: "
    "every byte by SHA-256 (half a gigabyte a second), or the sizes.",
)

# So oneDNN, which convolves on some processors, tells a lack of memory.
_NO_PRIMITIVE = "could not create a primitive"


def main(_: list[str]) -> None:
    task = tasks.TASKS[_training.TASK.value]
    try:
        method = methods.override(methods.METHODS[_METHOD.value], _SET.value)
        config = _training.config()
    except ValueError as error:
        raise errors.UsageError(str(error)) from error
    workdir = _WORKDIR.value or f"runs/{task.name}_{method.name}"
    _run.show_log()
    _run.import_tensorflow()
    import tensorflow
    import tqdm

    from medgan_tf.data import records
    from medgan_tf.models import vgg19
    from medgan_tf.training import loop, runtime

    if config.deterministic:
        runtime.make_deterministic()
    strategy = runtime.strategy(
        config.distribute, config.batch_size, config.cluster_timeout_s
    )
    is_cluster = isinstance(
        strategy, tensorflow.distribute.MultiWorkerMirroredStrategy
    )
    if is_cluster and not _training.DATA_DIR.value:
        raise errors.UsageError(
            "several workers need records that all of them can read; expected "
            "--data_dir, from prepare_data.py."
        )
    if method.vgg_layers:
        # Weights that are missing are told before any work is done.
        vgg19.VGG19Features(method.vgg_layers, config.vgg_weights)

    if _training.DATA_DIR.value:
        dataset = records.open_dataset(_training.DATA_DIR.value)
    else:
        dataset = _phantoms(task, pathlib.Path(workdir))
    if _VERIFY.value == "full":
        records.check_whole(dataset)
    try:
        run = loop.train(
            task,
            method,
            config,
            dataset,
            workdir,
            progress=functools.partial(
                tqdm.tqdm, unit="step", desc=method.name
            ),
            strategy=strategy,
        )
    except (
        MemoryError,
        tensorflow.errors.ResourceExhaustedError,
        tensorflow.errors.AbortedError,
    ) as error:
        if isinstance(error, tensorflow.errors.AbortedError) and (
            _NO_PRIMITIVE not in error.message
        ):
            raise
        # A disk that is full has been told by then.
        raise errors.ResourceError(_too_large(config, method)) from error
    print(f"Run: {run.workdir}")
    print(f"Look at it: tensorboard --logdir={run.workdir}")


def _too_large(config: configs.TrainConfig, method: methods.Method) -> str:
    """What took the memory, and what would take less."""
    ways = ["another --precision", "a smaller --set=ngf"]
    if not config.recompute:
        ways.insert(0, "--recompute")
    if config.batch_size > config.accumulate:
        ways.insert(0, f"--accumulate={2 * config.accumulate}")
    parts = "1 part" if config.accumulate == 1 else f"{config.accumulate} parts"
    return (
        f"out of memory with --batch_size={config.batch_size} in {parts} of "
        f"256 x 256 pixels, --set=num_u_blocks={method.num_u_blocks} and "
        f"--set=ngf={method.ngf}; try {', '.join(ways[:-1])} or {ways[-1]}: "
        "the same command goes on from the last checkpoint."
    )


def _phantoms(task: tasks.Task, workdir: pathlib.Path):
    """The built-in patients beside the run folder, made once."""
    import tqdm

    from medgan_tf.data import pairs, prepare, records

    count = _training.NUM_PHANTOMS.value
    print(
        f"No --data_dir: training on {count} built-in patients; these are "
        "simulated images.",
        flush=True,
    )
    name = f"{task.name}_phantoms_{count}_{_training.SEED.value}"
    folder = workdir.absolute().parent / name
    if (folder / records.INFO_FILE).exists():
        return records.open_dataset(folder)
    return prepare.prepare_phantoms(
        task,
        count,
        folder,
        options=pairs.Options(seed=_training.SEED.value),
        workers=os.cpu_count() or 1,
        start_worker=_run.start_worker,
        progress=functools.partial(
            tqdm.tqdm, total=count, unit="patient", desc=task.name
        ),
    )


def run() -> None:
    _run.run(main)


if __name__ == "__main__":
    run()
