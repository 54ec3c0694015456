"""Rows of a long table that repeat: a run of records that are alike is one row, with the range of its numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import Any

from ..report import Report
from ..rules import named
from .column import Column

#: Tables up to this long have a row for every record.
LONG = 200
#: Runs shorter than this are not folded.
RUN = 3
#: Sizes (RMS, std) of a run differ by at most this factor, shares of one by at most this much.
FACTOR, SHARE = 2.0, 0.1
#: Findings whose first layers or parameters have a row of their own.
APART = 50

_NUMBER = re.compile(r"\d+")


def folded(
    columns: Sequence[Column], records: Sequence[Any], *, apart: Collection[str] = (), long: int = LONG
) -> list[list[Any]]:
    """Return the rows of a table, each with the records that it stands for, in the order of their first ones.

    Records are alike if their names differ in numbers only, their words are the same, and none of their sizes leaves the range
    of the run: a signal that grows over a thousand blocks is a run for every factor of two.

    Args:
        columns: of the table; its words and what it weighs are compared.
        records: one after another.
        apart: names of those that have a row of their own.
        long: up to so many records nothing is folded.
    """
    if len(records) <= long:
        return [[record] for record in records]
    words = [c for c in columns if c.words and c.title != columns[0].title]
    weighed = [c for c in columns if c.weighs]
    runs: list[_Run] = []
    open_runs: dict[tuple[str, ...], _Run] = {}
    places = {id(record): i for i, record in enumerate(records)}
    for record in records:
        kind = (_NUMBER.sub("0", record.name), *(c.text(record) for c in words))
        values = [None if c.key is None else c.key(record) for c in weighed]
        run = open_runs.get(kind)
        alone = record.name in apart
        if run is None or alone or not run.takes(values, weighed):
            run = _Run(values)
            runs.append(run)
        run.records.append(record)
        if alone:
            open_runs.pop(kind, None)
        else:
            open_runs[kind] = run
    rows = [row for run in runs for row in ([run.records] if len(run.records) >= RUN else [[r] for r in run.records])]
    return sorted(rows, key=lambda row: places[id(row[0])])


class _Run:
    """Records that are alike, and the range of each of their numbers."""

    def __init__(self, values: Sequence[float | None]) -> None:
        self.records: list[Any] = []
        self._low, self._high = list(values), list(values)

    def takes(self, values: Sequence[float | None], weighed: Sequence[Column]) -> bool:
        """Whether a record with these values is alike; if so, the range holds it from now on."""
        lows: list[float | None] = []
        highs: list[float | None] = []
        for value, low, high, column in zip(values, self._low, self._high, weighed, strict=True):
            if value is None or low is None or high is None:
                if value is not low:
                    return False
                lows.append(low)
                highs.append(high)
                continue
            if not (math.isfinite(value) and math.isfinite(low)):
                return False
            low, high = min(low, value), max(high, value)
            if high > FACTOR * low if column.weighs == "size" else high - low > SHARE:
                return False
            lows.append(low)
            highs.append(high)
        self._low, self._high = lows, highs
        return True


def cell(column: Column, records: Sequence[Any], *, name: bool) -> str:
    """Return the text of one cell: that of the one record, or what those of a run have in common, or their range."""
    if len(records) == 1:
        return column.text(records[0])
    if name:
        return _names([record.name for record in records])
    texts = [column.text(record) for record in records]
    if len(set(texts)) == 1:
        return texts[0]
    keyed = (
        [] if column.key is None else [(column.key(record), text) for record, text in zip(records, texts, strict=True)]
    )
    numbers = [(value, text) for value, text in keyed if value is not None]
    if not numbers:
        return f"{texts[0]}.."
    low, high = min(numbers)[1], max(numbers)[1]
    return low if low == high else f"{low}..{high}"


def apart(report: Report) -> set[str]:
    """Return the names of layers and parameters that findings name first, and of what belongs to them."""
    names: set[str] = set()
    told = [f.layers[0] for f in report.findings if f.layers and f.severity != "note"]
    for name in told[:APART]:
        layer = named.layer_of(report.trace, name)
        names |= {name} | (set() if layer is None else {layer.name, *layer.parameters})
    return names


def _names(names: Sequence[str]) -> str:
    """``blocks.3..998.fc`` for the names of a run."""
    numbers = [[int(n) for n in _NUMBER.findall(name)] for name in names]
    ranges = iter([(min(column), max(column)) for column in zip(*numbers, strict=True)])

    def ranged(_: re.Match[str]) -> str:
        low, high = next(ranges)
        return str(low) if low == high else f"{low}..{high}"

    return _NUMBER.sub(ranged, names[0])
