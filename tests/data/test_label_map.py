"""Images from a label map: against the tissue table and the error function."""

import dataclasses
import json
import math

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage, special

from medgan_tf import errors
from medgan_tf.data import io, label_map, tissue_tables
from medgan_tf.data import volume as volumes

BRAINWEB = label_map.TABLES["brainweb"]
SYNTHSEG = label_map.TABLES["synthseg_head"]
# The scanners' physics alone.
PLAIN = label_map.Parameters(variation=0.0, texture=0.0, bias=0.0, noise=0.0)


def make_labels(array, spacing=(1.0, 1.0, 1.0), signs=(1, 1, 1)):
    affine = np.diag([*np.multiply(spacing, signs), 1.0])
    return volumes.Volume(np.asarray(array, np.float32), affine)


def make_slabs(labels, thickness=8, width=6, spacing=(3.0, 3.0, 3.0)):
    """One slab per label along X, as wide as the field of view."""
    line = np.repeat(labels, thickness)[:, None, None]
    return make_labels(np.tile(line, (1, width, width)), spacing)


def expected_of(tissue, contrast="T1w"):
    return {
        "CT": tissue.hu,
        "PET": tissue.suv,
        "MR": tissue_tables.signal(tissue, contrast),
    }


@pytest.mark.parametrize("contrast", ["T1w", "T2w"])
def test_without_noise_a_tissue_has_its_value_far_from_its_edges(contrast):
    plain = dataclasses.replace(PLAIN, contrast=contrast)
    scans = label_map.apply(make_slabs(range(12)), BRAINWEB, plain)
    for label, tissue in BRAINWEB.items():
        # 9 mm from the edges: four deviations of the widest blur, PET's.
        middle = slice(8 * label + 3, 8 * label + 5)
        for name, value in expected_of(tissue, contrast).items():
            assert scans[name].array[middle] == pytest.approx(
                value, abs=2e-4 * max(abs(value), 2000.0)
            )


def test_with_noise_and_texture_the_mean_of_a_tissue_stays():
    labels = make_slabs(range(12), thickness=40, width=40)
    parameters = label_map.Parameters(variation=0.0, bias=0.0)
    scans = label_map.apply(labels, BRAINWEB, parameters)
    for label in (1, 2, 3, 5, 7):
        tissue = BRAINWEB[label]
        middle = slice(40 * label + 4, 40 * label + 36)
        spread = {
            "CT": tissue.hu_texture,
            "PET": tissue.suv_texture * tissue.suv,
            "MR": tissue.mr_texture * expected_of(tissue)["MR"] + 2.0,
        }
        for name, value in expected_of(tissue).items():
            mean = scans[name].array[middle].mean()
            # 100 mm hold some dozen independent grains of texture. Where
            # there is no signal, Rice's noise has sigma * 1.25 instead.
            floor = 11.0 * 1.26 if name == "MR" and value < 1 else 0.0
            assert mean == pytest.approx(
                value + floor, abs=0.5 * spread[name] + 0.2
            )


@pytest.mark.parametrize("step_mm", [0.5, 1.0])
@pytest.mark.parametrize("name", ["PET", "CT", "MR"])
def test_an_edge_has_the_profile_of_the_stated_blur(name, step_mm):
    spacing = (step_mm, 2.0, 2.0)
    labels = make_slabs([3, 2], thickness=24, width=2, spacing=spacing)
    scans = label_map.apply(labels, BRAINWEB, PLAIN)
    low, high = (expected_of(BRAINWEB[label])[name] for label in (3, 2))
    fwhm_mm = {"PET": 5.0, "CT": 1.0, "MR": 1.2}[name]
    sigma_mm = math.hypot(fwhm_mm, label_map.EDGE_FWHM_MM) / 2.3548
    x_mm = (np.arange(48) - 23.5) * step_mm
    share = 0.5 * (1 + special.erf(x_mm / sigma_mm / math.sqrt(2)))
    profile = (scans[name].array[:, 0, 0] - low) / (high - low)
    # A sum over voxels for an integral errs by the square of the step:
    # by h^2 / 24 times the slope of the Gaussian, 0.242 / sigma^2 at most.
    error = 1.2 * 0.242 / 24 * (step_mm / sigma_mm) ** 2
    assert profile == pytest.approx(share, abs=error + 1e-3)


def test_noise_has_the_stated_strength_and_ct_noise_hangs_together():
    labels = make_slabs([3], thickness=30, width=30, spacing=(1, 1, 1))
    noisy = dataclasses.replace(PLAIN, noise=2.0)
    scans = label_map.apply(labels, BRAINWEB, noisy)
    deviation = {name: scan.array.std() for name, scan in scans.items()}
    assert deviation["PET"] < 1e-5
    assert deviation["CT"] == pytest.approx(12.0, rel=0.02)
    # Far above the noise Rice is Gauss.
    assert deviation["MR"] == pytest.approx(22.0, rel=0.02)
    ct = scans["CT"].array - scans["CT"].array.mean()
    assert (ct[1:] * ct[:-1]).mean() > 0.4 * ct.var()


def test_bias_field_multiplies_the_mr_and_nothing_else():
    labels = make_slabs([3], thickness=100, width=100)
    uneven = dataclasses.replace(PLAIN, bias=0.2)
    scans = label_map.apply(labels, BRAINWEB, uneven)
    still = label_map.apply(labels, BRAINWEB, PLAIN)
    for name in ("CT", "PET"):
        np.testing.assert_array_equal(scans[name].array, still[name].array)
    field = np.log(scans["MR"].array / still["MR"].array)
    assert 0.05 < field.std() < 0.4
    # Smooth: neighbours 3 mm apart agree.
    assert np.abs(np.diff(field, axis=0)).max() < 0.05


def test_equal_parameters_give_equal_images_and_another_seed_others():
    labels = make_slabs([0, 6, 7, 1, 2, 3, 2, 1, 7, 6, 0])
    drawn = label_map.draw_parameters(np.random.default_rng(3))
    stored = label_map.Parameters(**json.loads(json.dumps(vars(drawn))))
    other = label_map.draw_parameters(np.random.default_rng(4))
    first, again, different = (
        label_map.apply(labels, BRAINWEB, p) for p in (drawn, stored, other)
    )
    for name in ("PET", "CT", "MR"):
        assert first[name].array.dtype == np.float32
        assert first[name].same_grid(labels)
        np.testing.assert_array_equal(first[name].array, again[name].array)
        assert (first[name].array != different[name].array).any()


@pytest.mark.parametrize("sign", [-1, 1])
def test_asymmetry_favours_the_right_side_whichever_way_the_axis_runs(sign):
    labels = make_labels(np.full((60, 4, 4), 2), (3, 3, 3), (sign, 1, 1))
    one_sided = dataclasses.replace(PLAIN, asymmetry=0.1)
    pet = label_map.apply(labels, BRAINWEB, one_sided)["PET"].array
    right, left = (pet[-1, 0, 0], pet[0, 0, 0])[::sign]
    assert right / left == pytest.approx(1.05 / 0.95, rel=1e-3)


def test_air_inside_the_head_is_air():
    array = np.full((40, 40, 40), 5)
    array[12:28, 12:28, 12:28] = 0
    scans = label_map.apply(make_labels(array), BRAINWEB, PLAIN)
    assert scans["CT"].array[20, 20, 20] == pytest.approx(-1000.0, abs=0.1)
    assert scans["MR"].array[20, 20, 20] == pytest.approx(0.0, abs=0.1)


def test_specks_in_the_air_are_left_out():
    array = np.zeros((40, 20, 20))
    array[5:25, 2:18, 2:18] = 5
    array[35, 10, 10] = 1
    ct = label_map.apply(make_labels(array), BRAINWEB, PLAIN)["CT"].array
    assert ct[33:] == pytest.approx(-1000.0, abs=0.1)


def test_pockets_of_air_in_the_brain_are_csf_and_those_in_bone_stay():
    array = np.full((40, 20, 20), 3)
    array[20:] = 7
    array[8:10, 8:10, 8:10] = array[30:34, 8:12, 8:12] = 0
    ct = label_map.apply(make_labels(array), BRAINWEB, PLAIN)["CT"].array
    assert 0 < ct[8, 8, 8] < 28
    assert ct[31, 9, 9] < -800


def test_fat_lies_under_the_skin_and_muscle_below_it():
    labels = np.repeat([0, 511, 507], [10, 5, 45])[:, None, None]
    labels = make_labels(np.tile(labels, (1, 60, 60)))
    plain = dataclasses.replace(PLAIN, fat_mm=6.0)
    ct = label_map.apply(labels, SYNTHSEG, plain)["CT"].array
    # Skin 10 and 11, fat until 15 + 6 on average, then muscle in layers.
    assert np.median(ct[14:17]) == pytest.approx(-100, abs=5)
    assert np.median(ct[45:]) == pytest.approx(55, abs=5)
    assert ct[45:].min() < 0


def test_a_tumour_takes_up_sugar_in_the_brain_only():
    array = np.full((70, 70, 70), 3)
    array[:, :, 35:] = 7
    labels = make_labels(array)
    parameters = label_map.Parameters()
    healthy = label_map.apply(labels, BRAINWEB, parameters)
    ill = dataclasses.replace(parameters, tumour_mm=9.0)
    ill = label_map.apply(labels, BRAINWEB, ill)
    change = ill["PET"].array - healthy["PET"].array
    assert change.max() > 5.0
    hot_ml = (change > 4.0).sum() / 1000.0
    assert 0.3 < hot_ml < 4.0
    # 4 mm inside the bone nothing is left of the blur, nor of a new texture.
    change = ill["CT"].array - healthy["CT"].array
    assert np.abs(change[:, :, 39:]).max() < 0.1


def test_mr_signal_by_hand():
    # Times that halve the magnetisation: E1 = exp(-TE / T2) = 1 / 2.
    half = 1.0 / math.log(2.0)
    gradient_echo = tissue_tables.AIR._replace(
        t1_ms=18.0 * half, t2_ms=4.0 * half, proton_density=0.8
    )
    # 7000 * 0.8 * sin 30 * (1 / 2) / (1 - cos 30 / 2) / 2
    assert tissue_tables.signal(gradient_echo, "T1w") == pytest.approx(
        5600 * 0.25 / 0.5669873 / 2, rel=1e-6
    )
    spin_echo = tissue_tables.AIR._replace(
        t1_ms=4000.0 * half, t2_ms=90.0 * half, proton_density=0.8
    )
    # 1200 * 0.8 / 2 / 2
    assert tissue_tables.signal(spin_echo, "T2w") == pytest.approx(240.0)


def test_contrasts_look_as_radiologists_know_them():
    def order(contrast):
        tissues = {
            "fat": tissue_tables.FAT,
            "white": tissue_tables.WHITE_MATTER,
            "grey": tissue_tables.GREY_MATTER,
            "CSF": tissue_tables.CSF,
            "bone": tissue_tables.COMPACT_BONE,
        }
        signals = {
            k: tissue_tables.signal(t, contrast) for k, t in tissues.items()
        }
        return sorted(signals, key=signals.get, reverse=True)

    assert order("T1w") == ["fat", "white", "grey", "CSF", "bone"]
    assert order("T2w") == ["CSF", "fat", "grey", "white", "bone"]


def test_draws_are_possible_patients_and_options_are_obeyed():
    rng = np.random.default_rng(0)
    drawn = [
        label_map.draw_parameters(rng, contrast="T2w", tumour_probability=0.5)
        for _ in range(200)
    ]
    assert {p.contrast for p in drawn} == {"T2w"}
    assert 70 < sum(p.tumour_mm > 0 for p in drawn) < 130
    assert 0.8 < np.median([p.uptake for p in drawn]) < 1.2
    assert len({p.seed for p in drawn}) == 200


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.full((4, 4, 4), 12),
            "holds label 12, which the tissue table of 12",
        ),
        (np.full((4, 4, 4), -1), "holds label -1, which"),
        (np.full((4, 4, 4), 1.5), "holds 1.5, expected whole numbers"),
        (np.full((4, 4, 4), np.nan), "holds nan, expected whole numbers"),
        (np.zeros((4, 1, 1)), "holds label 0 .air. only, expected a head"),
    ],
)
def test_what_is_no_label_map_is_refused_in_one_line(array, message):
    with pytest.raises(errors.DataError, match=message) as refusal:
        label_map.apply(make_labels(array), BRAINWEB, PLAIN)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [{"contrast": "FLAIR"}, {"noise": -1.0}, {"bone": math.inf}, {"seed": -1}],
)
def test_impossible_parameters_are_refused(change):
    with pytest.raises(errors.UsageError, match="expected"):
        label_map.Parameters(**change)


def test_an_impossible_share_of_tumours_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(errors.UsageError, match=r"expected in \[0, 1\]"):
        label_map.draw_parameters(rng, tumour_probability=1.5)


@pytest.mark.slow
@pytest.mark.shared_data
def test_every_label_of_the_real_heads_is_in_the_table(shared_data):
    files = sorted((shared_data / "head_labels").glob("*.nii.gz"))
    assert len(files) == 8
    for file in files:
        found = np.unique(np.asarray(nib.load(file).dataobj))
        assert [k for k in found if int(k) not in SYNTHSEG] == [], file.name


@pytest.mark.slow
@pytest.mark.shared_data
def test_a_real_head_has_air_in_its_sinuses_and_a_busy_brain(shared_data):
    labels = io.read_volume(shared_data / "head_labels" / "head_07.nii.gz")
    parameters = label_map.draw_parameters(
        np.random.default_rng(0), tumour_probability=0.0
    )
    scans = label_map.apply(labels, SYNTHSEG, parameters)

    def mean(name, values, depth=2):
        inside = np.isin(labels.array, values)
        inside = ndimage.binary_erosion(inside, None, depth)
        return scans[name].array[inside].mean()

    air = labels.array == 0
    pieces, _ = ndimage.label(ndimage.binary_erosion(air, None, 2))
    sinus = pieces > 1
    assert sinus.sum() > 1000
    assert scans["CT"].array[sinus].mean() < -900
    white, grey = (2, 41), (10, 49, 11, 50, 12, 51)
    # Deeper in the white, because PET's blur brings uptake from the cortex.
    uptakes = mean("PET", grey, 3), mean("PET", white, 5)
    assert 2.5 < uptakes[0] / uptakes[1] < 4.5
    assert mean("MR", white) > 1.1 * mean("MR", grey)
    assert mean("CT", white) == pytest.approx(28, abs=2)
    assert mean("CT", (515,)) > 900
