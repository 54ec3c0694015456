"""Each threshold has one home: move it, and what is asked, what is judged and what is said move with it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from pytest_initcheck import Finding, Report, check_init, thresholds
from pytest_initcheck.check import check
from pytest_initcheck.settings import Settings

X = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))


def stack(act: type[nn.Module] = nn.ReLU, *, depth: int = 8, gain: float = 1.0, **edits: float) -> nn.Sequential:
    """Kaiming-normal weights times ``gain`` and zero biases; ``loud`` multiplies one weight, ``bias`` fills one bias."""
    torch.manual_seed(0)
    model = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(64, 64), act())), nn.Linear(64, 4))
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if act is nn.ReLU else "linear")
            module.weight.data.mul_(gain)
            nn.init.zeros_(module.bias)
    model[4].weight.data.mul_(edits.get("loud", 1.0))
    model[4].bias.data.fill_(edits.get("bias", 0.0))
    return model


def checked(model: nn.Module, rule: str) -> tuple[Report, Finding | None]:
    report = check(model, X, settings=Settings(), race="none")  # which could take back what is moved here
    return report, next((f for f in report.findings if f.rule == rule), None)


def asked(report: Report) -> set[str]:
    """The later questions that were asked."""
    return {k for k in ("sensitivity_if_smaller", "sensitivity_later") if getattr(report.response, k) is not None}


@pytest.mark.always("28.0-(at most 28 %)", "10000.0-None")
@pytest.mark.parametrize(("bound", "said"), [(50.0, "(at most 50 %)"), (28.0, "(at most 28 %)"), (1e4, None)])
def test_the_bound_of_the_sensitivity(monkeypatch: pytest.MonkeyPatch, bound: float, said: str | None):
    monkeypatch.setattr(thresholds, "CHAOTIC", bound)

    report, finding = checked(stack(nn.Tanh, depth=20, gain=4.0), "chaotic-response")

    assert asked(report) == ({"sensitivity_if_smaller"} if said else set())
    assert (finding is not None) is bool(said)
    if finding is not None:
        assert finding.summary.endswith(said or "")
        assert finding.evidence["allowed"] == bound


@pytest.mark.always("0.02")
@pytest.mark.parametrize("size", [0.01, 0.02])
def test_the_disturbance_of_the_input(monkeypatch: pytest.MonkeyPatch, size: float):
    monkeypatch.setattr(thresholds, "DISTURBANCE", size)

    _, finding = checked(stack(nn.Tanh, depth=20, gain=4.0), "chaotic-response")

    assert finding is not None
    assert finding.summary.startswith(f"a disturbance of the input by {100 * size:g} % changes the output by ")
    assert finding.summary.endswith(f"(at most {2800 * size:g} %)")


@pytest.mark.parametrize("steps", [4, 30])
def test_the_steps_of_the_fit(monkeypatch: pytest.MonkeyPatch, steps: int):
    monkeypatch.setattr(thresholds, "FIT_STEPS", steps)
    monkeypatch.setattr(thresholds, "OUT_OF_REACH", float("inf"))

    report, finding = checked(stack(loud=1000.0), "unreachable-targets")

    assert report.response.fit_steps == steps
    assert finding is not None
    assert f"{steps} Adam steps leave " in finding.summary


def test_an_output_that_hardly_moves(monkeypatch: pytest.MonkeyPatch):
    calm, nothing = checked(stack(), "unresponsive")
    monkeypatch.setattr(thresholds, "SILENT", 1e3)
    monkeypatch.setattr(thresholds, "UNREACHED", 0.0)
    monkeypatch.setattr(thresholds, "WIDE", 1.0)
    monkeypatch.setattr(thresholds, "VARIED", 2.0)

    report, finding = checked(stack(), "unresponsive")

    assert (calm.response.residual, nothing) == (None, None)
    assert report.response.residual is not None
    assert finding is not None
    assert finding.severity == "error"
    assert finding.summary.startswith("3 optimizer steps move the output by ")
    assert finding.summary.endswith("(at least 1000 expected)")


@pytest.mark.parametrize(("name", "value"), [("AMPLE", 0.0), ("FAR", 0.0), ("ASTRAY", 2.0)])
def test_a_second_look_is_taken_where_the_verdict_would_need_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: float
):
    model = stack(loud=3.0)
    assert check_init(model, X).response.residual is None

    monkeypatch.setattr(thresholds, name, value)

    assert check_init(model, X).response.residual is not None


@pytest.mark.parametrize(("looks", "word"), [(2, "two"), (3, "three")])
def test_an_output_that_does_not_follow_the_input(monkeypatch: pytest.MonkeyPatch, looks: int, word: str):
    calm, nothing = checked(stack(), "input-blind")
    monkeypatch.setattr(thresholds, "DEAF", 1e3)
    monkeypatch.setattr(thresholds, "LOOKS", looks)

    report, finding = checked(stack(), "input-blind")

    assert (asked(calm), nothing) == (set(), None)
    assert asked(report) == {"sensitivity_later"}
    assert len(report.response.movement) == looks
    assert finding is not None
    assert finding.summary.endswith(f", and {word} steps do not change that")


@pytest.mark.parametrize(("bound", "said"), [(3.0, "(below 3)"), (4.5, "(below 4.5)"), (9.0, None)])
def test_a_large_bias(monkeypatch: pytest.MonkeyPatch, bound: float, said: str | None):
    monkeypatch.setattr(thresholds, "LARGE_BIAS", bound)

    _, finding = checked(stack(bias=8.0), "nonzero-bias")

    assert (finding is not None) is bool(said)
    assert finding is None or finding.summary.endswith(said or "")


@pytest.mark.parametrize("size", [1e-3, 0.1])
def test_the_size_of_a_step(monkeypatch: pytest.MonkeyPatch, size: float):
    small = check_init(stack(loud=1000.0), X).response.predicted
    monkeypatch.setattr(thresholds, "STEP", size)

    report, finding = checked(stack(loud=1000.0), "explosive-response")

    assert report.response.predicted == pytest.approx(size / 1e-3 * (small or 0.0))
    assert finding is not None
    assert finding.summary.startswith(f"one step of {'1e-3' if size == 1e-3 else '1e-1'} moves ")


def test_the_reference_of_the_rules_is_written_from_the_thresholds():
    code = """
from pytest_initcheck import thresholds as t
t.CHAOTIC, t.DISTURBANCE, t.FIT_STEPS, t.FIT_ENOUGH, t.LOOKS, t.STEP = 50.0, 0.02, 7, 0.8, 2, 2e-3
t.LARGE_BIAS, t.FLAT, t.STANDARD_ERRORS, t.DEAF, t.SILENT = 4.0, 0.9, 5.0, 1e-5, 2e-3
from pytest_initcheck.rules import RULES
for rule in RULES.values():
    print(rule.name + ":", rule.severity + ":", rule.threshold)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = dict(line.split(":", 1) for line in done.stdout.splitlines())

    assert "a 2 % disturbance of the input changes the output by more than 100 %" in said["chaotic-response"]
    assert "within 7 Adam steps" in said["unresponsive"]
    assert "less than 0.002 in 2 steps of 2e-3, and a fit of 7 Adam steps" in said["unresponsive"]
    assert "the first 20 %" in said["unresponsive"]
    assert "the first optimizer step of 2e-3" in said["explosive-response"]
    assert said["unreachable-targets"].count("7 Adam steps") == 2
    assert "after two optimizer-sized steps" in said["blocked-gradient"]
    assert "one to two optimizer-sized steps" in said["closed-gate"]
    assert "below 1e-05 of the disturbance" in said["input-blind"]
    assert "4 or more" in said["nonzero-bias"]
    assert "above 0.9 of its range" in said["saturated-units"]
    assert "above 0.9)" in said["saturated-state"]
    assert "more than 5 standard errors" in said["deferred-mismatch"]
