"""Which translated slices to look at, without favour."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from medgan_tf import errors
from medgan_tf.data.sample import Sample
from medgan_tf.evaluation import compare, evaluate, protocols


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


def choose(
    rows: Iterable[evaluate.Score], *, num_patients: int = 4
) -> dict[tuple[str, str, int], str]:
    """Which slices to look at: two per patient, without favour.

    Args:
      rows: `Scores.slices` of `evaluate.score_slices`; only "translated" ones
        are considered.
      num_patients: at most so many, spread evenly from the patient with the
        lowest mean SSIM to the one with the highest.

    Returns:
      (patient, study, slice_index) -> "median" or "worst": the slices of
      median and of lowest SSIM of each chosen patient. A single slice is the
      median.
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


def translate_chosen(
    samples: Iterable[Sample],
    translate: evaluate.Translate,
    chosen: Mapping[tuple[str, str, int], str],
) -> list[Example]:
    """Translates the chosen slices once more, to show them.

    A second pass over the samples costs less than keeping every image of the
    first: the median is known only at the end.

    Args:
      samples: the slices given to `evaluate.score_slices`, to be read again.
      translate: as for `evaluate.score_slices`. If it draws random numbers,
        the image shown is another draw; its SSIM is that of the image shown.
      chosen: as from `choose`.

    Returns:
      One example per chosen slice, in the order of `chosen`.

    Raises:
      DataError: a chosen slice is not among the samples.
    """
    examples = {}
    for sample in samples:
        key = (sample.patient, sample.study, sample.slice_index)
        if (
            key not in chosen
            or key in examples
            or not compare.is_scorable(sample)
        ):
            continue
        (translated,) = evaluate.translated_images([sample], translate)
        examples[key] = _example(sample, translated, chosen[key])
    missing = len(chosen) - len(examples)
    if missing:
        raise errors.DataError(
            f"{missing} of {len(chosen)} chosen slices are not among the "
            "samples; pass the samples that were scored, and something that "
            "can be read twice."
        )
    return [examples[key] for key in chosen]


def _example(sample: Sample, translated: np.ndarray, kind: str) -> Example:
    """Cuts a translated slice to its box and puts it in physical units."""
    box = compare.box(sample.mask)
    values = compare.slice_values(translated, sample, protocols.VALIDATION)
    return Example(
        patient=sample.patient,
        slice_index=sample.slice_index,
        kind=kind,
        source=compare.physical(
            evaluate.first_channel(sample)[box], sample.source_window
        ),
        translated=compare.physical(translated[box], sample.target_window),
        target=compare.physical(
            sample.target[:, :, 0][box], sample.target_window
        ),
        mask=sample.mask[box],
        source_window=sample.source_window,
        target_window=sample.target_window,
        ssim=values["ssim"],
        study=sample.study,
    )
