"""One slice of a patient, twice: what goes in and what should come out."""

from __future__ import annotations

import dataclasses

import numpy as np

from medgan_tf import errors

# Resampled and stored values may miss +-1 by rounding, HU miss it by far.
RANGE_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A slice to translate, and what should come out.

    Attributes:
      patient: identifier; slices with the same one belong together.
      slice_index: number of the slice within the patient's slice grid.
      source: float32 in [-1, 1], shape [H, W, C].
      target: float32 in [-1, 1], shape [H, W, 1].
      mask: bool, shape [H, W]: True inside the source's field of view and
        where the target has data; False in padding.
      source_window: (low, high) in the unit of the source's first channel,
        shown as -1 and 1.
      target_window: the same of the target.
      study: tells the studies of a patient apart; empty if there is one.
      more_source_windows: (low, high) of the source's further channels.
      simulation: parameters of the simulator, JSON; empty if there is none.

    Raises:
      DataError: shapes do not fit, the mask is not bool, a window is empty,
        or an image has values outside [-1, 1].
    """

    patient: str
    slice_index: int
    source: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    source_window: tuple[float, float]
    target_window: tuple[float, float]
    study: str = ""
    more_source_windows: tuple[tuple[float, float], ...] = ()
    simulation: str = ""

    def __post_init__(self):
        height_width = self.mask.shape
        if (
            self.mask.dtype != bool
            or self.source.ndim != 3
            or self.source.shape[:2] != height_width
            or self.target.shape != (*height_width, 1)
        ):
            raise errors.DataError(
                f"Source {self.source.shape}, target {self.target.shape} and "
                f"{self.mask.dtype} mask {height_width} of {self.name} do not "
                "fit; expected [H, W, C], [H, W, 1] and bool [H, W]."
            )
        for low, high in (*self.source_windows, self.target_window):
            if not low < high:
                raise errors.DataError(
                    f"A window of {self.name} goes from {low} to {high}; "
                    "expected low < high."
                )
        check_range(self.source, "source", self.name)
        check_range(self.target, "target", self.name)

    @property
    def source_windows(self) -> tuple[tuple[float, float], ...]:
        """(low, high) of each channel of the source, in its unit."""
        return (self.source_window, *self.more_source_windows)

    @property
    def name(self) -> str:
        """The slice in words, for messages."""
        of_study = f", study {self.study}" if self.study else ""
        return f"slice {self.slice_index} of patient {self.patient}{of_study}"


def check_range(image: np.ndarray, what: str, where: str) -> None:
    """Raises DataError unless all values are in [-1, 1]."""
    # NaN fails the comparison too.
    if not np.abs(image).max() <= 1 + RANGE_TOLERANCE:
        raise errors.DataError(
            f"The {what} of {where} has values from {image.min():.4g} to "
            f"{image.max():.4g}; expected [-1, 1]."
        )
