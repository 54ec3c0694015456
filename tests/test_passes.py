"""How often a check runs a model: once or twice forward and once backward where all is plainly well, more where a question is open."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import check_init, thresholds

FILE = Path(__file__).parent / "benchmarks" / "cost.py"


@pytest.fixture(scope="module")
def cost() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cost_benchmark", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def ids(*shape: int) -> Tensor:
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(0))


def multilayer() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))


class Waves(nn.Module):
    """Sines of a frequency: an output that follows its input that many times."""

    def __init__(self, frequency: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.frequency = nn.Linear(32, 64), nn.Linear(64, 8), frequency

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.sin(self.frequency * self.first(x)))
        return out


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    block = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*block, nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.GRU(16, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


class Encoder(nn.Module):
    """Attention written out, over ids."""

    def __init__(self, along: int = -1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.qkv, self.head, self.along = nn.Embedding(50, 32), nn.Linear(32, 96), nn.Linear(32, 50), along

    def forward(self, ids: Tensor) -> Tensor:
        b, t = ids.shape
        q, k, v = (y.view(b, t, 4, 8).transpose(1, 2) for y in self.qkv(self.table(ids)).chunk(3, -1))
        y = ((q @ k.transpose(-1, -2)) / 8**0.5).softmax(self.along) @ v
        out: Tensor = self.head(y.transpose(1, 2).reshape(b, t, 32))
        return out


PLAIN: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "multilayer": (multilayer, numbers(16, 32)),
    "convolutional": (convolutional, numbers(8, 3, 16, 16)),
    "recurrent": (Recurrent, numbers(8, 10, 16)),
    "attention over ids": (Encoder, ids(8, 6)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plainly_healthy_model_runs_twice_forward_and_once_backward(cost: ModuleType, name: str):
    build, inputs = PLAIN[name]
    assert check_init(build(), inputs).findings == ()
    assert cost.passes(cost.check, build(), inputs) == (2, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # What a step moves the output by is read off its gradient.
        ("transformer", (1, 1)),
        # Chaotic as batch norms make it at the start, and by far: its slope says so.
        ("resnet50", (1, 1)),
        # Its gates are shut: what stands behind them is asked by another backward pass.
        ("resnet50 zero-gamma", (2, 2)),
    ],
)
def test_so_do_the_networks_of_the_benchmark(cost: ModuleType, name: str, expected: tuple[int, int]):
    torch.manual_seed(0)
    if name == "transformer":
        model, inputs = cost.Transformer(vocabulary=50, width=64, layers=2, tokens=16), ids(4, 16)
    else:
        model, inputs = cost.CASES[name][0](), numbers(4, 3, 64, 64)
    assert cost.passes(cost.check, model, inputs) == expected


def test_what_is_near_a_bound_is_asked_by_passes_of_its_own(cost: ModuleType):
    # Samples that read each other are exchanged, and the exchange is asked again with the norms kept.
    assert cost.passes(cost.check, Encoder(along=0), ids(8, 6))[0] > 2
    # What the gradient says of the inputs is tried where it comes near to chaos.
    calm, near = (check_init(Waves(frequency), numbers(16, 32)).response for frequency in (1.0, 30.0))
    assert (calm.disturbance, near.disturbance) == (0.0, thresholds.DISTURBANCE)
    assert cost.passes(cost.check, Waves(30.0), numbers(16, 32))[0] > 2


def test_a_loss_costs_no_pass_for_the_loss_of_zeros(cost: ModuleType):
    def with_loss(model: nn.Module, inputs: Tensor) -> None:
        check_init(model, inputs, loss=lambda y: y.square().mean())

    # One direction is pulled back then, and not a random one: inputs are disturbed in earnest.
    assert cost.passes(with_loss, multilayer(), numbers(16, 32)) == (3, 1)
