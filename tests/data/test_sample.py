"""A sample is refused unless its images, mask and windows fit."""

import numpy as np
import pytest

from medgan_tf import errors
from medgan_tf.data import sample

GOOD = {
    "patient": "ann",
    "slice_index": 7,
    "source": np.zeros([4, 6, 2], np.float32),
    "target": np.ones([4, 6, 1], np.float32),
    "mask": np.ones([4, 6], bool),
    "source_window": (0.0, 20.0),
    "target_window": (-1000.0, 2000.0),
}


def with_value(shape, value):
    image = np.zeros(shape, np.float32)
    image[1, 2, 0] = value
    return image


def test_a_sample_with_two_source_channels_is_accepted_and_named():
    assert sample.Sample(**GOOD).name == "slice 7 of patient ann"


def test_a_value_that_misses_the_range_by_rounding_is_accepted():
    sample.Sample(**{**GOOD, "target": with_value([4, 6, 1], 1 + 1e-6)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": np.ones([4, 6], np.uint8)}, "uint8 mask"),
        ({"mask": np.ones([6, 4], bool)}, r"mask \(6, 4\)"),
        ({"source": np.zeros([4, 6], np.float32)}, r"Source \(4, 6\)"),
        ({"target": np.zeros([4, 6, 2], np.float32)}, r"target \(4, 6, 2\)"),
        ({"source_window": (3.0, 3.0)}, "from 3.0 to 3.0"),
        ({"target_window": (0.0, np.nan)}, "from 0.0 to nan"),
        ({"source": with_value([4, 6, 2], 40.0)}, "source .* to 40; expected"),
        ({"target": with_value([4, 6, 1], -1.01)}, "target .* from -1.01 to 0"),
        ({"target": with_value([4, 6, 1], np.nan)}, "target .* nan"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_slice_named(change, words):
    with pytest.raises(errors.DataError, match=words) as refusal:
        sample.Sample(**{**GOOD, **change})
    assert "slice 7 of patient ann" in str(refusal.value)
    assert "\n" not in str(refusal.value)
