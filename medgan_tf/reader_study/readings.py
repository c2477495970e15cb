"""The answers of a study, with the key laid beside them."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import os
import pathlib
from collections.abc import Callable

import numpy as np

from medgan_tf import errors, json_files
from medgan_tf.reader_study import storage, study

# The ground truth among the methods.
TARGET = "target"
FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Readings:
    """All answers of a study. R readers, T trials, L labels.

    Attributes:
      title: of the study, for people.
      readers: who gave an answer at least.
      trials: identifiers of those that one reader answered at least.
      patients: of each trial.
      labels: "target", then the methods.
      scores: [R, T, L], 1 to 4; NaN where there is no answer.
      judged: [R, T, L], 1 where the image was judged to be the real one, else
        0; NaN where there is no answer.
      positions: [R, T], the place in the reader's own order.
      seconds: [R, T], how long the reader took.
      num_expected: answers of a complete study.
    """

    title: str
    readers: tuple[str, ...]
    trials: tuple[str, ...]
    patients: tuple[str, ...]
    labels: tuple[str, ...]
    scores: np.ndarray
    judged: np.ndarray
    positions: np.ndarray
    seconds: np.ndarray
    num_expected: int

    @property
    def num_answers(self) -> int:
        """One for each reader and trial."""
        return int(np.isfinite(self.positions).sum())


def key_of(study_dir: str | os.PathLike) -> pathlib.Path:
    """Where the blinding key is unless said otherwise: beside the folder."""
    return _beside(study_dir, "_key.json")


def tokens_of(study_dir: str | os.PathLike) -> pathlib.Path:
    """Where the readers' tokens are: beside the folder."""
    return _beside(study_dir, "_tokens.txt")


def read(
    study_dir: str | os.PathLike,
    key_path: str | os.PathLike | None = None,
    *,
    allow_incomplete: bool = False,
) -> tuple[Readings, list[dict]]:
    """Reads the answers and takes the blinds off.

    Args:
      study_dir: the folder that the readers saw.
      key_path: the blinding key; None: beside the folder.
      allow_incomplete: whether answers may be missing.

    Returns:
      The readings, and the same as a table: one row for each answer and
      image, in the readers' order.

    Raises:
      ArtefactError: a file is missing or damaged, or the key is another
        study's.
      DataError: there are no answers, or not all of them.
    """
    study_dir = pathlib.Path(study_dir)
    key_path = pathlib.Path(key_path or key_of(study_dir))
    told, key = _study_and_key(study_dir / study.STUDY_FILE, key_path)
    path = study_dir / study.ANSWERS_FILE
    answers = storage.read_answers(path)
    num_expected = storage.num_expected(path)
    if not answers or (len(answers) < num_expected and not allow_incomplete):
        raise errors.refusal(
            path,
            f"{len(answers)} of {num_expected} answers",
            "all of them" if answers else "some",
            "wait for the readers"
            + ", or analyse what is there with --incomplete" * bool(answers),
        )
    rows = _rows(answers, key, path)
    return _table(rows, told, key, num_expected), rows


def csv_text(rows: list[dict]) -> str:
    """A table as CSV with a line of names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _beside(folder: str | os.PathLike, suffix: str) -> pathlib.Path:
    folder = pathlib.Path(folder).absolute()
    return folder.with_name(folder.name + suffix)


def _study_and_key(
    study_path: pathlib.Path, key_path: pathlib.Path
) -> tuple[dict, dict]:
    """Both files, if the one belongs to the other."""
    content = _content(study_path, "the study", "--study_dir")
    told = _parsed(study_path, content)
    key = _parsed(
        key_path,
        _content(key_path, "the blinding key", "--key"),
        _check_key,
    )
    if key.get("study") != hashlib.sha256(content).hexdigest():
        raise errors.ArtefactError(
            f"{key_path} is the key of another study than {study_path}, or "
            "one of them was changed; name the right one by --key."
        )
    return told, key


def _content(path: pathlib.Path, what: str, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.ArtefactError(
            f"{path}: {error.strerror}; expected {what}, name it by {flag}."
        ) from error


def _parsed(
    path: pathlib.Path,
    content: bytes,
    check: Callable[[dict], None] = lambda found: None,
) -> dict:
    try:
        found = json_files.loads(content)
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}")
        check(found)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise errors.ArtefactError(
            f"{path} cannot be read ({error!r}); expected format {FORMAT}: "
            "restore the file, or use the version that wrote it."
        ) from error
    return found


def _check_key(key: dict) -> None:
    """Some error if a part is missing or of another kind."""
    labels = sorted((TARGET, *key["methods"]))
    for name, trial in key["trials"].items():
        _ = trial["patient"], trial["study"], trial["slice"]
        if sorted(trial["images"].values()) != labels:
            raise ValueError(f"trial {name} has not the images {labels}")


def _rows(answers: list, key: dict, path: pathlib.Path) -> list[dict]:
    rows = []
    for one in sorted(answers, key=lambda one: (one.reader, one.position)):
        trial = key["trials"].get(one.trial, {"images": {}})
        label_of = trial["images"]
        if not (
            one.scores
            and one.scores.keys() == label_of.keys()
            and one.judged_real in label_of
            and set(one.scores.values()) <= set(storage.SCORES)
        ):
            raise errors.ArtefactError(
                f"{path}: the answer of {one.reader} to trial {one.trial} "
                "does not fit the key; restore the file as the server wrote it."
            )
        rows += [
            {
                "reader": one.reader,
                "trial": one.trial,
                "position": one.position,
                "patient": trial["patient"],
                "study": trial["study"],
                "slice": trial["slice"],
                "image": label,
                "score": one.scores[image],
                "judged_real": int(image == one.judged_real),
                "seconds": one.seconds,
                "answered_at": one.answered_at,
            }
            for image, label in sorted(label_of.items(), key=lambda i: i[1])
        ]
    return rows


def _table(
    rows: list[dict], told: dict, key: dict, num_expected: int
) -> Readings:
    labels = (TARGET, *key["methods"])
    readers = tuple(dict.fromkeys(row["reader"] for row in rows))
    answered = {row["trial"] for row in rows}
    trials = tuple(t["id"] for t in told["trials"] if t["id"] in answered)
    places = [
        {name: i for i, name in enumerate(names)}
        for names in (readers, trials, labels)
    ]
    shape = tuple(map(len, places))
    scores, judged = np.full((2, *shape), np.nan)
    positions, seconds = np.full((2, *shape[:2]), np.nan)
    for row in rows:
        names = row["reader"], row["trial"], row["image"]
        at = tuple(p[name] for p, name in zip(places, names, strict=True))
        scores[at], judged[at] = row["score"], row["judged_real"]
        positions[at[:2]], seconds[at[:2]] = row["position"], row["seconds"]
    return Readings(
        title=told["title"],
        readers=readers,
        trials=trials,
        patients=tuple(key["trials"][trial]["patient"] for trial in trials),
        labels=labels,
        scores=scores,
        judged=judged,
        positions=positions,
        seconds=seconds,
        num_expected=num_expected,
    )
