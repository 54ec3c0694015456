"""What pytest's options, ini and markers say, read and checked once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..errors import SettingsError
from ..settings import SETTINGS, Setting, Settings
from ..surfaces import report_files
from ..surfaces.hooked import check_rule_names
from ..surfaces.options import flag, given, validate
from ..surfaces.report_files import Destination
from .options import ALPHA, BUDGET, PREFIX, WATCH

_INI = {s.name: f"initcheck_{s.name}" for s in SETTINGS}
_MARKER = {s.name: s.name for s in SETTINGS}
_EXPECTED = {"linelist": "a list of lines", "int": "a whole number", "string": "text", "bool": "true or false"}


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that configures a run.

    Attributes:
        enabled: whether models are collected (``--initcheck``).
        models: lines of ``initcheck_models``.
        command_line: settings given as options.
        ini: settings given in the configuration file.
        junit: whether items write JUnit properties.
        reports: files to write the reports of the run to.
        watch: what is done with unhealthy models that tests call: ``"report"``, ``"fail"``, ``"off"``; ``None`` if nobody
            said.
        watch_budget: CPU time that looks at them may take, in per cent of the suite's own.
        baseline: file to compare initializations with.
        update: whether that file is written instead.
        baseline_alpha: chance of a false alarm of one run, shared among all comparisons.
    """

    enabled: bool
    models: tuple[str, ...]
    command_line: Mapping[str, Any]
    ini: Mapping[str, Any]
    junit: bool
    reports: tuple[Destination, ...] = ()
    watch: str | None = None
    watch_budget: float = BUDGET
    baseline: Path | None = None
    update: bool = False
    baseline_alpha: float = ALPHA


_CONFIGURATION = pytest.StashKey[Configuration]()


def configured(config: pytest.Config) -> Configuration:
    """Return what configures a run, read when it is first asked for.

    Raises:
        SettingsError: a value cannot be used; the message names the option or the ini.
    """
    if _CONFIGURATION not in config.stash:
        config.stash[_CONFIGURATION] = _read(config)
    return config.stash[_CONFIGURATION]


def ini_type(setting: Setting) -> str:
    """Return pytest's name of the type that the ini of a setting has."""
    if setting.switch:
        return "bool"
    return "linelist" if setting.repeat else "int" if isinstance(setting.default, int) else "string"


def _read(config: pytest.Config) -> Configuration:
    ini = {s.name: _getini(config, _INI[s.name], _EXPECTED[ini_type(s)], native=True) for s in SETTINGS}
    ini = {name: value for name, value in ini.items() if value is not None}
    validate(ini, _INI)
    try:
        config.get_verbosity("initcheck")
    except ValueError:
        value = config.getini("verbosity_initcheck")
        raise SettingsError(f"verbosity_initcheck must be a whole number or auto (got {value!r})") from None
    flag = config.getoption("initcheck")
    asked = config.getoption("initcheck_report")
    called = "initcheck_report" if asked is None else "--initcheck-report"
    wanted = _getini(config, "initcheck_report", "a list of lines") if asked is None else asked
    base = config.rootpath if asked is None else config.invocation_params.dir
    enabled = bool(_getini(config, "initcheck", "true or false") if flag is None else flag)
    if asked is not None and not enabled:
        raise SettingsError("--initcheck-report needs --initcheck: only then are reports collected and written")
    return Configuration(
        enabled=enabled,
        models=tuple(_getini(config, "initcheck_models", "a list of lines")),
        command_line=given(config.option, PREFIX),
        ini=ini,
        junit=bool(_getini(config, "initcheck_junit", "true or false")),
        reports=report_files.parse(wanted, called=called, base=base),
        watch=_watch(*_option(config, "watch")),
        watch_budget=_budget(*_option(config, "watch_budget", native=True)),
        baseline=_baseline(config, enabled),
        update=bool(config.getoption("initcheck_update")),
        baseline_alpha=_alpha(*_option(config, "baseline_alpha", native=True)),
    )


def _option(config: pytest.Config, name: str, *, native: bool = False) -> tuple[str, Any]:
    """What the value is called where it was given, and the value."""
    value = config.getoption(f"initcheck_{name}")
    if value is not None:
        return f"--{PREFIX}{name.replace('_', '-')}", value
    return f"initcheck_{name}", _getini(config, f"initcheck_{name}", "text", native=native)


def _watch(called: str, value: str | None) -> str | None:
    if value is not None and value not in WATCH:
        raise SettingsError(f"{called} must be one of {', '.join(WATCH)} (got {value!r})")
    return value


def _budget(called: str, value: Any) -> float:
    return _decimal(called, value, BUDGET, lambda share: 0 <= share < math.inf, "a number of per cent, 0 or more")


def _alpha(called: str, value: Any) -> float:
    return _decimal(called, value, ALPHA, lambda alpha: 0 < alpha < 1, "a chance between 0 and 1, both left out")


def _decimal(called: str, value: Any, default: float, allowed: Callable[[float], bool], what: str) -> float:
    if value is None:
        return default
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not allowed(found):
        raise SettingsError(f"{called} must be {what} (got {value!r})")
    return found


def _baseline(config: pytest.Config, enabled: bool) -> Path | None:
    called, value = _option(config, "baseline")
    asked = config.getoption("initcheck_baseline") is not None
    if config.getoption("initcheck_update"):
        if not enabled:
            raise SettingsError("--initcheck-update needs --initcheck: only then are models checked")
        if not value:
            raise SettingsError("--initcheck-update needs a file to write: add --initcheck-baseline=PATH")
    if value is None or not enabled:
        if asked:
            raise SettingsError("--initcheck-baseline needs --initcheck: only then are models checked")
        return None
    path: Path = (config.invocation_params.dir if asked else config.rootpath) / value
    if not value or path.is_dir():
        raise SettingsError(f"{called} must be a file (got {value!r})")
    return path


def _getini(config: pytest.Config, name: str, expected: str, *, native: bool = False) -> Any:
    """The value of an ini; ``native`` takes what ``[tool.pytest]`` holds as it is, and leaves it to the caller to read."""
    try:
        return config.getini(name)
    except (TypeError, ValueError, pytest.UsageError) as e:  # UsageError since pytest 9.2, some without the name
        # pytest 9 takes of a number in TOML the one type that the ini has; to name several takes 9.2.
        written: Any = getattr(config, "_inicfg", {}).get(name)
        if native and getattr(written, "mode", "ini") == "toml":
            return written.value
        raise SettingsError(f"{name} must be {expected} ({e})") from None


def check_markers(item: pytest.Item) -> None:
    """Raise :class:`SettingsError` unless every ``initcheck`` marker of the item can be used."""
    for mark in item.iter_markers("initcheck"):
        if mark.args:
            raise SettingsError(f"the marker initcheck takes keywords only (got {mark.args[0]!r})")
        validate(mark.kwargs, _MARKER)
        check_rule_names(mark.kwargs, _MARKER, item.ihook)


def check_rules(config: pytest.Config) -> None:
    """Raise :class:`SettingsError` if options or ini name an unknown rule: not before plugins can bring theirs."""
    found = configured(config)
    check_rule_names(found.command_line, {s.name: flag(s, PREFIX) for s in SETTINGS}, config.hook)
    check_rule_names(found.ini, _INI, config.hook)


def settings_for(item: pytest.Item, asked: Mapping[str, Any]) -> Settings:
    """Return the settings of a check in ``item``: call, then marker (closest first), command line, ini, defaults.

    Raises:
        SettingsError: a name or a value of ``asked`` cannot be used.
    """
    configuration = configured(item.config)
    markers = list(item.iter_markers_with_node("initcheck"))
    own = sum(node is item for node, _ in markers)  # of a class or a module they hold for other models, too
    layers = [mark.kwargs for _, mark in markers]
    return Settings.of(asked, *layers, configuration.command_line, configuration.ini, shared=1 + own)


def debugging(item: pytest.Item, asked: Mapping[str, Any]) -> bool:
    """Return whether the traceback of what kept a model in ``item`` from being checked is to be shown."""
    try:
        return settings_for(item, asked).debug
    except SettingsError:  # which may be what kept it
        return False
