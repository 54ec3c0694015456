"""The formats that reports are written to files in, by the name that options know them by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..report import Report
from .code_scanning import github_annotations, sarif
from .jsondata import json_text
from .md import markdown
from .page import html
from .text import terminal


def plain_text(reports: Sequence[Report]) -> str:
    """Return every report as it stands in a terminal of 100 columns, and a line for each model that could not be checked."""
    return "\n\n".join(terminal(report, width=100) for report in reports) + "\n"


#: Name -> reports to the whole text of the file, to be written as UTF-8.
FORMATS: Mapping[str, Callable[[Sequence[Report]], str]] = {
    "text": plain_text,
    "json": json_text,
    "markdown": markdown,
    "html": html,
    "sarif": sarif,
    "github": github_annotations,
}
