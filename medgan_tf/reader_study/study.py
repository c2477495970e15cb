"""What readers are shown: the folder of a study, without its key."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import re

from medgan_tf import errors, json_files
from medgan_tf.reader_study import storage

STUDY_FILE = "study.json"
ANSWERS_FILE = "answers.sqlite"
IMAGES_FOLDER = "images"
FORMAT = 1
SIDE = 256
IMAGE_BYTES = SIDE * SIDE * 2
# Keys A to G; H is for help.
MOST_IMAGES = 7
_ID = re.compile("[0-9a-f]{1,64}")


@dataclasses.dataclass(frozen=True)
class Study:
    """A study as its readers see it.

    A physical value is slope * stored value + intercept.

    Attributes:
      folder: of the study.
      title: in words.
      unit: of the values; may be empty.
      window: the values that are shown as black and as white.
      slope: of a stored value, 0 to 65535.
      intercept: likewise.
      words: "1" to "4" -> what the score means.
      trials: id -> ids of its images, in no order that means anything.
    """

    folder: pathlib.Path
    title: str
    unit: str
    window: tuple[float, float]
    slope: float
    intercept: float
    words: dict[str, str]
    trials: dict[str, list[str]]

    @property
    def answers(self) -> pathlib.Path:
        """The file with what readers answered."""
        return self.folder / ANSWERS_FILE

    def image_path(self, image: str) -> pathlib.Path:
        """The file of an image: 256 x 256 uint16, little-endian."""
        return self.folder / IMAGES_FOLDER / f"{image}.u16"


def read(folder: str | os.PathLike) -> Study:
    """Reads and checks all that a reader may come to see.

    Args:
      folder: as `reader_study.py create` made it.

    Raises:
      DataError: something is missing, damaged or does not belong together.
    """
    folder = pathlib.Path(folder)
    path = folder / STUDY_FILE
    try:
        found = _parsed(json_files.read(path), folder)
    except OSError as error:
        raise _refused(path, error.strerror) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refused(path, f"{type(error).__name__}: {error}") from error
    if {t: set(i) for t, i in found.trials.items()} != storage.trials(
        found.answers
    ):
        raise _refused(found.answers, "the trials of another study")
    for image in sum(found.trials.values(), []):
        image_path = found.image_path(image)
        try:
            size = image_path.stat().st_size
        except OSError as error:
            raise _refused(image_path, error.strerror) from error
        if size != IMAGE_BYTES:
            raise _refused(image_path, f"{size} bytes, not {IMAGE_BYTES}")
    return found


def _parsed(told: dict, folder: pathlib.Path) -> Study:
    """The study of a file's contents; ValueError if they make no sense."""
    low, high = map(float, told["window"])
    slope = float(told["intensity"]["slope"])
    intercept = float(told["intensity"]["intercept"])
    words = {str(score): told["words"][str(score)] for score in storage.SCORES}
    trials = {trial["id"]: trial["images"] for trial in told["trials"]}
    images = sum(trials.values(), [])
    texts = [told["title"], told["unit"], *words.values()]
    for problem, is_so in (
        (f"format {told['format']}", told["format"] != FORMAT),
        ("a text that is none", not all(isinstance(t, str) for t in texts)),
        (
            "numbers that show nothing",
            not all(map(math.isfinite, (low, high, slope, intercept)))
            or low >= high
            or slope == 0,
        ),
        (
            "no trials, or two of one name",
            not trials or len(trials) != len(told["trials"]),
        ),
        ("an image in two places", len(set(images)) != len(images)),
        (
            f"a trial without 2 to {MOST_IMAGES} images",
            not all(2 <= len(t) <= MOST_IMAGES for t in trials.values()),
        ),
        # Because names become paths.
        (
            "a name that is not hexadecimal",
            not all(_ID.fullmatch(name) for name in (*trials, *images)),
        ),
    ):
        if is_so:
            raise ValueError(problem)
    return Study(
        folder,
        told["title"],
        told["unit"],
        (low, high),
        slope,
        intercept,
        words,
        trials,
    )


def _refused(path: pathlib.Path, found: str | None) -> errors.DataError:
    return errors.refusal(
        path,
        found or "nothing that can be read",
        "a part of a reader study",
        "name the folder that reader_study.py create made, or make it again",
    )
