"""Makes the attenuation map of a PET from a CT, real or synthetic.

INPUT is a CT in HU: NIfTI, MHA, NRRD or a folder of DICOM. OUTPUT holds 1/cm
at 511 keV; a name that ends in .hv gives Interfile (header .hv, values .v) for
STIR, SIRF and CASToR, any other what predict.py writes. For technical work on
PET reconstruction, not for diagnosis.

Examples:
  mumap.py --like=pet/ --remove_bed ct/ mu.hv
  mumap.py --kvp=120 --like=pet.nii.gz synthetic_ct.nii.gz mu.nii.gz
"""

from __future__ import annotations

import os

from absl import flags

from medgan_tf import errors
from medgan_tf.tools import _run

_TABLE = flags.DEFINE_enum(
    "table",
    "carney",
    ["carney", "ge"],
    "From HU to attenuation: Carney et al. 2006 (80, 100, 110, 120, 130 and "
    "140 kV) or GE, as published in STIR (100, 120 and 140 kV).",
)
_KVP = flags.DEFINE_float(
    "kvp",
    None,
    "Peak voltage of the CT's tube in kV. DICOM says it itself; for a "
    "synthetic CT, that of the CTs from which the model learnt.",
)
_LIKE = flags.DEFINE_string(
    "like", None, "The PET on whose voxels OUTPUT lies; without it, INPUT's."
)
_FWHM = flags.DEFINE_float(
    "fwhm_mm",
    4.5,
    "Sharpness of OUTPUT, that of the PET scanner: full width at half maximum "
    "in mm. 0 blurs only as far as the voxels of --like demand.",
    lower_bound=0.0,
)
_REMOVE_BED = flags.DEFINE_bool(
    "remove_bed",
    False,
    "Whether all but the body becomes air. For a CT whose bed is not that of "
    "the PET; the bed of the PET attenuates too.",
)
_POSITION = flags.DEFINE_enum(
    "patient_position",
    None,
    ["HFS", "HFP", "FFS", "FFP"],
    "For Interfile: how the patient lay, head or feet first, supine or prone. "
    "DICOM says it itself.",
)


def main(arguments: list[str]) -> None:
    from medgan_tf.data import io, preprocess
    from medgan_tf.serving import mumap

    source, output = arguments
    for name, path in (("INPUT", source), ("--like", _LIKE.value)):
        if path and os.path.realpath(path) == os.path.realpath(output):
            raise errors.UsageError(
                f"{name} and OUTPUT are both {path}; expected another name for "
                "OUTPUT, so that the image is kept."
            )
    mumap.check_writable(output)
    of_ct = mumap.header_of(source)
    of_pet = mumap.header_of(_LIKE.value) if _LIKE.value else mumap.Said()
    if of_ct.modality not in (None, "CT"):
        raise errors.refusal(
            source, f"a series of {of_ct.modality}", "CT", "choose the CT"
        )
    kilovolts = _agreed("kvp", _KVP.value, of_ct.kilovolts, source)
    position = None
    if mumap.is_interfile(output):
        position = _agreed(
            "patient_position",
            _POSITION.value,
            of_pet.position or of_ct.position,
            _LIKE.value or source,
        )
    grid = of_pet.grid
    if _LIKE.value and grid is None:
        pet = io.read_volume(_LIKE.value)
        grid = preprocess.Grid(pet.shape, pet.affine)
    mu = mumap.make(
        io.read_volume(source),
        kilovolts=kilovolts,
        table=_TABLE.value,
        grid=grid,
        fwhm_mm=_FWHM.value,
        remove_bed=_REMOVE_BED.value,
    )
    if position:
        mumap.write_interfile(output, mu, position=position)
    else:
        io.write_volume(output, mu, like=_LIKE.value or source)
    print(
        f"{output}: 1/cm at 511 keV, {mu.array.min():.4g} to "
        f"{mu.array.max():.4g}, {' x '.join(map(str, mu.shape))} voxels, by "
        f"table {_TABLE.value} at {kilovolts:g} kV"
        + (f", for a patient who lay {position}" if position else "")
    )


def _agreed(flag: str, given, said, where: str):
    """What a flag or a header says, or both alike.

    Raises:
      UsageError: neither does, or they differ.
    """
    if given is None and said is None:
        raise errors.UsageError(
            f"--{flag} is required, because {where} does not say it."
        )
    if None not in (given, said) and given != said:
        raise errors.UsageError(
            f"--{flag} is {given}, but the header of {where} says {said}; "
            "leave the flag out, or correct the header."
        )
    return said if given is None else given


def run() -> None:
    _run.run(main, positional=("INPUT", "OUTPUT"))


if __name__ == "__main__":
    run()
