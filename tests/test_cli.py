"""The ``initcheck`` command: exit status, what goes to stdout and what to stderr."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pytest_initcheck.cli import main
from pytest_initcheck.report import Report
from pytest_initcheck.settings import SETTINGS
from pytest_initcheck.surfaces.options import flag

HEALTHY = ["zoo.py:Healthy", "--input", "8x8"]


@pytest.fixture(autouse=True)
def _in_the_project(models: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")


def test_healthy_is_one_line(capsys: pytest.CaptureFixture[str]):
    assert main(["check", *HEALTHY]) == 0

    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert "zoo.py:Healthy" in out
    assert err == ""


def test_unhealthy(capsys: pytest.CaptureFixture[str]):
    assert main(["check", "zoo.py:Sick", "--input", "8x8"]) == 1

    out, err = capsys.readouterr()
    assert "zoo.py:Sick" in out.splitlines()[0]
    assert "initcheck check zoo.py:Sick --input 8x8 --seed 0" in out
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zoo.py:Nope"], "initcheck: zoo.py:Nope: zoo.py has no 'Nope'"),
        (["nowhere:Net"], "initcheck: nowhere:Net: there is no module 'nowhere'"),
        (["resnet"], "initcheck: 'resnet' names no model"),
        (["zoo.py:boom"], "initcheck: zoo.py:boom: building the model failed (RuntimeError: no such thing)"),
        (["zoo.py:number"], "initcheck: zoo.py:number: the factory returned an int"),
        (["zoo.py:Raises", "--input", "8x8"], "out of cheese"),
        (["zoo.py:meta", "--input", "8x8"], "0.weight of Sequential is on the meta device and has no values: check"),
        ([*HEALTHY, "--input", "8x8"], "initcheck: zoo.py:Healthy: "),
        (["zoo.py:Healthy", "zoo.py:Sick", "--input", "8xx"], "initcheck: input '8xx' is not a shape: "),
        (["zoo.py:Healthy", "--input", "1000000000000x8"], "asks for 32,000,000,000,000 bytes (32 TB)"),
        ([*HEALTHY, "--seed", "x"], "initcheck: --seed must be a whole number of at least 0 (got 'x')"),
        (["zoo.py:boom", *HEALTHY, "--ignore", "nope"], "initcheck: --ignore names the unknown rule 'nope'"),
        ([*HEALTHY, "--ignore", "unresponsive:no.such.layer"], "no.such.layer"),
        ([*HEALTHY, "--device", "cuda:77"], "cuda"),
        ([*HEALTHY, "--device", "toaster"], "toaster"),
        ([*HEALTHY, "--dtype", "float77"], "float77"),
    ],
)
def test_could_not_tell(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["check", *arguments]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("initcheck: ")


@pytest.mark.parametrize(
    "arguments", [[], ["chekc"], ["check"], ["check", *HEALTHY, "--format", "yaml"], ["check", "--sed"]]
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert "usage: initcheck" in capsys.readouterr().err


def test_several_go_on_after_one_that_cannot_be_checked(capsys: pytest.CaptureFixture[str]):
    assert main(["check", "zoo.py:boom", "zoo.py:Sick", "zoo.py:Healthy", "--input", "8x8"]) == 2

    out, err = capsys.readouterr()
    assert "zoo.py:Healthy" in out
    assert "zoo.py:Sick" in out
    assert out.splitlines()[-1] == "3 models, 1 unhealthy, 1 could not be checked"
    assert "zoo.py:boom" in err


def test_quiet_is_one_line_a_model(capsys: pytest.CaptureFixture[str]):
    assert main(["check", "zoo.py:Sick", "zoo.py:Healthy", "--input", "8x8", "-q"]) == 1

    assert len(capsys.readouterr().out.splitlines()) == 2


def test_verbose_shows_more(capsys: pytest.CaptureFixture[str]):
    main(["check", *HEALTHY])
    short = capsys.readouterr().out
    main(["check", *HEALTHY, "-v"])

    assert len(capsys.readouterr().out) > 2 * len(short)


def test_verbose_shows_where_a_factory_failed(capsys: pytest.CaptureFixture[str]):
    assert main(["check", "zoo.py:boom", "-v"]) == 2

    assert "in boom" in capsys.readouterr().err


def test_json(capsys: pytest.CaptureFixture[str]):
    assert main(["check", "zoo.py:Sick", "--input", "8x8", "--format", "json", "--seed", "4"]) == 1

    report = Report.from_dict(json.loads(capsys.readouterr().out))
    assert not report.ok
    assert report.findings
    assert report.settings == {"seed": 4}


def test_json_of_a_model_that_could_not_be_checked(capsys: pytest.CaptureFixture[str]):
    assert main(["check", "zoo.py:boom", "zoo.py:Healthy", "nowhere:Net", "--input", "8x8", "--format", "json"]) == 2

    out, err = capsys.readouterr()
    found = [Report.from_dict(data) for data in json.loads(out)]
    assert [(r.model, r.checked) for r in found] == [
        ("zoo.py:boom", False),
        ("zoo.py:Healthy", True),
        ("nowhere:Net", False),
    ]
    assert found[0].findings[0].summary.startswith("building the model failed (RuntimeError: no such thing)")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["initcheck", "initcheck"]

    assert main(["check", "zoo.py:boom", "--format", "json"]) == 2
    assert not Report.from_dict(json.loads(capsys.readouterr().out)).checked


def test_report_files_have_every_model_and_where_it_stands(
    models: pytest.Pytester, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(models.path / "summary.md"))
    (models.path / "pyproject.toml").write_text("")
    specs = ["zoo.py:Sick", "zoo.py:boom", "zoo.py:built", "zoo.py:Gone", "nowhere:Net"]

    assert main(["check", *specs, "--input", "8x8", "--report", "sarif:a.sarif", "--report", "json:a.json"]) == 2

    results = json.loads((models.path / "a.sarif").read_text())["runs"][0]["results"]
    assert {(r["properties"]["model"], r["ruleId"]) for r in results} == {
        ("zoo.py:Sick", "unresponsive"),
        ("zoo.py:boom", "not-checked"),
        ("zoo.py:Gone", "not-checked"),
        ("nowhere:Net", "not-checked"),
    }
    assert all(r["locations"][0]["physicalLocation"]["region"]["startLine"] for r in results)
    source = (models.path / "zoo.py").read_text().splitlines()
    places = {r["model"]: r["source"] for r in json.loads((models.path / "a.json").read_text())}
    assert places == {
        "zoo.py:Sick": f"zoo.py:{source.index('class Sick(nn.Sequential):') + 1}",
        "zoo.py:boom": f"zoo.py:{source.index('def boom():') + 1}",
        "zoo.py:built": f"zoo.py:{source.index('class Healthy(nn.Sequential):') + 1}",
        "zoo.py:Gone": "zoo.py:1",
        "nowhere:Net": "pyproject.toml:1",
    }
    summary = (models.path / "summary.md").read_text()
    assert summary.startswith("## Initialization check: 1 of 5 models unhealthy, 3 could not be checked\n")


LOUD = """
from zoo import Healthy

print("imported")

class Loud(Healthy):
    def forward(self, x):
        print("called")
        return super().forward(x)
"""


@pytest.mark.parametrize("command", ["check", "recommend"])
def test_json_stays_json_where_the_model_prints(
    models: pytest.Pytester, capsys: pytest.CaptureFixture[str], command: str
):
    models.makepyfile(**{f"loud_{command}": LOUD})

    assert main([command, f"loud_{command}.py:Loud", "--input", "8x8", "--format", "json"]) == 0

    out, err = capsys.readouterr()
    json.loads(out)
    assert "imported\n" in err
    assert "called\n" in err


def test_json_of_several_is_a_list(capsys: pytest.CaptureFixture[str]):
    assert main(["check", "zoo.py:Sick", "zoo.py:Healthy", "--input", "8x8", "--format", "json"]) == 1

    found = json.loads(capsys.readouterr().out)
    assert [Report.from_dict(data).model for data in found] == ["zoo.py:Sick", "zoo.py:Healthy"]


@pytest.mark.parametrize(
    ("choice", "no_color", "coloured"), [("always", "1", True), ("never", "", False), ("auto", "", False)]
)
def test_colour(
    choice: str, no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("NO_COLOR", no_color)

    main(["check", "zoo.py:Sick", "--input", "8x8", "--color", choice])

    assert ("\x1b[" in capsys.readouterr().out) is coloured


@pytest.mark.parametrize(
    ("no_color", "term", "expected"), [("", "xterm", True), ("1", "xterm", False), ("", "dumb", False)]
)
def test_colour_on_a_terminal(no_color: str, term: str, expected: bool, monkeypatch: pytest.MonkeyPatch):
    from pytest_initcheck.cli.command import use_color

    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    assert use_color("auto") is expected


def test_every_setting_has_an_option(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["check", "--help"])

    text = capsys.readouterr().out
    for setting in SETTINGS:
        assert f"{flag(setting)} " in text


def test_what_model_case_says_holds_here(models: pytest.Pytester, capsys: pytest.CaptureFixture[str]):
    models.makepyfile(
        cases="""
        import torch
        from pytest_initcheck import model_case
        from zoo import Healthy

        @model_case(torch.randn(6, 8), seed=3)
        def small(): return Healthy()
        """
    )

    assert main(["check", "cases.py:small", "--format", "json"]) == 0

    report = Report.from_dict(json.loads(capsys.readouterr().out))
    assert report.trace.inputs == ("float32[6, 8]",)
    assert report.trace.seed == 3


def test_python_m(models: pytest.Pytester):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest_initcheck", "check", *HEALTHY],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "zoo.py:Healthy" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])

    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("initcheck ")


def test_a_reader_that_stops_early_is_no_error(models: pytest.Pytester):
    done = subprocess.run(
        f"{sys.executable} -m pytest_initcheck check zoo.py:Sick --input 8x8 -v | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0
    assert "Traceback" not in done.stderr
