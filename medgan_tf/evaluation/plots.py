"""Curves and patients as pictures for a report."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib import figure as mpl_figure
from matplotlib import ticker
from matplotlib.backends import backend_agg

DOTS_PER_INCH = 110
PANEL_INCHES = (3.0, 2.5)
MOST_COLUMNS = 4

# Method or U-blocks -> patient -> value.
Patients = Mapping[str | int, Mapping[str, float]]


def patients(panels: Mapping[str, Patients]) -> bytes:
    """Each patient a line over the methods, the mean of them in black.

    Lines that cross mean that the methods' order hangs on the patient.

    Args:
      panels: label of the metric -> label of the method -> patient -> value.

    Returns:
      A PNG file.
    """

    def draw(axes, found: Patients) -> None:
        _lines(axes, range(len(found)), found)
        axes.set_xticks(
            range(len(found)), list(found), fontsize=7, parse_math=False
        )
        axes.tick_params(axis="x", rotation=30)

    return _panels(panels, draw)


def curves(panels: Mapping[str, Patients]) -> bytes:
    """The metrics over the number of U-blocks, as in Figure 6.

    Args:
      panels: label of the metric -> number of U-blocks -> patient -> value.

    Returns:
      A PNG file.
    """

    def draw(axes, found: Patients) -> None:
        _lines(axes, list(found), found)
        axes.set_xlabel("U-blocks", fontsize=8)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))

    return _panels(panels, draw)


def _lines(axes, places: Sequence[float], found: Patients) -> None:
    """One grey line a patient, and the mean."""
    columns = list(found.values())
    for patient in columns[0]:
        axes.plot(
            places,
            [column[patient] for column in columns],
            color="0.7",
            marker=".",
            linewidth=0.8,
        )
    axes.plot(
        places,
        [sum(column.values()) / len(column) for column in columns],
        color="black",
        marker="o",
        markersize=4,
        label="mean over patients",
    )


def _panels(panels: Mapping[str, Patients], draw) -> bytes:
    """One panel for each metric."""
    num_columns = min(len(panels), MOST_COLUMNS)
    num_rows = -(-len(panels) // num_columns)
    width, height = PANEL_INCHES
    figure = mpl_figure.Figure(
        (width * num_columns, height * num_rows),
        dpi=DOTS_PER_INCH,
        layout="constrained",
    )
    backend_agg.FigureCanvasAgg(figure)
    grid = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes, (label, found) in zip(grid, panels.items(), strict=False):
        draw(axes, found)
        axes.set_title(label, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(axis="y", alpha=0.3)
    for axes in grid[len(panels) :]:
        axes.remove()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH)
    return content.getvalue()
