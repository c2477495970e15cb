"""From the volumes of one study to pairs of slices.

The source decides on grid, placement and window (see `preprocess`): what
prepares a slice for training prepares it for prediction.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from medgan_tf import errors, tasks
from medgan_tf.data import (
    attenuation,
    io,
    label_map,
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

# A CT that does not go below shows no air, or is not in HU.
_LEAST_AIR_HU = -200

# Voxels of a PET scanner, for anatomy that comes on a finer grid.
PET_VOXEL_MM = (2.0, 2.0, 2.0)


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may say of a preparation, beside the task and the files.

    Attributes:
      seed: of the simulators.
      simulate: options of the task's simulator; see its `draw_parameters`.
      realisations: how often a source is simulated from one target.
      spacing_mm: of files that do not say it; see `io.read_volume`.
      tissues: row of `label_map.TABLES`, if the targets are label maps of
        which all images are to be made; else empty.
    """

    seed: int = 0
    simulate: Mapping[str, float | str | bool] = dataclasses.field(
        default_factory=dict
    )
    realisations: int = 1
    spacing_mm: tuple[float, float, float] | None = None
    tissues: str = ""


@dataclasses.dataclass(frozen=True)
class Images:
    """The volumes of one study, each in its unit.

    Attributes:
      sources: one for each of the task's sources; None: to be simulated.
      target: what is to come out.
      ct: for the attenuation of a simulated PET, or None.
      mu_map: that attenuation itself, in 1/cm, or None.
    """

    sources: Sequence[volumes.Volume] | None
    target: volumes.Volume
    ct: volumes.Volume | None = None
    mu_map: volumes.Volume | None = None


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The slices of one study, and what is worth knowing of them.

    Attributes:
      samples: slices that show the body, from inferior to superior.
      num_dropped: slices without body or without target.
      clipped: share of voxels beyond the window, but for the noise of air: of
        each source, then of the target.
      body_sum: sum of the target's values in the body, in its unit.
      body_voxels: how many voxels that is.
    """

    samples: list[samples.Sample]
    num_dropped: int
    clipped: tuple[float, ...]
    body_sum: float
    body_voxels: int


def prepare_study(
    task: tasks.Task, options: Options, item: manifest.Study | int
) -> Prepared:
    """Reads the files of one study, or makes them, and cuts them into slices.

    Args:
      task: the row.
      options: see there.
      item: files, or the number of a built-in patient, who is simulated.

    Raises:
      DataError: a file or the pair is not usable; the message names it.
    """
    if isinstance(item, int):
        images = phantom_images(task, item, options.seed)
        return prepare(task, phantom_name(item), images, options)
    if options.tissues:
        images = _from_labels(task, item, options)
    else:
        images = _read(item, options)
    try:
        return prepare(task, item.patient, images, options, item.name)
    except errors.DataError as error:
        paths = (*item.sources, item.target)
        names = " and ".join(map(str, paths))
        raise errors.DataError(f"{names}: {error}") from error


def phantom_name(number: int) -> str:
    """The name of a built-in patient."""
    return f"phantom{number:03d}"


def phantom_images(task: tasks.Task, number: int, seed: int) -> Images:
    """The volumes of a built-in patient."""
    images = phantom.patient(number + 1000 * seed)
    sources = [images[modality.name] for modality in task.sources]
    return Images(None if task.simulator else sources, images[task.target.name])


def prepare(
    task: tasks.Task,
    patient: str,
    images: Images,
    options: Options,
    study: str = "",
) -> Prepared:
    """Cuts the volumes of a study into pairs of slices.

    Args:
      task: the row.
      patient: its name; drawn numbers depend on it, on `study` and on the
        seed alone, so that the order and number of workers do not matter.
      images: see there.
      options: see there.
      study: tells the studies of a patient apart.

    Raises:
      DataError: a source is empty, in another unit or its body too large,
        there is no simulator for a missing source, or no slice shows the
        body.
    """
    target_window = preprocess.checked_window(images.target, task.target)
    if images.sources is not None:
        sources = [(images.sources, "")]
    else:
        sources = simulate(task, patient, images, options, study)
    cuts = []
    for number, (volume, simulation) in enumerate(sources):
        name = study
        if options.realisations > 1 and simulation:
            name = f"{study} {number}".strip()
        cuts.append(
            _cut_pair(
                task,
                patient,
                name,
                volume,
                images.target,
                target_window,
                simulation,
            )
        )
    first = cuts[0]
    return dataclasses.replace(
        first,
        samples=[sample for cut in cuts for sample in cut.samples],
        num_dropped=sum(cut.num_dropped for cut in cuts),
        clipped=tuple(np.mean([cut.clipped for cut in cuts], axis=0).tolist()),
    )


def _cut_pair(
    task: tasks.Task,
    patient: str,
    study: str,
    sources: Sequence[volumes.Volume],
    target: volumes.Volume,
    target_window: tuple[float, float],
    simulation: str,
) -> Prepared:
    source = sources[0]
    cut = preprocess.cut(sources, task)
    grid = cut.geometry.sliced
    source_slices = cut.normalised()
    if task.target == task.source:
        # Because at prediction there is no target to ask.
        target_window = cut.windows[0]
    beyond = preprocess.clipped_share(target.array, (-np.inf, target_window[1]))
    if beyond > preprocess.MOST_CLIPPED:
        raise errors.DataError(
            f"{beyond:.0%} of the target's voxels are above "
            f"{target_window[1]:g} {task.target.unit}, the top of the source's "
            f"window, expected at most {preprocess.MOST_CLIPPED:.0%}: bring "
            "both to one scale."
        )
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
    # A tile may lie beside the body of its slice.
    bodies = preprocess.to_slices(body, cut.geometry, fill=False)
    is_kept = np.tile(is_kept, len(cut.geometry.offsets))
    is_kept &= bodies.any(axis=(1, 2))
    return Prepared(
        [
            samples.Sample(
                patient,
                int(k),
                source_slices[k],
                target_slices[k][..., None],
                masks[k],
                cut.windows[0],
                target_window,
                study,
                cut.windows[1:],
                simulation,
            )
            for k in np.flatnonzero(is_kept)
        ],
        int((~is_kept).sum()),
        (
            *(
                preprocess.lost_share(volume.array, window)
                for volume, window in zip(sources, cut.windows, strict=True)
            ),
            preprocess.lost_share(target.array, target_window),
        ),
        float(on_grid.array[body].sum(dtype=np.float64)),
        int(body.sum()),
    )


def simulate(
    task: tasks.Task,
    patient: str,
    images: Images,
    options: Options,
    study: str = "",
) -> list[tuple[list[volumes.Volume], str]]:
    """The sources that a task's simulator makes of a target, and how.

    Args:
      task: the row.
      patient: its name; with `study` and the seed it decides on what is
        drawn.
      images: their target is used, and their CT, if any, for the attenuation
        of PET.
      options: see there.
      study: tells the studies of a patient apart.

    Returns:
      For each realisation the source, in LPS order, and the simulator's
      parameters as JSON.

    Raises:
      DataError: the task has no simulator, or needs several sources.
    """
    if task.simulator is None or task.more_sources:
        raise errors.DataError(
            f"patient {patient} has no source; task {task.name} cannot "
            "simulate it: name one."
        )
    simulator = SIMULATORS[task.simulator]
    rng = np.random.default_rng(_draws(options.seed, patient, study))
    # The simulators take slices along the third axis; nothing is interpolated.
    upright = preprocess.resample(
        images.target,
        preprocess.slice_grid(images.target, (None, None, None)),
        outside=task.target.air,
    )
    if task.simulator == "low_count_pet":
        # What resampling left below 0, of which there is little.
        upright = volumes.Volume(np.maximum(upright.array, 0), upright.affine)
    known = {}
    if images.ct is not None or images.mu_map is not None:
        if task.simulator != "low_count_pet":
            raise errors.DataError(
                f"patient {patient} has an attenuation of PET, "
                f"which task {task.name} does not simulate; leave it out."
            )
        known["attenuation"] = _attenuation(patient, images, upright)
    found = []
    for _ in range(options.realisations):
        parameters = simulator.draw_parameters(rng, **options.simulate)
        source = simulator.apply(upright, parameters, **known)
        text = json.dumps(dataclasses.asdict(parameters))
        found.append(([source], text))
    return found


def _attenuation(
    patient: str, images: Images, grid: volumes.Volume
) -> volumes.Volume:
    """The attenuation in 1/cm on the grid of a PET, from a map or a CT."""
    if images.mu_map is not None:
        return preprocess.resample(images.mu_map, grid, outside=0.0)
    lowest = float(images.ct.array.min())
    if lowest > _LEAST_AIR_HU:
        raise errors.DataError(
            f"the CT for the attenuation of patient {patient} goes down to "
            f"{lowest:g}, expected air below {_LEAST_AIR_HU} HU; check "
            "which file it is and its unit."
        )
    return attenuation.mu_map(
        preprocess.resample(images.ct, grid, outside=tasks.CT.air)
    )


def _draws(seed: int, patient: str, study: str) -> list[int]:
    """What the draws of a study depend on."""
    # A zero between, so that patient 1 of study 2 is not patient 12.
    of_study = [0, *study.encode()] if study else []
    return [seed, *patient.encode(), *of_study]


def _read(study: manifest.Study, options: Options) -> Images:
    """The volumes of a study's files, which must lie in one place."""

    def read(path: pathlib.Path) -> volumes.Volume:
        return _read_volume(path, options)

    target = read(study.target)
    sources = [read(path) for path in study.sources]
    for path, source in zip(study.sources, sources, strict=True):
        preprocess.check_pair(source, target, (str(path), str(study.target)))
    further = []
    for path in (study.ct, study.mu_map):
        further.append(path and read(path))
        if path:
            preprocess.check_pair(
                target, further[-1], (str(study.target), str(path))
            )
    return Images(sources or None, target, *further)


def _from_labels(
    task: tasks.Task, study: manifest.Study, options: Options
) -> Images:
    """The images that scanners would make of an anatomy of labels."""
    rng = np.random.default_rng(
        [*_draws(options.seed, study.patient, study.name), 1]
    )
    made = label_map.apply(
        _read_volume(study.target, options),
        label_map.TABLES[options.tissues],
        label_map.draw_parameters(rng),
    )
    pet = made["PET"]
    grid = preprocess.slice_grid(pet, PET_VOXEL_MM)
    made["PET"] = preprocess.resample(pet, grid, outside=tasks.PET.air)
    if task.simulator is None:
        sources = [made[modality.name] for modality in task.sources]
        return Images(sources, made[task.target.name])
    ct = made["CT"] if task.target == tasks.PET else None
    return Images(None, made[task.target.name], ct)


def _read_volume(path: pathlib.Path, options: Options) -> volumes.Volume:
    """Reads a volume that shows something."""
    volume = io.read_volume(path, spacing_mm=options.spacing_mm)
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
