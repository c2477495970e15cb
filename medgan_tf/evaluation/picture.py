"""Source, translated, target and error as a picture.

No score replaces a look at the median and the worst slice.
"""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import axes, image
from matplotlib import figure as mpl_figure
from matplotlib.backends import backend_agg

from medgan_tf import errors, tasks
from medgan_tf.evaluation import examples, report

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


def draw(
    path: str | os.PathLike,
    shown: Sequence[examples.Example],
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
      shown: as from `examples.translate_chosen`; at least one.
      task: what was translated.
      method: name of the method, for the title.
      is_simulated: whether the source was simulated; the title says so.

    Returns:
      The path. The picture is 1500 pixels wide, and higher with each row.

    Raises:
      DataError: there are no examples.
      ResourceError: the file cannot be written.
    """
    if not shown:
        raise errors.DataError("There are no examples to draw; choose some.")

    heights = [IMAGE_WIDTH * relative_height(example) for example in shown]
    width = LEFT_MARGIN + 4 * (IMAGE_WIDTH + IMAGE_GAP)
    height = (
        HEADER_HEIGHT
        + sum(heights)
        + CAPTION_HEIGHT * len(shown)
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

    limit = error_limit(shown)
    bottom = height - HEADER_HEIGHT
    for example, row_height in zip(shown, heights, strict=True):
        bottom -= row_height
        row = [add_axes(column, bottom, row_height) for column in range(4)]
        error_image = _draw_row(row, example, task, limit)
        if example is shown[0]:
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
        parse_math=False,
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
    report.write_whole(path, content.getvalue())
    return path


def relative_height(example: examples.Example) -> float:
    """Height over width, within reason for a very narrow or flat box."""
    num_rows, num_columns = example.target.shape
    return min(max(num_rows / num_columns, 0.5), 2.0)


def styles(
    example: examples.Example, task: tasks.Task
) -> tuple[dict[str, str | float], dict[str, str | float]]:
    """How to show source and target, as arguments of `imshow`."""
    target = _style(
        task.target, example.target[example.mask], example.target_window
    )
    if task.source == task.target:
        return target, target
    source = _style(
        task.source, example.source[example.mask], example.source_window
    )
    return source, target


def error_limit(shown: Sequence[examples.Example]) -> float:
    """Where the colours of the error end: robust, one for all examples."""
    found = [np.abs(e.translated - e.target)[e.mask] for e in shown]
    limit = np.percentile(np.concatenate(found), ERROR_PERCENTILE)
    return max(float(limit), 1e-6)


def draw_error(
    where: axes.Axes, example: examples.Example, limit: float
) -> image.AxesImage:
    """Shows the signed error where it is scored; grey elsewhere."""
    where.set_facecolor("0.85")
    error = example.translated - example.target
    return where.imshow(
        np.ma.array(error, mask=~example.mask),
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
    )


def _draw_row(
    row: Sequence[axes.Axes],
    example: examples.Example,
    task: tasks.Task,
    limit: float,
) -> image.AxesImage:
    """Draws one example into four axes and returns the image of the error."""
    source_style, target_style = styles(example, task)
    error = example.translated - example.target
    row[0].imshow(example.source, **source_style)
    row[1].imshow(example.translated, **target_style)
    row[2].imshow(example.target, **target_style)
    error_image = draw_error(row[3], example, limit)

    row[0].set_ylabel(
        f"{example.patient} {example.study}\nslice {example.slice_index}\n"
        f"({example.kind} SSIM)",
        # Because a dollar sign in a patient's name is no formula.
        parse_math=False,
    )
    row[0].set_xlabel(window_text(source_style, task.source.unit))
    row[1].set_xlabel(f"SSIM {example.ssim:.3f}")
    row[2].set_xlabel(window_text(target_style, task.target.unit))
    mae = np.abs(error[example.mask]).mean()
    row[3].set_xlabel(f"MAE {short(mae)} {task.target.unit}")
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


def window_text(style: Mapping[str, str | float], unit: str) -> str:
    """Such as "−300 to 700 HU"."""
    return f"{short(style['vmin'])} to {short(style['vmax'])} {unit}"


def short(value: float) -> str:
    """Three digits, but never an exponent for a large number."""
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "−")
