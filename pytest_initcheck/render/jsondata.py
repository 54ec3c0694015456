"""Reports as JSON; the layout is published in ``report.schema.json`` and described in the reference."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..records import Report


def json_text(report: Report | Sequence[Report], *, indent: int | None = 1) -> str:
    """Return one report as a JSON object, or several as an array of such objects.

    Args:
        report: what to write.
        indent: spaces by which nested values stand in; ``None`` writes one line.
    """
    data = report.to_dict() if isinstance(report, Report) else [r.to_dict() for r in report]
    # Every non-finite number is a string by now; what slipped through must not become invalid JSON.
    return json.dumps(data, indent=indent, allow_nan=False)
