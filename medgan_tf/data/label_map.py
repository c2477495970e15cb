"""PET, CT and MR of one head, simulated from a map of its real anatomy.

THE IMAGES ARE SIMULATED, the anatomy is a person's. A label map says which
tissue each voxel holds, a table (`tissue_tables`) what that tissue looks like,
and each scanner then sees

    CT = B{HU} + noise,  PET = B{SUV},  MR = |C B{S(T1, T2, PD)} + noise|,

with B the scanner's blur, C the bias field of the receive coils and S the
signal equation (`tissue_tables.signal`). Because blur is linear, to blur the
picture of values is to blur every tissue's share of a voxel: edges get their
partial volume.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from medgan_tf import errors
from medgan_tf.data import tissue_tables
from medgan_tf.data import volume as volumes

TABLES = tissue_tables.TABLES

# Full width at half maximum over the standard deviation of a Gaussian.
FWHM_PER_SIGMA = math.sqrt(8.0 * math.log(2.0))
# Resolution of the scanners, full width at half maximum in mm.
FWHM_MM = {"PET": 5.0, "CT": 1.0, "MR": 1.2}
# The surfaces of a label map are stairs; this blur, common to all three
# images, comes first and makes them slopes. Full width at half maximum, mm.
EDGE_FWHM_MM = 1.3
# Thickness of the skin itself.
SKIN_MM = 2.0
# Islands in the air smaller than this share of the head are air, and smaller
# pockets of air that touch the brain are CSF: mistakes of a segmentation.
ISLAND_SHARE = 0.01
POCKET_ML = 0.1
# Standard deviations of noise at `noise` 1: thin CT slices, HU, and a good
# head coil, scanner units.
NOISE = {"CT": 6.0, "MR": 11.0}


@dataclasses.dataclass(frozen=True)
class Parameters:
    """One patient on three scanners, down to the noise.

    Attributes:
      contrast: of the MR; one of `tissue_tables.CONTRASTS`.
      seed: draws texture, variation, bias field, noise, the sheets of fat and
        the place of the tumour; >= 0.
      uptake: factor on all SUV; blood sugar alone changes it by half.
      bone: factor on the HU of bone.
      asymmetry: uptake at the right side of the head above that at its left,
        as a fraction.
      fat_mm: mean depth of the fat under the skin, where the labels do not
        tell fat from muscle.
      tumour_mm: radius of a tumour that grows somewhere in the white matter;
        0: none.
      variation: standard deviation of each tissue's SUV between patients, as a
        fraction; that of its MR signal is a third.
      texture: factor on the table's texture.
      bias: standard deviation of the logarithm of the MR bias field.
      noise: factor on NOISE.
    """

    contrast: str = "T1w"
    seed: int = 0
    uptake: float = 1.0
    bone: float = 1.0
    asymmetry: float = 0.0
    fat_mm: float = 4.0
    tumour_mm: float = 0.0
    variation: float = 0.08
    texture: float = 1.0
    bias: float = 0.12
    noise: float = 1.0

    def __post_init__(self):
        if self.contrast not in tissue_tables.CONTRASTS:
            raise errors.UsageError(
                f"contrast is {self.contrast!r}, expected one of "
                f"{', '.join(tissue_tables.CONTRASTS)}; choose one of these."
            )
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            lowest = -1.0 if field.name == "asymmetry" else 0.0
            if not (math.isfinite(value) and value >= lowest):
                raise errors.UsageError(
                    f"{field.name} is {value}, expected a finite number >= "
                    f"{lowest:g}; leave it out for {field.default}."
                )


def draw_parameters(
    rng: np.random.Generator,
    *,
    contrast: str = "T1w",
    noise: float = 1.0,
    tumour_probability: float = 0.25,
) -> Parameters:
    """Another patient, and other noise, each time.

    Args:
      rng: draws them.
      contrast: of the MR; one of `tissue_tables.CONTRASTS`.
      noise: factor on the noise of CT and MR, >= 0.
      tumour_probability: share of patients with a tumour, in [0, 1].

    Raises:
      UsageError: an option is out of range.
    """
    if not 0.0 <= tumour_probability <= 1.0:
        raise errors.UsageError(
            f"tumour_probability is {tumour_probability}, expected in [0, 1]; "
            "0 draws healthy heads only."
        )
    has_tumour = rng.random() < tumour_probability
    return Parameters(
        contrast=contrast,
        seed=int(rng.integers(2**31)),
        uptake=float(rng.lognormal(0.0, 0.2)),
        bone=float(rng.uniform(0.88, 1.12)),
        asymmetry=float(rng.normal(0.0, 0.03)),
        fat_mm=float(rng.uniform(2.5, 6.0)),
        tumour_mm=float(has_tumour * rng.uniform(6.0, 15.0)),
        bias=float(rng.uniform(0.05, 0.18)),
        noise=noise,
    )


def apply(
    labels: volumes.Volume,
    table: tissue_tables.TissueTable,
    parameters: Parameters,
) -> dict[str, volumes.Volume]:
    """PET, CT and MR of the head, perfectly aligned.

    Args:
      labels: whole numbers that `table` explains, shape (X, Y, Z), any
        orientation and voxel size; label 0 is air, in the sinuses as well.
        Islands in the air below ISLAND_SHARE of the head count as air, air
        below POCKET_ML that touches the brain as CSF.
      table: the tissue of each label; a row of TABLES.
      parameters: see `Parameters`; equal ones give equal images.

    Returns:
      "PET" (SUV, 5 mm resolution, no counting noise: see `low_count_pet`),
      "CT" (HU, >= -1024) and "MR" (scanner units, 0 to about 1000), float32,
      each on the grid of `labels`.

    Raises:
      DataError: a voxel is not a whole number or not in the table, or all of
        them are air.
    """
    codes = _whole_numbers(labels.array)
    # One stream for each step, so that a tumour leaves the rest as it was.
    rngs = [
        np.random.default_rng(stream)
        for stream in np.random.SeedSequence(parameters.seed).spawn(4)
    ]
    # Air as wide as the widest blur reaches: four of its deviations.
    margin = [math.ceil(9.0 / s) for s in labels.spacing]
    box = _bounding_box(codes, margin)
    tissues, tissue_map = _tissues(codes[box], table)
    head = _Head(labels.affine, labels.spacing, box, tissues, tissue_map)
    _mend(head)
    _split_mixtures(head, parameters, rngs[0])
    _grow_tumour(head, parameters, rngs[1])
    pictures = _pictures(head, parameters, rngs[2])
    return _scan(pictures, head, labels, parameters, rngs[3])


class _Head(NamedTuple):
    """The part of a label map that holds the head.

    Attributes:
      affine: of the whole map.
      spacing: mm.
      box: slices of the whole map, one per axis.
      tissues: rows in use.
      map: uint8, index into `tissues`, the shape of `box`.
    """

    affine: np.ndarray
    spacing: tuple[float, float, float]
    box: tuple[slice, slice, slice]
    tissues: list[tissue_tables.Tissue]
    map: np.ndarray

    def where(self, *tissues: tissue_tables.Tissue) -> np.ndarray:
        """The voxels, bool, that hold one of the tissues."""
        return np.array([t in tissues for t in self.tissues])[self.map]

    def noise(
        self, rng: np.random.Generator, wavelength_mm: float
    ) -> np.ndarray:
        """Smooth noise, float32, mean 0 and variance 1: splines on knots."""
        values = rng.standard_normal(
            [
                math.ceil(2 * n * s / wavelength_mm) + 3
                for n, s in zip(self.map.shape, self.spacing, strict=True)
            ],
            dtype=np.float32,
        )
        for n, s in zip(self.map.shape, self.spacing, strict=True):
            positions = (np.arange(n) + 0.5) * 2 * s / wavelength_mm + 1
            knots = np.arange(values.shape[0])
            t = np.abs(positions[:, None] - knots)
            spline = np.where(
                t < 1, 4 - 6 * t**2 + 3 * t**3, np.maximum(2 - t, 0) ** 3
            )
            # Because a mean of fewer knots varies more: to variance 1.
            spline /= np.sqrt((spline**2).sum(axis=1, keepdims=True))
            # Contracts the first axis and appends it: X, Y, Z come round.
            values = np.tensordot(values, spline.T.astype(np.float32), (0, 0))
        return values


def _whole_numbers(array: np.ndarray) -> np.ndarray:
    """Labels as int32; refuses what is no label map."""
    with np.errstate(invalid="ignore"):
        codes = array.astype(np.int32)
    wrong = codes != array
    if wrong.any():
        raise errors.DataError(
            f"The label map holds {array[wrong][0]}, expected whole numbers "
            "only; resample labels by nearest neighbour."
        )
    if not codes.any():
        raise errors.DataError(
            f"The label map of {array.shape} voxels holds label 0 (air) only, "
            "expected a head; check that this is the label file."
        )
    return codes


def _bounding_box(
    codes: np.ndarray, margin: list[int]
) -> tuple[slice, slice, slice]:
    """Slices round all that is not air, with a margin where there is one."""
    head = ndimage.find_objects((codes != 0).astype(np.uint8))[0]
    return tuple(
        slice(max(inside.start - air, 0), inside.stop + air)
        for inside, air in zip(head, margin, strict=True)
    )


def _tissues(codes: np.ndarray, table: tissue_tables.TissueTable):
    """Distinct tissues of the map and the index of each voxel's, uint8."""
    found, inverse = np.unique(codes, return_inverse=True)
    unknown = [str(label) for label in found if int(label) not in table]
    if unknown:
        raise errors.DataError(
            f"The label map holds label {', '.join(unknown[:8])}, which the "
            f"tissue table of {len(table)} labels does not explain; choose the "
            "table that belongs to the map."
        )
    tissues = list(
        dict.fromkeys(
            [
                tissue_tables.AIR,
                tissue_tables.CSF,
                tissue_tables.MUSCLE,
                tissue_tables.FAT,
                tissue_tables.SKIN,
                tissue_tables.TUMOUR,
                tissue_tables.NECROSIS,
                tissue_tables.OEDEMA,
                *table.values(),
            ]
        )
    )
    index = np.array([tissues.index(table[int(k)]) for k in found], np.uint8)
    return tissues, index[inverse].reshape(codes.shape)


def _mend(head: _Head):
    """Undoes what segmentation leaves: islands in the air, air in the brain.

    The cells of the mastoid are as small as such pockets, but lie in bone.
    """
    air = head.where(tissue_tables.AIR)
    islands, _ = ndimage.label(~air)
    sizes = np.bincount(islands.ravel())
    sizes[0] = 0
    specks = sizes < ISLAND_SHARE * sizes.max()
    specks[0] = False
    head.map[specks[islands]] = head.tissues.index(tissue_tables.AIR)
    pockets, _ = ndimage.label(air)
    sizes_ml = np.bincount(pockets.ravel()) * math.prod(head.spacing) / 1000.0
    inside = head.where(tissue_tables.CSF, *tissue_tables.BRAIN)
    wet = np.zeros(sizes_ml.size, bool)
    wet[pockets[ndimage.binary_dilation(inside)]] = True
    wet[0] = False
    wet &= sizes_ml < POCKET_ML
    head.map[wet[pockets]] = head.tissues.index(tissue_tables.CSF)


def _split_mixtures(
    head: _Head, parameters: Parameters, rng: np.random.Generator
):
    """Tells fat from skin and muscle where one label stands for both.

    Fat lies under the skin, round the eyes and in sheets between muscles.
    """
    where, index = head.where, head.tissues.index
    soft = where(tissue_tables.SOFT_TISSUE)
    scalp = where(tissue_tables.SCALP)
    if not (soft.any() or scalp.any()):
        return
    uneven, layers = head.noise(rng, 40.0), head.noise(rng, 90.0)
    air = where(tissue_tables.AIR)
    orbit = where(*tissue_tables.ORBIT)
    near_orbit = _within(orbit, 6.0, head.spacing)
    fat = scalp & ~_within(air, SKIN_MM, head.spacing)
    depth = parameters.fat_mm * np.exp(0.4 * uneven)
    fat |= soft & (_within(scalp, depth, head.spacing) | near_orbit)
    # Muscles lie in layers: every surface where the noise is a whole number.
    slope = np.sqrt(
        sum(
            np.gradient(2.0 * layers, s, axis=axis) ** 2
            for axis, s in enumerate(head.spacing)
            if layers.shape[axis] > 1
        )
    )
    layers = np.abs(2.0 * layers - np.rint(2.0 * layers))
    fat |= soft & (layers < slope * (0.4 + 0.8 * uneven))
    head.map[soft] = index(tissue_tables.MUSCLE)
    head.map[scalp] = index(tissue_tables.SKIN)
    head.map[fat] = index(tissue_tables.FAT)


def _within(
    region: np.ndarray,
    reach_mm: float | np.ndarray,
    spacing: tuple[float, float, float],
) -> np.ndarray:
    """Voxels, bool, less than `reach_mm` from those of a region."""
    if not region.any():
        return region
    return ndimage.distance_transform_edt(~region, spacing) < reach_mm


def _grow_tumour(head: _Head, parameters: Parameters, rng: np.random.Generator):
    """A ragged tumour in the brain with a dead core and oedema around it."""
    white = head.where(tissue_tables.WHITE_MATTER)
    if parameters.tumour_mm == 0.0 or not white.any():
        return
    seat = rng.choice(np.flatnonzero(white))
    centre = np.unravel_index(seat, head.map.shape)
    offsets = np.ix_(
        *(
            ((np.arange(n) - c) * s).astype(np.float32)
            for n, c, s in zip(
                head.map.shape, centre, head.spacing, strict=True
            )
        )
    )
    radius = np.sqrt(sum(o * o for o in offsets)) + 2.0 * head.noise(rng, 16.0)
    radius /= parameters.tumour_mm
    brain = head.where(*tissue_tables.BRAIN)
    for region, tissue in (
        (white & (radius < 1.6), tissue_tables.OEDEMA),
        (brain & (radius < 1.0), tissue_tables.TUMOUR),
        (brain & (radius < 0.5), tissue_tables.NECROSIS),
    ):
        head.map[region] = head.tissues.index(tissue)


def _pictures(
    head: _Head, parameters: Parameters, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """HU, SUV and MR signal of every voxel of the box, as sharp as the map."""
    tissues, count = head.tissues, len(head.tissues)
    spread = rng.standard_normal((2, count)) * [[1.0], [1.0 / 3.0]]
    spread = np.exp(parameters.variation * spread)
    mean = {
        "CT": [
            t.hu * (parameters.bone if t in tissue_tables.BONE else 1.0)
            for t in tissues
        ],
        "PET": parameters.uptake * spread[0] * [t.suv for t in tissues],
        "MR": spread[1]
        * [tissue_tables.signal(t, parameters.contrast) for t in tissues],
    }
    texture = {
        "CT": [t.hu_texture for t in tissues],
        "PET": mean["PET"] * [t.suv_texture for t in tissues],
        "MR": mean["MR"] * [t.mr_texture for t in tissues],
    }
    # Wavelengths of texture in mm: trabeculae and fibres are fine, metabolism
    # goes by gyrus.
    wavelengths = {"CT": (5.0, 20.0), "PET": (16.0, 45.0), "MR": (7.0, 25.0)}
    pictures = {}
    for name, (fine, coarse) in wavelengths.items():
        grain = head.noise(rng, fine) + head.noise(rng, coarse)
        grain *= np.float32(parameters.texture / math.sqrt(2.0))
        picture = np.asarray(texture[name], np.float32)[head.map]
        picture *= grain
        picture += np.asarray(mean[name], np.float32)[head.map]
        pictures[name] = picture
    pictures["PET"] *= 1.0 + parameters.asymmetry * _rightness(head)
    return pictures


def _rightness(head: _Head) -> np.ndarray:
    """Place from left (-0.5) to right (0.5), 150 mm apart, float32."""
    # Of an affine in RAS+ the first row says how far a step goes to the right.
    right_mm = np.ix_(
        *(
            ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32)
            for n, step in zip(head.map.shape, head.affine[0, :3], strict=True)
        )
    )
    return np.clip(sum(right_mm) / 150.0, -0.5, 0.5)


def _scan(
    pictures: dict[str, np.ndarray],
    head: _Head,
    labels: volumes.Volume,
    parameters: Parameters,
    rng: np.random.Generator,
) -> dict[str, volumes.Volume]:
    """What the scanners make of the pictures: blur, bias field and noise."""
    bias = np.exp(parameters.bias * head.noise(rng, 200.0))
    scans = {}
    for name in ("PET", "CT", "MR"):
        sigma_mm = math.hypot(FWHM_MM[name], EDGE_FWHM_MM) / FWHM_PER_SIGMA
        picture = ndimage.gaussian_filter(
            pictures.pop(name),
            [sigma_mm / s for s in labels.spacing],
            mode="nearest",
        )
        air = tissue_tables.AIR.hu if name == "CT" else 0.0
        scan = np.full(labels.shape, air, np.float32)
        scan[head.box] = picture * bias if name == "MR" else picture
        scans[name] = scan

    def white() -> np.ndarray:
        return rng.standard_normal(labels.shape, dtype=np.float32)

    # The kernel of the reconstruction ties neighbouring pixels together.
    grain = ndimage.gaussian_filter(white(), [0.7 / s for s in labels.spacing])
    grain *= np.float32(NOISE["CT"] * parameters.noise / grain.std())
    scans["CT"] += grain
    # Rice: the magnitude of a signal with noise in both of its channels.
    sigma = np.float32(NOISE["MR"] * parameters.noise)
    scans["MR"] += sigma * white()
    scans["MR"] = np.hypot(scans["MR"], sigma * white())
    np.maximum(scans["CT"], -1024.0, out=scans["CT"])
    np.maximum(scans["PET"], 0.0, out=scans["PET"])
    return {
        name: volumes.Volume(scan, labels.affine.copy())
        for name, scan in scans.items()
    }
