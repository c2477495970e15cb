"""Translates a volume, a folder of them or a BIDS data set.

OUTPUT lies on exactly the voxels of INPUT, in the unit of the target. If
INPUT is a folder of volumes, files or folders of DICOM, each of them goes to
OUTPUT/ under its own name; a folder of DICOM files or of PNG slices is one
volume. Where INPUT is DICOM, an OUTPUT that names no format becomes a new
folder with a derived DICOM series.
Where it is a BIDS data set, OUTPUT becomes a BIDS derivative data set. A
volume that cannot be translated is told in a line, the others go on, and the
exit code is then 3.

--model more than once, --planes=three and --tta translate each volume several
times; OUTPUT is then the median. --planes=three is an experiment: the network
was trained on axial slices.

Examples:
  predict.py --model=models/mr_ct mr.nii.gz synthetic_ct.nii.gz
  predict.py --model=models/mr_ct mr/ synthetic_ct/
  predict.py --model=a --model=b --tta --uncertainty_output=sd.mha mr.mha ct.mha
  predict.py --model=m --bids_source=T1w study study/derivatives/medgan
"""

from __future__ import annotations

import functools
import os
import pathlib
import sys

from absl import flags

from medgan_tf import errors
from medgan_tf.tools import _run

_MODEL = flags.DEFINE_multi_string(
    "model",
    None,
    "Folder that export.py wrote; given more than once, an ensemble of models "
    "of one task.",
    required=True,
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
_PLANES = flags.DEFINE_enum(
    "planes",
    "axial",
    ["axial", "three"],
    "Slices along which axes; three adds coronal and sagittal ones, on which "
    "the network was not trained.",
)
_TTA = flags.DEFINE_bool(
    "tta",
    False,
    "Also translate the image mirrored left to right, as half of the slices "
    "in training were.",
)
_UNCERTAINTY = flags.DEFINE_string(
    "uncertainty_output",
    None,
    "Volume, or folder where OUTPUT is one, for the standard deviation of "
    "several models, planes and --tta, in the unit of the target.",
)
_BIDS_SOURCE = flags.DEFINE_string(
    "bids_source",
    None,
    "Which images of a BIDS data set: the suffix, and before it entities that "
    "the name must have, such as acq-headmotion*_T1w.",
)


def main(arguments: list[str]) -> None:
    from medgan_tf.data import io
    from medgan_tf.serving import cohort

    source, output = map(pathlib.Path, arguments)
    _check_answers()
    spread = _UNCERTAINTY.value and pathlib.Path(_UNCERTAINTY.value)
    items = cohort.find(
        source, output, spread, _BIDS_SOURCE.value, _MORE_INPUTS.value
    )
    is_one = items[0].source == source
    if _MORE_INPUTS.value and not is_one:
        raise errors.UsageError(
            "--more_inputs go with one INPUT; expected a volume, got the "
            f"folder {source}."
        )
    cohort.check_outputs(items, source)
    # Before TensorFlow is there: a file that is no volume is told at once.
    spacing_mm = _SPACING.value and _run.numbers("spacing_mm", _SPACING.value)
    more = [
        io.read_volume(path, spacing_mm=spacing_mm)
        for path in _MORE_INPUTS.value
    ]
    ready = {}
    if is_one:
        ready[source] = io.read_volume(source, spacing_mm=spacing_mm)

    _run.show_log()
    _run.import_tensorflow()
    import tqdm

    from medgan_tf.serving import derivative, fusion, predict

    models = {name: predict.load(name) for name in _MODEL.value}
    fusion.check_ensemble(models)
    if _TTA.value:
        fusion.check_mirrored(models)
    (first, *_) = models.values()
    task, title = first.task, first.info["title"]
    folders = items[0].outputs if items[0].dataset else []
    items = cohort.placed(items, task)
    for folder in folders:
        derivative.write_description(folder, source, title)
    for path, modality in zip(
        _MORE_INPUTS.value, task.more_sources, strict=False
    ):
        cohort.check_claims(pathlib.Path(path), modality)

    def read(item):
        cohort.check_claims(item.source, task.source)
        volume = ready.pop(item.source, None)
        return item, volume or io.read_volume(
            item.source, spacing_mm=spacing_mm
        )

    def translate(named):
        item, volume = named
        try:
            return fusion.translate_volume(
                list(models.values()),
                [volume, *more],
                planes=_PLANES.value,
                mirror=_TTA.value,
                batch_size=_BATCH_SIZE.value,
                progress=functools.partial(
                    tqdm.tqdm, unit="batch", desc=item.source.name
                ),
            )
        except errors.DataError as error:
            raise errors.DataError(f"{item.source}: {error}") from error

    def write(item, translated):
        volume, spread = translated
        cohort.write(item, volume, spread, task, title)
        print(
            f"{item.output}: {task.target.name} in {task.target.unit}, "
            f"{volume.array.min():.4g} to {volume.array.max():.4g}"
        )
        if item.spread:
            print(
                f"{item.spread}: standard deviation in {task.target.unit}, "
                f"up to {spread.array.max():.4g}"
            )

    failures = []

    def failed(item, error):
        failures.append(item)
        print(f"predict.py: {error}", file=sys.stderr)

    predict.translate_many(
        items, read, translate, write, None if is_one else failed
    )
    if any(m.info["trained_on_simulated_images"] for m in models.values()):
        print("The model was trained on simulated images.")
    print(first.info["intended_use"])
    if failures:
        raise errors.DataError(
            f"{len(failures)} of {len(items)} volumes were not translated, "
            "see above; mend or remove them, and translate them again."
        )


def _check_answers() -> None:
    """Refuses a spread of one answer, alone or given twice."""
    folders = _MODEL.value
    if len(set(map(os.path.realpath, folders))) < len(folders):
        raise errors.UsageError(
            f"--model is given as {' and '.join(folders)}; expected different "
            "models: give each once."
        )
    if _UNCERTAINTY.value and not (
        _TTA.value or _PLANES.value == "three" or len(folders) > 1
    ):
        raise errors.UsageError(
            "--uncertainty_output needs several answers, there is one; give "
            "--tta, --planes=three or --model more than once."
        )


def run() -> None:
    _run.run(main, positional=("INPUT", "OUTPUT"))


if __name__ == "__main__":
    run()
