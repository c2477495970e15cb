"""A report as one HTML file: no script, no link, nothing to load.

It opens without a network, prints to PDF from any browser, and each number
that is taken from a `scores.json` says in its cell which one and where
(`data-from`, a JSON pointer of RFC 6901), so that a program can check it.
"""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Iterable, Sequence

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem;
  border-bottom: 1px solid #bbb; } h3 { font-size: 1.05rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0;
  font-variant-numeric: tabular-nums; }
p.caption { font-size: .9rem; color: #444; margin: 1rem 0 0; }
th, td { padding: .25rem .6rem; text-align: right; vertical-align: top;
  white-space: nowrap; }
th:first-child { text-align: left; }
table.words td { text-align: left; white-space: normal; }
thead th { border-bottom: 1px solid #555; }
tbody tr + tr > * { border-top: 1px solid #e4e4e4; }
tr.beside { color: #666; }
td small { display: block; color: #666; font-size: .78rem; }
b { font-weight: 700; } .warning { color: #9b1c1c; font-weight: 600; }
img { max-width: 100%; height: auto; }
figure { margin: .8rem 0; } figcaption { font-size: .9rem; color: #444; }
@media print { body { margin: 0; max-width: none; font-size: 11px; }
  .scroll { overflow: visible; } th, td { padding: .15rem .35rem; }
  h2 { break-before: page; } figure, tr { break-inside: avoid; } }
@page { size: A4 landscape; margin: 12mm; }
"""


@dataclasses.dataclass(frozen=True)
class Cell:
    """What stands in one field of a table.

    Attributes:
      text: first line.
      small: lines below it, in small print.
      is_best: shown in bold.
      origin: file and JSON pointer of the number, such as
        "pan/test_best/scores.json#/images/translated/patient_mean/ssim".
      mark: behind the text, such as an asterisk.
    """

    text: str
    small: tuple[str, ...] = ()
    is_best: bool = False
    origin: str = ""
    mark: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
      label: its first field.
      cells: the others.
      is_beside: no method, but something to compare methods with.
    """

    label: str
    cells: tuple[Cell, ...]
    is_beside: bool = False


def page(title: str, parts: Iterable[str]) -> str:
    """The whole file, of parts that the functions below make."""
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f"</head>\n<body>\n<h1>{html.escape(title)}</h1>\n{body}\n"
        "</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """A heading of a section (2) or of a part of it (3)."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str, *, warning: bool = False) -> str:
    """A paragraph of plain text."""
    kind = ' class="warning"' if warning else ""
    return f"<p{kind}>{html.escape(text)}</p>"


def table(
    columns: Sequence[str],
    rows: Iterable[Row],
    caption: str = "",
    *,
    words: bool = False,
) -> str:
    """A table; the first of `columns` stands over the labels.

    Args:
      columns: what stands in the first line.
      rows: the others.
      caption: stands above, if there is one.
      words: whether the cells hold sentences rather than numbers.
    """
    head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in columns)
    lines = []
    for row in rows:
        kind = ' class="beside"' if row.is_beside else ""
        cells = "".join(map(_cell, row.cells))
        label = html.escape(row.label)
        lines.append(f'<tr{kind}><th scope="row">{label}</th>{cells}</tr>')
    above = f'<p class="caption">{html.escape(caption)}</p>\n'
    kind = ' class="words"' if words else ""
    return (
        above * bool(caption) + f'<div class="scroll"><table{kind}>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def picture(png: bytes, caption: str) -> str:
    """A PNG file within the page."""
    data = base64.b64encode(png).decode()
    text = html.escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _cell(cell: Cell) -> str:
    origin = f' data-from="{html.escape(cell.origin)}"' if cell.origin else ""
    text = html.escape(cell.text)
    if cell.is_best:
        text = f"<b>{text}</b>"
    small = "".join(f"<small>{html.escape(s)}</small>" for s in cell.small)
    return f"<td{origin}>{text}{html.escape(cell.mark)}{small}</td>"
