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
MODALITIES = {modality.name: modality for modality in (CT, PET, MR)}

TOO_LARGE = ("refuse", "resample", "tile")


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
      more_sources: modalities of further source images, stacked as further
        channels; the first source decides on the grid.
      too_large: what becomes of a body larger than a slice: "refuse" it,
        "resample" it to the voxel size at which it fits, or "tile" it with
        overlapping slices.
    """

    name: str
    title: str
    source: Modality
    target: Modality
    voxel_size_mm: tuple[float | None, float | None, float | None]
    simulator: str | None = None
    more_sources: tuple[Modality, ...] = ()
    too_large: str = "refuse"

    @property
    def sources(self) -> tuple[Modality, ...]:
        """Modality of each channel of the source."""
        return (self.source, *self.more_sources)


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


def from_stored(row: dict) -> Task:
    """The inverse of `as_stored`, whatever TASKS says now.

    Raises:
      TypeError: the row has other fields.
      KeyError: a field is missing.
    """

    def modality(fields: dict) -> Modality:
        window = fields["window"] and tuple(fields["window"])
        return Modality(**{**fields, "window": window})

    return Task(
        **{
            **row,
            "source": modality(row["source"]),
            "target": modality(row["target"]),
            "more_sources": tuple(map(modality, row["more_sources"])),
            "voxel_size_mm": tuple(row["voxel_size_mm"]),
        }
    )


def restored(row: dict) -> Task | None:
    """The task that `as_stored` made `row` of.

    None where the row of that name in TASKS has changed since, so that its
    images would be windowed, cut or simulated in another way.
    """
    try:
        task = adapted(
            TASKS[row["name"]],
            voxel_size_mm=tuple(row["voxel_size_mm"]),
            more_sources=[modality["name"] for modality in row["more_sources"]],
            too_large=row["too_large"],
        )
    except (KeyError, TypeError):
        return None
    return task if as_stored(task) == row else None


def adapted(
    task: Task,
    *,
    voxel_size_mm: tuple[float | None, float | None, float | None]
    | None = None,
    more_sources: Sequence[str] = (),
    too_large: str = "refuse",
) -> Task:
    """The same task on a user's data.

    Args:
      task: a row of TASKS.
      voxel_size_mm: another slice grid; None leaves the row's.
      more_sources: names of MODALITIES, one for each further channel.
      too_large: see `Task`; one of TOO_LARGE.

    Raises:
      KeyError: a modality is unknown.
    """
    return dataclasses.replace(
        task,
        voxel_size_mm=voxel_size_mm or task.voxel_size_mm,
        more_sources=tuple(MODALITIES[name] for name in more_sources),
        too_large=too_large,
    )
