"""Low-count PET: against Poisson statistics, geometry and conservation."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest
from scipy import stats

from medgan_tf import errors
from medgan_tf.data import (
    attenuation,
    low_count_pet,
    preprocess,
    tomography,
)
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


def make_water(disc):
    """Water wherever a disc of SUV 2 is, in 1/cm."""
    return volumes.Volume(np.float32(0.096 / 2) * disc.array, disc.affine)


def scan(volume, attenuation=None, **changes):
    settings = {"num_angles": 48, "subsets": 6, "seed": 3, **changes}
    parameters = low_count_pet.Parameters(**settings)
    return low_count_pet.apply(volume, parameters, attenuation)


def test_very_many_counts_give_the_input_back():
    disc = make_disc()
    result = scan(disc, fraction=1.0, counts_per_suv_ml=1e8)
    error = np.sqrt(np.mean((result.array - disc.array) ** 2))
    assert error < 0.04 * 2.0  # Finite iterations leave the edge softer.
    assert result.same_grid(disc)
    assert result.array.dtype == np.float32


@pytest.mark.parametrize("fraction", [1.0, 0.25, 0.05])
def test_fewer_counts_keep_the_mean_activity(fraction):
    disc = make_disc(shape=(40, 36, 12))
    result = scan(disc, fraction=fraction)
    assert result.array.mean() == pytest.approx(disc.array.mean(), rel=0.01)


def test_counts_are_poisson_and_their_noise_grows_as_one_over_fraction():
    pixels = np.ones((400, 200), np.float32)
    projectors = tomography.projector((20, 20), (4.0, 4.0), 12, 3)
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


@pytest.mark.parametrize("attenuated", [False, True])
@pytest.mark.parametrize("reconstruction", ["osem", "fbp"])
def test_noise_in_the_image_grows_as_one_over_fraction(
    reconstruction, attenuated
):
    # 400 slices without axial blur between them are as many realisations, and
    # in warm tissue OSEM's being positive bends nothing.
    disc = make_disc(shape=(24, 20, 400), spacing=(6.0, 6.0, 20.0))
    inside = disc.array[:, :, 0] > 1.99
    full, quarter = (
        scan(
            disc,
            make_water(disc) if attenuated else None,
            fraction=fraction,
            reconstruction=reconstruction,
        ).array[inside]
        for fraction in (1.0, 0.25)
    )
    ratio = quarter.var(axis=1).mean() / full.var(axis=1).mean()
    assert ratio == pytest.approx(4.0, rel=0.05)
    for image in (full, quarter):
        assert image.mean() == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("fraction", [1.0, 0.25, 0.05])
def test_back_projection_keeps_the_mean_of_the_body(fraction):
    disc = make_disc(shape=(40, 36, 40), spacing=(4.0, 4.0, 12.0))
    result = scan(
        disc, fraction=fraction, reconstruction="fbp", fbp_cutoff_per_mm=0.08
    ).array
    assert result[disc.array > 1.99].mean() == pytest.approx(2.0, rel=0.01)
    assert result.min() == 0.0


def test_attenuation_is_known_to_both_reconstructions():
    disc = make_disc()
    for reconstruction in low_count_pet.RECONSTRUCTIONS:
        result = scan(
            disc,
            make_water(disc),
            fraction=1.0,
            counts_per_suv_ml=1e8,
            reconstruction=reconstruction,
        ).array
        inside = disc.array > 1.99
        np.testing.assert_allclose(result[inside], 2.0, rtol=0.03)
        assert result.mean() == pytest.approx(disc.array.mean(), rel=0.01)


def test_the_counts_are_what_water_lets_through():
    disc = make_disc(shape=(40, 36, 1))
    projectors = tomography.projector((40, 36), (4.0, 4.0), 12, 1)
    water = low_count_pet._survival(
        disc, make_water(disc), projectors, (4.0, 4.0)
    )
    counts = low_count_pet.count(
        disc.array.reshape(-1, 1), projectors, 1e4, seed=2, survival=water
    )[0].reshape(12, -1)
    middle = counts.shape[1] // 2
    for offset in (0, 15):
        s = (offset + 0.5) * tomography.BIN_MM
        chord = 2.0 * np.sqrt(55.0**2 - s**2)
        # Beer and Lambert: exp(-0.0096 per mm x chord) of SUV 2 on the chord.
        unattenuated = 1e4 * 2.0 * chord * tomography.BIN_MM / 16.0
        expected = unattenuated * np.exp(-0.0096 * chord)
        seen = counts[:, middle + offset].mean()
        assert seen == pytest.approx(expected, rel=0.03)


def test_a_map_counts_as_much_as_the_mean_survival_says():
    # Uniform water of 200 mm, a head: with and without map about as noisy.
    disc = make_disc(shape=(56, 56, 4), spacing=(4.0, 4.0, 12.0), radius_mm=90)
    inside = disc.array > 1.99
    noise = [
        scan(disc, water).array[inside].std()
        for water in (None, make_water(disc))
    ]
    assert noise[1] == pytest.approx(noise[0], rel=0.1)


@pytest.mark.parametrize("mu_per_mm", [0.0, 0.0096])
def test_noise_is_worst_where_the_lines_are_long_and_dark(mu_per_mm):
    disc = make_disc(
        shape=(48, 48, 60), spacing=(5.0, 5.0, 20.0), radius_mm=105
    )
    water = make_water(disc) if mu_per_mm else None
    result = scan(
        disc, water, reconstruction="fbp", fbp_cutoff_per_mm=0.1
    ).array
    radius = np.hypot(*(np.mgrid[:48, :48] - 23.5)) * 5.0
    middle, edge = (
        result[abs(radius - r) < 10.0].var(axis=1).mean() for r in (0.0, 80.0)
    )
    # A line of length c has SUV x c exp(-mu c) counts; corrected, their
    # variance is c exp(mu c), and a point gets that from all sides.
    closest = 80.0 * np.sin(np.linspace(0.0, np.pi, 1000))
    chord = 2 * np.sqrt(105.0**2 - closest**2)
    expected = (
        210
        * np.exp(mu_per_mm * 210)
        / (chord * np.exp(mu_per_mm * chord)).mean()
    )
    assert middle / edge == pytest.approx(expected, rel=0.1)


def test_a_map_on_another_grid_or_in_another_unit_is_refused():
    disc = make_disc()
    water = make_water(disc)
    moved = volumes.Volume(water.array, disc.affine + np.eye(4)[0])
    with pytest.raises(errors.DataError, match="grid of the PET"):
        scan(disc, moved)
    for factor in (-1.0, 1e3, np.nan):
        wrong = volumes.Volume(water.array * np.float32(factor), disc.affine)
        with pytest.raises(errors.DataError, match="per cm"):
            scan(disc, wrong)


def test_thinned_poisson_counts_are_poisson():
    rng = np.random.default_rng(0)
    recorded = rng.poisson(12.0, 200_000)
    kept = low_count_pet.thin(recorded, 0.25, rng)
    assert (kept <= recorded).all()
    assert kept.dtype == recorded.dtype
    assert kept.mean() == pytest.approx(3.0, rel=0.01)
    assert kept.var() / kept.mean() == pytest.approx(1.0, abs=0.02)
    seen = np.bincount(np.minimum(kept, 10), minlength=11)
    expected = stats.poisson.pmf(np.arange(10), 3.0)
    expected = np.append(expected, 1 - expected.sum()) * kept.size
    assert stats.chisquare(seen, expected).pvalue > 0.01
    # What is thrown away says nothing of what is kept.
    assert abs(np.corrcoef(kept, recorded - kept)[0, 1]) < 0.01


def test_thinning_refuses_what_are_no_counts():
    rng = np.random.default_rng(0)
    assert (low_count_pet.thin(np.arange(9.0), 1.0, rng) == np.arange(9)).all()
    for wrong in ([-1.0], [0.5], [np.nan], [np.inf]):
        with pytest.raises(errors.DataError, match="whole numbers"):
            low_count_pet.thin(np.array(wrong), 0.5, rng)
    with pytest.raises(errors.UsageError, match="fraction"):
        low_count_pet.thin(np.array([1]), 0.0, rng)


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


def test_parameters_come_back_from_json():
    drawn = low_count_pet.draw_parameters(
        np.random.default_rng(1), reconstruction="fbp", fraction=0.05
    )
    stored = json.loads(json.dumps(dataclasses.asdict(drawn)))
    assert low_count_pet.Parameters(**stored) == drawn


def test_realisations_differ_in_their_noise_and_in_nothing_else():
    # Widely spaced slices, because blur along Z would correlate them.
    disc = make_disc(shape=(24, 24, 40), spacing=(5.0, 5.0, 20.0), radius_mm=50)
    drawn = [
        low_count_pet.draw_parameters(np.random.default_rng(8), realisation=n)
        for n in range(3)
    ]
    rng = np.random.default_rng(8)
    assert drawn == [low_count_pet.draw_parameters(rng) for _ in range(3)]
    assert len({p.seed for p in drawn}) == 3
    assert {dataclasses.replace(p, seed=0) for p in drawn} == {
        low_count_pet.Parameters()
    }
    # One pixel per slice: no noise is shared, 40 independent pairs.
    middles = [low_count_pet.apply(disc, p).array[12, 12] for p in drawn]
    correlation = np.corrcoef(middles)[np.triu_indices(3, 1)]
    # Twice the standard error 1 / sqrt(40), and a bit for three pairs.
    assert np.abs(correlation).max() < 0.4
    with pytest.raises(errors.UsageError, match="0 or more"):
        low_count_pet.draw_parameters(rng, realisation=-1)


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
    "change",
    [
        {"fraction": 0.0},
        {"fraction": 1.1},
        {"subsets": 7},
        {"mean_survival": 0.0},
        {"counts_per_suv_ml": np.inf},
        {"reconstruction": "mlem"},
        {"fbp_window": "box"},
        {"fbp_cutoff_per_mm": 0.3},
    ],
)
def test_impossible_parameters_are_refused(change):
    with pytest.raises(errors.UsageError, match="expected"):
        low_count_pet.Parameters(**change)


def test_a_wrong_choice_is_told_the_right_ones():
    with pytest.raises(errors.UsageError, match="one of osem, fbp"):
        low_count_pet.draw_parameters(
            np.random.default_rng(0), reconstruction="OSEM"
        )


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


@pytest.mark.shared_data
def test_real_pet_with_its_ct_keeps_its_mean_and_its_own_losses(shared_data):
    pet, ct = (
        volumes.Volume(image.get_fdata(dtype=np.float32), image.affine)
        for image in (
            nib.load(shared_data / "sarcoma" / "STS_002" / f"{name}.nii.gz")
            for name in ("PET_image", "CT_image")
        )
    )
    grid = preprocess.Grid(pet.shape, pet.affine)
    on_grid = preprocess.resample(ct, grid, outside=-1000.0)
    result = low_count_pet.apply(
        pet, low_count_pet.Parameters(), attenuation.mu_map(on_grid)
    )
    assert result.array.mean() == pytest.approx(pet.array.mean(), rel=0.01)
    flat = low_count_pet.apply(pet, low_count_pet.Parameters())
    # A cut-out of a leg lets through more than the fifth of a whole head.
    quiet, noisy = (
        np.square(image.array - pet.array).mean() for image in (result, flat)
    )
    assert quiet < noisy
