"""What was verified, as text for the terminal and as one file of HTML."""

from __future__ import annotations

import base64
import contextlib
import html
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from medgan_tf import errors
from medgan_tf.data import thumbnails, verify, verify_cohort

_COLUMNS = (
    "patient",
    "image",
    "voxels",
    "mm",
    "range",
    "clipped",
    "overlap",
    "inside",
    "slices",
)
# A browser can still open a page with so many.
MOST_PICTURES = 300
_LEGEND = (
    "clipped: share of the voxels above the window. overlap: share of the "
    "source's field of view that the target covers. inside: share of the "
    "target's body that lies in the source's. slices: that show the body, of "
    "all."
)


def summary(
    reports: Sequence[verify.Report], cohort: Sequence[verify.Finding]
) -> str:
    """One sentence that counts.

    Args:
      reports: of the studies.
      cohort: findings among several studies.
    """
    found = all_findings(reports, cohort)
    patients = len({report.patient for report in reports})
    return (
        f"{_count(len(_of(found, verify.ERROR)), 'error')} and "
        f"{_count(len(_of(found, verify.WARNING)), 'warning')} in "
        f"{_count(len(reports), 'study', 'studies')} of "
        f"{_count(patients, 'patient')}."
    )


def all_findings(
    reports: Sequence[verify.Report], cohort: Sequence[verify.Finding]
) -> list[verify.Finding]:
    """Errors, then warnings; those among several studies come first."""
    found = [*cohort, *(f for report in reports for f in report.findings)]
    return _of(found, verify.ERROR) + _of(found, verify.WARNING)


def text(
    reports: Sequence[verify.Report], cohort: Sequence[verify.Finding]
) -> str:
    """Errors, warnings and a table of all images, for the terminal."""
    found = all_findings(reports, cohort)
    lines = [summary(reports, cohort)]
    for severity, title in (
        (verify.ERROR, "Errors"),
        (verify.WARNING, "Warnings"),
    ):
        if chosen := _of(found, severity):
            lines += ["", title]
        for finding in chosen:
            who = f"{_who(finding)}: " if finding.patient else ""
            lines.append(f"  {finding.code}  {who}{finding.text}")
            lines += [f"      {file}" for file in finding.files]
    rows = [_COLUMNS, *(row for report in reports for row in _rows(report))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines.append("")
    for row in rows if reports else ():
        cells = (c.ljust(w) for c, w in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    for role, share in verify_cohort.clipped_shares(reports).items():
        lines.append(f"{role}: {share:.3%} of all voxels above the window")
    return "\n".join(lines) + "\n"


def write_html(
    path: str | os.PathLike,
    title: str,
    reports: Sequence[verify.Report],
    cohort: Sequence[verify.Finding],
) -> None:
    """Writes a page that needs no other file, whole or not at all.

    Args:
      path: of the page; replaced if it exists.
      title: what was verified.
      reports: of the studies.
      cohort: findings among several studies.

    Raises:
      ResourceError: it cannot be written.
    """
    path = pathlib.Path(path)
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            file.writelines(_page(title, reports, cohort))
        os.replace(unfinished, path)
    except OSError as error:
        raise errors.ResourceError(
            f"{path}: cannot be written ({error.strerror}); check that the "
            "folder exists, is writable and has space."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#222;background:#fafaf8;
margin:2rem auto;max-width:84rem;padding:0 1.5rem}
h1{font-size:1.4rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2rem}
p.lead{margin-top:0;color:#555}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.2rem .9rem .2rem 0}
th{font-weight:600;color:#666;font-size:.85rem}
section{background:#fff;border:1px solid #e4e2dc;border-radius:8px;
padding:.9rem 1.2rem;margin:.9rem 0}
section h3{margin:0 0 .5rem;font-size:1rem}
section h3 span{color:#888;font-weight:400}
.numbers{font-size:.85rem;font-variant-numeric:tabular-nums}
figure{display:inline-block;margin:.7rem .8rem 0 0;vertical-align:top}
figure img{display:block;background:#000;border:1px solid #e4e2dc;
border-radius:4px;width:256px}
figcaption{font-size:.78rem;color:#777;margin-top:.2rem}
ul{list-style:none;padding:0;margin:.6rem 0 0}
li{padding:.35rem .7rem;margin:.3rem 0;border-left:4px solid;
border-radius:3px;overflow-wrap:anywhere}
li.error{border-color:#b3372b;background:#fbefed}
li.warning{border-color:#c98a12;background:#fdf6e7}
li b{font-size:.78rem;letter-spacing:.03em}
li small{display:block;color:#777}
.good{color:#3c7a4b}
"""


def _page(
    title: str,
    reports: Sequence[verify.Report],
    cohort: Sequence[verify.Finding],
) -> Iterator[str]:
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{_safe(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{_safe(title)}</h1>"
        f'<p class="lead">{_safe(summary(reports, cohort))}</p>\n'
    )
    if cohort:
        yield f"<h2>Among the studies</h2>{_list(all_findings((), cohort))}\n"
    shares = verify_cohort.clipped_shares(reports).items()
    if shares:
        told = "; ".join(f"{role} {share:.3%}" for role, share in shares)
        yield f"<p>Above the window: {_safe(told)} of all voxels.</p>\n"
    yield f"<h2>Studies</h2><p>{_safe(_LEGEND)}</p>\n"
    # What needs a look comes first.
    for number, report in enumerate(sorted(reports, key=_urgency)):
        if number == MOST_PICTURES:
            yield f"<p>Pictures of the first {number} studies only.</p>\n"
        yield _section(report, has_pictures=number < MOST_PICTURES)
    yield "<h2>What was asked</h2><table class=numbers>\n"
    for code, (severity, question) in verify.CODES.items():
        yield (
            f"<tr><td>{_safe(code)}</td><td>{_safe(severity)}</td>"
            f"<td>{_safe(question)}</td></tr>\n"
        )
    yield "</table></body></html>\n"


def _section(report: verify.Report, *, has_pictures: bool) -> str:
    parts = [f"<section><h3>{_safe(report.patient)}"]
    more = ", ".join(filter(None, (report.study, report.side)))
    parts.append(f" <span>{_safe(more)}</span></h3>")
    if report.findings:
        parts.append(_list(all_findings([report], ()), is_named=False))
    else:
        parts.append('<p class="good">Nothing suspicious.</p>')
    head = "".join(f"<th>{_safe(name)}</th>" for name in _COLUMNS[1:])
    parts.append(f'<table class="numbers"><tr>{head}</tr>')
    for row in _rows(report):
        cells = "".join(f"<td>{_safe(cell)}</td>" for cell in row[1:])
        parts.append(f"<tr>{cells}</tr>")
    parts.append("</table>")
    if has_pictures:
        parts += map(_figure, report.pictures)
    return "".join(parts) + "</section>\n"


def _figure(picture: thumbnails.Picture) -> str:
    caption, png = picture
    code = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{_safe(caption)}" '
        f'src="data:image/png;base64,{code}">'
        f"<figcaption>{_safe(caption)}</figcaption></figure>"
    )


def _list(findings: Iterable[verify.Finding], *, is_named: bool = True) -> str:
    items = []
    for finding in findings:
        who = _safe(_who(finding)) if is_named else ""
        who += ": " if who else ""
        files = "".join(f"<small>{_safe(f)}</small>" for f in finding.files)
        items.append(
            f'<li class="{finding.severity}"><b>{_safe(finding.code)}</b> '
            f"{who}{_safe(finding.text)}{files}</li>"
        )
    return f"<ul>{''.join(items)}</ul>"


def _rows(report: verify.Report) -> Iterator[tuple[str, ...]]:
    """A line for each image; what belongs to the pair stands at the last."""
    who = " ".join(filter(None, (report.patient, report.study, report.side)))
    for number, image in enumerate(report.images):
        pair = ("", "", "")
        if number == len(report.images) - 1:
            pair = _of_the_pair(report)
        yield (
            "" if number else who,
            f"{image.role} {image.modality}".strip(),
            " x ".join(map(str, image.shape)),
            " x ".join(f"{s:.3g}" for s in image.spacing),
            f"{image.low:.4g} to {image.high:.4g}",
            "" if image.clipped is None else f"{image.clipped:.2%}",
            *pair,
        )
    if not report.images:
        yield (who, "none", *[""] * (len(_COLUMNS) - 2))


def _of_the_pair(report: verify.Report) -> tuple[str, str, str]:
    overlap = "" if report.overlap is None else f"{report.overlap:.0%}"
    if report.same_grid:
        overlap = "same grid"
    inside = f"{report.alignment.inside:.0%}" if report.alignment else ""
    slices = ""
    if report.num_slices is not None:
        total = report.num_slices + report.num_dropped
        slices = f"{report.num_slices} of {total}"
    return overlap, inside, slices


def _urgency(report: verify.Report) -> int:
    severities = {finding.severity for finding in report.findings}
    return 0 if verify.ERROR in severities else 1 if severities else 2


def _who(finding: verify.Finding) -> str:
    return " ".join(filter(None, (finding.patient, finding.study)))


def _of(
    findings: Iterable[verify.Finding], severity: str
) -> list[verify.Finding]:
    return [finding for finding in findings if finding.severity == severity]


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def _safe(words: str) -> str:
    return html.escape(words)
