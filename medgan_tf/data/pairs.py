"""From the volumes of one patient to pairs of slices.

The source decides on grid, placement and window (see `preprocess`): what
prepares a slice for training prepares it for prediction.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from medgan_tf import errors, tasks
from medgan_tf.data import (
    io,
    low_count_pet,
    manifest,
    mr_motion,
    phantom,
    preprocess,
)
from medgan_tf.data import sample as samples
from medgan_tf.data import volume as volumes

SIMULATORS = {"low_count_pet": low_count_pet, "mr_motion": mr_motion}

# A slice is dropped where less of it shows the body, or the target has data in
# less of the source's field of view.
LEAST_BODY = 0.01
LEAST_COVERAGE = 0.5


@dataclasses.dataclass(frozen=True)
class PreparedPatient:
    """The slices of one study, and what is worth knowing of them.

    Attributes:
      patient: the unit of the split.
      samples: slices that show the body, from inferior to superior.
      num_dropped: slices without body or without target.
      clipped: share of voxels beyond the window, (source, target).
      body_sum: sum of the target's values in the body, in its unit.
      body_voxels: how many voxels that is.
      parameters: of the simulator, or None.
    """

    patient: str
    samples: list[samples.Sample]
    num_dropped: int
    clipped: tuple[float, float]
    body_sum: float
    body_voxels: int
    parameters: dict | None


def read_and_prepare(
    task: tasks.Task, pair: manifest.Pair, seed: int
) -> PreparedPatient:
    """Reads the files of one pair and cuts them into slices.

    Args:
      task: the row.
      pair: the files.
      seed: of the simulator, where the pair has no source of its own.

    Raises:
      DataError: a file or the pair is not usable; the message names it.
    """
    target = _read(pair.target)
    source = _read(pair.source) if pair.source else None
    if source is not None:
        preprocess.check_pair(
            source, target, (str(pair.source), str(pair.target))
        )
    try:
        return prepare(task, pair.patient, source, target, seed)
    except errors.DataError as error:
        names = " and ".join(str(p) for p in (pair.source, pair.target) if p)
        raise errors.DataError(f"{names}: {error}") from error


def phantom_name(number: int) -> str:
    """The name of a built-in patient."""
    return f"phantom{number:03d}"


def prepare_phantom(
    task: tasks.Task, number: int, seed: int
) -> PreparedPatient:
    """Cuts one built-in patient, who is simulated, into slices."""
    source, target = phantom_volumes(task, number, seed)
    return prepare(task, phantom_name(number), source, target, seed)


def phantom_volumes(
    task: tasks.Task, number: int, seed: int
) -> tuple[volumes.Volume | None, volumes.Volume]:
    """Source and target of a built-in patient; None: to be simulated."""
    images = phantom.patient(number + 1000 * seed)
    source = None if task.simulator else images[task.source.name]
    return source, images[task.target.name]


def prepare(
    task: tasks.Task,
    patient: str,
    source: volumes.Volume | None,
    target: volumes.Volume,
    seed: int,
) -> PreparedPatient:
    """Cuts a pair of volumes into pairs of slices.

    Args:
      task: the row.
      patient: its name; drawn numbers depend on it and on `seed` alone, so
        that the order and number of workers do not matter.
      source: in its unit; None: simulated from the target.
      target: in its unit.
      seed: of the simulator.

    Raises:
      DataError: the source is empty, in another unit or its body too large,
        there is no simulator for a missing source, or no slice shows the
        body.
    """
    parameters = None
    if source is None:
        source, parameters = simulate(task, patient, target, seed)
    cut = preprocess.cut(source, task.source, task.voxel_size_mm)
    grid = cut.geometry.sliced
    source_slices = preprocess.normalise(cut.slices, cut.window)
    target_window = cut.window
    if task.target != task.source:
        target_window = preprocess.window_of(target, task.target)
    seen = preprocess.resample(
        volumes.Volume(
            preprocess.field_of_view(source, task.source).astype(np.float32),
            source.affine,
        ),
        grid,
        outside=0.0,
    )
    seen = seen.array > 0.5
    mask = seen & preprocess.coverage(target, grid)
    on_grid = preprocess.resample(target, grid, outside=task.target.air)
    # Because what the source does not show cannot be learnt from it: with
    # the target left there, a network learns to invent.
    on_grid.array[~mask] = task.target.air
    body = preprocess.body_mask(on_grid, task.target, target_window)
    is_kept = (_share(body) >= LEAST_BODY) & (
        _share(mask) >= LEAST_COVERAGE * _share(seen)
    )
    if not is_kept.any():
        raise errors.DataError(
            f"no slice of patient {patient} shows the body in both images; "
            f"expected {task.target.name} values above "
            f"{task.target.body_above} {task.target.unit}: check the files."
        )
    target_slices = preprocess.to_slices(
        preprocess.normalise(on_grid.array, target_window),
        cut.geometry,
        fill=preprocess.normalise(task.target.air, target_window).item(),
    )
    masks = preprocess.to_slices(mask, cut.geometry, fill=False)
    return PreparedPatient(
        patient,
        [
            samples.Sample(
                patient,
                int(k),
                source_slices[k],
                target_slices[k][..., None],
                masks[k],
                cut.window,
                target_window,
            )
            for k in np.flatnonzero(is_kept)
        ],
        int((~is_kept).sum()),
        (
            preprocess.clipped_share(source.array, cut.window),
            preprocess.clipped_share(target.array, target_window),
        ),
        float(on_grid.array[body].sum(dtype=np.float64)),
        int(body.sum()),
        parameters,
    )


def simulate(
    task: tasks.Task, patient: str, target: volumes.Volume, seed: int
) -> tuple[volumes.Volume, dict]:
    """The source that a task's simulator makes of a target, and how.

    Args:
      task: the row.
      patient: its name; with `seed` it decides on what is drawn.
      target: in its unit.
      seed: of the draw.

    Returns:
      The source, in LPS order, and the simulator's parameters.

    Raises:
      DataError: the task has no simulator.
    """
    if task.simulator is None:
        raise errors.DataError(
            f"patient {patient} has no source; task {task.name} cannot "
            "simulate it: name one."
        )
    simulator = SIMULATORS[task.simulator]
    rng = np.random.default_rng([seed, *patient.encode()])
    parameters = simulator.draw_parameters(rng)
    # The simulators take slices along the third axis; nothing is interpolated.
    upright = preprocess.resample(
        target,
        preprocess.slice_grid(target, (None, None, None)),
        outside=task.target.air,
    )
    return simulator.apply(upright, parameters), dataclasses.asdict(parameters)


def _read(path: os.PathLike) -> volumes.Volume:
    """Reads a volume that shows something."""
    volume = io.read_volume(path)
    first = volume.array.flat[0]
    if (volume.array == first).all():
        raise errors.DataError(
            f"{path}: found {first:g} in every voxel, expected an image; check "
            "which file this is."
        )
    return volume


def _share(mask: np.ndarray) -> np.ndarray:
    """Share of True in each slice of (X, Y, Z)."""
    return mask.mean(axis=(0, 1))
