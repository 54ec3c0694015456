"""Reports as files: ``--initcheck-report=FORMAT:PATH``, and the summary page of a GitHub Actions step."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SettingsError

if TYPE_CHECKING:
    from ..report import Report

#: What an option for report files says of itself.
HELP = "write all reports of the run to a file, FORMAT:PATH; formats: text, json, markdown, html, sarif, github"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where reports go and as what."""

    format: str
    path: Path


def parse(texts: Iterable[str], *, called: str, base: Path) -> tuple[Destination, ...]:
    """Return the destinations that an option names, relative paths taken from ``base``.

    Raises:
        SettingsError: not FORMAT:PATH, an unknown format, or a folder in the place of the file.
    """
    found = []
    for text in texts:
        from ..render import FORMATS

        kind, colon, path = text.strip().partition(":")
        if not colon or not path or kind not in FORMATS:
            raise SettingsError(f"{called} must be FORMAT:PATH with a format of {', '.join(FORMATS)} (got {text!r})")
        target = base / path
        if target.is_dir():
            raise SettingsError(f"{called} names the folder {path!r}, where a file is to be written; add a file name")
        found.append(Destination(kind, target))
    return tuple(found)


def write(reports: Sequence[Report], destinations: Iterable[Destination]) -> None:
    """Write ``reports`` to every destination as UTF-8; folders on the way are made.

    Raises:
        OSError: a file cannot be written.
    """
    from ..render import FORMATS

    for destination in destinations:
        destination.path.parent.mkdir(parents=True, exist_ok=True)
        destination.path.write_text(FORMATS[destination.format](reports), encoding="utf-8")


def append_step_summary(reports: Sequence[Report]) -> None:
    """Append ``reports`` as Markdown to the file that GitHub Actions names in ``GITHUB_STEP_SUMMARY``, if it does.

    Raises:
        OSError: the file cannot be written.
    """
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path and reports:
        from ..render import markdown

        with Path(path).open("a", encoding="utf-8") as file:
            file.write(markdown(reports) + "\n")
