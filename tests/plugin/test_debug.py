"""What kept a model from being checked: one sentence, or with ``--initcheck-debug`` the whole traceback."""

from __future__ import annotations

import importlib

import pytest

from pytest_initcheck import ProbeError
from pytest_initcheck.cli import main
from pytest_initcheck.report import Report

#: Where the package fails by itself: neither the user nor torch is in the traceback.
OURS = "pytest_initcheck.measured.run_probe"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package itself raise, as a defect of its own would, behind its sentence."""

    def defect(*_: object, **__: object) -> None:
        try:
            Report.from_dict({"schema_version": "deep inside"})
        except Exception as error:
            raise ProbeError("the probe ended in a defect") from error

    monkeypatch.setattr(OURS, defect)


def in_a_test(models: pytest.Pytester, *, model: str = "Healthy", settings: str = "") -> None:
    models.makepyfile(f"from zoo import *\ndef test_it(initcheck):\n    initcheck({model}(), '8x8'{settings})\n")


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    ("arguments", "line"), [((), " debug=true"), (("--initcheck-debug",), ""), (("-o", "initcheck_debug=true"), "")]
)
def test_an_item(models: pytest.Pytester, arguments: tuple[str, ...], line: str):
    models.makeini(f"[pytest]\ninitcheck_models = zoo.py:Healthy input=8x8{line}\n")

    result = models.runpytest("--initcheck", *arguments)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "the probe ended in a defect",
            "E * ValueError: *deep inside*",
            "The above exception was the direct cause*",
            "*check.py:*",
            "initcheck: 1 model, 1 could not be checked",
            "FAILED *- the*",
        ]
    )


@pytest.mark.usefixtures("broken")
def test_an_item_without(models: pytest.Pytester):
    models.makeini("[pytest]\ninitcheck_models = zoo.py:Healthy input=8x8\n")

    result = models.runpytest("--initcheck")

    result.assert_outcomes(failed=1)
    assert "deep inside" not in result.stdout.str()
    assert "check.py" not in result.stdout.str()


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(("arguments", "settings"), [(("--initcheck-debug",), ""), ((), ", debug=True")])
def test_the_fixture(models: pytest.Pytester, arguments: tuple[str, ...], settings: str):
    in_a_test(models, settings=settings)

    result = models.runpytest(*arguments)

    result.stdout.fnmatch_lines(
        ["E * ValueError: *deep inside*", "*direct cause*", "*check.py:*", "E *ProbeError: the probe ended in a defect"]
    )


@pytest.mark.usefixtures("broken")
def test_the_fixture_without_shows_the_users_line_alone(models: pytest.Pytester):
    in_a_test(models)

    result = models.runpytest()

    result.stdout.fnmatch_lines([">       initcheck(Healthy(), '8x8')", "E *ProbeError: the probe ended in a defect"])
    text = result.stdout.str()
    assert "deep inside" not in text
    assert not [name for name in ("plugin.py", "check.py", "probe.py") if f"pytest_initcheck/{name}" in text]


def test_what_the_users_code_raised_is_always_shown(models: pytest.Pytester):
    in_a_test(models, model="Raises")

    result = models.runpytest()

    result.stdout.fnmatch_lines(
        ['>       raise RuntimeError("out of cheese")', "*direct cause*", ">       initcheck(Raises(), '8x8')"]
    )
    text = result.stdout.str()
    assert not [name for name in ("plugin.py", "check.py", "probe.py") if f"pytest_initcheck/{name}" in text]


@pytest.mark.usefixtures("broken")
def test_a_watched_model(models: pytest.Pytester):
    models.makepyfile("import torch\nfrom zoo import Healthy\ndef test_it():\n    Healthy()(torch.randn(8, 8))\n")

    result = models.runpytest("--initcheck", "--initcheck-debug", "-rP")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*- Captured initcheck Healthy call -*",
            "*ValueError: *deep inside*",
            "initcheck: skipped Healthy: the probe ended in a defect",
        ]
    )
    assert "deep inside" not in models.runpytest("--initcheck", "-rP").stdout.str()


@pytest.mark.usefixtures("broken")
def test_the_command(models: pytest.Pytester, capsys: pytest.CaptureFixture[str]):
    assert main(["check", "zoo.py:Healthy", "--input", "8x8"]) == 2
    assert capsys.readouterr().err == "initcheck: zoo.py:Healthy: the probe ended in a defect\n"

    assert main(["check", "zoo.py:Healthy", "--input", "8x8", "--debug"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert "deep inside" in told
    assert told.splitlines()[-1] == "initcheck: zoo.py:Healthy: the probe ended in a defect"


def test_the_command_survives_any_exception(
    models: pytest.Pytester, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def defect(*_: object, **__: object) -> None:
        raise ZeroDivisionError("nought\nmore")

    monkeypatch.setattr(importlib.import_module("pytest_initcheck.cli.check"), "run_check", defect)

    assert main(["check", "zoo.py:Healthy", "zoo.py:Sick", "--input", "8x8", "-q"]) == 2

    assert capsys.readouterr().err.splitlines() == [
        f"initcheck: zoo.py:{name}: the check ended in ZeroDivisionError: nought (--debug shows where)"
        for name in ("Healthy", "Sick")
    ]
