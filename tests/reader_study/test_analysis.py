"""Table 3 by hand, and whether its intervals hold what they promise."""

import dataclasses
import math

import numpy as np
import pytest

from medgan_tf import errors
from medgan_tf.reader_study import (
    analysis,
    bootstrap,
    reading_report,
    readings,
)

LABELS = ("target", "medgan", "pix2pix")


def study(judged, scores, patients=None, **changes):
    """A study of which the label judged real [R, T] and the scores are known.

    Args:
      judged: [R, T], place in LABELS; -1: no answer.
      scores: [R, T, 3].
      patients: of each trial; None: each of another.
      changes: to the readings.
    """
    judged = np.asarray(judged)
    num_readers, num_trials = judged.shape
    is_there = judged >= 0
    one_hot = (judged[..., None] == np.arange(3)).astype(float)
    places = np.broadcast_to(np.arange(1.0, num_trials + 1), judged.shape)
    found = readings.Readings(
        title="PET to CT",
        readers=tuple(f"r{i}" for i in range(num_readers)),
        trials=tuple(f"t{i:02}" for i in range(num_trials)),
        patients=tuple(patients or (f"p{i:02}" for i in range(num_trials))),
        labels=LABELS,
        scores=np.where(is_there[..., None], scores, np.nan),
        judged=np.where(is_there[..., None], one_hot, np.nan),
        positions=np.where(is_there, places, np.nan),
        seconds=np.where(is_there, 10.0, np.nan),
        num_expected=judged.size,
    )
    return dataclasses.replace(found, **changes)


def drawn(rng, num_readers=3, num_trials=8):
    """Any answers."""
    return (
        rng.integers(0, 3, (num_readers, num_trials)),
        rng.integers(1, 5, (num_readers, num_trials, 3)),
    )


# --- Table 3.


@pytest.mark.parametrize(
    ("count", "per_cent", "wilson"),
    [(76, "25.3", "20.7 to 30.5"), (20, "6.7", "4.4 to 10.1")]
    + [(43, "14.3", "10.8 to 18.8")],
)
def test_the_papers_counts_give_its_per_cent(count, per_cent, wilson, tmp_path):
    rng = np.random.default_rng(count)
    judged = rng.permutation(np.arange(300) < count).reshape(5, 60).astype(int)
    read = study(judged, rng.integers(1, 5, (5, 60, 3)))

    found = analysis.analyse(read)

    row = found.pooled[1]
    assert (row.num_judged_real, row.num_answers) == (count, 300)
    text = reading_report.text(found, read)
    assert f"judged real {per_cent} % ({count} of 300)" in text
    assert f"(Wilson {wilson})" in text
    page = reading_report.write(tmp_path / "a.html", found, read).read_text()
    assert f"<td>{per_cent}<small>" in page
    assert f"Wilson {wilson}" in page
    assert "Complete study: 300 of 300 answers used" in page


def test_means_deviations_and_counts_by_hand():
    read = study(
        [[0, 0, 1], [2, 0, -1]],
        [[[4, 3, 1], [4, 2, 2], [3, 4, 1]], [[2, 2, 4], [4, 1, 1], [0, 0, 0]]],
    )

    target, medgan, pix2pix = analysis.analyse(read).pooled

    # Target: 4 4 3 2 4; medgan: 3 2 4 2 1.
    assert target.score.value == pytest.approx(17 / 5)
    assert target.sd == pytest.approx(math.sqrt((3 * 0.36 + 0.16 + 1.96) / 4))
    assert medgan.score.value == pytest.approx(12 / 5)
    assert [r.num_judged_real for r in (target, medgan, pix2pix)] == [3, 1, 1]
    assert target.judged_real.value == pytest.approx(60)
    assert "2 reader(s), 3 needed" in target.score.note
    first, second = analysis.analyse(read).per_reader.values()
    assert [row.num_answers for row in first + second] == [3] * 3 + [2] * 3
    assert second[2].judged_real.value == pytest.approx(50)


def test_the_slices_of_a_patient_are_one_case_unless_told_otherwise():
    read = study(
        *drawn(np.random.default_rng(0), num_trials=12), ["a", "b", "c"] * 4
    )
    by_patient = analysis.analyse(read)
    by_trial = analysis.analyse(read, cases="trial")
    assert (by_patient.num_cases, by_trial.num_cases) == (3, 12)
    assert "3 case(s), 5 needed" in by_patient.pooled[0].score.note
    assert by_trial.pooled[0].score.low is not None
    assert by_patient.comparisons["score"][0].num_pairs == 3
    with pytest.raises(errors.UsageError, match="patient, trial"):
        analysis.analyse(read, cases="slice")


def test_a_reader_of_few_cases_has_no_interval():
    judged = np.random.default_rng(0).integers(0, 3, (3, 8))
    judged[2, 2:] = -1
    read = study(judged, np.tile([4, 3, 1], (3, 8, 1)))
    found = analysis.analyse(read)
    assert found.pooled[0].judged_real.low is not None
    last = found.per_reader["r2"][0].judged_real
    assert last.note == "no interval from 2 case(s), 5 needed"


# --- Intervals.


def test_with_one_reader_it_is_the_bootstrap_over_cases():
    # Chances are binomial: of 20 cases 5 are 1.
    values = np.repeat([[1.0, 0.0]], [5, 15], axis=1)
    found = bootstrap.estimate(
        analysis.mean_of(values), 1, list("abcdefghijklmnopqrst"),
        draw_readers=False,
    )  # fmt: skip
    assert found.value == 0.25
    # t of 19 degrees, times sqrt(20 / 19): 2.147 standard deviations, which
    # leaves 1.6 %; the binomial has 1 or fewer in 2.4 %, 0 in 0.3 %, and 10 or
    # more in 1.4 %, 9 or more in 4.1 %.
    assert (found.low, found.high) == (0.05, 0.45)


def test_same_answers_have_no_interval_and_little_agreement_is_told():
    all_right = study(np.zeros((3, 6), int), np.full((3, 6, 3), 2))
    found = analysis.analyse(all_right)
    assert found.pooled[0].judged_real == bootstrap.Estimate(
        100, None, None, "no interval, as all answers are alike"
    )
    assert found.agreement.fleiss.value is None
    assert found.learning["target found"].value is None
    assert {one.p for one in found.comparisons["score"]} == {1.0}


def test_readers_who_differ_only_in_single_answers_have_an_interval():
    # Every reader, and every case, is right as often as every other.
    judged = (np.arange(6) + np.arange(6)[:, None]) % 2
    found = analysis.analyse(study(judged, np.full((6, 6, 3), 2)))
    row = found.pooled[0].judged_real
    assert 0 <= row.low < 50 < row.high <= 100


def simulate(rng):
    """A study whose rates and mean scores are known in the mean.

    5 readers, 12 patients, 5 slices of each. Every reader and every patient
    has a way of his own, which moves the chances to both sides alike.

    Returns:
      judged and scores as for `study`, and the patients.
    """
    patients = np.repeat(np.arange(12), 5)

    def effect(reader, patient):
        by_patient = rng.uniform(-patient, patient, 12)[patients]
        return rng.uniform(-reader, reader, (5, 1)) + by_patient

    first, second = RATES[1] + effect(0.13, 0.08), RATES[2] + effect(0.05, 0.02)
    chance = rng.random((5, 60))
    judged = np.where(
        chance < first, 1, np.where(chance < first + second, 2, 0)
    )
    shares = np.stack([share + effect(0.15, 0.1) for share in SHARES], -1)
    return judged, 1 + rng.binomial(3, shares), patients


RATES = (0.65, 0.25, 0.10)
SHARES = (0.7, 0.6, 0.4)


@pytest.mark.slow
def test_intervals_hold_the_truth_in_93_of_100_studies_and_only_if_right():
    rng = np.random.default_rng(0)
    held, naively, over_trials = (np.zeros(6, int) for _ in range(3))
    truth = np.array([*RATES, *(1 + 3 * share for share in SHARES)])
    for _ in range(100):
        judged, scores, patients = simulate(rng)
        values = np.concatenate(
            [judged[..., None] == np.arange(3), scores], -1
        ).astype(float)
        for i in range(6):
            statistic = analysis.mean_of(values[..., i])
            found = bootstrap.estimate(statistic, 5, patients)
            held[i] += found.low <= truth[i] <= found.high
            # What is wrong: answers that are independent of each other.
            levels, counts = np.unique(values[..., i], return_counts=True)
            means = rng.multinomial(300, counts / 300, 1000) @ levels / 300
            low, high = np.quantile(means, [0.025, 0.975])
            naively[i] += low <= truth[i] <= high
            # And wrong again: the same readers for ever.
            found = bootstrap.estimate(
                statistic, 5, patients, draw_readers=False
            )
            over_trials[i] += found.low <= truth[i] <= found.high
    assert held.min() >= 93, held
    assert naively.max() < 93, naively
    assert over_trials[[0, 1, 3, 4, 5]].max() < 93, over_trials


# --- Agreement, tests, learning.


def test_kappa_counts_trials_that_all_have_answered():
    judged = np.array([[0, 0, 1, 2, 0], [0, 0, 1, 2, 1], [0, 0, 1, -1, 2]])
    scores = np.tile([[1, 2, 3]], (3, 5, 1))
    found = analysis.analyse(study(judged, scores)).agreement
    assert found.num_trials == 4
    # Counts 3 0 0, 3 0 0, 0 3 0, 1 1 1: observed 3/4; by chance
    # (7/12)^2 + (4/12)^2 + (1/12)^2 = 66/144.
    expected = (3 / 4 - 66 / 144) / (1 - 66 / 144)
    assert found.fleiss.value == pytest.approx(expected)
    # All gave the same scores.
    assert found.weighted.value == 1
    assert [pair[2] for pair in found.pairs] == [1, 1, 1]


def test_differences_are_tested_by_case_and_corrected():
    # In each of eight patients medgan is two better than pix2pix.
    scores = np.tile([4, 3, 1], (3, 8, 1))
    judged = np.zeros((3, 8), int)
    found = analysis.analyse(study(judged, scores)).comparisons["score"]
    (last,) = (one for one in found if one.first == "medgan")
    assert last.second == "pix2pix"
    assert last.mean_difference == pytest.approx(2)
    # All signs alike: 2 of 2^8; three comparisons.
    assert last.p == pytest.approx(2 / 256)
    assert last.p_holm == pytest.approx(3 * 2 / 256)


def test_readers_who_learn_are_seen():
    rng = np.random.default_rng(1)
    judged = np.where(rng.random((5, 40)) < np.linspace(0, 1, 40), 0, 1)
    scores = rng.integers(1, 5, (5, 40, 3))
    read = study(judged, scores)
    seconds = np.tile(np.arange(40.0, 0, -1), (5, 1))
    found = analysis.analyse(dataclasses.replace(read, seconds=seconds))
    assert found.learning["target found"].low > 0.2
    assert found.learning["seconds"].value == pytest.approx(-1)
    score = found.learning["score of methods"]
    assert score.low < 0 < score.high


def test_a_correlation_by_hand_with_ties():
    first = np.array([[1.0, 2, 3, 4], [4, 3, 2, 1]])
    second = np.array([[1.0, 1, 0, 1], [0, 0, 0, 0]])
    statistic = analysis.rank_correlation_of(first, second)
    ones = np.ones((1, 2)), np.ones((1, 4))
    # Ranks 1 2 3 4 and 3 3 1 3: covariance -1, variances 5 and 3. The second
    # reader has no spread.
    assert statistic(*ones)[0] == pytest.approx(-1 / math.sqrt(5 * 3))


def test_the_table_as_csv_has_a_line_for_each_reader_and_image():
    found = analysis.analyse(study(*drawn(np.random.default_rng(3))))
    text = readings.csv_text(analysis.flat(found)).splitlines()
    assert text[0].startswith("reader,image,num_answers,score,")
    assert len(text) == 1 + 4 * 3
    assert text[1].startswith(",target,24,")


def test_the_page_is_whole_without_a_network(tmp_path):
    judged, scores = drawn(np.random.default_rng(4))
    judged[1, 2] = -1
    read = study(judged, scores, title="<b>naughty</b> & co")
    found = analysis.analyse(read)
    page = reading_report.write(tmp_path / "a.html", found, read).read_text()
    assert "Incomplete study: 23 of 24 answers used" in page
    assert "&lt;b&gt;naughty" in page
    assert "http" not in page
    assert "<script" not in page
    for words in ("Fleiss", "Spearman", "Holm", "Research only"):
        assert words in page
