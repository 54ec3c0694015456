"""Scale against size: what drifts is told from what does not, by exponents that theory gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import ProbeError, SettingsError, UnstableScaling, assert_stable_scaling, check_scaling

WIDTHS = {"width": [64, 128, 256, 512]}
DEPTHS = {"depth": [4, 8, 16, 32]}


def mlp(width: int) -> nn.Sequential:
    model = nn.Sequential(
        nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
    )
    model.append(nn.Linear(width, 4))
    for layer in model[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return model


def mup(width: int) -> nn.Sequential:
    model = mlp(width)
    nn.init.normal_(model[6].weight, std=8 / width)
    return model


def mup_adam(model: nn.Module) -> torch.optim.Optimizer:
    assert isinstance(model, nn.Sequential)
    hidden = [model[i].weight for i in (2, 4, 6)]
    rest = [model[0].weight, *(model[i].bias for i in (0, 2, 4, 6))]
    width = model[0].out_features
    return torch.optim.Adam([{"params": hidden, "lr": 1e-4 * 64 / width}, {"params": rest}], lr=1e-4)


class Stream(nn.Module):
    """A residual stream whose branches are scaled by a power of the depth."""

    def __init__(self, depth: int, power: float) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(16, 64), nn.Linear(64, 4)
        self.branches = nn.ModuleList(nn.Linear(64, 64) for _ in range(depth))
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=1 / 8)
        self.scale = depth**power

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = x + self.scale * torch.tanh(branch(x))
        return self.head(x)


def exponent(report, layer: str, quantity: str) -> float:
    return next(d.exponent for d in report.drifts if (d.layer, d.quantity) == (layer, quantity))


def test_the_standard_parametrization_is_stable_at_the_start_and_its_updates_grow():
    report = check_scaling(mlp, WIDTHS, "64x16")

    assert {d.quantity for d in report.unstable} == {"update"}
    assert {"2", "4"} <= {d.layer for d in report.unstable}
    assert exponent(report, "2", "update") == pytest.approx(1, abs=0.15)  # Yang et al. 2021: linear in the width
    assert exponent(report, "2", "activation") == pytest.approx(0, abs=0.1)


def test_mup_is_stable():
    report = assert_stable_scaling(mup, WIDTHS, "64x16", optimizer=mup_adam)

    assert report.ok
    assert str(report).startswith("stable over width 64 to 512: 8 scales within the allowance\n")


def test_a_fixed_std_grows_as_the_root_of_the_width_from_its_layer_on():
    def fixed(width: int) -> nn.Sequential:
        model = mlp(width)
        nn.init.normal_(model[2].weight, std=0.1)
        return model

    with pytest.raises(UnstableScaling) as failure:
        assert_stable_scaling(fixed, WIDTHS, "64x16", steps=0)

    assert str(failure.value).startswith("3 of 4 scales drift with width: 2 activation goes as width^+0.5")
    assert failure.value.report.unstable[0].exponent == pytest.approx(0.5, abs=0.06)


def test_a_residual_stream_grows_with_depth_unless_it_is_scaled():
    grows = check_scaling(lambda depth: Stream(depth, 0), DEPTHS, "64x16", steps=0)
    scaled = check_scaling(lambda depth: Stream(depth, -0.5), DEPTHS, "64x16", steps=0)

    assert exponent(grows, "output", "activation") == pytest.approx(0.5, abs=0.2)
    assert not grows.ok
    assert scaled.ok, str(scaled)


@pytest.mark.slow
def test_stable_whatever_the_seeds():
    for shift in range(20):

        def make(width: int, shift: int = shift) -> nn.Sequential:
            torch.manual_seed(torch.initial_seed() + 1000 * shift)
            return mup(width)

        assert_stable_scaling(make, WIDTHS, "64x16", optimizer=mup_adam)


def test_the_same_again_and_nothing_of_the_users_changes():
    models: list[nn.Module] = []

    def make(width: int) -> nn.Module:
        models.append(nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.Dropout(), nn.Linear(width, 2)))
        return models[-1]

    state = torch.get_rng_state()
    one = check_scaling(make, {"width": [8, 16, 32]}, "32x8", seeds=2)
    models[0].weights = {n: p.clone() for n, p in models[0].state_dict().items()}
    other = check_scaling(make, {"width": [8, 16, 32]}, "32x8", seeds=2)

    assert one == other
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in models[0].parameters())
    assert float(models[0][1].running_mean.abs().sum()) == 0


def test_what_is_zero_is_said_and_not_fitted():
    def make(width: int) -> nn.Module:
        model = mlp(width)
        nn.init.zeros_(model[6].weight)
        return model

    report = check_scaling(make, WIDTHS, "64x16", steps=0)

    assert report.skipped == ("output activation: zero at width 64",)
    assert "not fitted: output activation: zero at width 64" in str(report)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"over": {"width": [1, 2]}}, "over['width'] must have at least three different sizes above 0 (got [1, 2])"),
        ({"over": [64, 128]}, "over must name one keyword of make and its sizes"),
        ({"over": {"a": [1, 2, 3], "b": [1, 2, 3]}}, "over must name one keyword of make and its sizes"),
        ({"seeds": 1}, "seeds must be a whole number of at least 2 (got 1)"),
        ({"steps": -1}, "steps must be a whole number of at least 0 (got -1)"),
        ({"tolerance": 0}, "tolerance must be above 0"),
        ({"make": lambda width: 3}, "make must return an nn.Module (it returned int)"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict, sentence: str):
    given = {"make": mlp, "over": WIDTHS, "inputs": "4x16"} | arguments

    with pytest.raises(SettingsError) as failure:
        check_scaling(given.pop("make"), given.pop("over"), given.pop("inputs"), **given)

    assert sentence in str(failure.value)


def test_a_forward_that_raises_is_one_sentence():
    with pytest.raises(ProbeError, match=r"^forward of Sequential raised RuntimeError: mat1 and mat2"):
        check_scaling(mlp, WIDTHS, torch.randn(4, 15))
    with pytest.raises(ProbeError, match=r"^make\(depth=4\) raised TypeError: .*unexpected keyword argument 'depth'"):
        check_scaling(mlp, DEPTHS, torch.randn(4, 16))


def test_the_plot_has_a_panel_for_each_quantity():
    pytest.importorskip("matplotlib")
    report = check_scaling(mlp, {"width": [8, 16, 32]}, "8x16", seeds=2)

    figure = report.plot()

    assert [a.get_title().partition(":")[0] for a in figure.axes] == ["activation", "update"]
    assert math.isclose(len(figure.axes[0].lines), 4)
