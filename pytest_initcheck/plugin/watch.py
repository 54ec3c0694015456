"""Watching: models that the tests of a suite call are probed there and then, without a line of configuration.

The process that runs a test probes; what it found travels on the test's reports as plain data; the process with the
terminal prints. Nothing here imports torch: a suite that does not use it is not made to.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ..surfaces.hooked import extra_rules
from ..surfaces.progress import shown_in
from ..words import plural, some
from . import configuration
from .configuration import settings_for
from .items import ModelItem

if TYPE_CHECKING:
    from ..records import Report
    from .watch_models import Listener

#: What a watched model is called as a result of its own, next to the tests.
UNHEALTHY = "unhealthy"


class SuiteWatch:
    """Has the models probed that tests call, and reports what was found after each test.

    Args:
        config: pytest's.
        configured: whether models are named in the configuration: then watching has to be asked for.
    """

    def __init__(self, config: pytest.Config, *, configured: bool) -> None:
        found = configuration.configured(config)
        self._config = config
        self._fails = found.watch == "fail"
        self._budget = found.watch_budget
        self._asked = found.watch is not None
        self._active = self._asked or not configured
        self._listener: Listener | None = None
        self._item: pytest.Item | None = None
        self._failed = False
        #: What was found, by key of the model: two workers may have met the same one.
        self.entries: dict[str, dict[str, Any]] = {}

    # -- in the process that runs the tests

    @pytest.hookimpl(tryfirst=True)  # before -k and -m choose
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if any(isinstance(item, ModelItem) for item in items) and not self._asked:
            self._active = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._item, self._failed = item, False
        self._listen()
        try:
            result = yield
        finally:
            self._item = None
            entries = self._listener.entries() if self._listener else []
            if self._listener:
                self._listener.end()
        for entry in entries:
            if entry["state"] == UNHEALTHY and (self._fails or not self._failed):
                item.ihook.pytest_runtest_logreport(report=self._result(item, entry))
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        self._failed = False  # a test that is run again may yet pass
        self._listen()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        self._listen()

    def _listen(self) -> None:
        """Watch from here on if the suite has imported torch."""
        item = self._item
        if not self._active or item is None or isinstance(item, ModelItem):
            return
        torch = sys.modules.get("torch")
        if self._listener is None:
            if torch is None or not hasattr(torch, "compiler"):  # not there, or half way
                return
            from .watch_models import Listener

            self._listener = Listener(self._probe, budget=self._budget, root=self._config.rootpath)
        if not self._listener.listening(item.nodeid):
            self._listener.listen()
            self._listener.begin(item.nodeid, unsuitable=_unsuitable(item))

    def _probe(self, model: Any, inputs: Any, name: str, mode: str | None) -> Report:
        from ..check import check

        assert self._item is not None
        hook = self._item.ihook
        settings = settings_for(self._item, {} if mode is None else {"mode": mode})
        settings = replace(settings, seeds=1, deferred=None)  # these need a factory
        loss = hook.pytest_initcheck_loss(name=name)
        rules = extra_rules(hook)
        try:
            with shown_in(self._config, name):
                report = check(model, inputs, loss=loss, settings=settings, name=name, extra_rules=rules, fixes=False)
        except Exception as e:
            if settings.debug:  # the listener makes a reason of it, and the test goes on
                self._item.add_report_section("call", f"initcheck {name}", "".join(traceback.format_exception(e)))
            raise
        hook.pytest_initcheck_report(report=report)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put what was found on the last report of a test: it crosses from xdist's workers with it."""
        report = yield
        self._failed |= report.failed
        if call.when == "teardown" and self._listener is not None and item is self._item:
            entries = self._listener.entries()
            if entries:
                report.initcheck_watched = entries  # type: ignore[attr-defined]
        return report

    def _result(self, item: pytest.Item, entry: dict[str, Any]) -> pytest.TestReport:
        """The finding as a result of its own.

        Not written for a test that failed, unless it fails itself: pytest's cache would take a result that does not
        fail for the test's own and forget that it failed.
        """
        file, line, domain = item.location
        sentence = f"initcheck: {entry['said']}, called at {entry['where']}"
        longrepr: Any = (file, (line or 0) + 1, sentence)
        if self._fails:
            from ..records import Report
            from ..render import terminal

            longrepr = f"{sentence}\n\n{terminal(Report.from_dict(entry['report']))}"
        return pytest.TestReport(
            nodeid=item.nodeid,
            location=(file, line, f"{domain} [initcheck {entry['model']}]"),
            keywords={},
            outcome="failed" if self._fails else "skipped",
            longrepr=longrepr,
            when="call",
            duration=entry["seconds"],
            initcheck_result=entry["model"],
        )

    def pytest_unconfigure(self) -> None:
        if self._listener is not None:
            self._listener.stop()

    # -- in the process with the terminal

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.CollectReport | pytest.TestReport) -> Any:
        model = getattr(report, "initcheck_result", None)
        if model is None:
            return None
        if report.failed:
            return "failed", "F", f"UNHEALTHY {model}"
        return UNHEALTHY, "w", (f"UNHEALTHY {model}", {"yellow": True})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, None, None]:
        for entry in getattr(report, "initcheck_watched", ()):
            before = self.entries.get(entry["key"])
            if before is None or before["state"] == "skipped":
                self.entries[entry["key"]] = entry
        model = getattr(report, "initcheck_result", None)
        junit = None if model is None else _junit(self._config)
        if junit is not None:  # a case of its own, by its own name
            name = f"{report.nodeid.rpartition('::')[2]} [initcheck {model}]"
            junit.node_reporter(report).add_attribute("name", name)
        yield
        if junit is not None:
            junit.finalize(report)

    def reports(self) -> list[dict[str, Any]]:
        """Return the reports of all models that were probed, as data."""
        return [entry["report"] for entry in self.entries.values() if "report" in entry]

    def write(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write what was found and what was skipped."""
        found = sorted(
            self.entries.values(), key=lambda entry: (entry["where"], entry["model"], entry["test"], entry["key"])
        )
        unhealthy = [entry for entry in found if entry["state"] == UNHEALTHY]
        skipped: dict[str, list[str]] = {}
        for entry in found:
            if entry["state"] == "skipped":
                skipped.setdefault(entry["said"], []).append(entry["model"])
        if unhealthy or (found and self._config.get_verbosity("initcheck") > 0):
            terminalreporter.section("initcheck: models that the tests call", sep="-", bold=True)
        alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for entry in unhealthy:
            alike.setdefault((entry["where"], entry["model"]), []).append(entry)
        for first, *others in alike.values():
            terminalreporter.write_line(f"{first['where']}: {first['said']}")
            more = f", and {len(others)} more of other shapes" if others else ""
            terminalreporter.write_line(f"    in {first['test']}{more}")
        if self._config.get_verbosity("initcheck") > 0:
            for entry in found:
                if entry["state"] == "healthy":
                    terminalreporter.write_line(f"{entry['where']}: {entry['said']}")
        if skipped:
            told = "; ".join(f"{some(dict.fromkeys(models))}: {reason}" for reason, models in skipped.items())
            terminalreporter.write_line(f"initcheck: skipped {told}")
        terminalreporter.write_line(f"initcheck: {self._sums(found)}")

    def _sums(self, found: list[dict[str, Any]]) -> str:
        probed = sum(entry["state"] != "skipped" for entry in found)
        unhealthy = sum(entry["state"] == UNHEALTHY for entry in found)
        parts = [f"watched {plural(probed, 'model')} that the tests call"]
        if unhealthy:
            parts.append(f"{unhealthy} unhealthy")
        if len(found) > probed:
            parts.append(f"{len(found) - probed} skipped")
        return ", ".join(parts)


def _unsuitable(item: pytest.Item) -> str | None:
    """Why models cannot be probed in this very test."""
    if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        return "called in a test of hypothesis, whose deadline would count the probe"
    return None


def _junit(config: pytest.Config) -> Any:
    """The plugin that writes JUnit's XML in this process, if there is one."""
    plugins = config.pluginmanager.get_plugins()
    return next((p for p in plugins if hasattr(p, "node_reporter") and hasattr(p, "finalize")), None)
