"""Studies are found in the folders of challenges and hospitals."""

import functools
import pathlib

import pydicom
import pytest

from medgan_tf import errors, tasks
from medgan_tf.data import layouts


@pytest.fixture
def tree(tmp_path):
    """Makes empty files and finds studies among them."""

    def find(layout, task, *files, **patterns):
        for name in files:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        studies = layouts.find(layout, tmp_path, tasks.TASKS[task], **patterns)
        return [
            (
                study.patient,
                study.name,
                *(
                    path.relative_to(tmp_path).as_posix()
                    for path in (*study.sources, study.target)
                ),
            )
            for study in studies
        ]

    find.folder = tmp_path
    return find


@pytest.mark.parametrize(
    ("layout", "top", "suffix"),
    [
        ("synthrad2023", "Task1/brain/", ".nii.gz"),
        ("synthrad2025", "Task1/HN/", ".mha"),
        ("synthrad2025", "", ".mha"),
    ],
)
def test_synthrad_cases_are_patients(tree, layout, top, suffix):
    files = [
        f"{top}{case}/{name}{suffix}"
        for case in ("1BA001", "1BA005")
        for name in ("mr", "ct", "mask")
    ]
    assert tree(layout, "mr_ct", *files, f"{top}overview/x.png") == [
        (case, "", f"{top}{case}/mr{suffix}", f"{top}{case}/ct{suffix}")
        for case in ("1BA001", "1BA005")
    ]


def test_another_file_of_a_case_may_be_named(tree):
    files = "Task1/AB/1ABA005/mr_t2.mha", "Task1/AB/1ABA005/ct.mha"
    assert tree("synthrad2025", "mr_ct", *files, source="mr_t2") == [
        ("1ABA005", "", *files)
    ]
    with pytest.raises(errors.DataError, match="found no study with MR and CT"):
        tree("synthrad2025", "mr_ct")


def test_the_studies_of_an_autopet_patient_are_told_apart(tree):
    files = [
        f"PETCT_01/{study}/{name}.nii.gz"
        for study in ("2001-NA-1", "2002-NA-2")
        for name in ("SUV", "CT", "CTres", "SEG", "PET")
    ]
    assert tree("autopet", "pet_ct", *files) == [
        (
            "PETCT_01",
            study,
            f"PETCT_01/{study}/SUV.nii.gz",
            f"PETCT_01/{study}/CT.nii.gz",
        )
        for study in ("2001-NA-1", "2002-NA-2")
    ]
    (first, _) = tree("autopet", "pet_denoise")
    assert first[2:] == ("PETCT_01/2001-NA-1/SUV.nii.gz",)
    study, _ = layouts.find("autopet", tree.folder, tasks.TASKS["pet_denoise"])
    assert study.ct == study.target.with_name("CT.nii.gz")
    (first, _) = tree("autopet", "pet_ct", target="CTres")
    assert first[3].endswith("CTres.nii.gz")


MR_ART = [
    f"sub-{number}/anat/sub-{number}_acq-{scan}_T1w.nii.gz"
    for number in ("000103", "000148")
    for scan in ("headmotion1", "headmotion2", "standard")
]


def test_both_scans_with_motion_are_paired_with_the_still_one(tree):
    found = tree("bids", "mr_motion", *MR_ART, "sub-000103/anat/notes.json")
    assert [study[:2] for study in found] == [
        ("sub-000103", "acq-headmotion1"),
        ("sub-000103", "acq-headmotion2"),
        ("sub-000148", "acq-headmotion1"),
        ("sub-000148", "acq-headmotion2"),
    ]
    assert found[1][2:] == (MR_ART[1], MR_ART[2])


def test_a_rule_narrows_what_a_bids_source_may_be(tree):
    found = tree("bids", "mr_motion", *MR_ART, source="acq-headmotion1_T1w")
    assert [study[1:3] for study in found] == [
        ("", MR_ART[0]),
        ("", MR_ART[3]),
    ]


def test_bids_sessions_are_studies_and_do_not_mix(tree):
    files = [
        f"sub-1/ses-{session}/{kind}/sub-1_ses-{session}_{kind}.nii"
        for session in ("a", "b")
        for kind in ("pet", "ct")
    ]
    alone = "sub-2/ses-a/pet/sub-2_ses-a_pet.nii"
    assert tree("bids", "pet_ct", *files, alone) == [
        ("sub-1", "a", files[0], files[1]),
        ("sub-1", "b", files[2], files[3]),
    ]
    assert [study[2] for study in tree("bids", "pet_denoise")] == [
        files[0],
        files[2],
        alone,
    ]


def test_two_targets_of_a_bids_session_are_the_user_s_choice(tree):
    files = [
        f"sub-1/pet/sub-1_rec-{rec}_pet.nii" for rec in ("acstat", "nacstat")
    ]
    with pytest.raises(errors.DataError, match="narrow it by --target"):
        tree("bids", "pet_denoise", *files)
    assert tree("bids", "pet_denoise", target="rec-acstat_pet") == [
        ("sub-1", "", files[0])
    ]


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_a_folder_without_studies_is_refused_in_one_line(tmp_path, layout):
    with pytest.raises(errors.DataError, match="found no study") as caught:
        layouts.find(layout, tmp_path, tasks.TASKS["pet_ct"])
    assert "\n" not in str(caught.value)
    with pytest.raises(errors.DataError, match="is not a folder"):
        layouts.find(layout, tmp_path / "no", tasks.TASKS["pet_ct"])


def test_a_layout_has_one_source_image(tmp_path):
    task = tasks.adapted(tasks.TASKS["mr_ct"], more_sources=["MR"])
    with pytest.raises(errors.DataError, match="source_2"):
        layouts.find("bids", tmp_path, task)


@pytest.mark.shared_data
def test_a_tree_of_dicom_files_is_paired_by_frame_of_reference(shared_data):
    folder = shared_data / "sarcoma_dicom"
    (study,) = layouts.find("dicom", folder, tasks.TASKS["pet_ct"])
    assert study.patient == "STS_025" or study.patient
    (source,) = study.sources
    assert (
        pathlib.Path("PET/image")
        == source.relative_to(folder / "STS_025").parent
    )
    assert study.target.parent == folder / "STS_025" / "CT" / "image"


def test_a_scan_of_a_session_is_paired_with_one_without_sessions(tree):
    files = (
        "sub-1/ses-1/anat/sub-1_ses-1_T1w.nii",
        "sub-1/ct/sub-1_ct.nii",
        "sub-1/anat/T1w.nii",  # No BIDS name; passed over.
    )
    assert tree("bids", "mr_ct", *files) == [("sub-1", "1", *files[:2])]


def series(folder, uid, patient="ann", **tags):
    """Two slices of CT, headers alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(2):
        header = pydicom.Dataset()
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        header.PatientID = patient
        header.StudyInstanceUID = "1.2"
        header.SeriesInstanceUID = uid
        header.FrameOfReferenceUID = "1.3"
        header.Modality = "CT"
        header.SOPClassUID = pydicom.uid.CTImageStorage
        header.SOPInstanceUID = f"{uid}.{k}"
        for name, value in tags.items():
            setattr(header, name, value)
        name = f"{uid}.{patient}.{k}"
        header.save_as(folder / name, enforce_file_format=True)


def test_series_of_dicom_that_cannot_be_told_apart_are_refused(tmp_path):
    find = functools.partial(
        layouts.find, "dicom", tmp_path, tasks.TASKS["pet_ct"]
    )
    series(tmp_path / "pet", "1.9", Modality="PT")
    series(tmp_path / "a", "1.5")
    (study,) = find()
    assert study.target.parent == tmp_path / "a"
    # The same series in a second folder: torn apart, or there twice.
    series(tmp_path / "b", "1.5")
    with pytest.raises(errors.DataError, match="each series in one folder"):
        find()


def test_dicom_without_a_patient_is_refused(tmp_path):
    series(tmp_path / "pet", "1.9", patient="", Modality="PT")
    series(tmp_path / "a", "1.5", patient="")
    with pytest.raises(errors.DataError, match="found no PatientID"):
        layouts.find("dicom", tmp_path, tasks.TASKS["pet_ct"])


def test_the_same_series_uid_of_two_patients_is_two_series(tmp_path):
    for patient in ("ann", "bob"):
        folder = tmp_path / patient
        series(folder / "pet", "1.9", patient=patient, Modality="PT")
        series(folder / "ct", "1.5", patient=patient)
    found = layouts.find("dicom", tmp_path, tasks.TASKS["pet_ct"])
    assert [study.patient for study in found] == ["ann", "bob"]
