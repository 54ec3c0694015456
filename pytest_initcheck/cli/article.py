"""``initcheck article``: the experiments of the article, repeated."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Collection
from pathlib import Path

from ..errors import SettingsError
from ..surfaces.progress import counting, on_stderr
from .command import HEALTHY, UNHEALTHY, columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``initcheck article``."""
    parser.add_argument("--quick", action="store_true", help="rows 1 to 15 with fewer runs, in under a minute")
    parser.add_argument("--rows", metavar="LIST", help="only these, as in 1-15,18 (default: all)")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="(default: text)")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write pictures there (needs matplotlib)")


def run(arguments: argparse.Namespace) -> int:
    """Repeat the experiments and print the table; 0 if all rows agree."""
    from .. import article

    effort = article.QUICK if arguments.quick else article.FULL
    wanted = _numbers(arguments.rows, {row.number for row in article.ROWS})
    chosen = [row for row in article.ROWS if row.number in wanted and (effort.trainings or not row.training)]
    if not chosen:
        raise SettingsError("--quick leaves out rows 16 to 19, for which networks are trained: leave --quick out")
    found = []
    for done, row in enumerate(chosen):
        with on_stderr(counting(f"row {row.number}", done, len(chosen)), after=0.0):
            found.append((row, row.measure(effort)))
    if arguments.format == "json":
        print(json.dumps(article.as_data(found), indent=1))
    else:
        print(article.table(found, width=columns()))
    if arguments.plots is not None:
        try:
            paths = article.save_plots(found, arguments.plots, seeds=effort.seeds)
        except (ImportError, OSError) as e:
            raise SettingsError(str(e)) from e
        if arguments.format == "text":
            print(f"\npictures: {', '.join(map(str, paths))}")
    return HEALTHY if all(outcome.agrees for _, outcome in found) else UNHEALTHY


def _numbers(text: str | None, known: Collection[int]) -> set[int]:
    """``1-3,18`` as numbers."""
    if text is None:
        return set(known)
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if match is None or first > last or not {first, last} <= set(known):
            raise SettingsError(f"--rows must be numbers of {min(known)} to {max(known)}, as in 1-15,18 (got {text!r})")
        found.update(range(first, last + 1))
    return found
