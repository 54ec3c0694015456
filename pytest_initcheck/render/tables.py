"""Tables of all layers and all parameters, as wide as there is room for."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..records import LayerRecord, ParameterRecord, Stats
from ..report import Report
from . import fold
from .column import Column
from .words import amount, brief, cells, cut, share, shown, span

#: A private-use character that no name has any business to contain.
_FILLER = "\ue000"


def _stat(title: str, of: str, field: str, *, needed: bool = False) -> Column:
    def value(record: LayerRecord | ParameterRecord) -> float | None:
        stats: Stats | None = getattr(record, of)
        return None if stats is None or not stats.count else getattr(stats, field)

    of_all = field == "zeros"
    weighs: Any = "share" if of_all else None if field in ("mean", "min", "max") else "size"
    return Column(title, lambda r: share(value(r)) if of_all else brief(value(r)), value, needed=needed, weighs=weighs)


def _share(title: str, field: str) -> Column:
    return Column(title, lambda r: share(getattr(r, field)), lambda r: getattr(r, field), weighs="share")


def _shape(record: LayerRecord | ParameterRecord) -> str:
    return "x".join(map(str, record.shape)) or "scalar"


#: In the order in which they stand; :func:`_fitting` adds those not needed by :data:`_LAYER_PRIORITY`.
LAYER_COLUMNS = (
    Column("layer", lambda r: r.name, words=True, needed=True),
    Column("kind", lambda r: r.kind, words=True),
    Column("shape", _shape, lambda r: r.activation.count, words=True),
    _stat("RMS", "activation", "rms", needed=True),
    _stat("std", "activation", "std"),
    _stat("mean", "activation", "mean"),
    _stat("min", "activation", "min"),
    _stat("max", "activation", "max"),
    _stat("zeros", "activation", "zeros"),
    _stat("varies", "activation", "variation"),
    _share("dead", "dead_units"),
    _share("saturated", "saturated"),
    _stat("gradient", "gradient", "rms", needed=True),
    Column("next", lambda r: r.followed_by or "-", words=True),
)
_LAYER_PRIORITY = ("kind", "std", "varies", "shape", "zeros", "next", "mean", "max", "min", "dead", "saturated")


PARAMETER_COLUMNS = (
    Column("parameter", lambda r: r.name, words=True, needed=True),
    Column("role", lambda r: r.role, words=True),
    Column("shape", _shape, lambda r: r.value.count if r.value else 0, words=True),
    Column("drawn from", lambda r: r.origin or "-", words=True),
    Column("fan in", lambda r: "-" if r.fan_in is None else str(r.fan_in), lambda r: r.fan_in),
    _stat("RMS", "value", "rms", needed=True),
    _stat("mean", "value", "mean"),
    _stat("min", "value", "min"),
    _stat("max", "value", "max"),
    _stat("zeros", "value", "zeros"),
    _stat("gradient", "gradient", "rms", needed=True),
    Column("next", lambda r: r.followed_by or "-", words=True),
    Column(
        "trained",
        lambda r: "frozen" if not r.requires_grad else "unreached" if not r.reached else "yes",
        words=True,
    ),
)
_PARAMETER_PRIORITY = ("shape", "drawn from", "fan in", "next", "role", "trained", "mean", "zeros", "max", "min")


#: In a table with folded rows: how many records a row stands for.
FOLDED = Column("alike", lambda _: "1", lambda _: 1.0, needed=True)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One of several models.

    Attributes:
        model: name.
        verdict: one word or two.
        told: the finding that stands for all, or why there is none; then the same in fewer words.
        layers: how many were measured.
        parameters: how many values they have.
    """

    model: str
    verdict: str
    told: tuple[str, ...]
    layers: int | None = None
    parameters: int | None = None

    def within(self, most: int) -> str:
        """What is told in as many words as ``most`` characters allow."""
        return next((text for text in self.told if len(text) <= most), self.told[-1])


VERDICT_COLUMNS = (
    Column("model", lambda r: r.model, words=True, needed=True),
    Column("verdict", lambda r: r.verdict, words=True, needed=True),
    Column("layers", lambda r: "-" if r.layers is None else str(r.layers), lambda r: r.layers),
    Column("params", lambda r: "-" if r.parameters is None else amount(r.parameters), lambda r: r.parameters),
    Column("finding", lambda r: r.told[0], words=True, needed=True, within=lambda r, most: r.within(most)),
)


def verdicts(found: Sequence[Verdict], *, width: int) -> str:
    """Return the table of several models in the order given."""
    return _table("models", VERDICT_COLUMNS, ("params", "layers"), found, width)


def layer_columns(report: Report) -> tuple[Column, ...]:
    """Return the columns of the table of layers; with several seeds, the range of the RMS over them too."""
    if not report.spread:
        return LAYER_COLUMNS
    over = {name: (span(values), max(values)) for name, values in report.spread.items()}
    column = Column("over seeds", lambda r: over.get(r.name, ("-", 0.0))[0], lambda r: over.get(r.name, ("", None))[1])
    return (*LAYER_COLUMNS[:4], column, *LAYER_COLUMNS[4:])


def layers(report: Report, *, width: int) -> str:
    """Return the table of all layers in call order; ``""`` if there are none."""
    priority = ("over seeds", *_LAYER_PRIORITY) if report.spread else _LAYER_PRIORITY
    rows = list(report.layers.values())
    return _table("layers", layer_columns(report), priority, rows, width, apart=fold.apart(report))


def parameters(report: Report, *, width: int) -> str:
    """Return the table of all parameters; ``""`` if there are none."""
    rows = list(report.parameters.values())
    return _table("parameters", PARAMETER_COLUMNS, _PARAMETER_PRIORITY, rows, width, apart=fold.apart(report))


def folding(
    columns: Sequence[Column], records: Sequence[Any], apart: Collection[str]
) -> tuple[tuple[Column, ...], list[list[Any]]]:
    """Return the columns and the rows of a table; where some rows stand for several records, a column says for how many."""
    rows = fold.folded(columns, records, apart=apart)
    if len(rows) == len(records):
        return tuple(columns), rows
    return (columns[0], FOLDED, *columns[1:]), rows


def text_of(columns: Sequence[Column], column: Column, row: Sequence[Any]) -> str:
    """Return the text of one cell."""
    return str(len(row)) if column is FOLDED else fold.cell(column, row, name=column is columns[0])


def _table(
    title: str,
    columns: Sequence[Column],
    priority: Iterable[str],
    records: Sequence[Any],
    width: int,
    *,
    apart: Collection[str] | None = None,
) -> str:
    if not records:
        return ""
    rows = [[record] for record in records]
    if apart is not None:
        columns, rows = folding(columns, records, apart)
    if len(rows) < len(records):
        title = f"{title}, {len(records)} in {len(rows)} rows: those that are alike are folded, with their range"
    import tabulate

    names = max(20, width // 3)
    # Without wcwidth tabulate counts a wide character as one cell: a filler beside it, taken out later, mends that.
    filler = _FILLER if getattr(tabulate, "wcwidth", None) is None else ""

    def cell(column: Column, row: Sequence[Any], most: int = names) -> str:
        text = text_of(columns, column, row) if column.within is None else column.within(row[0], most)
        if text.isascii() and text.isprintable():
            return cut(text, most)
        text = cut(shown(unicodedata.normalize("NFC", text)), most)
        return "".join(c + filler * (cells(c) - 1) for c in text)

    texts = {c.title: [cell(c, row) for row in rows] for c in columns if c.within is None}
    left = width - sum(_width(c.title, texts[c.title]) for c in columns if c.needed and c.within is None)
    texts |= {c.title: [cell(c, row, max(names, left)) for row in rows] for c in columns if c.within is not None}
    chosen = _fitting(columns, priority, texts, width)
    text: str = tabulate.tabulate(
        list(zip(*(texts[c.title] for c in chosen), strict=True)),
        headers=[c.title for c in chosen],
        tablefmt="simple",
        disable_numparse=True,
        colalign=["left" if c.words else "right" for c in chosen],
        preserve_whitespace=True,
    )
    return f"{title}:\n{text.replace(_FILLER, '')}"


def _fitting(
    columns: Sequence[Column], priority: Iterable[str], texts: Mapping[str, Sequence[str]], width: int
) -> list[Column]:
    """Columns that have something to say, as many as fit, the needed ones always."""
    wide = {title: _width(title, column) for title, column in texts.items()}
    chosen = {c.title for c in columns if c.needed}
    used = sum(wide[title] for title in chosen) - 2
    for title in priority:
        if set(texts[title]) != {"-"} and used + wide[title] <= width:
            chosen.add(title)
            used += wide[title]
    return [c for c in columns if c.title in chosen]


def _width(title: str, texts: Sequence[str]) -> int:
    """Of a column with the space behind it; tabulate gives headings two spaces more than they need."""
    return max(len(title) + 2, *map(len, texts)) + 2
