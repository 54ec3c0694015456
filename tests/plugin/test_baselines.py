"""``--initcheck-baseline`` and ``--initcheck-update``: what is written, what is compared, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

MODELS = """
import os
from torch import nn

def mlp():
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    nn.init.normal_(model[2].weight, std=0.0625 * float(os.environ.get("FACTOR", 1)))
    if "GAMMA" in os.environ:
        nn.init.ones_(model[0].bias)
    return model

def sick():
    model = mlp()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model
"""
TESTS = """
import models, torch

def test_two(initcheck):
    for seed in (1, 2):
        torch.manual_seed(seed)
        initcheck(models.mlp(), "8x64")
"""
RECORD = ("--initcheck", "--initcheck-baseline=init.ini", "--initcheck-update")
COMPARE = ("--initcheck", "--initcheck-baseline=init.ini")


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(models=MODELS, test_it=TESTS)
    pytester.makeini("[pytest]\ninitcheck_models = models.py:mlp input=8x64\n")
    pytester.syspathinsert()
    return pytester


def written(project: pytest.Pytester) -> str:
    return Path(project.path, "init.ini").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def kept() -> dict[str, str]:
    """Where the first test that needs a recorded file leaves it to the others: all of them would record the same."""
    return {}


@pytest.fixture
def recorded(project: pytest.Pytester, kept: dict[str, str]) -> str:
    """What stands in ``init.ini``, to which the models of the project are recorded."""
    if not kept:
        assert project.runpytest(*RECORD).ret == 0
        kept["init.ini"] = written(project)
    Path(project.path, "init.ini").write_text(kept["init.ini"], encoding="utf-8")
    return kept["init.ini"]


WORKERS = pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "xdist"])
WORKERS_AGAIN = pytest.mark.parametrize(
    "workers", [[], pytest.param(["-n", "2"], marks=pytest.mark.slow)], ids=["alone", "xdist"]
)


@WORKERS
def test_recorded(project: pytest.Pytester, workers: list[str]) -> None:
    first = project.runpytest(*RECORD, *workers)

    first.stdout.fnmatch_lines(["*baseline init.ini: 3 new*"])
    assert first.ret == 0
    assert [line for line in written(project).splitlines() if line.startswith("[")] == [
        "[initcheck::models.py:mlp[input=8x64]]",
        "[test_it.py::test_two]",
        "[test_it.py::test_two #2]",
    ]
    assert list(Path(project.path).glob(".init.ini*")) == []


@WORKERS_AGAIN
def test_recorded_then_compared_then_failed(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: list[str]
) -> None:
    project.runpytest(*RECORD, *workers)
    text = written(project)

    same = project.runpytest(*COMPARE, *workers)
    same.stdout.fnmatch_lines(["*baseline init.ini: 3 compared*"])
    assert same.ret == 0

    monkeypatch.setenv("FACTOR", "1.1")
    drifted = project.runpytest(*COMPARE, *workers)
    assert drifted.ret == 1
    drifted.stdout.fnmatch_lines(
        [
            "error init-drift at 2.weight",
            "  std 0.0687 was 0.0625 (x1.10, beyond ±0.9* % sampling error)",
            "  cause    not drawn as in the baseline init.ini,*",
            '  silence  ignore=["init-drift:2.weight"]',
        ]
    )
    assert written(project) == text


def test_an_update_changes_only_the_lines_that_changed(
    project: pytest.Pytester, recorded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recorded.replace("[test_it.py::test_two]", "[test_gone.py::test_old]")
    Path(project.path, "init.ini").write_text(text, encoding="utf-8")
    monkeypatch.setenv("FACTOR", "1.1")

    result = project.runpytest(*RECORD)

    result.stdout.fnmatch_lines(["*baseline init.ini: 1 new, 2 changed*"])
    after = written(project)
    assert "[test_gone.py::test_old]" in after  # not checked in this run: kept
    changed = set(after.splitlines()) - set(text.splitlines())
    assert {line.partition(" ")[0] for line in changed} == {
        "[test_it.py::test_two]",
        "2.weight",
    }  # the new section's other lines are those it had before
    again = project.runpytest(*RECORD)
    again.stdout.fnmatch_lines(["*baseline init.ini: 3 as before*"])
    assert written(project) == after


def test_another_draw_leaves_the_file_as_it_is(project: pytest.Pytester, recorded: str) -> None:
    result = project.runpytest(*RECORD, "--initcheck-seed=77")

    result.stdout.fnmatch_lines(["*3 as before*"])
    assert written(project) == recorded


@pytest.mark.usefixtures("recorded")
def test_a_constant_that_changes_is_found(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAMMA", "1")

    result = project.runpytest(*COMPARE, "--initcheck-report=json:out.json")

    assert result.ret == 1
    reports = json.loads(Path(project.path, "out.json").read_text(encoding="utf-8"))
    told = {f["summary"] for report in reports for f in report["findings"] if f["rule"] == "init-drift"}
    assert len(told) >= 1
    assert all(summary.startswith("all 1 was std 0.07") for summary in told)


def test_a_model_that_is_not_known_is_a_warning(project: pytest.Pytester) -> None:
    project.runpytest(*RECORD, "test_it.py")

    result = project.runpytest(*COMPARE)
    strict = project.runpytest(*COMPARE, "--initcheck-fail-on=warning")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["*baseline init.ini: 2 compared, 1 not in it*"])
    assert strict.ret == 1
    strict.stdout.fnmatch_lines(["*this model is not in the baseline init.ini: it was compared with nothing"])


@pytest.mark.usefixtures("recorded")
def test_drift_is_silenced_like_any_other_finding(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTOR", "1.1")

    assert project.runpytest(*COMPARE, "--initcheck-ignore=init-drift:2.weight").ret == 0
    assert project.runpytest(*COMPARE, "--initcheck-select=dead-units").ret == 0


def test_an_unhealthy_model_is_not_recorded(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\ninitcheck_models =\n    models.py:mlp input=8x64\n    models.py:sick input=8x64\n")

    result = project.runpytest(*RECORD)

    assert result.ret == 1
    result.stdout.fnmatch_lines(["*baseline init.ini: 3 new, 1 not recorded because unhealthy or not checked*"])
    assert "sick" not in written(project)

    result = project.runpytest(*COMPARE)

    result.stdout.fnmatch_lines(["*--initcheck-update adds it once it is healthy"])


@pytest.mark.usefixtures("recorded")
def test_the_hook_sees_what_drifted(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    project.makeconftest("def pytest_initcheck_report(report):\n    print('TOLD', *report.findings)\n")
    monkeypatch.setenv("FACTOR", "1.1")

    project.runpytest(*COMPARE, "-s").stdout.fnmatch_lines(["*TOLD error init-drift 2.weight: std 0.068*"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (COMPARE, "the baseline init.ini does not exist: record it with --initcheck-update"),
        (COMPARE[1:], "--initcheck-baseline needs --initcheck: only then are models checked"),
        (RECORD[1:], "--initcheck-update needs --initcheck: only then are models checked"),
        (("--initcheck", "--initcheck-update"), "--initcheck-update needs a file to write: *--initcheck-baseline=PATH"),
        (("--initcheck", "--initcheck-baseline=."), "--initcheck-baseline must be a file (got '.')"),
        ((*COMPARE, "--initcheck-baseline-alpha=1"), "--initcheck-baseline-alpha must be a chance between 0 and 1*"),
        ((*COMPARE, "--initcheck-baseline-alpha=x"), "--initcheck-baseline-alpha must be a chance between 0 and 1*"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    project: pytest.Pytester, arguments: tuple[str, ...], message: str
) -> None:
    result = project.runpytest(*arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    assert not Path(project.path, "init.ini").exists()


@pytest.mark.parametrize("arguments", [COMPARE, RECORD, (*RECORD, "-n", "2")], ids=["compare", "update", "xdist"])
def test_a_damaged_file_is_refused_and_left_alone(
    project: pytest.Pytester, recorded: str, arguments: tuple[str, ...]
) -> None:
    damaged = recorded + "<<<<<<< HEAD\n"
    Path(project.path, "init.ini").write_text(damaged, encoding="utf-8")

    result = project.runpytest(*arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the baseline init.ini is damaged at line *: cannot read '<<<<<<< HEAD'; *"])
    assert written(project) == damaged


def test_a_file_that_cannot_be_written_ends_the_run_with_an_error(project: pytest.Pytester) -> None:
    Path(project.path, "folder").write_text("a file", encoding="utf-8")

    result = project.runpytest(
        "--initcheck", "--initcheck-baseline=folder/init.ini", "--initcheck-update", "test_it.py"
    )

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "INTERNALERROR" not in str(result.stdout)
    told = str(result.stdout) + str(result.stderr)
    assert "folder/init.ini" in told


def test_the_ini_is_relative_to_the_root(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\ninitcheck = true\ninitcheck_baseline = kept/init.ini\n")
    folder = project.mkdir("sub")
    (folder / "test_sub.py").write_text(TESTS, encoding="utf-8")

    assert project.runpytest("--rootdir=.", "sub", "--initcheck-update").ret == 0
    assert Path(project.path, "kept", "init.ini").exists()
    assert project.runpytest("--rootdir=.", "sub").ret == 0


def test_without_initcheck_the_ini_is_not_looked_at(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\ninitcheck_baseline = nowhere.ini\n")

    result = project.runpytest()

    assert result.ret == 0
    assert "baseline" not in str(result.stdout)
