"""Slices for a reader study from folders of images, one for each method.

A folder holds a file for each slice, PATIENT_SLICE.npy (.tif, .png), as
`elsewhere_files.slices` reads it; the same slices in each.
"""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from medgan_tf import errors, tasks
from medgan_tf.data import preprocess, volume
from medgan_tf.data.sample import Sample
from medgan_tf.evaluation import elsewhere, elsewhere_files, evaluate
from medgan_tf.reader_study import readings

_SLICE = re.compile(r"([^.].*)_(\d+)\.(npy|png|tiff?)", re.I)


def open_folders(
    paths: Mapping[str, str | os.PathLike], target: tasks.Modality
) -> tuple[Callable[[], Iterator[Sample]], dict[str, evaluate.Translate]]:
    """What `trials.create` needs: slices, and methods that know their images.

    What stands before the last underscore of a file's name is the patient.

    Args:
      paths: label -> folder; one is "target", the real images.
      target: modality of the images, all in its unit.

    Returns:
      The slices, whose first channel is empty and whose others are the
      images, and label -> the channel, for each but the target. Where the
      modality has no window, 0 and the robust maximum of all the patient's
      real images are -1 and 1. Values that cannot be in the unit are told by
      a DataError when the slices are read; see `elsewhere.attach`.

    Raises:
      UsageError: no folder is the target's, or no other.
      DataError: a folder is missing, lacks slices of the target's or has
        others.
    """
    if readings.TARGET not in paths or len(paths) < 2:
        raise errors.UsageError(
            f"Folders must be {readings.TARGET!r} and one of a method or more, "
            f"got {', '.join(paths) or 'none'}."
        )
    needed = _listed(paths[readings.TARGET])
    read = {
        label: elsewhere_files.slices(path, needed)
        for label, path in paths.items()
    }
    labels = [label for label in paths if label != readings.TARGET]

    def samples() -> Iterator[Sample]:
        found = _real(needed, read[readings.TARGET], target)
        # The target too, because its values are to be judged as well.
        for label in (*labels, readings.TARGET):
            # Without a window the values are relative: any unit will do.
            values = elsewhere.Values() if target.window else None
            found = elsewhere.attach(found, read[label], target, values)
        return found

    def channel(number: int) -> evaluate.Translate:
        return lambda sources: sources[..., number : number + 1]

    return samples, {label: channel(i) for i, label in enumerate(labels, 1)}


def _listed(folder: str | os.PathLike) -> dict[elsewhere_files.Study, list]:
    """Patient -> slices, by the names of the files."""
    needed = collections.defaultdict(list)
    if os.path.isdir(folder):
        for name in sorted(os.listdir(folder)):
            if match := _SLICE.fullmatch(name):
                needed[match[1], ""].append(int(match[2]))
    if not needed:
        raise errors.refusal(
            folder,
            "no image of a slice",
            "a folder of PATIENT_SLICE.npy (.png, .tif)",
            "check the path and the names",
        )
    return dict(needed)


def _real(
    needed: Mapping[elsewhere_files.Study, list],
    read: elsewhere_files.Read,
    target: tasks.Modality,
) -> Iterator[Sample]:
    """Slices with the real image and nothing else."""
    size = (preprocess.SLICE_SIZE,) * 2
    empty = np.zeros((*size, 1), np.float32)
    mask = np.ones(size, bool)

    def sample(patient, index, image, window) -> Sample:
        return Sample(patient, index, empty, image, mask, (-1.0, 1.0), window)

    for (patient, _), indices in needed.items():
        images = read(
            [sample(patient, k, empty, (-1.0, 1.0)) for k in sorted(indices)]
        )
        window = preprocess.window_of(
            volume.Volume(np.moveaxis(images, 0, -1), np.eye(4)), target
        )
        normalised = preprocess.normalise(images, window)[..., None]
        for k, image in zip(sorted(indices), normalised, strict=True):
            yield sample(patient, k, image, window)
