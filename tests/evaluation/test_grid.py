"""Methods stand side by side on the same slices, errors on one scale."""

import dataclasses
import io

import numpy as np
import pytest
from matplotlib import image as mpl_image

from medgan_tf import errors, tasks
from medgan_tf.evaluation import examples, grid, plots

CT = tasks.TASKS["mr_ct"]


def example(miss, index=0):
    rng = np.random.default_rng(index)
    target = rng.uniform(-100, 600, (24, 30))
    return examples.Example(
        patient="a$b",
        slice_index=index,
        kind="median",
        source=rng.uniform(0, 1000, (24, 30)),
        translated=target + miss,
        target=target,
        mask=np.ones((24, 30), bool),
        source_window=(0.0, 1000.0),
        target_window=(-1000.0, 2000.0),
        ssim=0.5,
    )


def pixels(png):
    return mpl_image.imread(io.BytesIO(png), format="png")


def test_it_is_as_wide_as_methods_and_as_high_as_slices():
    one = pixels(grid.draw({"A": [example(1)]}, CT))
    methods = pixels(grid.draw({n: [example(1)] for n in "ABC"}, CT))
    slices = pixels(grid.draw({"A": [example(1), example(1, 7)]}, CT))
    assert methods.shape[1] > 1.5 * one.shape[1]
    assert methods.shape[0] == one.shape[0]
    assert slices.shape[0] > 1.5 * one.shape[0]


def test_all_errors_have_one_scale():
    """Beside an error of 600 HU, one of 30 HU is nearly white."""
    png = pixels(grid.draw({"far": [example(600)], "near": [example(30)]}, CT))
    red = (png[..., 0] - png[..., 2] > 0.3).any(axis=0)
    places = np.flatnonzero(red) / red.size
    # Columns: margin, source, far, near, target; the colour bar is below far.
    assert places.min() > 0.3
    assert places.max() < 0.6


@pytest.mark.parametrize(
    "shown",
    [{}, {"A": []}, {"A": [example(1)], "B": [example(1, 5)]}],
    ids=["no methods", "no slices", "other slices"],
)
def test_what_cannot_stand_side_by_side_is_refused(shown):
    with pytest.raises(errors.DataError, match="side by side"):
        grid.draw(shown, CT)


def test_a_source_of_the_targets_modality_has_its_grey_scale():
    """A source equal to the target looks like it, pixel by pixel."""
    same = dataclasses.replace(
        example(0), source=example(0).target, source_window=(0.0, 9.0)
    )
    task = dataclasses.replace(CT, source=tasks.CT)
    png = pixels(grid.draw({"A": [same]}, task))
    first = (grid.LEFT_MARGIN, grid.IMAGE_WIDTH, grid.GAP)
    left, width, gap = (round(x * grid.DOTS_PER_INCH) for x in first)
    inside = slice(5, width - 5)
    top = round(grid.TITLE_HEIGHT * grid.DOTS_PER_INCH) + 5
    source = png[top : top + 90, left:][:, inside]
    target = png[top : top + 90, left + 2 * (width + gap) :][:, inside]
    assert np.abs(source - target).mean() < 0.05


@pytest.mark.parametrize("draw", [plots.patients, plots.curves])
def test_there_is_a_panel_for_each_metric(draw):
    found = {1: {"a": 0.1, "b": 0.3}, 2: {"a": 0.2, "b": 0.2}}
    one = pixels(draw({"SSIM": found}))
    six = pixels(draw({str(i): found for i in range(6)}))
    assert six.shape[0] == 2 * one.shape[0]
    assert six.shape[1] == 4 * one.shape[1]
