"""What each tissue of a head looks like to CT, FDG-PET and MR.

One row per tissue, one table per way of numbering tissues in a label map. The
numbers are typical of adults, an hour after FDG and at 1.5 T:

- HU: Hounsfield units at 120 kVp as in textbooks of CT; grey matter 37,
  white matter 28, blood 50, fat -100, muscle 55, compact bone above 1000.
- SUV: the cortex of a fasting adult has 6 to 12, white matter a third to a
  quarter of it; the muscles of the eye are always at work.
- T1, T2 and proton density: Kwan et al. 1999 (BrainWeb) for grey and white
  matter; Stanisz et al. 2005 for muscle, blood, optic nerve and cord;
  de Bazelaire et al. 2004 for T1 of fat and marrow; water for CSF. The grey
  nuclei lie between grey and white matter, the more iron the nearer to white.
  T2 of fat is the apparent one: T2w images are trains of echoes by now, and
  in these fat stays bright.

Values differ between studies by a fifth; between patients as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple


class Tissue(NamedTuple):
    """One row.

    Attributes:
      hu: mean in CT, HU.
      suv: mean in FDG-PET, SUV.
      t1_ms: longitudinal relaxation time at 1.5 T, above 0.
      t2_ms: transverse relaxation time, above 0.
      proton_density: relative to water.
      hu_texture: standard deviation within the tissue, HU.
      suv_texture: the same for PET, as a fraction of the mean.
      mr_texture: the same for MR.
      is_mixture: the row stands for voxels of several tissues, which
        `label_map` tells apart by their place.
    """

    hu: float
    suv: float
    t1_ms: float
    t2_ms: float
    proton_density: float
    hu_texture: float
    suv_texture: float
    mr_texture: float
    is_mixture: bool = False


# Tissue by label.
TissueTable = Mapping[int, Tissue]

# fmt: off
#                            HU   SUV    T1    T2    PD  texture HU  SUV   MR
AIR = Tissue(             -1000,   0.0,  1000,     1,  0.00,    0,  0.00,  0.00)

CSF = Tissue(                 8,   0.6,  4000,  2000,  1.00,    1,  0.10,  0.02)
GREY_MATTER = Tissue(        37,   9.5,   833,    83,  0.86,    2,  0.12,  0.03)
WHITE_MATTER = Tissue(       28,   2.7,   500,    70,  0.77,    2,  0.10,  0.03)
CEREBELLAR_GREY = Tissue(    37,   7.5,   820,    83,  0.85,    3,  0.12,  0.06)
CEREBELLAR_WHITE = Tissue(   29,   3.2,   510,    70,  0.77,    2,  0.10,  0.04)
BRAINSTEM = Tissue(          31,   4.6,   560,    74,  0.78,    3,  0.12,  0.05)
THALAMUS = Tissue(           36,   9.0,   690,    76,  0.82,    2,  0.10,  0.04)
CAUDATE = Tissue(            38,  10.0,   800,    80,  0.85,    1,  0.08,  0.03)
PUTAMEN = Tissue(            38,  10.5,   750,    75,  0.84,    1,  0.08,  0.03)
PALLIDUM = Tissue(           37,   6.0,   600,    60,  0.78,    2,  0.08,  0.03)
ACCUMBENS = Tissue(          37,   8.5,   800,    82,  0.85,    1,  0.08,  0.03)
HIPPOCAMPUS = Tissue(        36,   6.5,   840,    86,  0.86,    2,  0.10,  0.04)
AMYGDALA = Tissue(           36,   6.0,   850,    86,  0.86,    2,  0.10,  0.04)
VENTRAL_BRAIN = Tissue(      33,   5.5,   610,    74,  0.80,    2,  0.10,  0.05)
CHOROID_PLEXUS = Tissue(     40,   2.0,  1300,   150,  0.95,    6,  0.15,  0.10)
BRAIN_VESSEL = Tissue(       22,   2.7,  1600,   300,  0.90,    2,  0.10,  0.05)
OLD_LESION = Tissue(         22,   2.2,   750,   110,  0.85,    2,  0.10,  0.05)
OPTIC_NERVE = Tissue(        33,   3.0,   815,    77,  0.80,    2,  0.10,  0.03)
SPINAL_CORD = Tissue(        33,   2.3,   745,    74,  0.80,    2,  0.10,  0.03)
DURA = Tissue(               50,   1.2,  1000,    25,  0.60,    3,  0.10,  0.05)

# Because fresh blood flows into a slab it is bright in T1w gradient echoes,
# and leaves the slice before a spin echo comes: a short T2 stands for that.
ARTERY = Tissue(             48,   1.7,   600,    12,  0.90,    2,  0.05,  0.08)
VEIN = Tissue(               55,   1.7,  1200,    25,  0.90,    3,  0.05,  0.06)

EYE = Tissue(                 8,   0.7,  3500,  1200,  1.00,    1,  0.05,  0.02)
EYE_MUSCLE = Tissue(         55,   4.0,   900,    50,  0.85,    4,  0.10,  0.05)
MUCOSA = Tissue(             40,   2.2,   900,    90,  0.90,   10,  0.15,  0.10)
MUSCLE = Tissue(             55,   0.8,  1008,    44,  0.80,    6,  0.12,  0.07)
FAT = Tissue(              -100,   0.3,   343,   130,  0.80,   10,  0.10,  0.05)
SKIN = Tissue(               30,   0.8,   850,    40,  0.80,   10,  0.10,  0.08)
CONNECTIVE = Tissue(         20,   0.6,   700,    45,  0.80,   15,  0.10,  0.08)
COMPACT_BONE = Tissue(     1350,   0.5,   250,   0.5,  0.15,  130,  0.10,  0.05)
MARROW = Tissue(            430,   1.2,   420,   100,  0.75,  140,  0.15,  0.15)

# What a simulated tumour is made of.
TUMOUR = Tissue(             40,  12.0,  1300,   110,  0.90,    4,  0.15,  0.08)
NECROSIS = Tissue(           16,   1.0,  2200,   400,  0.95,    2,  0.10,  0.04)
OEDEMA = Tissue(             18,   2.2,  1000,   130,  0.90,    2,  0.10,  0.04)

# Muscle, fat and what lies between; skin and the fat under it.
SOFT_TISSUE = MUSCLE._replace(is_mixture=True)
SCALP = SKIN._replace(is_mixture=True)
# fmt: on

BRAIN = (
    GREY_MATTER,
    WHITE_MATTER,
    CEREBELLAR_GREY,
    CEREBELLAR_WHITE,
    BRAINSTEM,
    THALAMUS,
    CAUDATE,
    PUTAMEN,
    PALLIDUM,
    ACCUMBENS,
    HIPPOCAMPUS,
    AMYGDALA,
    VENTRAL_BRAIN,
    OLD_LESION,
)
ORBIT = (EYE, EYE_MUSCLE, OPTIC_NERVE)
BONE = (COMPACT_BONE, MARROW)

# FreeSurfer's numbers, with its extension 502 to 530 for the whole head, as
# in the label maps that SynthSeg was trained on. 136, 137, 163 and 164 are
# named by their place: strands inside the lateral ventricles.
_SYNTHSEG_HEAD: TissueTable = {
    0: AIR,
    2: WHITE_MATTER,
    3: GREY_MATTER,
    4: CSF,  # lateral ventricle
    5: CSF,  # its temporal horn
    7: CEREBELLAR_WHITE,
    8: CEREBELLAR_GREY,
    10: THALAMUS,
    11: CAUDATE,
    12: PUTAMEN,
    13: PALLIDUM,
    14: CSF,  # third ventricle
    15: CSF,  # fourth ventricle
    16: BRAINSTEM,
    17: HIPPOCAMPUS,
    18: AMYGDALA,
    24: CSF,
    25: OLD_LESION,
    26: ACCUMBENS,
    28: VENTRAL_BRAIN,
    30: BRAIN_VESSEL,  # widened spaces round vessels, in the putamen
    41: WHITE_MATTER,
    42: GREY_MATTER,
    43: CSF,
    44: CSF,
    46: CEREBELLAR_WHITE,
    47: CEREBELLAR_GREY,
    49: THALAMUS,
    50: CAUDATE,
    51: PUTAMEN,
    52: PALLIDUM,
    53: HIPPOCAMPUS,
    54: AMYGDALA,
    57: OLD_LESION,
    58: ACCUMBENS,
    60: VENTRAL_BRAIN,
    62: BRAIN_VESSEL,
    72: CSF,  # fifth ventricle
    85: OPTIC_NERVE,  # their crossing
    136: CHOROID_PLEXUS,
    137: CHOROID_PLEXUS,
    163: CHOROID_PLEXUS,
    164: CHOROID_PLEXUS,
    502: ARTERY,
    506: EYE,
    507: SOFT_TISSUE,
    508: EYE_MUSCLE,
    509: MUCOSA,
    511: SCALP,
    512: SPINAL_CORD,
    514: VEIN,
    515: COMPACT_BONE,
    516: MARROW,
    530: OPTIC_NERVE,
}

# The discrete anatomical model of BrainWeb's 20 normal brains.
_BRAINWEB: TissueTable = {
    0: AIR,
    1: CSF,
    2: GREY_MATTER,
    3: WHITE_MATTER,
    4: FAT,
    5: MUSCLE,
    6: SKIN,  # "muscle/skin"
    7: COMPACT_BONE,
    8: VEIN,  # "vessels"
    9: CONNECTIVE,  # "around fat"
    10: DURA,
    11: MARROW,
}

TABLES: dict[str, TissueTable] = {
    "synthseg_head": _SYNTHSEG_HEAD,
    "brainweb": _BRAINWEB,
}


class Contrast(NamedTuple):
    """One MR sequence; without a flip angle it is a spin echo.

    Attributes:
      tr_ms: repetition time.
      te_ms: echo time.
      flip_degrees: of a spoiled gradient echo; None: spin echo.
      gain: scanner units per unit of the equation; brings the brightest
        tissue to about 800.
    """

    tr_ms: float
    te_ms: float
    flip_degrees: float | None
    gain: float


CONTRASTS = {
    # BrainWeb's spoiled FLASH, with a shorter echo.
    "T1w": Contrast(18.0, 4.0, 30.0, 7000.0),
    "T2w": Contrast(4000.0, 90.0, None, 1200.0),
}


def signal(tissue: Tissue, contrast: str) -> float:
    """MR signal of a tissue in scanner units, before coils and noise.

    The spoiled gradient echo (Ernst and Anderson 1966) and the spin echo:

        S = PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE / T2)
        S = PD (1 - E1) exp(-TE / T2),            E1 = exp(-TR / T1).

    Because the gradient echo is short, T2 stands for T2* in it.

    Args:
      tissue: its T1, T2 and proton density.
      contrast: one of CONTRASTS.
    """
    sequence = CONTRASTS[contrast]
    recovery = math.exp(-sequence.tr_ms / tissue.t1_ms)
    steady = 1.0 - recovery
    if sequence.flip_degrees is not None:
        angle = math.radians(sequence.flip_degrees)
        steady *= math.sin(angle) / (1.0 - math.cos(angle) * recovery)
    decay = math.exp(-sequence.te_ms / tissue.t2_ms)
    return sequence.gain * tissue.proton_density * steady * decay
