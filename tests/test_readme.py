"""What the README promises: the options it lists, and the commands it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pytest_initcheck.cli.command import COMMANDS, _parser
from pytest_initcheck.models.targets import parse_target
from pytest_initcheck.settings import SETTINGS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_settings_is_the_table():
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`|none) \| (.*) \|$", README, re.MULTILINE)

    assert rows == [(s.name, "" if s.default in (None, ()) else str(s.default), s.help) for s in SETTINGS]


def test_commands_parse():
    shown = [line for line in README.splitlines() if line.startswith("initcheck ")]

    assert shown
    for line in shown:
        words = shlex.split(line, comments=True)[1:]
        if words[0] in COMMANDS:
            _parser(words).parse_args(words)


@pytest.mark.parametrize(
    "text", [README, (ROOT / "docs" / "examples" / "pytest.ini").read_text()], ids=["README", "examples"]
)
def test_configured_models_parse(text: str):
    block = re.search(r"^initcheck_models =\n((?: +.*\n)+)", text, re.MULTILINE)

    assert block is not None
    for line in block[1].splitlines():
        parse_target(line)


def test_each_command_sets_itself_up_with_the_pinned_torch():
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]

    assert len(commands) == 2
    for command in commands:
        assert "pip install -q -c constraints.txt -e" in command
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text()
