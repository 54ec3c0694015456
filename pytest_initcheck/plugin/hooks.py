"""What pytest's hooks do once a run asks for it: collection, and the lines and files at the end of a run.

Which hooks ask is said in the ``__init__`` of this package. Nothing here imports torch before a model is checked.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..errors import InitcheckError, InitcheckWarning, SettingsError
from ..settings import BY_NAME
from ..surfaces import report_files
from ..surfaces.cases import case_of
from ..surfaces.hooked import ask, check_rule_names
from ..surfaces.progress import PROGRESS, InPytest
from ..surfaces.ranks import speaks
from ..words import plural, some
from . import configuration
from .configuration import configured
from .items import BASELINE, REPORTS, UNCHECKED, ModelItem, case_item, target_item, unchecked
from .options import HEAD, MISUSE
from .paths import is_ours, relative
from .watch import SuiteWatch

if TYPE_CHECKING:
    from ..models.targets import Target
    from ..report import Report
    from .baselines import Baseline

#: Names of decorated factories that were not collected, because nobody asked.
_LEFT_OUT = pytest.StashKey[list[str]]()


def start(config: pytest.Config) -> None:
    """Read what configures the run, and open the gate if models are to be checked."""
    try:
        found = configured(config)
        config.pluginmanager.register(Names(), "initcheck-names")
        if found.enabled:
            config.pluginmanager.register(Gate(config), "initcheck-gate")
        elif named := [argument for argument in config.args if argument.startswith(HEAD)]:
            raise SettingsError(f"{named[0]} needs --initcheck: only then are models checked")
    except InitcheckError as e:
        raise pytest.UsageError(str(e)) from None


class Names:
    """Checks the names of rules that options and ini give: not before plugins can bring theirs."""

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        try:
            configuration.check_rules(session.config)
        except InitcheckError as e:
            raise pytest.UsageError(str(e)) from None


# -- collection


def items_of(collector: pytest.Module | pytest.Class, name: str, obj: object) -> list[ModelItem] | None:
    """Return the item of a decorated factory, none where nobody asked, ``None`` for anything else."""
    case = case_of(obj)
    if case is None:
        return None
    if configured(collector.config).enabled:
        return [case_item(collector, name, case)]
    collector.config.stash.setdefault(_LEFT_OUT, []).append(name)
    return []


def collected(
    collector: pytest.Collector, report: pytest.CollectReport, excinfo: pytest.ExceptionInfo[BaseException]
) -> pytest.CollectReport:
    """Return the report of a collector that raised; where a case was misused, the run ends with one sentence."""
    if not isinstance(excinfo.value, SettingsError):
        return report
    _misused(collector.config, f"{_line_of(excinfo, collector)}: {excinfo.value}")
    return pytest.CollectReport(collector.nodeid, "passed", None, [])


def _line_of(excinfo: pytest.ExceptionInfo[BaseException], collector: pytest.Collector) -> str:
    """The last line that is not ours, as ``tests/test_models.py:12``."""
    theirs = [entry for entry in excinfo.traceback if not is_ours(entry.path)]
    if not theirs:
        return collector.nodeid
    return f"{relative(Path(theirs[-1].path), collector.config.rootpath)}:{theirs[-1].lineno + 1}"


def check_items(config: pytest.Config, items: list[pytest.Item]) -> None:
    """End the run with a sentence if a marker, or what configures a model, cannot be used."""
    for item in items:
        try:
            configuration.check_markers(item)
            if isinstance(item, ModelItem):
                item.check_rules()
        except InitcheckError as e:
            _misused(config, f"{item.nodeid}: {e}")
    if MISUSE in getattr(config, "workeroutput", ()):
        items.clear()


def _misused(config: pytest.Config, sentence: str) -> None:
    """End the run with a sentence before any test: here, or in xdist's controller."""
    if not hasattr(config, "workeroutput"):
        raise pytest.UsageError(sentence) from None
    config.workeroutput.setdefault(MISUSE, sentence)


def left_out(config: pytest.Config) -> list[str]:
    """Return what is said of models that were not collected because nobody asked."""
    found = configured(config)
    count = len(found.models) + len(config.stash.get(_LEFT_OUT, []))
    if found.enabled or not count:
        return []
    return [f"initcheck: {plural(count, 'model')} left out (--initcheck checks them)"]


class Gate:
    """What ``--initcheck`` adds to a run: the configured models as items, and the lines at its end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._targets: list[Target] = []
        self._named: set[str] = set()
        self._left_out = 0
        self._watch: SuiteWatch | None = None
        self._baseline: Baseline | None = None
        config.pluginmanager.register(InPytest(config), PROGRESS)
        #: What each test or item checked, by node id: a test that is run again replaces what it said before.
        self._records: dict[str, list[dict[str, Any]]] = {}

    def pytest_sessionstart(self) -> None:
        hook = self._config.hook
        self._targets += _parse(configured(self._config).models, "initcheck_models", hook)
        try:
            for lines in ask(hook, "pytest_initcheck_models", config=self._config):
                self._targets += _parse(lines, "pytest_initcheck_models", hook)
            self._open_baseline()
        except InitcheckError as e:
            raise pytest.UsageError(str(e)) from None
        self._targets.sort(key=lambda target: target.id)  # the same order in every worker
        for one, other in zip(self._targets, self._targets[1:], strict=False):
            if one.id == other.id:
                raise pytest.UsageError(f"initcheck_models names {one.id} twice: name it once")
        if configured(self._config).watch != "off":
            self._watch = SuiteWatch(self._config, configured=bool(self._targets))
            self._config.pluginmanager.register(self._watch, "initcheck-watch")

    def _open_baseline(self) -> None:
        if configured(self._config).baseline is not None:
            from .baselines import Baseline

            self._config.stash[BASELINE] = self._baseline = Baseline(self._config)
            self._config.pluginmanager.register(self._baseline, "initcheck-baseline")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Take the ids of configured models out of what the command line names: pytest would look for such files."""
        known = {f"{HEAD}{target.id}" for target in self._targets}
        self._named = {argument for argument in self._config.args if argument.startswith(HEAD)}
        for argument in sorted(self._named - known):
            raise pytest.UsageError(
                f"{argument} is none of the configured models (known: {some(sorted(known), 5) or 'none'})"
            )
        self._config.args[:] = [argument for argument in self._config.args if argument not in self._named]

    @pytest.hookimpl(tryfirst=True)  # before -k and -m choose
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        wanted = [target for target in self._targets if f"{HEAD}{target.id}" in self._named]
        if not self._named and not _names_single_tests(self._config):
            wanted = self._targets
        self._left_out = len(self._targets) - len(wanted)
        root = self._config.inipath.parent if self._config.inipath else self._config.rootpath
        found = [target_item(session, target, root) for target in wanted]
        items += found
        # As a collector would: this is what pytest counts as collected.
        report = pytest.CollectReport("initcheck", "passed", longrepr=None, result=[*found])
        self._config.hook.pytest_collectreport(report=report)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put what was checked on a test's last report as plain data: that is what crosses from xdist's workers.

        The last, because each subtest has a report of its own, made as the test's.
        """
        report = yield
        raised = call.excinfo if call.when == "call" and report.failed else None
        if raised is not None and isinstance(item, ModelItem) and not item.stash.get(REPORTS, []):
            unchecked(item, item.subject, item.why(raised.value), item.source)
        if call.when == "teardown":
            records = _as_data(item)
            if records:
                report.initcheck = records  # type: ignore[attr-defined]
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        _forget(item)  # what it checked when it ran before, if it is run again

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        records = getattr(report, "initcheck", None)
        if records:
            self._records[report.nodeid] = records

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write report files; xdist's workers only report, their controller writes, and of torchrun's ranks the first."""
        if hasattr(self._config, "workerinput") or not speaks():
            return
        if (
            self._baseline is not None
            and not self._config.option.collectonly
            and not self._baseline.finish(self._records)
        ):
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        records = [record for found in self._records.values() for record in found]
        watched = self._watch.reports() if self._watch and self._watch.entries else []
        destinations = configured(self._config).reports
        if not records and not watched and not destinations:
            return
        reports = [*map(_report, records), *watched]
        try:
            report_files.write(reports, destinations)
            report_files.append_step_summary(reports)
        except OSError as e:
            self._config.issue_config_time_warning(
                InitcheckWarning(f"a report could not be written: {e}"), stacklevel=1
            )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        verbosity = self._config.get_verbosity("initcheck")
        if verbosity < -1 or self._config.option.collectonly or not speaks():
            return
        if exitstatus == pytest.ExitCode.USAGE_ERROR and self._baseline is None:
            return  # nothing was run, and one sentence says why
        records = [record for found in self._records.values() for record in found]
        if verbosity > 0 and records:
            terminalreporter.section("initcheck", sep="-", bold=True)
            for record in records:
                if record["ok"]:
                    terminalreporter.write_line(record["line"])
        if self._baseline is not None:
            terminalreporter.write_line(f"initcheck: {self._baseline.told}")
        if self._watch is not None and self._watch.entries:
            self._watch.write(terminalreporter)
            if not records:
                return
        if exitstatus == pytest.ExitCode.INTERRUPTED and not records:
            terminalreporter.write_line("initcheck: no model was checked: the run was interrupted before")
            return
        terminalreporter.write_line(f"initcheck: {self._sums(records)}")

    def _sums(self, records: list[dict[str, Any]]) -> str:
        if not records and not self._left_out:
            how = "" if self._targets else " (name models in initcheck_models, or decorate factories with model_case)"
            return f"no model was checked{how}"
        parts = [plural(len(records), "model")]
        unhealthy = sum(record["ok"] is False for record in records)
        unknown = sum(record["ok"] is None for record in records)
        if unhealthy:
            parts.append(f"{unhealthy} unhealthy")
        if unknown:
            parts.append(f"{unknown} could not be checked")
        if self._left_out:
            parts.append(f"{self._left_out} of initcheck_models left out because single files or tests were named")
        return ", ".join(parts)


def _parse(lines: Any, source: str, hook: Any) -> list[Target]:
    from ..models.targets import parse_target

    if not isinstance(lines, list | tuple) or not all(isinstance(line, str) for line in lines):
        raise pytest.UsageError(f"{source} must give a list of lines (got {lines!r})")
    targets: list[Target] = []
    for line in lines:
        try:
            targets.append(parse_target(line))
        except InitcheckError as e:
            raise pytest.UsageError(f"{source}: {e}") from None
        try:
            check_rule_names(targets[-1].settings, {name: name for name in BY_NAME}, hook)
        except InitcheckError as e:
            raise pytest.UsageError(f"{source}: {line}: {e}") from None
    return targets


def _names_single_tests(config: pytest.Config) -> bool:
    """Whether every argument is a file or a test: then only those are wanted, not all models of the project."""
    here = config.invocation_params.dir
    return all("::" in argument or Path(here, argument).is_file() for argument in config.args)


def _as_data(item: pytest.Item) -> list[dict[str, Any]]:
    checked, others = item.stash.get(REPORTS, []), item.stash.get(UNCHECKED, [])
    _forget(item)
    if not checked:
        return others
    from ..render import summary_line

    # Those that were checked first: a baseline calls them by their place among these.
    return [*({"line": summary_line(found), **found.to_dict()} for found in checked), *others]


def _report(record: dict[str, Any]) -> Report:
    """What files are written from, of what crossed from the process that checked."""
    from ..report import Report

    if record["ok"] is None:
        return Report.not_checked(record["model"], record["why"], source=record["source"], test=record["test"])
    return Report.from_dict(record)


def _forget(item: pytest.Item) -> None:
    item.stash[REPORTS] = []
    item.stash[UNCHECKED] = []
