"""The ``initcheck`` command and its sub-commands."""

from __future__ import annotations

from .command import main

__all__ = ["main"]
