"""Translates a volume, or a folder of them, with an exported model.

OUTPUT lies on exactly the voxels of INPUT, in the unit of the target. If
INPUT is a folder, each .nii and .nii.gz in it goes to OUTPUT/ under its own
name.

Examples:
  predict.py --model=models/mr_ct mr.nii.gz synthetic_ct.nii.gz
  predict.py --model=models/mr_ct mr/ synthetic_ct/
"""

from __future__ import annotations

import functools
import os
import pathlib

from absl import flags

from medgan_tf import errors
from medgan_tf.tools import _run

_MODEL = flags.DEFINE_string(
    "model", None, "Folder that export.py wrote.", required=True
)
_SUFFIXES = (".nii", ".nii.gz")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 4, "Slices translated at a time.", lower_bound=1
)


def main(arguments: list[str]) -> None:
    from medgan_tf.data import io

    pairs = _pairs(*map(pathlib.Path, arguments))
    for _, output in pairs:
        io.check_writable(output)
    # Before TensorFlow is there: a file that is no volume is told at once.
    ready = {pairs[0]: io.read_volume(pairs[0][0])}

    _run.import_tensorflow()
    import tqdm

    from medgan_tf.serving import predict

    model = predict.load(_MODEL.value)

    def read(pair):
        return pair[0], ready.pop(pair, None) or io.read_volume(pair[0])

    def translate(named):
        source, volume = named
        try:
            return predict.translate_volume(
                model,
                volume,
                batch_size=_BATCH_SIZE.value,
                progress=functools.partial(
                    tqdm.tqdm, unit="batch", desc=source.name
                ),
            )
        except errors.DataError as error:
            raise errors.DataError(f"{source}: {error}") from error

    def write(pair, translated):
        source, output = pair
        io.write_volume(output, translated, like=source)
        print(
            f"{output}: {model.target.name} in {model.target.unit}, "
            f"{translated.array.min():.4g} to {translated.array.max():.4g}"
        )

    predict.translate_many(pairs, read, translate, write)
    if model.info["trained_on_simulated_images"]:
        print("The model was trained on simulated images.")
    print(model.info["intended_use"])


def _pairs(
    source: pathlib.Path, output: pathlib.Path
) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Each source and the file that its translation goes to."""
    if os.path.realpath(source) == os.path.realpath(output):
        raise errors.UsageError(
            f"INPUT and OUTPUT are both {source}; expected another name "
            "for OUTPUT, so that the source is kept."
        )
    if not os.path.isdir(source):
        return [(source, output)]
    found = sorted(
        file for file in source.iterdir() if file.name.endswith(_SUFFIXES)
    )
    if not found:
        raise errors.DataError(
            f"{source} holds no file that ends in {' or '.join(_SUFFIXES)}; "
            "give a volume, or a folder of them."
        )
    try:
        output.mkdir(exist_ok=True)
    except OSError as error:
        raise errors.ResourceError(
            f"{output} cannot be made ({error.strerror}); choose another "
            "folder as OUTPUT."
        ) from error
    return [(file, output / file.name) for file in found]


def run() -> None:
    _run.run(main, positional=("INPUT", "OUTPUT"))


if __name__ == "__main__":
    run()
