"""One check as pytest and the command run it: hooks are asked for what is missing and told what came out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import InitcheckError, SettingsError
from ..settings import BY_NAME
from ..words import named_error
from .options import command_line

if TYPE_CHECKING:
    from ..report import Report
    from ..rules import Rule
    from ..settings import Settings


def run_check(
    hook: Any,
    model: Any,
    inputs: Any,
    *,
    loss: Any,
    settings: Settings,
    name: str,
    folder: str | None,
    then: Callable[[Report], Report] | None = None,
    source: str = "",
    test: str = "",
) -> Report:
    """Return the report of ``check``.

    Args:
        hook: the hook relay of a plugin manager that knows :mod:`~pytest_initcheck.hookspecs`.
        model: as ``check_init`` accepts it.
        inputs: as ``check_init`` accepts them; ``None`` asks ``pytest_initcheck_inputs``.
        loss: as ``check_init`` accepts it; ``None`` asks ``pytest_initcheck_loss``.
        settings: parsed settings.
        name: what the report calls the model.
        folder: where the command ``initcheck check NAME`` finds the same model, ``"."`` for here; ``None`` if nowhere.
        then: what else is to be judged, before ``pytest_initcheck_report`` is told.
        source, test: where the model stands, and the id of the test or item that asks, for the report.

    Raises:
        InitcheckError: a hook raised, or the model could not be checked.
    """
    from ..check import check

    if inputs is None:
        inputs = ask(hook, "pytest_initcheck_inputs", name=name)
    if loss is None:
        loss = ask(hook, "pytest_initcheck_loss", name=name)
    report = check(model, inputs, loss=loss, settings=settings, name=name, extra_rules=extra_rules(hook))
    report = replace(report, source=source, test=test)
    if folder is not None:
        shown = replace(settings, given=report.settings)
        command = command_line(name, inputs if isinstance(inputs, str) else None, shown)
        there = "" if folder == "." else f"cd {shlex.quote(folder)} && "
        report = replace(report, reproduce=there + command)
    if then is not None:
        report = then(report)
    ask(hook, "pytest_initcheck_report", report=report)
    return report


def ask(hook: Any, called: str, /, **arguments: Any) -> Any:
    """Return what a hook answers.

    Raises:
        InitcheckError: an implementation raised; the message names its file and line.
    """
    try:
        return getattr(hook, called)(**arguments)
    except InitcheckError:
        raise
    except Exception as e:
        if type(e).__module__ in ("_pytest.outcomes", "_pytest.config.exceptions"):  # pytest.exit() and the like
            raise
        frames = _implementation(e.__traceback__)
        where = f" in {_shown(frames)}" if frames else ""
        cause = e.with_traceback(frames)
        raise InitcheckError(f"{called}{where} failed ({named_error(e)}): mend the hook") from cause


def _implementation(frames: TracebackType | None) -> TracebackType | None:
    """The frames from the hook that raised on: the first that is neither ours nor pluggy's."""
    pluggy = Path(sys.modules["pluggy"].__file__ or "").parent
    while frames is not None:
        file = Path(frames.tb_frame.f_code.co_filename)
        if file != Path(__file__) and not file.is_relative_to(pluggy):
            break
        frames = frames.tb_next
    return frames


def _shown(frames: TracebackType) -> str:
    file, here = Path(frames.tb_frame.f_code.co_filename), Path.cwd()
    return f"{file.relative_to(here).as_posix() if file.is_relative_to(here) else file}:{frames.tb_lineno}"


def check_rule_names(values: Mapping[str, Any], called: Mapping[str, str], hook: Any) -> None:
    """Raise :class:`SettingsError` if a setting names a rule that is neither built in nor of another plugin.

    Args:
        values: settings by name, as given.
        called: what the user calls each setting.
        hook: the hook relay that knows the other plugins.
    """
    for name in ("ignore", "select"):
        if values.get(name) is not None:
            from .. import rules

            patterns = BY_NAME[name].parse(called[name], values[name])
            rules.validate(patterns, setting=called[name], known=extra_rules(hook))


def extra_rules(hook: Any) -> dict[str, Rule]:
    """Return the rules of other plugins by name.

    Raises:
        SettingsError: something else than rules was returned, or a name is taken.
    """
    from ..rules import RULES, Rule

    found: dict[str, Rule] = {}
    for rules in ask(hook, "pytest_initcheck_rules"):
        if not isinstance(rules, list | tuple) or not all(isinstance(rule, Rule) for rule in rules):
            raise SettingsError(
                f"pytest_initcheck_rules must return a list of pytest_initcheck.rules.Rule, got {rules!r}"
            )
        for rule in rules:
            if rule.name in RULES or rule.name in found:
                raise SettingsError(f"pytest_initcheck_rules: there is a rule {rule.name!r} already: rename this one")
            found[rule.name] = rule
    return found
