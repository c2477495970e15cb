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
from medgan_tf.tools import _run
from medgan_tf.training import config as configs

_DEFAULTS = configs.TrainConfig()

_TASK = flags.DEFINE_enum(
    "task", None, list(tasks.TASKS), "What to translate.", required=True
)
_METHOD = flags.DEFINE_enum(
    "method", "medgan", list(methods.METHODS), "How to train it."
)
_SET = flags.DEFINE_multi_string(
    "set",
    [],
    "field=value changes a field of the method, such as ngf=32 (an unknown "
    "field lists them all); may be given several times.",
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Of the weights, the order of slices and the jitter.", 0
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Records from prepare_data.py."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run folder (default: runs/TASK_METHOD)."
)
_NUM_PHANTOMS = flags.DEFINE_integer(
    "num_phantoms", 20, "Built-in patients, without --data_dir.", lower_bound=3
)
# One flag for each field of TrainConfig, but for the seed that all scripts
# have.
_HELP = {
    "epochs": "Passes over the training slices.",
    "max_steps": "Discriminator steps at most; 0: no limit.",
    "batch_size": "Slices per step, over all devices.",
    "accumulate": "Parts in which a batch is computed; saves memory.",
    "recompute": "Compute U-blocks again going backward; saves memory.",
    "precision": "float32, mixed_bfloat16, mixed_float16, or auto: what the "
    "hardware is fast in.",
    "xla": "Compile the whole step: on, off, or auto (on a GPU).",
    "distribute": "none, mirrored (all GPUs), multiworker (TF_CONFIG), or "
    "auto.",
    "steps_per_execution": "Steps between two looks from Python.",
    "vgg_weights": "imagenet (downloaded once), a file, or random.",
    "jitter_size": "Enlarge to this side, crop back to 256; 256: never.",
    "flip": "Mirror half of the slices left to right.",
    "summary_every": "Steps between logged numbers.",
    "image_every": "Steps between logged images.",
    "save_every": "Steps between checkpoints.",
    "validate_every": "Steps between validations; 0: each epoch.",
    "validation_slices": "Slices at most for each validation.",
    "best_metric": "By which the best checkpoint is chosen: mae, ssim, psnr or "
    "mse.",
    "patience": "Stop after so many validations in a row without a better one; "
    "0: never.",
}
_DEFINE = {
    int: flags.DEFINE_integer,
    str: flags.DEFINE_string,
    bool: flags.DEFINE_boolean,
}
_CONFIG = {
    name: _DEFINE[type(getattr(_DEFAULTS, name))](
        name, getattr(_DEFAULTS, name), text
    )
    for name, text in _HELP.items()
}


def main(_: list[str]) -> None:
    task = tasks.TASKS[_TASK.value]
    try:
        method = methods.override(methods.METHODS[_METHOD.value], _SET.value)
        config = configs.TrainConfig(
            seed=_SEED.value,
            **{name: flag.value for name, flag in _CONFIG.items()},
        )
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

    strategy = runtime.strategy(config.distribute, config.batch_size)
    is_cluster = isinstance(
        strategy, tensorflow.distribute.MultiWorkerMirroredStrategy
    )
    if is_cluster and not _DATA_DIR.value:
        raise errors.UsageError(
            "several workers need records that all of them can read; expected "
            "--data_dir, from prepare_data.py."
        )
    if method.vgg_layers:
        # Weights that are missing are told before any work is done.
        vgg19.VGG19Features(method.vgg_layers, config.vgg_weights)

    if _DATA_DIR.value:
        dataset = records.open_dataset(_DATA_DIR.value)
    else:
        dataset = _phantoms(task, pathlib.Path(workdir))
    run = loop.train(
        task,
        method,
        config,
        dataset,
        workdir,
        progress=functools.partial(tqdm.tqdm, unit="step", desc=method.name),
        strategy=strategy,
    )
    print(f"Run: {run.workdir}")
    print(f"Look at it: tensorboard --logdir={run.workdir}")


def _phantoms(task: tasks.Task, workdir: pathlib.Path):
    """The built-in patients beside the run folder, made once."""
    import tqdm

    from medgan_tf.data import pairs, prepare, records

    count = _NUM_PHANTOMS.value
    print(
        f"No --data_dir: training on {count} built-in patients; these are "
        "simulated images.",
        flush=True,
    )
    name = f"{task.name}_phantoms_{count}_{_SEED.value}"
    folder = workdir.absolute().parent / name
    if (folder / records.INFO_FILE).exists():
        return records.open_dataset(folder)
    return prepare.prepare_phantoms(
        task,
        count,
        folder,
        options=pairs.Options(seed=_SEED.value),
        workers=os.cpu_count() or 1,
        start_worker=_run.import_tensorflow,
        progress=functools.partial(
            tqdm.tqdm, total=count, unit="patient", desc=task.name
        ),
    )


def run() -> None:
    _run.run(main)


if __name__ == "__main__":
    run()
