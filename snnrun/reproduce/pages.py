"""The table in each form: columns of text, Markdown, LaTeX with booktabs, and HTML that needs no other file."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from snnrun.paper.pages import PAGE
from snnrun.reproduce.outcome import Line, Ours, Outcome
from snnrun.runs import tables
from snnrun.runs.tables import p_value

EXPLANATION = (
    "Test accuracies in percent. Parameters, epochs and published figures are as printed; built are the parameters of "
    "our network, trained its epochs. Ours: mean ± standard deviation over n seeds, and the best of them: at the "
    "epoch that the validation samples chose, and the papers' way, the maximum over epochs on the test set, which is "
    "optimistic and shown because the published figures are of that kind. Core-hours are those of one training; spikes "
    "(beyond the input's) and nJ, an estimate, those of one inference."
)

CURVES = "Test accuracy by epoch: mean, least and greatest over seeds; crosses are the authors' log"


class Column(NamedTuple):
    """A column: its head, what it has of a line, and how dear it is where there is no room for all."""

    title: str
    cell: Callable[[Line], str]
    rank: int
    right: bool = True


def columns(lines: Sequence[Line]) -> list[Column]:
    """Those of the table; the last epoch's accuracy only where an epoch could not be chosen."""
    unchosen = any(line.chosen is None and line.seeds for line in lines)
    return [
        Column("system", lambda line: line.title, 20, right=False),
        Column("network", lambda line: line.row.network, 19, right=False),
        Column("published mean", lambda line: _published_mean(line), 10),
        Column("published best", lambda line: _published_best(line), 11),
        Column("n", lambda line: str(len(line.seeds)) if line.seeds else "", 16),
        Column("by validation", lambda line: mean(line.chosen), 18),
        Column("its best", lambda line: _best(line.chosen), 8),
        Column("its p", lambda line: _p(line.chosen), 9),
        *([Column("last epoch", lambda line: mean(line.last), 14)] if unchosen else []),
        Column("papers' way", lambda line: mean(line.maximum), 15),
        Column("its best", lambda line: _best(line.maximum), 7),
        Column("its p", lambda line: _p(line.maximum), 8),
        Column("test", lambda line: (line.test or "").partition(",")[0], 3, right=False),
        Column("epochs", lambda line: _count(line.row.epochs), 2),
        Column("trained", lambda line: _range(line.trained), 6),
        Column("parameters", lambda line: _count(line.row.parameters), 4),
        Column("built", lambda line: _count(line.parameters), 5),
        Column("core-hours", lambda line: _figure(line.hours), 1),
        Column("spikes", lambda line: _figure(line.spikes), -1),
        Column("nJ", lambda line: _figure(line.energy), 0),
    ]


def filled(found: Outcome) -> list[tables.Column]:
    """The columns with their cells."""
    return [
        tables.Column(column.title, [column.cell(line) for line in found.lines], column.rank, column.right)
        for column in columns(found.lines)
    ]


def mean(measure: Ours | None) -> str:
    """`89.10 ± 0.12`, or without a deviation for one run."""
    if measure is None:
        return ""
    return f"{measure.mean:.2f}" + (f" ± {measure.std:.2f}" if measure.std is not None else "")


def _p(measure: Ours | None) -> str:
    return "" if measure is None else p_value(measure.p)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _best(measure: Ours | None) -> str:
    return "" if measure is None else f"{measure.best:.2f}"


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _range(numbers: Sequence[int]) -> str:
    ends = sorted({min(numbers), max(numbers)}) if numbers else []
    return " to ".join(f"{end:,}" for end in ends)


def _published_mean(line: Line) -> str:
    row = line.row
    if row.mean is None:
        return ""
    return f"{row.mean:.2f}" + (f" ± {row.std:.2f}" if row.std is not None else "")


def _published_best(line: Line) -> str:
    row = line.row
    if row.best is not None:
        return f"{row.best:.2f}"
    return "" if row.single is None else f"{row.single:.2f} ?"


def asides(found: Outcome) -> list[str]:
    """What stands under the table."""
    unsure = ["?: the source gives one figure, and does not say whether it is a mean or a best."]
    return [EXPLANATION, *(unsure if any(line.row.single is not None for line in found.lines) else []), *found.notes]


def head(found: Outcome) -> str:
    """Name and title of the table."""
    return f"{found.table.name}: {found.table.title}"


def markdown(found: Outcome) -> str:
    """A page with the table and its notes."""
    lines = [f"# {tables.markdown(head(found))}", "", *(f"- {tables.markdown(fact)}" for fact in found.facts), ""]
    lines += [*tables.markdown_table(filled(found)), "", *_paragraphs(asides(found))]
    return "\n".join(lines) + "\n"


def all_markdown(outcomes: Sequence[Outcome], facts: Sequence[str], figures: Mapping[str, Sequence[str]]) -> str:
    """A page with several tables: what they have in common said once. `figures` has the files of curves by table."""
    lines = ["# Results", "", *(f"- {tables.markdown(fact)}" for fact in facts), "", tables.markdown(EXPLANATION)]
    for found in outcomes:
        lines += ["", f"## {tables.markdown(head(found))}", "", *(f"    {fact}" for fact in found.facts), ""]
        lines += [*tables.markdown_table(filled(found)), ""]
        for file in figures.get(found.table.name, ()):
            lines += [f"![{CURVES}]({file})", ""]
        lines += _paragraphs(asides(found)[1:])
    return "\n".join(lines).rstrip() + "\n"


def _paragraphs(texts: Sequence[str]) -> list[str]:
    return "\n\n".join(map(tables.markdown, texts)).split("\n")


def latex(found: Outcome) -> str:
    """A table for \\input, in a document that loads the package booktabs."""
    shown = columns(found.lines)
    kinds = "".join("r" if column.right else "l" for column in shown)
    rows = [" & ".join(_tex(column.cell(line)) for column in shown) + r" \\" for line in found.lines]
    return "\n".join(
        [
            *(f"% {' '.join(fact.splitlines())}" for fact in found.facts),
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            rf"\caption{{{_tex(found.table.title)}. {_tex(EXPLANATION)}}}",
            rf"\begin{{tabular}}{{{kinds}}}",
            r"\toprule",
            " & ".join(_tex(column.title) for column in shown) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par {_tex(aside)}" for aside in asides(found)[1:]),
            r"\end{table}",
            "",
        ]
    )


_TEX = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in text)


def page(found: Outcome) -> str:
    """The table as one HTML file."""
    shown = columns(found.lines)
    rows = ["<tr>" + "".join(f"<th>{html.escape(column.title)}</th>" for column in shown) + "</tr>"]
    for line in found.lines:
        cells = "".join(f"<td>{html.escape(column.cell(line))}</td>" for column in shown)
        rows.append(f"<tr>{cells}</tr>")
    table = "\n".join(['<div class="wide"><table>', *rows, "</table></div>"])
    return PAGE.substitute(
        title=html.escape(head(found)),
        facts="\n".join(f"<li>{html.escape(fact)}</li>" for fact in found.facts),
        explanation=html.escape(EXPLANATION),
        notes="",
        parts="\n".join([table, *(f'<p class="dim">{html.escape(aside)}</p>' for aside in asides(found)[1:])]),
    )
