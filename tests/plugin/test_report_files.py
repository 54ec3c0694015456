"""``--initcheck-report=FORMAT:PATH``: files with all reports of a run, and GitHub's step summary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

MODELS = """
from torch import nn

def healthy():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

def sick():
    model = healthy()
    nn.init.constant_(model[0].bias, -50.0)
    return model
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(models=MODELS)
    pytester.makeini("[pytest]\ninitcheck_models =\n    models.py:healthy\n    models.py:sick\n")
    return pytester


# In the default run test_friends.py has two workers, and a report file.
@pytest.mark.parametrize("workers", [[], pytest.param(["-n", "2"], marks=pytest.mark.slow)], ids=["alone", "xdist"])
def test_every_format_at_once(project: pytest.Pytester, workers: list[str]) -> None:
    formats = {"json": "models.py:sick", "html": "<html", "markdown": "models.py:sick", "sarif": "2.1.0"}
    options = [f"--initcheck-report={kind}:out/report.{kind}" for kind in formats]

    result = project.runpytest("--initcheck", *options, *workers)

    assert result.ret == 1
    for kind, expected in formats.items():
        assert expected in Path(project.path, "out", f"report.{kind}").read_text(encoding="utf-8")
    reports = json.loads(Path(project.path, "out", "report.json").read_text(encoding="utf-8"))
    assert len(reports) == 2


def test_the_step_summary_is_appended_to(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = project.path / "summary.md"
    summary.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))

    project.runpytest("--initcheck")

    text = summary.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert "models.py:sick" in text


def test_the_ini_names_files_too(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\ninitcheck_models = models.py:healthy\ninitcheck_report = json:here.json\n")

    assert project.runpytest("--initcheck").ret == 0
    assert (project.path / "here.json").exists()


@pytest.mark.parametrize("value", ["json", "xml:report.xml", "json:"])
def test_what_is_no_destination_ends_the_run(project: pytest.Pytester, value: str) -> None:
    result = project.runpytest("--initcheck", f"--initcheck-report={value}")

    assert result.ret == 4
    result.stderr.fnmatch_lines([f"*--initcheck-report must be FORMAT:PATH with a format of *(got '{value}')"])


def test_a_file_that_cannot_be_written_is_said(project: pytest.Pytester) -> None:
    (project.path / "taken").write_text("a file, not a folder")

    result = project.runpytest("--initcheck", "--initcheck-report=json:taken/report.json", "-k", "healthy")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["*InitcheckWarning: a report could not be written*"])


TESTS = """
import models

def test_it(initcheck):
    initcheck(models.healthy(), "8x8")
"""


def test_the_option_needs_the_flag(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=TESTS)

    result = project.runpytest("--initcheck-report=json:out.json")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line.strip()] == [
        "ERROR: --initcheck-report needs --initcheck: only then are reports collected and written"
    ]
    assert project.runpytest("--initcheck-report=json:out.json", "-o", "initcheck=true", "-k", "healthy").ret == 0


def test_the_ini_is_for_runs_with_the_flag(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\ninitcheck_report = json:here.json\n")
    project.makepyfile(test_it="def test_it(): pass")

    assert project.runpytest().ret == 0
    assert not (project.path / "here.json").exists()


# -- models that could not be checked

BROKEN = """
import models

def broken():
    raise ValueError("no such thing")
"""


@pytest.mark.parametrize("workers", [[], pytest.param(["-n", "2"], marks=pytest.mark.slow)], ids=["alone", "xdist"])
def test_models_that_could_not_be_checked_are_in_every_file(project: pytest.Pytester, workers: list[str]) -> None:
    project.makepyfile(more=BROKEN)
    project.makeini("[pytest]\ninitcheck_models =\n    models.py:healthy\n    more.py:broken\n    gone.py:Net\n")
    kinds = ("text", "json", "html", "markdown", "sarif", "github")

    result = project.runpytest("--initcheck", *(f"--initcheck-report={kind}:out.{kind}" for kind in kinds), *workers)

    result.stdout.fnmatch_lines(["initcheck: 3 models, 2 could not be checked"])
    for kind in kinds:
        text = (project.path / f"out.{kind}").read_text(encoding="utf-8")
        assert "more.py:broken" in text
        assert "no such thing" in text
    text = (project.path / "out.markdown").read_text(encoding="utf-8")
    assert text.startswith("## Initialization check: 2 of 3 models could not be checked\n")
    found = {r["model"]: r for r in json.loads((project.path / "out.json").read_text(encoding="utf-8"))}
    assert found["more.py:broken"]["findings"][0]["summary"].startswith(
        "building the model failed (ValueError: no such"
    )
    assert {name: r["source"] for name, r in found.items()} == {
        "models.py:healthy": "models.py:3",
        "more.py:broken": "more.py:3",
        "gone.py:Net": "tox.ini:1",
    }


def test_the_step_summary_has_them_also_where_there_is_nothing_else(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = project.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    project.makepyfile(more=BROKEN)
    project.makeini("[pytest]\ninitcheck_models = more.py:broken\n")

    project.runpytest("--initcheck")

    assert "1 of 1 model could not be checked" in summary.read_text(encoding="utf-8")


# -- where findings stand

PLACED = """
from torch import nn
from pytest_initcheck import model_case
from src.zoo import Sick

@model_case("8x8", fail_on="never")
def case():
    return Sick()

def test_class(initcheck):
    initcheck(Sick(), "8x8", fail_on="never")

def test_module_of_torch(initcheck):
    initcheck(nn.Sequential(*Sick()), "8x8", fail_on="never")
"""
ZOO = """\
from torch import nn

class Sick(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

built = nn.Sequential(*Sick())
"""


def test_every_finding_stands_in_a_file_of_the_project(pytester: pytest.Pytester) -> None:
    (pytester.mkdir("src") / "zoo.py").write_text(ZOO)
    pytester.makepyfile(test_models=PLACED)
    pytester.makeini(
        "[pytest]\npythonpath = .\ninitcheck_fail_on = never\n"
        "initcheck_models =\n    src/zoo.py:Sick input=8x8\n    src.zoo:built input=8x8\n"
    )

    result = pytester.runpytest("--initcheck", "--initcheck-report=sarif:out.sarif")

    result.assert_outcomes(passed=5)
    (run,) = json.loads((pytester.path / "out.sarif").read_text())["runs"]
    places: dict[str, set[str]] = {}
    for found in run["results"]:
        physical = found["locations"][0]["physicalLocation"]
        place = f"{physical['artifactLocation']['uri']}:{physical['region']['startLine']}"
        places.setdefault(found["properties"]["model"], set()).add(place)
    assert places == {
        "src/zoo.py:Sick": {"src/zoo.py:3"},
        "src.zoo:built": {"src/zoo.py:9"},
        "test_models.py:case": {"test_models.py:5"},
        "Sick": {"src/zoo.py:3"},
        "Sequential": {"test_models.py:12"},
    }


# -- which test asked

ASKED = """
import pytest
from models import healthy, sick

def small(initcheck):
    with pytest.raises(Exception):
        initcheck(sick, "8x8")

def test_one(initcheck):
    small(initcheck)

def test_other(initcheck):
    initcheck(healthy, "8x8")
    small(initcheck)

def test_wrong_shape(initcheck):
    with pytest.raises(Exception):
        initcheck(healthy, "8x9")

def test_wrong_setting(initcheck):
    with pytest.raises(Exception):
        initcheck(healthy, "8x8", nosuch=3)
"""


@pytest.mark.parametrize("workers", [[], pytest.param(["-n", "2"], marks=pytest.mark.slow)], ids=["alone", "xdist"])
def test_files_say_which_test_checked_a_model(project: pytest.Pytester, workers: list[str]) -> None:
    project.makepyfile(test_it=ASKED)
    project.makeini("[pytest]\npythonpath = .\n")
    kinds = ("json", "html", "markdown", "sarif")

    result = project.runpytest("--initcheck", *(f"--initcheck-report={kind}:out.{kind}" for kind in kinds), *workers)

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["initcheck: 4 models, 2 unhealthy, 1 could not be checked"])
    reports = json.loads((project.path / "out.json").read_text(encoding="utf-8"))
    assert sorted((r["model"], r["test"]) for r in reports) == [
        ("healthy", "test_it.py::test_other"),
        ("healthy", "test_it.py::test_wrong_shape"),
        ("sick", "test_it.py::test_one"),
        ("sick", "test_it.py::test_other"),
    ]
    (wrong,) = (r for r in reports if r["test"].endswith("wrong_shape"))
    assert "mat1 and mat2 shapes cannot be multiplied" in wrong["findings"][0]["summary"]
    for kind in ("html", "markdown"):
        text = (project.path / f"out.{kind}").read_text(encoding="utf-8").lower()
        assert all(f"test_it.py::test_{name}" in text for name in ("one", "other", "wrong_shape")), kind
        assert all(
            name in text for name in ("sick in test_one", "sick in test_other", "healthy in test_wrong_shape")
        ), kind
    (run,) = json.loads((project.path / "out.sarif").read_text(encoding="utf-8"))["runs"]
    alike = [r["partialFingerprints"]["initcheck/v2"] for r in run["results"]]
    assert len(set(alike)) == len(alike) >= 3
