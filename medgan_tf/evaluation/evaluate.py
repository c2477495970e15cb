"""How good are the translated slices of a whole set of patients?

Anything that turns a batch of sources into a batch of translated images can
be scored: a network, an exported model, a folder of someone else's images.
Every slice is scored by itself inside the bounding box of its mask, because
equal padding on both sides would flatter every metric. The paper averages
over slices; the slices of one patient are not independent, so the mean and
standard deviation over patients are given as well.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from medgan_tf import errors
from medgan_tf.data.sample import Sample, check_range
from medgan_tf.evaluation import metrics

PROTOCOL = (
    "Each 2-D slice inside the bounding box of its mask (where source and "
    "target both have data); the few pixels of the box outside the mask take "
    "the target's value, so that nothing is asked there. SSIM (Gaussian "
    "window 11 x 11, sigma 1.5, K1 0.01, K2 0.03, population covariance, "
    "fully covered interior), PSNR and MSE on the target's window stretched "
    "to 0..255, not rounded. MAE in the target's unit after clipping to its "
    "window, in the mask alone. per_patient: mean over a patient's slices; "
    "patient_mean and patient_sd: mean and sample standard deviation of "
    "these; slice_mean: mean over all slices, as in the paper. The PSNR of "
    "identical images is infinite; such slices are left out of the means of "
    "PSNR and counted in num_identical."
)

GREY_LEVELS = 255.0

# [B, H, W, C] in [-1, 1] -> [B, H, W, 1] in [-1, 1].
Translate = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Score:
    """What one image of one slice is worth.

    Attributes:
      patient: as in `Sample`.
      slice_index: as in `Sample`.
      image: "translated", "source", or the name of a baseline.
      values: one number per entry of `metrics.METRICS`, under its name.
      study: as in `Sample`.
    """

    patient: str
    slice_index: int
    image: str
    values: dict[str, float]
    study: str = ""


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of a set of slices.

    Attributes:
      rows: one per slice and image, in the order of the samples.
      num_skipped: slices whose mask is too small to score.
    """

    rows: list[Score]
    num_skipped: int


@dataclasses.dataclass(frozen=True)
class Example:
    """A translated slice to look at, cut to the box in which it is scored.

    Attributes:
      patient: as in `Sample`.
      slice_index: as in `Sample`.
      kind: why it was chosen: "median" or "worst" SSIM of the patient.
      source: [h, w] in the source's physical unit.
      translated: [h, w] in the target's physical unit.
      target: [h, w] in the target's physical unit.
      mask: bool, [h, w].
      source_window: as in `Sample`.
      target_window: as in `Sample`.
      ssim: SSIM of `translated`.
      study: as in `Sample`.
    """

    patient: str
    slice_index: int
    kind: str
    source: np.ndarray
    translated: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    source_window: tuple[float, float]
    target_window: tuple[float, float]
    ssim: float
    study: str = ""


@dataclasses.dataclass(frozen=True)
class ImageSummary:
    """The averages of one kind of image; each dict has metric names as keys.

    Attributes:
      num_slices: slices scored, per patient.
      num_identical: slices equal to the target, which have no finite PSNR.
      per_patient: patient -> mean over the patient's slices.
      patient_mean: mean over patients of `per_patient`.
      patient_sd: sample standard deviation over patients; NaN for one patient.
      slice_mean: mean over all slices, as in the paper.
    """

    num_slices: dict[str, int]
    num_identical: int
    per_patient: dict[str, dict[str, float]]
    patient_mean: dict[str, float]
    patient_sd: dict[str, float]
    slice_mean: dict[str, float]


def score_slices(
    samples: Iterable[Sample],
    translate: Translate,
    *,
    score_source: bool = False,
    baselines: Mapping[str, Callable[[Sample], np.ndarray]] | None = None,
    batch_size: int = 8,
) -> Scores:
    """Translates every slice and compares it with its target.

    Args:
      samples: the slices; read once, one batch in memory at a time.
      translate: [B, H, W, C] in [-1, 1] -> [B, H, W, 1] in [-1, 1]; NumPy in,
        anything that `np.asarray` understands out.
      score_source: also score the untouched source (its middle channel) as
        "source": what doing nothing is worth. Only meaningful where source
        and target are of the same modality.
      baselines: name -> function of a sample that gives an image [H, W] or
        [H, W, 1] in [-1, 1], scored under that name: neither "source" nor
        "translated".
      batch_size: slices per call of `translate`; the last may be smaller.

    Returns:
      `Scores`, for each slice in the order source, baselines, translated.

    Raises:
      DataError: a translated image or baseline has the wrong shape or values
        outside [-1, 1], or no slice could be scored.
      ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}.")
    baselines = dict(baselines or {})
    if score_source:
        baselines = {"source": _first_channel, **baselines}

    rows, num_skipped = [], 0
    for batch in _batches(samples, batch_size):
        kept = [sample for sample in batch if _is_scorable(sample)]
        num_skipped += len(batch) - len(kept)
        if not kept:
            continue
        for sample, translated in zip(
            kept, _translated(kept, translate), strict=True
        ):
            images = {name: f(sample) for name, f in baselines.items()}
            images["translated"] = translated
            for name, image in images.items():
                image = _checked_image(image, name, sample)
                rows.append(
                    Score(
                        sample.patient,
                        sample.slice_index,
                        name,
                        _compare(image, sample),
                        sample.study,
                    )
                )
    if not rows:
        raise errors.DataError(
            f"No slice could be scored: {num_skipped} found, all with a mask "
            f"smaller than {metrics.SSIM_WINDOW} pixels; check the split and "
            "the prepared data."
        )
    return Scores(rows, num_skipped)


def summarise(rows: Iterable[Score]) -> dict[str, ImageSummary]:
    """Averages rows: over the slices of a patient, then over patients.

    Args:
      rows: as from `score_slices`.

    Returns:
      Name of the image ("translated", ...) -> its averages.
    """
    by_image = collections.defaultdict(list)
    for row in rows:
        by_image[row.image].append(row)
    return {image: _summarise_image(found) for image, found in by_image.items()}


def choose_examples(
    rows: Iterable[Score], *, num_patients: int = 4
) -> dict[tuple[str, str, int], str]:
    """Which slices to look at: two per patient, without favour.

    Args:
      rows: as from `score_slices`; only "translated" ones are considered.
      num_patients: at most so many, spread evenly from the patient with the
        lowest mean SSIM to the one with the highest.

    Returns:
      (patient, study, slice_index) -> "median" or "worst": the slices of median and
      of lowest SSIM of each chosen patient. A single slice is the median.
    """
    by_patient = collections.defaultdict(list)
    for row in rows:
        if row.image == "translated":
            by_patient[row.patient].append(
                (row.values["ssim"], row.study, row.slice_index)
            )
    patients = sorted(
        by_patient,
        key=lambda patient: np.mean([ssim for ssim, *_ in by_patient[patient]]),
    )
    last = len(patients) - 1
    positions = np.linspace(0, last, min(num_patients, len(patients)))
    chosen = {}
    for position in positions:
        patient = patients[round(position)]
        ranked = sorted(by_patient[patient])
        chosen[(patient, *ranked[len(ranked) // 2][1:])] = "median"
        if len(ranked) > 1:
            chosen[(patient, *ranked[0][1:])] = "worst"
    return chosen


def translate_examples(
    samples: Iterable[Sample],
    translate: Translate,
    chosen: Mapping[tuple[str, str, int], str],
) -> list[Example]:
    """Translates the chosen slices once more, to show them.

    A second pass over the samples costs less than keeping every image of the
    first: the median is known only at the end.

    Args:
      samples: the slices given to `score_slices`, to be read again.
      translate: as for `score_slices`. If it draws random numbers, the image
        shown is another draw; its SSIM is that of the image shown.
      chosen: as from `choose_examples`.

    Returns:
      One example per chosen slice, in the order of `chosen`.

    Raises:
      DataError: a chosen slice is not among the samples.
    """
    examples = {}
    for sample in samples:
        key = (sample.patient, sample.study, sample.slice_index)
        if key not in chosen or key in examples or not _is_scorable(sample):
            continue
        translated = _checked_image(
            _translated([sample], translate)[0], "translated", sample
        )
        examples[key] = _example(sample, translated, chosen[key])
    missing = len(chosen) - len(examples)
    if missing:
        raise errors.DataError(
            f"{missing} of {len(chosen)} chosen slices are not among the "
            "samples; pass the samples that were scored, and something that "
            "can be read twice."
        )
    return [examples[key] for key in chosen]


def _batches(
    samples: Iterable[Sample], batch_size: int
) -> Iterator[list[Sample]]:
    """Lists of `batch_size` samples; the last may be shorter."""
    iterator = iter(samples)
    while batch := list(itertools.islice(iterator, batch_size)):
        yield batch


def _first_channel(sample: Sample) -> np.ndarray:
    """The source that decides on the grid, without the further ones."""
    return sample.source[:, :, 0]


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest rectangle [rows, columns] that holds the whole mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size == 0:
        return slice(0, 0), slice(0, 0)
    return (
        slice(rows[0], rows[-1] + 1),
        slice(columns[0], columns[-1] + 1),
    )


def _is_scorable(sample: Sample) -> bool:
    """Whether the box of the mask holds one SSIM window."""
    box = _box(sample.mask)
    return min(side.stop - side.start for side in box) >= metrics.SSIM_WINDOW


def _translated(samples: list[Sample], translate: Translate) -> np.ndarray:
    """Translates a batch: [B, H, W, C] -> [B, H, W, 1]."""
    sources = np.stack([sample.source for sample in samples])
    translated = np.asarray(translate(sources), dtype=np.float32)
    if translated.shape != (*sources.shape[:3], 1):
        raise errors.DataError(
            f"Translating {sources.shape} gave {translated.shape}; expected "
            f"{(*sources.shape[:3], 1)}."
        )
    return translated


def _checked_image(image: np.ndarray, name: str, sample: Sample) -> np.ndarray:
    """The image as [H, W] float32, or a DataError that names the slice."""
    image = np.asarray(image, dtype=np.float32)
    if image.shape == (*sample.mask.shape, 1):
        image = image[:, :, 0]
    if image.shape != sample.mask.shape:
        raise errors.DataError(
            f"Image '{name}' of {sample.name} has shape {image.shape}; "
            f"expected {sample.mask.shape}."
        )
    check_range(image, f"image '{name}'", sample.name)
    return np.clip(image, -1, 1)


def _physical(image: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """[-1, 1] -> the physical unit of the window."""
    low, high = window
    return low + (image.astype(np.float64) + 1) / 2 * (high - low)


def _compare(image: np.ndarray, sample: Sample) -> dict[str, float]:
    """All metrics of one image [H, W] in [-1, 1] against the target."""
    box = _box(sample.mask)
    mask = sample.mask[box]
    low, high = sample.target_window
    values = {}
    for name, metric in metrics.METRICS.items():
        window = (low, high) if metric.is_physical else (0.0, GREY_LEVELS)
        target = sample.target[:, :, 0]
        pair = [
            _physical(array[box], window)
            for array in (np.where(sample.mask, image, target), target)
        ]
        if metric.in_mask:
            pair = [array[mask] for array in pair]
        values[name] = metric.function(*pair, data_range=window[1] - window[0])
    return values


def _example(sample: Sample, translated: np.ndarray, kind: str) -> Example:
    """Cuts a translated slice to its box and puts it in physical units."""
    box = _box(sample.mask)
    return Example(
        patient=sample.patient,
        slice_index=sample.slice_index,
        kind=kind,
        source=_physical(_first_channel(sample)[box], sample.source_window),
        translated=_physical(translated[box], sample.target_window),
        target=_physical(sample.target[:, :, 0][box], sample.target_window),
        mask=sample.mask[box],
        source_window=sample.source_window,
        target_window=sample.target_window,
        ssim=_compare(translated, sample)["ssim"],
        study=sample.study,
    )


def _summarise_image(rows: list[Score]) -> ImageSummary:
    """The averages of the rows of one kind of image."""
    by_patient = collections.defaultdict(list)
    for row in rows:
        by_patient[row.patient].append(row.values)
    per_patient = {
        patient: _over(values, _mean) for patient, values in by_patient.items()
    }
    patients = list(per_patient.values())
    slices = [row.values for row in rows]
    return ImageSummary(
        num_slices={p: len(values) for p, values in by_patient.items()},
        num_identical=sum(np.isinf(values["psnr"]) for values in slices),
        per_patient=per_patient,
        patient_mean=_over(patients, _mean),
        patient_sd=_over(patients, _sd),
        slice_mean=_over(slices, _mean),
    )


def _over(
    dicts: list[dict[str, float]], function: Callable[[np.ndarray], float]
) -> dict[str, float]:
    """Applies a function to the finite values of each metric."""
    columns = {
        name: np.array([values[name] for values in dicts]) for name in dicts[0]
    }
    return {
        name: function(column[np.isfinite(column)])
        for name, column in columns.items()
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if values.size > 1 else float("nan")
