"""An output that starts far from zero: a fault where earlier layers put it there, and meant where a bias of the last one does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import check_init
from pytest_initcheck.models.inputs import resolve_inputs
from pytest_initcheck.probing.guard import untouched
from pytest_initcheck.probing.probe import run_probe
from pytest_initcheck.race.tasks import asked, may_be_scores
from pytest_initcheck.report import Report
from pytest_initcheck.response.offset import common, starting
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


def pushed(model: nn.Module, inputs: Tensor, look: Callable[[Push], Any]) -> Any:
    call = resolve_inputs(model, inputs)
    with untouched(model) as guard:
        return look(push_of(run_probe(model, call, guard=guard), guard))


def severities(report: Report, rule: str) -> list[str]:
    return [f.severity for f in report.findings if f.rule == rule]


@pytest.mark.parametrize(("outputs", "around"), [(1, True), (4, False)])
def test_only_what_could_not_be_scores_is_asked_to_start_around_zero(outputs: int, around: bool):
    names = pushed(inner(regressor(0, outputs)), vectors(), lambda p: [task.name for task in asked(p).first])

    assert ("smooth functions of the input around zero" in names) is around


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


class Called(nn.Module):
    """``forward`` as a test writes it."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Any], *bias: float, **parts: Any) -> None:
        super().__init__()
        self.body = regressor(0, outputs=len(bias))
        for name, part in parts.items():
            setattr(self, name, part)
        with torch.no_grad():
            self.body[4].bias.copy_(torch.tensor(bias))
            self.body[4].weight.mul_(0.1)
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


MEANT = {
    "a mean of the targets": Called(lambda m, x: m.body(x), 50.0),
    "the logarithm of a rate": Called(lambda m, x: m.body(x).squeeze(1).exp(), 2.5),
    "softplus": Called(lambda m, x: nn.functional.softplus(m.body(x)), 20.0),
    "relu": Called(lambda m, x: m.body(x).relu(), 20.0),
    "two outputs of one layer": Called(lambda m, x: tuple(m.body(x).unbind(1)), 20.0, 0.0),
    "a scale behind it": Called(lambda m, x: m.body(x) * 4.0, 20.0),
    "a scale that is trained": Called(
        lambda m, x: m.scale * m.body(x), 20.0, scale=nn.Parameter(torch.full((1,), 3.0))
    ),
    "a shift behind it": Called(lambda m, x: m.body(x) + m.shift, 0.0, shift=nn.Parameter(torch.full((1,), 30.0))),
    "experts": Called(lambda m, x: (m.body(x) * m.gate(x).softmax(1)).sum(1), 20.0, 20.0, 20.0, gate=nn.Linear(16, 3)),
    "a residual": Called(lambda m, x: m.body(x) + m.other(x), 30.0, other=nn.Linear(16, 1)),
    "a norm": Called(lambda m, x: m.norm(m.body(x))[:, :1], 0.0, 0.0, norm=nn.LayerNorm(2)),
}
nn.init.constant_(MEANT["a norm"].norm.bias, 30.0)


class Energies(nn.Module):
    """Atoms of one molecule at other places each time: reference energies of the species, and what a network adds."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.reference = regressor(0), nn.Embedding(4, 1)
        nn.init.constant_(self.reference.weight, -13.6)
        with torch.no_grad():
            self.body[4].weight.mul_(0.1)
        self.register_buffer("species", torch.arange(8) % 4)

    def forward(self, x: Tensor) -> Tensor:
        atoms = x[:, None] + self.species[:, None].to(x.dtype) / 8
        return (self.body(atoms) + self.reference(self.species.expand(len(x), -1))).sum(1)


class MeanImage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean = nn.Conv2d(1, 1, 3, padding=1), nn.Parameter(torch.full((4, 4), 20.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.view(-1, 1, 4, 4)) + self.mean


MEANT |= {"reference energies": Energies(), "a mean image": MeanImage()}
MEANT["and little else"] = Called(lambda m, x: 8.0 + m.body(x), 100.0)


@pytest.mark.parametrize("name", MEANT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_behind_the_last_weights_is_meant(name: str, dtype: torch.dtype):
    model, inputs = copy.deepcopy(MEANT[name]).to(dtype), vectors().to(dtype)

    assert pushed(model, inputs, lambda p: common(p.start.float(), 32)) > 5
    assert pushed(model, inputs, lambda p: starting(p, 5.0)) == "meant"
    assert "outperformed" not in [f.rule for f in check_init(model, inputs).findings]


FAULTY = {
    "an inner bias": lambda: inner(regressor(0)),
    "and a scale behind the last layer": lambda: Called(
        lambda m, x: m.scale * inner(m.body)(x), 0.0, scale=nn.Parameter(torch.full((1,), 10.0))
    ),
    "through a normed weight": lambda: weight_normed(inner(regressor(0))),
    "the scale of a norm": lambda: Called(
        lambda m, x: 40.0 * m.norm(m.body(x))[:, :1], 1.0, -1.0, norm=nn.LayerNorm(2)
    ),
}


def weight_normed(model: Model) -> Model:
    nn.utils.parametrizations.weight_norm(model[4])
    return model


def test_a_start_that_is_meant_is_not_held_against_a_model_that_is_accused():
    """A weak network is cleared by what it learns, whatever the mean of its targets."""

    def offered(mean: float) -> list[str]:
        model = regressor(0)
        nn.init.constant_(model[4].bias, mean)
        return pushed(model, vectors(), lambda p: [task.name for task in asked(p, accused=True).first])

    assert offered(0.0) == ["smooth functions of the input around zero"]
    assert offered(-4.6) == offered(50.0) == ["smooth functions of the input"]


@pytest.mark.parametrize("name", FAULTY)
def test_what_earlier_layers_make_is_not(name: str):
    assert pushed(FAULTY[name](), vectors(), lambda p: starting(p, 5.0)) == "away"


def test_what_samples_have_in_common_is_not_what_varies():
    varying = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))

    assert common(varying, 4) < 0.2
    assert common(varying + 3.0, 4) == pytest.approx(3.0, rel=0.05)
    assert common(varying, None) == 0.0


class Shifted(nn.Module):
    """Ends in a constant that nobody can train away."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.body = regressor(seed)
        self.register_buffer("mean", torch.tensor(50.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.mean


@pytest.mark.seeds(3)
def test_a_constant_that_no_start_changes_is_not_asked_for(seed: int):
    model = Shifted(seed)
    with torch.no_grad():
        model.body[0].weight.mul_(0.1)  # a doubt

    report = check_init(model, vectors())

    assert report.ok
    assert report.race is not None
    assert [h.task for h in report.race.heats] == ["smooth functions of the input"]


def test_the_weights_are_put_back():
    model = last(regressor(0))
    before = [p.clone() for p in model.parameters()]

    pushed(model, vectors(), lambda p: starting(p, 5.0))

    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("samples", [1, 2])
def test_of_one_sample_nothing_is_in_common(samples: int):
    assert (common(torch.ones(samples, 3), samples) > 0) is (samples > 1)
