"""What an earlier run learnt of the models that tests call, in pytest's cache: healthy ones need not be looked at again."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from .. import __version__
from ..settings import Settings
from .configuration import configured
from .watch_told import HEALTHY

_PLACE = "initcheck/watched"


class Learnt:
    """Models that were healthy, by key, each with a digest of its code.

    Nothing is taken from another version of this package or of torch, from a run with other settings, or where reports are
    written, which are to hold every model. What was unhealthy, or not judged, is looked at again.

    Args:
        config: pytest's.
        use: whether anything is read.
    """

    def __init__(self, config: pytest.Config, *, use: bool) -> None:
        self._config = config
        self._cache: Any = getattr(config, "cache", None)  # may be turned off
        self._use = use
        #: Versions and settings, once torch is imported.
        self.under = ""

    def read(self) -> Mapping[str, str]:
        """Return what is known under the settings of this run."""
        found = configured(self._config)
        settings = Settings.of(found.command_line, found.ini, shared=0)
        self.under = f"{__version__} {sys.modules['torch'].__version__} {settings!r}"
        if self._cache is None or not self._use:
            return {}
        found = self._cache.get(_PLACE, {})
        known = found.get("healthy") if isinstance(found, dict) and found.get("under") == self.under else None
        return known if isinstance(known, dict) else {}

    def write(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Remember the healthy models of this run beside those of earlier ones."""
        healthy = {e["key"]: e["code"] for e in entries if e["state"] == HEALTHY}
        under = next((e["under"] for e in entries if "under" in e), self.under)
        if self._cache is None or not healthy or not under:
            return
        found = self._cache.get(_PLACE, {})
        if isinstance(found, dict) and found.get("under") == under and isinstance(found.get("healthy"), dict):
            healthy = {**found["healthy"], **healthy}
        self._cache.set(_PLACE, {"under": under, "healthy": healthy})
