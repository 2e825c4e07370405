"""The pages of `snnrun report`: Markdown and self-contained HTML from the same tables."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from urllib.parse import quote

from snnrun.paper.compare import SHOWN, Entry, Ours, Part
from snnrun.paper.published import Published
from snnrun.runs import tables
from snnrun.runs.collect import Run

HEAD = (
    *("rule, network", "n", "validation %", "test %, epoch by validation", "test %, last epoch"),
    *("test %, papers' way: best epoch on the test set", "epochs", "s/epoch", "runs"),
)
TITLE = "Runs and published figures"
EXPLANATION = (
    "Ours: mean ± standard deviation over n seeds; settings of one rule and network in the order of their validation "
    "accuracy. Our result is the test accuracy of the epoch that the validation samples chose. The maximum over "
    "epochs on the test set is what the papers call best; it is optimistic, and shown only because the published "
    "figure is of that kind. The authors train on all training samples, ours with a validation accuracy on those that "
    "data.validation leaves. Seconds of an epoch: ours the median, on the machine of the run; the authors' least and "
    "median in their released log, batch 1 on a Titan XP."
)


@dataclass(frozen=True)
class Frame:
    """What stands around the tables: a title line, facts of how the page was made, and remarks on runs left out."""

    facts: Sequence[str]
    notes: Sequence[str]


@dataclass(frozen=True)
class Link:
    """A run in a cell: its short name, its page in MLflow and its folder, where they are known."""

    name: str
    page: str | None
    folder: str | None


Cell = str | list[Link]


def link_of(run: Run, page: str | None, out: Path) -> Link:
    """A run's links from a page that lies in the folder `out`."""
    folder = quote(os.path.relpath(run.folder, out.resolve()).replace(os.sep, "/")) if run.folder is not None else None
    return Link(run.short, page, folder)


def rows_of(entry: Entry, link: Callable[[Run], Link]) -> list[tuple[bool, list[Cell]]]:
    """The rows of one rule and network; True marks the published one."""
    rows: list[tuple[bool, list[Cell]]] = []
    if entry.published is not None:
        rows.append((True, _published_row(entry, entry.published)))
    for ours in entry.ours:
        rows.append((False, _our_row(entry, ours, link)))
    return rows


def _published_row(entry: Entry, row: Published) -> list[Cell]:
    at = f", epoch {row.best_epoch}" if row.best_epoch else ""
    seconds = f"{row.seconds[0]:,.0f} / {row.seconds[1]:,.0f}" if row.seconds else ""
    source = f"{row.source}{at}. {row.note}".strip()
    name = f"{entry.name}: published"
    return [name, "", "", "", "", row.figures, str(row.log_epochs or row.epochs or ""), seconds, source]


def _our_row(entry: Entry, ours: Ours, link: Callable[[Run], Link]) -> list[Cell]:
    name = f"{entry.name}: ours{f' ({ours.label})' if ours.label else ''}"
    figures = [_figure(value) for value in (ours.validation, ours.chosen, ours.last, ours.maximum)]
    seconds = "" if ours.seconds is None else f"{ours.seconds:,.0f}" if ours.seconds >= 10 else f"{ours.seconds:.2g}"
    links = [link(run) for run in ours.group.runs]
    return [name, str(len(ours.group.runs)), *figures, ours.epochs, seconds, links]


def _figure(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return "-"
    mean, std = value
    return f"{mean:.2f}" + (f" ± {std:.2f}" if std is not None else "")


def remarks(part: Part) -> list[str]:
    """What is said under the table of a corpus."""
    told = [
        f"{entry.name}: the {SHOWN} best settings by validation accuracy are shown, {entry.more} more are not."
        for entry in part.entries
        if entry.more
    ]
    for entry in part.entries:
        if any(ours.validation is None for ours in entry.ours):
            told.append(f"{entry.name}: without validation samples no epoch could be chosen; read the last epoch.")
    if part.others:
        rows = "; ".join(f"{row.title}, {row.network} {row.level:.2f} % ({row.source})" for row in part.others)
        told.append(f"Published for this corpus, with no run of ours beside it: {rows}.")
    if part.later:
        records = "; ".join(
            f"{record.system}, {record.network} {record.figures} ({record.source})" for record in part.later
        )
        told.append(f"Later work on this corpus, with other networks: {records}.")
    return told


# ---- Markdown -------------------------------------------------------------------------------------------------------


def markdown(frame: Frame, parts: Sequence[Part], figures: Mapping[str, str], link: Callable[[Run], Link]) -> str:
    """The page as Markdown; `figures` names the file of each part's figure."""
    lines = [f"# {TITLE}", "", *(f"- {tables.markdown(fact)}" for fact in frame.facts), "", EXPLANATION]
    lines += ["", *(f"Note: {tables.markdown(note)}." for note in frame.notes)] if frame.notes else []
    for part in parts:
        lines += ["", f"## {tables.markdown(part.title)}", ""]
        if part.warning:
            lines += [f"**{part.warning}**", ""]
        lines.append("| " + " | ".join(HEAD) + " |")
        lines.append(
            "|" + "|".join("---" if place in (0, len(HEAD) - 1) else "--:" for place in range(len(HEAD))) + "|"
        )
        for entry in part.entries:
            for published, cells in rows_of(entry, link):
                texts = [_md_cell(cell) for cell in cells]
                lines.append("| " + " | ".join(f"*{text}*" if published and text else text for text in texts) + " |")
        lines += ["", *(f"{tables.markdown(remark)}\n" for remark in remarks(part))]
        if part.title in figures:
            lines.append(f"![Test accuracy by epoch]({figures[part.title]})")
    return "\n".join(lines).rstrip() + "\n"


def _md_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return tables.markdown(cell)
    return ", ".join(
        (f"[{tables.markdown(link.name)}]({link.page})" if link.page else tables.markdown(link.name))
        + (f" ([folder]({link.folder}))" if link.folder else "")
        for link in cell
    )


# ---- HTML -----------------------------------------------------------------------------------------------------------

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --text: #1c1c1e; --dim: #62666d; --line: #d5d8dd; --paper: #f4f1e8; --warn: #8a4b00;
  --ground: #ffffff; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --dim: #a0a4ab; --line: #3a3d42; --paper: #2b2820;
  --warn: #ffb45e; --ground: #17181a; --link: #7ab8ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--ground); max-width: 75rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .3rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
a { color: var(--link); }
.dim, .facts { color: var(--dim); } .facts { padding: 0; list-style: none; }
.warn { color: var(--warn); font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; width: 100%; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; max-width: 9.5rem; } th:nth-child(3) { min-width: 6.5rem; }
td:nth-child(2), td:nth-child(3), td:nth-child(4), td:nth-child(5), td:nth-child(8), span { white-space: nowrap; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
td:first-child { min-width: 10rem; max-width: 18rem; overflow-wrap: anywhere; }
td:last-child { max-width: 17rem; font-size: .85rem; }
tr.paper td { background: var(--paper); font-style: italic; }
td.result { font-weight: 600; }
img { width: 100%; max-width: 56rem; margin-top: .8rem; }
</style>
</head>
<body>
<h1>$title</h1>
<ul class="facts">
$facts
</ul>
<p>$explanation</p>
$notes
$parts
</body>
</html>
""")


def page(frame: Frame, parts: Sequence[Part], figures: Mapping[str, bytes], link: Callable[[Run], Link]) -> str:
    """The page as one HTML file; `figures` holds the SVG of each part, which is put into it."""
    return PAGE.substitute(
        title=TITLE,
        facts="\n".join(f"<li>{html.escape(fact)}</li>" for fact in frame.facts),
        explanation=html.escape(EXPLANATION),
        notes="\n".join(f'<p class="dim">Note: {html.escape(note)}.</p>' for note in frame.notes),
        parts="\n".join(_section(part, figures.get(part.title), link) for part in parts),
    )


def _section(part: Part, figure: bytes | None, link: Callable[[Run], Link]) -> str:
    lines = [f"<h2>{html.escape(part.title)}</h2>"]
    if part.warning:
        lines.append(f'<p class="warn">{html.escape(part.warning)}</p>')
    lines.append('<div class="wide"><table>')
    lines.append("<tr>" + "".join(f"<th>{html.escape(title)}</th>" for title in HEAD) + "</tr>")
    for entry in part.entries:
        for published, cells in rows_of(entry, link):
            fields = "".join(
                f"<td{' class=result' if place == 3 and not published else ''}>{_html_cell(cell)}</td>"
                for place, cell in enumerate(cells)
            )
            lines.append(f"<tr{' class=paper' if published else ''}>{fields}</tr>")
    lines.append("</table></div>")
    lines += [f'<p class="dim">{html.escape(remark)}</p>' for remark in remarks(part)]
    if figure is not None:
        data = base64.b64encode(figure).decode("ascii")
        title = html.escape(f"Test accuracy by epoch, {part.title}", quote=True)
        lines.append(f'<img alt="{title}" src="data:image/svg+xml;base64,{data}">')
    return "\n".join(lines)


def _html_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return html.escape(cell)
    return ", ".join(_html_link(link) for link in cell)


def _html_link(link: Link) -> str:
    name = html.escape(link.name)
    text = f'<a href="{html.escape(link.page, quote=True)}">{name}</a>' if link.page else name
    folder = f' (<a href="{html.escape(link.folder, quote=True)}/">folder</a>)' if link.folder else ""
    return f"<span>{text}{folder}</span>"
