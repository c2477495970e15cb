"""A list of files that cannot be a cohort is refused before any is read."""

import os
import pathlib

import pytest

from medgan_tf import errors
from medgan_tf.data import manifest

HEADER = "patient,source,target\n"


@pytest.fixture
def study(tmp_path):
    """Two patients' folders with two files each, and a writer of manifests."""
    for patient in ("ann", "bob"):
        (tmp_path / patient).mkdir()
        for name in ("MR.nii", "CT.nii"):
            (tmp_path / patient / name).touch()
    for name in ("p001/T1.nii", "p002/X.nii", "flat/p002_X.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def write(text: str | bytes) -> pathlib.Path:
        path = tmp_path / "pairs.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refusal(function, *arguments) -> str:
    with pytest.raises(errors.DataError) as caught:
        function(*arguments)
    return str(caught.value)


def test_paths_are_relative_to_the_manifest_and_a_source_may_be_left_out(
    study, tmp_path
):
    path = study(HEADER + "ann,ann/MR.nii,ann/CT.nii\nbob,,bob/CT.nii\n")
    assert manifest.read_csv(path) == [
        manifest.Study(
            "ann", (tmp_path / "ann" / "MR.nii",), tmp_path / "ann" / "CT.nii"
        ),
        manifest.Study("bob", (), tmp_path / "bob" / "CT.nii"),
    ]


def test_other_columns_quotes_and_the_mark_of_a_spreadsheet_do_no_harm(study):
    path = study(
        b"\xef\xbb\xbftarget,age,patient,source\r\n"
        b'"ann/CT.nii",54, ann ,ann/MR.nii\r\n\r\n'
    )
    (pair,) = manifest.read_csv(path)
    assert (pair.patient, pair.sources[0].name, pair.target.name) == (
        "ann",
        "MR.nii",
        "CT.nii",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has the columns none"),
        ("patient;source;target\n", "patient,source,target missing"),
        ("patient,source\nann,MR.nii\n", "target missing"),
        (HEADER, "names no patient"),
        (HEADER + ",ann/MR.nii,ann/CT.nii\n", "line 2: patient and target"),
        (HEADER + "\nann,ann/MR.nii,\n", "line 3: patient and target"),
        (HEADER + "ann,ann/MR.nii\n", "line 2: patient and target"),
        (HEADER + "ann,,ann/CT.nii,1\n", "line 2 has more fields than the 3"),
        (HEADER + 'ann,,"ann/CT.nii\nbob,,bob/CT.nii\n', "cannot be read"),
        (HEADER.encode() + b"\xff\xfe", "cannot be read"),
        (HEADER + "ann,,ann/PET.nii\n", "ann/PET.nii, named in"),
        (HEADER + "ann,,CT.nii\0\n", "holds a control character"),
        (HEADER + f"ann,,{'x' * 5000}.nii\n", "does not exist"),
        (HEADER + "ann,,ann/CT.nii\nann,,ann/CT.nii\n", "ann 2 times"),
        (HEADER + "ann,ann/CT.nii,ann/../ann/CT.nii\n", "twice, for ann"),
        (
            HEADER + "ann,bob/MR.nii,ann/CT.nii\nbob,,bob/CT.nii\n",
            "pairs patient ann with .*bob/MR.nii, which .* is of bob",
        ),
        (
            HEADER + "p001,p001/T1.nii,p002/X.nii\n",
            "patient p001, got one in the folder p002",
        ),
        (
            HEADER + "p001,,flat/p002_X.nii\np002,,p002/X.nii\n",
            "pairs patient p001 with .*p002_X.nii, which .* is of p002",
        ),
    ],
)
def test_a_manifest_that_is_no_cohort_is_refused(study, text, words):
    path = study(text)
    assert str(path) in refusal(manifest.read_csv, path)
    with pytest.raises(errors.DataError, match=words):
        manifest.read_csv(path)


@pytest.fixture
def outside(study, tmp_path):
    """A file beside the study, and links to it and to the folder above."""
    inner = tmp_path / "study"
    inner.mkdir()
    for patient in ("ann", "bob"):
        (tmp_path / patient).rename(inner / patient)
    (tmp_path / "secret.nii").touch()
    (inner / "ann" / "link.nii").symlink_to(tmp_path / "secret.nii")
    (inner / "up").symlink_to(tmp_path)
    (inner / "ann" / "own.nii").symlink_to(inner / "ann" / "CT.nii")
    return inner


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../secret.nii", "--data_root"),
        ("ann/../../secret.nii", "--data_root"),
        ("../../../../../../../../etc/hostname", "is in /etc, expected it in"),
        ("/etc/hostname", "is in /etc, expected it in"),
        ("{top}/secret.nii", "--data_root"),
        ("ann/link.nii", "--data_root"),
        ("up/secret.nii", "--data_root"),
        ("ann/CT.nii\0", "control character"),
        ('"ann/CT\n.nii"', "control character"),
        ('"ann/\x1b[2JCT.nii"', "control character"),
        ("~/secret.nii", "does not exist"),
        ("$HOME/secret.nii", "does not exist"),
        ("file:///etc/hostname", "does not exist"),
        ("..\\\\secret.nii", "does not exist"),
        ("%2e%2e/secret.nii", "does not exist"),
    ],
)
def test_no_path_leads_out_of_the_folder_of_the_data(outside, name, words):
    path = outside / "pairs.csv"
    path.write_text(HEADER + f"ann,,{name.format(top=outside.parent)}\n")
    message = refusal(manifest.read_csv, path)
    assert words in message and message.isprintable(), message


def test_a_link_within_the_data_and_a_wider_root_are_used(outside):
    path = outside / "pairs.csv"
    path.write_text(HEADER + "ann,,ann/own.nii\nbob,,../secret.nii\n")
    with pytest.raises(errors.DataError, match="secret"):
        manifest.read_csv(path)
    assert len(manifest.read_csv(path, outside.parent)) == 2


def test_no_link_that_a_pattern_finds_leads_out(outside):
    with pytest.raises(errors.DataError, match="link.nii.*--data_root"):
        manifest.match_globs(outside, [], "ann/link.nii")
    assert manifest.match_globs(
        outside, [], "ann/link.nii", data_root=outside.parent
    )


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    assert "no.csv cannot be read" in refusal(
        manifest.read_csv, tmp_path / "no.csv"
    )


def test_a_link_that_leads_to_itself_does_not_exist(study, tmp_path):
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    path = study(HEADER + "ann,,loop.nii\n")
    assert "does not exist" in refusal(manifest.read_csv, path)


def test_patterns_pair_the_files_of_each_folder(study, tmp_path):
    pairs = manifest.match_globs(tmp_path, ["*/MR.nii"], "*/CT.nii")
    assert [pair.patient for pair in pairs] == ["ann", "bob"]
    assert all(pair.sources[0].name == "MR.nii" for pair in pairs)
    assert all(pair.patient in pair.target.parts for pair in pairs)


def test_without_a_source_pattern_every_source_is_simulated(study, tmp_path):
    pairs = manifest.match_globs(tmp_path, [], "*/CT.nii")
    assert [pair.sources for pair in pairs] == [(), ()]


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("*/PET.nii", "*/CT.nii", "No file .* matches \\*/PET.nii"),
        ("ann/MR.nii", "*/CT.nii", "Patient bob has a file for \\*/CT.nii and"),
        ("*/*.nii", "*/CT.nii", "Patient ann has several files"),
        ("*/CT.nii", "*/CT.nii", "twice"),
        ("/*/MR.nii", "*/CT.nii", "'/\\*/MR.nii' is not usable"),
        ("", "*/CT.nii", "'' is not usable"),
    ],
)
def test_patterns_that_do_not_pair_are_refused(
    study, tmp_path, source, target, words
):
    with pytest.raises(errors.DataError, match=words):
        manifest.match_globs(tmp_path, [source], target)


def test_an_input_folder_that_is_not_there_is_refused(tmp_path):
    message = refusal(manifest.match_globs, tmp_path / "no", [], "*.nii")
    assert "is not a folder" in message


@pytest.mark.parametrize("column", ["Split", "source2", "CT", "Study", "side"])
def test_a_column_that_is_nearly_one_of_ours_is_refused(study, column):
    path = study(f"patient,source,target,{column}\nann,,ann/CT.nii,x\n")
    assert "looks like" in refusal(manifest.read_csv, path)


def test_further_columns_are_channels_studies_ct_and_split(study, tmp_path):
    path = study(
        "patient,study,source,source_2,target,ct,split\n"
        "ann,1,ann/MR.nii,p001/T1.nii,ann/CT.nii,,train\n"
        "bob,,,,bob/CT.nii,bob/MR.nii,test\n"
    )
    first, second = manifest.read_csv(path)
    assert [p.name for p in first.sources] == ["MR.nii", "T1.nii"]
    assert (first.name, first.ct, first.split) == ("1", None, "train")
    assert (second.ct, second.split) == (tmp_path / "bob" / "MR.nii", "test")
    path = study("patient,source,source_2,target\nann,ann/MR.nii,,ann/CT.nii\n")
    assert "2 sources are wanted, 1 are there" in refusal(
        manifest.read_csv, path
    )


def test_several_matches_of_a_patient_are_studies_by_folder(tmp_path):
    for session in ("s1", "s2"):
        folder = tmp_path / "ann" / session / "anat"
        folder.mkdir(parents=True)
        for name in ("MR.nii", "CT.nii"):
            (folder / name).touch()
    found = manifest.match_globs(tmp_path, ["*/*/*/MR.nii"], "*/*/*/CT.nii")
    assert [study.name for study in found] == ["s1_anat", "s2_anat"]
    (tmp_path / "ann" / "s2" / "anat" / "CT.nii").unlink()
    message = refusal(
        manifest.match_globs, tmp_path, ["*/*/*/MR.nii"], "*/*/*/CT.nii"
    )
    assert "in one folder" in message


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    name = os.fsdecode(b"M\xfcller")
    (tmp_path / name).mkdir()
    (tmp_path / name / "CT.nii").touch()
    assert "not UTF-8" in refusal(
        manifest.match_globs, tmp_path, [], "*/CT.nii"
    )
