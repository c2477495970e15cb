"""How long, how fast, on what: the flags of every script that trains.

Such a script calls `flags.adopt_module_key_flags(_training)`, so that its
`--help` names them.
"""

from __future__ import annotations

from absl import flags

from medgan_tf import tasks
from medgan_tf.training import config as configs

_DEFAULTS = configs.TrainConfig()

TASK = flags.DEFINE_enum(
    "task", None, list(tasks.TASKS), "What to translate.", required=True
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Of the weights, the order of slices and the jitter.", 0
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Records from prepare_data.py."
)
NUM_PHANTOMS = flags.DEFINE_integer(
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
    "deterministic": "The same bits every time on the same machine and "
    "versions: free on a CPU, slower on a GPU.",
    "distribute": "none, mirrored (all GPUs), multiworker (TF_CONFIG), or "
    "auto.",
    "cluster_timeout_s": "Seconds to wait for the other workers; then it ends "
    "with exit code 142.",
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
    "on_divergence": "When the training has diverged: warn, stop, or rollback "
    "to the checkpoint before, with half the learning rate.",
    "divergence_steps": "Steps in a row after which a sign of divergence is "
    "told; twice as many are divergence.",
    "max_skipped_steps": "Stop after so many steps that were not finite.",
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


def config() -> configs.TrainConfig:
    """The settings that the flags say.

    Raises:
      ValueError: they do not fit together.
    """
    return configs.TrainConfig(
        seed=SEED.value,
        **{name: flag.value for name, flag in _CONFIG.items()},
    )
