"""One check as pytest and the command run it: hooks are asked for what is missing and told what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import SettingsError
from ..settings import BY_NAME
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
    is_spec: bool,
    then: Callable[[Report], Report] | None = None,
) -> Report:
    """Return the report of ``check``.

    Args:
        hook: the hook relay of a plugin manager that knows :mod:`~pytest_initcheck.hookspecs`.
        model: as ``check_init`` accepts it.
        inputs: as ``check_init`` accepts them; ``None`` asks ``pytest_initcheck_inputs``.
        loss: as ``check_init`` accepts it; ``None`` asks ``pytest_initcheck_loss``.
        settings: parsed settings.
        name: what the report calls the model.
        is_spec: whether the command ``initcheck check NAME`` finds the same model.
        then: what else is to be judged, before ``pytest_initcheck_report`` is told.
    """
    from ..check import check

    if inputs is None:
        inputs = hook.pytest_initcheck_inputs(name=name)
    if loss is None:
        loss = hook.pytest_initcheck_loss(name=name)
    report = check(model, inputs, loss=loss, settings=settings, name=name, extra_rules=extra_rules(hook))
    if is_spec:
        report = replace(report, reproduce=command_line(name, inputs if isinstance(inputs, str) else None, settings))
    if then is not None:
        report = then(report)
    hook.pytest_initcheck_report(report=report)
    return report


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
    for rules in hook.pytest_initcheck_rules():
        if not isinstance(rules, list | tuple) or not all(isinstance(rule, Rule) for rule in rules):
            raise SettingsError(
                f"pytest_initcheck_rules must return a list of pytest_initcheck.rules.Rule, got {rules!r}"
            )
        for rule in rules:
            if rule.name in RULES or rule.name in found:
                raise SettingsError(f"pytest_initcheck_rules: there is a rule {rule.name!r} already: rename this one")
            found[rule.name] = rule
    return found
