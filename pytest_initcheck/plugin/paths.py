"""Whose a file is, and how it is called in messages."""

from __future__ import annotations

from pathlib import Path

#: Where this package lies.
PACKAGE = Path(__file__).parents[1]


def is_ours(file: str | Path) -> bool:
    """Return whether ``file`` belongs to this package."""
    return Path(file).is_relative_to(PACKAGE)


def relative(path: Path, root: Path) -> str:
    """Return ``path`` as seen from ``root``, with slashes; as it is where it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
