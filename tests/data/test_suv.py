"""SUV worked out by hand for each unit, vendor and rule of decay.

The nuclide has a half-life of one hour, and 400 MBq were injected into 80 kg
at 10:00: at 11:00 200 MBq are left, and the factor is 80 000 g / 200 MBq.
"""

import pydicom
import pytest

from medgan_tf import errors
from medgan_tf.data import suv

AT_INJECTION, AT_ELEVEN = 2e-4, 4e-4  # g/mL for each Bq/mL


def header(drug=None, **fields):
    """One slice in Bq/mL, the scan from 11:00, decay corrected to START."""
    drug = {
        "RadionuclideTotalDose": "4E8",
        "RadionuclideHalfLife": "3600",
        "RadiopharmaceuticalStartTime": "100000",
        **(drug or {}),
    }
    fields = {
        "Units": "BQML",
        "DecayCorrection": "START",
        "CorrectedImage": ["ATTN", "DECY", "SCAT"],
        "PatientWeight": "80",
        "SeriesDate": "20260301",
        "SeriesTime": "110000",
        "AcquisitionDate": "20260301",
        "AcquisitionTime": "110000.00",
        "RadiopharmaceuticalInformationSequence": [dataset(drug)],
        **fields,
    }
    return dataset(fields)


def dataset(fields):
    found = pydicom.Dataset()
    for name, value in fields.items():
        if value is not None:
            setattr(found, name, value)
    return found


def private(image, block, offset, kind, value):
    image.private_block(*block, create=True).add_new(offset, kind, value)
    return image


def factor(*images):
    return suv.suvbw_factor(images, "pet")


@pytest.mark.parametrize("kind", [None, "BW"])
def test_grams_per_millilitre_by_body_weight_are_suv_already(kind):
    assert factor(dataset({"Units": "GML", "SUVType": kind})) == 1


def test_activity_at_the_start_of_the_scan_meets_the_dose_left_then():
    assert factor(header()) == pytest.approx(AT_ELEVEN)


def test_activity_at_the_injection_meets_the_whole_dose():
    image = header(DecayCorrection="ADMIN")
    assert factor(image) == pytest.approx(AT_INJECTION)


def test_later_beds_are_corrected_to_the_start_of_the_series():
    beds = [header(AcquisitionTime=f"11{m:02}00") for m in (9, 6, 3)]
    assert factor(*beds) == pytest.approx(AT_ELEVEN)


def test_a_series_made_after_the_scan_is_asked_for_ge_s_own_time():
    image = header(SeriesTime="180000", AcquisitionTime="110600")
    ge = (0x0009, "GEMS_PETD_01")
    private(image, ge, 0x0D, "DT", "20260301110000.00")
    assert factor(image) == pytest.approx(AT_ELEVEN)


def test_a_series_made_after_the_scan_is_counted_back_from_its_first_bed():
    # Over a frame of one half-life from 1 to 1/2, the mean activity is
    # 1 / (2 ln 2) = 0.72135, which it is after 3600 * log2(1 / 0.72135) s.
    into_frame = 1696.44
    late = {"SeriesTime": "180000", "ActualFrameDuration": "3600000"}
    first, second = (
        header(
            AcquisitionTime=f"{11 + bed}1000",
            FrameReferenceTime=f"{1000 * (600 + 3600 * bed + into_frame):.0f}",
            **late,
        )
        for bed in (0, 1)
    )
    assert factor(second, first) == pytest.approx(AT_ELEVEN, rel=1e-5)
    assert factor(second) == pytest.approx(AT_ELEVEN, rel=1e-5)


def test_midnight_between_injection_and_scan_is_passed():
    scan = {"SeriesTime": "003000", "AcquisitionTime": "003000"}
    before = {"RadiopharmaceuticalStartTime": "233000"}
    assert factor(header(before, **scan)) == pytest.approx(AT_ELEVEN)
    dated = {"RadiopharmaceuticalStartDateTime": "20260228233000"}
    assert factor(header(dated, **scan)) == pytest.approx(AT_ELEVEN)


def test_the_date_of_the_injection_decides_for_a_nuclide_of_long_life():
    # Two half-lives of a day: a quarter of the dose is left.
    drug = {"RadionuclideHalfLife": "86400"}
    with pytest.raises(
        errors.DataError, match="no RadiopharmaceuticalStartDateTime"
    ):
        factor(header(drug))
    drug["RadiopharmaceuticalStartDateTime"] = "20260227110000"
    assert factor(header(drug)) == pytest.approx(4 * AT_INJECTION)


def test_a_time_in_another_zone_is_refused():
    drug = {"RadiopharmaceuticalStartDateTime": "20260301100000+0100"}
    with pytest.raises(errors.DataError, match="one zone"):
        factor(header(drug))
    image = header(drug, TimezoneOffsetFromUTC="+0100")
    assert factor(image) == pytest.approx(AT_ELEVEN)


PHILIPS = (0x7053, "Philips PET Private Group")


def test_counts_of_philips_take_its_suv_factor():
    image = private(header(Units="CNTS"), PHILIPS, 0x00, "DS", "0.0005")
    private(image, PHILIPS, 0x09, "DS", "7")
    assert factor(image) == 0.0005


@pytest.mark.parametrize("unknown", [None, "0"])
def test_counts_of_philips_else_become_activity(unknown):
    image = private(header(Units="CNTS"), PHILIPS, 0x09, "DS", "2.5")
    if unknown:
        private(image, PHILIPS, 0x00, "DS", unknown)
    assert factor(image) == pytest.approx(2.5 * AT_ELEVEN)


def test_counts_of_anybody_else_are_refused():
    with pytest.raises(errors.DataError, match=r"\(7053,xx00\)"):
        factor(header(Units="CNTS"))


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "Units",
        "DecayCorrection",
        "CorrectedImage",
        "PatientWeight",
        "SeriesDate",
        "SeriesTime",
        "AcquisitionDate",
        "AcquisitionTime",
        "RadiopharmaceuticalInformationSequence",
        "RadionuclideTotalDose",
        "RadionuclideHalfLife",
        "RadiopharmaceuticalStartTime",
    ],
)
def test_a_missing_field_is_named(name, empty):
    image = header()
    for place in (image, image.RadiopharmaceuticalInformationSequence[0]):
        if name in place and empty:
            place[name].value = [] if place[name].VR == "SQ" else None
        elif name in place:
            del place[name]
    with pytest.raises(errors.DataError, match=f"no {name}"):
        factor(image)


@pytest.mark.parametrize("name", ["FrameReferenceTime", "ActualFrameDuration"])
def test_what_counting_back_needs_is_named(name):
    fields = {"FrameReferenceTime": "1", "ActualFrameDuration": "1000"}
    fields[name] = None
    with pytest.raises(errors.DataError, match=f"no {name}"):
        factor(header(SeriesTime="180000", **fields))


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"Units": "CM2ML"}, "Units CM2ML"),
        ({"Units": "GML", "SUVType": "LBM"}, "SUVType LBM"),
        ({"DecayCorrection": "NONE"}, "DecayCorrection NONE"),
        ({"CorrectedImage": ["DECY"]}, "without ATTN"),
        ({"CorrectedImage": "ATTN"}, "without DECY"),
        ({"PatientWeight": "0"}, "PatientWeight 0"),
        ({"PatientWeight": "80000"}, "PatientWeight 80000"),
        ({"drug": {"RadionuclideTotalDose": "400"}}, "TotalDose 400"),
        # After the scan, and more than ten half-lives before it.
        ({"drug": {"RadiopharmaceuticalStartTime": "111500"}}, "StartTime"),
        (
            {"drug": {"RadiopharmaceuticalStartDateTime": "19000101100000"}},
            "StartDateTime",
        ),
    ],
)
def test_what_cannot_be_made_into_suv_or_be_right_is_refused(fields, found):
    with pytest.raises(errors.DataError, match=found):
        factor(header(**fields))


def test_slices_that_disagree_are_refused():
    with pytest.raises(errors.DataError, match="differ in PatientWeight"):
        factor(header(), header(PatientWeight="81"))
    one, other = (
        private(header(Units="CNTS"), PHILIPS, 0x00, "DS", value)
        for value in ("1", "2")
    )
    with pytest.raises(errors.DataError, match="7053,xx00"):
        factor(one, other)
