"""A study as a report: the paper's tables and figures, on other data.

`write` puts everything into one HTML file; see `page` for its kind.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

from medgan_tf import errors, run_record, sealed, tasks
from medgan_tf.evaluation import (
    page,
    plots,
    published,
    report,
    results,
    statistics,
    studies,
)

# Metrics of the per-patient plot, as far as they were computed.
PLOTTED = ("ssim", "psnr", "mse", "vif", "uqi", "lpips_alex", "mae")
# Of numbers in a table that fits on paper.
MOST_COLUMNS = 7
_ARROWS = {True: "↑", False: "↓", None: "→ 0"}


@dataclasses.dataclass(frozen=True)
class Training:
    """How a method came to its weights.

    Attributes:
      settings: name -> value, all that may differ between methods.
      shares: loss term -> its share of the generator's total at the first
        step that was logged, and its mean over the last quarter of them.
    """

    settings: Mapping[str, object]
    shares: Mapping[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Section:
    """One study with its results.

    Attributes:
      study: which.
      results: name of the protocol -> a result for each variant, and further
        ones made elsewhere; "paper" is the first.
      pictures: PNG files with their captions.
      trainings: name of the variant -> how it was trained.
    """

    study: studies.Study
    results: Mapping[str, Sequence[results.Result]]
    pictures: Sequence[tuple[bytes, str]]
    trainings: Mapping[str, Training]


def read_training(workdir: str | os.PathLike) -> Training:
    """Reads `run.json` and `metrics.jsonl` of a run.

    Raises:
      ArtefactError: one is missing or damaged.
    """
    workdir = pathlib.Path(workdir)
    try:
        run = sealed.read(workdir / "run.json")
        lines = run_record.read(workdir, "train")
        settings = {**run["method"], **run["config"]}
        settings["steps trained"] = max(lines)
        shares = [
            {
                key.removeprefix("share/"): value
                for key, value in line.items()
                if key.startswith("share/")
            }
            for line in lines.values()
        ]
        last = shares[-max(1, len(shares) // 4) :]
        return Training(
            {k: v for k, v in settings.items() if k not in ("name", "title")},
            {
                term: (first, sum(one[term] for one in last) / len(last))
                for term, first in shares[0].items()
            },
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise errors.ArtefactError(
            f"{workdir}: run.json and metrics.jsonl cannot be read "
            f"({str(error).splitlines()[0]}); train again."
        ) from error


def write(
    path: str | os.PathLike,
    sections: Sequence[Section],
    task: tasks.Task,
    *,
    remarks: Sequence[str] = (),
) -> pathlib.Path:
    """Writes the report, whole or not at all.

    Args:
      path: of the HTML file. Where numbers come from is told relative to its
        folder.
      sections: at least one.
      task: what was translated.
      remarks: what readers must know, such as layers that were left out.

    Raises:
      DataError: results cannot be compared.
      ResourceError: the file cannot be written.
    """
    path = pathlib.Path(path)
    first = next(iter(sections[0].results.values()))[0]
    parts = _head(first, task, remarks)
    for section in sections:
        parts += _section(section, task, path.parent)
    for name, found in sections[0].results.items():
        parts.append(page.heading(f"Protocol {name}"))
        parts += _protocol(found[0])
    title = f"MedGAN and others: {task.title}"
    report.write_whole(path, page.page(title, parts).encode())
    return path


def reference_of(section: Section, found: Sequence[results.Result]) -> str:
    """With whom the others are compared: MedGAN, the last row of each table;
    one U-block, the first of the curve."""
    variants = section.study.variants
    wanted = variants[0 if section.study.curve else -1].name
    return wanted if wanted in {one.name for one in found} else found[-1].name


def _head(
    first: results.Result, task: tasks.Task, remarks: Sequence[str]
) -> list[str]:
    """What was scored, in which data."""
    settings = first.scores["settings"]
    patients = first.images["translated"]["num_slices"]
    parts = [
        page.paragraph(
            f"{task.title}. {len(patients)} {settings['split']} patients, "
            f"{sum(patients.values())} slices, {settings['unit']}. Data set "
            f"{settings['data_fingerprint']}."
        )
    ]
    if settings["is_simulated"]:
        parts.append(
            page.paragraph("These are simulated images.", warning=True)
        )
    parts += [page.paragraph(remark) for remark in remarks]
    parts.append(
        page.paragraph(
            "Research only: technical post-processing of images, not for "
            "diagnosis."
        )
    )
    return parts


def _section(
    section: Section, task: tasks.Task, folder: pathlib.Path
) -> list[str]:
    parts = [page.heading(section.study.title)]
    for name, found in section.results.items():
        results.check_comparable(found)
        reference = reference_of(section, found)
        rankings = {
            metric: results.rank(found, metric, reference)
            for metric in results.metrics_of(found)
        }
        parts.append(page.heading(f"Scores, protocol {name}", 3))
        parts += _scores(found, rankings, reference, folder)
        parts += _changes(section.study)
        if name == "paper":
            parts += _as_published(found, task, folder)
            parts += _plots(section.study, found)
        parts += _comparisons(found, rankings, reference)
    parts.append(page.heading("Images", 3))
    parts += [page.picture(png, caption) for png, caption in section.pictures]
    return [*parts, *_shares(section), *_settings(section)]


def _scores(
    found: Sequence[results.Result],
    rankings: Mapping[str, results.Ranking],
    reference: str,
    folder: pathlib.Path,
) -> list[str]:
    """Mean over patients, SD and interval of every metric."""
    metrics = results.metrics_of(found)
    beside = [name for name in found[0].images if name != "translated"]
    lines = [(found[0], name, name) for name in beside]
    lines += [(one, "translated", one.label) for one in found]
    columns = {}
    for metric, ranking in rankings.items():
        means = [
            one.images[image]["patient_mean"][metric] for one, image, _ in lines
        ]
        like = means
        if metrics[metric]["higher_is_better"] is None:
            # The digits of a mean error near zero say nothing.
            like = [max(abs(x) for x in means if x is not None)]
        columns[metric] = [
            _score_cell(one, image, metric, text, like, folder)
            for (one, image, _), text in zip(
                lines, _texts(means, like), strict=True
            )
        ]
        _mark(columns[metric], lines, ranking)
    patients = len(found[0].images["translated"]["num_slices"])
    (label,) = (one.label for one in found if one.name == reference)
    return _tables(
        metrics,
        columns,
        [(label, image != "translated") for _, image, label in lines],
        f"Mean over {patients} patient{'s' * (patients > 1)}; below it the "
        "standard deviation and the 95 % interval over patients, where there "
        "is one. Bold: best of "
        f"the methods. *: differs from {label}, p < {statistics.SIGNIFICANT} "
        "(Wilcoxon signed-rank over patients, Holm-corrected for the methods "
        "compared).",
    )


def _changes(study: studies.Study) -> list[str]:
    """What the methods have that their rows in the paper have not."""
    for_all = [
        setting
        for setting in study.variants[0].settings
        if all(setting in variant.settings for variant in study.variants)
    ]
    words = [f"all methods: {', '.join(for_all)}"] if for_all else []
    for variant in study.variants:
        own = [
            one
            for one in variant.settings
            if one not in for_all
            and not (study.curve and one.startswith("num_u_blocks="))
        ]
        if own:
            words.append(f"{variant.label}: {', '.join(own)}")
    text = f"Other than in the paper, {'; '.join(words)}."
    return [page.paragraph(text)] if words else []


def _tables(
    metrics: Mapping[str, Mapping],
    columns: Mapping[str, Sequence[page.Cell]],
    labels: Sequence[tuple[str, bool]],
    caption: str,
) -> list[str]:
    """A table of metrics, cut where it would not fit on paper.

    Args:
      metrics: as `results.metrics_of`.
      columns: metric -> a cell for each label.
      labels: of the rows, and whether each is beside the methods.
      caption: of the first part.
    """
    names = list(columns)
    parts = []
    for first in range(0, len(names), MOST_COLUMNS):
        some = names[first : first + MOST_COLUMNS]
        cells = zip(*(columns[name] for name in some), strict=True)
        rows = [
            page.Row(label, its_cells, is_beside)
            for (label, is_beside), its_cells in zip(labels, cells, strict=True)
        ]
        titles = ["", *(_title(metrics[name]) for name in some)]
        parts.append(page.table(titles, rows, "" if first else caption))
    return parts


def _score_cell(
    one: results.Result,
    image: str,
    metric: str,
    text: str,
    like: Sequence[float | None],
    folder: pathlib.Path,
) -> page.Cell:
    """A mean over patients with its spread."""
    described = one.scores["statistics"][metric]["images"].get(image)
    small = ()
    sd = one.images[image]["patient_sd"][metric]
    if sd is not None:
        small = (f"± {_texts([sd], like)[0]}",)
    if described and described["low"] is not None:
        ends = _texts([described["low"], described["high"]], like)
        small += (" to ".join(ends),)
    patients = one.images[image]["per_patient"].values()
    num_left = sum(row[metric] is not None for row in patients)
    if num_left < len(patients):
        # Others may have been asked more patients: no fair comparison.
        small += (f"{num_left} of {len(patients)} patients",)
    return page.Cell(
        text,
        small,
        origin=_origin(one, folder, "images", image, "patient_mean", metric),
    )


def _mark(
    column: list[page.Cell],
    lines: Sequence[tuple[results.Result, str, str]],
    ranking: results.Ranking,
) -> None:
    """Bold for the best method, an asterisk for a significant difference."""
    different = {
        one.first
        for one in ranking.comparisons
        if one.p_holm < statistics.SIGNIFICANT
    }
    for i, (one, image, _) in enumerate(lines):
        if image == "translated":
            column[i] = dataclasses.replace(
                column[i],
                is_best=one.name in ranking.best,
                mark=" *" if one.name in different else "",
            )


def _as_published(
    found: Sequence[results.Result], task: tasks.Task, folder: pathlib.Path
) -> list[str]:
    """Means over slices, as the paper has them, beside its own numbers."""
    known = results.metrics_of(found)
    metrics = [name for name in published.METRICS if name in known]
    paper = published.PUBLISHED.get(task.name, {})
    columns = {}
    for metric in metrics:
        means = [
            one.images["translated"]["slice_mean"][metric] for one in found
        ]
        columns[metric] = [
            page.Cell(
                text,
                (f"paper {paper[one.name][metric]:g}",)
                if one.name in paper
                else (),
                origin=_origin(
                    one, folder, "images", "translated", "slice_mean", metric
                ),
            )
            for one, text in zip(found, _texts(means), strict=True)
        ]
    table = _tables(
        known,
        columns,
        [(one.label, False) for one in found],
        "Mean over slices, as the paper averages"
        + (", with the paper's numbers below." if paper else "."),
    )
    if not paper:
        return [*table, page.paragraph("The paper has no such task.")]
    return [
        *table,
        page.paragraph(
            "The paper's numbers are from other patients, and it leaves the "
            "settings of its metrics open: compare the order of the methods, "
            "not the numbers.",
            warning=True,
        ),
    ]


def _plots(study: studies.Study, found: Sequence[results.Result]) -> list[str]:
    """Every patient by method, or over the number of U-blocks."""
    metrics = results.metrics_of(found)
    panels = {}
    for metric in PLOTTED:
        if metric not in metrics:
            continue
        values = {
            one.name if study.curve else one.label: one.images["translated"][
                "per_patient"
            ]
            for one in found
        }
        table = {
            name: {patient: row[metric] for patient, row in patients.items()}
            for name, patients in values.items()
        }
        if all(None not in patients.values() for patients in table.values()):
            panels[_title(metrics[metric])] = table
    if not panels:
        return []
    if not study.curve:
        return [
            page.picture(
                plots.patients(panels),
                "Each grey line is a patient, black the mean over patients.",
            )
        ]
    number = {
        variant.name: variant.resolved().num_u_blocks
        for variant in study.variants
    }
    curves = {
        label: {number[name]: table[name] for name in number}
        for label, table in panels.items()
    }
    return [
        page.picture(
            plots.curves(curves),
            "Over the number of U-blocks. Each grey line is a patient, black "
            "the mean over patients.",
        )
    ]


def _comparisons(
    found: Sequence[results.Result],
    rankings: Mapping[str, results.Ranking],
    reference: str,
) -> list[str]:
    """Each method minus the reference, patient by patient."""
    metrics = results.metrics_of(found)
    label = {one.name: one.label for one in found}
    shown = {
        metric: ranking
        for metric, ranking in rankings.items()
        if ranking.comparisons
    }
    if not shown:
        return []
    columns = {}
    for metric, ranking in shown.items():
        like = [abs(one.mean_difference) for one in ranking.comparisons]
        columns[metric] = [
            _comparison_cell(one, like) for one in ranking.comparisons
        ]
    names = [one.first for one in next(iter(shown.values())).comparisons]
    notes = {
        one.note for ranking in shown.values() for one in ranking.comparisons
    }
    notes |= {
        f"{metrics[metric]['label']}: {ranking.note}"
        for metric, ranking in rankings.items()
        if ranking.note
    }
    return [
        *_tables(
            metrics,
            columns,
            [(label[name], False) for name in names],
            f"Difference to {label[reference]}: mean over patients, its 95 % "
            "interval where there is one, r (matched-pairs rank-biserial "
            "correlation) and p (Wilcoxon signed-rank, Holm-corrected for "
            f"{len(names)} comparison{'s' * (len(names) > 1)}).",
        ),
        *(page.paragraph(f"{note}.") for note in sorted(notes) if note),
    ]


def _comparison_cell(
    one: statistics.Comparison, like: Sequence[float]
) -> page.Cell:
    (text,) = _texts([one.mean_difference], like)
    small = ()
    if one.low is not None:
        small = (" to ".join(_texts([one.low, one.high], like)),)
    p = f"p {one.p_holm:.3f}" if one.p_holm >= 0.001 else "p < 0.001"
    return page.Cell(text, (*small, f"r {one.rank_biserial:.2f}, {p}"))


def _protocol(first: results.Result) -> list[str]:
    """What was computed, and what was not."""
    protocol = first.scores["protocol"]
    rows = [
        page.Row(
            metric["label"],
            tuple(
                page.Cell(metric[key] or "")
                for key in ("settings", "computed_on", "computed_in")
            ),
        )
        for metric in protocol["metrics"].values()
    ]
    return [
        page.paragraph(f"{protocol['source']} {protocol['averaging']}."),
        *(
            page.paragraph(
                f"{protocol['metrics'][name]['label']} is not computed: "
                f"{reason}."
            )
            for name, reason in first.scores["not_computed"].items()
        ),
        page.table(
            ["", "settings", "computed on", "computed in"], rows, words=True
        ),
    ]


def _shares(section: Section) -> list[str]:
    """What each loss weighs, at the start and at the end."""
    trained = section.trainings
    terms = list(
        dict.fromkeys(term for one in trained.values() for term in one.shares)
    )
    rows = [
        page.Row(
            variant.label,
            tuple(
                _share(trained[variant.name].shares.get(term)) for term in terms
            ),
        )
        for variant in section.study.variants
    ]
    return [
        page.heading("What each loss weighs", 3),
        page.table(
            ["", *(term.replace("_", " ") for term in terms)],
            rows,
            "Share of the generator's total, weights included: first step → "
            "mean of the last quarter of the run.",
        ),
    ]


def _settings(section: Section) -> list[str]:
    """What the variants have in common, and what each has of its own."""
    step_of = {
        one.name: one.scores["settings"]["discriminator_steps"]
        for one in section.results["paper"]
    }
    trained = [
        dataclasses.replace(
            section.trainings[v.name],
            settings={
                **section.trainings[v.name].settings,
                "step that is scored": step_of[v.name],
            },
        )
        for v in section.study.variants
    ]
    names = list(trained[0].settings)
    common = {
        name: trained[0].settings[name]
        for name in names
        if all(t.settings[name] == trained[0].settings[name] for t in trained)
    }
    own = [name for name in names if name not in common]
    rows = [
        page.Row(
            name,
            tuple(page.Cell(_word(one.settings[name])) for one in trained),
        )
        for name in own
    ]
    parts = [page.heading("Settings", 3)]
    if own:
        parts.append(
            page.table(
                ["", *(variant.label for variant in section.study.variants)],
                rows,
                "In which the methods differ.",
                words=True,
            )
        )
    words = "; ".join(f"{name} {_word(v)}" for name, v in common.items())
    return [*parts, page.paragraph(f"The same for all: {words}.")]


def _texts(
    values: Sequence[float | None], like: Sequence[float | None] | None = None
) -> list[str]:
    """Numbers of a column, "-" for one that is none."""

    def as_floats(column):
        return [math.nan if x is None else x for x in column]

    return report.cells(
        as_floats(values), like=as_floats(values if like is None else like)
    )


def _origin(one: results.Result, folder: pathlib.Path, *keys: str) -> str:
    """Where a number stands, as a JSON pointer."""
    file = os.path.relpath(one.folder / results.SCORES_FILE, folder)
    pointer = "/".join(
        key.replace("~", "~0").replace("/", "~1") for key in keys
    )
    return f"{pathlib.Path(file).as_posix()}#/{pointer}"


def _title(metric: Mapping) -> str:
    """Such as "MAE (HU) ↓"."""
    unit = f" ({metric['unit']})" if metric["unit"] else ""
    return f"{metric['label']}{unit} {_ARROWS[metric['higher_is_better']]}"


def _share(ends: tuple[float, float] | None) -> page.Cell:
    if ends is None:
        return page.Cell("")
    first, last = (f"{100 * share:.2g} %" for share in ends)
    return page.Cell(first, (f"→ {last}",))


def _word(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_word, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
