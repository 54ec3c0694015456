"""The settings as options: one function adds them to pytest and to the command, one reads them back."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import SettingsError
from ..settings import SETTINGS, Setting, Settings


def flag(setting: Setting, prefix: str = "") -> str:
    """Return the option of a setting: ``--activation-std``, or ``--initcheck-activation-std`` with ``initcheck-``."""
    return f"--{prefix}{setting.name.replace('_', '-')}"


def add_options(add: Callable[..., Any], prefix: str = "") -> None:
    """Add one option for each setting; its value is ``None`` where it was not given.

    Args:
        add: ``add_argument`` of an argparse parser or ``addoption`` of a pytest group.
        prefix: put before each name: ``"initcheck-"`` for pytest.
    """
    for setting in SETTINGS:
        if setting.switch:
            add(
                flag(setting, prefix),
                dest=_dest(setting, prefix),
                action="store_true",
                default=None,
                help=described(setting),
            )
            continue
        add(
            flag(setting, prefix),
            dest=_dest(setting, prefix),
            action="append" if setting.repeat else "store",
            default=None,
            metavar="{" + ",".join(setting.choices) + "}" if setting.choices else setting.metavar,
            help=described(setting),
            **({"nargs": "?", "const": setting.bare} if setting.bare else {}),
        )


def given(namespace: Any, prefix: str = "") -> dict[str, Any]:
    """Return the settings that somebody gave on the command line, name -> text (a list where repeatable).

    Raises:
        SettingsError: a value cannot be used; the message names the option.
    """
    values = {s.name: getattr(namespace, _dest(s, prefix), None) for s in SETTINGS}
    values = {name: value for name, value in values.items() if value is not None}
    validate(values, {s.name: flag(s, prefix) for s in SETTINGS})
    return values


def validate(values: Mapping[str, Any], called: Mapping[str, str]) -> None:
    """Raise :class:`SettingsError` unless every value can be used; ``called`` is what the user calls each setting."""
    for setting in SETTINGS:
        if setting.name in values:
            setting.parse(called[setting.name], values[setting.name])
    for name in values:
        if name not in called:
            raise SettingsError(f"unknown setting {name!r} (known: {', '.join(called)})")


def described(setting: Setting) -> str:
    """Return the help sentence of a setting, its default at the end."""
    default = ", ".join(setting.default) if isinstance(setting.default, tuple) else setting.default
    default = str(default).lower() if setting.switch else default
    repeatable = "; repeatable" if setting.repeat else ""
    return f"{setting.help}{repeatable} (default: {'none' if default in (None, '') else default})"


def _dest(setting: Setting, prefix: str) -> str:
    return f"{prefix.replace('-', '_')}{setting.name}"


def command_line(spec: str, inputs: str | None, settings: Settings) -> str:
    """Return the shell command that repeats a check of ``spec``."""
    words = ["initcheck", "check", spec]
    if inputs is not None:
        words += ["--input", inputs]
    for setting in SETTINGS:
        if setting.name in settings.given or setting.name == "seed":
            words += [
                word
                for text in _as_text(settings.given.get(setting.name, getattr(settings, setting.name)))
                for word in (flag(setting), text)
            ]
    return shlex.join(words)


def _as_text(value: Any) -> list[str]:
    """A parsed value as the texts that an option takes."""
    if not isinstance(value, tuple):
        return [str(value)]
    return [item if isinstance(item, str) else _bound_text(*item) for item in value]


def _bound_text(glob: str, low: float | None, high: float | None) -> str:
    return f"{glob}={'' if low is None else low}:{'' if high is None else high}"
