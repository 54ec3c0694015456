"""What an unclear model may cost: counted passes, seconds that only allow more, and a report that says where asking ended."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from pytest_initcheck import budget as budgets
from pytest_initcheck import check_init
from pytest_initcheck.budget import BACKWARD, FORWARD, TimeBudget
from pytest_initcheck.examine import examine
from pytest_initcheck.measured import Request
from pytest_initcheck.report import Report
from pytest_initcheck.rules import raced
from pytest_initcheck.settings import Settings

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))


class Counted(nn.Sequential):
    """Counts its forward passes by a counter that no guard can put back, as it does with lists."""

    def __init__(self, passes: itertools.count[int], *layers: nn.Module) -> None:
        super().__init__(*layers)
        self._passes = passes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        next(self._passes)
        return super().forward(x)


def faded(scale: float, passes: itertools.count[int] | None = None) -> nn.Sequential:
    """Six layers whose weights are drawn with ``scale`` times their usual size."""
    passes = itertools.count() if passes is None else passes
    torch.manual_seed(0)
    layers = [m for _ in range(6) for m in (nn.Linear(16, 16), nn.ReLU())]
    model = Counted(passes, *layers, nn.Linear(16, 4))
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            module.weight.data.mul_(scale)
            nn.init.zeros_(module.bias)
    return model


SICK, HEALTHY, LOUD = 1e-2, 1.0, 1e4


def named(report: Report, severity: str) -> list[str]:
    return [f.rule for f in report.findings if f.severity == severity]


def test_half_of_a_budget_is_half_of_its_steps_and_of_its_seconds_whatever_the_pace(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    for clock in ("perf_counter", "process_time"):
        monkeypatch.setattr(budgets.time, clock, lambda: now[0])
    budget = TimeBudget(200.0, 20.0)
    budget.spend(forward=1, backward=1)
    now[0] = 0.001  # a pace of a thousand steps a second
    spent = budget.halfway()

    now[0] = 5.0  # something was imported
    budget.spend(forward=1, backward=1)
    assert not spent()
    now[0] = 15.0
    assert not spent(), "half of the steps are left on any machine"
    budget.spend(forward=100, backward=100)
    assert spent()
    now[0] = 5.0
    assert not spent(), "where the seconds allow more"
    assert not TimeBudget().halfway()()


def test_passes_are_counted_in_bare_steps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(budgets.time, "perf_counter", lambda: 0.0)
    budget = TimeBudget(2.0)

    budget.spend(forward=1, backward=1)
    budget.spend(forward=1)

    assert pytest.approx(1.0) == FORWARD + BACKWARD
    assert budget.left == pytest.approx(2 / 3)
    budget.spend(forward=5)
    assert budget.left == 0


@pytest.mark.parametrize(("wall", "processor"), [(1.0, 9.0), (9.0, 1.0)])
def test_seconds_allow_more_and_never_less(monkeypatch: pytest.MonkeyPatch, wall: float, processor: float):
    now = {"wall": 0.0, "processor": 0.0}
    monkeypatch.setattr(budgets.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(budgets.time, "process_time", lambda: now["processor"])
    budget, counted = TimeBudget(10.0, 5.0), TimeBudget(10.0, 0.0)
    for one in (budget, counted):
        one.spend(forward=9, backward=9)
    now.update(wall=wall, processor=processor)

    # Nine steps in the one second that the kinder clock counts: four seconds more are enough for 36.
    assert budget.left == pytest.approx(36.0)
    assert counted.left == pytest.approx(1.0)
    now.update(wall=9.0, processor=9.0)
    assert budget.left == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("limits", "steps", "seconds", "words"),
    [
        ("60x,20s", 60.0, 20.0, "60 bare steps, 20 s"),
        ("5x", 5.0, 0.0, "5 bare steps"),
        ("20s", 0.0, 20.0, "20 s"),
        ("0x", 0.0, 0.0, "0 bare steps"),
        ("none", float("inf"), 0.0, "inf bare steps"),
    ],
)
def test_limits_are_read_and_said(limits: str, steps: float, seconds: float, words: str):
    budget = TimeBudget.of(limits)

    assert (budget.steps, budget.seconds, str(budget)) == (steps, seconds, words)


def test_a_model_that_is_plainly_healthy_needs_no_budget():
    report = check_init(faded(HEALTHY), X, time_budget="0x")

    assert report.ok
    assert named(report, "warning") == []


@pytest.fixture
def as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are as those that are not raced for a doubt."""
    monkeypatch.setattr(raced, "LARGE", 0)


@pytest.mark.usefixtures("as_large")
def test_what_the_budget_cut_off_is_neither_healthy_nor_sick():
    cut, whole = (check_init(faded(SICK), X, time_budget=limits) for limits in ("8x", "none"))

    assert named(whole, "error")[:1] == ["unresponsive"]
    assert named(cut, "error") == []
    assert "undecided" in named(cut, "warning")
    assert "not decided" in " ".join(cut.trace.unseen)
    assert str(cut).splitlines()[0].startswith("Counted: undecided init, ")
    assert cut.response.residual is None
    assert not check_init(faded(SICK), X, time_budget="8x", fail_on="warning").ok


def test_a_race_that_the_budget_cut_off_decides_nothing():
    cut, whole = (check_init(faded(SICK), X, time_budget=limits) for limits in ("100x", "none"))

    assert cut.race is not None
    assert (cut.race.outcome, cut.race.cut) == ("open", True)
    assert 10 < cut.race.passes < 100  # the fit left it half
    assert named(cut, "error") == []
    (said,) = [f.summary for f in cut.findings if f.rule == "undecided"]
    assert said == "the time budget (100x) was spent while this model was raced against repaired copies"
    assert whole.race is not None
    assert not whole.race.cut
    assert "undecided" not in named(whole, "warning")
    assert not whole.ok


def test_what_fails_in_any_case_is_not_undecided():
    report = check_init(faded(LOUD), X, time_budget="8x")

    assert named(report, "error") == ["unreachable-targets"]
    assert "undecided" not in named(report, "warning")


@pytest.mark.usefixtures("as_large")
def test_a_check_stops_at_the_same_pass_each_time():
    counts: list[int] = []
    reports: list[Report] = []
    for _ in range(2):
        passes = itertools.count()
        reports.append(check_init(faded(SICK, passes), X, time_budget="12x"))
        counts.append(next(passes))

    assert 10 < counts[0] == counts[1] < 30
    assert reports[0].response == reports[1].response


def test_no_fix_is_tried_beyond_the_budget():
    counted, without = itertools.count(), itertools.count()
    one, other = (Request(inputs=X, settings=Settings(time_budget=limit), race="none") for limit in ("5x", "none"))
    spent, whole = examine(faded(LOUD, counted), one), examine(faded(LOUD, without), other)

    assert named(spent, "error") == named(whole, "error") == ["unreachable-targets"]
    assert [bool(report.findings[0].fix) for report in (spent, whole)] == [False, True]
    assert "not every fix was tried" in " ".join(spent.trace.unseen)
    assert "not every fix was tried" not in " ".join(whole.trace.unseen)
    assert next(counted) < 20 < next(without)
