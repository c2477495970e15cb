"""What is wrong, or suspicious, only among several studies."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from medgan_tf.data import verify, verify_values

# Times the median spacing of the cohort, or its inverse.
UNLIKE_SPACING = 1.5
LEAST_PATIENTS = 3


def check_cohort(reports: Sequence[verify.Report]) -> list[verify.Finding]:
    """What only shows among several studies.

    Args:
      reports: of all studies.
    """
    return [
        *_duplicates(reports),
        *_names({report.patient for report in reports}),
        *_spacings(reports),
        *_clipped(reports),
    ]


def check_sides(sides: Iterable[tuple[str, str]]) -> list[verify.Finding]:
    """Refuses a patient on two sides of a split.

    Args:
      sides: patient and side, as often as they come.
    """
    found = collections.defaultdict(set)
    for patient, side in sides:
        found[patient].add(side)
    return [
        verify.Finding(
            "TWO_SIDES",
            f"found the patient in {' and in '.join(sorted(names))}, expected "
            "one side: what is tested would have been trained on.",
            patient,
        )
        for patient, names in found.items()
        if len(names) > 1
    ]


def _duplicates(reports: Sequence[verify.Report]) -> Iterator[verify.Finding]:
    """Images that are there twice, under whatever names."""
    places = collections.defaultdict(dict)
    for report in reports:
        for image in report.images:
            # Two scans with motion may have one still scan as their target.
            path = os.path.realpath(image.path)
            places[image.digest].setdefault(path, (report, image))
    for found in places.values():
        found = list(found.values())
        patients = sorted({report.patient for report, _ in found})
        studies = {(report.patient, report.study) for report, _ in found}
        if len(studies) == 1:
            continue
        code = "DUPLICATE" if len(patients) > 1 else "COPY"
        yield verify.Finding(
            code,
            f"found the same voxels in {len(found)} files of "
            f"{' and '.join(patients)}, expected other images; leave one.",
            patients[0] if len(patients) == 1 else "",
            files=tuple(image.path for _, image in found),
        )


def _names(patients: set[str]) -> Iterator[verify.Finding]:
    alike = collections.defaultdict(list)
    for patient in sorted(patients):
        alike[re.sub(r"[\W_]", "", patient).lower()].append(patient)
    for names in alike.values():
        if len(names) > 1:
            yield verify.Finding(
                "NAMES",
                f"found the patients {', '.join(names)}, expected names that "
                "differ in letters or digits; check that they are not one "
                "person, who may come to lie on two sides.",
            )
    if len(patients) < LEAST_PATIENTS:
        yield verify.Finding(
            "FEW_PATIENTS",
            f"found {len(patients)} of {LEAST_PATIENTS} patients, expected at "
            "least one each for training, validation and test.",
        )


def _spacings(reports: Sequence[verify.Report]) -> Iterator[verify.Finding]:
    by_role = collections.defaultdict(list)
    for report in reports:
        for image in report.images:
            if image.spacing:
                by_role[image.role].append((report, image))
    for role, found in by_role.items():
        all_spacings = np.array([sorted(image.spacing) for _, image in found])
        median = np.median(all_spacings, axis=0)
        for (report, image), spacing in zip(found, all_spacings, strict=True):
            ratio = np.maximum(spacing / median, median / spacing).max()
            if len(found) >= LEAST_PATIENTS and ratio > UNLIKE_SPACING:
                usual = " x ".join(f"{s:.3g}" for s in median)
                own = " x ".join(f"{s:.3g}" for s in spacing)
                yield verify.Finding(
                    "SPACING",
                    f"found voxels of {own} mm, expected about {usual} as in "
                    f"most {role} images; check that it is the right scan.",
                    report.patient,
                    report.study,
                    (image.path,),
                )


def _clipped(reports: Sequence[verify.Report]) -> Iterator[verify.Finding]:
    for role, share in clipped_shares(reports).items():
        if share > verify_values.MUCH_CLIPPED:
            yield verify.Finding(
                "CLIPPED",
                f"found {share:.1%} of all voxels of {role} above the window, "
                f"expected at most {verify_values.MUCH_CLIPPED:.0%}; check the "
                "unit.",
            )


def clipped_shares(reports: Sequence[verify.Report]) -> dict[str, float]:
    """Share of the voxels above the window, by role and modality."""
    shares = collections.defaultdict(list)
    for report in reports:
        for image in report.images:
            if image.clipped is not None:
                role = f"{image.role} {image.modality}"
                shares[role].append(image.clipped)
    return {role: float(np.mean(found)) for role, found in shares.items()}
