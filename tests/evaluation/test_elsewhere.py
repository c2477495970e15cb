"""Images made elsewhere are found, judged and scored like our own."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medgan_tf import errors, tasks
from medgan_tf.data import io, pairs, preprocess, volume
from medgan_tf.evaluation import elsewhere, elsewhere_files, evaluate

SIZE = 16
CT_WINDOW = (-1000.0, 2000.0)


def sample(patient="ann", slice_index=0, study="", window=CT_WINDOW):
    """Half air, half tissue."""
    rng = np.random.default_rng(slice_index)
    target = np.full((SIZE, SIZE, 1), -1, np.float32)
    target[4:] = rng.uniform(-0.5, 0.5, (SIZE - 4, SIZE, 1))
    return evaluate.Sample(
        patient=patient,
        slice_index=slice_index,
        source=target / 2,
        target=target,
        mask=np.ones((SIZE, SIZE), bool),
        source_window=(0.0, 1.0),
        target_window=window,
        study=study,
    )


def physical(one):
    return preprocess.denormalise(one.target[..., 0], one.target_window)


def write(folder, samples, change=lambda values: values):
    for one in samples:
        name = "_".join(filter(None, [one.patient, one.study]))
        values = change(physical(one))
        np.save(folder / f"{name}_{one.slice_index:03d}.npy", values)


def score(samples, read, target=tasks.CT):
    values = elsewhere.Values()
    scores = evaluate.score_slices(
        elsewhere.attach(samples, read, target, values), elsewhere.translate
    )
    return scores, values


def found_in(folder, samples, **options):
    needed = elsewhere_files.wanted(samples)
    return elsewhere_files.slices(folder, needed, **options)


def refused(*words):
    """One line in which the words come one after the other."""
    pattern = ".*".join(map(re.escape, words))
    return pytest.raises(errors.DataError, match=f"^[^\n]*{pattern}[^\n]*$")


SAMPLES = [sample(slice_index=3), sample(slice_index=5), sample("bob", 1, "b")]


def test_a_target_in_the_place_of_a_translation_is_perfect(tmp_path):
    write(tmp_path, SAMPLES)

    scores, values = score(SAMPLES, found_in(tmp_path, SAMPLES))

    assert [row.slice_index for row in scores.rows] == [3, 5, 1]
    for row in scores.rows:
        assert row.values["ssim"] == pytest.approx(1, abs=1e-6)
        assert row.values["mse"] == pytest.approx(0, abs=1e-6)
    assert values.lowest == -1000 and values.lost_share == 0


def test_an_image_is_scored_for_its_own_slice(tmp_path):
    # 30 HU is 1 % of the window: (255 / 100)^2 in squared grey levels.
    write(tmp_path, SAMPLES, lambda values: values + 30)

    scores, _ = score(SAMPLES, found_in(tmp_path, SAMPLES))

    for row in scores.rows:
        assert row.values["mse"] == pytest.approx(2.55**2, rel=1e-3)
        assert row.values["mae"] == pytest.approx(30, rel=1e-3)


def test_values_beyond_the_window_are_clipped_and_counted(tmp_path):
    def spike(values):
        values[0, 0], values[15, 15] = 5000, -1500
        return values

    write(tmp_path, SAMPLES, spike)
    _, values = score(SAMPLES, found_in(tmp_path, SAMPLES))

    assert (values.lowest, values.highest) == (-1500, 5000)
    assert values.lost_share == pytest.approx(2 / SIZE**2)


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".png"])
def test_a_slice_is_read_from_each_kind_of_file(tmp_path, suffix):
    one = sample(slice_index=7)
    path = tmp_path / f"ann_7{suffix}"
    if suffix == ".npy":
        np.save(path, physical(one).astype(np.float64))
    elif suffix == ".tif":
        sitk.WriteImage(sitk.GetImageFromArray(physical(one)), str(path))
    else:
        grey = np.rint((one.target[..., 0] + 1) * 127.5).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(grey), str(path))
        scale = {"slope": 3000 / 255, "intercept": -1000}
        (tmp_path / "volume.json").write_text(json.dumps(scale))

    (image,) = found_in(tmp_path, [one])([one])

    # Half a grey level of 8 bits is 5.9 HU.
    atol = 6 if suffix == ".png" else 1e-3
    np.testing.assert_allclose(image, physical(one), atol=atol)


def test_8_bits_without_a_scale_are_no_hounsfield_units(tmp_path):
    one = sample(slice_index=7)
    grey = np.zeros((SIZE, SIZE), np.uint8)
    for suffix in (".png", ".tif"):
        path = tmp_path / f"ann_7{suffix}"
        sitk.WriteImage(sitk.GetImageFromArray(grey), str(path))
        with refused("8-bit", "volume.json"):
            found_in(tmp_path, [one])([one])
        path.unlink()


def test_all_patients_without_an_image_are_named(tmp_path):
    write(tmp_path, SAMPLES[:1])
    with refused("2 of 2 studies", "ann (1 of 2", "first 5", "bob_b (1 of 1"):
        found_in(tmp_path, SAMPLES)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cem_001.npy", ["cem_001.npy", "no slice of a known patient"]),
        ("ann.nii.gz", ["ann.nii.gz", "--manifest or --input_dir"]),
        ("ann_004.npy", ["ann_004.npy", "slice 4", "3 to 5"]),
        ("ann_3.npy", ["ann_3.npy", "ann_003.npy too"]),
    ],
)
def test_a_file_that_belongs_to_no_slice_is_refused(tmp_path, name, words):
    write(tmp_path, SAMPLES)
    (tmp_path / name).touch()
    with refused(*words):
        found_in(tmp_path, SAMPLES)


def test_patients_of_another_split_are_left_alone(tmp_path):
    write(tmp_path, [*SAMPLES, sample("cem", 0), sample("cem", 0, "b")])
    (tmp_path / ".DS_Store").touch()
    read = found_in(tmp_path, SAMPLES, others=["cem"])
    ann = [one for one in SAMPLES if one.patient == "ann"]
    np.testing.assert_allclose(
        read(ann), [physical(one) for one in ann], atol=1e-3
    )


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((SIZE, SIZE + 1)), "shape (16, 17)"),
        (np.zeros((1, SIZE, SIZE)), "shape (1, 16, 16)"),
        (np.full((SIZE, SIZE), np.nan), "256 pixels that are NaN"),
        (np.zeros((SIZE, SIZE), complex), "no array of real numbers"),
    ],
)
def test_an_array_that_is_no_slice_is_refused(tmp_path, array, words):
    one = sample()
    np.save(tmp_path / "ann_0.npy", array)
    with refused("ann_0.npy", words):
        found_in(tmp_path, [one])([one])


def test_a_damaged_or_coloured_picture_is_refused(tmp_path):
    one, path = sample(), tmp_path / "ann_0.png"
    path.write_bytes(b"nothing")
    with refused("ann_0.png", "damaged"):
        found_in(tmp_path, [one])([one])
    colours = np.zeros((SIZE, SIZE, 3), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(path))
    with refused("ann_0.png", "colours"):
        found_in(tmp_path, [one])([one])


@pytest.mark.parametrize(
    "change",
    [
        lambda hu: np.rint((hu + 1000) * 255 / 3000),
        lambda hu: (hu + 1000) / 1500 - 1,
        lambda hu: (hu + 1000) / 3000,
        lambda hu: hu + 1024,
        lambda hu: hu * 10 + 9000,
    ],
    ids=["8 bits", "[-1, 1]", "[0, 1]", "HU + 1024", "10 HU"],
)
def test_values_that_are_no_hounsfield_units_are_refused(tmp_path, change):
    write(tmp_path, SAMPLES, change)
    with refused("images of ann", "HU", "convert them to HU"):
        score(SAMPLES, found_in(tmp_path, SAMPLES))


@pytest.mark.parametrize(
    "change",
    [lambda suv: np.rint(suv * 255 / 20), lambda suv: suv / 10 - 1],
    ids=["8 bits", "[-1, 1]"],
)
def test_values_that_are_no_uptake_are_refused(tmp_path, change):
    samples = [sample(window=(0.0, 20.0))]
    write(tmp_path, samples, change)
    with refused("images of ann", "convert them to SUV"):
        score(samples, found_in(tmp_path, samples), tasks.PET)


@pytest.mark.parametrize(
    "change",
    [lambda mr: mr / 1000 * 2 - 1, lambda mr: mr / 1000, lambda mr: mr * 65],
    ids=["[-1, 1]", "[0, 1]", "16 bits"],
)
def test_values_of_another_scale_than_the_scanners_are_refused(
    tmp_path, change
):
    samples = [sample(window=(0.0, 1000.0))]
    write(tmp_path, samples, change)
    with refused("images of ann", "convert them to scanner units"):
        score(samples, found_in(tmp_path, samples), tasks.MR)


@pytest.mark.parametrize("grey", [-1.0, -0.9, 0.0, 0.5])
@pytest.mark.parametrize(
    ("target", "window"),
    [(tasks.CT, CT_WINDOW), (tasks.PET, (0, 20.0)), (tasks.MR, (0, 1000.0))],
    ids=["CT", "PET", "MR"],
)
def test_a_network_that_learnt_nothing_is_scored(
    tmp_path, grey, target, window
):
    """Our own would be: a poor translation is no wrong unit."""
    samples = [sample(window=window)]
    level = preprocess.denormalise(np.float32(grey), window)
    noise = np.random.default_rng(0).normal(0, 0.1, (SIZE, SIZE))
    noise *= (window[1] - window[0]) * (abs(grey) <= 0.5)
    write(tmp_path, samples, lambda values: level + noise)
    scores, _ = score(samples, found_in(tmp_path, samples), target)
    assert len(scores.rows) == 1


# A patient whose image lies on its side, at 4 mm.
TURN = np.array([[0, -4, 0, 9], [4, 0, 0, -7], [0, 0, 6, 11], [0, 0, 0, 1.0]])
TASK = tasks.adapted(tasks.TASKS["mr_ct"], voxel_size_mm=(2.0, 2.0, None))


@pytest.fixture(scope="module")
def study():
    """(source, target, samples) of a body in air."""
    rng = np.random.default_rng(0)
    body = np.zeros((20, 24, 5), np.float32)
    body[4:16, 5:19] = 1
    source = body * rng.uniform(100, 900, body.shape)
    target = body * rng.uniform(900, 1300, body.shape) - 1000
    source, target = (
        volume.Volume(array.astype(np.float32), TURN)
        for array in (source, target)
    )
    prepared = pairs.prepare(
        TASK, "ann", pairs.Images([source], target), pairs.Options()
    )
    return source, target, prepared.samples


def volumes_in(folder, samples, source, **options):
    return elsewhere_files.volumes(
        folder,
        elsewhere_files.wanted(samples),
        sources={("ann", ""): source},
        task=TASK,
        **options,
    )


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".npy"])
def test_a_volume_is_cut_as_the_target_was(study, tmp_path, suffix):
    source, target, samples = study
    io.write_volume(tmp_path / "mr.nii.gz", source)
    folder = tmp_path / "theirs"
    folder.mkdir()
    io.write_volume(folder / f"ann{suffix}", target)

    read = volumes_in(folder, samples, tmp_path / "mr.nii.gz")
    scores, _ = score(samples, read)

    assert len(scores.rows) == len(samples) == 5
    for row in scores.rows:
        assert row.values["ssim"] == pytest.approx(1, abs=1e-6)
        assert row.values["mae"] == pytest.approx(0, abs=1e-3)


def test_a_volume_may_turn_its_axes_but_not_lie_elsewhere(study, tmp_path):
    source, target, samples = study
    io.write_volume(tmp_path / "mr.nii.gz", source)
    folder = tmp_path / "theirs"
    folder.mkdir()
    image = nib.Nifti1Image(target.array, target.affine)
    nib.save(nib.as_closest_canonical(image), folder / "ann.nii.gz")
    read = volumes_in(folder, samples, tmp_path / "mr.nii.gz")
    (row, *_) = score(samples, read)[0].rows
    assert row.values["mae"] == pytest.approx(0, abs=1e-3)

    moved = target.affine.copy()
    moved[0, 3] += 4
    nib.save(nib.Nifti1Image(target.array, moved), folder / "ann.nii.gz")
    with refused("ann.nii.gz", "(13.0, ", "voxels of its source", "(9.0, "):
        read(samples)


def test_another_source_than_that_of_the_records_is_refused(study, tmp_path):
    source, target, samples = study
    other = volume.Volume(source.array[::-1], source.affine)
    io.write_volume(tmp_path / "mr.nii.gz", other)
    folder = tmp_path / "theirs"
    folder.mkdir()
    io.write_volume(folder / "ann.nii.gz", target)
    read = volumes_in(folder, samples, tmp_path / "mr.nii.gz")
    with refused("mr.nii.gz", "other slices than those of ann"):
        read(samples)


def test_volumes_without_source_or_patient_are_refused(study, tmp_path):
    *_, samples = study
    needed = elsewhere_files.wanted(samples)
    settings = {"sources": {}, "task": TASK}
    with refused("no image for 1 of 1 studies: ann"):
        elsewhere_files.volumes(tmp_path, needed, **settings)
    (tmp_path / "ann").mkdir()
    with refused("no source of ann", "slices instead"):
        elsewhere_files.volumes(tmp_path, needed, **settings)
    (tmp_path / "ann.mha").touch()
    with refused("ann.mha", "ann too"):
        elsewhere_files.volumes(tmp_path, needed, **settings)
    (tmp_path / "ann.mha").unlink()
    (tmp_path / "dora.mha").touch()
    with refused("dora.mha", "no known patient"):
        elsewhere_files.volumes(tmp_path, needed, **settings)
