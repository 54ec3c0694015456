"""Reports as JSON; the layout is published in ``report.schema.json`` and described in the reference."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ..report import Report


def json_text(report: Report | Sequence[Report], *, indent: int | None = 1) -> str:
    """Return one report as a JSON object, or several as an array of such objects.

    Args:
        report: what to write.
        indent: spaces by which nested values stand in, a column of a table on one line; ``None`` writes one line in all.
    """
    data = report.to_dict() if isinstance(report, Report) else [r.to_dict() for r in report]
    # Every non-finite number is a string by now; what slipped through must not become invalid JSON.
    if indent is None:
        return json.dumps(data, allow_nan=False, separators=(",", ":"))
    return "".join(_pieces(data, " " * indent, "\n"))


def _pieces(value: Any, indent: str, line: str) -> Iterator[str]:
    """Objects, and arrays of objects, one value a line; every other array on one line, without spaces."""
    inner = line + indent
    if isinstance(value, dict) and value:
        for i, (key, item) in enumerate(value.items()):
            yield f"{',' if i else '{'}{inner}{json.dumps(key)}: "
            yield from _pieces(item, indent, inner)
        yield f"{line}}}"
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value[:1]):
        for i, item in enumerate(value):
            yield f"{',' if i else '['}{inner}"
            yield from _pieces(item, indent, inner)
        yield f"{line}]"
    else:
        yield json.dumps(value, allow_nan=False, separators=(",", ":"))
