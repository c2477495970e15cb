"""The picture can be opened, whatever is to be shown."""

import dataclasses

import numpy as np
import pytest
from matplotlib import image as mpl_image

from medgan_tf import errors, tasks
from medgan_tf.evaluation import examples, picture


def example(kind="median", shape=(40, 30), bias=50.0):
    rng = np.random.default_rng(1)
    target = rng.uniform(-1000, 1000, shape)
    return examples.Example(
        patient="a",
        slice_index=3,
        kind=kind,
        source=rng.uniform(0, 400, shape),
        translated=target + bias,
        target=target,
        mask=np.ones(shape, bool),
        source_window=(0.0, 400.0),
        target_window=(-1000.0, 2000.0),
        ssim=0.5,
    )


@pytest.mark.parametrize("task", tasks.TASKS.values(), ids=tasks.TASKS)
def test_the_picture_opens_and_is_ten_inches_wide(tmp_path, task):
    path = picture.draw(
        tmp_path / "new" / "examples.png",
        [example(), example("worst")],
        task=task,
        method="medgan",
        is_simulated=True,
    )

    height, width, _ = mpl_image.imread(path).shape
    assert width == 1500
    # At 150 dots per inch: two images of 2.2 in x 4 / 3 with captions of
    # 0.4 in, and 1.75 in for title and colour bar.
    assert height == pytest.approx(
        150 * (2 * (2.2 * 4 / 3 + 0.4) + 1.75), abs=2
    )


def test_a_picture_without_error_can_be_drawn(tmp_path):
    path = picture.draw(
        tmp_path / "examples.png",
        [example(bias=0.0)],
        task=tasks.TASKS["mr_ct"],
        method="medgan",
        is_simulated=False,
    )

    assert mpl_image.imread(path).size


def test_a_dollar_sign_in_a_name_is_not_read_as_a_formula(tmp_path):
    odd = dataclasses.replace(example(shape=(11, 200)), patient=r"$\frac$")

    path = picture.draw(
        tmp_path / "examples.png",
        [odd],
        task=tasks.TASKS["mr_ct"],
        method="medgan",
        is_simulated=False,
    )

    assert mpl_image.imread(path).size


def test_no_examples_are_an_error(tmp_path):
    with pytest.raises(errors.DataError, match="no examples"):
        picture.draw(
            tmp_path / "examples.png",
            [],
            task=tasks.TASKS["mr_ct"],
            method="medgan",
            is_simulated=False,
        )
