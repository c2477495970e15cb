"""Simulated patients, so that everything runs before any real image is here.

THESE ARE NOT PATIENTS. A head or a torso is built from superellipsoids with
random sizes, folded and bent by smooth noise; each tissue then gets the value
that it has in CT, in FDG-PET and in T1-weighted MR. So the three images of a
patient agree in anatomy and differ in physics, as a scanner's do. A score on
them shows that the software works, never how well a method treats people.

Positions are mm in an adult's body: x to the left, y to the back, z to the
head (LPS, DICOM's axes), with 0 in the middle of the brain or below the
diaphragm.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from medgan_tf import errors
from medgan_tf.data import volume as volumes


class Tissue(NamedTuple):
    """What one tissue looks like: HU, SUV an hour after FDG, T1w MR signal."""

    hu: float
    suv: float
    mr: float


AIR = Tissue(-1000, 0.0, 0)
SKIN = Tissue(40, 0.6, 420)
FAT = Tissue(-100, 0.3, 880)
MUSCLE = Tissue(55, 0.7, 400)
CORTICAL_BONE = Tissue(1350, 0.6, 30)
SPONGY_BONE = Tissue(260, 1.1, 620)
CARTILAGE = Tissue(90, 0.6, 300)
WATER = Tissue(8, 0.7, 130)
GREY_MATTER = Tissue(38, 9.0, 500)
WHITE_MATTER = Tissue(28, 2.9, 680)
BRAINSTEM = Tissue(30, 4.5, 620)
BLOOD = Tissue(45, 1.7, 260)
LUNG = Tissue(-820, 0.45, 40)
LIVER = Tissue(60, 2.5, 560)
SPLEEN = Tissue(50, 2.0, 400)
KIDNEY = Tissue(35, 3.5, 430)
URINE = Tissue(5, 10.0, 150)
BOWEL = Tissue(35, 1.6, 380)
OEDEMA = Tissue(18, 2.0, 400)
TUMOUR = Tissue(42, 11.0, 340)

# Sharpness of the scanners: full width at half maximum over 2.355, in mm.
SIGMA_MM = {"PET": 5.0 / 2.355, "CT": 1.0 / 2.355, "MR": 1.2 / 2.355}


def patient(
    seed: int,
    *,
    shape: tuple[int, int, int] = (128, 128, 24),
    spacing: tuple[float, float, float] = (2.0, 2.0, 4.0),
) -> dict[str, volumes.Volume]:
    """PET, CT and MR of one simulated patient, perfectly aligned.

    Args:
      seed: the patient, >= 0; even numbers are heads, odd ones torsos. The
        same field of view at another voxel size shows the same anatomy.
      shape: voxels (X, Y, Z), axes LPS.
      spacing: mm. A body wider than the field of view is made smaller.

    Returns:
      "PET" (SUV, 5 mm resolution, no counting noise: see `low_count_pet`),
      "CT" (HU) and "MR" (0 to about 1000), each float32 on one grid.

    Raises:
      UsageError: the seed is negative or the grid is empty.

    Example:
      >>> patient(0, shape=(64, 64, 4), spacing=(4.0, 4.0, 8.0))["CT"].shape
      (64, 64, 4)
    """
    if seed < 0 or min(shape) < 1 or min(spacing) <= 0.0:
        raise errors.UsageError(
            f"The phantom's seed is {seed}, shape {shape}, spacing {spacing}, "
            "expected seed >= 0, at least one voxel and spacing above 0 mm."
        )
    rng = np.random.default_rng(seed)
    middle_mm, size_mm, draw = (
        (rng.uniform(14, 28), 2 * 112.0, _draw_head),
        (rng.uniform(-45, 45), 2 * 180.0, _draw_torso),
    )[seed % 2]
    scale = min(
        1.0, min(shape[0] * spacing[0], shape[1] * spacing[1]) / size_mm
    )
    canvas = _Canvas(rng, shape, spacing, scale, middle_mm)
    draw(canvas, rng)
    return canvas.scan()


class _Canvas:
    """Three images that are painted together, tissue by tissue."""

    def __init__(self, rng, shape, spacing, scale, middle_mm):
        self.rng = rng
        self.spacing = np.asarray(spacing, float)
        # Voxel centres in mm of an adult, one vector per axis.
        self.axes = [
            (np.arange(n) - (n - 1) / 2) * s / scale
            for n, s in zip(shape, spacing, strict=True)
        ]
        self.axes[2] = self.axes[2] + middle_mm
        self.step = [s / scale for s in spacing]
        # Edges are as wide as a pixel: the partial volume effect.
        self.edge_mm = float(max(self.step[:2]))
        self.images = {
            name: np.full(shape, value, np.float32)
            for name, value in (("CT", AIR.hu), ("PET", 0.0), ("MR", 0.0))
        }
        # Bent space, because no organ is an ellipsoid.
        straight = np.meshgrid(*self.axes, indexing="ij", sparse=True)
        self.x, self.y, self.z = (
            (axis + bend * self.noise(90.0)).astype(np.float32)
            for axis, bend in zip(straight, (3.0, 3.0, 2.0), strict=True)
        )

    def noise(self, wavelength_mm: float) -> np.ndarray:
        """Smooth noise, mean 0 and variance 1: cubic B-splines on a lattice."""
        knot_mm = wavelength_mm / 2
        bases = []
        for positions, step in zip(self.axes, self.step, strict=True):
            # Because the lattice hangs on the edges of the field of view, not
            # on voxel centres, anatomy does not depend on the voxel size.
            edges = positions[0] - step / 2, positions[-1] + step / 2
            first, last = np.round(np.divide(edges, knot_mm), 6)
            knots = np.arange(np.floor(first) - 1, np.ceil(last) + 2)
            t = np.abs(positions[:, None] / knot_mm - knots)
            spline = np.where(
                t < 1, 4 - 6 * t**2 + 3 * t**3, np.maximum(2 - t, 0) ** 3
            )
            bases.append((spline / 6).astype(np.float32))
        values = self.rng.standard_normal(
            [basis.shape[1] for basis in bases], dtype=np.float32
        )
        for basis in bases:
            # Contracts the first axis and appends it: x, y, z come round.
            values = np.tensordot(values, basis, axes=(0, 1))
        # 0.479 is the mean over a knot of the sum of squared splines.
        return values / 0.479**1.5

    def sheet(self, wavelength_mm: float) -> np.ndarray:
        """Distance in mm to the folded surface where a noise is zero."""
        field = self.noise(wavelength_mm)
        slope = np.zeros_like(field)
        for axis, step in enumerate(self.step):
            if field.shape[axis] > 1:
                slope += np.gradient(field, step, axis=axis) ** 2
        # No surface where the noise is level: a third of the mean slope.
        return np.abs(field) / np.sqrt(slope + 2.0 / wavelength_mm**2)

    def ellipsoid(self, centre, radii, power: float = 2.0) -> np.ndarray:
        """Signed distance in mm along the ray from the centre; < 0 inside."""
        offsets = [
            a - np.float32(c)
            for a, c in zip((self.x, self.y, self.z), centre, strict=True)
        ]
        length = np.sqrt(sum(o * o for o in offsets)) + np.float32(1e-3)
        if power == 2.0:
            level = sum(
                (o / np.float32(r)) ** 2
                for o, r in zip(offsets, radii, strict=True)
            )
            level = np.sqrt(level)
        else:
            level = sum(
                np.abs(o / np.float32(r)) ** np.float32(power)
                for o, r in zip(offsets, radii, strict=True)
            ) ** np.float32(1 / power)
        return length - length / (level + np.float32(1e-6))

    def paint(self, distance: np.ndarray, tissue: Tissue, wash: float = 1.0):
        """Covers where `distance` (mm) is below 0; `wash` < 1 lets through."""
        cover = np.clip(0.5 - distance / self.edge_mm, 0.0, 1.0) * wash
        cover = cover.astype(np.float32)
        for name, value in (
            ("CT", tissue.hu),
            ("PET", tissue.suv),
            ("MR", tissue.mr),
        ):
            image = self.images[name]
            image += cover * (np.float32(value) - image)

    def paint_bone(self, distance: np.ndarray, cortex_mm: float = 2.2):
        """Compact bone around spongy bone with marrow."""
        self.paint(distance, CORTICAL_BONE)
        self.paint(distance + cortex_mm + 0.8 * self.noise(7.0), SPONGY_BONE)

    def scan(self) -> dict[str, volumes.Volume]:
        """The images as the scanners show them: blurred, uneven, noisy."""
        rng, images = self.rng, self.images
        body = images["CT"] > -500.0
        # Uptake and relaxation vary within a tissue.
        images["PET"] *= 1.0 + 0.1 * self.noise(18.0) + 0.05 * self.noise(9.0)
        images["MR"] *= 1.0 + 0.04 * self.noise(10.0)
        images["CT"] += body * (5.0 * self.noise(12.0))
        for name, sigma_mm in SIGMA_MM.items():
            images[name] = ndimage.gaussian_filter(
                images[name], sigma_mm / self.spacing, mode="nearest"
            )
        # Receive coils see what is near to them brighter.
        images["MR"] *= rng.uniform(0.75, 1.0) * np.exp(
            0.13 * self.noise(220.0)
        )
        shape = body.shape
        grain = rng.standard_normal((3, *shape), dtype=np.float32)
        images["MR"] = np.hypot(images["MR"] + 12.0 * grain[0], 12.0 * grain[1])
        quantum = ndimage.gaussian_filter(grain[2], (0.6, 0.6, 0.0))
        images["CT"] = np.maximum(images["CT"] + 20.0 * quantum, -1024.0)
        images["PET"] = np.maximum(images["PET"], 0.0)
        affine = np.diag([*self.spacing * [-1, -1, 1], 1.0])
        affine[:3, 3] = -affine[:3, :3] @ (np.asarray(shape) - 1) / 2
        return {
            name: volumes.Volume(images[name].astype(np.float32), affine.copy())
            for name in ("PET", "CT", "MR")
        }


def _draw_head(canvas: _Canvas, rng: np.random.Generator):
    """A head from the orbits to the crown."""
    paint, paint_bone, blob = canvas.paint, canvas.paint_bone, canvas.ellipsoid
    x, y, z = canvas.x, canvas.y, canvas.z
    radii = np.array([67.0, 83.0, 70.0]) * rng.uniform(0.95, 1.05, 3)
    wasting = rng.uniform(0.6, 1.6)  # Age widens sulci and ventricles.

    # Skull: a vault above a floor that falls from the brow to the neck.
    vault = blob((0, 0, 0), radii, 2.3)
    floor = -6.0 - 0.45 * (y + 75.0) + 2.0 * canvas.noise(30.0) - z
    cavity = np.maximum(vault, 0.9 * floor)
    thickness = 6.5 + rng.uniform(-1, 1.5) + 0.8 * canvas.noise(50.0)
    # Below the brow the head does not close, it goes on to the neck.
    below = np.array([1.0, 1.0, 2.6])
    vault_low = np.where(z > 0, vault, blob((0, 0, 0), radii * below, 2.2))
    scalp = rng.uniform(5.0, 8.0) + 0.7 * canvas.noise(60.0)
    outline = vault_low - thickness - scalp
    nose = blob((0, -104, -46), (15, 22, 26))
    temples = [blob((s * 70, -32, -18), (10, 30, 36)) for s in (-1, 1)]
    outline = np.minimum.reduce([outline, nose, *(t - 3.0 for t in temples)])
    ears = [
        blob((s * (radii[0] + 14), 16, -28), (4.5, 13, 24)) for s in (-1, 1)
    ]
    for ear in ears:
        paint(ear, SKIN)
    paint(outline, SKIN)
    paint(outline + 2.0, FAT)
    for temple in temples:
        paint(temple, MUSCLE)
    deep = np.maximum(outline + 9.0, z + 12.0)
    paint(np.maximum(deep, 0.8 - canvas.sheet(26.0)), MUSCLE)

    # Face: bony walls round air and orbits.
    hollow = 2.0 * canvas.noise(12.0)
    caves = [
        (0, -64, -44, 12, 24, 26),
        (-26, -62, -52, 14, 17, 15),
        (26, -62, -52, 14, 17, 15),
        (0, -26, -48, 13, 12, 9),
    ]
    for cx, cy, cz, *size in caves:
        cave = blob((cx, cy, cz), size) + hollow
        paint_bone(cave - 2.5, 4.0)
        paint(np.maximum(cave, 0.8 - canvas.sheet(16.0)), AIR)
    for side in (-1, 1):
        orbit = blob((side * 30, -62, -29), (18, 30, 17))
        paint_bone(np.maximum(orbit - 3.0, -(y + 84.0)), 3.0)
        paint(orbit, FAT)
        for end in (-14, 14):
            paint(blob((side * 28 + end * 0.8, -58, -29), (2.5, 20, 6)), MUSCLE)
        paint(blob((side * 26, -50, -29), (2.5, 22, 3)), WHITE_MATTER)
        eye = blob((side * 32, -77, -29), (12.5, 12.5, 12.5))
        paint(eye, MUSCLE)
        paint(eye + 1.2, WATER)
        paint(blob((side * 32, -86, -29), (4.5, 2.2, 4.5)), CARTILAGE)
        paint_bone(blob((side * 62, -46, -46), (4.5, 26, 5)), 2.0)

    paint_bone(np.maximum(cavity - thickness, -cavity), 2.0)
    sinus = blob((5, 2 - radii[1], 2), (22, 6, 13)) + hollow
    paint_bone(np.maximum(sinus - 2.5, -vault), 3.0)
    sinus = np.maximum.reduce([sinus, 1.5 - vault, vault - thickness + 2.0])
    paint(sinus, AIR)
    for side in (-1, 1):
        # The petrous bone, the densest of all, and the mastoid's air cells.
        petrous = np.minimum(
            blob((side * 44, 16, -46), (18, 9, 11)),
            blob((side * 28, 6, -46), (14, 7, 8)),
        )
        paint_bone(petrous, 4.0)
        cells = blob((side * 60, 26, -50), (10, 14, 16))
        paint_bone(cells - 2.0, 3.0)
        paint(np.maximum(cells, 1.4 - canvas.sheet(9.0)), AIR)

    # Brain: a ribbon of grey matter along the surface and down the sulci.
    paint(cavity, WATER)
    depth = -cavity - 1.0 - 0.7 * wasting
    folds = np.minimum(canvas.sheet(28.0), canvas.sheet(26.0) + 0.3)
    folds = np.hypot(folds, np.maximum(depth - 15.0, 0.0))
    callosum = -blob((0, 2, 14), (30, 46, 24))
    fissure = np.hypot(x, np.maximum(callosum, 0.0))
    sulci = np.minimum(folds, fissure) - 0.6 * wasting
    brain = np.maximum(-depth, 0.0)
    cortex = np.minimum(depth, sulci)
    paint(-depth, GREY_MATTER)
    paint(np.maximum(cortex, cavity), WATER)
    paint(3.6 - cortex, WHITE_MATTER)
    for side in (-1, 1):
        insula = np.abs(blob((side * 22, 0, 2), (20, 30, 22)))
        near = blob((side * 42, -4, 2), (9, 24, 16))
        paint(np.maximum(insula - 2.5, near), GREY_MATTER)
        paint(np.maximum(insula - 0.8 * wasting, near + 2.0), WATER, 0.8)
        paint(blob((side * 25, -2, 3), (6, 17, 12)), GREY_MATTER)
        paint(blob((side * 11, 16, 7), (8.5, 13, 9)), GREY_MATTER)
        paint(blob((side * 13, -18, 12), (6, 11, 13)), GREY_MATTER)
    wide = wasting**0.5
    for side in (-1, 1):
        for centre, size in (
            ((8, -22, 14), (4.5, 13, 9)),
            ((9, 4, 21), (5, 24, 7)),
            ((17, 30, 14), (6, 12, 10)),
            ((21, 46, 8), (3, 14, 5)),
        ):
            centre = (side * centre[0], *centre[1:])
            paint(blob(centre, np.array(size) * wide), WATER)
    paint(blob((0, 6, 2), (1.8 * wide, 13, 10)), WATER)

    # Behind and below: cerebellum under its tent, brainstem in its cistern.
    behind = np.maximum(blob((0, 50, -44), (50, 32, 25)), cavity + 3.0)
    paint(np.maximum(behind - 2.5, cavity), WATER)
    paint(behind, Tissue(38, 7.5, 510))
    paint(np.maximum(behind + 4.0, 1.6 - canvas.sheet(9.0)), WHITE_MATTER)
    stem = blob((0, 14, -48), (13, 13, 36))
    paint(np.maximum(stem - 4.0, cavity), WATER)
    paint(np.maximum(stem, cavity + 1.0), BRAINSTEM)
    paint(blob((0, 30, -48), (6, 3.5, 9)), WATER)

    if rng.random() < 0.4:
        side = rng.choice([-1, 1])
        centre = side * rng.uniform(25, 42), *rng.uniform([-45, 5], [50, 40])
        size = rng.uniform(7, 15, 3)
        ragged = blob(centre, size) + 2.0 * canvas.noise(14.0)
        paint(np.maximum(ragged - 9.0, brain - depth + 2.0), OEDEMA, 0.8)
        paint(np.maximum(ragged, 2.0 - depth), TUMOUR)
        paint(ragged + rng.uniform(3, 7), WATER)


def _draw_torso(canvas: _Canvas, rng: np.random.Generator):
    """A torso from the middle of the chest to the kidneys."""
    paint, paint_bone, blob = canvas.paint, canvas.paint_bone, canvas.ellipsoid
    x, y, z = canvas.x, canvas.y, canvas.z
    long = 1e4  # mm: an ellipsoid without ends is a column.
    wide, deep = rng.uniform(146, 166), rng.uniform(98, 114)
    outline = blob((0, 0, 0), (wide, deep, long), 2.5)
    # The groove of the back, and a belly that is not round.
    outline += 5.0 * np.exp(-((x / 16) ** 2)) * (y > 0) + canvas.noise(120.0)
    fat = rng.uniform(7, 24) * (1.0 - 0.3 * y / deep) + 1.5 * canvas.noise(60.0)
    wall = -outline - fat
    paint(outline, SKIN)
    paint(outline + 2.0, FAT)
    paint(-wall, MUSCLE)
    paint(np.maximum(-wall + 1.0, canvas.sheet(34.0) - 0.8), FAT, 0.8)
    inside = 19.0 - wall
    paint(inside, FAT)

    # Back: muscles and vertebrae, one every 34 mm with a disc between.
    spine_y = deep - fat.mean() - 62.0
    for side in (-1, 1):
        muscle = blob((side * 31, spine_y + 27, 0), (27, 20, long), 2.4)
        paint(np.maximum(muscle, 4.0 - wall), MUSCLE)
        psoas = blob((side * 34, spine_y + 2, -130), (17, 19, 90))
        paint(psoas, MUSCLE)
    level = np.abs((z + rng.uniform(0, 34)) % 34.0 - 17.0)
    vertebra = blob((0, spine_y, 0), (23, 17, long), 2.4)
    paint(vertebra, CARTILAGE)
    paint_bone(np.maximum(vertebra, level - 13.0), 1.8)
    arch = blob((0, spine_y + 25, 0), (15, 13, long))
    spinous = blob((0, spine_y + 42, 0), (4, 14, long))
    processes = blob((0, spine_y + 24, 0), (38, 5, long))
    arch = np.minimum(arch, np.maximum(spinous, level - 11.0))
    paint_bone(np.minimum(arch, np.maximum(processes, level - 7.0)), 2.0)
    canal = blob((0, spine_y + 25, 0), (10, 8.5, long))
    paint(canal, WATER)
    paint(canal + 4.0, Tissue(32, 1.8, 600))

    # Chest: ribs that fall towards the front, the sternum, lungs on domes.
    slant = z - 0.45 * y + 0.4 * np.abs(x) + rng.uniform(0, 28)
    slant = np.abs(slant % 28.0 - 14.0)
    cage = np.abs(inside - 5.0) - 4.0
    cage = np.maximum.reduce([cage, 0.85 * slant - 5.5, -60.0 - z + 0.5 * y])
    cage = np.maximum(cage, 16.0 - np.hypot(x, y - spine_y))
    paint_bone(cage, 2.2)
    paint(np.maximum(cage, y + 0.55 * deep), CARTILAGE)
    front = fat.mean() + 9.0 - deep
    paint_bone(blob((0, front, 95), (19, 6, 90), 2.6), 2.0)

    domes = [
        height
        - 0.010 * ((x - side * 68) ** 2 + (y + 10) ** 2) * (1 + 0.6 * (y > 0))
        for side, height in ((-1, rng.uniform(8, 22)), (1, rng.uniform(-4, 8)))
    ]
    dome = np.where(x < 0, *domes) + 3.0 * canvas.noise(60.0)
    dome = np.maximum(dome, -75.0)
    middle = np.minimum(
        blob((6, -20, 60), (30, 80, 220), 2.2),
        blob((0, spine_y, 0), (31, 26, long)),
    )
    heart = blob((20, -30, 38), (52, 42, 44)) + 1.5 * canvas.noise(40.0)
    keep_out = np.minimum(middle, heart - 3.0)
    lung = np.maximum.reduce([inside + 2.0, 0.8 * (dome - z), -keep_out])
    branches = np.hypot(canvas.sheet(30.0), canvas.sheet(30.0))
    paint(lung, LUNG)
    # Vessels are thick at the root of the lung.
    root = np.hypot(np.abs(x) - 34, 0.8 * (y + 2))
    paint(np.maximum(lung, branches - 1.0 - 4.0 * np.exp(-root / 35)), BLOOD)
    fine = np.hypot(canvas.sheet(15.0), canvas.sheet(15.0))
    paint(np.maximum(lung, fine - 0.8), BLOOD, 0.6)

    # Below the domes; the muscle of the diaphragm is the gap of 3 mm.
    under = np.maximum(inside + 1.0, 0.8 * (z - dome) + 3.0)
    belly = np.maximum(under, z + 55.0)
    loops = canvas.sheet(44.0)
    paint(np.maximum(belly, 13.0 - loops - 8.0 * canvas.noise(80.0)), BOWEL)
    lumen = np.maximum(belly + 4.0, 17.0 - loops - 8.0 * canvas.noise(80.0))
    paint(lumen, WATER)
    liver_noise = 4.0 * canvas.noise(50.0)
    liver = np.minimum(
        blob((-72, -2, -38), (88, 92, 78), 2.4),
        blob((0, -45, -22), (62, 34, 42)),
    )
    liver = np.maximum(liver + liver_noise, under)
    paint(liver, LIVER)
    paint(np.maximum(liver + 6.0, branches - 1.8), BLOOD, 0.7)
    stomach = np.maximum(
        blob((62, -34, -36), (38, 38, 44)) + liver_noise, under
    )
    paint(np.maximum(stomach, -liver), BOWEL)
    paint(np.maximum(stomach + 4.0, -liver), WATER)
    gas = np.maximum(stomach + 4.0, y + rng.uniform(30, 50))
    paint(np.maximum(gas, -liver), AIR)
    spleen = blob((104, 34, -32), (30, 46, 50)) - liver_noise
    paint(np.maximum(spleen, under), SPLEEN)
    for side, height in ((-1, -95), (1, -84)):
        centre = side * 60, spine_y + 2, height + rng.uniform(-8, 8)
        kidney = blob(centre, (27, 24, 54)) + 0.5 * liver_noise
        paint(kidney - 4.0, FAT)
        paint(kidney, KIDNEY)
        # The hollow of the kidney opens to the middle and holds the urine.
        sinus = blob((side * 47, *centre[1:]), (15, 9, 26))
        paint(sinus + 0.3 * liver_noise, FAT)
        calyces = np.maximum(sinus - 3.0, canvas.sheet(24.0) - 2.5)
        paint(np.maximum(calyces, kidney), URINE)
    paint(blob((-38, -42, -68), (14, 20, 26)), WATER)
    paint(blob((8, -2, -62), (58, 11, 13)) + liver_noise, BOWEL)

    # Heart, whose muscle burns sugar or fat, and the great vessels.
    heart = np.maximum(heart, 3.0 + 0.8 * (dome - z))
    paint(heart - 3.0, FAT)
    paint(heart, BLOOD)
    muscle = blob((32, -32, 34), (32, 30, 36))
    paint(np.maximum(muscle, heart), MUSCLE._replace(suv=rng.uniform(1.5, 9)))
    paint(muscle + 10.0, BLOOD)
    aorta = blob((20, spine_y - 20, 0), (11, 11, long))
    paint(aorta, MUSCLE)
    paint(aorta + 1.5, BLOOD)
    paint(blob((-20, spine_y - 27, 0), (12, 9, long)), BLOOD)
    paint(blob((6, spine_y - 24, 120), (8, 6, 100)), MUSCLE)
    for centre, size in (
        ((-10, -36, 85), (15, 15, 60)),  # ascending aorta
        ((16, -34, 78), (14, 17, 26)),  # pulmonary trunk
        ((0, -10, 74), (54, 9, 11)),  # pulmonary arteries
        ((-27, -26, 85), (9, 9, 60)),  # upper vena cava
    ):
        paint(blob(centre, size), BLOOD)
    windpipe = blob((0, spine_y - 38, 150), (10, 9, 60))
    paint(windpipe, CARTILAGE)
    paint(windpipe + 2.0, AIR)

    where = (
        [(-85, -40, 40), (80, 20, 60), (-70, 30, 60)],
        [(-90, 10, -30), (-60, -40, -45), (-100, -10, -60)],
        [(0, spine_y, -20), (5, -10, 75), (12, spine_y - 30, -75)],
    )
    for places in where:
        if rng.random() < 0.7:
            centre = np.array(places[rng.integers(3)]) + rng.normal(0, 10, 3)
            ragged = blob(centre, rng.uniform(6, 15, 3)) + canvas.noise(10.0)
            paint(ragged, TUMOUR._replace(suv=rng.uniform(6, 16)))
