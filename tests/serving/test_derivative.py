"""Names and files of a BIDS derivative data set."""

import json
import pathlib

import pytest

from medgan_tf import errors, tasks
from medgan_tf.serving import derivative


@pytest.mark.parametrize(
    ("task", "image", "expected"),
    [
        (
            "mr_ct",
            "sub-1/ses-b/anat/sub-1_ses-b_acq-x_T1w.nii.gz",
            "sub-1/ses-b/ct/sub-1_ses-b_acq-x_desc-synthetic_ct.nii.gz",
        ),
        (
            "mr_motion",
            "sub-1/anat/sub-1_acq-headmotion1_T1w.nii",
            "sub-1/anat/sub-1_acq-headmotion1_desc-synthetic_T1w.nii.gz",
        ),
        (
            "pet_denoise",
            "sub-1/pet/sub-1_trc-FDG_desc-low_pet.nii",
            "sub-1/pet/sub-1_trc-FDG_desc-synthetic_pet.nii.gz",
        ),
    ],
)
def test_entities_are_kept_and_desc_says_what_was_done(task, image, expected):
    name = derivative.name_of(
        pathlib.Path(image), tasks.TASKS[task], "synthetic"
    )
    assert name.as_posix() == expected


def test_the_description_has_what_bids_requires_and_no_absolute_path(tmp_path):
    folder = tmp_path / "größer als" / "derivatives" / "medgan"
    derivative.write_description(folder, tmp_path / "größer als", "MR to CT")
    stored = json.loads((folder / "dataset_description.json").read_text())
    assert stored["DatasetType"] == "derivative"
    assert stored["GeneratedBy"][0]["Name"] == "medgan_tf"
    assert {"Name", "BIDSVersion"} <= stored.keys()
    assert stored["DatasetLinks"] == {"source": "../.."}
    assert [f.name for f in folder.iterdir()] == ["dataset_description.json"]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    derivative.check_output(tmp_path / "new" / "newer")
    derivative.write_description(tmp_path / "ours", tmp_path, "MR to CT")
    derivative.check_output(tmp_path / "ours")
    other = tmp_path / "other"
    other.mkdir()
    derivative.check_output(other)
    (other / "dataset_description.json").write_text('{"Name": "raw"}')
    for folder in (other, other / "dataset_description.json"):
        with pytest.raises(errors.ResourceError, match="choose"):
            derivative.check_output(folder)
