"""Shared by the tests that run pytest inside pytest."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_hypothesis_inside(all_of_torch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inner runs do without hypothesis, whose import takes most of a second each time."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
