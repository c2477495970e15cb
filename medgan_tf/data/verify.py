"""What is wrong, or suspicious, with a user's images before any training.

Here one study is looked at; `verify_cohort` looks at what only shows among
several, `verify_records` at records. An error stops a preparation, or would
make a score that is not true; a warning is for a person to look at.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from medgan_tf import errors, tasks
from medgan_tf.data import (
    alignment,
    io,
    manifest,
    pairs,
    preprocess,
    thumbnails,
    verify_values,
)
from medgan_tf.data import volume as volumes

ERROR, WARNING = "error", "warning"
# Code -> (severity, what it asks).
CODES = {
    "UNREADABLE": (ERROR, "Can the file be read?"),
    "CONSTANT": (ERROR, "Does the image show anything?"),
    "MODALITY": (ERROR, "Is the image of the modality of the task?"),
    "CT_UNIT": (ERROR, "Is the CT in HU, with air round the body?"),
    "PET_UNIT": (ERROR, "Is the PET in SUV?"),
    "SAME_IMAGE": (ERROR, "Are the images of a study several images?"),
    "OVERLAP": (ERROR, "Do source and target lie in one place?"),
    "REFUSED": (ERROR, "Would the preparation take the study?"),
    "DUPLICATE": (ERROR, "Is each image of one patient only?"),
    "TWO_SIDES": (ERROR, "Is each patient on one side of the split?"),
    "RECORDS": (ERROR, "Are the records as they were written?"),
    "PLACE": (WARNING, "Does the file say where left and right are?"),
    "RANGE": (WARNING, "Are all values possible in the unit?"),
    "FLAT_SLICES": (WARNING, "Does every slice in the middle show something?"),
    "REPEATED_SLICES": (WARNING, "Does every slice differ from the next?"),
    "PARTIAL": (WARNING, "Does the target cover most of the source?"),
    "FLIPPED": (WARNING, "Are left and right the same in both images?"),
    "SHIFTED": (WARNING, "Do the images agree best where they are?"),
    "CLIPPED": (WARNING, "Do nearly all values lie in the window?"),
    "FEW_SLICES": (WARNING, "Do most slices show the body?"),
    "SPACING": (WARNING, "Is the spacing like that of the others?"),
    "COPY": (WARNING, "Is each image of a patient there once?"),
    "NAMES": (WARNING, "Do patients' names differ in more than case?"),
    "FEW_PATIENTS": (WARNING, "Are there patients for all three sides?"),
}

PARTIAL_OVERLAP = 0.6
# So much more information if one image is flipped. Right pairs (16 sarcomas
# as MR/CT and PET/CT, 8 heads of labels, heads and torsos of `phantom`) reach
# 0.97; the same with the source or the target flipped, 1.03 and more.
FLIPPED_RATIO = 1.02
# Told is a shift that is longer and lets the images agree so much better: of
# 13 sarcomas as MR/CT none as it is, 12 once moved by 8 mm, all by 12 mm; as
# PET/CT 6 once moved by 12 mm.
SHIFT_MM = 5.0
SHIFTED_RATIO = 1.15
# PET with nothing but a tumour agrees with CT by little, wherever it is.
SHIFTED_GAIN = 0.02


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong or suspicious.

    Attributes:
      code: a key of CODES.
      text: what was found and expected, and what to do.
      patient: empty if it concerns several.
      study: tells the studies of a patient apart.
      files: which it concerns.
    """

    code: str
    text: str
    patient: str = ""
    study: str = ""
    files: tuple[str, ...] = ()

    @property
    def severity(self) -> str:
        """ERROR or WARNING."""
        return CODES[self.code][0]


@dataclasses.dataclass(frozen=True)
class Image:
    """Numbers of one image.

    Attributes:
      path: where it is.
      role: "source", "source 2" and so on, "target", "ct".
      modality: "PET", "CT", "MR"; empty for a label map.
      shape: voxels along each axis.
      spacing: mm between them; empty for records.
      low: lowest value, in its unit.
      high: highest value.
      clipped: share of the voxels above the window; None if not known.
      digest: of the voxels alone, whatever the header says.
    """

    path: str
    role: str
    modality: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    low: float
    high: float
    clipped: float | None = None
    digest: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """All that is told of one study.

    Attributes:
      patient: its name.
      study: tells the studies of a patient apart.
      side: of the split, where it is known; else empty.
      images: those that could be read.
      findings: in the order they were found.
      overlap: share of the source's field of view that the target covers.
      same_grid: whether source and target have the same voxels.
      alignment: how they lie upon each other.
      num_slices: slices that show the body; None if not known.
      num_dropped: slices that do not.
      pictures: caption and PNG of the middle of the body.
    """

    patient: str
    study: str = ""
    side: str = ""
    images: tuple[Image, ...] = ()
    findings: tuple[Finding, ...] = ()
    overlap: float | None = None
    same_grid: bool | None = None
    alignment: alignment.Alignment | None = None
    num_slices: int | None = None
    num_dropped: int = 0
    pictures: tuple[thumbnails.Picture, ...] = ()


# What is found, as code, text and the files.
_Found = Iterator[tuple[str, str, tuple[pathlib.Path, ...]]]


def check_study(
    task: tasks.Task, options: pairs.Options, study: manifest.Study
) -> Report:
    """Reads the images of a study and looks for what may be wrong.

    Args:
      task: the row, with as many sources as the study has, if it has any.
      options: of the preparation to come.
      study: its files.
    """
    found: list[Finding] = []

    def tell(findings: _Found) -> None:
        for code, text, paths in findings:
            files = tuple(map(str, paths))
            finding = Finding(code, text, study.patient, study.name, files)
            found.append(finding)

    images, known = [], {}
    roles = list(_roles(task, options, study))
    for role, path, modality in roles:
        volume, notes = _read(path, options)
        tell(notes)
        if volume is None:
            continue
        known[role] = volume
        images.append(_describe(volume, path, role, modality))
        tell(
            (*note, (path,))
            for note in verify_values.look_at(volume, path, modality)
        )
    tell(_equal(images))
    facts = {}
    source, target = known.get("source"), known.get("target")
    if source is not None and target is not None:
        paths = (study.sources[0], study.target)
        facts["overlap"] = preprocess.covered_share(source, target)
        facts["same_grid"] = source.same_grid(target)
        tell(_place(source, target, facts["overlap"], paths))
        if not _has_error(found):
            kinds = (task.source, task.target)
            facts["alignment"] = alignment.align(source, target, kinds)
            tell(_agree(facts["alignment"], paths))
    for role, path, _ in roles:
        # Further channels and the CT of a PET have a place too.
        if target is None or role in ("source", "target") or role not in known:
            continue
        overlap = preprocess.covered_share(target, known[role])
        tell(_place(target, known[role], overlap, (study.target, path)))
    if not (_has_error(found) or options.tissues):
        numbers, notes = _prepare(task, options, study, known)
        facts |= numbers
        tell(notes)
    shown = [
        (f"{role} {kind.name}", known[role], kind)
        for role, _, kind in roles
        if role in ("source", "target") and role in known and kind is not None
    ]
    return Report(
        study.patient,
        study.name,
        images=tuple(images),
        findings=tuple(found),
        pictures=tuple(thumbnails.of_volumes(shown)),
        **facts,
    )


def _has_error(findings: Iterable[Finding]) -> bool:
    return any(finding.severity == ERROR for finding in findings)


def _roles(
    task: tasks.Task, options: pairs.Options, study: manifest.Study
) -> Iterator[tuple[str, pathlib.Path, tasks.Modality | None]]:
    """Role, path and modality of each image; None for labels."""
    kinds = zip(task.sources, study.sources, strict=False)
    for number, (modality, path) in enumerate(kinds, 1):
        role = "source" if number == 1 else f"source {number}"
        yield role, path, modality
    yield "target", study.target, None if options.tissues else task.target
    if study.ct:
        yield "ct", study.ct, tasks.CT
    if study.mu_map:
        yield "mu map", study.mu_map, None


def _read(
    path: pathlib.Path, options: pairs.Options
) -> tuple[volumes.Volume | None, _Found]:
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            volume = io.read_volume(path, spacing_mm=options.spacing_mm)
        except errors.MedganError as error:
            text = str(error).removeprefix(f"{path}: ")
            return None, iter([("UNREADABLE", text, (path,))])
    texts = [str(note.message).removeprefix(f"{path}: ") for note in notes]
    return volume, iter([("PLACE", text, (path,)) for text in texts])


def _describe(
    volume: volumes.Volume,
    path: pathlib.Path,
    role: str,
    modality: tasks.Modality | None,
) -> Image:
    array = np.ascontiguousarray(volume.array)
    digest = hashlib.sha256(str(array.shape).encode())
    digest.update(array)
    clipped = None
    if modality is not None and (array > 0).any():
        high = preprocess.window_of(volume, modality)[1]
        clipped = preprocess.clipped_share(array, (-np.inf, high))
    return Image(
        str(path),
        role,
        modality.name if modality else "",
        volume.shape,
        volume.spacing,
        float(array.min()),
        float(array.max()),
        clipped,
        digest.hexdigest(),
    )


def _equal(images: Sequence[Image]) -> _Found:
    by_digest = {}
    for image in images:
        first = by_digest.setdefault(image.digest, image)
        if first is not image:
            text = (
                f"found the same voxels as {first.role} and as {image.role}, "
                "expected two images; name the right file."
            )
            paths = (pathlib.Path(first.path), pathlib.Path(image.path))
            yield "SAME_IMAGE", text, paths


def _place(
    source: volumes.Volume,
    target: volumes.Volume,
    overlap: float,
    paths: tuple[pathlib.Path, pathlib.Path],
) -> _Found:
    try:
        preprocess.check_pair(source, target, tuple(map(str, paths)))
    except errors.DataError as error:
        yield "OVERLAP", str(error), paths
        return
    if overlap < PARTIAL_OVERLAP:
        text = (
            f"found that the target covers {overlap:.0%} of the source, "
            f"expected at least {PARTIAL_OVERLAP:.0%}; check that both are of "
            "one session: what is not covered is not learnt."
        )
        yield "PARTIAL", text, paths


def _agree(
    found: alignment.Alignment, paths: tuple[pathlib.Path, pathlib.Path]
) -> _Found:
    """What the images themselves say about how they lie."""
    if found.mirrored.information > FLIPPED_RATIO * found.best.information:
        text = (
            "found that source and target agree better with left and right of "
            f"one exchanged (information {found.mirrored.information:.3f} "
            f"against {found.best.information:.3f}), expected the opposite; "
            "look at the pictures and at how the files were converted."
        )
        yield "FLIPPED", text, paths
        return
    is_better = found.best.information > max(
        SHIFTED_RATIO * found.as_is.information,
        SHIFTED_GAIN + found.as_is.information,
    )
    if is_better and found.best.distance_mm > SHIFT_MM:
        left, posterior, superior = found.best.shift_mm
        text = (
            f"found that source and target agree better with the target moved "
            f"by {found.best.distance_mm:.0f} mm (left {left:.0f}, posterior "
            f"{posterior:.0f}, superior {superior:.0f}; information "
            f"{found.best.information:.3f} against "
            f"{found.as_is.information:.3f}), expected at most "
            f"{SHIFT_MM:.0f} mm; look at the pictures, register them anew or "
            "leave the study out."
        )
        yield "SHIFTED", text, paths


def _prepare(
    task: tasks.Task,
    options: pairs.Options,
    study: manifest.Study,
    known: dict[str, volumes.Volume],
) -> tuple[dict[str, int], _Found]:
    """Cuts the slices as the preparation would, but simulates nothing."""
    target = known["target"]
    # A simulated source lies where its target does.
    sources = [v for role, v in known.items() if role.startswith("source")]
    images = pairs.Images(sources or [target], target)
    if not sources:
        task = dataclasses.replace(task, more_sources=())
    options = dataclasses.replace(options, realisations=1)
    try:
        prepared = pairs.prepare(task, study.patient, images, options)
    except errors.DataError as error:
        paths = (*study.sources, study.target)
        return {}, iter([("REFUSED", str(error), paths)])
    count, dropped = len(prepared.samples), prepared.num_dropped
    notes = []
    if count < dropped:
        text = (
            f"found the body in {count} of {count + dropped} slices, expected "
            "more than half; check both images."
        )
        paths = (*study.sources, study.target)
        notes.append(("FEW_SLICES", text, paths))
    return {"num_slices": count, "num_dropped": dropped}, iter(notes)
