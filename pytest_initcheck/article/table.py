"""Rows and what was measured for them, as text and as data."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ..report import plain
from .agreement import Comparison
from .outcome import Outcome, Row

#: Width from which on all columns stand side by side.
_WIDE = 110


def table(found: Sequence[tuple[Row, Outcome]], *, width: int = 80) -> str:
    """Return the table: row, experiment, published, measured, whether they agree; and below it what does not."""
    from tabulate import tabulate

    text = width - len("row") - len("agrees") - 4 - 4 * 2  # tabulate pads a header by two, and columns by two
    shares = (0.36, 0.28, 0.36) if width < _WIDE else (0.34, 0.26, 0.4)
    widths = [max(14, int(text * share)) for share in shares]
    rows = [
        [
            row.number,
            textwrap.fill(f"{row.title}: {row.setup}", widths[0]),
            textwrap.fill(row.published, widths[1]),
            textwrap.fill(outcome.measured, widths[2]),
            "yes" if outcome.agrees else "NO",
        ]
        for row, outcome in found
    ]
    body = tabulate(rows, ["row", "experiment", "published", "measured", "agrees"], "simple", disable_numparse=True)
    agreeing = sum(outcome.agrees for _, outcome in found)
    blocks = [body, f"{agreeing} of {len(found)} rows agree"]
    for row, outcome in found:
        wrong = [_said(c) for c in outcome.comparisons if not c.agrees]
        if wrong:
            blocks.append(f"row {row.number} does not: {'; '.join(wrong)}")
    return "\n\n".join(blocks)


def line(row: Row, outcome: Outcome) -> str:
    """Return a row in one line."""
    verdict = "agrees" if outcome.agrees else "DOES NOT AGREE"
    return f"row {row.number}: {row.title}: {row.setup}: {outcome.measured}: {verdict}"


def as_data(found: Sequence[tuple[Row, Outcome]]) -> list[dict[str, Any]]:
    """Return everything as JSON-ready data."""
    return [
        {
            "row": row.number,
            "experiment": row.title,
            "setup": row.setup,
            "published": row.published,
            "measured": outcome.measured,
            "agrees": outcome.agrees,
            "comparisons": plain(outcome.comparisons),
            "data": plain(outcome.data) if isinstance(outcome.data, Mapping) else {},
        }
        for row, outcome in found
    ]


def _said(c: Comparison) -> str:
    if c.published is None or c.measured is None:
        return f"not so: {c.what}"
    return f"{c.what} {c.published:.4g} is outside {c.low:.4g} to {c.high:.4g}, measured {c.measured:.4g}"
