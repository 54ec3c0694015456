"""Report -> text or picture. Nothing here imports torch; what a format needs is imported when it is asked for.

No module here has the name of a function below: importing it would put the module in the function's place.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bars import drawable as drawable
    from .code_scanning import github_annotations as github_annotations
    from .code_scanning import sarif as sarif
    from .figure import plot as plot
    from .formats import FORMATS as FORMATS
    from .jsondata import json_text as json_text
    from .md import markdown as markdown
    from .page import fragment as fragment
    from .page import html as html
    from .text import overview as overview
    from .text import summary_line as summary_line
    from .text import terminal as terminal

_HOME = {
    "FORMATS": "formats",
    "drawable": "bars",
    "fragment": "page",
    "github_annotations": "code_scanning",
    "html": "page",
    "json_text": "jsondata",
    "markdown": "md",
    "overview": "text",
    "plot": "figure",
    "sarif": "code_scanning",
    "summary_line": "text",
    "terminal": "text",
}

__all__ = [*sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
