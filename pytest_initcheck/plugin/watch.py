"""Watching: models that the tests of a suite call are probed there and then, without a line of configuration.

The process that runs a test probes; what it found travels on the test's reports as plain data; the process with the
terminal prints. Nothing here imports torch: a suite that does not use it is not made to.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ..surfaces.hooked import extra_rules
from ..surfaces.progress import shown_in
from . import configuration, watch_told
from .configuration import settings_for
from .items import ModelItem
from .watch_budget import Budget
from .watch_cache import Learnt
from .watch_told import UNHEALTHY, in_order, is_unhealthy, merge

if TYPE_CHECKING:
    from ..report import Report
    from .watch_models import Listener


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
        self._budget = Budget(found.watch_budget / 100)
        self._learnt = Learnt(config, use=not found.reports)
        self._asked = found.watch is not None
        self._active = self._asked or not configured
        self._listener: Listener | None = None
        self._item: pytest.Item | None = None
        self._last = False
        self._locations: dict[str, Any] = {}
        #: Tests that failed, by node id.
        self._failed: set[str] = set()
        #: What was found, by key of the model: several tests and two workers may have met the same one.
        self.entries: dict[str, Any] = {}

    # -- in the process that runs the tests

    @pytest.hookimpl(tryfirst=True)  # before -k and -m choose
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if any(isinstance(item, ModelItem) for item in items) and not self._asked:
            self._active = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        self._item, self._last = item, nextitem is None
        self._listen()
        try:
            return (yield)
        finally:
            self._item = None
            if self._listener:
                self._listener.end()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Add the findings as results of their own, once all tests and workers have said what they found.

        Not one for a test that failed, unless it fails itself: pytest's cache would take a result that does not fail for
        the test's own and forget that it failed.
        """
        result = yield
        if not hasattr(self._config, "workerinput"):
            for entry in in_order(self.entries.values()):
                if is_unhealthy(entry) and (self._fails or entry["test"] not in self._failed):
                    self._config.hook.pytest_runtest_logreport(report=self._result(entry))
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
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

            known = self._learnt.read()
            self._listener = Listener(self._probe, budget=self._budget, root=self._config.rootpath, known=known)
        if not self._listener.listening(item.nodeid):
            self._listener.listen()
            self._listener.begin(item.nodeid, file=str(item.path), unsuitable=_unsuitable(item))

    def _probe(self, model: Any, inputs: Any, name: str, mode: str | None, fixes: bool, faults: Any) -> Report:
        from ..check import check

        assert self._item is not None
        hook = self._item.ihook
        settings = settings_for(self._item, {} if mode is None else {"mode": mode})
        settings = replace(settings, seeds=1, deferred=None, stream=None)  # these need a factory
        loss = hook.pytest_initcheck_loss(name=name)
        rules = extra_rules(hook)
        # Of a slow model, two hundred steps are no look in passing.
        budget = None if "time_budget" in settings.given else f"{self._budget.seconds:g}s"
        try:
            with shown_in(self._config, name):
                report = check(
                    model,
                    inputs,
                    loss=loss,
                    settings=settings,
                    name=name,
                    extra_rules=rules,
                    race="none",
                    fixes=fixes,
                    faults=faults,
                    budget=budget,
                )
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
        if self._listener is not None and item is self._item:
            self._listener.pause()
        if call.when == "teardown" and self._listener is not None and item is self._item:
            self._listener.catch_up(last=self._last)
            entries = self._located(item, self._listener.entries())
            if entries:
                report.initcheck_watched = entries  # type: ignore[attr-defined]
        return report

    def _located(self, item: pytest.Item, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The entries with where their test stands, which the process with the terminal cannot know."""
        if item.nodeid not in self._locations:
            self._locations[item.nodeid] = item.location
        for entry in entries:
            entry["location"] = self._locations.get(entry["test"])
            entry["under"] = self._learnt.under
        return entries

    def _result(self, entry: Mapping[str, Any]) -> pytest.TestReport:
        """The finding as a result of its own."""
        file, line, domain = entry["location"] or (entry["test"].partition("::")[0], None, entry["test"])
        sentence = f"initcheck: {entry['said']}, called at {entry['where']}"
        longrepr: Any = (file, (line or 0) + 1, sentence)
        if self._fails:
            from ..render import terminal
            from ..report import Report

            longrepr = f"{sentence}\n\n{terminal(Report.from_dict(entry['report']))}"
        return pytest.TestReport(
            nodeid=entry["test"],
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
        merge(self.entries, getattr(report, "initcheck_watched", ()))
        model = getattr(report, "initcheck_result", None)
        if report.failed and model is None:
            self._failed.add(report.nodeid)
        elif report.when == "setup":
            self._failed.discard(report.nodeid)  # it is run again, and may yet pass
        junit = None if model is None else _junit(self._config)
        if junit is not None:  # a case of its own, by its own name
            name = f"{report.nodeid.rpartition('::')[2]} [initcheck {model}]"
            junit.node_reporter(report).add_attribute("name", name)
        yield
        if junit is not None:
            junit.finalize(report)

    def reports(self) -> list[Report]:
        """Return the reports of all models that were looked at, unhealthy first."""
        return watch_told.reports(self.entries.values())

    def pytest_sessionfinish(self) -> None:
        if not hasattr(self._config, "workerinput"):
            self._learnt.write(self.entries.values())

    def write(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write what was found and what was skipped."""
        verbose = self._config.get_verbosity("initcheck") > 0
        told = list(watch_told.lines(self.entries.values(), verbose=verbose))
        if told:
            terminalreporter.section("initcheck: models that the tests call", sep="-", bold=True)
        for text in (*told, f"initcheck: {watch_told.sums(self.entries.values(), verbose=verbose)}"):
            for line in text.splitlines():
                terminalreporter.write_line(line)


def _unsuitable(item: pytest.Item) -> str | None:
    """Why models cannot be probed in this very test."""
    if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        return "called in a test of hypothesis, whose deadline would count the probe"
    return None


def _junit(config: pytest.Config) -> Any:
    """The plugin that writes JUnit's XML in this process, if there is one."""
    plugins = config.pluginmanager.get_plugins()
    return next((p for p in plugins if hasattr(p, "node_reporter") and hasattr(p, "finalize")), None)
