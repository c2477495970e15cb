"""Which images are translated, where they go, and what they say they are."""

import json
import pathlib

import nibabel as nib
import numpy as np
import pytest

from medgan_tf import errors, tasks
from medgan_tf.data import volume
from medgan_tf.serving import cohort

MR_CT = tasks.TASKS["mr_ct"]


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "study"
    touch(
        folder,
        "dataset_description.json",
        "sub-1/ses-1/anat/sub-1_ses-1_T1w.nii.gz",
        "sub-1/ses-2/anat/sub-1_ses-2_T1w.nii.gz",
        "sub-2/anat/sub-2_T1w.nii",
        "sub-2/anat/sub-2_acq-fast_T1w.nii",
        "sub-2/anat/sub-2_T2w.nii",
        "derivatives/other/sub-2/anat/sub-2_T1w.nii",
    )
    return folder


def test_each_image_of_a_data_set_that_fits_goes_to_its_place(dataset):
    output = dataset / "derivatives" / "medgan"
    items = cohort.find(dataset, output, output, "T1w")
    cohort.check_outputs(items, dataset)
    items = cohort.placed(items, MR_CT)
    assert [item.output.relative_to(output).as_posix() for item in items] == [
        "sub-1/ses-1/ct/sub-1_ses-1_desc-synthetic_ct.nii.gz",
        "sub-1/ses-2/ct/sub-1_ses-2_desc-synthetic_ct.nii.gz",
        "sub-2/ct/sub-2_desc-synthetic_ct.nii.gz",
        "sub-2/ct/sub-2_acq-fast_desc-synthetic_ct.nii.gz",
    ]
    assert items[0].spread.name == "sub-1_ses-1_desc-uncertainty_ct.nii.gz"
    (fast,) = cohort.find(dataset, output, None, "acq-f*_T1w")
    assert fast.source.name == "sub-2_acq-fast_T1w.nii"


def test_two_images_never_become_one(dataset):
    touch(dataset, "sub-2/anat/sub-2_T1w.nii.gz")
    items = cohort.find(dataset, dataset / "out", None, "T1w")
    with pytest.raises(errors.DataError, match="would both become"):
        cohort.placed(items, MR_CT)


@pytest.mark.parametrize("names", [["a.nii", "b.mha"], ["a.nii"]])
def test_a_folder_of_volumes_keeps_its_names(tmp_path, names):
    touch(tmp_path, "in/notes.txt", *(f"in/{name}" for name in names))
    source, output, spread = (tmp_path / name for name in ("in", "out", "sd"))
    items = cohort.find(source, output, spread, None)
    cohort.check_outputs(items, source)
    assert output.is_dir() and spread.is_dir()
    assert items == [
        cohort.Item(source / name, output / name, spread / name)
        for name in names
    ]


@pytest.fixture
def slices(monkeypatch):
    """Takes every file .dcm for a slice."""
    monkeypatch.setattr(
        cohort.io.dicom.dicom_slice,
        "is_dicom",
        lambda path: path.suffix == ".dcm",
    )


def test_a_folder_of_series_gives_a_series_each(tmp_path, slices):
    touch(tmp_path, "in/2026.11.28/1.dcm", "in/b/1.dcm", "in/none/x.txt")
    source, output = tmp_path / "in", tmp_path / "out"
    items = cohort.find(source, output, None, None)
    assert [item.source.name for item in items] == ["2026.11.28", "b"]
    cohort.check_outputs(items, source)
    # The dot in a name is no suffix: it becomes a folder of slices.
    assert cohort._is_series(items[0].source, items[0].output)
    assert not cohort._is_series(items[0].source, output / "a.nii.gz")


def test_a_folder_of_slices_and_volumes_is_refused(tmp_path, slices):
    touch(tmp_path, "in/1.dcm", "in/a.nii")
    with pytest.raises(errors.DataError, match="into a folder of its own"):
        cohort.find(tmp_path / "in", tmp_path / "out", None, None)


def test_paths_that_are_one_are_refused(tmp_path, dataset):
    a, b = tmp_path / "a.nii", tmp_path / "b.nii"
    for source, output, spread in ((a, a, None), (a, b, b), (a, b, a)):
        with pytest.raises(errors.UsageError, match="nothing is overwritten"):
            cohort.find(source, output, spread, None)
    for more in (b, tmp_path / "c.nii"):
        with pytest.raises(errors.UsageError, match="--more_inputs and"):
            cohort.find(a, b, tmp_path / "c.nii", None, [more])
    with pytest.raises(errors.UsageError, match="INPUT and OUTPUT are both"):
        cohort.find(dataset, dataset, None, "T1w")


def test_a_rule_is_for_data_sets_and_needed_there(tmp_path, dataset):
    output = tmp_path / "out"
    with pytest.raises(errors.UsageError, match="say which of its images"):
        cohort.find(dataset, output, None, None)
    with pytest.raises(errors.UsageError, match="is for BIDS data sets"):
        cohort.find(tmp_path, output, None, "T1w")
    with pytest.raises(errors.DataError, match=r"no image sub-\*_FLAIR"):
        cohort.find(dataset, output, None, "FLAIR")


@pytest.mark.parametrize(
    ("name", "sidecar", "found"),
    [
        ("a.nii.gz", {"Modality": "CT"}, "found CT, expected PET"),
        ("a.NII", {"Units": "Bq/mL"}, "found Units Bq/mL, expected SUV"),
        ("sub-1/anat/sub-1_T1w.nii", None, "found MR, expected PET"),
        ("a.nii.gz", None, None),
        ("a.nii", {"Modality": "PT", "Units": "g/mL"}, None),
        ("a.nii", {"Modality": 7, "Units": ["SUV"]}, None),
        ("a.nii", [1], None),
        ("sub-1/pet/sub-1_pet.nii", {"Units": "SUV"}, None),
        ("sub-1/other/sub-1_pet.nii", None, None),
    ],
)
def test_what_a_file_says_of_itself_is_believed(tmp_path, name, sidecar, found):
    touch(tmp_path, name)
    path = tmp_path / name
    if sidecar is not None:
        beside = path.with_name(path.name.split(".")[0] + ".json")
        beside.write_text(json.dumps(sidecar))
    if found is None:
        cohort.check_claims(path, tasks.PET)
        return
    with pytest.raises(errors.DataError, match=found):
        cohort.check_claims(path, tasks.PET)


def test_a_sidecar_that_was_cut_is_refused(tmp_path):
    touch(tmp_path, "a.nii")
    (tmp_path / "a.json").write_text('{"Modality": "M')
    with pytest.raises(errors.DataError, match="a.json: found .* damaged"):
        cohort.check_claims(tmp_path / "a.nii", tasks.MR)


@pytest.mark.shared_data
def test_dicom_says_its_modality(shared_data):
    series = shared_data / "sarcoma_dicom" / "STS_025" / "CT" / "image"
    cohort.check_claims(series, tasks.CT)
    with pytest.raises(errors.DataError, match="found CT, expected MR, on"):
        cohort.check_claims(series, tasks.MR)


def make_item(folder):
    """A data set with an image, and where its translation goes."""
    touch(folder, "dataset_description.json")
    image = folder / "sub-1/anat/sub-1_T1w.nii"
    image.parent.mkdir(parents=True)
    values = np.ones((3, 4, 5), np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([2, 2, 3, 1.0])), image)
    items = cohort.find(folder, folder / "out", folder / "out", "T1w")
    (item,) = cohort.placed(items, MR_CT)
    return item, volume.Volume(values, np.diag([2, 2, 3, 1.0]))


def files(folder):
    return sorted(f.name for f in folder.rglob("*") if f.is_file())


def test_a_derived_image_says_from_what_and_in_which_unit(tmp_path):
    item, translated = make_item(tmp_path)
    cohort.write(item, translated, translated, MR_CT, "MR to CT")
    assert files(tmp_path / "out") == [
        "sub-1_desc-synthetic_ct.json",
        "sub-1_desc-synthetic_ct.nii.gz",
        "sub-1_desc-uncertainty_ct.json",
        "sub-1_desc-uncertainty_ct.nii.gz",
    ]
    sidecar = item.output.parent / "sub-1_desc-synthetic_ct.json"
    stored = json.loads(sidecar.read_text())
    assert stored["Units"] == "HU"
    assert stored["Sources"] == ["bids:source:sub-1/anat/sub-1_T1w.nii"]
    assert not pathlib.Path(stored["Sources"][0]).is_absolute()


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    item, translated = make_item(tmp_path)
    translated.array[0, 0, 0] = np.nan
    with pytest.raises(errors.DataError, match="NaN"):
        cohort.write(item, translated, translated, MR_CT, "MR to CT")
    assert files(tmp_path / "out") == []
