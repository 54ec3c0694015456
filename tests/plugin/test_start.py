"""What every run of pytest has of the plugin, whether it is used or not: a few modules, written out, parsed as they are."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_initcheck.plugin import options
from pytest_initcheck.plugin.configuration import configured, ini_type
from pytest_initcheck.settings import SETTINGS, Setting
from pytest_initcheck.surfaces import report_files
from pytest_initcheck.surfaces.options import described

#: All that a run without a question imports of this package.
IDLE = ["pytest_initcheck", "pytest_initcheck.hookspecs", "pytest_initcheck.plugin", "pytest_initcheck.plugin.options"]

#: As an installed plugin is: pytest rewrites the assertions of all its modules.
INSTALLED = "import pytest\npytest.register_assert_rewrite('pytest_initcheck')\n"

RUN = """
import sys, pytest
code = pytest.main(["-p", "installed", "-p", "pytest_initcheck.plugin", *sys.argv[1:]])
ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "pytest_initcheck"}
print(*sorted(ours))
print(*sorted(name for name, module in ours.items() if "@pytest_ar" in vars(module)))  # what the rewriter leaves
print(*sorted(name for name in ("torch", "dataclasses") if name in sys.modules and name not in before))
sys.exit(code)
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS")
    pytester.makepyfile(
        installed=INSTALLED, test_it="import pytest\n\n@pytest.mark.parametrize('i', range(3))\ndef test_it(i): pass\n"
    )
    pytester.makeini("[pytest]\ninitcheck_models = timm:resnet18\n")
    return pytester


def imported(pytester: pytest.Pytester, *arguments: str) -> tuple[list[str], list[str]]:
    """Modules of ours that a run imports, and those whose assertions were rewritten."""
    code = RUN.replace("import sys, pytest\n", "import sys, pytest, _pytest.main\nbefore = set(sys.modules)\n")
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=pytester.path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ours, rewritten, others = done.stdout.split("\n")[-4:-1]
    assert others == ""
    return ours.split(), rewritten.split()


def row(setting: Setting) -> tuple[str, object, str, str, str]:
    metavar = "{" + ",".join(setting.choices) + "}" if setting.choices else setting.metavar
    return setting.name, setting.default, ini_type(setting), metavar, described(setting)


def test_the_written_out_table_is_the_table_of_settings():
    wanted = [row(setting) for setting in SETTINGS]

    assert list(options.SETTINGS) == wanted, "in plugin/options.py:\n" + "\n".join(f"    {r!r}," for r in wanted)


def test_what_else_is_written_out_is_what_it_says(pytester: pytest.Pytester):
    text = " ".join(pytester.runpytest("--help", "-p", "no:randomly").stdout.str().split())

    assert f"{report_files.HELP} (repeatable)" in text
    assert "{" + ",".join(options.WATCH) + "}" in text
    assert f"of the suite's own (default: {options.BUDGET:g})" in text
    assert f"a false alarm (default: {options.ALPHA:g})" in text


@pytest.mark.parametrize(
    "arguments", [(), ("-v",), ("-q", "--strict-markers"), ("--markers",), ("--help",), ("--fixtures",)]
)
def test_an_idle_run_imports_what_it_must(project: pytest.Pytester, arguments: tuple[str, ...]):
    if arguments == ("-v",):
        project.makeini("[pytest]\n")  # or it would say how many models are left out

    ours, rewritten = imported(project, *arguments)

    assert ours == IDLE
    assert rewritten == []


def test_a_marker_asks_for_more(project: pytest.Pytester):
    project.makepyfile(test_it="import pytest\n\n@pytest.mark.initcheck(seed=1)\ndef test_it(): pass\n")

    ours, rewritten = imported(project)

    assert "pytest_initcheck.plugin.hooks" in ours
    assert "pytest_initcheck.check" not in ours
    assert rewritten == []


def test_what_tests_import_is_imported_as_any_library(project: pytest.Pytester):
    project.makepyfile(
        test_it="from pytest_initcheck.words import plural\n\ndef test_it(): assert plural(2, 'model') == '2 models'\n"
    )

    ours, rewritten = imported(project, "--initcheck-watch=off")

    assert "pytest_initcheck.words" in ours
    assert rewritten == []


@pytest.mark.parametrize("name", [n for n in options.SILENT if n != "initcheck_baseline"])
def test_every_line_of_the_configuration_asks(pytester: pytest.Pytester, name: str):
    words = {
        "initcheck_watch": "off",
        "initcheck_report": "json:a.json",
        "initcheck_mode": "eval",
        "initcheck_fail_on": "warning",
    }
    booleans = {"initcheck", "initcheck_junit", "initcheck_debug"}
    value = words.get(name) or ("true" if name in booleans else "0.5" if "alpha" in name else "3")
    pytester.makeini(f"[pytest]\n{name} = {value if 'dtype' not in name else 'float64'}\n")

    assert options.asked(pytester.parseconfig())
    assert options.asked(pytester.parseconfig("-o", f"{name}={value}"))


def test_no_line_and_no_option_asks_for_nothing(pytester: pytest.Pytester):
    pytester.makeini("[pytest]\ninitcheck_models = timm:resnet18\n")

    assert not options.asked(pytester.parseconfig())
    assert options.asked(pytester.parseconfig("--initcheck-seed=0"))
    assert configured(pytester.parseconfig()).models == ("timm:resnet18",)
