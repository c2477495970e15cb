"""The page of a reader study: Table 3 and what stands behind it."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from medgan_tf.evaluation import page, plots, report, statistics
from medgan_tf.reader_study import analysis, bootstrap, readings

_COLUMNS = ("", "answers", "mean score", "SD", "judged real", "%")
_LEARNING = {
    "target found": "the real image is found",
    "score of methods": "mean score of the methods' images",
    "seconds": "time for a trial",
}


def write(
    path: str | os.PathLike,
    found: analysis.Analysis,
    read: readings.Readings,
) -> pathlib.Path:
    """Writes the report as one HTML file, whole or not at all.

    Raises:
      ResourceError: the file cannot be written.
    """
    path = pathlib.Path(path)
    parts = [
        *_head(found, read),
        *_table_3(found, read),
        *_per_reader(found, read),
        *_agreement(found),
        *_comparisons(found),
        *_learning(found),
    ]
    title = f"Reader study: {read.title}"
    report.write_whole(path, page.page(title, parts).encode())
    return path


def text(found: analysis.Analysis, read: readings.Readings) -> str:
    """Table 3 for a terminal."""
    lines = [_answers(found, read), ""]
    width = max(len(row.label) for row in found.pooled)
    for row in found.pooled:
        shown = [row.label.ljust(width), f"score {row.score.value:.2f}"]
        shown += [_interval(row.score, 2), f"SD {_number(row.sd, 2)}"]
        shown += [f"judged real {_share(row)}", _interval(row.judged_real, 1)]
        shown += [f"(Wilson {_wilson(row)})"]
        lines.append("  ".join(one for one in shown if one))
    agreed = found.agreement
    lines += [
        "",
        f"Fleiss' kappa {_estimate(agreed.fleiss, 2)}; weighted kappa "
        f"{_estimate(agreed.weighted, 2)}",
    ]
    return "\n".join(lines)


def _head(found: analysis.Analysis, read: readings.Readings) -> Sequence[str]:
    is_complete = read.num_answers == read.num_expected
    seconds = statistics.describe(
        {str(i): s for i, s in enumerate(read.seconds[read.seconds >= 0])}
    )
    return (
        page.paragraph(_answers(found, read), warning=not is_complete),
        page.paragraph(
            f"A trial took {seconds.median:.1f} s (median; quartiles "
            f"{seconds.q1:.1f} and {seconds.q3:.1f} s). Who guesses finds the "
            f"real image in {100 / len(read.labels):.1f} % of the trials."
        ),
        page.paragraph(
            "Research only: it says how images look to these readers, not "
            "whether a diagnosis can be made from them."
        ),
    )


def _answers(found: analysis.Analysis, read: readings.Readings) -> str:
    is_complete = read.num_answers == read.num_expected
    of_cases = (
        f" of {found.num_cases} patients" if found.cases == "patient" else ""
    )
    return (
        f"{'Complete' if is_complete else 'Incomplete'} study: "
        f"{read.num_answers} of {read.num_expected} answers used, "
        f"{len(read.readers)} reader(s), {len(read.trials)} trials{of_cases}."
    )


def _table_3(
    found: analysis.Analysis, read: readings.Readings
) -> Sequence[str]:
    rows = [_row(row) for row in found.pooled]
    panels = {
        "mean score": {
            label: {
                reader: rows[i].score.value
                for reader, rows in found.per_reader.items()
            }
            for i, label in enumerate(read.labels)
        },
        "judged real, %": {
            label: {
                reader: rows[i].judged_real.value
                for reader, rows in found.per_reader.items()
            }
            for i, label in enumerate(read.labels)
        },
    }
    return (
        page.heading("Scores and how often judged real (Table 3)"),
        page.table(
            _COLUMNS,
            rows,
            "Over all readers. Scores are 1 to 4, SD is over all answers. "
            "Below, the 95 % interval over readers and cases (a case is a "
            f"{found.cases}), by bootstrap; and Wilson's, as if all answers "
            "were independent of each other, to be compared with published "
            "counts.",
        ),
        *_notes(
            estimate
            for row in found.pooled
            for estimate in (row.score, row.judged_real)
        ),
        page.picture(
            plots.patients(panels), "Each reader a line; black: their mean."
        ),
    )


def _per_reader(
    found: analysis.Analysis, read: readings.Readings
) -> Sequence[str]:
    parts = [page.heading("Each reader", 2)]
    for reader, rows in found.per_reader.items():
        parts.append(
            page.table(
                _COLUMNS,
                [_row(row) for row in rows],
                f"{reader}. Intervals over cases only.",
            )
        )
    return parts


def _agreement(found: analysis.Analysis) -> Sequence[str]:
    agreed = found.agreement
    rows = [
        page.Row("Fleiss' kappa: which is real", (_cell(agreed.fleiss, 2),)),
        page.Row(
            "weighted kappa of the scores, mean over pairs",
            (_cell(agreed.weighted, 2),),
        ),
        *(
            page.Row(f"{a} and {b}", (page.Cell(_number(kappa, 2)),))
            for a, b, kappa in agreed.pairs
        ),
    ]
    return (
        page.heading("Do the readers agree?"),
        page.table(
            ("", "kappa"),
            rows,
            f"{agreed.num_trials} trials that all readers answered; weights "
            "are squares of the distance; 95 % intervals over cases only. 1: "
            "always, 0: as often as by chance.",
        ),
        *_notes((agreed.fleiss, agreed.weighted)),
    )


def _comparisons(found: analysis.Analysis) -> Sequence[str]:
    parts = [page.heading("Differences")]
    titles = {"score": ("score", 2), "judged_real": ("judged real, %", 1)}
    notes = set()
    for name, (title, digits) in titles.items():
        rows = []
        for one in found.comparisons[name]:
            notes.add(one.note)
            estimate = bootstrap.Estimate(
                one.mean_difference, one.low, one.high
            )
            cells = (
                _cell(estimate, digits),
                page.Cell(f"{one.rank_biserial:.2f}"),
                page.Cell(_p(one.p)),
                page.Cell(_p(one.p_holm)),
                page.Cell(str(one.num_pairs)),
            )
            rows.append(page.Row(f"{one.first} − {one.second}", cells))
        parts.append(
            page.table(
                (title, "difference", "r", "p", "p (Holm)", "cases"),
                rows,
                "Means per case, over readers and trials: mean difference and "
                "its 95 % interval over cases, matched-pairs rank-biserial "
                "correlation, Wilcoxon's signed-rank test, and corrected for "
                f"{len(rows)} comparison(s). For other readers than these "
                "look at the intervals of Table 3.",
            )
        )
    return [*parts, *(page.paragraph(f"{n}.") for n in sorted(notes) if n)]


def _learning(found: analysis.Analysis) -> Sequence[str]:
    rows = [
        page.Row(_LEARNING[name], (_cell(estimate, 2),))
        for name, estimate in found.learning.items()
    ]
    return (
        page.heading("Do readers learn?"),
        page.table(
            ("", "correlation"),
            rows,
            "Spearman's correlation with the place in the reader's own order, "
            "mean over readers, and its 95 % interval over readers and cases. "
            "Above 0: more, or longer, towards the end.",
        ),
        *_notes(found.learning.values()),
    )


def _row(row: analysis.Row) -> page.Row:
    cells = (
        page.Cell(str(row.num_answers)),
        _cell(row.score, 2),
        page.Cell(_number(row.sd, 2)),
        page.Cell(f"{row.num_judged_real} of {row.num_answers}"),
        page.Cell(
            f"{row.judged_real.value:.1f}",
            (*_small(row.judged_real, 1), f"Wilson {_wilson(row)}"),
        ),
    )
    is_target = row.label == readings.TARGET
    return page.Row(row.label, cells, is_beside=is_target)


def _cell(estimate: bootstrap.Estimate, digits: int) -> page.Cell:
    return page.Cell(_number(estimate.value, digits), _small(estimate, digits))


def _small(estimate: bootstrap.Estimate, digits: int) -> tuple[str, ...]:
    shown = _interval(estimate, digits)
    return (shown,) if shown else ()


def _notes(estimates) -> list[str]:
    notes = sorted({one.note for one in estimates if one.note})
    return [page.paragraph(f"{note}.") for note in notes]


def _interval(estimate: bootstrap.Estimate, digits: int) -> str:
    if estimate.low is None:
        return ""
    ends = estimate.low, estimate.high
    return " to ".join(_number(end, digits) for end in ends)


def _estimate(estimate: bootstrap.Estimate, digits: int) -> str:
    inside = _interval(estimate, digits) or estimate.note
    return f"{_number(estimate.value, digits)} ({inside})"


def _share(row: analysis.Row) -> str:
    return (
        f"{row.judged_real.value:.1f} % ({row.num_judged_real} of "
        f"{row.num_answers})"
    )


def _wilson(row: analysis.Row) -> str:
    return " to ".join(_number(end, 1) for end in row.wilson)


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "–"
    # No minus before a zero.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
