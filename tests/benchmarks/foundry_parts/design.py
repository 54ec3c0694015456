"""What a seed stands for before its initialization: a family's architecture, how to build it soundly, and its task."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from foundry_parts.tasks import Task


@dataclass(frozen=True)
class Design:
    """An architecture with its task.

    Attributes:
        facts: what was drawn, for people.
        build: builds it with its own sound initialization, from the global generator.
        task: what it is trained on.
        head: beginnings of the names of its last layers.
    """

    facts: dict[str, Any]
    build: Callable[[], nn.Module]
    task: Task
    head: tuple[str, ...] = ("head",)


Family = Callable[[random.Random], Design]
#: Every family by name.
FAMILIES: dict[str, Family] = {}


def family(function: Family) -> Family:
    """Register a family under the name of its function."""
    FAMILIES[function.__name__] = function
    return function


def between(r: random.Random, low: int, high: int) -> int:
    """An integer from ``low`` to ``high``, somewhat evenly on a log scale: deep nets are costly, shallow ones shrug faults off."""
    share = r.random() ** 0.7
    return min(high, int(math.exp(math.log(low) + share * math.log((high + 1) / low))))
