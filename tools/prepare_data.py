"""Turns files of patients into records for training.

Say where the patients are in one of three ways:
  --manifest=pairs.csv            columns patient,source,target
  --input_dir=DIR --source='*/MR.nii.gz' --target='*/CT.nii.gz'
  neither                         built-in patients, who are simulated
For pet_denoise and mr_motion the source may be left out: it is simulated
from the target.

Example:
  prepare_data.py --task=mr_ct --input_dir=study --source='*/MR.nii.gz' \\
      --target='*/CT.nii.gz' --output_dir=data/mr_ct
"""

from __future__ import annotations

import functools
import math
import os

from absl import flags

from medgan_tf import errors, tasks
from medgan_tf.tools import _run

_TASK = flags.DEFINE_enum(
    "task", None, list(tasks.TASKS), "What to translate.", required=True
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "New folder for the records.", required=True
)
_MANIFEST = flags.DEFINE_string(
    "manifest", None, "CSV file with the columns patient,source,target."
)
_INPUT_DIR = flags.DEFINE_string(
    "input_dir", None, "Folder with a folder for each patient."
)
_SOURCE = flags.DEFINE_string(
    "source", None, "Pattern of the source volumes below --input_dir."
)
_TARGET = flags.DEFINE_string(
    "target", None, "Pattern of the target volumes below --input_dir."
)
_TEST = flags.DEFINE_list(
    "test_patients", [], "Patients to test on; default: drawn, see --split."
)
_VALIDATION = flags.DEFINE_list(
    "validation_patients", [], "Patients to validate on; default: drawn."
)
_SPLIT = flags.DEFINE_list(
    "split",
    ["0.7", "0.1", "0.2"],
    "Shares of patients for training, validation and test.",
)
_VOXEL_SIZE = flags.DEFINE_list(
    "voxel_size_mm",
    None,
    "Spacing of the slice grid along left, posterior and superior in mm, "
    "instead of the task's; 'keep' keeps the source's.",
)
_PHANTOMS = flags.DEFINE_integer(
    "num_phantoms", 20, "How many built-in patients to make.", lower_bound=3
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the split and the simulators.", 0)
_WORKERS = flags.DEFINE_integer(
    "workers", os.cpu_count(), "Processes to work with.", lower_bound=1
)


def main(_: list[str]) -> None:
    if _MANIFEST.value and _INPUT_DIR.value:
        raise errors.UsageError(
            "got --manifest and --input_dir; expected one of them."
        )
    if bool(_INPUT_DIR.value) != bool(_TARGET.value):
        raise errors.UsageError(
            "--input_dir and --target go together; give both or neither."
        )
    if _SOURCE.value and not _INPUT_DIR.value:
        raise errors.UsageError("--source goes together with --input_dir.")
    if (_TEST.value or _VALIDATION.value) and not (
        _MANIFEST.value or _INPUT_DIR.value
    ):
        raise errors.UsageError(
            "--test_patients and --validation_patients name patients of a "
            "--manifest or --input_dir; give one."
        )
    task = tasks.with_voxel_size(
        tasks.TASKS[_TASK.value], _voxel_size(_VOXEL_SIZE.value)
    )
    fractions = _numbers("split", _SPLIT.value)
    if len(fractions) != 3:
        raise errors.UsageError(
            f"--split={','.join(_SPLIT.value)}: expected three shares, such as "
            "0.7,0.1,0.2."
        )

    pairs, split = _cohort(fractions)
    _run.import_tensorflow()
    import tqdm

    from medgan_tf.data import prepare

    progress = functools.partial(tqdm.tqdm, unit="patient", desc=task.name)
    if not pairs:
        dataset = prepare.prepare_phantoms(
            task,
            _PHANTOMS.value,
            _OUTPUT_DIR.value,
            seed=_SEED.value,
            workers=_WORKERS.value,
            progress=functools.partial(progress, total=_PHANTOMS.value),
        )
    else:
        dataset = prepare.prepare_files(
            task,
            pairs,
            _OUTPUT_DIR.value,
            split=split,
            seed=_SEED.value,
            workers=_WORKERS.value,
            progress=functools.partial(progress, total=len(pairs)),
        )
    for name in dataset.info["splits"]:
        print(
            f"{name}: {dataset.num_slices(name)} slices of "
            f"{len(dataset.patients(name))} patients"
        )
    shares = dataset.info["clipped_share"]
    print(
        f"Beyond the intensity window: {shares['source']:.3%} of the source "
        f"voxels, {shares['target']:.3%} of the target voxels."
    )
    if dataset.info["is_simulated"]:
        print(f"Simulated images ({dataset.info['origin']}).")
    print(f"Records: {dataset.folder}")


def _cohort(fractions: tuple[float, ...]):
    """Pairs of files and their split; empty if there are none to be read."""
    # NumPy is enough for this, so a mistake is told before TensorFlow is in.
    from medgan_tf.data import manifest
    from medgan_tf.data import split as splits

    if _MANIFEST.value:
        pairs = manifest.read_csv(_MANIFEST.value)
    elif _INPUT_DIR.value:
        pairs = manifest.match_globs(
            _INPUT_DIR.value, _SOURCE.value, _TARGET.value
        )
    else:
        return [], {}
    split = splits.split_patients(
        [pair.patient for pair in pairs],
        test=_TEST.value,
        validation=_VALIDATION.value,
        fractions=fractions,
        seed=_SEED.value,
    )
    return pairs, split


def _voxel_size(texts: list[str] | None):
    if texts is None:
        return None
    kept = [None if text == "keep" else text for text in texts]
    sizes = _numbers("voxel_size_mm", [t for t in kept if t is not None])
    if len(kept) != 3 or any(size <= 0 for size in sizes):
        raise errors.UsageError(
            f"--voxel_size_mm={','.join(texts)}: expected three positive "
            "numbers or 'keep', such as 1,1,keep."
        )
    numbers = iter(sizes)
    return tuple(None if text is None else next(numbers) for text in kept)


def _numbers(flag: str, texts: list[str]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(text) for text in texts)
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise errors.UsageError(
            f"--{flag}={','.join(texts)}: expected numbers; see --help"
        )
    return numbers


def run() -> None:
    _run.run(main)


if __name__ == "__main__":
    run()
