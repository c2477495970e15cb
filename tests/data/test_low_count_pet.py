"""Low-count PET: against Poisson statistics, geometry and conservation."""

import nibabel as nib
import numpy as np
import pytest

from medgan_tf import errors
from medgan_tf.data import low_count_pet
from medgan_tf.data import volume as volumes


def make_disc(shape=(40, 36, 3), spacing=(4.0, 4.0, 3.0), radius_mm=55.0):
    """A disc of SUV 2 with an edge as soft as a scanner's."""
    x, y = (
        (np.arange(n) - (n - 1) / 2) * s
        for n, s in zip(shape[:2], spacing[:2], strict=True)
    )
    edge = np.hypot(x[:, None], y[None, :]) - radius_mm
    array = np.repeat(
        (2.0 / (1.0 + np.exp(edge / 2.5)))[..., None], shape[2], 2
    )
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    return volumes.Volume(array.astype(np.float32), affine)


def scan(volume, **changes):
    settings = {"num_angles": 48, "subsets": 6, "seed": 3, **changes}
    return low_count_pet.apply(volume, low_count_pet.Parameters(**settings))


@pytest.mark.parametrize("spacing", [(4.0, 4.0, 3.0), (3.5, 4.5, 3.0)])
def test_projection_of_a_disc_is_its_chord_from_every_side(spacing):
    disc = make_disc(spacing=spacing, radius_mm=55.0)
    matrix = low_count_pet.projector((40, 36), spacing[:2], 12, 1)[0]
    views = (matrix @ disc.array[:, :, 0].ravel()).reshape(12, -1)
    # Bin sum = SUV * mm^2 / pixel area, and a strip has the bin's width.
    chords = views * spacing[0] * spacing[1] / low_count_pet.BIN_MM / 2.0
    middle = chords.shape[1] // 2
    for offset in (-15, 0, 15):
        s = (offset + 0.5) * low_count_pet.BIN_MM
        expected = 2.0 * np.sqrt(55.0**2 - s**2)
        np.testing.assert_allclose(
            chords[:, middle + offset], expected, rtol=0.03
        )


def test_every_view_sees_every_pixel_exactly_once_corners_included():
    matrix = low_count_pet.projector((11, 7), (2.0, 5.5), 6, 2)[1]
    np.testing.assert_allclose(matrix.sum(axis=0), 3.0, atol=1e-4)


def test_very_many_counts_give_the_input_back():
    disc = make_disc()
    result = scan(disc, fraction=1.0, counts_per_suv_ml=1e8)
    error = np.sqrt(np.mean((result.array - disc.array) ** 2))
    assert error < 0.04 * 2.0  # Finite iterations leave the edge softer.
    assert result.same_grid(disc)
    assert result.array.dtype == np.float32


def test_quarter_of_the_counts_keeps_the_mean_activity():
    disc = make_disc(shape=(40, 36, 12))
    assert scan(disc).array.mean() == pytest.approx(disc.array.mean(), rel=0.01)


def test_counts_are_poisson_and_their_noise_grows_as_one_over_fraction():
    pixels = np.ones((400, 200), np.float32)
    projectors = low_count_pet.projector((20, 20), (4.0, 4.0), 12, 3)
    variances = {}
    for fraction in (1.0, 0.25):
        scale = 20.0 * fraction
        counts = low_count_pet.count(pixels, projectors, scale, seed=1)[0]
        expected = scale * (projectors[0] @ pixels)
        seen = expected[:, 0] > 1.0
        dispersion = (counts - expected)[seen] ** 2 / expected[seen]
        assert dispersion.mean() == pytest.approx(1.0, abs=0.03)
        variances[fraction] = np.mean((counts / scale)[seen].var(axis=1))
    assert variances[0.25] / variances[1.0] == pytest.approx(4.0, rel=0.05)


def test_noise_in_the_image_grows_about_as_one_over_fraction():
    # 40 slices without axial blur between them are as many realisations.
    disc = make_disc(shape=(40, 36, 40), spacing=(4.0, 4.0, 12.0))
    inside = disc.array[:, :, 0] > 1.99
    full, quarter = (
        scan(disc, fraction=f).array[inside].var(axis=1).mean()
        for f in (1.0, 0.25)
    )
    assert quarter / full == pytest.approx(4.0, rel=0.2)


def test_full_scan_is_quiet_and_a_quarter_is_visibly_noisy():
    disc = make_disc(shape=(64, 64, 8), radius_mm=100.0)
    inside = disc.array > 1.99
    full, quarter = (
        low_count_pet.apply(disc, low_count_pet.Parameters(fraction=f)).array[
            inside
        ]
        for f in (1.0, 0.25)
    )
    # Coefficient of variation: about 0.1 in the liver of clinical scans of
    # 4 mm voxels, more in the 2 mm voxels here.
    assert 0.1 < full.std() / 2.0 < 0.2 < quarter.std() / 2.0 < 0.4


def test_equal_parameters_give_equal_images_and_other_seeds_do_not():
    disc = make_disc()
    first = scan(disc).array
    np.testing.assert_array_equal(first, scan(disc).array)
    assert np.abs(first - scan(disc, seed=4).array).max() > 0.1


def test_drawn_parameters_depend_on_the_generator_alone():
    draws = [
        low_count_pet.draw_parameters(np.random.default_rng(s), fraction=0.5)
        for s in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert draws[0].fraction == 0.5


def test_activity_in_a_corner_stays_there():
    array = np.zeros((16, 12, 2), np.float32)
    array[:3, :3] = 5.0
    corner = volumes.Volume(array, np.diag([-5.0, -4.0, 4.0, 1.0]))
    result = scan(corner, fraction=1.0, counts_per_suv_ml=1e6).array
    assert np.isfinite(result).all()
    assert result.sum() == pytest.approx(array.sum(), rel=0.01)
    assert result[:4, :4].sum() > 0.9 * array.sum()


def test_image_without_activity_stays_zero():
    empty = volumes.Volume(np.zeros((8, 9, 2), np.float32), np.eye(4))
    assert not scan(empty).array.any()


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_impossible_activity_is_refused(value):
    disc = make_disc()
    disc.array[3, 3, 1] = value
    with pytest.raises(errors.DataError, match="expected finite SUV"):
        scan(disc)


@pytest.mark.parametrize(
    "change", [{"fraction": 0.0}, {"fraction": 1.1}, {"subsets": 7}]
)
def test_impossible_parameters_are_refused(change):
    with pytest.raises(errors.UsageError, match="expected"):
        low_count_pet.Parameters(**change)


@pytest.mark.shared_data
def test_real_pet_keeps_its_mean_and_gets_noisier(shared_data):
    image = nib.load(shared_data / "sarcoma" / "STS_002" / "PET_image.nii.gz")
    real = volumes.Volume(image.get_fdata(dtype=np.float32), image.affine)
    errors_by_fraction = []
    for fraction in (1.0, 0.25):
        parameters = low_count_pet.Parameters(fraction=fraction)
        result = low_count_pet.apply(real, parameters).array
        assert result.mean() == pytest.approx(real.array.mean(), rel=0.01)
        errors_by_fraction.append(np.sqrt(((result - real.array) ** 2).mean()))
    assert errors_by_fraction[1] > 1.4 * errors_by_fraction[0]
