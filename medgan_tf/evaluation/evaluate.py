"""How good are the translated images of a whole set of patients?

Anything that turns a batch of sources into a batch of translated images can
be scored: a network, an exported model, a folder of someone else's images.
What is computed, and whether slice by slice or volume by volume, is said by a
protocol. The paper averages over slices; the slices of one patient are not
independent, so the mean and standard deviation over patients are given as
well.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from medgan_tf import errors
from medgan_tf.data.sample import Sample, check_range
from medgan_tf.evaluation import compare, metrics, protocols

# [B, H, W, C] in [-1, 1] -> [B, H, W, 1] in [-1, 1].
Translate = Callable[[np.ndarray], np.ndarray]
# Name of the image -> [H, W] in [-1, 1].
Images = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Score:
    """What one image of one slice, or of one volume, is worth.

    Attributes:
      patient: as in `Sample`.
      slice_index: as in `Sample`; None for a volume.
      image: "translated", "source", or the name of a baseline.
      values: one number per measure of the protocol, under its name; those
        that need weights only where these were given.
      study: as in `Sample`.
      window: (low, high) in the target's unit: the range that was used.
    """

    patient: str
    slice_index: int | None
    image: str
    values: dict[str, float]
    study: str = ""
    window: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of a set of slices.

    Attributes:
      rows: one per slice or volume and image, in the order of the samples.
      num_skipped: slices whose mask is too small to score, or volumes without
        any mask.
      slices: rows of the translated slices with their SSIM, by which examples
        are chosen; `rows` itself where the protocol scores slices.
    """

    rows: list[Score]
    num_skipped: int
    slices: list[Score]


@dataclasses.dataclass(frozen=True)
class ImageSummary:
    """The averages of one kind of image; each dict has metric names as keys.

    Attributes:
      num_slices: slices (or volumes) scored, per patient.
      num_identical: slices equal to the target, which have no finite PSNR.
      num_undefined: metric -> slices (or volumes) in which it is not defined,
        such as the error in bone where there is none; only where there are.
      per_patient: patient -> mean over the patient's slices (or volumes).
      patient_mean: mean over patients of `per_patient`.
      patient_sd: sample standard deviation over patients; NaN for one patient.
      slice_mean: mean over all slices (or volumes), as in the paper.
    """

    num_slices: dict[str, int]
    num_identical: int
    num_undefined: dict[str, int]
    per_patient: dict[str, dict[str, float]]
    patient_mean: dict[str, float]
    patient_sd: dict[str, float]
    slice_mean: dict[str, float]


def score_slices(
    samples: Iterable[Sample],
    translate: Translate,
    *,
    protocol: protocols.Protocol = protocols.VALIDATION,
    weighted: compare.Weighted | None = None,
    score_source: bool = False,
    baselines: Mapping[str, Callable[[Sample], np.ndarray]] | None = None,
    batch_size: int = 8,
) -> Scores:
    """Translates every slice and compares it with its target.

    Args:
      samples: the slices; read once. One batch is in memory at a time, and
        all slices of a patient's study where the protocol scores volumes:
        there they must come one study after the other.
      translate: [B, H, W, C] in [-1, 1] -> [B, H, W, 1] in [-1, 1]; NumPy in,
        anything that `np.asarray` understands out.
      protocol: what is computed, fitted to the target's modality; the default
        is the cheap one for validation while training.
      weighted: name -> function(translated, target, *, data_range) of the
        metrics that need weights; those not named are not computed.
      score_source: also score the untouched source (its first channel) as
        "source": what doing nothing is worth. Only meaningful where source
        and target are of the same modality.
      baselines: name -> function of a sample that gives an image [H, W] or
        [H, W, 1] in [-1, 1], scored under that name: neither "source" nor
        "translated".
      batch_size: slices per call of `translate`; the last may be smaller.

    Returns:
      `Scores`, for each slice (or volume) in the order source, baselines,
      translated.

    Raises:
      DataError: a translated image or baseline has the wrong shape or values
        outside [-1, 1], the slices do not form volumes, or nothing could be
        scored.
      ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}.")
    baselines = dict(baselines or {})
    if score_source:
        baselines = {"source": first_channel, **baselines}

    pairs = _images(samples, translate, baselines, batch_size)
    if protocol.scored == "volume":
        scores = _score_volumes(pairs, protocol)
    else:
        scores = _score_each(pairs, protocol, weighted)
    if not scores.rows:
        raise errors.DataError(
            f"No {protocol.scored} could be scored: {scores.num_skipped} "
            "found, all without a mask of at least "
            f"{metrics.SSIM_WINDOW} pixels; check the split and the prepared "
            "data."
        )
    return scores


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


def translated_images(
    samples: list[Sample], translate: Translate
) -> list[np.ndarray]:
    """Translates a batch: one [H, W] in [-1, 1] per sample.

    Raises:
      DataError: an image has the wrong shape or values outside [-1, 1].
    """
    sources = np.stack([sample.source for sample in samples])
    translated = np.asarray(translate(sources), dtype=np.float32)
    if translated.shape != (*sources.shape[:3], 1):
        raise errors.DataError(
            f"Translating {sources.shape} gave {translated.shape}; expected "
            f"{(*sources.shape[:3], 1)}."
        )
    return [
        _checked_image(image, "translated", sample)
        for image, sample in zip(translated, samples, strict=True)
    ]


def first_channel(sample: Sample) -> np.ndarray:
    """The source that decides on the grid, without the further ones."""
    return sample.source[:, :, 0]


def _images(
    samples: Iterable[Sample],
    translate: Translate,
    baselines: Mapping[str, Callable[[Sample], np.ndarray]],
    batch_size: int,
) -> Iterator[tuple[Sample, Images]]:
    """Yields each sample with its images, the translated one last."""
    iterator = iter(samples)
    while batch := list(itertools.islice(iterator, batch_size)):
        translated = translated_images(batch, translate)
        for sample, image in zip(batch, translated, strict=True):
            images = {
                name: _checked_image(function(sample), name, sample)
                for name, function in baselines.items()
            }
            yield sample, {**images, "translated": image}


def _score_each(
    pairs: Iterable[tuple[Sample, Images]],
    protocol: protocols.Protocol,
    weighted: compare.Weighted | None,
) -> Scores:
    """One row per slice and image."""
    rows, num_skipped = [], 0
    for sample, images in pairs:
        if not compare.is_scorable(sample):
            num_skipped += 1
            continue
        for name, image in images.items():
            values = compare.slice_values(image, sample, protocol, weighted)
            rows.append(_score(sample, name, values, protocol))
    return Scores(rows, num_skipped, rows)


def _score_volumes(
    pairs: Iterable[tuple[Sample, Images]], protocol: protocols.Protocol
) -> Scores:
    """One row per volume and image; one volume in memory at a time."""
    rows, slices, num_skipped, seen = [], [], 0, set()
    for key, group in itertools.groupby(pairs, key=_volume_of):
        if key in seen:
            raise errors.DataError(
                f"The slices of patient {key[0]} do not come one after the "
                "other; sort the samples by patient and study."
            )
        seen.add(key)
        samples, images = zip(*group, strict=True)
        for sample, found in zip(samples, images, strict=True):
            if compare.is_scorable(sample):
                values = compare.slice_values(
                    found["translated"], sample, protocols.VALIDATION
                )
                slices.append(_score(sample, "translated", values, protocol))
        by_name = {
            name: [found[name] for found in images] for name in images[0]
        }
        scored = compare.volume_values(by_name, samples, protocol)
        num_skipped += not scored
        rows += [
            dataclasses.replace(
                _score(samples[0], name, values, protocol), slice_index=None
            )
            for name, values in scored.items()
        ]
    return Scores(rows, num_skipped, slices)


def _volume_of(pair: tuple[Sample, Images]) -> tuple[str, str]:
    sample, _ = pair
    return sample.patient, sample.study


def _score(
    sample: Sample,
    image: str,
    values: dict[str, float],
    protocol: protocols.Protocol,
) -> Score:
    window = protocol.window or sample.target_window
    return Score(
        sample.patient, sample.slice_index, image, values, sample.study, window
    )


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
    undefined = {
        name: int(np.isnan([values[name] for values in slices]).sum())
        for name in slices[0]
    }
    return ImageSummary(
        num_slices={p: len(values) for p, values in by_patient.items()},
        num_identical=sum(np.isinf(values["psnr"]) for values in slices),
        num_undefined={name: n for name, n in undefined.items() if n},
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
