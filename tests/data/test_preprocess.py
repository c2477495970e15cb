"""From a volume to slices and back: nothing moves, nothing is lost."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from nibabel import processing
from scipy import ndimage

from medgan_tf import errors, tasks
from medgan_tf.data import io, preprocess, volume

KEEP = (None, None, None)


def affine_of(
    codes="LPS", spacing=(1.0, 1.0, 1.0), origin=(0, 0, 0), turn=None
):
    """Axes along the letters, `spacing` and `turn` in the file's own axes."""
    ornt = nib.orientations.axcodes2ornt(codes)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (row, sign) in enumerate(ornt):
        affine[int(row), axis] = sign * spacing[axis]
    if turn is not None:
        affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = origin
    return affine


def rotation(degrees, axis):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [k for k in range(3) if k != axis]
    turn = np.eye(3)
    turn[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return turn


TURN = rotation(17, 2) @ rotation(-9, 0)


def noise(shape, affine, seed=0):
    values = np.random.default_rng(seed).normal(size=shape)
    return volume.Volume(values.astype(np.float32), affine)


def blob(shape, affine, centre_mm, width_mm):
    """A Gaussian at a place in the patient, sampled where the voxels are."""
    indices = np.stack(np.indices(shape), axis=-1)
    points = nib.affines.apply_affine(affine, indices)
    squared = np.square(points - centre_mm).sum(axis=-1)
    values = 1000 * np.exp(-squared / (2 * width_mm**2))
    return volume.Volume(values.astype(np.float32), affine)


def centre_of(found):
    """Centre of mass in mm, RAS+."""
    index = ndimage.center_of_mass(found.array.astype(np.float64))
    return nib.affines.apply_affine(found.affine, index)


def there_and_back(source, voxel_size_mm, fill=-7.0, size=256):
    grid = preprocess.slice_grid(source, voxel_size_mm)
    on_grid = preprocess.resample(source, grid, outside=fill)
    body = np.zeros(grid.shape, bool)
    geometry = preprocess.place(source, grid, body, size)
    slices = preprocess.to_slices(on_grid.array, geometry, fill=fill)
    assert slices.shape == (grid.shape[2], size, size)
    assert slices.dtype == np.float32
    return preprocess.from_slices(slices, geometry, fill=fill)


ORIENTATIONS = ["LPS", "RAS", "LIA", "PSR", "ASL", "SRA"]
TURNS = {"straight": None, "oblique": TURN}


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_without_new_spacing_the_way_back_is_exact_to_the_bit(codes, turn):
    affine = affine_of(codes, (0.7, 1.3, 3.3), (12.3, -45.6, 78.9), turn)
    source = noise((7, 12, 5), affine)
    result = there_and_back(source, KEEP)
    np.testing.assert_array_equal(result.array, source.array)
    np.testing.assert_array_equal(result.affine, source.affine)


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_with_new_spacing_a_smooth_image_comes_back(codes, turn):
    affine = affine_of(codes, (1.2, 1.5, 1.9), (5, 6, 7), turn)
    centre = nib.affines.apply_affine(affine, (15, 12, 10))
    source = blob((30, 25, 20), affine, centre, 8.0)
    result = there_and_back(source, (1.0, 1.0, None), fill=0.0)
    assert result.shape == source.shape
    np.testing.assert_array_equal(result.affine, source.affine)
    # Linear interpolation errs by h^2 / 8 * f'' per axis and way: 1000 / 64 *
    # (1 + 2.25) / 8, twice, is 13; the smoothing on the way back adds half.
    assert np.abs(result.array - source.array).max() < 20
    assert np.abs(centre_of(result) - centre_of(source)).max() < 0.05


@pytest.mark.parametrize("codes", ["".join(c) for c in ORIENTATIONS])
def test_the_canonical_grid_is_lps_and_has_the_volume_s_own_corners(codes):
    source = noise((4, 5, 6), affine_of(codes, (1, 2, 3), (1, 2, 3), TURN))
    grid = preprocess.slice_grid(source, KEEP)
    assert "".join(nib.aff2axcodes(grid.affine)) == "LPS"

    def corners(shape, affine):
        ends = itertools.product(*((0, n - 1) for n in shape))
        found = nib.affines.apply_affine(affine, np.array(list(ends)))
        return found[np.lexsort(found.round(6).T)]

    np.testing.assert_allclose(
        corners(grid.shape, grid.affine),
        corners(source.shape, source.affine),
        atol=1e-9,
    )


def test_with_new_spacing_the_outer_edge_of_the_first_voxel_stays():
    # 10 voxels of 1.5 mm are 15 mm: 5 of 3 mm; by hand, in the L direction
    # the edge is at x = +0.75 mm, hence the new centre at -0.75 mm.
    source = noise((10, 4, 4), affine_of("LPS", (1.5, 1, 1)))
    grid = preprocess.slice_grid(source, (3.0, 1.0, None))
    assert grid.shape == (5, 4, 4)
    np.testing.assert_allclose(grid.affine[:3, 3], (-0.75, 0, 0), atol=1e-12)
    np.testing.assert_allclose(np.diag(grid.affine), (-3, -1, 1, 1))


def test_voxel_sizes_belong_to_the_patient_s_axes_not_to_the_file_s():
    source = noise((10, 20, 30), affine_of("SRA", (1, 1, 1)))
    grid = preprocess.slice_grid(source, (2.0, 3.0, 5.0))
    # The file runs S, R, A: 20 mm along L, 30 along P, 10 along S.
    assert grid.shape == (10, 10, 2)


def test_rounding_in_a_header_brings_no_interpolation():
    spacing = float(np.float32(0.99999994))
    source = noise((50, 50, 3), affine_of("RAS", (spacing, spacing, 3)))
    result = there_and_back(source, (1.0, 1.0, 3.0000002))
    np.testing.assert_array_equal(result.array, source.array)


def test_a_thin_single_slice_keeps_its_values_on_a_coarse_grid():
    source = noise((8, 8, 1), affine_of("LPS", (1, 1, 0.3)))
    grid = preprocess.slice_grid(source, (1.0, 1.0, 1.0))
    found = preprocess.resample(source, grid, outside=-99.0)
    assert grid.shape == (8, 8, 1)
    np.testing.assert_array_equal(found.array, source.array)


def test_fine_voxels_beyond_the_last_coarse_one_are_not_filled():
    # 11 x 0.4 mm are 4.4 mm: 4 of 1 mm, so that the last fine voxel's centre,
    # at 4.2 mm, lies beyond the end of the slices.
    source = volume.Volume(
        np.full((11, 11, 2), 5, np.float32), affine_of("LPS", (0.4, 0.4, 1))
    )
    result = there_and_back(source, (1.0, 1.0, None))
    np.testing.assert_allclose(result.array, 5, rtol=1e-6)


@pytest.mark.parametrize("size", [0, -1, np.nan, np.inf])
def test_an_impossible_voxel_size_is_refused(size):
    with pytest.raises(errors.UsageError, match="voxel_size_mm"):
        preprocess.slice_grid(noise((2, 2, 2), np.eye(4)), (1, size, 1))


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PSR"])
def test_a_point_lands_in_the_right_pixel_of_the_right_slice(codes):
    # 2 mm voxels from R to L 20, A to P 30, I to S 10; the point lies in the
    # voxel that is 3rd from the right, 5th from the front, 7th from below.
    lps = np.zeros((20, 30, 10), np.float32)
    lps[2, 4, 6] = 1
    image = nib.Nifti1Image(lps, affine_of("LPS", (2, 2, 2), (9, 8, 7)))
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("LPS"),
            nib.orientations.axcodes2ornt(codes),
        )
    )
    source = volume.Volume(np.asarray(turned.dataobj), turned.affine)
    grid = preprocess.slice_grid(source, KEEP)
    geometry = preprocess.place(source, grid, np.zeros(grid.shape, bool))
    slices = preprocess.to_slices(
        preprocess.resample(source, grid, outside=0.0).array, geometry, fill=0
    )
    # Columns start at (256 - 20) / 2 = 118, rows at (256 - 30) / 2 = 113.
    assert np.argwhere(slices == 1).tolist() == [[6, 113 + 4, 118 + 2]]


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("spacing", [(1, 1, 1), (2.3, 2.3, 3), (0.6, 0.8, 2)])
def test_a_source_on_another_grid_comes_to_lie_upon_the_target(spacing, turn):
    centre = np.array((3.3, -4.4, 5.5))
    target = blob((40, 40, 30), affine_of(origin=(23, 16, -9)), centre, 4.0)
    affine = affine_of("RAS", spacing, turn=turn)
    shape = tuple(np.ceil(60 / np.array(spacing)).astype(int))
    affine[:3, 3] = centre - affine[:3, :3] @ (np.array(shape) / 2 + 0.3)
    source = blob(shape, affine, centre, 4.0)
    found = preprocess.resample(
        source, preprocess.Grid(target.shape, target.affine), outside=0.0
    )
    np.testing.assert_array_equal(found.affine, target.affine)
    assert np.abs(centre_of(found) - centre_of(target)).max() < 0.1


def test_neighbours_are_mixed_linearly():
    source = noise((4, 1, 1), np.eye(4))
    grid = preprocess.Grid((3, 1, 1), np.eye(4))
    grid.affine[0, 3] = 0.25
    a = source.array[:, 0, 0]
    np.testing.assert_allclose(
        preprocess.resample(source, grid, outside=0.0).array[:, 0, 0],
        0.75 * a[:3] + 0.25 * a[1:],
        rtol=1e-6,
    )


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_inside_the_values_are_those_that_nibabel_computes(turn):
    source = noise((12, 13, 14), affine_of("RAS", (1, 1.1, 2), turn=turn))
    grid = preprocess.Grid(
        (9, 8, 7), affine_of("LPS", (0.9, 0.8, 0.7), (9, 10, 6))
    )
    expected = processing.resample_from_to(
        nib.Nifti1Image(source.array, source.affine),
        (grid.shape, grid.affine),
        order=1,
        cval=np.nan,
    ).get_fdata()
    found = preprocess.resample(source, grid, outside=0.0).array
    inside = np.isfinite(expected)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-5)


def test_a_slice_that_begins_a_hair_early_is_not_outside():
    # Headers of one session differ by rounding; z here by 4e-5 of a slice.
    source = noise((6, 6, 4), affine_of("LPS", (0.97, 0.97, 3.27)))
    affine = affine_of("LPS", (1, 1, 3.27), (-0.5, -0.5, -1.2e-4))
    found = preprocess.resample(
        source, preprocess.Grid((4, 4, 4), affine), outside=-1000.0
    )
    assert found.array.min() > -5


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("codes", ["LPS", "PSL"])
@pytest.mark.parametrize("pattern", ["checkerboard", "stripes"])
def test_detail_that_a_coarse_grid_cannot_carry_becomes_its_mean(
    factor, codes, pattern
):
    # Stripes run across the patient's L axis, wherever the file has it.
    indices = np.indices((36, 36, 36))
    across = indices[codes.index("L")]
    odd = (indices.sum(axis=0) if pattern == "checkerboard" else across) % 2
    source = volume.Volume((1000 * odd).astype(np.float32), affine_of(codes))
    grid = preprocess.slice_grid(source, (factor, None, None))
    found = preprocess.resample(source, grid, outside=0.0).array
    # Plain subsampling by 3 would still alternate between 0 and 1000. The
    # Gaussian leaves exp(-(pi sigma)^2 / 2) of it: 0.1 % at 3; at 2, the
    # samples lie half-way between the voxels, where nothing is left.
    assert np.abs(found[2:-2, 2:-2, 2:-2] - 500).max() < 2


def test_a_coarse_grid_keeps_the_mean_of_an_image():
    source = blob((48, 48, 12), affine_of(), (-24, -24, 6), 5.0)
    grid = preprocess.slice_grid(source, (3.0, 3.0, None))
    found = preprocess.resample(source, grid, outside=0.0)
    assert found.array.mean() == pytest.approx(source.array.mean(), rel=1e-3)


def test_turning_alone_blurs_nothing():
    # At equal spacing there is nothing to protect from, whatever the angle.
    centre = np.array((0.0, 0.0, 0.0))
    affine = affine_of(turn=rotation(45, 2))
    affine[:3, 3] = -affine[:3, :3] @ (16, 16, 16)
    source = blob((33, 33, 33), affine, centre, 3.0)
    target = blob((9, 9, 9), affine_of(origin=(4, 4, -4)), centre, 3.0)
    found = preprocess.resample(
        source, preprocess.Grid(target.shape, target.affine), outside=0.0
    )
    assert found.array[4, 4, 4] == pytest.approx(1000, abs=1e-3)


def test_beyond_the_field_of_view_stands_the_value_for_outside():
    source = volume.Volume(np.ones((4, 4, 4), np.float32), np.eye(4))
    for shift in (2.0, 2.25):
        affine = np.eye(4)
        affine[0, 3] = shift
        grid = preprocess.Grid((4, 4, 4), affine)
        inside = preprocess.coverage(source, grid)
        # Its last voxel, at 3 mm, ends at 3.5 mm: no mixing with outside.
        np.testing.assert_array_equal(inside[:, 0, 0], [1, 1, 0, 0])
        found = preprocess.resample(source, grid, outside=-1000.0).array
        np.testing.assert_array_equal(found, np.where(inside, 1, -1000))


def test_equal_voxels_at_other_indices_are_copied_not_interpolated():
    source = noise((6, 6, 6), affine_of("LPS", (0.9, 0.9, 3.0)))
    first = nib.affines.apply_affine(source.affine, (2, -1, 0))
    affine = source.affine.copy()
    affine[:3, 3] = first + 1e-5
    found = preprocess.resample(
        source, preprocess.Grid((4, 4, 4), affine), outside=-5.0
    ).array
    np.testing.assert_array_equal(found[:, 1:], source.array[2:, :3, :4])
    np.testing.assert_array_equal(found[:, 0], -5.0)


def test_the_copy_does_not_share_memory_with_the_source():
    source = noise((3, 3, 3), affine_of())
    grid = preprocess.slice_grid(source, KEEP)
    preprocess.resample(source, grid, outside=0.0).array[:] = 0
    assert source.array.any()


def test_air_may_be_cropped_and_comes_back_as_fill():
    source = noise((20, 12, 3), affine_of("RAS"))
    grid = preprocess.slice_grid(source, KEEP)
    on_grid = preprocess.resample(source, grid, outside=0.0)
    body = np.zeros(grid.shape, bool)
    body[11:18, 5] = True
    geometry = preprocess.place(source, grid, body, 10)
    # The middle of 11..17 is 14: columns 9..18; of row 5: rows 0..9.
    assert geometry.offsets == ((-9, 0),)
    slices = preprocess.to_slices(on_grid.array, geometry, fill=0.0)
    np.testing.assert_array_equal(slices[1], on_grid.array[9:19, 0:10, 1].T)
    back = preprocess.from_slices(slices, geometry, fill=-3.0)
    expected = on_grid.array.copy()
    expected[:9] = expected[19:] = expected[:, 10:] = -3
    # RAS and LPS differ by a flip of the first two axes.
    np.testing.assert_array_equal(back.array, expected[::-1, ::-1])


def test_a_body_that_does_not_fit_is_refused_with_both_widths():
    source = noise((320, 4, 2), affine_of("LPS"))
    grid = preprocess.slice_grid(source, KEEP)
    body = np.zeros(grid.shape, bool)
    body[3:315, 1] = True
    with pytest.raises(
        errors.DataError,
        match=r"312 px wide at 1 mm, 256 fit.*--voxel_size_mm.*1\.22",
    ):
        preprocess.place(source, grid, body)


def test_masks_are_cut_like_images():
    source = noise((4, 6, 2), affine_of())
    grid = preprocess.slice_grid(source, KEEP)
    mask = np.ones(grid.shape, bool)
    geometry = preprocess.place(source, grid, mask, 8)
    slices = preprocess.to_slices(mask, geometry, fill=False)
    assert slices.dtype == bool
    assert slices[0].sum(axis=0).tolist() == [0, 0, 6, 6, 6, 6, 0, 0]
    assert slices[0].sum(axis=1).tolist() == [0, 4, 4, 4, 4, 4, 4, 0]


def test_hounsfield_units_survive_the_window_to_half_a_unit():
    window = preprocess.window_of(noise((2, 2, 2), np.eye(4)), tasks.CT)
    units = np.arange(-1000, 2001, dtype=np.float32)
    scaled = preprocess.normalise(units, window)
    assert (scaled[0], scaled[500], scaled[-1]) == pytest.approx(
        (-1, -2 / 3, 1)
    )
    assert scaled.dtype == np.float32
    back = preprocess.denormalise(scaled, window)
    assert np.abs(back - units).max() < 0.5
    assert back.dtype == np.float32


def test_what_is_beyond_the_window_is_clipped_and_counted():
    values = np.array([-3000, -1000, 0, 2000, 2001], np.float32)
    assert np.abs(preprocess.normalise(values, (-1000, 2000))).max() == 1
    assert preprocess.clipped_share(values, (-1000, 2000)) == 0.4


def test_the_window_of_mr_ignores_air_and_a_few_hot_voxels():
    array = np.zeros((50, 50, 8), np.float32)
    array[:25] = np.linspace(1, 500, 10000).reshape(25, 50, 8)
    array[0, 0, :4] = 1e6
    low, high = preprocess.window_of(volume.Volume(array, np.eye(4)), tasks.MR)
    assert low == 0 and high == pytest.approx(500, rel=0.01)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_an_mr_volume_without_signal_is_called_empty(value):
    nothing = volume.Volume(np.full((3, 3, 3), value, np.float32), np.eye(4))
    with pytest.raises(errors.DataError, match="empty"):
        preprocess.window_of(nothing, tasks.MR)


def test_the_body_includes_its_cavities_and_excludes_specks():
    array = np.full((30, 30, 4), -1000, np.float32)
    array[5:25, 5:25] = 40
    array[10:15, 10:15] = -900  # A lung.
    array[1, 1, 2] = 40  # A speck.
    mask = preprocess.body_mask(
        volume.Volume(array, affine_of()), tasks.CT, tasks.CT.window
    )
    expected = np.zeros(array.shape, bool)
    expected[5:25, 5:25] = True
    np.testing.assert_array_equal(mask, expected)


def test_for_mr_the_threshold_is_a_share_of_the_robust_maximum():
    array = np.zeros((9, 9, 2), np.float32)
    array[2:7, 2:7] = 101
    array[4, 4] = 1000
    image = volume.Volume(array, affine_of())
    # 10 % of 1000 is 100, of 1100 is 110.
    assert preprocess.body_mask(image, tasks.MR, (0, 1000)).sum() == 50
    assert preprocess.body_mask(image, tasks.MR, (0, 1100)).sum() == 2
    assert not preprocess.body_mask(image, tasks.MR, (0, 1e6)).any()


def test_padding_that_reaches_the_edge_is_no_field_of_view():
    array = np.full((6, 6, 3), 7, np.float32)
    array[0] = 0  # resliced: no data on one side
    array[3, 3, 1] = 0  # a black voxel within
    image = volume.Volume(array, affine_of())
    seen = preprocess.field_of_view(image, tasks.MR)
    assert not seen[0].any()
    assert seen[1:].all()
    assert preprocess.field_of_view(image, tasks.CT).all()


def test_a_pair_that_does_not_overlap_is_refused_with_both_extents():
    source = noise((10, 10, 10), affine_of("RAS", origin=(0, 0, 0)))
    for shift, share in ((9.0, "10%"), (500.0, "0%")):
        target = noise((10, 10, 10), affine_of("LPS", origin=(9 + shift, 9, 0)))
        with pytest.raises(
            errors.DataError, match=f"b covers {share} of a"
        ) as e:
            preprocess.check_pair(source, target, ("a", "b"))
        assert "x -0.5 to 9.5 mm" in str(e.value)
        assert f"to {9.5 + shift:.1f} mm" in str(e.value)


def test_a_pair_that_overlaps_by_a_third_is_accepted():
    source = noise((9, 9, 9), affine_of("RAS"))
    target = noise((3, 9, 9), affine_of("RAS", turn=None))
    preprocess.check_pair(source, target, ("a", "b"))
    # A thick and a thin volume of hundreds of voxels are sampled, not walked.
    preprocess.check_pair(
        volume.Volume(np.broadcast_to(0.0, (4000,) * 3), np.eye(4)),
        target=volume.Volume(np.broadcast_to(0.0, (4000,) * 3), np.eye(4)),
        names=("a", "b"),
    )


@pytest.mark.shared_data
def test_real_ct_and_mr_of_one_patient_share_the_skin(shared_data):
    folder = shared_data / "sarcoma" / "STS_022"
    mr = io.read_volume(folder / "MR_T1_image.nii.gz")
    ct = io.read_volume(folder / "CT_image.nii.gz")
    preprocess.check_pair(mr, ct, ("MR", "CT"))
    window = preprocess.window_of(mr, tasks.MR)
    grid = preprocess.slice_grid(mr, tasks.TASKS["mr_ct"].voxel_size_mm)
    np.testing.assert_allclose(
        nib.affines.voxel_sizes(grid.affine), (1, 1, mr.spacing[2])
    )
    on_grid = preprocess.resample(mr, grid, outside=0.0)
    body = preprocess.body_mask(on_grid, tasks.MR, window)
    ct_on_grid = preprocess.resample(ct, grid, outside=-1000.0)
    ct_body = preprocess.body_mask(ct_on_grid, tasks.CT, tasks.CT.window)
    # One of the best aligned: 0.97 with the right alignment, 0.86 when one
    # is flipped left to right.
    dice = 2 * (body & ct_body).sum() / (body.sum() + ct_body.sum())
    assert dice > 0.95


@pytest.mark.shared_data
def test_a_real_ct_and_mr_walk_there_and_back(shared_data):
    folder = shared_data / "sarcoma" / "STS_025"
    for name in ("CT", "MR_T1"):
        source = io.read_volume(folder / f"{name}_image.nii.gz")
        exact = there_and_back(source, KEEP)
        np.testing.assert_array_equal(exact.array, source.array)
        np.testing.assert_array_equal(exact.affine, source.affine)
        near = there_and_back(source, (1.0, 1.0, None))
        # 0.98 -> 1 -> 0.98 mm: two linear interpolations lose some noise.
        correlation = np.corrcoef(near.array.ravel(), source.array.ravel())
        assert correlation[0, 1] > 0.99


def task_of(*sources, **settings):
    """To CT, on the grid of the first of `sources`."""
    return tasks.Task(
        "test",
        "",
        sources[0],
        tasks.CT,
        (None, None, None),
        more_sources=sources[1:],
        **settings,
    )


@pytest.mark.parametrize("modality", [tasks.MR, tasks.PET])
def test_what_is_clearly_negative_is_no_mr_and_no_pet(modality):
    """A CT given as MR, or a volume that was made to mean 0 and SD 1."""
    values = np.random.default_rng(0).uniform(0, 10, (8, 8, 8))
    noisy = volume.Volume(np.float32(values - 0.2), np.eye(4))
    preprocess.cut([noisy], task_of(modality))
    normalised = volume.Volume(np.float32(values - 5), np.eye(4))
    with pytest.raises(errors.DataError, match="clearly below 0"):
        preprocess.cut([normalised], task_of(modality))


def test_the_noise_of_air_below_the_window_of_ct_is_no_fault():
    values = np.random.default_rng(0).normal(-1000, 50, (8, 8, 8))
    values[2:6, 2:6, 2:6] = 40
    ct = volume.Volume(np.float32(values), np.eye(4))
    cut = preprocess.cut([ct], task_of(tasks.CT))
    assert cut.slices.min() < -1000 and cut.normalised().min() == -1


def test_further_sources_are_brought_to_the_grid_of_the_first():
    first = volume.Volume(
        np.full((4, 6, 2), 7.0, np.float32), np.diag([-1.0, -1.0, 3.0, 1.0])
    )
    # The same field of view in other voxels, its axes turned about.
    second = volume.Volume(
        np.arange(12, dtype=np.float32).reshape(2, 3, 2),
        np.diag([2.0, 2.0, 3.0, 1.0]),
    )
    second.affine[:3, 3] = -2.5, -4.5, 0.0
    cut = preprocess.cut([first, second], task_of(tasks.PET, tasks.PET))
    assert cut.slices.shape == (2, 256, 256, 2)
    assert len(cut.windows) == 2 and cut.windows[0] == tasks.PET.window
    ours = preprocess.resample(second, first, outside=0.0)
    np.testing.assert_array_equal(
        cut.slices[:, 125:131, 126:130, 1], ours.array.transpose(2, 1, 0)
    )
    normal = cut.normalised()
    assert normal[0, 128, 128, 0] == np.float32(7 / 10 - 1)
    assert normal[0, 0, 0].tolist() == [-1, -1]


def large_body(width):
    """A PET body of `width` x 100 px in a field of view of 420 x 120."""
    x, y, z = np.indices((420, 120, 2), dtype=np.float32)
    array = 2 + x / 100 + y / 200 + z
    array[:20] = array[20 + width :] = array[:, :10] = array[:, 110:] = 0
    return volume.Volume(array, np.diag([-1.0, -1.0, 3.0, 1.0]))


def test_a_body_wider_than_a_slice_may_be_tiled_and_comes_back_whole():
    source = large_body(380)
    cut = preprocess.cut([source], task_of(tasks.PET, too_large="tile"))
    # Two tiles of 256 px overlap by 132 of the body's 380; a quarter is 64.
    assert cut.geometry.offsets == ((-20, 68), (-144, 68))
    assert cut.slices.shape == (4, 256, 256, 1)
    back = preprocess.from_slices(cut.slices[..., 0], cut.geometry, fill=0.0)
    np.testing.assert_array_equal(back.affine, source.affine)
    np.testing.assert_allclose(back.array, source.array, atol=1e-5)


def test_where_tiles_differ_the_nearer_middle_weighs_more_and_no_seam_shows():
    source = large_body(380)
    cut = preprocess.cut([source], task_of(tasks.PET, too_large="tile"))
    answer = np.zeros(cut.slices.shape[:3], np.float32)
    answer[2:] = 1.0  # The second tile.
    back = preprocess.from_slices(answer, cut.geometry, fill=0.0).array[
        :, 60, 0
    ]
    # Tiles reach from 20 to 276 and from 144 to 400; they weigh the same
    # where it is as far to both middles.
    assert back[100] == 0 and back[390] == 1
    assert back[209] + back[210] == pytest.approx(1, abs=1e-5)
    steps = np.diff(back[20:400])
    assert steps.min() >= 0 and steps.max() < 0.05


def test_a_body_wider_than_a_slice_may_be_resampled_until_it_fits():
    source = large_body(380)
    cut = preprocess.cut([source], task_of(tasks.PET, too_large="resample"))
    spacing = np.linalg.norm(cut.geometry.sliced.affine[:3, :3], axis=0)
    # 380 mm on 254 px, alike in both directions; slices stay apart as before.
    np.testing.assert_allclose(spacing, [380 / 254, 380 / 254, 3.0])
    assert len(cut.geometry.offsets) == 1
    back = preprocess.from_slices(cut.slices[..., 0], cut.geometry, fill=0.0)
    inside = slice(25, 395), slice(15, 105)
    np.testing.assert_allclose(
        back.array[inside], source.array[inside], atol=0.02
    )


@pytest.mark.parametrize("too_large", tasks.TOO_LARGE)
def test_a_body_that_fits_is_cut_the_same_whatever_is_said_of_larger_ones(
    too_large,
):
    source = large_body(250)
    cut = preprocess.cut([source], task_of(tasks.PET, too_large=too_large))
    # The body's middle at 145 comes to the middle of the slice.
    assert cut.geometry.offsets == ((-17, 68),)


def test_a_wrong_number_of_sources_is_refused():
    source = large_body(100)
    with pytest.raises(errors.DataError, match="2 source images, expected 1"):
        preprocess.cut([source, source], task_of(tasks.PET))
