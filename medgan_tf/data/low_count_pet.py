"""What a PET image would look like had the scanner counted fewer photons.

Section 3.1.3 pairs scans of 25 % of the acquisition time with full ones.
Where only the full scan is at hand we make the short one as physics does:

    y ~ Poisson(fraction * scale * A P G x),    x_low = reconstruction of y,

with x the image [SUV], G the scanner's blur, P the parallel-beam projection of
every slice and A the share of photon pairs that leave the body along a line.
Noise is therefore born in the counts and gets its texture from the
reconstruction, which knows A: OSEM with G in its model (Hudson and Larkin
1994), or filtered back projection, which leaves G in the image.

Because x stands for the expected activity, noise that x already has comes on
top. Without a map of attenuation A is one number, its mean; scatter and
randoms are not modelled.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage, sparse

from medgan_tf import errors
from medgan_tf.data import tomography
from medgan_tf.data import volume as volumes

# Full width at half maximum of a Gaussian over its standard deviation.
FWHM_PER_SIGMA = math.sqrt(8.0 * math.log(2.0))
RECONSTRUCTIONS = ("osem", "fbp")
# Tungsten, at 511 keV, is 2 per cm; what lies in a scanner is below 1.
MOST_ATTENUATION_PER_CM = 1.0


@dataclasses.dataclass(frozen=True)
class Parameters:
    """One low-count scan, down to its noise; `Parameters(**asdict(p)) == p`.

    Attributes:
      fraction: counts kept, in (0, 1]; 0.25 in Section 3.1.3.
      counts_per_suv_ml: true counts that 1 mL of SUV 1 would add to the full
        scan if nothing were attenuated. 3.4 kBq/mL (370 MBq in 75 kg after
        60 min) x 180 s x 1.5 % sensitivity = 9000. Time of flight is worth
        about twice as many.
        One factor for a volume, so that a slice gets counts in proportion to
        its own activity, and a cut-out gets those of the whole scan.
      psf_fwhm_mm: blur of the scanner, known to OSEM.
      num_angles: views over 180 degrees; 120 resolve 5 mm in a 380 mm body.
      subsets: of views; divides `num_angles`.
      iterations: passes of OSEM over all views.
      seed: draws the Poisson noise.
      mean_survival: share in (0, 1] of photon pairs that are not attenuated,
        the same for all lines: 1/5 in a head, about 1/10 in a torso. It is
        used only where no map of attenuation tells the share of each line, so
        that both ways count about as much.
      reconstruction: one of RECONSTRUCTIONS.
      fbp_window: a row of `tomography.WINDOWS`, for filtered back projection.
      fbp_cutoff_per_mm: its cut-off in cycles per mm, in (0, 0.25]; a Hann
        window makes a point about 1 / fbp_cutoff_per_mm mm wide.
    """

    fraction: float = 0.25
    counts_per_suv_ml: float = 9000.0
    psf_fwhm_mm: float = 4.5
    num_angles: int = 120
    subsets: int = 12
    iterations: int = 3
    seed: int = 0
    mean_survival: float = 0.2
    reconstruction: str = "osem"
    fbp_window: str = "hann"
    fbp_cutoff_per_mm: float = 0.15

    def __post_init__(self):
        if not 0.0 < self.fraction <= 1.0:
            raise errors.UsageError(
                f"fraction is {self.fraction}, expected in (0, 1]; "
                "0.25 keeps a quarter of the counts."
            )
        if not 0.0 < self.mean_survival <= 1.0:
            raise errors.UsageError(
                f"mean_survival is {self.mean_survival}, expected in (0, 1]; "
                "a head lets through 0.2 of its photon pairs."
            )
        if not (
            0.0 < self.counts_per_suv_ml < math.inf
            and 0.0 <= self.psf_fwhm_mm < math.inf
        ):
            raise errors.UsageError(
                f"counts_per_suv_ml is {self.counts_per_suv_ml} and "
                f"psf_fwhm_mm {self.psf_fwhm_mm}, expected above 0 and not "
                "below 0; leave them out for a clinical scan."
            )
        if min(self.num_angles, self.subsets, self.iterations) < 1 or (
            self.num_angles % self.subsets
        ):
            raise errors.UsageError(
                f"num_angles is {self.num_angles}, subsets {self.subsets} and "
                f"iterations {self.iterations}, expected 1 or more each; "
                "choose subsets that divide num_angles."
            )
        for name, allowed in (
            ("reconstruction", RECONSTRUCTIONS),
            ("fbp_window", tomography.WINDOWS),
        ):
            if getattr(self, name) not in allowed:
                raise errors.UsageError(
                    f"{name} is {getattr(self, name)!r}, expected one of "
                    f"{', '.join(allowed)}; choose one of them."
                )
        if not 0.0 < self.fbp_cutoff_per_mm <= tomography.NYQUIST_PER_MM:
            raise errors.UsageError(
                f"fbp_cutoff_per_mm is {self.fbp_cutoff_per_mm}, expected in "
                f"(0, {tomography.NYQUIST_PER_MM}]; 0.15 smooths to 7 mm."
            )


def draw_parameters(
    rng: np.random.Generator,
    *,
    fraction: float = 0.25,
    counts_per_suv_ml: float = 9000.0,
    mean_survival: float = 0.2,
    psf_fwhm_mm: float = 4.5,
    iterations: int = 3,
    reconstruction: str = "osem",
    fbp_window: str = "hann",
    fbp_cutoff_per_mm: float = 0.15,
    realisation: int = 0,
) -> Parameters:
    """Parameters of a scan with its own noise; see `Parameters` for the rest.

    Args:
      rng: draws the seed of the noise and nothing else.
      realisation: 0, 1, ...: which of the repeated scans. Asking an equal
        generator for the next one is the same as drawing once more from this
        one: scans that differ in their noise, and in nothing else.

    Raises:
      UsageError: an option is out of its range.
    """
    if realisation < 0:
        raise errors.UsageError(
            f"realisation is {realisation}, expected 0 or more; 0 is the first."
        )
    for _ in range(realisation + 1):
        seed = int(rng.integers(2**31))
    return Parameters(
        fraction=fraction,
        counts_per_suv_ml=counts_per_suv_ml,
        psf_fwhm_mm=psf_fwhm_mm,
        iterations=iterations,
        seed=seed,
        mean_survival=mean_survival,
        reconstruction=reconstruction,
        fbp_window=fbp_window,
        fbp_cutoff_per_mm=fbp_cutoff_per_mm,
    )


def apply(
    volume: volumes.Volume,
    parameters: Parameters,
    attenuation: volumes.Volume | None = None,
) -> volumes.Volume:
    """The image that the scanner would show for fewer counts.

    Args:
      volume: PET, SUV, shape (X, Y, Z); axis 2 counts axial slices. In-plane
        spacing may differ along X and Y.
      parameters: see `Parameters`; equal ones give equal images.
      attenuation: linear attenuation at 511 keV in 1/cm on the grid of
        `volume`, in [0, 1] (water: 0.096). Each line then loses
        1 - exp(-integral of it), and the reconstruction corrects for that.
        A map that is cut off loses only what it shows.
        None: every line loses 1 - `mean_survival`.

    Returns:
      SUV >= 0, float32, on the same grid. Filtered back projection goes below
      0 in its noise, which is set to 0 as no PET may have it: the mean of the
      body is kept as long as it stands out of the noise, that of the air
      around it rises.

    Raises:
      DataError: a voxel is negative, NaN or infinite, or the attenuation is
        on another grid or in another unit.
    """
    lowest = float(np.min(volume.array, initial=0.0))
    if not (lowest >= 0.0 and np.isfinite(volume.array).all()):
        raise errors.DataError(
            f"PET values go down to {lowest} or are not finite, expected "
            "finite SUV >= 0; set negative voxels to 0 after resampling."
        )
    num_x, num_y, num_slices = volume.shape
    spacing = tuple(round(s, 4) for s in volume.spacing[:2])
    projectors = tomography.projector(
        (num_x, num_y), spacing, parameters.num_angles, parameters.subsets
    )
    survival = None
    # Counts per SUV in one view: every view sees every voxel once.
    counts_per_suv_ml = parameters.counts_per_suv_ml
    if attenuation is None:
        counts_per_suv_ml *= parameters.mean_survival
    else:
        survival = _survival(volume, attenuation, projectors, spacing)
    voxel_ml = float(np.prod(volume.spacing)) / 1000.0
    scale = (
        parameters.fraction
        * counts_per_suv_ml
        * voxel_ml
        / parameters.num_angles
    )
    sigma = [
        parameters.psf_fwhm_mm / FWHM_PER_SIGMA / s for s in volume.spacing
    ]

    def blur(pixels: np.ndarray) -> np.ndarray:
        # Reflection makes the blur symmetric (its own transpose) and keeps
        # activity, so every voxel has the same sensitivity, corners too.
        blurred = ndimage.gaussian_filter(
            pixels.reshape(volume.shape), sigma, mode="reflect"
        )
        return blurred.reshape(-1, num_slices)

    # [X, Y, Z] -> [X * Y, Z]: one column a slice, all projected at once.
    activity = np.ascontiguousarray(volume.array, np.float32)
    counts = count(blur(activity), projectors, scale, parameters.seed, survival)
    if parameters.reconstruction == "osem":
        estimate = tomography.osem(
            counts,
            projectors,
            parameters.num_angles,
            parameters.iterations,
            blur=blur,
            survival=survival,
        )
    else:
        if survival is not None:
            counts = [c / s for c, s in zip(counts, survival, strict=True)]
        estimate = tomography.filtered_back_projection(
            counts,
            projectors,
            parameters.num_angles,
            spacing,
            window=parameters.fbp_window,
            cutoff_per_mm=parameters.fbp_cutoff_per_mm,
        )
        estimate = np.maximum(estimate, 0.0)
    return volumes.Volume(
        (estimate / scale).reshape(volume.shape).astype(np.float32),
        volume.affine.copy(),
    )


def _survival(
    volume: volumes.Volume,
    attenuation: volumes.Volume,
    projectors: Sequence[sparse.csr_array],
    spacing: tuple[float, float],
) -> list[np.ndarray]:
    """Share of photon pairs per ray that leave the body, per subset."""
    if not attenuation.same_grid(volume):
        raise errors.DataError(
            f"The attenuation map has {attenuation.shape} voxels of "
            f"{_spacing_text(attenuation)} mm, expected the grid of the PET, "
            f"{volume.shape} of {_spacing_text(volume)} mm and in the same "
            "place; resample it."
        )
    lowest, highest = attenuation.array.min(), attenuation.array.max()
    # Written so that NaN is refused too.
    if not (lowest >= 0.0 and highest <= MOST_ATTENUATION_PER_CM):
        raise errors.DataError(
            f"The attenuation map goes from {lowest:g} to {highest:g}, "
            f"expected 0 to {MOST_ATTENUATION_PER_CM:g} per cm (water 0.096); "
            "convert HU or per mm first."
        )
    per_mm = np.ascontiguousarray(attenuation.array, np.float32) / 10.0
    integrals = tomography.line_integrals(
        per_mm.reshape(-1, volume.shape[2]), projectors, spacing
    )
    return [np.exp(-integral) for integral in integrals]


def _spacing_text(volume: volumes.Volume) -> str:
    return " x ".join(f"{s:.4g}" for s in volume.spacing)


def count(
    pixels: np.ndarray,
    projectors: Sequence[sparse.csr_array],
    scale: float,
    seed: int,
    survival: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Poisson counts, per subset [rays, Z], of activity `pixels` [X * Y, Z].

    Args:
      pixels: activity, after the scanner's blur.
      projectors: of `tomography.projector`.
      scale: counts per unit of activity in one view.
      seed: of the noise.
      survival: per subset [rays, Z], share that is not attenuated; None: 1.
    """
    rng = np.random.default_rng(seed)
    counts = []
    for subset, matrix in enumerate(projectors):
        expected = scale * (matrix @ pixels)
        if survival is not None:
            expected *= survival[subset]
        counts.append(rng.poisson(expected).astype(np.float32))
    return counts


def thin(
    counts: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """The counts of a scan of `fraction` of the time, out of recorded ones.

    Each photon is kept with probability `fraction`: the binomial share of a
    Poisson number is itself Poisson, so that unlike in `apply` no noise comes
    on top. For scans whose counts, not only whose image, were kept.

    Args:
      counts: whole numbers >= 0, any shape.
      fraction: in (0, 1].
      rng: draws which photons are kept.

    Returns:
      Whole numbers, of the shape and type of `counts`.

    Raises:
      UsageError: `fraction` is not in (0, 1].
      DataError: an entry is no number of photons.
    """
    if not 0.0 < fraction <= 1.0:
        raise errors.UsageError(
            f"fraction is {fraction}, expected in (0, 1]; 0.25 keeps a quarter "
            "of the counts."
        )
    counts = np.asarray(counts)
    if (
        not (np.isfinite(counts).all() and (counts >= 0).all())
        or (counts != np.floor(counts)).any()
    ):
        raise errors.DataError(
            "Found counts that are negative, broken or not finite, expected "
            "whole numbers >= 0; give the sinogram before any correction."
        )
    kept = rng.binomial(counts.astype(np.int64), fraction)
    return kept.astype(counts.dtype)
