"""A volume knows how far apart and which way round its voxels are."""

import numpy as np
import pytest

from medgan_tf.data import volume


def make(shape=(3, 4, 5), spacing=(-1.0, -2.0, 3.0), origin=(10, 20, 30)):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return volume.Volume(np.zeros(shape, np.float32), affine)


def test_shape_spacing_and_orientation_are_those_of_the_affine():
    # x and y run towards smaller RAS+ values: left and posterior.
    assert make().shape == (3, 4, 5)
    assert make().spacing == (1.0, 2.0, 3.0)
    assert make().orientation == "LPS"


def test_spacing_of_turned_voxels_is_the_length_of_their_edges():
    turned = make()
    turned.affine[:3, :3] = [[3, -4, 0], [4, 3, 0], [0, 0, 2]]
    assert turned.spacing == pytest.approx((5.0, 5.0, 2.0))


def test_the_same_grid_is_told_to_a_thousandth_of_a_millimetre():
    assert make().same_grid(make(origin=(10, 20, 30.0005)))
    assert not make().same_grid(make(origin=(10, 20, 30.01)))
    assert not make().same_grid(make(shape=(3, 4, 6)))
    # A spacing that is off by little adds up over the voxels.
    assert not make().same_grid(make(spacing=(-1.0, -2.0, 3.001)))


def test_a_volume_without_three_axes_or_with_a_small_affine_is_refused():
    with pytest.raises(ValueError, match="3 axes"):
        volume.Volume(np.zeros((2, 2)), np.eye(4))
    with pytest.raises(ValueError, match="4 x 4"):
        volume.Volume(np.zeros((2, 2, 2)), np.eye(3))
