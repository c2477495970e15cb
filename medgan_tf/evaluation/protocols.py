"""What is computed on which pixels and in which unit: one row per protocol.

The same pair of images has a PSNR of 29 or 36 dB by the choice of the window
and of 31 or 35 dB by that of the mask. So a number means something only beside
its protocol, and two numbers can be compared only under the same one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from medgan_tf import errors, tasks
from medgan_tf.evaluation import line_integrals, masked, metrics, regions

GREY_LEVELS = 255.0

SCALES = {
    "grey": "the window stretched to 0..255, not rounded, and clipped to it",
    "from low": "the physical unit less the low end of the window, clipped",
    "physical": "the physical unit",
}
PLACES = {
    "box": "the bounding box of the mask; pixels of the box outside the mask "
    "take the target's value",
    "mask": "the pixels of the mask alone, as a list",
    "volume": "the whole slice or volume, the low end of the window outside "
    "the mask; of a map of local values the mean over the mask",
}


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number of a protocol.

    Attributes:
      metric: what is computed.
      scale: on which values, a key of SCALES.
      place: on which pixels, a key of PLACES.
    """

    metric: metrics.Metric
    scale: str
    place: str

    def label(self, unit: str) -> str:
        """Such as "MAE (HU)"; `unit` is the target's."""
        in_words = self.unit(unit)
        return self.metric.label + (f" ({in_words})" if in_words else "")

    def unit(self, unit: str) -> str:
        """Unit of the number; `unit` is the target's."""
        if not self.metric.keeps_unit:
            return self.metric.unit
        return "0..255" if self.scale == "grey" else unit


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One row of the table below.

    Attributes:
      name: the word for `--protocol`.
      source: where the settings come from.
      scored: "slice" or "volume": what gets one number.
      mask: which pixels the mask holds: "data" (where source and target both
        have some) or "body" (of these, the body as the target shows it).
      window: (low, high) in the target's unit; None: the window with which
        the target was prepared.
      measures: name of the column -> what stands in it.
      averaging: in words.
      remarks: what else one must know to compare with others' numbers.
      targets: names of the modalities it is meant for; empty: all.
      target: the modality it was fitted to by `fitted`.
    """

    name: str
    source: str
    scored: str
    mask: str
    window: tuple[float, float] | None
    measures: Mapping[str, Measure]
    averaging: str
    remarks: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    target: tasks.Modality | None = None

    def fitted(
        self,
        target: tasks.Modality,
        voxel_size_mm: tuple[float | None, ...] = (None, None, None),
    ) -> Protocol:
        """The protocol with what is asked of a target of this modality.

        CT gets the errors by tissue and, where the voxel size is known, of
        line integrals; PET the biases of its uptake.

        Args:
          target: the modality.
          voxel_size_mm: of the task, along L, P and S.

        Raises:
          UsageError: the protocol is not meant for such a target.
        """
        if self.targets and target.name not in self.targets:
            raise errors.UsageError(
                f"Protocol {self.name} is for {' and '.join(self.targets)}, "
                f"the target is {target.name}; choose paper or canonical."
            )
        more = {tasks.CT: regions.CT, tasks.PET: regions.PET}.get(target, {})
        lines = {}
        left, posterior, _ = voxel_size_mm
        if target == tasks.CT and left and posterior:
            lines = line_integrals.measures((posterior, left))
        return dataclasses.replace(
            self,
            measures={
                **self.measures,
                **{
                    name: Measure(metric, "physical", "mask")
                    for name, metric in more.items()
                },
                **{
                    name: Measure(metric, "physical", "volume")
                    for name, metric in lines.items()
                },
            },
            target=target,
        )

    def described(self) -> dict:
        """Every setting, as JSON knows it."""
        unit = self.target.unit if self.target else "the target's unit"
        return {
            "name": self.name,
            "source": self.source,
            "scored": self.scored,
            "mask": MASKS[self.mask],
            "window": self.window and list(self.window),
            "window_in_words": WINDOWS[self.window is None],
            "averaging": self.averaging,
            "remarks": list(self.remarks),
            "metrics": {
                name: {
                    "label": measure.metric.label,
                    "unit": measure.unit(unit),
                    "higher_is_better": measure.metric.higher_is_better,
                    "settings": measure.metric.settings,
                    "computed_on": SCALES[measure.scale],
                    "computed_in": PLACES[measure.place],
                }
                for name, measure in self.measures.items()
            },
        }


MASKS = {
    "data": "where source and target both have data",
    "body": "the body as the target shows it (threshold, without specks, holes "
    "filled), where source and target both have data",
}
WINDOWS = {
    False: "fixed, in the target's unit",
    True: "that with which the target was prepared, see window_low and "
    "window_high of each row",
}

_ALL = metrics.METRICS
_SLICES = (
    "per_patient: mean over a patient's slices; patient_mean and patient_sd: "
    "mean and sample standard deviation of these; slice_mean: mean over all "
    "slices, as in the paper, so PSNR is the mean of the slices' PSNR and not "
    "that of the mean MSE. Values that are not finite (PSNR of identical "
    "images, a region that does not occur) are left out and counted."
)
_VOLUMES = (
    "One number per volume, that is, per patient and study. per_patient: mean "
    "over a patient's volumes; patient_mean and patient_sd: mean and sample "
    "standard deviation of these; slice_mean: mean over all volumes. Values "
    "that are not finite are left out and counted."
)
_RECORDS = (
    "The target is the one in the records: on the grid of the slices and "
    "clipped to the window with which it was prepared.",
    "Slices that were left out when the records were made count as outside "
    "the mask.",
)
_CHALLENGE = (
    *_RECORDS,
    "The challenge scores on its own grid, without clipping before the MAE, "
    "and with its own mask, a dilated outline of the body.",
)

_CHEAP = {
    "ssim": Measure(_ALL["ssim"], "grey", "box"),
    "psnr": Measure(_ALL["psnr"], "grey", "box"),
    "mse": Measure(_ALL["mse"], "grey", "box"),
    "mae": Measure(_ALL["mae"], "physical", "mask"),
}

# While training: what takes a few milliseconds per slice.
VALIDATION = Protocol(
    name="validation",
    source="the cheap part of `paper`",
    scored="slice",
    mask="data",
    window=None,
    measures=_CHEAP,
    averaging=_SLICES,
)


def _ssim_of_volume(function, label: str, settings: str, smallest: int):
    metric = metrics.Metric(
        label,
        function,
        higher_is_better=True,
        settings=settings,
        smallest=smallest,
    )
    return Measure(metric, "from low", "volume")


_SSIM_3D = _ssim_of_volume(
    masked.ssim_in_mask,
    "SSIM",
    "uniform window of 7 voxels along each axis, K1 0.01, K2 0.03, sample "
    "covariance, outermost 3 voxels of the volume left out; undefined for "
    "volumes below 7 slices",
    masked.WINDOW,
)
_MS_SSIM = (
    "5 scales, weights 0.0448, 0.2856, 0.3001, 0.2363, 0.1333, uniform window "
    "of 7 voxels along each axis, sample covariance, padded to 97 voxels by "
    "repeating the border, mask of every second voxel at each scale; "
)

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="paper",
            source="Armanious et al., MedGAN, Tables 1 and 2. The paper names "
            "no settings: its MSE of 30 to 340 and PSNR of 24 to 35 dB fit "
            "grey levels of 0..255 and means over images; the rest are the "
            "defaults of the papers it cites.",
            scored="slice",
            mask="data",
            window=None,
            measures={
                **{name: _CHEAP[name] for name in ("ssim", "psnr", "mse")},
                **{
                    name: Measure(_ALL[name], "grey", "box")
                    for name in (
                        "vif",
                        "uqi",
                        "uqi_sewar",
                        "lpips_alex",
                        "lpips_vgg",
                    )
                },
                "mae": _CHEAP["mae"],
                "me": Measure(_ALL["me"], "physical", "mask"),
                "nrmse": Measure(_ALL["nrmse"], "from low", "mask"),
            },
            averaging=_SLICES,
        ),
        Protocol(
            name="canonical",
            source="ours: what the SynthRAD challenges score, in the body "
            "alone and for any target, with the flaws of their programs "
            "repaired.",
            scored="volume",
            mask="body",
            window=None,
            measures={
                "mae": Measure(_ALL["mae"], "physical", "mask"),
                "me": Measure(_ALL["me"], "physical", "mask"),
                "nrmse": Measure(_ALL["nrmse"], "from low", "mask"),
                "psnr": Measure(_ALL["psnr"], "from low", "mask"),
                "ssim": _SSIM_3D,
                "ms_ssim": _ssim_of_volume(
                    masked.ms_ssim_in_mask,
                    "MS-SSIM",
                    _MS_SSIM + "luminance at the coarsest scale alone",
                    1,
                ),
            },
            averaging=_VOLUMES,
            remarks=_RECORDS,
        ),
        Protocol(
            name="synthrad2023",
            source="SynthRAD2023, github.com/SynthRAD2023/metrics at 3200007.",
            scored="volume",
            mask="body",
            window=(-1024.0, 3000.0),
            measures={
                "mae": Measure(_ALL["mae"], "physical", "mask"),
                "psnr": Measure(_ALL["psnr"], "from low", "mask"),
                "ssim": _SSIM_3D,
            },
            averaging=_VOLUMES,
            remarks=_CHALLENGE,
            targets=("CT",),
        ),
        Protocol(
            name="synthrad2025",
            source="SynthRAD2025, github.com/SynthRAD2025/evaluation at "
            "17cac47. The repository SynthRAD2025/metrics has 3000 HU as the "
            "high end of the window and gives other numbers.",
            scored="volume",
            mask="body",
            window=(-1024.0, 3071.0),
            measures={
                "mae": Measure(_ALL["mae"], "physical", "mask"),
                "psnr": Measure(_ALL["psnr"], "from low", "mask"),
                "ms_ssim": _ssim_of_volume(
                    masked.ms_ssim_synthrad2025,
                    "MS-SSIM",
                    _MS_SSIM + "as published: luminance at every scale, zeros "
                    "mixed into the border when halving",
                    1,
                ),
            },
            averaging=_VOLUMES,
            remarks=(
                *_CHALLENGE,
                "Dice, Hausdorff distance and dose are not computed: they need "
                "TotalSegmentator and treatment plans.",
            ),
            targets=("CT",),
        ),
    )
}


def of_task(name: str, task: tasks.Task) -> Protocol:
    """The protocol of that name, fitted to a task's target and voxel size.

    Raises:
      UsageError: the protocol is not meant for such a target.
    """
    # What was resampled to fit has a size of its own in each volume.
    is_known = task.too_large != "resample"
    return PROTOCOLS[name].fitted(
        task.target, task.voxel_size_mm if is_known else (None, None, None)
    )
