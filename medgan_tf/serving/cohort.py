"""Which images are to be translated, and the files that each of them becomes.

INPUT is one volume, a folder of volumes or a BIDS data set. What a file says
of its own modality and unit is compared with what the model was trained on;
that a file says nothing is no reason to refuse it.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from medgan_tf import errors, json_files, tasks
from medgan_tf.data import dicom, dicom_slice, dicom_write, io, layouts
from medgan_tf.data import volume as volumes
from medgan_tf.serving import derivative

# Words of BIDS, of DICOM and of dcm2niix's sidecars -> ours.
_FOLDERS = dict.fromkeys(("anat", "dwi", "func", "fmap", "perf"), "MR")
_FOLDERS |= {"pet": "PET", "ct": "CT"}
_DICOM = {"PT": "PET"}
# Units that are one and the same; MR has none to compare.
_SAME_UNIT = {
    "SUV": ("suv", "suvbw", "g/ml"),
    "HU": ("hu", "hounsfield", "hounsfield units"),
}


@dataclasses.dataclass(frozen=True)
class Item:
    """One image to be translated.

    Attributes:
      source: what is read.
      output: what is written: a file, or a new folder for a DICOM series.
      spread: the same for the standard deviation; None: not wanted.
      dataset: the BIDS data set that the source is of, else None.
    """

    source: pathlib.Path
    output: pathlib.Path
    spread: pathlib.Path | None = None
    dataset: pathlib.Path | None = None

    @property
    def outputs(self) -> list[pathlib.Path]:
        """All that is written."""
        return [path for path in (self.output, self.spread) if path]


def find(
    source: pathlib.Path,
    output: pathlib.Path,
    spread: pathlib.Path | None,
    rule: str | None,
    more: Sequence[str] = (),
) -> list[Item]:
    """The images of INPUT, and where each goes.

    Args:
      source: a volume, a folder of volumes or a BIDS data set.
      output: a file or series; a folder for a folder; for a data set the
        folder of its derivative, where each image lies as it did.
      spread: the same for standard deviations, or None.
      rule: which images of a BIDS data set, as `layouts.bids_images` takes
        it; None for anything else.
      more: further sources of the one volume, which stay as they are.

    Returns:
      At least one; of a data set the outputs are still relative to `output`
      and without their names, see `placed`.

    Raises:
      UsageError: two of the paths are one, or `rule` does not fit INPUT.
      DataError: a data set has no such image, or a folder is of slices and
        of volumes.
    """
    _check_apart(source, output, spread, more)
    if derivative.is_dataset(source):
        return _of_dataset(source, output, spread, rule)
    if rule:
        raise errors.UsageError(
            f"--bids_source={rule} is for BIDS data sets, {source} is none: "
            f"it has no {derivative.DESCRIPTION}; leave the flag out."
        )
    found = io.volumes_in(source) if os.path.isdir(source) else []
    if not found:
        return [Item(source, output, spread)]
    return [
        Item(path, output / path.name, spread and spread / path.name)
        for path in found
    ]


def placed(items: list[Item], task: tasks.Task) -> list[Item]:
    """The items with the names that images of BIDS get from the task.

    Raises:
      UsageError: BIDS has no word for the target.
      DataError: two images would get one name.
    """
    found, taken = [], {}
    for item in items:
        if item.dataset:
            image = item.source.relative_to(item.dataset)

            def place(folder, label, image=image):
                return folder / derivative.name_of(image, task, label)

            item = dataclasses.replace(
                item,
                output=place(item.output, "synthetic"),
                spread=item.spread and place(item.spread, "uncertainty"),
            )
        other = taken.setdefault(item.output, item.source)
        if other != item.source:
            raise errors.DataError(
                f"{other} and {item.source} would both become {item.output}; "
                "narrow them by --bids_source, or remove one."
            )
        found.append(item)
    return found


def check_outputs(items: list[Item], source: pathlib.Path) -> None:
    """Refuses what could not be written, before the work.

    Args:
      items: from `find`.
      source: INPUT; where it is a folder of volumes, those of the outputs
        are made.

    Raises:
      DataError: a name has a suffix that cannot be written.
      ResourceError: a file or folder is in use or not writable.
    """
    if items[0].dataset:
        for folder in items[0].outputs:
            derivative.check_output(folder)
        return
    for item in items:
        for path in item.outputs:
            if item.source != source:
                _make(path.parent)
            if _is_series(item.source, path):
                _check_folder(path)
            else:
                io.check_writable(path)


def check_claims(path: pathlib.Path, modality: tasks.Modality) -> None:
    """Refuses an image that says it is of another modality or unit.

    DICOM says its modality; NIfTI may in the JSON file beside it, as dcm2niix
    and BIDS write them ("Modality", "Units"), or by the folder of BIDS that it
    lies in.

    Raises:
      DataError: it is another, or the JSON file is damaged.
    """
    found = unit = None
    if io.is_series(path):
        first = dicom.files_of(path)[:1]
        for header in map(dicom_slice.read_header, first):
            found = dicom_slice.MODALITIES.get(header.get("SOPClassUID"))
    elif path.name.lower().endswith((".nii", ".nii.gz")):
        sidecar = _sidecar(path)
        found, unit = sidecar.get("Modality"), sidecar.get("Units")
        if not found and path.name.startswith("sub-"):
            found = _FOLDERS.get(path.parent.name)
    found = _DICOM.get(found, found)
    if isinstance(found, str) and found != modality.name:
        raise errors.refusal(
            path,
            dicom_slice.brief(found),
            f"{modality.name}, on which the model was trained",
            "give another image or another --model",
        )
    same = _SAME_UNIT.get(modality.unit)
    if isinstance(unit, str) and same and unit.lower() not in same:
        raise errors.refusal(
            path,
            dicom_slice.brief(f"Units {unit}"),
            modality.unit,
            f"convert the image to {modality.unit}",
        )


def write(
    item: Item,
    translated: volumes.Volume,
    spread: volumes.Volume | None,
    task: tasks.Task,
    title: str,
) -> None:
    """Writes a translated image and its standard deviation, each whole.

    The standard deviation comes first: a translated image that is there is
    complete.

    Args:
      item: from `placed`.
      translated: on the voxels of the source.
      spread: the same; written if `item.spread` is a path.
      task: gives the modality and unit.
      title: of the model.

    Raises:
      DataError: values are not finite.
      ResourceError: the disk is full, or a folder not writable.
    """
    if item.spread:
        _write(
            item,
            item.spread,
            spread,
            task,
            f"uncertainty of {title}",
            "Standard deviation of several translations of an image",
        )
    _write(
        item,
        item.output,
        translated,
        task,
        title,
        "Translated from another image by a network",
    )


def _write(item, path, volume, task, title, description) -> None:
    if _is_series(item.source, path):
        dicom_write.write_derived(
            path,
            volume,
            item.source,
            modality={"PET": "PT"}.get(task.target.name, task.target.name),
            series_description=f"medgan_tf {title}"[:64],
            description=description,
        )
        return
    if not item.dataset:
        io.write_volume(path, volume, like=item.source)
        return
    _make(path.parent)
    sidecar = derivative.write_sidecar(
        path,
        item.source.relative_to(item.dataset),
        unit=task.target.unit,
        description=f"{title}. {description}",
    )
    try:
        io.write_volume(path, volume, like=item.source)
    except errors.MedganError:
        sidecar.unlink()
        raise


def _of_dataset(source, output, spread, rule) -> list[Item]:
    if not rule:
        raise errors.UsageError(
            f"{source} is a BIDS data set; say which of its images by "
            "--bids_source, such as T1w or acq-headmotion*_T1w."
        )
    found = layouts.bids_images(source, rule)
    if not found:
        raise errors.refusal(
            source,
            f"no image sub-*_{rule}.nii[.gz]",
            "one or more",
            "check --bids_source",
        )
    return [Item(file, output, spread, source) for file in found]


def _check_apart(source, output, spread, more) -> None:
    """Refuses to write upon a source, or two images upon each other."""
    named = {"INPUT": source, "OUTPUT": output}
    if spread:
        named["--uncertainty_output"] = spread
    for path in more:
        for name in ("OUTPUT", "--uncertainty_output"):
            if name in named and (
                os.path.realpath(named[name]) == os.path.realpath(path)
            ):
                raise errors.UsageError(
                    f"--more_inputs and {name} are both {path}; expected "
                    f"another name for {name}, so that nothing is overwritten."
                )
    # In a data set the two have names of their own.
    shared = derivative.is_dataset(source)
    seen = {}
    for name, path in named.items():
        other = seen.setdefault(os.path.realpath(path), name)
        if other != name and not (shared and other == "OUTPUT"):
            raise errors.UsageError(
                f"{other} and {name} are both {path}; expected another name "
                f"for {name}, so that nothing is overwritten."
            )


def _make(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.ResourceError(
            f"{folder} cannot be made ({error.strerror}); choose another "
            "folder."
        ) from error


def _check_folder(output: pathlib.Path) -> None:
    """Refuses a folder for a series that could not be made."""
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
    return not io.has_suffix(output) and io.is_series(source)


def _sidecar(image: pathlib.Path) -> dict:
    """The JSON file beside an image; empty where there is none."""
    name = image.name.lower().removesuffix(".gz").removesuffix(".nii")
    path = image.with_name(image.name[: len(name)] + ".json")
    if not os.path.exists(path):
        return {}
    try:
        stored = json_files.read(path)
    except (OSError, ValueError) as error:
        raise errors.refusal(
            path,
            "a file that is damaged or unreadable",
            f"JSON that describes {image.name}",
            "mend it or move it away",
        ) from error
    return stored if isinstance(stored, dict) else {}
