"""Scores as files, as a table and as a picture.

`scores.csv` has one line per slice and image, `scores.json` the averages with
everything needed to read them, the table is for the terminal, the picture for
the eye: no score replaces a look at the median and the worst slice.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence

import numpy as np
import scipy
from matplotlib import axes, image
from matplotlib import figure as mpl_figure
from matplotlib.backends import backend_agg

import medgan_tf
from medgan_tf import errors, tasks
from medgan_tf.evaluation import evaluate, metrics

# Soft tissue and bone in one grey scale; the whole window would show neither.
CT_DISPLAY_HU = (-300.0, 700.0)
# Leaves a few hot pixels saturated, as on a reading screen; below 1 SUV there
# is only background, and a darker scale would show nothing but noise.
PET_DISPLAY_PERCENTILE = 99.5
PET_DISPLAY_AT_LEAST_SUV = 1.0
ERROR_PERCENTILE = 99.0

DOTS_PER_INCH = 150
# All in inches; four images and their gaps make the picture 10 in wide.
IMAGE_WIDTH = 2.2
IMAGE_GAP = 0.1
LEFT_MARGIN = 0.8
CAPTION_HEIGHT = 0.4
HEADER_HEIGHT = 1.0
COLOUR_BAR_HEIGHT = 0.12
FOOTER_HEIGHT = 0.75


def write_scores(
    output_dir: str | os.PathLike,
    rows: Sequence[evaluate.Score],
    settings: Mapping[str, str | int | float | bool | None],
) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes `scores.csv` and `scores.json`; each appears whole or not at all.

    Args:
      output_dir: folder; made if it does not exist.
      rows: as from `evaluate.score_slices`.
      settings: what was scored: task, method, split, unit, simulated,
        num_skipped and the like. Protocol and versions are added.

    Returns:
      The paths of the CSV and the JSON file. The JSON is strict: a value that
      is not finite is null there. In the CSV an infinite PSNR reads "inf".

    Raises:
      DataError: there are no rows.
      ResourceError: the folder cannot be written.
    """
    if not rows:
        raise errors.DataError("There are no scores to write; score first.")
    output_dir = pathlib.Path(output_dir)
    csv_path = output_dir / "scores.csv"
    json_path = output_dir / "scores.json"

    names = list(metrics.METRICS)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["patient", "study", "slice_index", "image", *names])
    for row in rows:
        values = [row.values[name] for name in names]
        who = [row.patient, row.study, row.slice_index]
        writer.writerow([*who, row.image, *values])
    _write(csv_path, text.getvalue().encode())

    content = {
        "settings": dict(settings),
        "protocol": evaluate.PROTOCOL,
        "versions": {
            "medgan_tf": medgan_tf.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
        },
        "images": {
            name: dataclasses.asdict(summary)
            for name, summary in evaluate.summarise(rows).items()
        },
    }
    text = json.dumps(_strict(content), indent=2, allow_nan=False)
    _write(json_path, (text + "\n").encode())
    return csv_path, json_path


def table(summary: Mapping[str, evaluate.ImageSummary], *, unit: str) -> str:
    """The averages as text: one line per metric, one column per image.

    Args:
      summary: as from `evaluate.summarise`.
      unit: physical unit of the target, such as "HU".

    Returns:
      Lines without a final newline. Arrows point to the better direction.
    """
    # All images are scored on the same slices, so any one tells their number.
    first = next(iter(summary.values()))
    num_patients = len(first.num_slices)
    num_slices = sum(first.num_slices.values())
    header = [f"mean ± SD over patients ({num_patients})", *summary]
    lines = [header]
    for name in metrics.METRICS:
        means = [found.patient_mean[name] for found in summary.values()]
        sds = [found.patient_sd[name] for found in summary.values()]
        lines.append(
            [
                _label(name, unit),
                *(
                    f"{mean} ± {sd}"
                    for mean, sd in zip(
                        _cells(means), _cells(sds, like=means), strict=True
                    )
                ),
            ]
        )
    lines.append([f"mean over slices ({num_slices})", *[""] * len(summary)])
    for name in metrics.METRICS:
        means = [found.slice_mean[name] for found in summary.values()]
        lines.append([_label(name, unit), *_cells(means)])

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
    text.insert(len(metrics.METRICS) + 1, "")
    text += [
        f"PSNR of {name} leaves out {found.num_identical} slice(s) equal to "
        "the target."
        for name, found in summary.items()
        if found.num_identical
    ]
    return "\n".join(text)


def picture(
    path: str | os.PathLike,
    examples: Sequence[evaluate.Example],
    *,
    task: tasks.Task,
    method: str,
    is_simulated: bool,
) -> pathlib.Path:
    """Draws source, translated, target and signed error, one row per example.

    The grey scale of each modality is printed under source and target: CT in
    a soft-tissue-to-bone window, PET inverted from 0 to a robust maximum of
    the slice, MR in its whole window. The translated image has the target's
    grey scale, and so has a source of the same modality. One colour scale,
    symmetric about 0, serves all errors.

    Args:
      path: the PNG file; its folder is made if it does not exist.
      examples: as from `evaluate.translate_examples`; at least one.
      task: what was translated.
      method: name of the method, for the title.
      is_simulated: whether the source was simulated; the title says so.

    Returns:
      The path. The picture is 1500 pixels wide, and higher with each row.

    Raises:
      DataError: there are no examples.
      ResourceError: the file cannot be written.
    """
    if not examples:
        raise errors.DataError("There are no examples to draw; choose some.")

    heights = [_row_height(example) for example in examples]
    width = LEFT_MARGIN + 4 * (IMAGE_WIDTH + IMAGE_GAP)
    height = (
        HEADER_HEIGHT
        + sum(heights)
        + CAPTION_HEIGHT * len(examples)
        + FOOTER_HEIGHT
    )
    figure = mpl_figure.Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
    backend_agg.FigureCanvasAgg(figure)

    def add_axes(column: int, bottom: float, axes_height: float) -> axes.Axes:
        left = LEFT_MARGIN + column * (IMAGE_WIDTH + IMAGE_GAP)
        return figure.add_axes(
            (
                left / width,
                bottom / height,
                IMAGE_WIDTH / width,
                axes_height / height,
            )
        )

    limit = _error_limit(examples)
    bottom = height - HEADER_HEIGHT
    for example, row_height in zip(examples, heights, strict=True):
        bottom -= row_height
        row = [add_axes(column, bottom, row_height) for column in range(4)]
        error_image = _draw_row(row, example, task, limit)
        if example is examples[0]:
            row[0].set_title(f"source ({task.source.name})")
            row[1].set_title("translated")
            row[2].set_title(f"target ({task.target.name})")
            row[3].set_title("translated − target")
        bottom -= CAPTION_HEIGHT

    figure.colorbar(
        error_image,
        cax=add_axes(3, bottom - COLOUR_BAR_HEIGHT, COLOUR_BAR_HEIGHT),
        orientation="horizontal",
        extend="both",
        label=f"error ({task.target.unit})",
    )
    figure.text(
        LEFT_MARGIN / width,
        1 - 0.3 / height,
        f"{method}: {task.title}",
        fontsize="large",
        fontweight="bold",
        verticalalignment="center",
    )
    if is_simulated:
        figure.text(
            LEFT_MARGIN / width,
            1 - 0.55 / height,
            "simulated images",
            color="firebrick",
            verticalalignment="center",
        )

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH)
    path = pathlib.Path(path)
    _write(path, content.getvalue())
    return path


def _write(path: pathlib.Path, content: bytes) -> None:
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


def _label(name: str, unit: str) -> str:
    """Such as "MAE (HU) ↓"."""
    metric = metrics.METRICS[name]
    unit = unit if metric.is_physical else metric.unit
    arrow = "↑" if metric.higher_is_better else "↓"
    return (
        f"{metric.label} ({unit}) {arrow}"
        if unit
        else f"{metric.label} {arrow}"
    )


def _cells(
    values: Sequence[float], like: Sequence[float] | None = None
) -> list[str]:
    """Numbers with one number of decimals; "-" for one that is not finite.

    Four digits of the smallest of `like` (default: the values themselves),
    and never more than four decimals.
    """
    shown = [abs(x) for x in (like or values) if np.isfinite(x)]
    smallest = min(shown, default=0.0)
    whole_digits = len(str(int(smallest))) if smallest >= 1 else 0
    places = max(0, 4 - whole_digits)
    return [f"{x:.{places}f}" if np.isfinite(x) else "-" for x in values]


def _row_height(example: evaluate.Example) -> float:
    """Inches for the images, within reason for a very narrow or flat box."""
    num_rows, num_columns = example.target.shape
    return IMAGE_WIDTH * min(max(num_rows / num_columns, 0.5), 2.0)


def _error_limit(examples: Sequence[evaluate.Example]) -> float:
    """Where the colours of the error end: robust, one for all examples."""
    found = [np.abs(e.translated - e.target)[e.mask] for e in examples]
    limit = np.percentile(np.concatenate(found), ERROR_PERCENTILE)
    return max(float(limit), 1e-6)


def _draw_row(
    row: Sequence[axes.Axes],
    example: evaluate.Example,
    task: tasks.Task,
    limit: float,
) -> image.AxesImage:
    """Draws one example into four axes and returns the image of the error."""
    target_style = _style(
        task.target, example.target[example.mask], example.target_window
    )
    source_style = target_style
    if task.source != task.target:
        source_style = _style(
            task.source, example.source[example.mask], example.source_window
        )
    error = example.translated - example.target
    row[0].imshow(example.source, **source_style)
    row[1].imshow(example.translated, **target_style)
    row[2].imshow(example.target, **target_style)
    error_image = row[3].imshow(error, cmap="RdBu_r", vmin=-limit, vmax=limit)

    row[0].set_ylabel(
        f"{example.patient} {example.study}\nslice {example.slice_index}\n"
        f"({example.kind} SSIM)",
        # Because a dollar sign in a patient's name is no formula.
        parse_math=False,
    )
    row[0].set_xlabel(_window_text(source_style, task.source.unit))
    row[1].set_xlabel(f"SSIM {example.ssim:.3f}")
    row[2].set_xlabel(_window_text(target_style, task.target.unit))
    mae = np.abs(error[example.mask]).mean()
    row[3].set_xlabel(f"MAE {_short(mae)} {task.target.unit}")
    for one in row:
        one.set_xticks([])
        one.set_yticks([])
    return error_image


def _style(
    modality: tasks.Modality,
    values: np.ndarray,
    window: tuple[float, float],
) -> dict[str, str | float]:
    """How to show an image, as arguments of `imshow`."""
    if modality == tasks.CT:
        window = CT_DISPLAY_HU
    if modality == tasks.PET:
        high = np.percentile(values, PET_DISPLAY_PERCENTILE)
        window = (0.0, max(float(high), PET_DISPLAY_AT_LEAST_SUV))
    return {
        "cmap": "gray_r" if modality == tasks.PET else "gray",
        "vmin": window[0],
        "vmax": window[1],
    }


def _window_text(style: Mapping[str, str | float], unit: str) -> str:
    """Such as "−300 to 700 HU"."""
    return f"{_short(style['vmin'])} to {_short(style['vmax'])} {unit}"


def _short(value: float) -> str:
    """Three digits, but never an exponent for a large number."""
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "−")
