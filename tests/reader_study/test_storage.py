"""What a reader answered is kept, once and for ever."""

import concurrent.futures
import contextlib
import datetime
import hashlib
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys

import pytest

from medgan_tf import errors
from medgan_tf.reader_study import storage

TRIALS = [f"{n:02x}" for n in range(10)]
IMAGES = {t: [f"{t}{k}" for k in "abc"] for t in TRIALS}
READERS = ("reader1", "reader2", "reader3")


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "answers.sqlite"
    storage.create(file, TRIALS, IMAGES, 3, 0)
    return file


def order_of(path, reader):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [
            trial
            for (trial,) in database.execute(
                "SELECT trial FROM trial_order WHERE reader = ? "
                "ORDER BY position",
                (reader,),
            )
        ]


def answer(path, reader, trial=None, **changed):
    trial = trial or storage.progress(path, reader).trial
    a, b, c = IMAGES[trial]
    given = {"judged_real": b, "scores": {a: 1, b: 4, c: 2}, "seconds": 3.5}
    return storage.add_answer(path, reader, trial, **{**given, **changed})


def test_only_its_owner_reads_it_and_it_has_no_token(tmp_path):
    file = tmp_path / "a.sqlite"
    before = os.umask(0)
    try:
        tokens = storage.create(file, TRIALS, IMAGES, 3, 0)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["a.sqlite"]
    assert len(set(tokens)) == 3
    contents = file.read_bytes()
    for token, reader in zip(tokens, READERS, strict=True):
        assert len(token) == 32
        assert token.encode() not in contents
        assert hashlib.sha256(token.encode()).hexdigest().encode() in contents
        assert storage.find_reader(file, token) == storage.Reader(reader, "")


@pytest.mark.parametrize(
    "token",
    ["", "x", "' OR 1=1 --", "%", "\x00", "\ud800", "\u202e" * 9, "a" * 10**6],
)
def test_what_is_no_token_finds_nobody(path, token):
    assert storage.find_reader(path, token) is None


def test_each_reader_has_an_own_order_and_the_seed_gives_it_again(
    path, tmp_path
):
    orders = [order_of(path, reader) for reader in READERS]
    assert all(sorted(order) == TRIALS for order in orders)
    assert len(set(map(tuple, orders))) == 3
    for seed, is_same in ((0, True), (1, False)):
        other = tmp_path / f"{seed}.sqlite"
        storage.create(other, TRIALS, IMAGES, 3, seed)
        found = [order_of(other, reader) for reader in READERS]
        assert (found == orders) == is_same


def test_an_answer_comes_back_as_it_was_given(path):
    first, second = order_of(path, "reader2")[:2]
    before = datetime.datetime.now(datetime.timezone.utc)
    assert answer(path, "reader2") == storage.Progress(1, 10, second)
    assert storage.progress(path, "reader1").num_done == 0
    [one] = storage.read_answers(path)
    a, b, c = IMAGES[first]
    assert (one.reader, one.trial, one.position) == ("reader2", first, 1)
    assert one.judged_real == b
    assert one.scores == {a: 1, b: 4, c: 2}
    assert one.seconds == 3.5
    at = datetime.datetime.fromisoformat(one.answered_at)
    assert at.utcoffset() == datetime.timedelta(0)
    assert abs((at - before).total_seconds()) < 60
    assert storage.num_expected(path) == 30


def test_answers_come_by_reader_and_place(path):
    for reader in ("reader3", "reader1", "reader3", "reader1"):
        answer(path, reader)
    found = [(a.reader, a.position) for a in storage.read_answers(path)]
    assert found == [
        ("reader1", 1),
        ("reader1", 2),
        ("reader3", 1),
        ("reader3", 2),
    ]


def test_after_the_last_trial_there_is_none(path):
    for _ in TRIALS:
        last = answer(path, "reader1")
    assert last == storage.Progress(10, 10, None)
    with pytest.raises(storage.NotCurrentError):
        answer(path, "reader1", TRIALS[0])
    assert [a.trial for a in storage.read_answers(path)] == order_of(
        path, "reader1"
    )


def test_no_trial_is_answered_twice_and_none_is_skipped(path):
    first, second, third = order_of(path, "reader1")[:3]
    answer(path, "reader1", first)
    for trial in (first, third):
        with pytest.raises(storage.NotCurrentError, match="once given stands"):
            answer(path, "reader1", trial)
    assert storage.progress(path, "reader1").trial == second


@pytest.mark.parametrize("table", ["answers", "scores"])
@pytest.mark.parametrize(
    "change", ["UPDATE {} SET trial='00'", "DELETE FROM {}"]
)
def test_the_file_itself_keeps_an_answer_from_being_changed(
    path, table, change
):
    answer(path, "reader1")
    with contextlib.closing(sqlite3.connect(path)) as database:
        with pytest.raises(sqlite3.IntegrityError, match="stands"):
            database.execute(change.format(table))


@pytest.mark.parametrize(
    "changed",
    [
        {"judged_real": "zz"},
        {"judged_real": ""},
        {"scores": {}},
        {"scores": {"zz": 1}},
        {"seconds": -1.0},
        {"seconds": 86_401.0},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
    ],
)
def test_what_is_no_answer_leaves_no_trace(path, changed):
    with pytest.raises(errors.UsageError):
        answer(path, "reader1", **changed)
    assert storage.read_answers(path) == []


@pytest.mark.parametrize("score", [0, 5, -1, 2.0, "2", True, None])
def test_a_score_is_one_to_four(path, score):
    trial = storage.progress(path, "reader1").trial
    a, b, c = IMAGES[trial]
    with pytest.raises(errors.UsageError, match="1, 2, 3 or 4"):
        answer(path, "reader1", scores={a: 1, b: 4, c: score})
    assert storage.read_answers(path) == []


def test_images_of_another_trial_are_no_answer(path):
    first, second = order_of(path, "reader1")[:2]
    other = IMAGES[second]
    with pytest.raises(errors.UsageError, match="score for each image"):
        answer(path, "reader1", first, scores=dict.fromkeys(other, 1))
    with pytest.raises(errors.UsageError, match="one of them"):
        answer(path, "reader1", first, judged_real=other[0])


def test_of_two_same_answers_at_a_time_one_is_stored(path):
    trial = storage.progress(path, "reader1").trial

    def give(_):
        try:
            answer(path, "reader1", trial)
        except storage.NotCurrentError:
            return 0
        return 1

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(give, range(16))) == 1
    assert len(storage.read_answers(path)) == 1


def test_a_name_is_kept_as_it_is(path):
    name = "Robert'); DROP TABLE readers;-- \u202e<b>"
    storage.rename(path, "reader1", name)
    with contextlib.closing(sqlite3.connect(path)) as database:
        [(found,)] = database.execute(
            "SELECT name FROM readers WHERE id = 'reader1'"
        )
    assert found == name


def test_trials_are_told_with_their_images(path):
    assert storage.trials(path) == {t: set(i) for t, i in IMAGES.items()}


@pytest.mark.parametrize(
    ("trials", "images", "num_readers"),
    [
        ([], {}, 1),
        (["a"], {"a": ["b"]}, 1),
        (["a"], {"a": ["b", "b"]}, 1),
        (["a"], {"a": ["b", "c"]}, 0),
        (["a"], {"a": ["b", "c"]}, 1001),
    ],
)
def test_a_study_of_nothing_is_refused(tmp_path, trials, images, num_readers):
    file = tmp_path / "a.sqlite"
    with pytest.raises(errors.UsageError):
        storage.create(file, trials, images, num_readers, 0)
    assert not file.exists()


def test_a_file_that_is_there_is_left_alone(path):
    answer(path, "reader1")
    with pytest.raises(errors.ResourceError, match="new file"):
        storage.create(path, TRIALS, IMAGES, 3, 0)
    assert len(storage.read_answers(path)) == 1


@pytest.mark.parametrize("contents", [None, b"", b"no database at all" * 99])
def test_what_is_no_such_file_is_told_in_one_line(tmp_path, contents):
    file = tmp_path / "a.sqlite"
    if contents is not None:
        file.write_bytes(contents)
    for read in (storage.read_answers, storage.num_expected):
        with pytest.raises(errors.DataError, match="a.sqlite: found") as caught:
            read(file)
        assert "\n" not in str(caught.value)
    assert file.exists() == (contents is not None)


def test_another_programs_database_and_a_later_format_are_refused(tmp_path):
    for version in (0, 2):
        file = tmp_path / f"{version}.sqlite"
        with contextlib.closing(sqlite3.connect(file)) as database:
            database.execute("CREATE TABLE t(a)")
            database.execute(f"PRAGMA user_version = {version}")
        with pytest.raises(errors.DataError, match=f"format {version}"):
            storage.read_answers(file)


CHILD = """
import sys
from medgan_tf.reader_study import storage
path = sys.argv[1]
while trial := storage.progress(path, "reader1").trial:
    images = sorted(storage.trials(path)[trial])
    storage.add_answer(
        path, "reader1", trial, images[0], dict.fromkeys(images, 2), 1.0
    )
    print(trial, flush=True)
"""


@pytest.mark.slow
def test_what_was_told_as_stored_survives_a_kill(tmp_path):
    trials = [f"{n:04x}" for n in range(2000)]
    images = {t: [t + "a", t + "b"] for t in trials}
    path = tmp_path / "answers.sqlite"
    storage.create(path, trials, images, 1, 0)
    told = []
    for number in (1, 2, 5, 9):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=pathlib.Path(__file__).parents[2],
        ) as child:
            for _ in range(number):
                told.append(child.stdout.readline().strip())
            child.send_signal(signal.SIGKILL)
            told += child.stdout.read().split()
        found = storage.read_answers(path)
        # What was stored and not yet told may be there too: one at most.
        assert [a.trial for a in found][: len(told)] == told
        assert len(found) - len(told) <= 1
        assert all(len(a.scores) == 2 for a in found)
        told = [a.trial for a in found]


def test_an_answer_is_flushed_to_the_disk(path):
    with storage._opened(path) as database:
        values = [
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    extra = 3
    assert values == ["delete", extra, 1]
