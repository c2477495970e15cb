"""Several methods side by side, like the paper's Figures 4, 5 and 7."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence

from matplotlib import figure as mpl_figure
from matplotlib.backends import backend_agg

from medgan_tf import errors, tasks
from medgan_tf.evaluation import examples, picture

DOTS_PER_INCH = 110
# All in inches.
IMAGE_WIDTH = 1.5
GAP = 0.06
LEFT_MARGIN = 0.85
CAPTION_HEIGHT = 0.3
TITLE_HEIGHT = 0.75
FOOTER_HEIGHT = 0.7
BAR_HEIGHT = 0.1
LABEL_CHARACTERS = 20


def draw(
    shown: Mapping[str, Sequence[examples.Example]],
    task: tasks.Task,
    limit: float | None = None,
) -> bytes:
    """Draws the source, each method's image and the target, and the errors.

    Two rows a slice: the images, each in the grey scale of its modality (see
    `picture.draw`), and below each method's image its signed error. All
    errors of all methods have one colour scale, symmetric about 0.

    Args:
      shown: label of the method -> its examples: the same slices in the same
        order for each, at least one method and one slice.
      task: what was translated.
      limit: where the colours of the errors end; None: where 99 % of these do.

    Returns:
      A PNG file.

    Raises:
      DataError: there is nothing to draw, or the slices differ.
    """
    slices = [_slices(found) for found in shown.values()]
    if not slices or not slices[0] or slices.count(slices[0]) != len(slices):
        raise errors.DataError(
            "Methods are drawn side by side on the same slices, one or more; "
            f"got {slices or 'no methods'}."
        )
    rows = list(zip(*shown.values(), strict=True))
    if limit is None:
        limit = picture.error_limit([one for row in rows for one in row])
    heights = [
        IMAGE_WIDTH * picture.relative_height(first) for first, *_ in rows
    ]
    num_columns = len(shown) + 2
    width = LEFT_MARGIN + num_columns * (IMAGE_WIDTH + GAP)
    height = TITLE_HEIGHT + FOOTER_HEIGHT
    height += sum(2 * one + CAPTION_HEIGHT + 2 * GAP for one in heights)
    figure = mpl_figure.Figure((width, height), dpi=DOTS_PER_INCH)
    backend_agg.FigureCanvasAgg(figure)

    def add_axes(column: int, bottom: float, its_height: float):
        left = LEFT_MARGIN + column * (IMAGE_WIDTH + GAP)
        axes = figure.add_axes(
            (
                left / width,
                bottom / height,
                IMAGE_WIDTH / width,
                its_height / height,
            )
        )
        axes.set_xticks([])
        axes.set_yticks([])
        return axes

    bottom = height - TITLE_HEIGHT
    for row, its_height in zip(rows, heights, strict=True):
        one = row[0]
        source_style, target_style = picture.styles(one, task)
        bottom -= its_height
        images = [
            (one.source, source_style),
            *((example.translated, target_style) for example in row),
            (one.target, target_style),
        ]
        for column, (image, style) in enumerate(images):
            axes = add_axes(column, bottom, its_height)
            axes.imshow(image, **style)
            if row is rows[0]:
                axes.set_title(
                    _title(column, list(shown), task),
                    fontsize=9,
                    parse_math=False,
                )
            if column == 0:
                axes.set_ylabel(
                    f"{one.patient} {one.study}\nslice {one.slice_index}",
                    fontsize=8,
                    # Because a dollar sign in a patient's name is no formula.
                    parse_math=False,
                )
                axes.set_xlabel(
                    picture.window_text(source_style, task.source.unit),
                    fontsize=7,
                )
            if column == num_columns - 1:
                axes.set_xlabel(
                    picture.window_text(target_style, task.target.unit),
                    fontsize=7,
                )
        bottom -= its_height + GAP
        for column, example in enumerate(row, start=1):
            axes = add_axes(column, bottom, its_height)
            error_image = picture.draw_error(axes, example, limit)
            axes.set_xlabel(f"SSIM {example.ssim:.3f}", fontsize=7)
            if column == 1:
                axes.set_ylabel("error", fontsize=8)
        bottom -= CAPTION_HEIGHT + GAP
    bar = add_axes(1, bottom - BAR_HEIGHT, BAR_HEIGHT)
    figure.colorbar(
        error_image,
        cax=bar,
        orientation="horizontal",
        extend="both",
        label=f"translated − target ({task.target.unit})",
    )
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH)
    return content.getvalue()


def _slices(found: Sequence[examples.Example]) -> list[tuple]:
    return [(one.patient, one.study, one.slice_index) for one in found]


def _title(column: int, labels: list[str], task: tasks.Task) -> str:
    """Of a column: source, the methods, target."""
    titles = [
        f"source ({task.source.name})",
        *labels,
        f"target ({task.target.name})",
    ]
    return textwrap.fill(titles[column], LABEL_CHARACTERS)
