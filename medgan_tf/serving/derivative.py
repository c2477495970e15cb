"""Translated images of a BIDS data set are a BIDS data set of their own.

The names and files are those of BIDS 1.10, "Derivatives": the entities of the
source are kept, `desc` says what was done, a sidecar says from what, and
`dataset_description.json` by which program. CT, which BIDS has no word for
yet, is `ct`, as in its proposal BEP024.
"""

from __future__ import annotations

import json
import os
import pathlib
import urllib.parse

import medgan_tf
from medgan_tf import errors, json_files, tasks

DESCRIPTION = "dataset_description.json"
_PROGRAM = "medgan_tf"

# Both the folder and the suffix of an image that is of another modality than
# its source.
_WORDS = {"CT": "ct", "PET": "pet"}


def is_dataset(folder: pathlib.Path) -> bool:
    """Whether a folder says that it is a BIDS data set."""
    return os.path.isfile(folder / DESCRIPTION)


def name_of(image: pathlib.Path, task: tasks.Task, label: str) -> pathlib.Path:
    """Where a translated image lies in the derivative data set.

    Args:
      image: relative to its data set, such as `sub-1/anat/sub-1_T1w.nii`.
      task: says whether it becomes another modality.
      label: of the entity `desc`; letters and digits.

    Returns:
      Such as `sub-1/ct/sub-1_desc-synthetic_ct.nii.gz`.

    Raises:
      UsageError: BIDS has no word for the target.
    """
    *entities, suffix = image.name.split(".")[0].split("_")
    folder = image.parent
    if task.target.name != task.source.name:
        if task.target.name not in _WORDS:
            raise errors.UsageError(
                f"{task.name} gives {task.target.name}, which has no one word "
                "in BIDS; give the images as a folder of volumes."
            )
        suffix = _WORDS[task.target.name]
        folder = folder.parent / suffix
    kept = [entity for entity in entities if not entity.startswith("desc-")]
    return folder / ("_".join([*kept, f"desc-{label}", suffix]) + ".nii.gz")


def check_output(folder: pathlib.Path) -> None:
    """Refuses a folder that is in use for anything else, before the work.

    Raises:
      ResourceError: it has files, but not of a data set that we derived, or
        it cannot be written.
    """
    parent = folder
    while not os.path.exists(parent):
        parent = parent.parent
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
        raise errors.ResourceError(
            f"{folder}: cannot be made; expected a folder that is writable: "
            "choose another."
        )
    if parent == folder and any(folder.iterdir()) and not _is_ours(folder):
        raise errors.ResourceError(
            f"{folder} is not empty, and no data set that predict.py wrote; "
            "choose a new folder for the derivatives."
        )


def write_description(
    folder: pathlib.Path, source: pathlib.Path, title: str
) -> None:
    """Writes `dataset_description.json`, which makes a folder a data set.

    Args:
      folder: of the derivative; made if needed.
      source: the data set that it is derived from; the link to it is
        relative, so that both can be moved together and no name of a user or
        a machine is kept.
      title: what was done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    link = pathlib.Path(os.path.relpath(source, folder)).as_posix()
    _write_json(
        folder / DESCRIPTION,
        {
            "Name": f"{title} by {_PROGRAM}",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [
                {
                    "Name": _PROGRAM,
                    "Version": medgan_tf.__version__,
                    "Description": title,
                }
            ],
            "SourceDatasets": [{"URL": urllib.parse.quote(link)}],
            "DatasetLinks": {"source": urllib.parse.quote(link)},
        },
    )


def write_sidecar(
    image: pathlib.Path, source: pathlib.Path, *, unit: str, description: str
) -> pathlib.Path:
    """Writes what an image is and where it is from, in JSON beside it.

    Args:
      image: the translated one.
      source: relative to its data set.
      unit: of the values.
      description: one sentence.

    Returns:
      The file written.
    """
    sidecar = image.with_name(image.name.split(".")[0] + ".json")
    _write_json(
        sidecar,
        {
            "Description": description,
            "Sources": [f"bids:source:{source.as_posix()}"],
            "Units": unit,
        },
    )
    return sidecar


def _is_ours(folder: pathlib.Path) -> bool:
    try:
        stored = json_files.read(folder / DESCRIPTION)
        return any(by["Name"] == _PROGRAM for by in stored["GeneratedBy"])
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _write_json(path: pathlib.Path, content: dict) -> None:
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        unfinished.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
