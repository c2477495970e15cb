"""Where the patients are: the flags that say so, and what they lead to.

A script that works with them calls `flags.adopt_module_key_flags(_cohort)`,
so that its `--help` names them.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from medgan_tf import errors, tasks
from medgan_tf.tools import _run

if TYPE_CHECKING:
    from medgan_tf.data import manifest, pairs

TASK = flags.DEFINE_enum("task", None, list(tasks.TASKS), "What to translate.")
MANIFEST = flags.DEFINE_string(
    "manifest",
    None,
    "CSV file with the columns patient,source,target; if wanted source_2 and "
    "so on, study, ct, mu_map, split.",
)
INPUT_DIR = flags.DEFINE_string(
    "input_dir", None, "Folder with a folder for each patient."
)
_DATA_ROOT = flags.DEFINE_string(
    "data_root",
    None,
    "Folder that no path of a --manifest and no link may lead out of (default: "
    "that of the manifest, or --input_dir).",
)
_LAYOUT = flags.DEFINE_string(
    "layout", None, "Known layout of --input_dir, see above."
)
_SOURCE = flags.DEFINE_multi_string(
    "source",
    [],
    "Pattern of the source volumes below --input_dir; repeated, for each "
    "channel of the source. With a --layout it narrows what it may be.",
)
_TARGET = flags.DEFINE_string(
    "target", None, "Pattern of the target volumes below --input_dir."
)
_CT = flags.DEFINE_string(
    "ct",
    None,
    "Pattern of the CT below --input_dir, for the attenuation of a simulated "
    "PET.",
)
_MORE_SOURCES = flags.DEFINE_list(
    "more_sources",
    [],
    f"Modalities of the further sources: {', '.join(tasks.MODALITIES)}; "
    "default: each like the first.",
)
_TISSUES = flags.DEFINE_string(
    "tissues",
    "",
    "The targets are label maps, of tissues of this table: synthseg_head or "
    "brainweb.",
)
_SPACING = flags.DEFINE_list(
    "spacing_mm",
    None,
    "Distance of the voxels along X, Y and Z of PNG, TIFF and .npy, which do "
    "not say it.",
)
_VOXEL_SIZE = flags.DEFINE_list(
    "voxel_size_mm",
    None,
    "Spacing of the slice grid along left, posterior and superior in mm, "
    "instead of the task's; 'keep' keeps the source's.",
)
_TOO_LARGE = flags.DEFINE_enum(
    "too_large",
    "refuse",
    list(tasks.TOO_LARGE),
    "What to do with a body larger than a slice: refuse it, resample it so "
    "that it fits, or tile it with overlapping slices.",
)


class Cohort(NamedTuple):
    """What is to be translated, and of whom.

    Attributes:
      task: the row, on the user's data.
      studies: the files; none: built-in patients.
      options: of the preparation.
    """

    task: tasks.Task
    studies: list[manifest.Study]
    options: pairs.Options


def check_flags() -> None:
    """Refuses flags that do not go together.

    Raises:
      UsageError: they do not.
    """
    if MANIFEST.value and INPUT_DIR.value:
        raise errors.UsageError(
            "got --manifest and --input_dir; expected one of them."
        )
    if _DATA_ROOT.value and not (MANIFEST.value or INPUT_DIR.value):
        raise errors.UsageError(
            "--data_root goes together with --manifest or --input_dir."
        )
    if bool(INPUT_DIR.value) != bool(_TARGET.value or _LAYOUT.value):
        raise errors.UsageError(
            "--input_dir goes together with --target or --layout; give both "
            "or neither."
        )
    if (_SOURCE.value or _CT.value) and not INPUT_DIR.value:
        raise errors.UsageError(
            "--source and --ct go together with --input_dir."
        )
    if _LAYOUT.value and (_CT.value or len(_SOURCE.value) > 1):
        raise errors.UsageError(
            "--layout takes one --source and no --ct; use patterns or a "
            "--manifest instead."
        )
    if _TISSUES.value and (_SOURCE.value or not _TARGET.value):
        raise errors.UsageError(
            "--tissues goes together with --target, the label maps, and "
            "without --source."
        )


def read(**simulation) -> Cohort:
    """What the flags say, once `check_flags` has passed them.

    Args:
      **simulation: further fields of `pairs.Options`.

    Raises:
      UsageError: a flag has a wrong value.
      DataError: there is no such manifest or folder, or its files do not
        make a cohort.
    """
    task = _task(1)
    # Volumes are enough for this, so a mistake is told before TensorFlow is
    # in.
    from medgan_tf.data import pairs

    if _TISSUES.value and _TISSUES.value not in pairs.label_map.TABLES:
        raise errors.UsageError(
            f"--tissues={_TISSUES.value}: expected one of "
            f"{', '.join(pairs.label_map.TABLES)}."
        )
    options = pairs.Options(
        spacing_mm=_SPACING.value
        and _run.numbers("spacing_mm", _SPACING.value),
        tissues=_TISSUES.value,
        **simulation,
    )
    studies = _studies(task)
    if studies and studies[0].sources:
        task = _task(len(studies[0].sources))
    if len(_MORE_SOURCES.value) > len(task.more_sources):
        raise errors.UsageError(
            f"--more_sources={','.join(_MORE_SOURCES.value)}: there are no "
            "further sources; leave it out, or name their files."
        )
    return Cohort(task, studies, options)


def _task(num_sources: int) -> tasks.Task:
    """The task on the user's data."""
    task = tasks.TASKS[TASK.value]
    more = _MORE_SOURCES.value or [task.source.name] * (num_sources - 1)
    if unknown := set(more) - set(tasks.MODALITIES):
        raise errors.UsageError(
            f"--more_sources has {', '.join(sorted(unknown))}; expected some "
            f"of {', '.join(tasks.MODALITIES)}."
        )
    if num_sources > 1 and len(more) != num_sources - 1:
        raise errors.UsageError(
            f"--more_sources names {len(more)} modalities, expected "
            f"{num_sources - 1}: one for each source after the first."
        )
    return tasks.adapted(
        task,
        voxel_size_mm=_voxel_size(_VOXEL_SIZE.value),
        more_sources=more[: num_sources - 1],
        too_large=_TOO_LARGE.value,
    )


def _studies(task: tasks.Task) -> list:
    """The files to prepare; none: built-in patients."""
    from medgan_tf.data import layouts, manifest

    if MANIFEST.value:
        return manifest.read_csv(MANIFEST.value, _DATA_ROOT.value)
    if _LAYOUT.value:
        if _LAYOUT.value not in layouts.LAYOUTS:
            raise errors.UsageError(
                f"--layout={_LAYOUT.value}: expected one of "
                f"{', '.join(layouts.LAYOUTS)}."
            )
        return layouts.find(
            _LAYOUT.value,
            pathlib.Path(INPUT_DIR.value),
            task,
            source="".join(_SOURCE.value),
            target=_TARGET.value or "",
            data_root=_DATA_ROOT.value,
        )
    if INPUT_DIR.value:
        return manifest.match_globs(
            INPUT_DIR.value,
            _SOURCE.value,
            _TARGET.value,
            _CT.value,
            _DATA_ROOT.value,
        )
    return []


def _voxel_size(texts: list[str] | None):
    if texts is None:
        return None
    kept = [None if text == "keep" else text for text in texts]
    sizes = _run.numbers("voxel_size_mm", [t for t in kept if t is not None])
    if len(kept) != 3 or any(size <= 0 for size in sizes):
        raise errors.UsageError(
            f"--voxel_size_mm={','.join(texts)}: expected three positive "
            "numbers or 'keep', such as 1,1,keep."
        )
    rest = iter(sizes)
    return tuple(None if text is None else next(rest) for text in kept)
