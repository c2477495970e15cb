"""WHAT to translate: one frozen row per task.

A row holds no training hyper-parameter, because the paper insists on "no
task-specific modifications". Windows and voxel sizes are ours where the paper
is silent (Section 3.1 gives voxel sizes, no intensity scaling).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Modality:
    """One kind of image and how its values become [-1, 1].

    Attributes:
      name: "PET", "CT" or "MR".
      unit: physical unit of the voxel values.
      window: (low, high) in `unit`, mapped linearly to [-1, 1] and clipped;
        None: (0, robust maximum of the volume), because MR has no absolute
        unit.
      air: value outside the scanner's field of view, in `unit`.
      body_above: a voxel above this value belongs to the body; in `unit`, or,
        where `window` is None, as a fraction of the robust maximum.
      padding: value that stands where the scanner has no data; None: every
        voxel is data. MR is often resliced, with zeros round the scan.
    """

    name: str
    unit: str
    window: tuple[float, float] | None
    air: float
    body_above: float
    padding: float | None = None


# -1000 HU is air, 2000 HU denser than all but the densest cortical bone.
CT = Modality("CT", "HU", (-1000.0, 2000.0), air=-1000.0, body_above=-500.0)
# SUV 20 is above what all but the hottest tumours and the bladder take up.
PET = Modality("PET", "SUV", (0.0, 20.0), air=0.0, body_above=0.1)
MR = Modality("MR", "scanner units", None, air=0.0, body_above=0.1, padding=0.0)


@dataclasses.dataclass(frozen=True)
class Task:
    """One row of the table below.

    Attributes:
      name: the word for `--task`.
      title: one line for people.
      source: modality of the input image y.
      target: modality of the wanted image x.
      voxel_size_mm: grid on which slices are cut, along L, P and S; None
        keeps the source's own spacing along that axis.
      simulator: where the source can be made from the target:
        "low_count_pet" or "mr_motion"; else None.
    """

    name: str
    title: str
    source: Modality
    target: Modality
    voxel_size_mm: tuple[float | None, float | None, float | None]
    simulator: str | None = None


TASKS = {
    task.name: task
    for task in (
        Task(
            "pet_ct",
            "PET to CT (Section 3.1.1)",
            source=PET,
            target=CT,
            voxel_size_mm=(1.0, 1.0, 1.0),
        ),
        Task(
            "mr_motion",
            "motion-corrupted MR to motion-free MR (Section 3.1.2)",
            source=MR,
            target=MR,
            voxel_size_mm=(1.0, 1.0, 1.0),
            simulator="mr_motion",
        ),
        Task(
            "pet_denoise",
            "PET of 25 % of the counts to full-count PET (Section 3.1.3)",
            source=PET,
            target=PET,
            voxel_size_mm=(None, None, None),
            simulator="low_count_pet",
        ),
        Task(
            "mr_ct",
            # Not in the paper; what most users have.
            "MR to CT",
            source=MR,
            target=CT,
            # Slices are often 3 mm or more: making three out of one adds
            # nothing, so the slice distance stays the source's.
            voxel_size_mm=(1.0, 1.0, None),
        ),
    )
}


def as_stored(task: Task) -> dict:
    """The row as it comes back from a JSON file, to be compared with one."""
    return json.loads(json.dumps(dataclasses.asdict(task)))


def is_stored_as(
    task: Task,
    row: dict,
    voxel_size_mm: Sequence[float | None],
) -> bool:
    """Whether `row`, from a JSON file, is this task on that slice grid."""
    return row == as_stored(with_voxel_size(task, tuple(voxel_size_mm)))


def with_voxel_size(
    task: Task,
    voxel_size_mm: tuple[float | None, float | None, float | None] | None,
) -> Task:
    """The same task on another slice grid; None leaves it as it is."""
    if voxel_size_mm is None:
        return task
    return dataclasses.replace(task, voxel_size_mm=voxel_size_mm)
