"""What a step does is read off the gradient only where the step, made, would say no less."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import check_init, thresholds
from pytest_initcheck.records import Response
from pytest_initcheck.response import ask
from pytest_initcheck.response.foretold import l1_norm


class Residual(nn.Module):
    """Blocks of width 256 behind norms, around which the signal passes."""

    def __init__(self, depth: int = 4, width: int = 256) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(32, width), nn.Linear(width, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU()) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        out: Tensor = self.last(x)
        return out


class Chaotic(nn.Module):
    """Batch norms without shortcuts: near inputs part from layer to layer, whatever the scale of the weights."""

    def __init__(self, depth: int = 30, width: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.Linear(width if i else 32, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        self.layers, self.last = nn.Sequential(*layers), nn.Linear(width, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.layers(x))
        return out


class Straight(torch.autograd.Function):
    """Its gradient is not its slope."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


class Rounded(Residual):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(Straight.apply(self.blocks[0](self.first(x)))) * 0.1
        return out


class Two(Residual):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), self.first(x)


def built(kind: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return kind()


def numbers(seed: int = 0) -> Tensor:
    return torch.randn(16, 32, generator=torch.Generator().manual_seed(seed))


def stepped(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Response:
    """The response with a step that is made in any case."""
    with monkeypatch.context() as patch:
        patch.setattr(ask, "foretold", lambda *_: None)
        return check_init(model, numbers(1)).response


@pytest.mark.seeds(5)
@pytest.mark.parametrize("kind", [Residual, Chaotic])
def test_a_step_that_is_made_moves_the_output_by_no_less(
    kind: Callable[[], nn.Module], seed: int, monkeypatch: pytest.MonkeyPatch
):
    told = check_init(built(kind, seed), numbers(1))
    made = stepped(built(kind, seed), monkeypatch)

    assert told.ok
    assert told.response.foretold
    assert not made.foretold
    assert thresholds.FORETOLD[0] <= told.response.movement[0] <= 1.05 * made.movement[0]


def _silent(model: Residual) -> None:
    for block in model.blocks:
        nn.init.zeros_(block[1].weight)  # type: ignore[index]
    nn.init.constant_(model.last.weight, 1e-9)
    nn.init.constant_(model.first.weight, 1e-9)


def _loud(model: Residual) -> None:
    with torch.no_grad():
        model.blocks[1][1].weight.mul_(30)  # type: ignore[index]


def _far(model: Residual) -> None:
    nn.init.constant_(model.last.bias, 20.0)


def _gated(model: Residual) -> None:
    nn.init.zeros_(model.last.weight)


@pytest.mark.parametrize("fault", [_silent, _loud, _far, _gated])
def test_where_anything_is_off_the_step_is_made(fault: Callable[[Residual], None]):
    model = built(Residual, 0)
    assert check_init(model, numbers(1)).response.foretold
    fault(model)

    assert not check_init(model, numbers(1)).response.foretold


@pytest.mark.parametrize("kind", [Rounded, Two])
def test_what_is_no_slope_of_one_output_tells_nothing(kind: Callable[[], nn.Module]):
    assert not check_init(built(kind, 0), numbers(1)).response.foretold


def test_a_loss_has_the_step_made():
    assert not check_init(built(Residual, 0), numbers(1), loss=lambda y: y.square().mean()).response.foretold


@pytest.mark.parametrize("rows", [16, 4096])
def test_of_a_table_of_which_few_rows_were_looked_up_all_is_read(rows: int):
    gradient = torch.zeros(4096, 64)
    gradient[torch.randperm(4096, generator=torch.Generator().manual_seed(0))[:rows]] = torch.randn(
        rows, 64, generator=torch.Generator().manual_seed(1)
    )

    assert l1_norm(gradient) == pytest.approx(float(gradient.abs().sum()), rel=1e-5 if rows < 4096 else 0.03)


def test_what_is_shown_says_that_it_is_the_least():
    report = check_init(built(Residual, 0), numbers(1))

    moved = f"{report.response.movement[0]:.2g}"
    assert f"a step moves {moved} at least" in str(report)
