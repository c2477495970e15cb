"""Translates a volume with an exported model.

OUTPUT lies on exactly the voxels of INPUT, in the unit of the target.

Example:
  predict.py --model=models/mr_ct mr.nii.gz synthetic_ct.nii.gz
"""

from __future__ import annotations

import functools
import os

from absl import flags

from medgan_tf import errors
from medgan_tf.tools import _run

_MODEL = flags.DEFINE_string(
    "model", None, "Folder that export.py wrote.", required=True
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 4, "Slices translated at a time.", lower_bound=1
)


def main(arguments: list[str]) -> None:
    from medgan_tf.data import io

    source_path, output_path = arguments
    if os.path.realpath(source_path) == os.path.realpath(output_path):
        raise errors.UsageError(
            f"INPUT and OUTPUT are both {source_path}; expected another name "
            "for OUTPUT, so that the source is kept."
        )
    io.check_writable(output_path)
    volume = io.read_volume(source_path)

    _run.import_tensorflow()
    import tqdm

    from medgan_tf.serving import predict

    model = predict.load(_MODEL.value)
    try:
        translated = predict.translate_volume(
            model,
            volume,
            batch_size=_BATCH_SIZE.value,
            progress=functools.partial(
                tqdm.tqdm, unit="batch", desc="translate"
            ),
        )
    except errors.DataError as error:
        raise errors.DataError(f"{source_path}: {error}") from error
    io.write_volume(output_path, translated, like=source_path)
    print(
        f"{output_path}: {model.target.name} in {model.target.unit}, "
        f"{translated.array.min():.4g} to {translated.array.max():.4g}"
    )
    if model.info["trained_on_simulated_images"]:
        print("The model was trained on simulated images.")
    print(model.info["intended_use"])


def run() -> None:
    _run.run(main, positional=("INPUT", "OUTPUT"))


if __name__ == "__main__":
    run()
