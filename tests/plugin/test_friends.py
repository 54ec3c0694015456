"""Beside the plugins that suites have anyway: each does its work, and every finding is told exactly once.

One project for all: two models of the configuration, one of them sick, and tests that call a healthy and a sick one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest

INI = """
[pytest]
filterwarnings = error
initcheck_models =
    zoo.py:Healthy input=8x8
    zoo.py:Sick input=8x8
"""

SUITE = """
import torch
from zoo import Healthy, Sick

X = torch.ones(4, 8).cumsum(0)

def test_healthy():
    Healthy()(X)

def test_sick():
    assert Sick()(X).shape == (4, 4)
"""

#: Of the project above: the two models of the configuration, and the two that its tests call.
CONFIGURED = {"zoo.py:Healthy": True, "zoo.py:Sick": False}
CALLED = {"Healthy": True, "Sick": False}
OUTCOMES = {"passed": 3, "failed": 1, "unhealthy": 1}


@pytest.fixture
def project(models: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Like ``models``, with a configuration and tests; inner runs have only the plugins that a test names."""
    monkeypatch.delenv("PYTEST_ADDOPTS")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    models.makeini(INI)
    models.makepyfile(test_suite=SUITE)
    return models


def run(project: pytest.Pytester, plugin: str | None, *arguments: str) -> pytest.RunResult:
    """A run with this plugin and one friend, in a process of its own; neither may warn or break."""
    pytest_run = project.runpytest_inprocess if plugin is None else project.runpytest_subprocess
    friend = () if plugin is None else ("-p", plugin)
    result = pytest_run(
        *("-p", "pytest_initcheck.plugin", *friend, "--initcheck", "--initcheck-watch=report"),
        *("--initcheck-report=json:found.json", *arguments),
    )
    told = result.stdout.str() + result.stderr.str()
    assert "INTERNALERROR" not in told
    assert "warning" not in told.lower()
    return result


def found(project: pytest.Pytester) -> dict[str, bool]:
    """Verdict by model of the JSON report, in which no model stands twice."""
    content = json.loads((project.path / "found.json").read_text())
    reports: list[dict[str, Any]] = content if isinstance(content, list) else [content]
    times = Counter(report["model"] for report in reports)
    assert set(times.values()) == {1}
    return {report["model"].partition(" at ")[0]: report["ok"] for report in reports}  # watched: class, line, test


def told_once(result: pytest.RunResult, *sentences: str) -> None:
    text = result.stdout.str()
    assert {sentence: text.count(sentence) for sentence in sentences} == dict.fromkeys(sentences, 1)


FINDINGS = (
    "initcheck: models that the tests call",
    "test_suite.py:10: Sick: unhealthy init: unresponsive at 0.weight\n    in test_suite.py::test_sick\n",
    "initcheck: watched 2 models that the tests call, 1 unhealthy\n",
    "initcheck: 2 models, 1 unhealthy\n",
)


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_xdist(project: pytest.Pytester, arguments: tuple[str, ...]):
    if arguments:
        pytest.importorskip("xdist")

    result = run(project, "xdist" if arguments else None, *arguments)

    assert result.parseoutcomes() == OUTCOMES
    assert found(project) == {**CONFIGURED, **CALLED}
    told_once(result, *FINDINGS)
    assert ("2 workers [4 items]" in result.stdout.str()) == bool(arguments)


@pytest.mark.slow
def test_xdist_groups(project: pytest.Pytester):
    pytest.importorskip("xdist")
    grouped = SUITE.replace("def test_", "@pytest.mark.xdist_group('torch')\ndef test_")
    project.makepyfile(test_suite=f"import pytest\n{grouped}")

    result = run(project, "xdist", "-n", "2", "--dist", "loadgroup", "-v")

    assert result.parseoutcomes() == OUTCOMES
    assert found(project) == {**CONFIGURED, **CALLED}
    told_once(result, "test_suite.py:14: Sick: unhealthy init: unresponsive at 0.weight\n", *FINDINGS[2:])
    # xdist 3.8 does not group under pytest 9.2, whose node ids it cannot write to.
    grouped_on = re.findall(r"\[(gw\d)\].* PASSED test_suite.py::test_\w+@torch", result.stdout.str())
    assert len(grouped_on) in (0, 2)
    assert len(set(grouped_on)) <= 1


@pytest.mark.slow
def test_xdist_each(project: pytest.Pytester):
    """Every worker runs everything, and still a model stands in the report once."""
    pytest.importorskip("xdist")

    result = run(project, "xdist", "-n", "2", "--dist", "each")

    twice = {name: 2 * count for name, count in OUTCOMES.items()}
    assert result.parseoutcomes() == {**twice, "unhealthy": OUTCOMES["unhealthy"]}  # workers' findings are one
    assert found(project) == {**CONFIGURED, **CALLED}
    told_once(result, *FINDINGS)


@pytest.mark.slow
def test_randomly(project: pytest.Pytester):
    """Its seeds reach neither the models of the configuration, nor do ours reach the tests."""
    pytest.importorskip("pytest_randomly")
    drawing = """
    import random
    from pathlib import Path

    def test_draws():
        drawn = [random.random()]
        Healthy(width=8)(X)
        Path("drawn.txt").write_text(str([*drawn, random.random()]))
    """
    project.makepyfile(test_suite=f"{SUITE}{''.join(line[4:] + chr(10) for line in drawing.splitlines())}")
    orders, drawn, measured = [], [], []
    for plugin, *arguments in ((None,), ("randomly", "--randomly-seed=1"), ("randomly", "--randomly-seed=2")):
        result = run(project, plugin, *arguments, "-v")
        assert result.parseoutcomes() == {"passed": 4, "failed": 1, "unhealthy": 1}
        orders.append(re.findall(r"^(\S+) (?:PASSED|FAILED)", result.stdout.str(), re.MULTILINE))
        drawn.append((project.path / "drawn.txt").read_text())
        reports = json.loads((project.path / "found.json").read_text())
        assert Counter(report["model"].partition(" at ")[0] for report in reports) == {
            **dict.fromkeys([*CONFIGURED, "Sick"], 1),
            "Healthy": 2,
        }
        measured.append({report["model"]: without_times(report) for report in reports if report["model"] in CONFIGURED})
    project.runpytest_subprocess("-p", "pytest_initcheck.plugin", "-p", "randomly", "--randomly-seed=2")

    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert len({tuple(order) for order in orders}) == 3
    assert measured[0] == measured[1] == measured[2]
    assert drawn[1] != drawn[2] == (project.path / "drawn.txt").read_text()


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key != "seconds"}
    return value


@pytest.mark.slow
def test_rerunfailures(project: pytest.Pytester):
    """A test that passes at last has what it found on the way told, once."""
    pytest.importorskip("pytest_rerunfailures")
    project.makepyfile(test_suite=f"{SUITE}    assert not tries.append(1) and len(tries) > 1\n\ntries = []\n")

    result = run(project, "rerunfailures", "--reruns", "1")

    assert result.parseoutcomes() == {**OUTCOMES, "rerun": 2}  # the sick model of the configuration, and the test
    assert found(project) == {**CONFIGURED, **CALLED}
    told_once(result, *FINDINGS)


@pytest.mark.slow
def test_timeout(project: pytest.Pytester):
    pytest.importorskip("pytest_timeout")

    result = run(project, "timeout", "--timeout=60")

    assert result.parseoutcomes() == OUTCOMES
    assert found(project) == {**CONFIGURED, **CALLED}
    told_once(result, "timeout: 60.0s", *FINDINGS)


@pytest.mark.parametrize(
    "workers",
    [(), pytest.param(("-p", "xdist", "-n", "2"), marks=pytest.mark.slow)],
    ids=["alone", "xdist"],
)
def test_cov(project: pytest.Pytester, workers: tuple[str, ...]):
    pytest.importorskip("pytest_cov")
    if workers:
        pytest.importorskip("xdist")

    result = run(project, "pytest_cov", "--cov=.", "--cov-report=term-missing", *workers)

    assert result.parseoutcomes() == OUTCOMES
    assert found(project) == {**CONFIGURED, **CALLED}
    told_once(result, *FINDINGS)
    # Of zoo.py nobody calls Raises.forward, boom, number and meta.
    result.stdout.fnmatch_lines(["test_suite.py * 0 * 100%", "zoo.py * 4 * 79% * 15, 18, 21, 24"])


@pytest.mark.slow
def test_hypothesis(project: pytest.Pytester):
    """A model that only a property calls is named once, as not watched; what another test calls is watched."""
    pytest.importorskip("hypothesis")
    project.makepyfile(
        test_suite=f"""{SUITE}
from hypothesis import given, strategies

@given(strategies.integers(1, 4))
def test_property(rows):
    Healthy()(X[:rows])
    Sick()(X[:rows])
    Sick().append(torch.nn.ReLU()).append(torch.nn.Linear(4, 4))(X[:rows])
"""
    )

    result = run(project, "hypothesispytest", "--hypothesis-show-statistics")

    assert result.parseoutcomes() == {**OUTCOMES, "passed": 4}
    assert found(project) == {**CONFIGURED, **CALLED}
    told_once(
        result,
        *FINDINGS[:2],
        "initcheck: skipped Sick: called in a test of hypothesis, whose deadline would count the probe\n",
        "initcheck: watched 2 models that the tests call, 1 unhealthy, 1 skipped\n",
        "test_suite.py::test_property:\n",
    )


@pytest.mark.slow
def test_asyncio(project: pytest.Pytester):
    pytest.importorskip("pytest_asyncio")
    awaited = SUITE.replace("def test_", "async def test_").replace(
        "    Healthy", "    await asyncio.sleep(0)\n    Healthy"
    )
    project.makepyfile(test_suite=f"import asyncio\n{awaited}")
    project.makeini(f"{INI}asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")

    result = run(project, "asyncio")

    assert result.parseoutcomes() == OUTCOMES
    assert found(project) == {**CONFIGURED, **CALLED}
    told_once(result, FINDINGS[1].replace("10", "13"), *FINDINGS[2:])


SUBTESTS = """
import torch
from zoo import Healthy, Sick

X = torch.ones(4, 8).cumsum(0)

def test_called(subtests):
    for kind in (Healthy, Sick):
        with subtests.test(kind.__name__):
            kind()(X)

def test_checked(subtests, initcheck):
    for kind in (Healthy, Sick, lambda: Healthy(width=8)):
        with subtests.test(kind.__name__):
            initcheck(kind, X)
"""


@pytest.mark.parametrize("workers", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)], ids=["alone", "xdist"])
def test_subtests(project: pytest.Pytester, workers: tuple[str, ...]):
    """Every subtest may call or check models of its own."""
    if workers:
        pytest.importorskip("xdist")
    project.makepyfile(test_suite=SUBTESTS)
    project.makeini("[pytest]\nfilterwarnings = error\n")

    result = run(project, "xdist" if workers else None, *workers)

    # The test that checks fails by its one subtest.
    assert result.parseoutcomes() == {"passed": 1, "failed": 2, "unhealthy": 1}
    told_once(result, "_ test_checked [Sick] _")
    told_once(
        result,
        "test_suite.py:9: Sick: unhealthy init: unresponsive at 0.weight\n",
        "initcheck: watched 2 models that the tests call, 1 unhealthy\n",
        "initcheck: 3 models, 1 unhealthy\n",
    )
    reports = json.loads((project.path / "found.json").read_text())
    assert Counter(report["model"].partition(" at ")[0] for report in reports) == {
        "Healthy": 2,
        "Sick": 2,
        "<lambda>": 1,
    }
