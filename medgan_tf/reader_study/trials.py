"""Makes a reader study, without a hint of which image is real.

In a trial of the paper's perceptual study a reader sees the real image and
those of two methods side by side, and does not know which is which. What the
readers see lies in one folder, the key in a file beside it. Nothing in the
folder tells a method: names are drawn, all files have one size and one time,
all values are on one grid, and what lies outside the scored field of view is
air in all images.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from medgan_tf import errors, tasks
from medgan_tf.data import preprocess
from medgan_tf.data.sample import Sample
from medgan_tf.evaluation import evaluate, picture
from medgan_tf.reader_study import choice, readings, storage, study

# The finest difference that is stored, in `unit_of`. Scanners store whole HU
# and networks do not: a narrow window, or a count of the values, would tell.
STEPS = {"CT": 1.0, "PET": 0.01, "MR": 0.2}
# Display windows, the same for all images of a task. CT as in our pictures;
# SUV 7 is where most PET readers begin; MR has no unit, see `unit_of`.
WINDOWS = {"CT": picture.CT_DISPLAY_HU, "PET": (0.0, 7.0), "MR": (0.0, 100.0)}
PER_CENT = (0.0, 100.0)
WORDS = {
    "1": "not realistic",
    "2": "rather not realistic",
    "3": "rather realistic",
    "4": "realistic",
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a study shall be like.

    Attributes:
      task: whose target is judged.
      num_trials: how many each reader sees.
      num_readers: how many.
      seed: decides on slices and orders. Who knows it, the data and this
        program knows the key: draw it, and tell no reader.
      window: (low, high) in `unit_of` to begin with; None: that of WINDOWS.
      origin: where the images are from, for the key; JSON.
    """

    task: tasks.Task
    num_trials: int
    num_readers: int
    seed: int
    window: tuple[float, float] | None = None
    origin: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Created:
    """What was written.

    Attributes:
      folder: what readers may see.
      key: the blinding key.
      tokens: of the readers.
      per_patient: patient -> trials.
      num_slices: slices there were.
      num_small: slices left out, with too little body.
    """

    folder: pathlib.Path
    key: pathlib.Path
    tokens: pathlib.Path
    per_patient: dict[str, int]
    num_slices: int
    num_small: int


def unit_of(modality: tasks.Modality) -> tuple[str, tuple[float, float]]:
    """The unit that readers see, and its values for -1 and 1.

    Where the modality has no window of its own, per cent of the robust
    maximum of the study's target.
    """
    if modality.window is None:
        return "% of the maximum", PER_CENT
    return modality.unit, modality.window


def create(
    study_dir: str | os.PathLike,
    samples: Callable[[], Iterable[Sample]],
    methods: Mapping[str, evaluate.Translate],
    plan: Plan,
    *,
    key_path: str | os.PathLike | None = None,
) -> Created:
    """Writes the study, the key and the readers' tokens, or nothing.

    Args:
      study_dir: a new folder.
      samples: gives the slices, each time it is called.
      methods: label -> what translates a batch of sources.
      plan: see there.
      key_path: a new file; None: beside the folder.

    Returns:
      What was written, and how the trials are spread.

    Raises:
      UsageError: a label or the window will not do.
      DataError: too few slices, something there already, or two images of a
        trial that are the same.
      ResourceError: something cannot be written.
    """
    folder = pathlib.Path(study_dir).absolute()
    key_path = pathlib.Path(key_path or readings.key_of(folder)).absolute()
    tokens_path = readings.tokens_of(folder)
    _check(folder, key_path, tokens_path, methods, plan)
    rng = np.random.default_rng(plan.seed)
    found = choice.candidates(samples(), plan.task.target)
    large = choice.with_body(found)
    chosen = choice.choose(large, plan.num_trials, rng)
    images = _images(
        samples, methods, {one.place for one in chosen}, plan.task.target
    )

    trials, key_trials, files = [], {}, {}
    for at in rng.permutation(len(chosen)):
        place, trial = chosen[at].place, _name()
        names = {label: _name() for label in images[place]}
        trials.append({"id": trial, "images": sorted(names.values())})
        label_of = {name: label for label, name in names.items()}
        key_trials[trial] = {
            **dict(zip(("patient", "study", "slice"), place, strict=True)),
            "images": {name: label_of[name] for name in sorted(label_of)},
        }
        files |= {names[k]: image for k, image in images[place].items()}
    told = json.dumps(_told(plan, trials), indent=1).encode()
    key = {
        "format": readings.FORMAT,
        "study": hashlib.sha256(told).hexdigest(),
        "methods": list(methods),
        "trials": key_trials,
        "seed": plan.seed,
        "origin": dict(plan.origin),
    }

    with _all_or_nothing(folder) as (temporary, fill):
        (temporary / study.STUDY_FILE).write_bytes(told)
        tokens = storage.create(
            temporary / study.ANSWERS_FILE,
            [one["id"] for one in trials],
            {one["id"]: one["images"] for one in trials},
            plan.num_readers,
            int(rng.integers(2**31)),
        )
        _write_images(temporary / study.IMAGES_FOLDER, files)
        fill(key_path, json.dumps(key, indent=1))
        fill(
            tokens_path,
            "".join(f"reader{i}\t{t}\n" for i, t in enumerate(tokens, 1)),
        )
    per_patient = collections.Counter(one.patient for one in chosen)
    return Created(
        folder,
        key_path,
        tokens_path,
        dict(sorted(per_patient.items())),
        len(found),
        len(found) - len(large),
    )


def _check(
    folder: pathlib.Path,
    key_path: pathlib.Path,
    tokens_path: pathlib.Path,
    methods: Mapping[str, evaluate.Translate],
    plan: Plan,
) -> None:
    for path in (folder, key_path, tokens_path):
        if os.path.lexists(path):
            raise errors.refusal(
                path, "something there already", "a new name", "choose another"
            )
    if key_path.is_relative_to(folder):
        raise errors.UsageError(
            f"The key {key_path} would lie in the folder that readers see; "
            "choose a place outside."
        )
    most = study.MOST_IMAGES - 1
    if not 1 <= len(methods) <= most or readings.TARGET in methods:
        raise errors.UsageError(
            f"Methods must be 1 to {most}, none called {readings.TARGET!r}; "
            f"got {', '.join(methods) or 'none'}."
        )
    low, high = _window(plan)
    least, most = unit_of(plan.task.target)[1]
    if not least <= low < high <= most:
        raise errors.UsageError(
            f"The window must lie within {least:g} to {most:g} "
            f"{unit_of(plan.task.target)[0]}, got {low:g} to {high:g}."
        )
    if plan.num_trials < 1 or plan.num_readers < 1:
        raise errors.UsageError(
            "A study needs a trial and a reader at least, got "
            f"{plan.num_trials} and {plan.num_readers}."
        )


def _window(plan: Plan) -> tuple[float, float]:
    return plan.window or WINDOWS[plan.task.target.name]


def _images(
    samples: Callable[[], Iterable[Sample]],
    methods: Mapping[str, evaluate.Translate],
    places: set[choice.Place],
    target: tasks.Modality,
) -> dict[choice.Place, dict[str, np.ndarray]]:
    """Place -> label -> image as it will be stored."""
    found = {}
    for one in samples():
        place = one.patient, one.study, one.slice_index
        if place not in places:
            continue
        size = (preprocess.SLICE_SIZE,) * 2
        if one.mask.shape != size:
            raise errors.DataError(
                f"{one.name} has {one.mask.shape} pixels; expected {size}: "
                "prepare the data again."
            )
        images = {readings.TARGET: one.target[..., 0]}
        for label, translate in methods.items():
            (images[label],) = evaluate.translated_images([one], translate)
        found[place] = {
            k: _stored(v, one.mask, target) for k, v in images.items()
        }
        _check_differ(found[place], one)
    return found


def _stored(
    image: np.ndarray, mask: np.ndarray, target: tasks.Modality
) -> np.ndarray:
    """[-1, 1] -> steps above -1, uint16; -1, air, outside the mask."""
    low, high = unit_of(target)[1]
    scaled = (np.clip(image, -1, 1).astype(np.float64) + 1) / 2
    steps = scaled * (high - low) / STEPS[target.name]
    return np.rint(np.where(mask, steps, 0)).astype("<u2")


def _check_differ(images: Mapping[str, np.ndarray], sample: Sample) -> None:
    labels = {}
    for label, image in images.items():
        other = labels.setdefault(image.tobytes(), label)
        if other != label:
            raise errors.DataError(
                f"{label} and {other} have the same image of {sample.name}; "
                "expected different ones: check the folders."
            )


def _name() -> str:
    # Not from the seed: readers see names, and could try seeds until they
    # find these.
    return secrets.token_hex(8)


def _told(plan: Plan, trials: list[dict]) -> dict:
    """What readers may know."""
    unit, (low, _) = unit_of(plan.task.target)
    return {
        "format": study.FORMAT,
        "title": plan.task.title,
        "task": plan.task.name,
        "unit": unit,
        "window": list(_window(plan)),
        "intensity": {
            "slope": STEPS[plan.task.target.name],
            "intercept": low,
        },
        "words": WORDS,
        "trials": trials,
    }


def _write_images(
    folder: pathlib.Path, files: Mapping[str, np.ndarray]
) -> None:
    folder.mkdir()
    # In the order of names and with one time for all, because otherwise the
    # real image would be the oldest of its trial.
    for name, image in sorted(files.items()):
        path = folder / f"{name}.u16"
        path.write_bytes(image.tobytes())
        os.utime(path, (0, 0))


@contextlib.contextmanager
def _all_or_nothing(
    folder: pathlib.Path,
) -> Iterator[tuple[pathlib.Path, Callable[[pathlib.Path, str], None]]]:
    """A folder to fill, which becomes `folder` when all went well.

    Beside it, what writes a new file that only its owner may read. If
    something fails, the folder and these files are removed again.
    """
    written = []

    def fill(path: pathlib.Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        written.append(path)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)

    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(
            tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent)
        )
        yield temporary, fill
        temporary.rename(folder)
    except BaseException as error:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise errors.ResourceError(
                f"Cannot write {error.filename or folder}: {error.strerror}; "
                "choose a place that is new, writable and has space."
            ) from error
        raise
