"""What a run found out, as Markdown and as JSON. Pure."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.measure import Figure, Findings


def number(value: float) -> str:
    """With three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def cell(figure: Figure) -> str:
    """Median, and between what the rounds were, if there were several."""
    shown = number(figure.median)
    if len(figure.values) == 1:
        return shown
    return f"{shown} ({number(min(figure.values))}-{number(max(figure.values))})"


def verdict(figure: Figure) -> str:
    """What was wanted of a figure, and whether it came to that."""
    target = figure.target
    if target is None:
        return ""
    what = f"ratio {target.comparison}" if target.of == "ratio" else f"{figure.metric} {target.comparison}"
    reached = {True: "met", False: "MISSED", None: "unknown"}[target.is_met(figure)]
    return f"{what} {number(target.limit)}: {reached}"


def table(figures: Sequence[Figure]) -> str:
    """A Markdown table, aligned for those who read it as it is: a row for each contender of each case.

    The ratio is that of the first metric.
    """
    metrics = list(dict.fromkeys(figure.metric for figure in figures))
    by_row: dict[tuple[str, str], dict[str, Figure]] = {}
    for figure in figures:
        by_row.setdefault((figure.case, figure.contender), {})[figure.metric] = figure
    rows = [["case", "contender", *metrics, "ratio", "target"]]
    for (case, contender), own in by_row.items():
        ratio = next(iter(own.values())).ratio
        cells = [cell(own[metric]) if metric in own else "" for metric in metrics]
        wanted = "; ".join(filter(None, map(verdict, own.values())))
        rows.append([case, contender, *cells, "" if ratio is None else f"{ratio:.2f}", wanted])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def _group_by_metrics(figures: Sequence[Figure]) -> list[list[Figure]]:
    """Split the figures between neighboring cases that have no metric in common."""
    groups: list[list[Figure]] = []
    for _, case in itertools.groupby(figures, lambda figure: figure.case):
        own = list(case)
        if groups and {figure.metric for figure in own} & {figure.metric for figure in groups[-1]}:
            groups[-1] += own
        else:
            groups.append(own)
    return groups


def section(name: str, about: str, findings: Findings) -> str:
    """The Markdown of one part: a table for all cases, or several for those that have no metric in common."""
    notes = "".join(f"- {note}\n" for note in findings.notes)
    figures = "\n".join(table(alike) + "\n" for alike in _group_by_metrics(findings.figures))
    return "\n".join(block for block in (f"## {name}\n", f"{about}\n", figures, notes) if block)


def markdown(facts: Mapping[str, Any], sections: Sequence[str]) -> str:
    """The whole report."""
    head = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    explained = (
        "Medians of the rounds (least-most). Ratio: of the first metric, that of the case's first contender to this "
        "one, round by round."
    )
    return "\n".join([f"# Benchmark\n\n{head}\n\n{explained}\n", *sections])


def as_json(facts: Mapping[str, Any], parts: Mapping[str, Findings]) -> str:
    """Everything, each round's value included."""
    found = {
        name: {"notes": findings.notes, "figures": [_plain(figure) for figure in findings.figures]}
        for name, findings in parts.items()
    }
    return json.dumps({"facts": dict(facts), "parts": found}, indent=1, default=str)


def _plain(figure: Figure) -> dict[str, Any]:
    target = figure.target
    return {
        "case": figure.case,
        "contender": figure.contender,
        "metric": figure.metric,
        "median": figure.median,
        "values": list(figure.values),
        "ratio": figure.ratio,
        "target": None if target is None else {**vars(target), "met": target.is_met(figure)},
    }
