"""Translates a volume, or a folder of them, with an exported model.

OUTPUT lies on exactly the voxels of INPUT, in the unit of the target. If
INPUT is a folder of volumes, each of them goes to OUTPUT/ under its own name;
a folder of DICOM files or of PNG slices is one volume. Where INPUT is DICOM,
an OUTPUT without a suffix becomes a new folder with a derived DICOM series.

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
_MORE_INPUTS = flags.DEFINE_list(
    "more_inputs",
    [],
    "Volumes for the further channels of a model that was trained on several.",
)
_SPACING = flags.DEFINE_list(
    "spacing_mm",
    None,
    "Distance of the voxels along X, Y and Z of PNG, TIFF and .npy, which do "
    "not say it.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 4, "Slices translated at a time.", lower_bound=1
)


def main(arguments: list[str]) -> None:
    from medgan_tf.data import dicom_write, io

    pairs = _pairs(io, *map(pathlib.Path, arguments))
    for source, output in pairs:
        if _is_series(source, output):
            _check_folder(output)
        else:
            io.check_writable(output)
    # Before TensorFlow is there: a file that is no volume is told at once.
    spacing_mm = _SPACING.value and _run.numbers("spacing_mm", _SPACING.value)
    more = [
        io.read_volume(path, spacing_mm=spacing_mm)
        for path in _MORE_INPUTS.value
    ]
    first = io.read_volume(pairs[0][0], spacing_mm=spacing_mm)
    ready = {pairs[0]: first}

    _run.import_tensorflow()
    import tqdm

    from medgan_tf.serving import predict

    model = predict.load(_MODEL.value)
    target = model.task.target

    def read(pair):
        volume = ready.pop(pair, None)
        return pair[0], volume or io.read_volume(pair[0], spacing_mm=spacing_mm)

    def translate(named):
        source, volume = named
        try:
            return predict.translate_volume(
                model,
                [volume, *more],
                batch_size=_BATCH_SIZE.value,
                progress=functools.partial(
                    tqdm.tqdm, unit="batch", desc=source.name
                ),
            )
        except errors.DataError as error:
            raise errors.DataError(f"{source}: {error}") from error

    def write(pair, translated):
        source, output = pair
        if _is_series(source, output):
            dicom_write.write_derived(
                output,
                translated,
                source,
                modality={"PET": "PT"}.get(target.name, target.name),
                series_description=f"medgan_tf {model.info['title']}"[:64],
                description="Translated from another image by a network",
            )
        else:
            io.write_volume(output, translated, like=source)
        print(
            f"{output}: {target.name} in {target.unit}, "
            f"{translated.array.min():.4g} to {translated.array.max():.4g}"
        )

    predict.translate_many(pairs, read, translate, write)
    if model.info["trained_on_simulated_images"]:
        print("The model was trained on simulated images.")
    print(model.info["intended_use"])


def _pairs(
    io, source: pathlib.Path, output: pathlib.Path
) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Each source and the file that its translation goes to."""
    if os.path.realpath(source) == os.path.realpath(output):
        raise errors.UsageError(
            f"INPUT and OUTPUT are both {source}; expected another name "
            "for OUTPUT, so that the source is kept."
        )
    found = io.volumes_in(source) if os.path.isdir(source) else []
    if not found:
        return [(source, output)]
    if _MORE_INPUTS.value:
        raise errors.UsageError(
            "--more_inputs go with one INPUT; expected a volume, got the "
            f"folder {source}."
        )
    try:
        output.mkdir(exist_ok=True)
    except OSError as error:
        raise errors.ResourceError(
            f"{output} cannot be made ({error.strerror}); choose another "
            "folder as OUTPUT."
        ) from error
    return [(file, output / file.name) for file in found]


def _check_folder(output: pathlib.Path) -> None:
    """Refuses a folder that could not be made, before the work."""
    if not os.access(output.parent, os.W_OK | os.X_OK) or (
        os.path.exists(output)
        and not (output.is_dir() and not any(output.iterdir()))
    ):
        raise errors.ResourceError(
            f"{output}: cannot be made; expected a new folder in one that is "
            "writable."
        )


def _is_series(source: pathlib.Path, output: pathlib.Path) -> bool:
    """Whether the output is a folder with a series derived from the source."""
    from medgan_tf.data import io

    return not output.suffix and io.is_series(source)


def run() -> None:
    _run.run(main, positional=("INPUT", "OUTPUT"))


if __name__ == "__main__":
    run()
