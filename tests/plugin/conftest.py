"""Shared by the tests that run pytest inside pytest."""

from __future__ import annotations

import pytest
from torch import nn

from pytest_initcheck import check_init


@pytest.fixture(scope="session", autouse=True)
def _all_of_torch() -> None:
    """Import what torch imports only when it is used: an inner run would drop it, and it cannot be imported twice."""
    check_init(lambda: nn.Linear(3, 3), "4x3")


@pytest.fixture(autouse=True)
def _no_hypothesis_inside(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inner runs do without hypothesis, whose import takes most of a second each time."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
