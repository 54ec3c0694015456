"""What a row is, how much is measured for it, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .agreement import Comparison


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        seeds: initializations of each stack.
        draws: draws of one layer.
        trainings: initializations of each network that is trained; 0 leaves rows 16 to 19 out.
    """

    seeds: int
    draws: int
    trainings: int


QUICK = Effort(seeds=6, draws=1000, trainings=0)
FULL = Effort(seeds=20, draws=10_000, trainings=3)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured for one row.

    Attributes:
        measured: in words.
        comparisons: each number and statement of the article, and whether it holds here.
        data: what a plot needs, by name.
    """

    measured: str
    comparisons: tuple[Comparison, ...]
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether everything that the article says holds here."""
        return all(c.agrees for c in self.comparisons)


@dataclass(frozen=True, slots=True)
class Row:
    """One experiment of the article.

    Attributes:
        number: its number in the table of claims.
        title: the experiment.
        setup: weights and activation.
        published: what the article says, in words.
        measure: repeats it.
        training: whether networks are trained for it.
    """

    number: int
    title: str
    setup: str
    published: str
    measure: Callable[[Effort], Outcome]
    training: bool = False
