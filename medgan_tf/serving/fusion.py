"""One translation out of several answers, and how far these are apart.

A patient may be translated more than once: by several models, in slices along
each of the three axes, and mirrored left to right. Voxel by voxel the median
of all answers is taken, which one answer that is far off does not move (of two
it is the mean), and their sample standard deviation tells where they disagree.
That is a sign of doubt, not an error bar: what all answers get wrong alike, it
does not show; and between planes it holds what interpolation to their pixels
changes, too.

A network was trained on axial slices. That it translates coronal and sagittal
ones is an experiment; left and right are different, because training mirrors
half of the slices.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence

import nibabel as nib
import numpy as np

from medgan_tf import errors, tasks
from medgan_tf.data import preprocess
from medgan_tf.data import volume as volumes
from medgan_tf.serving import predict


@dataclasses.dataclass(frozen=True)
class Plane:
    """A direction of slices.

    Attributes:
      turn: LPS+ mm -> the axes (columns, rows, slices) that stand for L, P
        and S; a rotation by quarter turns.
      mirrors: whether left and right are the two ends of a row.
    """

    turn: tuple[tuple[int, int, int], ...]
    mirrors: bool


# As on a display: rows run down to posterior, else to inferior.
PLANES = {
    "axial": Plane(((1, 0, 0), (0, 1, 0), (0, 0, 1)), mirrors=True),
    "coronal": Plane(((1, 0, 0), (0, 0, -1), (0, 1, 0)), mirrors=True),
    "sagittal": Plane(((0, 1, 0), (0, 0, -1), (-1, 0, 0)), mirrors=False),
}
CHOICES = {"axial": ("axial",), "three": tuple(PLANES)}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def translate_volume(
    models: Sequence[predict.Model],
    sources: Sequence[volumes.Volume],
    *,
    planes: str = "axial",
    mirror: bool = False,
    batch_size: int = 4,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[volumes.Volume, volumes.Volume | None]:
    """Translates a patient's volume or volumes in every way asked for.

    The answers lie in a temporary file, so that their number costs disk and
    not memory. Slices of other planes than the axial have its pixel size, and
    are tiled where the body is longer than a slice, because how much of a
    patient lies in the field of view is no reason to refuse one.

    Args:
      models: one, or several that `check_ensemble` accepts.
      sources: as for `predict.translate_volume`.
      planes: a name of CHOICES.
      mirror: also translate the mirror image, and mirror it back; a sagittal
        slice has none.
      batch_size: slices at a time.
      progress: wraps the iteration over the batches of each answer.

    Returns:
      The median, as from `predict.translate_volume` (and its very bits where
      there is one answer), and the sample standard deviation in the same unit
      and on the same voxels; None where there is one answer.

    Raises:
      errors.DataError: see `preprocess.cut`.
    """
    num_answers = count_answers(len(models), planes, mirror)
    answers = itertools.chain.from_iterable(
        _answers(models, sources, PLANES[name], mirror, batch_size, progress)
        for name in CHOICES[planes]
    )
    if num_answers == 1:
        return next(answers), None
    return fuse(answers, num_answers)


def count_answers(num_models: int, planes: str, mirror: bool) -> int:
    """How many answers `translate_volume` fuses."""
    chosen = [PLANES[name] for name in CHOICES[planes]]
    return num_models * sum(1 + (mirror and p.mirrors) for p in chosen)


def fuse(
    answers: Iterable[volumes.Volume], num_answers: int
) -> tuple[volumes.Volume, volumes.Volume]:
    """The median and the sample standard deviation of answers.

    Args:
      answers: on the same voxels.
      num_answers: how many, at least 2.
    """
    with tempfile.TemporaryFile() as file:
        for answer in answers:
            # Because a write tells of a full disk, which a map would not.
            file.write(np.ascontiguousarray(answer.array, np.float32).data)
        file.flush()
        stacked = np.memmap(
            file, np.float32, "r", shape=(num_answers, *answer.shape)
        )
        median = np.empty(answer.shape, np.float32)
        spread = np.empty(answer.shape, np.float32)
        for x in range(answer.shape[0]):
            values = stacked[:, x].astype(np.float64)
            median[x] = np.median(values, axis=0)
            spread[x] = np.std(values, axis=0, ddof=1)
    return (
        volumes.Volume(median, answer.affine),
        volumes.Volume(spread, answer.affine),
    )


def check_ensemble(models: dict[str, predict.Model]) -> None:
    """Refuses models whose answers are not of one kind.

    Args:
      models: the folder of each -> the model.

    Raises:
      ArtefactError: task, unit, voxel size or another field of the row
        differs.
    """
    (first, model), *others = models.items()
    row = tasks.as_stored(model.task)
    for name, other in others:
        theirs = tasks.as_stored(other.task)
        for field in row:
            if row[field] != theirs[field]:
                raise errors.ArtefactError(
                    f"--model={first} and --model={name} differ in {field} "
                    f"({_brief(row[field])} and {_brief(theirs[field])}); "
                    "expected models of one task, prepared alike."
                )


def check_mirrored(models: dict[str, predict.Model]) -> None:
    """Refuses to mirror for a model that never saw a mirrored slice.

    Args:
      models: the folder of each -> the model; one whose `medgan.json` does
        not say is taken to be trained as all are unless told otherwise.

    Raises:
      ArtefactError: it was trained with --noflip.
    """
    for name, model in models.items():
        if model.info.get("flip") is False:
            raise errors.ArtefactError(
                f"--tta, but --model={name} was trained with --noflip; "
                "expected one that has seen mirrored slices: leave out --tta."
            )


def _answers(
    models: Sequence[predict.Model],
    sources: Sequence[volumes.Volume],
    plane: Plane,
    mirror: bool,
    batch_size: int,
    progress: Callable[[Iterable], Iterable],
) -> Iterator[volumes.Volume]:
    """The answers of all models from the slices of one plane."""
    task = models[0].task
    original = sources[0].affine
    if plane is not PLANES["axial"]:
        task = _turned_task(task, sources[0])
        sources = [_turned(source, plane) for source in sources]
    cut = predict.cut_slices(sources, task)
    scales = predict.scales_of(cut, task)
    steps = (1, -1) if mirror and plane.mirrors else (1,)
    for model, step in itertools.product(models, steps):
        translated = predict.translate_slices(
            model,
            cut.slices[:, :, ::step],
            scales,
            batch_size=batch_size,
            progress=progress,
        )
        answer = preprocess.from_slices(
            translated[:, :, ::step], cut.geometry, fill=task.target.air
        )
        yield volumes.Volume(answer.array, original)


def _turned(volume: volumes.Volume, plane: Plane) -> volumes.Volume:
    """The same voxels, of a patient turned so that the plane is axial."""
    turn = np.eye(4)
    turn[:3, :3] = _RAS_TO_LPS @ plane.turn @ _RAS_TO_LPS
    return volumes.Volume(volume.array, turn @ volume.affine)


def _turned_task(task: tasks.Task, source: volumes.Volume) -> tasks.Task:
    """The row for other planes: the pixel of an axial slice, and tiles."""
    axial = preprocess.slice_grid(source, task.voxel_size_mm)
    pixel = nib.affines.voxel_sizes(axial.affine)[:2]
    return dataclasses.replace(
        task,
        voxel_size_mm=(*map(float, pixel), task.voxel_size_mm[2]),
        too_large="tile",
    )


def _brief(value: object) -> object:
    """A modality by its name and unit, anything else as it is."""
    if isinstance(value, dict):
        return f"{value['name']} in {value['unit']}"
    return value
