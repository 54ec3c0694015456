"""Moments of one tensor from the moments of its parts, each on its own rank."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .world import World

#: What a rank says of a part that has no elements.
NOTHING = (0.0, 0.0, 0.0, math.inf, -math.inf, 0.0, 0.0, 0.0)


def joined(world: World, numbers: Sequence[Sequence[float]], weights: Sequence[int]) -> list[tuple[float, ...]]:
    """Return the moments over all ranks, of each tensor.

    Parts that are equal on several ranks (a tensor that every rank has whole; replicas of a shard) count as often, which changes
    nothing as long as each part is held by as many ranks as the others: so ranks need not know which it is.

    Args:
        world: the ranks.
        numbers: of each tensor ``(mean, variance, mean square, min, max, share of zeros, squared variation, scale)``, all but
            the extremes and the zeros relative to the scale.
        weights: how many elements of each tensor this rank holds.
    """
    if not numbers:
        return []
    width = len(NOTHING) + 1
    flat = [v for row, weight in zip(numbers, weights, strict=True) for v in (*row, float(weight))]
    every = world.rows(flat)
    found = []
    for i in range(len(numbers)):
        rows = [tuple(rank[i * width : (i + 1) * width]) for rank in every]
        found.append(_joined(rows))
    return found


def _joined(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    if all(_same(row, rows[0]) for row in rows):
        return rows[0][:-1]
    rows = [row for row in rows if row[-1]] or list(rows[:1])
    total = sum(row[-1] for row in rows) or 1.0
    scale = max(row[7] for row in rows) or 1.0
    parts = [(row[-1] / total, row[7] / scale, row) for row in rows]
    mean = sum(w * s * row[0] for w, s, row in parts)
    within = sum(w * s * s * row[1] for w, s, row in parts)
    between = sum(w * (s * row[0] - mean) ** 2 for w, s, row in parts)
    square = sum(w * s * s * row[2] for w, s, row in parts)
    apart = sum(w * s * s * row[6] for w, s, row in parts)
    low, high = min(row[3] for row in rows), max(row[4] for row in rows)
    if any(math.isnan(row[3]) or math.isnan(row[4]) for row in rows):
        low = high = math.nan
    zeros = sum(w * row[5] for w, _, row in parts)
    return (mean, within + between, square, low, high, zeros, apart, scale)


def _same(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a == b or (a != a and b != b) for a, b in zip(one, other, strict=True))
