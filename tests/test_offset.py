"""An output that starts far from zero: a fault where earlier layers put it there, and meant where a bias of the last one does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import check_init
from pytest_initcheck.models.inputs import resolve_inputs
from pytest_initcheck.probing.guard import untouched
from pytest_initcheck.probing.probe import run_probe
from pytest_initcheck.race.tasks import may_be_scores
from pytest_initcheck.report import Report
from pytest_initcheck.response.offset import common, inner_offset
from pytest_initcheck.response.perturb import Push, push_of

Model = nn.Sequential


def regressor(seed: int, outputs: int = 1) -> Model:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, outputs))
    for layer in model[::2]:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def inner(model: Model, size: float = 30.0) -> Model:
    nn.init.constant_(model[2].bias, size)
    with torch.no_grad():
        model[4].weight.abs_()
    return model


def last(model: Model, size: float = 60.0) -> Model:
    nn.init.constant_(model[4].bias, size)
    return model


def vectors(n: int = 32) -> Tensor:
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(1))


def pushed(model: nn.Module, inputs: Tensor, look: Callable[[Push], float]) -> float:
    call = resolve_inputs(model, inputs)
    with untouched(model) as guard:
        return look(push_of(run_probe(model, call, guard=guard), guard))


def severities(report: Report, rule: str) -> list[str]:
    return [f.severity for f in report.findings if f.rule == rule]


@pytest.mark.seeds(4)
def test_an_offset_that_an_inner_bias_makes_is_an_error(seed: int):
    report = check_init(inner(regressor(seed)), vectors())

    (found,) = (f for f in report.findings if f.rule == "outperformed")
    assert found.severity == "error"
    assert found.layers[0] == "2.bias"
    assert "training steps on smooth functions of the input around zero leave" in found.summary
    assert not report.ok


@pytest.mark.seeds(4)
def test_one_that_a_bias_of_the_last_layer_makes_is_a_warning(seed: int):
    report = check_init(last(regressor(seed)), vectors())

    assert severities(report, "offset-output") == ["warning"]
    assert report.ok


@pytest.mark.seeds(4)
@pytest.mark.parametrize(("outputs", "failed"), [(1, ["outperformed"]), (4, [])], ids=["a number", "scores"])
def test_scores_of_classes_may_start_where_a_number_may_not(outputs: int, failed: list[str], seed: int):
    report = check_init(inner(regressor(seed, outputs), 6.0), vectors())

    assert [f.rule for f in report.findings if f.severity == "error"] == failed


@pytest.mark.parametrize(
    ("output", "given", "scores"),
    [
        ((8,), (8, 4), False),
        ((8, 1), (8, 4), False),
        ((8, 4), (8, 5), True),
        ((8, 4), (8, 4), False),  # what is reconstructed
        ((8, 1, 6, 6), (8, 3, 6, 6), False),
        ((8, 5, 6, 6), (8, 3, 6, 6), True),
        ((8, 7, 1), (8, 7, 4), False),
    ],
)
def test_what_could_be_scores_of_classes(output: tuple[int, ...], given: tuple[int, ...], scores: bool):
    class Shaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * torch.ones(output) * x.flatten(1).sum(1).view(-1, *[1] * (len(output) - 1))

    assert pushed(Shaped(), torch.randn(given), may_be_scores) is scores


def test_an_offset_is_measured_without_the_biases_that_are_added_to_the_output():
    meant, fault = last(regressor(0), 50.0), inner(regressor(0))

    assert pushed(meant, vectors(), lambda p: common(p.start, 32)) == pytest.approx(50, rel=0.1)
    assert pushed(meant, vectors(), lambda p: inner_offset(p, 3.0)) < 2
    there = pushed(fault, vectors(), lambda p: common(p.start, 32))
    assert pushed(fault, vectors(), lambda p: inner_offset(p, 3.0)) == pytest.approx(there, rel=0.01)


class Scaled(nn.Module):
    """Ends in a bias, and is multiplied with a number of its own: only the bias is added."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scale, self.shift = (
            regressor(0),
            nn.Parameter(torch.tensor(2.0)),
            nn.Parameter(torch.tensor(9.0)),
        )
        nn.init.constant_(self.body[4].bias, 20.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.body(x) + self.shift


def test_a_scale_of_one_number_is_not_taken_for_a_bias():
    assert pushed(Scaled(), vectors(), lambda p: common(p.start, 32)) == pytest.approx(49, rel=0.1)
    assert pushed(Scaled(), vectors(), lambda p: inner_offset(p, 3.0)) < 3


def test_the_weights_are_put_back():
    model = last(regressor(0))
    before = [p.clone() for p in model.parameters()]

    pushed(model, vectors(), lambda p: inner_offset(p, 3.0))

    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("samples", [1, 2])
def test_of_one_sample_nothing_is_in_common(samples: int):
    assert (common(torch.ones(samples, 3), samples) > 0) is (samples > 1)
