"""Keeps what readers answer, so that no answer is lost and none is changed.

One SQLite file. An answer is one transaction, and when `add_answer` comes
back it is on the disk: it survives a killed process and a power failure. The
file holds no write-ahead log, because then whoever copies answers.sqlite
alone has all answers.

An answer once given stands. What is seen later must not change what was said
before, or trials would not be independent; so the file itself refuses it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import os
import pathlib
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from medgan_tf import errors

FORMAT = 1
SCORES = (1, 2, 3, 4)
MOST_READERS = 1000
MOST_SECONDS = 86_400.0
SCHEMA = f"""
PRAGMA user_version = {FORMAT};
CREATE TABLE readers(
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL DEFAULT '',
  token_sha256 TEXT NOT NULL UNIQUE
) WITHOUT ROWID;
CREATE TABLE images(
  trial TEXT NOT NULL,
  image TEXT NOT NULL,
  PRIMARY KEY (trial, image)
) WITHOUT ROWID;
CREATE TABLE trial_order(
  reader TEXT NOT NULL REFERENCES readers(id),
  position INTEGER NOT NULL,
  trial TEXT NOT NULL,
  PRIMARY KEY (reader, position),
  UNIQUE (reader, trial)
) WITHOUT ROWID;
CREATE TABLE answers(
  reader TEXT NOT NULL,
  trial TEXT NOT NULL,
  position INTEGER NOT NULL,
  judged_real TEXT NOT NULL,
  seconds REAL NOT NULL,
  answered_at TEXT NOT NULL,
  PRIMARY KEY (reader, trial),
  FOREIGN KEY (reader, position) REFERENCES trial_order(reader, position),
  FOREIGN KEY (trial, judged_real) REFERENCES images(trial, image)
) WITHOUT ROWID;
CREATE TABLE scores(
  reader TEXT NOT NULL,
  trial TEXT NOT NULL,
  image TEXT NOT NULL,
  score INTEGER NOT NULL CHECK (score BETWEEN {SCORES[0]} AND {SCORES[-1]}),
  PRIMARY KEY (reader, trial, image),
  FOREIGN KEY (reader, trial) REFERENCES answers(reader, trial),
  FOREIGN KEY (trial, image) REFERENCES images(trial, image)
) WITHOUT ROWID;
""" + "".join(
    f"""
CREATE TRIGGER {table}_{event} BEFORE {event} ON {table}
BEGIN SELECT RAISE(ABORT, 'an answer once given stands'); END;
"""
    for table in ("answers", "scores")
    for event in ("UPDATE", "DELETE")
)


class NotCurrentError(errors.UsageError):
    """An answer to a trial that is not the reader's next."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """Who signed in.

    Attributes:
      id: "reader1", "reader2", ...
      name: as the reader gave it; may be empty.
    """

    id: str
    name: str


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a reader is.

    Attributes:
      num_done: trials that are answered.
      num_trials: of the study.
      trial: the one to be answered next; None after the last.
    """

    num_done: int
    num_trials: int
    trial: str | None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a reader said of one trial.

    Attributes:
      reader: who.
      trial: of which trial.
      position: the trial's place in this reader's order, from 1.
      judged_real: the image that the reader holds to be the real one.
      scores: image -> 1 to 4, for each image of the trial.
      seconds: how long the reader looked, as the reader's page measured it.
      answered_at: when it was stored: UTC, ISO 8601.
    """

    reader: str
    trial: str
    position: int
    judged_real: str
    scores: dict[str, int]
    seconds: float
    answered_at: str


def create(
    path: str | os.PathLike,
    trial_ids: Sequence[str],
    images: Mapping[str, Sequence[str]],
    num_readers: int,
    seed: int,
) -> list[str]:
    """Makes a file without answers, which only its owner can read.

    Args:
      path: a new file.
      trial_ids: all trials; each reader has an own random order of them.
      images: trial -> its images, two or more.
      num_readers: 1 to 1000.
      seed: of the orders, not of the tokens.

    Returns:
      The token of each reader, in the order of "reader1", "reader2", ... They
      are nowhere else: the file has their SHA-256.

    Raises:
      UsageError: there is nothing to read, or nobody to do it.
      ResourceError: the file is there already or cannot be written.
    """
    if not 1 <= num_readers <= MOST_READERS:
        raise errors.UsageError(
            f"{num_readers} readers; expected 1 to {MOST_READERS}."
        )
    if not trial_ids or any(len(set(images[t])) < 2 for t in trial_ids):
        raise errors.UsageError(
            "Expected at least one trial, and two images or more in each."
        )
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise errors.ResourceError(
            f"{path}: cannot make it ({error.strerror}); choose a new file in "
            "a folder that can be written."
        ) from error
    tokens = [secrets.token_urlsafe(24) for _ in range(num_readers)]
    with _connected(path) as database:
        # A transaction of its own would be one per statement.
        database.executescript(f"BEGIN;{SCHEMA}")
        database.executemany(
            "INSERT INTO images VALUES (?, ?)",
            [(trial, image) for trial in trial_ids for image in images[trial]],
        )
        for number, token in enumerate(tokens, 1):
            reader = f"reader{number}"
            database.execute(
                "INSERT INTO readers VALUES (?, '', ?)", (reader, _hash(token))
            )
            rng = np.random.default_rng([seed, number])
            database.executemany(
                "INSERT INTO trial_order VALUES (?, ?, ?)",
                [
                    (reader, position, trial_ids[index])
                    for position, index in enumerate(
                        rng.permutation(len(trial_ids)), 1
                    )
                ],
            )
        database.commit()
    return tokens


def check_writable(path: str | os.PathLike) -> None:
    """Finds out before the first reader does that nothing can be stored.

    Raises:
      ResourceError: it cannot.
    """
    with _opened(path) as database:
        # Something must be written, or no journal is made; it is undone.
        database.execute("BEGIN IMMEDIATE")
        database.execute(f"PRAGMA user_version = {FORMAT}")


def trials(path: str | os.PathLike) -> dict[str, set[str]]:
    """Trial -> its images, of the whole study."""
    found = {}
    with _opened(path) as database:
        for trial, image in database.execute("SELECT * FROM images"):
            found.setdefault(trial, set()).add(image)
    return found


def find_reader(path: str | os.PathLike, token: str) -> Reader | None:
    """Whose token it is; None: nobody's."""
    with _opened(path) as database:
        row = database.execute(
            "SELECT id, name FROM readers WHERE token_sha256 = ?",
            (_hash(token),),
        ).fetchone()
    return row and Reader(*row)


def rename(path: str | os.PathLike, reader: str, name: str) -> None:
    """Keeps the name that a reader gave."""
    with _opened(path) as database:
        database.execute(
            "UPDATE readers SET name = ? WHERE id = ?", (name, reader)
        )
        database.commit()


def progress(path: str | os.PathLike, reader: str) -> Progress:
    """How far a reader is."""
    with _opened(path) as database:
        return _progress(database, reader)


def add_answer(
    path: str | os.PathLike,
    reader: str,
    trial: str,
    judged_real: str,
    scores: Mapping[str, int],
    seconds: float,
) -> Progress:
    """Stores an answer; when it returns, the answer is on the disk.

    Args:
      path: of the file.
      reader: who answers.
      trial: the reader's next; no other can be answered.
      judged_real: one of its images.
      scores: each of its images -> 1 to 4.
      seconds: 0 to 86 400.

    Returns:
      How far the reader is now.

    Raises:
      NotCurrentError: another trial is next, or none.
      UsageError: the answer is not complete, or not of this trial's images.
    """
    with _opened(path) as database:
        # Before anything is read, so that of two answers at a time one waits.
        database.execute("BEGIN IMMEDIATE")
        before = _progress(database, reader)
        if before.trial is None or trial != before.trial:
            raise NotCurrentError(
                "This trial was answered before, or is not the next; an answer "
                "once given stands."
            )
        rows = database.execute(
            "SELECT image FROM images WHERE trial = ?", (trial,)
        )
        images = {image for (image,) in rows}
        if set(scores) != images or judged_real not in images:
            raise errors.UsageError(
                "Expected a score for each image of the trial, and one of them "
                "as the real one."
            )
        if not all(type(s) is int and s in SCORES for s in scores.values()):
            raise errors.UsageError("Expected scores of 1, 2, 3 or 4.")
        if not 0 <= seconds <= MOST_SECONDS:
            raise errors.UsageError(f"Expected 0 to {MOST_SECONDS:g} seconds.")
        now = datetime.datetime.now(datetime.timezone.utc)
        database.execute(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)",
            (
                reader,
                trial,
                before.num_done + 1,
                judged_real,
                float(seconds),
                now.isoformat(timespec="milliseconds"),
            ),
        )
        database.executemany(
            "INSERT INTO scores VALUES (?, ?, ?, ?)",
            [(reader, trial, image, score) for image, score in scores.items()],
        )
        database.commit()
        return _progress(database, reader)


def read_answers(path: str | os.PathLike) -> list[Answer]:
    """All answers, by reader and place in the reader's order.

    Raises:
      DataError: it is no such file.
    """
    scores = {}
    with _opened(path) as database:
        # One view of both tables, even if readers answer meanwhile.
        database.execute("BEGIN")
        rows = database.execute(
            "SELECT reader, trial, position, judged_real, seconds, answered_at "
            "FROM answers JOIN readers ON readers.id = reader "
            "ORDER BY length(reader), reader, position"
        ).fetchall()
        for reader, trial, image, score in database.execute(
            "SELECT reader, trial, image, score FROM scores"
        ):
            scores.setdefault((reader, trial), {})[image] = score
    return [
        Answer(
            reader=reader,
            trial=trial,
            position=position,
            judged_real=judged_real,
            scores=scores[reader, trial],
            seconds=seconds,
            answered_at=answered_at,
        )
        for reader, trial, position, judged_real, seconds, answered_at in rows
    ]


def num_expected(path: str | os.PathLike) -> int:
    """Answers that there are once all readers are through.

    Raises:
      DataError: it is no such file.
    """
    with _opened(path) as database:
        return database.execute("SELECT count(*) FROM trial_order").fetchone()[
            0
        ]


def _progress(database: sqlite3.Connection, reader: str) -> Progress:
    count = "SELECT count(*) FROM {} WHERE reader = ?"
    num_done, num_trials = (
        database.execute(count.format(table), (reader,)).fetchone()[0]
        for table in ("answers", "trial_order")
    )
    row = database.execute(
        "SELECT trial FROM trial_order WHERE reader = ? AND position = ?",
        (reader, num_done + 1),
    ).fetchone()
    return Progress(num_done, num_trials, row and row[0])


def _hash(token: str) -> str:
    # No salt and no slow hash: a token has 192 random bits. What cannot be
    # encoded is nobody's token.
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[sqlite3.Connection]:
    """The answers of a study."""
    with _connected(path) as database:
        (found,) = database.execute("PRAGMA user_version").fetchone()
        if found != FORMAT:
            raise errors.refusal(
                path,
                f"format {found}",
                f"format {FORMAT}",
                "name the file of a study that this version made",
            )
        yield database


@contextlib.contextmanager
def _connected(path: str | os.PathLike) -> Iterator[sqlite3.Connection]:
    """A connection; what is not committed when it ends is undone."""
    path = pathlib.Path(path)
    try:
        # A mode of "rw", because otherwise a missing file would be made.
        address = f"{path.absolute().as_uri()}?mode=rw"
        with contextlib.closing(
            sqlite3.connect(address, uri=True, timeout=30)
        ) as database:
            # With the folder's entry of the journal too, see above.
            database.execute("PRAGMA synchronous = EXTRA")
            database.execute("PRAGMA foreign_keys = ON")
            yield database
    except sqlite3.Error as error:
        raise _refused(path, error) from error


def _refused(path: pathlib.Path, error: sqlite3.Error) -> errors.MedganError:
    if isinstance(error, sqlite3.OperationalError) and path.is_file():
        return errors.ResourceError(
            f"{path}: cannot be used ({error}); look at its permissions and at "
            "the space on the disk."
        )
    return errors.refusal(
        path,
        str(error),
        "the answers of a reader study",
        "name the folder that create made",
    )
