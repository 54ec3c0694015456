"""What weights should be drawn from, and what they were drawn from; its own names are those of single draws."""

from __future__ import annotations

from .draws import (
    BY_FANS,
    ONES,
    ZEROS,
    Draw,
    by_fans,
    fill_,
    kaiming,
    lecun,
    orthogonal,
    siren,
    xavier,
)

__all__ = ["BY_FANS", "ONES", "ZEROS", "Draw", "by_fans", "fill_", "kaiming", "lecun", "orthogonal", "siren", "xavier"]
