"""Exports a trained generator as a model that speaks physical units.

Writes OUTPUT_DIR/VERSION/ with the model, assets.extra/medgan.json for
programs and MODEL_CARD.md for people. A SavedModel (TensorFlow, TensorFlow
Serving) has the signatures serving_default (float slices), serve_png_bytes
(16-bit PNG files) and serve_examples. ONNX and TensorFlow Lite have float
slices alone and no checks; they are refused where they do not give the same
numbers as TensorFlow. Each format needs an OUTPUT_DIR of its own.

Examples:
  export.py --workdir=runs/mr_ct --output_dir=models/mr_ct
  export.py --workdir=runs/mr_ct --output_dir=models_onnx/mr_ct --format=onnx
"""

from __future__ import annotations

import os

from absl import flags

from medgan_tf import errors, sealed
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
_FORMAT = flags.DEFINE_enum(
    "format",
    "savedmodel",
    ["savedmodel", "onnx", "tflite"],
    "Of the model; onnx needs pip install 'medgan_tf[onnx]'.",
)


def main(_: list[str]) -> None:
    is_saved_model = _FORMAT.value == "savedmodel"
    if not is_saved_model and _PRECISION.value != "float32":
        raise errors.UsageError(
            f"--precision={_PRECISION.value} goes together with "
            "--format=savedmodel; leave it out."
        )
    _run.import_tensorflow()
    from medgan_tf.serving import export, model_card, predict, saved_model
    from medgan_tf.training import checkpoint

    write = saved_model.write
    if not is_saved_model:
        # Or tf2onnx copies the model, weights and all, at every step.
        os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
        from medgan_tf.serving import formats

        write = formats.WRITERS[_FORMAT.value]
    run = checkpoint.load_run(_WORKDIR.value)
    folder = export.export(
        run,
        run.restored_task(),
        _OUTPUT_DIR.value,
        version=_VERSION.value,
        which=_CHECKPOINT.value,
        precision=_PRECISION.value,
        write=write,
    )
    if not is_saved_model:
        info = sealed.read(folder / predict.INFO_FILE)
        print(formats.table(info))
    if run.data["is_simulated"]:
        print("Trained on simulated images.")
    print(f"Model: {folder}")
    print(f"What it is and is not for: {folder / model_card.FILE}")


def run() -> None:
    _run.run(main)


if __name__ == "__main__":
    run()
