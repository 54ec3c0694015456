"""What is left of a check after its item: the lines at the end, JUnit, other plugins blocked, xdist."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

INI = """
[pytest]
initcheck_models =
    zoo.py:Healthy input=8x8
    zoo.py:Sick input=8x8
    zoo.py:boom
"""


def test_lines_at_the_end_and_junit_properties(models: pytest.Pytester, xdist: tuple[str, ...]):
    models.makeini(INI)
    models.makepyfile("def test_it(): pass")

    result = models.runpytest("--initcheck", "-v", "--junitxml=rich.xml", "-o", "initcheck_junit=true", *xdist)

    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        ["*- initcheck -*", "*zoo.py:Healthy*", "initcheck: 3 models, 1 unhealthy, 1 could not be checked"]
    )
    assert "INTERNALERROR" not in result.stdout.str()
    root = ET.parse(models.path / "rich.xml").getroot()
    found = {
        case.get("name"): [(p.get("name"), p.get("value")) for p in case.iter("property")]
        for case in root.iter("testcase")
    }
    assert found["zoo.py:Healthy[input=8x8]"][0] == ("initcheck_ok", "true")
    assert found["zoo.py:Sick[input=8x8]"][0] == ("initcheck_ok", "false")
    assert found["zoo.py:Sick[input=8x8]"][1][0] == "initcheck_finding"
    assert found["zoo.py:boom"] == []


def test_junit_properties_are_opt_in(models: pytest.Pytester, xdist_again: tuple[str, ...]):
    models.makeini(INI)

    models.runpytest("--initcheck", "--junitxml=plain.xml", *xdist_again)

    root = ET.parse(models.path / "plain.xml").getroot()
    assert len(root.findall(".//testcase")) == 3
    assert not root.findall(".//property")


def test_quiet(models: pytest.Pytester):
    models.makeini(INI)

    assert "initcheck: 3 models" in models.runpytest("--initcheck", "-q").stdout.str()
    assert "initcheck: 3 models" not in models.runpytest("--initcheck", "-qq").stdout.str()


def test_own_verbosity(models: pytest.Pytester):
    models.makeini(f"{INI}verbosity_initcheck = 1\n")

    result = models.runpytest("--initcheck")

    result.stdout.fnmatch_lines(["*- initcheck -*"])


@pytest.mark.parametrize("blocked", ["cacheprovider", "terminal", "junitxml", "xdist", "warnings", "logging"])
def test_without_another_plugin(models: pytest.Pytester, blocked: str):
    models.makeini(INI)

    result = models.runpytest("--initcheck", "-p", f"no:{blocked}")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_blocked_itself(pytester: pytest.Pytester):
    pytester.makepyfile("def test_it(): pass")

    pytester.runpytest("-p", "no:initcheck").assert_outcomes(passed=1)


def test_exit_on_first_failure(models: pytest.Pytester):
    models.makeini(INI)

    result = models.runpytest("--initcheck", "-x")

    result.assert_outcomes(passed=1, failed=1)


def test_strict_and_warnings_as_errors(models: pytest.Pytester):
    models.makeini(INI)
    models.makepyfile("def test_it(): pass")

    result = models.runpytest_subprocess(
        "--initcheck", "--strict-markers", "--strict-config", "-W", "error", "--import-mode=importlib"
    )

    result.assert_outcomes(passed=2, failed=2)


def test_the_package_may_be_imported_before_pytest_starts(pytester: pytest.Pytester):
    script = pytester.makepyfile(
        run="import pytest_initcheck.records, pytest, sys; sys.exit(pytest.main(['-W', 'error', 'test_it.py']))"
    )
    pytester.makepyfile(test_it="def test_it(): pass")

    result = pytester.runpython(script)

    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("spec", ["zoo.py:Sick", "zoo:Sick"])
def test_the_line_that_reproduces_runs_from_where_pytest_was_started(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    pytester.makepyfile(
        zoo="""
        from torch import nn

        class Sick(nn.Sequential):
            def __init__(self):
                super().__init__(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
                nn.init.zeros_(self[2].weight)
                self[2].weight.requires_grad_(False)
        """
    )
    pytester.makeini(f"[pytest]\npythonpath = .\ninitcheck_models = {spec} input=8x8\n")
    monkeypatch.chdir(pytester.mkdir("a folder"))

    pytester.runpytest("--initcheck", "--initcheck-report=json:out.json", "--rootdir=..")
    (report,) = json.loads(Path("out.json").read_text(encoding="utf-8"))
    command = report["reproduce"].replace("initcheck check", f"{shlex.quote(sys.executable)} -m pytest_initcheck check")
    again = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)

    assert report["reproduce"] == f"cd .. && initcheck check {spec} --input 8x8 --seed 0"
    assert again.returncode == 1
    assert again.stdout.splitlines()[0].startswith(f"{spec}: unhealthy init: ")
