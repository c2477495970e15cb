"""Two volumes of a patient become pairs of slices, or are refused by name."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest

from medgan_tf import errors, tasks
from medgan_tf.data import (
    attenuation,
    io,
    low_count_pet,
    manifest,
    mr_motion,
    pairs,
    phantom,
    preprocess,
)
from medgan_tf.data import volume as volumes

MR_CT = tasks.TASKS["mr_ct"]
# Without interpolation a pixel of a slice is a voxel of the file.
AS_STORED = tasks.adapted(MR_CT, voxel_size_mm=(None, None, None))
DENOISE = tasks.TASKS["pet_denoise"]
# 24 voxels in the middle of 256 pixels.
INSIDE = slice(116, 140)


@pytest.fixture(scope="module")
def images():
    return phantom.patient(0, shape=(24, 24, 4), spacing=(9.0, 9.0, 12.0))


def with_array(volume, array):
    return volumes.Volume(array.astype(np.float32), volume.affine)


def prepare(task, source, target, patient="ann", seed=0):
    images = pairs.Images(None if source is None else [source], target)
    return pairs.prepare(task, patient, images, pairs.Options(seed=seed))


def test_slices_without_body_are_dropped(images):
    ct = images["CT"].array.copy()
    ct[:, :, 0] = -1000.0
    prepared = prepare(MR_CT, images["MR"], with_array(images["CT"], ct))
    assert [s.slice_index for s in prepared.samples] == [1, 2, 3]
    assert prepared.num_dropped == 1


def test_slices_that_the_target_does_not_reach_are_dropped(images):
    ct = images["CT"]
    shifted = ct.affine @ nib.affines.from_matvec(np.eye(3), [0, 0, 2])
    upper = volumes.Volume(np.ascontiguousarray(ct.array[:, :, 2:]), shifted)
    prepared = prepare(MR_CT, images["MR"], upper)
    assert [s.slice_index for s in prepared.samples] == [2, 3]
    assert prepared.num_dropped == 2


def test_the_window_leads_back_to_hounsfield_units(images):
    ct = np.clip(images["CT"].array, -1000, 2000)
    for sample in prepare(AS_STORED, images["MR"], images["CT"]).samples:
        low, high = sample.target_window
        found = (sample.target[..., 0] + 1) / 2 * (high - low) + low
        # Rows run to the back, columns to the patient's left: LPS as it is.
        np.testing.assert_allclose(
            found[INSIDE, INSIDE], ct[:, :, sample.slice_index].T, atol=0.5
        )
        outside = np.ones([256, 256], bool)
        outside[INSIDE, INSIDE] = False
        assert (found[outside] == -1000).all()
        np.testing.assert_array_equal(sample.mask, ~outside)


def test_training_and_prediction_cut_alike(images):
    cut = preprocess.cut([images["MR"]], MR_CT)
    prepared = prepare(MR_CT, images["MR"], images["CT"])
    for sample in prepared.samples:
        assert sample.source_window == cut.windows[0]
        np.testing.assert_array_equal(
            sample.source,
            cut.normalised()[sample.slice_index],
        )


@pytest.mark.parametrize(
    ("task", "modality", "simulator"),
    [("pet_denoise", "PET", low_count_pet), ("mr_motion", "MR", mr_motion)],
)
def test_a_simulated_source_can_be_made_again_from_its_parameters(
    images, task, modality, simulator
):
    row = tasks.adapted(tasks.TASKS[task], voxel_size_mm=(None, None, None))
    prepared = prepare(row, None, images[modality])
    parameters = simulator.Parameters(
        **json.loads(prepared.samples[0].simulation)
    )
    again = simulator.apply(images[modality], parameters)
    sample = prepared.samples[0]
    expected = preprocess.normalise(again.array, sample.source_window)
    np.testing.assert_array_equal(
        sample.source[INSIDE, INSIDE, 0], expected[:, :, sample.slice_index].T
    )
    assert not np.array_equal(sample.source, sample.target)


def test_what_is_drawn_depends_on_patient_and_seed_alone(images):
    def drawn(**changes):
        made = prepare(DENOISE, None, images["PET"], **changes)
        return made.samples[0].simulation

    assert drawn() == drawn()
    assert drawn() != drawn(patient="bob")
    assert drawn() != drawn(seed=1)


def test_a_source_from_a_file_has_no_parameters(images):
    made = prepare(MR_CT, images["MR"], images["CT"])
    assert made.samples[0].simulation == ""


def test_the_mean_over_the_body_is_that_of_the_target(images):
    prepared = prepare(AS_STORED, images["MR"], images["CT"])
    ct = images["CT"].array
    # The mask is a threshold with holes filled: air inside counts, so the
    # mean is lower than that of the voxels above the threshold.
    assert np.count_nonzero(ct > -500) <= prepared.body_voxels <= ct.size
    mean = prepared.body_sum / prepared.body_voxels
    assert ct.mean() < mean <= ct[ct > -500].mean() + 1e-3


def test_the_share_beyond_the_window_is_told(images):
    ct = images["CT"].array.copy()
    ct[10:14, 10:14, 0] = 3000.0
    # A twentieth of the window below it is the noise of air.
    beyond = (ct > 2000) | (ct < -1150)
    prepared = prepare(MR_CT, images["MR"], with_array(images["CT"], ct))
    assert prepared.clipped[1] == pytest.approx(beyond.mean())


def test_a_missing_source_that_cannot_be_simulated_is_refused(images):
    with pytest.raises(errors.DataError, match="ann has no source; task mr_ct"):
        prepare(MR_CT, None, images["CT"])


def test_a_target_without_body_is_refused(images):
    air = with_array(images["CT"], np.minimum(images["CT"].array, -600))
    with pytest.raises(errors.DataError, match="CT values go up to -600"):
        prepare(MR_CT, images["MR"], air)


def test_a_pet_source_in_another_unit_is_refused(images):
    tiny = with_array(images["PET"], images["PET"].array / 1e4)
    with pytest.raises(errors.DataError, match="PET values .* check .* unit"):
        prepare(tasks.TASKS["pet_ct"], tiny, images["CT"])


@pytest.fixture
def files(images, tmp_path):
    """Writes MR.nii.gz and CT.nii.gz of ann, changed; returns their pair."""

    def write(**changed):
        for name in ("MR", "CT"):
            volume = changed.get(name, images[name])
            if isinstance(volume, volumes.Volume):
                # Not by our writer, which refuses what we want to read.
                volume = nib.Nifti1Image(volume.array, volume.affine)
            nib.save(volume, tmp_path / f"{name}.nii.gz")
        return manifest.Study(
            "ann", (tmp_path / "MR.nii.gz",), tmp_path / "CT.nii.gz"
        )

    return write


def test_files_give_the_same_slices_as_volumes(images, files):
    from_files = pairs.prepare_study(MR_CT, pairs.Options(), files())
    direct = prepare(MR_CT, images["MR"], images["CT"])
    assert len(from_files.samples) == len(direct.samples) == 4
    # Because a NIfTI header rounds the affine to float32.
    np.testing.assert_allclose(
        from_files.samples[1].source, direct.samples[1].source, atol=1e-3
    )


@pytest.mark.parametrize("value", [0.0, 7.0])
@pytest.mark.parametrize("name", ["MR", "CT"])
def test_an_image_of_one_value_is_refused_by_name(images, files, name, value):
    flat = with_array(images[name], np.full(images[name].shape, value))
    with pytest.raises(errors.DataError, match="in every voxel") as caught:
        pairs.prepare_study(MR_CT, pairs.Options(), files(**{name: flat}))
    assert f"{name}.nii.gz: found {value:g} in" in str(caught.value)


def test_a_pair_of_different_places_is_refused_with_both_names(images, files):
    affine = images["CT"].affine.copy()
    affine[:3, 3] += 1000.0
    away = volumes.Volume(images["CT"].array, affine)
    with pytest.raises(errors.DataError, match="CT.nii.gz covers 0% of .*MR"):
        pairs.prepare_study(MR_CT, pairs.Options(), files(CT=away))


def test_a_series_of_volumes_is_refused_by_name(images, files):
    array = np.stack([images["MR"].array] * 3, axis=-1)
    series = nib.Nifti1Image(array, images["MR"].affine)
    with pytest.raises(errors.DataError, match="MR.nii.gz.*3 time points"):
        pairs.prepare_study(MR_CT, pairs.Options(), files(MR=series))


def test_a_voxel_that_is_not_a_number_is_refused_by_name(images, files):
    array = images["CT"].array.copy()
    array[1, 2, 3] = np.nan
    holed = with_array(images["CT"], array)
    with pytest.raises(errors.DataError, match="CT.nii.gz.*NaN.*1, 2, 3"):
        pairs.prepare_study(MR_CT, pairs.Options(), files(CT=holed))


def test_a_damaged_file_is_refused_by_name(files):
    pair = files()
    damaged = pair.sources[0]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(errors.DataError, match="MR.nii.gz.*damaged gzip"):
        pairs.prepare_study(MR_CT, pairs.Options(), pair)


def test_what_is_wrong_with_the_pair_names_both_files(images, files):
    air = with_array(images["CT"], np.minimum(images["CT"].array, -600))
    with pytest.raises(errors.DataError, match="MR.nii.gz and .*CT.nii.gz: CT"):
        pairs.prepare_study(MR_CT, pairs.Options(), files(CT=air))


def test_negative_activity_cannot_be_simulated(images, tmp_path):
    negative = with_array(images["PET"], images["PET"].array - 2)
    io.write_volume(tmp_path / "PET.nii", negative)
    pair = manifest.Study("ann", (), tmp_path / "PET.nii")
    with pytest.raises(errors.DataError, match="PET.nii: .*clearly below 0"):
        pairs.prepare_study(DENOISE, pairs.Options(), pair)


def test_a_body_wider_than_a_slice_is_refused_with_a_remedy(images, files):
    fine = dataclasses.replace(MR_CT, voxel_size_mm=(0.5, 0.5, None))
    with pytest.raises(errors.DataError, match="larger --voxel_size_mm"):
        pairs.prepare_study(fine, pairs.Options(), files())


def test_what_the_source_does_not_show_is_air_in_the_target():
    source = np.full((20, 20, 2), 500, np.float32)
    source[:8] = 0  # resliced: no data there
    target = np.full((20, 20, 2), 40, np.float32)
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    prepared = prepare(
        MR_CT, volumes.Volume(source, affine), volumes.Volume(target, affine)
    )
    sample = prepared.samples[0]
    assert sample.mask.sum() == 12 * 20
    hounsfield = preprocess.denormalise(sample.target, sample.target_window)
    np.testing.assert_allclose(hounsfield[sample.mask], 40, atol=0.5)
    np.testing.assert_allclose(hounsfield[~sample.mask], -1000, atol=0.5)
    assert prepared.body_sum / prepared.body_voxels == pytest.approx(40)


def test_what_resampling_left_below_zero_counts_as_no_activity(images):
    array = images["PET"].array.copy()
    array[0, 0, 0] = -0.01
    made = prepare(DENOISE, None, with_array(images["PET"], array))
    plain = prepare(DENOISE, None, images["PET"])
    np.testing.assert_array_equal(
        made.samples[0].source, plain.samples[0].source
    )


def test_a_target_on_another_scale_than_the_source_is_refused(images):
    """An MR pair of which one was divided by 2."""
    row = tasks.adapted(
        tasks.TASKS["mr_motion"], voxel_size_mm=(None, None, None)
    )
    half = with_array(images["MR"], images["MR"].array / 2)
    with pytest.raises(errors.DataError, match="bring both to one scale"):
        prepare(row, half, images["MR"])
    assert prepare(row, images["MR"], half).samples


def test_a_target_in_another_unit_is_refused(images):
    becquerel = with_array(images["PET"], images["PET"].array * 5000)
    with pytest.raises(errors.DataError, match="convert the image to SUV"):
        prepare(DENOISE, images["PET"], becquerel)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ct: np.abs(ct), "goes down to 0|goes down to"),
        (lambda ct: ct + 1024, "expected air below -200 HU"),
    ],
)
def test_a_ct_for_the_attenuation_must_be_one(images, change, words):
    ct = with_array(images["CT"], change(images["CT"].array))
    made = pairs.Images(None, images["PET"], ct)
    with pytest.raises(errors.DataError, match=words):
        pairs.prepare(DENOISE, "ann", made, pairs.Options())


def test_attenuation_changes_the_noise_and_not_the_anatomy(images):
    plain = prepare(DENOISE, None, images["PET"]).samples[2]
    made = pairs.prepare(
        DENOISE,
        "ann",
        pairs.Images(None, images["PET"], images["CT"]),
        pairs.Options(),
    ).samples[2]
    assert not np.array_equal(made.source, plain.source)
    np.testing.assert_array_equal(made.target, plain.target)


def test_realisations_are_studies_with_noise_of_their_own(images):
    images = pairs.Images(None, images["PET"])
    options = pairs.Options(realisations=3)
    made = pairs.prepare(DENOISE, "ann", images, options)
    assert {s.study for s in made.samples} == {"0", "1", "2"}
    first, second, _ = (
        next(s for s in made.samples if s.study == name) for name in "012"
    )
    assert first.slice_index == second.slice_index
    np.testing.assert_array_equal(first.target, second.target)
    assert not np.array_equal(first.source, second.source)


def test_draws_of_study_2_of_patient_1_are_not_those_of_patient_12():
    draws = [pairs._draws(0, "P1", "2"), pairs._draws(0, "P12", "")]
    assert draws[0] != draws[1]


def test_a_map_of_attenuation_does_what_its_ct_does(images):
    ct, mu = images["CT"], attenuation.mu_map(images["CT"])
    made = [
        pairs.prepare(
            DENOISE,
            "ann",
            pairs.Images(None, images["PET"], **given),
            pairs.Options(),
        ).samples[1]
        for given in ({"ct": ct}, {"mu_map": mu})
    ]
    np.testing.assert_array_equal(made[0].source, made[1].source)
    hounsfield = pairs.Images(None, images["PET"], mu_map=ct)
    with pytest.raises(errors.DataError):
        pairs.prepare(DENOISE, "ann", hounsfield, pairs.Options())
