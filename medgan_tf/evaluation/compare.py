"""All numbers of a protocol for one translated slice or volume."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from medgan_tf import errors
from medgan_tf.data import preprocess
from medgan_tf.data import volume as volumes
from medgan_tf.data.sample import Sample
from medgan_tf.evaluation import metrics
from medgan_tf.evaluation.protocols import GREY_LEVELS, Measure, Protocol

# Name of a metric that needs weights -> a function with them.
Weighted = Mapping[str, Callable[..., float]]


def physical(image: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """[-1, 1] -> the physical unit of the window, float64."""
    low, high = window
    return low + (image.astype(np.float64) + 1) / 2 * (high - low)


def box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds the whole mask; empty if it is empty."""
    sides = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        sides.append(
            slice(found[0], found[-1] + 1) if found.size else slice(0, 0)
        )
    return tuple(sides)


def is_scorable(sample: Sample) -> bool:
    """Whether the box of the mask holds one SSIM window."""
    sides = box(sample.mask)
    return min(side.stop - side.start for side in sides) >= metrics.SSIM_WINDOW


def slice_values(
    image: np.ndarray,
    sample: Sample,
    protocol: Protocol,
    weighted: Weighted | None = None,
) -> dict[str, float]:
    """Compares a translated slice with its target.

    Args:
      image: [H, W] in [-1, 1].
      sample: the slice; its box holds an SSIM window, see `is_scorable`.
      protocol: one that scores slices.
      weighted: functions of the metrics that need weights, as far as these
        are at hand; the others are left out.

    Returns:
      Name -> number; NaN where it is not defined, be it that the box is
      smaller than a window.
    """
    return _values(
        physical(image, sample.target_window),
        physical(sample.target[:, :, 0], sample.target_window),
        sample.mask,
        sample.target_window,
        protocol,
        weighted or {},
    )


def volume_values(
    images: Mapping[str, Sequence[np.ndarray]],
    samples: Sequence[Sample],
    protocol: Protocol,
) -> dict[str, dict[str, float]]:
    """Compares the translated slices of one volume with their targets.

    Args:
      images: name -> [H, W] in [-1, 1], one for each sample.
      samples: the slices of one patient and study, in any order.
      protocol: one that scores volumes.

    Returns:
      Name of the images -> name of the metric -> number, NaN where it is not
      defined; empty if the mask is.

    Raises:
      DataError: the slices do not form a volume: a number comes twice, or
        sizes or windows differ.
    """
    first = samples[0]
    numbers = sorted(sample.slice_index for sample in samples)
    repeated = {a for a, b in itertools.pairwise(numbers) if a == b}
    if repeated:
        raise errors.DataError(
            f"Slice {min(repeated)} of patient {first.patient} comes twice; "
            f"protocol {protocol.name} scores whole volumes: choose "
            "--protocol=paper for several versions of a slice."
        )
    for sample in samples:
        if (
            sample.mask.shape != first.mask.shape
            or sample.target_window != first.target_window
        ):
            raise errors.DataError(
                f"{first.name} and {sample.name} differ in size or window; "
                f"protocol {protocol.name} scores whole volumes: choose "
                "--protocol=paper, or prepare the data again."
            )

    def stacked(slices: Iterable[np.ndarray], missing: float) -> np.ndarray:
        # A slice that is not there keeps its place, outside the mask.
        num_slices = numbers[-1] - numbers[0] + 1
        array = np.full((num_slices, *first.mask.shape), missing)
        for sample, values in zip(samples, slices, strict=True):
            array[sample.slice_index - numbers[0]] = values
        return array

    target = stacked((sample.target[:, :, 0] for sample in samples), -1.0)
    target = physical(target, first.target_window)
    mask = stacked((sample.mask for sample in samples), False)
    if protocol.mask == "body":
        mask &= _body(target, first.target_window, protocol)
    if not mask.any():
        return {}
    return {
        name: _values(
            physical(stacked(slices, -1.0), first.target_window),
            target,
            mask,
            first.target_window,
            protocol,
            {},
        )
        for name, slices in images.items()
    }


def check_volumes(protocol: Protocol, too_large: str) -> None:
    """Raises a UsageError if tiles would have to be scored as a volume."""
    if protocol.scored == "volume" and too_large == "tile":
        raise errors.UsageError(
            f"Protocol {protocol.name} scores whole volumes, the records hold "
            "overlapping tiles; choose --protocol=paper."
        )


def _values(
    image: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray,
    prepared_with: tuple[float, float],
    protocol: Protocol,
    weighted: Weighted,
) -> dict[str, float]:
    """All measures of two arrays in physical units."""
    window = protocol.window or prepared_with
    return {
        name: _value(measure, function, image, target, mask, window)
        for name, measure in protocol.measures.items()
        if (function := measure.metric.function or weighted.get(name))
    }


def _value(
    measure: Measure,
    function: Callable[..., float],
    image: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray,
    window: tuple[float, float],
) -> float:
    """One number of two arrays in physical units."""
    low, high = window
    data_range = high - low
    more = {}
    if measure.place == "mask":
        pair = [image[mask], target[mask]]
    elif measure.place == "box":
        sides = box(mask)
        pair = [np.where(mask, image, target)[sides], target[sides]]
    else:
        pair = [np.where(mask, array, low) for array in (image, target)]
        more["mask"] = mask
    if min(pair[0].shape) < measure.metric.smallest:
        return float("nan")
    if measure.scale != "physical":
        pair = [np.clip(array, low, high) - low for array in pair]
    if measure.scale == "grey":
        # In this order the end of the window is 255 to the last bit.
        pair = [array / data_range * GREY_LEVELS for array in pair]
        data_range = GREY_LEVELS
    return float(function(*pair, data_range=data_range, **more))


def _body(
    target: np.ndarray, window: tuple[float, float], protocol: Protocol
) -> np.ndarray:
    """bool [slices, H, W]: the patient, as the target shows it."""
    volume = volumes.Volume(target.transpose(1, 2, 0), np.eye(4))
    body = preprocess.body_mask(volume, protocol.target, window)
    return body.transpose(2, 0, 1)
