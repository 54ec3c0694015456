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
