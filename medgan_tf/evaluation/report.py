"""Scores as files and as a table.

`scores.csv` has one line per slice (or volume) and image, `scores.json` the
averages with every setting of the protocol needed to read them, the table is
for the terminal.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence

import numpy as np
import scipy

import medgan_tf
from medgan_tf import errors, sealed
from medgan_tf.evaluation import evaluate, protocols, statistics

NOT_COMPUTED = "not computed"
NO_WEIGHTS = "it needs weights, which were not given"


def write_scores(
    output_dir: str | os.PathLike,
    rows: Sequence[evaluate.Score],
    settings: Mapping[str, str | int | float | bool | None],
    *,
    protocol: protocols.Protocol,
    not_computed: Mapping[str, str] | None = None,
) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes `scores.csv` and `scores.json`; each appears whole or not at all.

    Args:
      output_dir: folder; made if it does not exist.
      rows: as from `evaluate.score_slices`.
      settings: what was scored: task, method, split, unit, simulated,
        num_skipped and the like. Protocol and versions are added.
      protocol: the one that was scored with.
      not_computed: name of a metric -> why there is no number.

    Returns:
      The paths of the CSV and the JSON file. The JSON is strict: a value that
      is not finite is null there. In the CSV an infinite PSNR reads "inf", a
      metric that is not defined for an image "nan", and one that was not
      computed is empty.

    Raises:
      DataError: there are no rows.
      ResourceError: the folder cannot be written.
    """
    if not rows:
        raise errors.DataError("There are no scores to write; score first.")
    output_dir = pathlib.Path(output_dir)
    csv_path = output_dir / "scores.csv"
    json_path = output_dir / "scores.json"

    names = list(protocol.measures)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    who = ["patient", "study", "slice_index", "image"]
    how = ["protocol", "window_low", "window_high"]
    writer.writerow([*who, *names, *how])
    for row in rows:
        writer.writerow(
            [
                *(row.patient, row.study, row.slice_index, row.image),
                *(row.values.get(name) for name in names),
                *(protocol.name, *(row.window or (None, None))),
            ]
        )
    lines = text.getvalue().encode()
    write_whole(csv_path, lines)

    summary = evaluate.summarise(rows)
    content = {
        "settings": dict(settings),
        "rows_sha256": hashlib.sha256(lines).hexdigest(),
        "protocol": protocol.described(),
        "not_computed": _missing(rows[0].values, protocol, not_computed),
        "versions": {
            "medgan_tf": medgan_tf.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
        },
        "images": {
            name: dataclasses.asdict(found) for name, found in summary.items()
        },
        "statistics": _statistics(summary),
    }
    write_whole(json_path, sealed.dumps(_strict(content)).encode())
    return csv_path, json_path


def table(
    summary: Mapping[str, evaluate.ImageSummary],
    *,
    unit: str,
    protocol: protocols.Protocol,
    not_computed: Mapping[str, str] | None = None,
) -> str:
    """The averages as text: one line per metric, one column per image.

    Args:
      summary: as from `evaluate.summarise`.
      unit: physical unit of the target, such as "HU".
      protocol: the one that was scored with; its name stands below.
      not_computed: as for `write_scores`.

    Returns:
      Lines without a final newline. Arrows point to the better direction.
    """
    # All images are scored on the same slices, so any one tells their number.
    first = next(iter(summary.values()))
    missing = _missing(first.slice_mean, protocol, not_computed)
    num_patients = len(first.num_slices)
    num_scored = sum(first.num_slices.values())
    lines = [[f"mean ± SD over patients ({num_patients})", *summary]]
    for name, measure in protocol.measures.items():
        words = [NOT_COMPUTED] * len(summary)
        if name not in missing:
            means = [found.patient_mean[name] for found in summary.values()]
            sds = [found.patient_sd[name] for found in summary.values()]
            words = [
                f"{mean} ± {sd}"
                for mean, sd in zip(
                    cells(means), cells(sds, like=means), strict=True
                )
            ]
        lines.append([_label(measure, unit), *words])
    blank = [""] * len(summary)
    lines.append(["", *blank])
    lines.append([f"mean over {protocol.scored}s ({num_scored})", *blank])
    for name, measure in protocol.measures.items():
        if name not in missing:
            means = [found.slice_mean[name] for found in summary.values()]
            lines.append([_label(measure, unit), *cells(means)])

    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [
                cell.rjust(width)
                for cell, width in zip(line[1:], widths[1:], strict=True)
            ]
        ).rstrip()
        for line in lines
    ]
    text += _interval_lines(summary, protocol, unit)
    text.append(f"Protocol {protocol.name}; its settings are in scores.json.")
    text += [
        f"{protocol.measures[name].metric.label} is not computed: {reason}."
        for name, reason in missing.items()
    ]
    text += [
        f"PSNR of {name} leaves out {found.num_identical} {protocol.scored}(s) "
        "equal to the target."
        for name, found in summary.items()
        if found.num_identical
    ]
    shown, last = list(summary.items())[-1]
    text += [
        f"{protocol.measures[name].metric.label} of {shown} is not defined in "
        f"{number} of {num_scored} {protocol.scored}(s)."
        for name, number in last.num_undefined.items()
    ]
    return "\n".join(text)


def cells(
    values: Sequence[float], like: Sequence[float] | None = None
) -> list[str]:
    """Numbers of a column with one number of decimals, to be read together.

    Four digits of the smallest of `like` (default: the values themselves),
    and never more than four decimals; "-" for one that is not finite.
    """
    shown = [abs(x) for x in (like or values) if np.isfinite(x)]
    smallest = min(shown, default=0.0)
    whole_digits = len(str(int(smallest))) if smallest >= 1 else 0
    places = max(0, 4 - whole_digits)
    return [f"{x:.{places}f}" if np.isfinite(x) else "-" for x in values]


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Writes beside the path, then renames: never half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise errors.ResourceError(
            f"Cannot write {path}: {error.strerror}; choose a folder that is "
            "writable and has space."
        ) from error


def _statistics(
    summary: Mapping[str, evaluate.ImageSummary],
) -> dict[str, dict]:
    """Metric -> what `statistics` says of the images and of their differences.

    The translation is compared with every other image, by patients; Holm's
    family is the comparisons of one metric.
    """
    found = {}
    for name in next(iter(summary.values())).patient_mean:
        table = {
            image: {p: values[name] for p, values in one.per_patient.items()}
            for image, one in summary.items()
        }
        # Equal images have no finite PSNR, and a patient without bone no Dice.
        unequal = [
            image
            for image, patients in table.items()
            if not np.isfinite(list(patients.values())).all()
        ]
        for image in unequal:
            del table[image]
        found[name] = {
            "images": {
                image: dataclasses.asdict(statistics.describe(patients))
                for image, patients in table.items()
            },
            "comparisons": [
                dataclasses.asdict(one)
                for one in statistics.compare_all(table, "translated")
            ]
            if len(table) > 1 and "translated" in table
            else [],
            "without_finite_numbers": unequal,
        }
    return found


def _interval_lines(
    summary: Mapping[str, evaluate.ImageSummary],
    protocol: protocols.Protocol,
    unit: str,
) -> list[str]:
    """The 95 % intervals of the translation, or why there are none."""
    found = _statistics({"translated": summary["translated"]})
    known = {
        name: one["images"]["translated"]
        for name, one in found.items()
        if "translated" in one["images"]
    }
    words = [
        f"{protocol.measures[name].label(unit)} "
        f"{' to '.join(cells([one['low'], one['high']]))}"
        for name, one in known.items()
        if one["low"] is not None
    ]
    notes = {one["note"] for one in known.values() if one["low"] is None}
    lines = [f"95 % interval of translated over patients: {'; '.join(words)}."]
    return lines * bool(words) + [
        f"No 95 % interval: {note}." for note in sorted(notes)
    ]


def _strict(value: object) -> object:
    """The value as JSON knows it; None for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _missing(
    values: Mapping[str, float],
    protocol: protocols.Protocol,
    reasons: Mapping[str, str] | None,
) -> dict[str, str]:
    """Measures of the protocol without a number -> why."""
    return {
        name: (reasons or {}).get(name, NO_WEIGHTS)
        for name in protocol.measures
        if name not in values
    }


def _label(measure: protocols.Measure, unit: str) -> str:
    """Such as "MAE (HU) ↓"; the nearer to 0 the better is "→ 0"."""
    arrows = {True: "↑", False: "↓", None: "→ 0"}
    return f"{measure.label(unit)} {arrows[measure.metric.higher_is_better]}"
