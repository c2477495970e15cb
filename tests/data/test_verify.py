"""Each way to damage an image is told by its code; a right one is left alone.

The report is text and a page that needs nothing else and runs no one's words.
"""

import html.parser
import pathlib

import nibabel as nib
import numpy as np
import pytest

from medgan_tf import errors, tasks
from medgan_tf.data import (
    manifest,
    pairs,
    phantom,
    verify,
    verify_cohort,
    verify_report,
)

KEEP = (None, None, None)
MR_CT = tasks.adapted(tasks.TASKS["mr_ct"], voxel_size_mm=KEEP)
PET_CT = tasks.adapted(tasks.TASKS["pet_ct"], voxel_size_mm=KEEP)
SARCOMA = pathlib.Path(__file__).parents[3] / "shared" / "data" / "sarcoma"


@pytest.fixture(scope="module")
def images():
    return phantom.patient(3, shape=(44, 40, 6), spacing=(8.0, 8.0, 8.0))


@pytest.fixture
def save(tmp_path, images):
    """Writes a study; `change` is (role, function of array and affine)."""

    def write(source="MR", change=None, patient="ann"):
        paths = []
        for role, name in (("source", source), ("target", "CT")):
            volume = images[name]
            array, affine = volume.array.copy(), volume.affine.copy()
            if change and change[0] == role:
                array, affine = change[1](array, affine)
            paths.append(tmp_path / patient / f"{role}.nii")
            paths[-1].parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), paths[-1])
        return manifest.Study(patient, (paths[0],), paths[1])

    return write


def check(study, task=MR_CT):
    return verify.check_study(task, pairs.Options(), study)


def codes(findings):
    return [finding.code for finding in findings]


def test_a_right_pair_gives_numbers_and_no_finding(save, images):
    report = check(save())
    assert report.findings == ()
    source, target = report.images
    assert (source.role, source.modality) == ("source", "MR")
    assert target.shape == (44, 40, 6)
    assert target.spacing == pytest.approx((8, 8, 8))
    assert target.low == images["CT"].array.min()
    assert (report.overlap, report.same_grid) == (1, True)
    assert (report.num_slices, report.num_dropped) == (6, 0)
    captions = [caption for caption, _ in report.pictures]
    assert captions[:2] == ["source MR", "target CT"]
    assert all(png.startswith(b"\x89PNG") for _, png in report.pictures)


def blank(value, *slices):
    def change(array, affine):
        array[:, :, list(slices)] = value
        return array, affine

    return change


def repeat(array, affine):
    array[:, :, 3] = array[:, :, 2]
    return array, affine


def shift(mm):
    def change(array, affine):
        affine[:3, 3] += mm
        return array, affine

    return change


def one_voxel(value):
    def change(array, affine):
        array[2, 3, 1] = value
        return array, affine

    return change


@pytest.mark.parametrize(
    ("source", "role", "change", "expected", "words"),
    [
        ("MR", "source", lambda a, m: (a[::-1], m), "FLIPPED", "exchanged"),
        ("MR", "target", lambda a, m: (a[::-1], m), "FLIPPED", "exchanged"),
        ("MR", "target", lambda a, m: (a + 1024, m), "CT_UNIT", "1024 less"),
        ("MR", "target", lambda a, m: (a * 0 + 7, m), "CONSTANT", "found 7 in"),
        ("MR", "source", lambda a, m: (a - 500, m), "MODALITY", "below 0"),
        ("MR", "source", one_voxel(-999), "RANGE", "down to -999"),
        ("MR", "target", one_voxel(-3024), "RANGE", "-3024 to"),
        ("MR", "target", one_voxel(np.nan), "UNREADABLE", "(2, 3, 1)"),
        ("PET", "source", lambda a, m: (a * 5e3, m), "PET_UNIT", "Bq/mL"),
        ("PET", "source", one_voxel(140), "RANGE", "hot spot"),
        ("MR", "source", blank(0, 3), "FLAT_SLICES", "slices 3,"),
        ("MR", "source", repeat, "REPEATED_SLICES", "slices 3 equal"),
        ("MR", "target", shift((16, 0, 0)), "SHIFTED", "(left 16,"),
        ("MR", "target", shift((0, 160, 0)), "PARTIAL", "covers 50%"),
        ("MR", "target", shift((0, 900, 0)), "OVERLAP", "covers 0%"),
        ("MR", "target", blank(-1000, 0, 1, 2, 3), "FEW_SLICES", "2 of 6"),
    ],
)
def test_what_is_wrong_is_told_by_its_code(
    save, source, role, change, expected, words
):
    study = save(source, (role, change))
    findings = check(study, PET_CT if source == "PET" else MR_CT).findings
    assert expected in codes(findings)
    told = next(f for f in findings if f.code == expected)
    assert words in told.text and told.patient == "ann"
    assert any(file.endswith(f"{role}.nii") for file in told.files)
    errors_found = [f for f in findings if f.severity == verify.ERROR]
    is_error = verify.CODES[expected][0] == verify.ERROR
    assert bool(errors_found) == is_error


def test_padding_at_the_ends_is_no_finding(save):
    assert check(save(change=("source", blank(0, 0, 5)))).findings == ()


def test_a_body_larger_than_a_slice_is_told_as_the_preparation_would(save):
    task = tasks.adapted(MR_CT, voxel_size_mm=(0.5, 0.5, None))
    (finding,) = check(save(), task).findings
    assert finding.code == "REFUSED" and "--too_large" in finding.text


def test_a_source_that_is_its_target_is_told(save):
    study = save()
    twice = manifest.Study("ann", (study.target,), study.target)
    task = tasks.adapted(tasks.TASKS["mr_motion"], voxel_size_mm=KEEP)
    assert "SAME_IMAGE" in codes(check(twice, task).findings)


def test_a_study_without_source_is_not_simulated_to_be_verified(save):
    study = manifest.Study("ann", (), save("MR").sources[0])
    task = tasks.TASKS["mr_motion"]
    report = check(study, tasks.adapted(task, voxel_size_mm=KEEP))
    assert report.findings == () and report.alignment is None
    assert report.num_slices == 6 and len(report.pictures) == 1


def test_a_file_that_does_not_say_where_left_is_is_told(save):
    study = save()
    image = nib.load(study.target, mmap=False)
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nib.save(image, study.target)
    assert "PLACE" in codes(check(study).findings)


def study_report(patient, digest, path, **facts):
    image = verify.Image(
        path, "source", "MR", (9, 9, 9), facts.pop("spacing", (1, 1, 3)), 0, 1,
        facts.pop("clipped", 0.0), digest,
    )  # fmt: skip
    return verify.Report(patient, images=(image,), **facts)


def test_equal_voxels_of_two_patients_are_an_error_of_one_a_warning():
    reports = [
        study_report("ann", "x", "a.nii"),
        study_report("bob", "x", "b.nii"),
        study_report("cem", "y", "c1.nii", study="1"),
        study_report("cem", "y", "c2.nii", study="2"),
        study_report("cem", "z", "still.nii", study="3"),
        # The same file: two scans with motion share the still one.
        study_report("cem", "z", "still.nii", study="4"),
    ]
    first, second = verify_cohort.check_cohort(reports)
    assert (first.code, first.files) == ("DUPLICATE", ("a.nii", "b.nii"))
    assert (second.code, second.files) == ("COPY", ("c1.nii", "c2.nii"))


def test_what_is_unlike_the_others_is_told():
    reports = [study_report(f"p{k}", str(k), f"{k}.nii") for k in range(4)]
    assert verify_cohort.check_cohort(reports) == []
    # The same voxels in another order of axes are the same spacing.
    reports.append(study_report("p4", "4", "4.nii", spacing=(3, 1, 1)))
    assert verify_cohort.check_cohort(reports) == []
    reports.append(study_report("p5", "5", "5.nii", spacing=(1, 1, 6)))
    (finding,) = verify_cohort.check_cohort(reports)
    assert (finding.code, finding.patient) == ("SPACING", "p5")


def test_few_patients_like_names_and_clipped_voxels_are_told():
    reports = [
        study_report("STS_2", "a", "a.nii", clipped=0.04),
        study_report("sts2", "b", "b.nii"),
    ]
    found = verify_cohort.check_cohort(reports)
    assert codes(found) == ["NAMES", "FEW_PATIENTS", "CLIPPED"]
    assert "2.0%" in found[-1].text


def test_a_patient_on_two_sides_of_a_manifest_is_an_error():
    sides = [("ann", "train"), ("ann", "test"), ("bob", "test")]
    (finding,) = verify_cohort.check_sides(sides)
    assert (finding.code, finding.patient) == ("TWO_SIDES", "ann")
    assert verify_cohort.check_sides(sides[1:]) == []


def test_the_text_tells_errors_first_and_every_image(save):
    good = check(save())
    bad = check(save(change=("target", lambda a, m: (a + 1024, m))))
    cohort = verify_cohort.check_cohort([good, bad])
    shown = verify_report.text([good, bad], cohort)
    lines = shown.splitlines()
    assert lines[0].startswith("1 error and 1 warning in 2 studies of 1 pat")
    assert shown.index("CT_UNIT") < shown.index("FEW_PATIENTS")
    row = next(line for line in lines if "target CT" in line)
    assert "44 x 40 x 6" in row and "same grid" in row and "6 of 6" in row


def test_the_page_needs_no_other_file_and_runs_no_words(tmp_path, save):
    evil = "<script src=http://x>&\"'"
    finding = verify.Finding("PLACE", evil, evil, evil, (evil,))
    image = verify.Image(evil, evil, evil, (1,), (1,), 0, 1)
    report = verify.Report(
        evil, evil, evil, (image,), (finding,), pictures=((evil, b"png"),)
    )
    path = tmp_path / "report.html"
    verify_report.write_html(path, evil, [check(save()), report], [finding])
    tags, links = set(), []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.add(tag)
            links.extend(
                value for key, value in attributes if key in ("src", "href")
            )

    Parser().feed(path.read_text())
    assert "script" not in tags and "link" not in tags
    assert len(links) == 5
    assert all(link.startswith("data:image/png;base64,") for link in links)
    with pytest.raises(errors.ResourceError, match="cannot be written"):
        verify_report.write_html(tmp_path / "no" / "x.html", "x", [], [])


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.skipif(not SARCOMA.is_dir(), reason=f"{SARCOMA} is not there")
@pytest.mark.parametrize(
    ("patient", "source", "task"),
    [
        ("STS_002", "MR_T1", "mr_ct"),
        ("STS_024", "PET", "pet_ct"),  # Little but a tumour.
    ],
)
def test_real_images_pass_and_flipped_ones_do_not(
    tmp_path, patient, source, task
):
    path = SARCOMA / patient / f"{source}_image.nii.gz"
    target = SARCOMA / patient / "CT_image.nii.gz"
    row = tasks.TASKS[task]
    report = check(manifest.Study(patient, (path,), target), row)
    assert report.findings == ()
    image = nib.load(path)
    flipped = tmp_path / "flipped.nii"
    array = image.get_fdata(dtype=np.float32)[::-1]
    nib.save(nib.Nifti1Image(array, image.affine), flipped)
    report = check(manifest.Study(patient, (flipped,), target), row)
    assert codes(report.findings) == ["FLIPPED"]
