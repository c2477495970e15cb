"""Exports a trained generator as a SavedModel that speaks physical units.

Example:
  export.py --workdir=runs/mr_ct --output_dir=models/mr_ct
"""

from __future__ import annotations

from absl import flags

from medgan_tf.tools import _run

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run folder of train.py.", required=True
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "Folder of the model; OUTPUT_DIR/VERSION/ is written.",
    required=True,
)
_VERSION = flags.DEFINE_integer(
    "version", 1, "Number of the version; servers pick the highest.", 1
)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Best by validation, or the last."
)

_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "bfloat16"],
    "Of the exported weights; bfloat16 halves them.",
)


def main(_: list[str]) -> None:
    _run.import_tensorflow()
    from medgan_tf.serving import export
    from medgan_tf.training import checkpoint

    run = checkpoint.load_run(_WORKDIR.value)
    folder = export.export(
        run,
        run.restored_task(),
        _OUTPUT_DIR.value,
        version=_VERSION.value,
        which=_CHECKPOINT.value,
        precision=_PRECISION.value,
    )
    if run.data["is_simulated"]:
        print("Trained on simulated images.")
    print(f"Model: {folder}")


def run() -> None:
    _run.run(main)


if __name__ == "__main__":
    run()
