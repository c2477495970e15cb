"""What turns the values of a PET image into SUV, the standardised uptake.

    SUVbw [g/mL] = activity [Bq/mL] * weight [g] / dose left [Bq]

The rules are those of the Quantitative Imaging Biomarkers Alliance
("vendor-neutral pseudo-code for SUV calculation") and of DICOM PS3.3 C.8.9.
A field that is missing is refused by its name, never guessed.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence

import pydicom
from pydicom import valuerep

from medgan_tf import errors

# An injection longer ago than this leaves a thousandth of the dose: then a
# date is wrong.
MAX_HALF_LIVES = 10

# Vendors' blocks: group, name of the creator.
_GE = (0x0009, "GEMS_PETD_01")
_PHILIPS = (0x7053, "Philips PET Private Group")

# What all slices of one series have to agree on.
_SHARED = (
    "Units SUVType DecayCorrection CorrectedImage PatientWeight "
    "RadiopharmaceuticalInformationSequence"
).split()


def suvbw_factor(images: Sequence[pydicom.Dataset], where: object) -> float:
    """The factor from rescaled values to SUV by body weight.

    The rescale slope, which may differ from slice to slice, is the caller's
    work: SUVbw = (stored * slope + intercept) * factor.

    By Units (0054,1001):
      GML: 1, if SUVType (0054,1006) is BW or absent, which means BW.
      BQML: weight / dose left at the time that the activity is corrected to.
        DecayCorrection ADMIN: the injection. START: the start of the scan,
        see `scan_start`. NONE is refused.
      CNTS: the SUV factor of Philips (7053,xx00); where it is absent or 0,
        the activity factor of Philips (7053,xx09), then as BQML.
      Any other, such as CM2ML: refused.

    BQML and CNTS must be corrected for attenuation and decay
    (CorrectedImage, 0028,0051, holds ATTN and DECY).

    Args:
      images: headers of all slices of one PET series.
      where: the series, for the message.

    Returns:
      g/mL for each unit of the rescaled values, above 0.

    Raises:
      DataError: a field is missing or cannot be right, the slices disagree,
        or the values cannot be made into SUVbw.
    """
    image = images[0]
    _check_agreement(images, where)
    units = _text(image, "Units", where)
    if units == "GML":
        if image.get("SUVType") not in (None, "", "BW"):
            raise _refused(where, f"SUVType {image.SUVType}", "BW")
        return 1.0
    if units not in ("BQML", "CNTS"):
        raise _refused(where, f"Units {units}", "GML, BQML or CNTS")
    corrections = _text(image, "CorrectedImage", where).split("\\")
    for correction in ("ATTN", "DECY"):
        if correction not in corrections:
            raise _refused(
                where,
                f"CorrectedImage without {correction}",
                "activity corrected for attenuation and decay",
            )
    if units == "BQML":
        return _factor_of_activity(images, where)
    to_suv = _philips(image, 0x00)
    if to_suv:
        return to_suv
    to_activity = _philips(image, 0x09)
    if to_activity:
        return to_activity * _factor_of_activity(images, where)
    raise _missing(
        where, "Philips' factors (7053,xx00) and (7053,xx09), Units being CNTS"
    )


def scan_start(
    images: Sequence[pydicom.Dataset], half_life: float, where: object
) -> datetime.datetime:
    """The time to which DecayCorrection START corrects.

    1. SeriesDate and SeriesTime, unless a slice was acquired before: then the
       series was made after the scan and says when that was.
    2. GE: the scan's own time (0009,xx0D).
    3. Counted back from the first slice to be acquired: FrameReferenceTime
       (0054,1300) is the time from the scan's start to the moment at which
       the activity was the mean of its frame, which is
       ln(x / (1 - exp(-x))) / lambda into the frame, where
       x = lambda * ActualFrameDuration (0018,1242), lambda = ln 2 / half-life.

    Args:
      images: headers of all slices of one series.
      half_life: of the nuclide, s.
      where: the series, for the message.

    Raises:
      DataError: a field is missing.
    """
    acquired = [
        _time(image, "AcquisitionDate", "AcquisitionTime", where)
        for image in images
    ]
    start = _time(images[0], "SeriesDate", "SeriesTime", where)
    if start <= min(acquired):
        return start
    ge = _private(images[0], _GE, 0x0D)
    if ge:
        return _date_time(images[0], "GE scan time (0009,xx0D)", ge, where)
    earliest = acquired.index(min(acquired))
    image = images[earliest]
    rate = math.log(2) / half_life
    reference = _number(image, "FrameReferenceTime", where, 0) / 1000
    x = rate * _number(image, "ActualFrameDuration", where, 1) / 1000
    mean = math.log(x / -math.expm1(-x)) / rate
    return acquired[earliest] + datetime.timedelta(seconds=mean - reference)


def _factor_of_activity(
    images: Sequence[pydicom.Dataset], where: object
) -> float:
    """The factor from Bq/mL to g/mL."""
    image = images[0]
    correction = _text(image, "DecayCorrection", where)
    if correction not in ("START", "ADMIN"):
        raise _refused(where, f"DecayCorrection {correction}", "START or ADMIN")
    # Ranges from mice to men: what is outside is in another unit.
    weight_kg = _number(image, "PatientWeight", where, 0.005, 500)
    drugs = image.get("RadiopharmaceuticalInformationSequence") or []
    if len(drugs) > 1:
        raise _refused(where, f"{len(drugs)} radiopharmaceuticals", "one")
    if not drugs:
        raise _missing(where, "RadiopharmaceuticalInformationSequence")
    dose = _number(drugs[0], "RadionuclideTotalDose", where, 1e5, 1e11)
    if correction == "START":
        half_life = _number(drugs[0], "RadionuclideHalfLife", where, 1)
        start = scan_start(images, half_life, where)
        delay = _delay(image, drugs[0], start, half_life, where)
        dose *= 2 ** (-delay / half_life)
    return 1000 * weight_kg / dose


def _delay(image, drug, start, half_life: float, where: object) -> float:
    """Seconds from the injection to the start of the scan.

    Without a date of the injection, it is the one day that makes the delay
    possible; where the nuclide lives so long that several do, it is refused.
    """
    name = "RadiopharmaceuticalStartDateTime"
    if drug.get(name):
        injected = _date_time(image, name, drug.get(name), where)
        delays = [(start - injected).total_seconds()]
    else:
        name = "RadiopharmaceuticalStartTime"
        clock = _parsed(drug, name, valuerep.TM, where)
        same_day = datetime.datetime.combine(start.date(), clock)
        seconds = (start - same_day).total_seconds()
        delays = [seconds + days * 86400 for days in range(3)]
    most = MAX_HALF_LIVES * half_life
    possible = [delay for delay in delays if 0 <= delay <= most]
    if len(possible) > 1:
        raise _missing(where, "RadiopharmaceuticalStartDateTime")
    if not possible:
        raise _refused(
            where,
            f"{name} {drug.get(name)}, the scan's start being {start}",
            f"an injection at most {MAX_HALF_LIVES} half-lives earlier",
        )
    return possible[0]


def _check_agreement(images: Sequence[pydicom.Dataset], where: object) -> None:
    for name in _SHARED:
        if any(image.get(name) != images[0].get(name) for image in images):
            raise _refused(where, f"slices that differ in {name}", "one value")
    for offset in (0x00, 0x09):
        factors = {_philips(image, offset) for image in images}
        if len(factors) > 1:
            raise _refused(
                where,
                f"slices that differ in Philips' (7053,xx{offset:02X})",
                "one value",
            )


def _private(image: pydicom.Dataset, block: tuple[int, str], offset: int):
    """A vendor's value, or None."""
    try:
        return image.private_block(*block)[offset].value
    except KeyError:
        return None


def _philips(image: pydicom.Dataset, offset: int) -> float | None:
    """A factor of Philips; None where it is absent or says "unknown", 0."""
    try:
        value = float(_private(image, _PHILIPS, offset) or 0)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def _text(image: pydicom.Dataset, name: str, where: object) -> str:
    value = image.get(name)
    if value is None or value == "" or value == []:
        raise _missing(where, name)
    return value if isinstance(value, str) else "\\".join(map(str, value))


def _number(
    image: pydicom.Dataset,
    name: str,
    where: object,
    low: float,
    high: float = math.inf,
) -> float:
    value = _parsed(image, name, float, where)
    if not (math.isfinite(value) and low <= value <= high):
        raise _refused(where, f"{name} {value:g}", f"{low:g} to {high:g}")
    return value


def _time(image, date: str, time: str, where: object) -> datetime.datetime:
    return datetime.datetime.combine(
        _parsed(image, date, valuerep.DA, where),
        _parsed(image, time, valuerep.TM, where),
    )


def _date_time(image, name: str, value, where: object) -> datetime.datetime:
    """A DT, in the clock of the series."""
    zone = image.get("TimezoneOffsetFromUTC")
    try:
        time = datetime.datetime.fromisoformat(
            valuerep.DT(str(value)).isoformat()
        )
    except (ValueError, AttributeError) as error:
        raise _refused(where, f"{name} {value}", "date and time") from error
    if time.tzinfo and time.strftime("%z") != zone:
        raise _refused(
            where,
            f"{name} {value} with TimezoneOffsetFromUTC {zone}",
            "times in one zone",
        )
    return time.replace(tzinfo=None)


def _parsed(image: pydicom.Dataset, name: str, kind, where: object):
    """A single value made into `kind`."""
    try:
        value = image.get(name)
        parsed = None if value is None or value == "" else kind(value)
    except (TypeError, ValueError) as error:
        raise _refused(where, f"an unreadable {name}", "one value") from error
    if parsed is None:
        raise _missing(where, name)
    return parsed


def _missing(where: object, name: str) -> errors.DataError:
    return errors.refusal(
        where,
        f"no {name}",
        "it in the header of a PET series, because SUV depends on it",
        "add it, or export SUV by body weight",
    )


def _refused(where: object, found: str, expected: str) -> errors.DataError:
    return errors.refusal(
        where,
        # Because a damaged field may be as long as its file.
        found[:200],
        expected,
        "correct the header, or export SUV by body weight",
    )
