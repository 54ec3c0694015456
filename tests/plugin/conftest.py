"""Shared by the tests that run pytest inside pytest."""

from __future__ import annotations

import pytest

#: Plugins that inner runs do without: what they find installed must not change them, and hypothesis alone takes most of
#: a second to import. ``test_friends.py`` takes them in one by one.
FRIENDS = ("hypothesispytest", "randomly", "rerunfailures", "timeout", "pytest_cov", "asyncio")


@pytest.fixture(autouse=True)
def _no_friends_inside(all_of_torch: None, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    # After pytester, which clears the variable.
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p no:{name}" for name in FRIENDS))
