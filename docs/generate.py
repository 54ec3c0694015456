"""Write what the documentation takes from the code: the reference of rules and options, and the output in the README.

python docs/generate.py [--check]

``--check`` writes nothing and fails if a page is not what the code says.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from pytest_initcheck.plugin.options import register
from pytest_initcheck.rules import RULES, Rule
from pytest_initcheck.settings import SETTINGS

HERE = Path(__file__).parent


def rules() -> str:
    """One section per rule, by family."""
    lines = [
        "# Rules",
        "",
        'Generated from the code by `docs/generate.py`. A rule is silenced with `ignore=["RULE"]`, or on some layers with',
        '`ignore=["RULE:GLOB"]`; every finding prints the line that silences just itself.',
    ]
    families = dict.fromkeys(rule.family for rule in RULES.values())
    for family in families:
        lines += ["", f"## {family.capitalize()}"]
        for rule in sorted(RULES.values(), key=lambda r: r.name):
            if rule.family == family:
                lines += ["", *section(rule)]
    return "\n".join(lines) + "\n"


def section(rule: Rule) -> list[str]:
    """The section of one rule."""
    meaning = inspect.getdoc(rule.judge) or ""
    return [
        f"### {rule.name}",
        "",
        meaning,
        "",
        f"- **Severity**: {rule.severity}",
        f"- **Threshold**: {rule.threshold}",
        f"- **Evidence**: {rule.evidence}",
        f"- **When it is wrong**: {rule.limits}",
        f'- **Silence**: `ignore=["{rule.name}"]`',
    ]


class Registered:
    """What the plugin adds to pytest, noted down in the place of pytest's parser: option or ini -> what it says."""

    def __init__(self) -> None:
        self.options: dict[str, dict[str, Any]] = {}
        self.inis: dict[str, str] = {}
        register(self)  # type: ignore[arg-type]

    def getgroup(self, *_: str) -> Registered:
        return self

    def addoption(self, name: str, **said: Any) -> None:
        self.options[name] = said

    def addini(self, name: str, help: str, **_: Any) -> None:
        self.inis[name] = help


def of_the_run() -> str:
    """The table of what is no setting of a check: pytest's options and lines of its configuration."""
    found = Registered()
    rows = []
    settings = {s.name for s in SETTINGS}
    names = dict.fromkeys([*(o.removeprefix("--").replace("-", "_") for o in found.options), *found.inis])
    for name in names:
        if name.removeprefix("initcheck_") in settings:
            continue
        said = found.options.get(option := f"--{name.replace('_', '-')}", {})
        value = f"={said['metavar']}" if "metavar" in said else ""
        told = re.sub(r" ?\((?:default|ini): .*\)$", "", said.get("help") or found.inis[name])
        default = re.search(r"\(default: (.*)\)$", found.inis.get(name, ""))
        rows.append(
            [
                f"`{option}{value}`" if said else "",
                f"`{name}`" if name in found.inis else "",
                told,
                default[1] if default else "",
            ]
        )
    return tabulate(rows, ["pytest option", "ini", "what it does", "default"], "github")


def options() -> str:
    """The tables of settings, with their names on every surface, and of what the run has besides."""
    rows = [
        [
            f"`{s.name}`",
            f"`--initcheck-{s.name.replace('_', '-')}{'' if s.switch else f'={s.metavar}'}`",
            f"`initcheck_{s.name}`",
            f"`--{s.name.replace('_', '-')}`",
            s.help + (f" ({', '.join(s.choices)})" if s.choices else ""),
            f"`{s.default!r}`" if s.default not in (None, ()) else "",
        ]
        for s in SETTINGS
    ]
    table = tabulate(rows, ["keyword, marker", "pytest option", "ini", "command", "what it does", "default"], "github")
    return (
        "# Options\n\nGenerated from the code by `docs/generate.py`. A call wins over a marker, a marker over the command line, "
        "the command line over\nthe ini, the ini over the default. Options that take several values may be repeated.\n\n"
        f"{table}\n\n## The run\n\nWhat is no setting of one check: what is checked, what is written, and what a run is compared "
        f"with.\n\n{of_the_run()}\n{NUMBERS}\n{IDS}"
    )


NUMBERS = """
Numbers may be written as numbers or as text where the configuration is TOML (`[tool.pytest]` of pytest 9):
`initcheck_watch_budget = 5` and `initcheck_watch_budget = "5"` say the same. (`verbosity_initcheck` takes a number from pytest
9.2 on.)
"""

IDS = """## One model of the configuration

An item of `initcheck_models` is run again by its id, in quotes because of the brackets, or chosen with `-k` by a part of its
name. Models of `model_case` are items of their test file, with ids like those of tests.

```text
pytest --initcheck "initcheck::models.py:Net[input=8x16]"
pytest --initcheck -k "models.py:Net"
```
"""


def readme(text: str) -> str:
    """The README with the output of its first console block as the command gives it now."""
    fence = "```console\n$ "
    start = text.index(fence) + len(fence)
    command, _, _ = text[start:].partition("\n")
    end = text.index("\n```", start)
    environment = {**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    program = [sys.executable, "-m", "pytest_initcheck", *command.split()[1:]]
    done = subprocess.run(program, cwd=HERE / "examples", env=environment, capture_output=True, text=True, check=False)
    return text[:start] + command + "\n" + done.stdout.rstrip() + text[end:]


PAGES = {"reference/rules.md": rules, "reference/options.md": options}


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` compare them; return the exit status."""
    stale = []
    for name, page in PAGES.items():
        path, text = HERE / name, page()
        if "--check" in arguments:
            if not path.exists() or path.read_text() != text:
                stale.append(name)
        else:
            path.write_text(text)
    if "--check" not in arguments:
        # Written but not compared: the last digit of a measured number is the processor's.
        path = HERE.parent / "README.md"
        path.write_text(readme(path.read_text()))
    if stale:
        print(f"not what the code says: {', '.join(stale)}; run python docs/generate.py")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
