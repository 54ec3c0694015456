"""One column of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        title: heading.
        text: record -> cell.
        key: record -> what the column is sorted by, where that is not the text.
        words: whether the cells are words (aligned left) rather than numbers.
        needed: whether the column stays in the narrowest table.
        weighs: how the numbers of records that are alike may differ: as a ``"size"``, as a ``"share"`` of one, in any way.
        within: record and number of characters -> cell, of the one column that has all the space which the other needed ones leave.
    """

    title: str
    text: Callable[[Any], str]
    key: Callable[[Any], float | None] | None = None
    words: bool = False
    needed: bool = False
    weighs: Literal["size", "share"] | None = None
    within: Callable[[Any, int], str] | None = None
