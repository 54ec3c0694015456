"""Reports as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ..records import Finding
from ..report import Report
from ..words import plural
from . import fold
from .code import fitted
from .column import Column
from .profile import depth
from .svg import charts, strips
from .tables import FOLDED, PARAMETER_COLUMNS, folding, layer_columns, text_of
from .text import headline
from .words import brief, counts, setup, shown, standing, told_apart, worst_first

if TYPE_CHECKING:
    from jinja2 import Environment


def html(reports: Sequence[Report]) -> str:
    """Return one self-contained page: for each model the verdict, the profile over depth, the findings, the tables.

    Args:
        reports: the models; unhealthy ones are shown first.
    """
    models = [_view(report, f"model-{i}") for i, report in enumerate(told_apart(worst_first(reports)), 1)]
    verdict = standing(reports) or f"{plural(len(models), 'model')}, all healthy"
    verdict = verdict if models else "no model was checked"
    template = _environment().get_template("report.html.jinja")
    return template.render(models=models, verdict=verdict, css=_file("report.css"), js=_file("report.js"))


def fragment(report: Report) -> str:
    """Return one model as HTML to put into another page, such as a notebook's: without scripts and tables."""
    template = _environment().get_template("fragment.html.jinja")
    return template.render(model=_view(report, "model", tables=False), css=_file("report.css"))


def _view(report: Report, anchor: str, *, tables: bool = True) -> dict[str, Any]:
    """What the template shows, as text."""
    if not report.checked:
        why = [_finding(f) for f in report.findings]
        return {
            "anchor": anchor,
            "name": shown(report.model),
            "test": shown(report.test),
            "badge": "unchecked",
            "verdict": "not checked",
            "findings": why,
        }
    points = depth(report)
    line = headline(report)
    places = {p.layer.name: i for i, p in enumerate(points)}
    return {
        "anchor": anchor,
        "name": shown(report.model),
        "test": shown(report.test),
        "ok": report.ok,
        "badge": line.verdict,
        "verdict": shown(line.said + (f", {line.counted}" if line.counted else "")),
        "facts": shown(line.facts),
        "charts": charts(report, points),
        "strips": strips(report),
        "findings": [_finding(f) for f in report.findings if f.severity != "note"],
        "notes": [_finding(f) for f in report.findings if f.severity == "note"],
        "counts": ", ".join(counts(report.findings)) or "no findings",
        "ignored": [shown(str(f)) for f in report.ignored],
        "response": _response(report),
        "unseen": [shown(s) for s in report.trace.unseen],
        "setup": [shown(s) for s in setup(report)],
        "reproduce": shown(report.reproduce),
        "tables": [
            _table("layers", layer_columns(report), list(report.layers.values()), places, fold.apart(report)),
            _table("parameters", PARAMETER_COLUMNS, list(report.parameters.values()), {}, fold.apart(report)),
        ]
        if tables
        else [],
    }


def _finding(f: Finding) -> dict[str, Any]:
    return {
        "severity": f.severity,
        "rule": shown(f.rule),
        "layers": [shown(name) for name in f.layers],
        "summary": shown(f.summary),
        "cause": shown(f.cause),
        "fix": "\n".join(shown(line) for line in fitted(f.fix, 110)),
        "advice": shown(f.advice),
        "silence": shown(f.silence),
        "evidence": [
            (shown(k), brief(v) if isinstance(v, float) else shown(str(v)))
            for k, v in f.evidence.items()
            if v is not None
        ],
    }


def _response(report: Report) -> list[tuple[str, str, str]]:
    """(name, value, what it means) of every question that was asked."""
    r = report.response
    moved = ", ".join(brief(m) for m in r.movement) + (" at least, by its gradient" if r.foretold else "")
    rows = [
        ("movement", moved, "change of the output after 1, 2, ... optimizer-sized steps, RMS around the samples' mean"),
        ("predicted", brief(r.predicted), "the first step's movement as the gradient predicts it"),
        ("alignment", brief(r.alignment), "correlation of the movement with the direction asked for"),
        ("residual", brief(r.residual), "share of the error left after a few Adam steps"),
        ("sensitivity", brief(r.sensitivity), "relative change of the output over relative change of the input"),
        ("loss", brief(report.trace.loss), "value of the loss at the start"),
    ]
    return [row for row in rows if row[1] not in ("", "-")]


def _table(
    title: str, columns: Sequence[Column], records: Sequence[Any], places: dict[str, int], apart: Collection[str]
) -> dict[str, Any]:
    columns, folded = folding(columns, records, apart)
    texts = {c.title: [shown(text_of(columns, c, row)) for row in folded] for c in columns}
    kept = [c for c in columns if c.needed or set(texts[c.title]) - {"-"}]
    rows = []
    for i, row in enumerate(folded):
        cells = [(texts[c.title][i], str(len(row)) if c is FOLDED else _key(c, row[0])) for c in kept]
        drawn = " ".join(str(places[record.name]) for record in row if record.name in places)
        rows.append({"places": drawn, "cells": cells})
    return {"title": title, "columns": kept, "rows": rows, "count": len(records)}


def _key(column: Column, record: Any) -> str | None:
    """What the cell is sorted by, where its text is not enough."""
    value = None if column.key is None else column.key(record)
    return None if value is None else f"{value:.5g}"


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader

    return Environment(autoescape=True, loader=FunctionLoader(_file), trim_blocks=True, lstrip_blocks=True)
