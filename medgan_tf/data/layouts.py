"""Where public data sets and hospitals keep what belongs together.

To add a layout, write a function and add a line to LAYOUTS.
"""

from __future__ import annotations

import collections
import fnmatch
import pathlib
import re
from collections.abc import Callable, Iterable

from medgan_tf import errors, tasks
from medgan_tf.data import dicom, manifest


def find(
    layout: str,
    folder: pathlib.Path,
    task: tasks.Task,
    *,
    source: str = "",
    target: str = "",
    data_root: pathlib.Path | None = None,
) -> list[manifest.Study]:
    """The studies of a task in a folder of a known layout.

    Args:
      layout: a name of LAYOUTS.
      folder: its top.
      task: says which modalities are wanted.
      source: narrows what may be the source, where a layout has several; see
        its function.
      target: the same for the target.
      data_root: the folder that no link may lead out of; None: `folder`.

    Raises:
      DataError: the folder holds nothing for the task, or a study has several
        images that could be meant.
    """
    manifest.check_folder(folder)
    if task.more_sources:
        raise errors.DataError(
            f"--layout={layout} finds one source an image; expected a "
            "--manifest with the columns source, source_2 and so on."
        )
    studies = LAYOUTS[layout](folder, task, source, target)
    if not studies:
        wanted = [] if task.simulator else [task.source.name]
        raise errors.DataError(
            f"{folder}: found no study with "
            f"{' and '.join([*wanted, task.target.name])} in the layout "
            f"{layout}, expected some; check --input_dir and --task."
        )
    return manifest.checked(studies, str(folder), folder, data_root)


def _synthrad(suffix: str) -> Callable:
    """Case folders `[Task1/<region>/]<case>/{mr,ct}<suffix>`; 2023 and 2025.

    `--source=NAME` takes that file instead of the one named like the
    modality.
    """

    def studies(folder, task, source, target):
        names = (
            f"{source or task.source.name.lower()}{suffix}",
            f"{target or task.target.name.lower()}{suffix}",
        )
        for file in sorted(folder.rglob(names[1])):
            sources = (file.with_name(names[0]),)
            if task.simulator and not source:
                sources = ()
            elif not sources[0].exists():
                continue
            yield manifest.Study(file.parent.name, sources, file)

    return lambda *arguments: list(studies(*arguments))


def _autopet(folder, task, source, target) -> list[manifest.Study]:
    """`<patient>/<study>/{SUV,CT}.nii.gz`; the CT on its own grid.

    `--target=CTres` takes the CT on the grid of the PET.
    """
    names = {"PET": "SUV", "CT": "CT"}
    studies = []
    file_name = f"{target or names.get(task.target.name, '-')}.nii.gz"
    for file in sorted(folder.glob(f"*/*/{file_name}")):
        beside = source or names.get(task.source.name, "-")
        sources = (file.with_name(f"{beside}.nii.gz"),)
        if task.simulator and not source:
            sources = ()
        elif not sources[0].exists():
            continue
        study = file.parent
        ct = file.with_name("CT.nii.gz")
        studies.append(
            manifest.Study(
                study.parent.name,
                sources,
                file,
                study.name,
                ct if _is_for_attenuation(task, sources, ct) else None,
            )
        )
    return studies


def _is_for_attenuation(task, sources, ct: pathlib.Path) -> bool:
    """Whether a PET is to be simulated, and its CT is there."""
    return task.simulator == "low_count_pet" and not sources and ct.exists()


# What a BIDS file must say of itself, by task: (source, target).
_BIDS_RULES = {
    "mr_motion": ("acq-headmotion*_T1w", "acq-standard_T1w"),
    "pet_ct": ("pet", "ct"),
    "pet_denoise": ("", "pet"),
    "mr_ct": ("T1w", "ct"),
}


def _bids(folder, task, source, target) -> list[manifest.Study]:
    """BIDS: `sub-*/[ses-*/]*/sub-*_<entities>_<suffix>.nii[.gz]`.

    `--source` and `--target` are rules such as `acq-headmotion1_T1w`: the
    suffix, and the entities that a file must have; `*` stands for anything.
    Source and target agree in `sub` and, where both have one, in `ses`. Each
    source is a study of its own, so two scans with motion share their target.
    """
    source, target = (
        given or rule
        for given, rule in zip(
            (source, target), _BIDS_RULES[task.name], strict=True
        )
    )
    files = _bids_files(folder)
    targets = collections.defaultdict(list)
    for file in files:
        if _fits(file, target):
            targets[_session(file)].append(file)
    for found in targets.values():
        _only(found, "--target", "a rule such as acq-standard_T1w")
    if not source:
        return [
            manifest.Study(key[0], (), found[0], key[1])
            for key, found in targets.items()
        ]
    studies = []
    for file in files:
        patient, session = _session(file)
        found = targets.get((patient, session)) or targets.get((patient, ""))
        if not _fits(file, source) or not found:
            continue
        others = [
            f
            for f in files
            if _fits(f, source) and _session(f) == (patient, session)
        ]
        entities = file.name.split(".")[0].split("_")[1:-1]
        name = "_".join(entities) if len(others) > 1 else session
        studies.append(manifest.Study(patient, (file,), found[0], name))
    return studies


def bids_images(folder: pathlib.Path, rule: str) -> list[pathlib.Path]:
    """The images of a BIDS data set that fit a rule, sorted by name.

    Args:
      folder: holds `dataset_description.json`; its `derivatives/` are others.
      rule: the suffix, and before it the entities that a file must have, such
        as `acq-standard_T1w`; in these `*` stands for anything.
    """
    return [file for file in _bids_files(folder) if _fits(file, rule)]


def _bids_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        file
        for file in folder.glob("sub-*/**/*")
        if re.search(r"^sub-[^_]+_.*\.nii(\.gz)?$", file.name)
    )


def _fits(file: pathlib.Path, rule: str) -> bool:
    """Whether a BIDS file has the suffix and the entities of a rule."""
    *wanted, suffix = rule.split("_")
    *entities, own = file.name.split(".")[0].split("_")
    return own == suffix and all(
        any(fnmatch.fnmatchcase(entity, one) for entity in entities)
        for one in wanted
    )


def _session(file: pathlib.Path) -> tuple[str, str]:
    entities = dict(
        part.split("-", 1) for part in file.name.split("_") if "-" in part
    )
    return f"sub-{entities['sub']}", entities.get("ses", "")


# DICOM's word for a modality.
_DICOM_MODALITIES = {"PET": "PT", "CT": "CT", "MR": "MR"}


def _dicom(folder, task, source, target) -> list[manifest.Study]:
    """A tree of DICOM files, in whatever folders.

    Source and target are series of one patient in one frame of reference, each
    in one folder, alone or among others. `--source` and `--target` are patterns
    of the series' descriptions, for patients with several series of a modality.
    """
    groups = collections.defaultdict(list)
    for series in dicom.list_series(folder):
        groups[series.patient, series.frame_of_reference].append(series)
    patients = collections.Counter(patient for patient, _ in groups)
    studies = []
    for (patient, frame), group in sorted(groups.items()):

        def chosen(modality, pattern, group=group):
            found = [
                series
                for series in group
                if series.modality == _DICOM_MODALITIES[modality.name]
                and fnmatch.fnmatch(series.description, pattern or "*")
            ]
            for series in found:
                _check_series(series)
            return [series.files[0] for series in found]

        targets = chosen(task.target, target)
        sources = chosen(task.source, source)
        if task.simulator and not source:
            sources = []
        if not targets or not (sources or task.simulator):
            continue
        _only(targets, "--target", "a pattern of its description")
        _only(sources, "--source", "a pattern of its description")
        ct = chosen(tasks.CT, "") if task.target == tasks.PET else []
        if task.simulator != "low_count_pet" or sources:
            ct = []
        _only(ct, "a --manifest", "whose column ct names the attenuation")
        # A frame of reference says nothing to people; its end tells apart.
        name = frame.rsplit(".", 1)[-1] if patients[patient] > 1 else ""
        studies.append(
            manifest.Study(
                patient,
                tuple(sources[:1]),
                targets[0],
                name,
                ct[0] if ct else None,
            )
        )
    return studies


def _check_series(series: dicom.Series) -> None:
    """Refuses a series that cannot be told from others, or is torn apart."""
    if not series.patient:
        raise errors.refusal(
            series.files[0],
            "no PatientID",
            "one, because patients are split by it",
            "write a --manifest that names the patients",
        )
    folders = sorted({file.parent for file in series.files})
    if len(folders) > 1:
        raise errors.refusal(
            folders[0],
            f"a part of series {series.series_uid}, another in {folders[1]}",
            "each series in one folder",
            "put its files together, or remove what is there twice",
        )


def _only(found: Iterable[pathlib.Path], flag: str, remedy: str) -> None:
    """Refuses a choice that is the user's."""
    if len(found := list(found)) > 1:
        raise errors.DataError(
            f"{found[0]} and {found[1]} could both be meant; expected one: "
            f"narrow it by {flag}, {remedy}."
        )


# Name -> function of (folder, task, source, target).
LAYOUTS = {
    "synthrad2023": _synthrad(".nii.gz"),
    "synthrad2025": _synthrad(".mha"),
    "autopet": _autopet,
    "bids": _bids,
    "dicom": _dicom,
}
