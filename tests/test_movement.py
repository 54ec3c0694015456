"""How far an output moves is compared with what its model is capable of; and models that draw are asked about what they drew."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import check_init


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def dead(model: nn.Module, name: str) -> nn.Module:
    """The same model, with one layer's units shut (or saturated) for all inputs."""
    with torch.no_grad():
        model.get_parameter(name).fill_(-100.0)
    return model


# -- what models draw


class Policy(nn.Module):
    """Samples an action, and returns it with its log-probability, or that alone."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 3))
        self.log_std, self.how = nn.Parameter(torch.zeros(3)), how

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.how == "classes":
            chosen = torch.distributions.Categorical(logits=self.mean(x))
            action = chosen.sample()
            return action, chosen.log_prob(action)
        if self.how == "correlated":
            joint = torch.distributions.MultivariateNormal(self.mean(x), torch.diag(self.log_std.exp()))
            return joint.log_prob(joint.sample())
        if self.how == "beta":
            beta = torch.distributions.Beta(self.mean(x).exp() + 1, self.log_std.exp() + 1)
            return beta.log_prob(beta.sample()).sum(-1)
        normal = torch.distributions.Normal(self.mean(x), self.log_std.exp())
        if self.how == "squashed":
            drawn = normal.rsample()
            return drawn.tanh(), normal.log_prob(drawn).sum(-1)
        action = (normal.mean + normal.stddev * torch.randn(3)).detach() if self.how == "by hand" else normal.sample()
        value = normal.log_prob(action).sum(-1)
        if self.how == "entropy first":
            return action, normal.entropy(), value
        return value if self.how == "log-probability alone" else (action, value)


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        self.decode = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mu, log_var = self.mean(x).chunk(2, -1)
        return self.decode(mu + (0.5 * log_var).exp() * torch.randn_like(mu)), mu, log_var


class Gumbel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.gumbel_softmax(self.mean(x), hard=True))


DRAWING: dict[str, Callable[[], nn.Module]] = {
    **{how: lambda how=how: Policy(how) for how in ("sampled", "by hand", "squashed", "classes", "log-probability alone", "correlated", "beta", "entropy first")},
    "variational": Variational,
    "gumbel": Gumbel,
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWING)
def test_what_draws_and_trains_is_healthy(name: str):
    report = check_init(DRAWING[name], numbers(32, 16))
    assert report.ok, report.findings


@pytest.mark.parametrize(
    "name", [n if i < 3 else pytest.param(n, marks=pytest.mark.slow) for i, n in enumerate(DRAWING)]
)
def test_what_draws_whatever_comes_in_is_not(name: str):
    report = check_init(lambda: dead(DRAWING[name](), "mean.0.bias"), numbers(32, 16))
    assert {"unresponsive", "input-blind"} & {f.rule for f in report.findings if f.severity == "error"}, report.findings


# -- few weights


class Shared(nn.Module):
    """One probability for all samples of a batch, shared out among them."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.score(x).softmax(0)


def sigmoids(*widths: int) -> list[nn.Module]:
    return [m for one, other in pairwise(widths) for m in (nn.Linear(one, other), nn.Sigmoid())]


NARROW: dict[str, tuple[Callable[[], nn.Module], Tensor, str]] = {
    "lstm": (lambda: nn.LSTM(2, 2, 2, batch_first=True), numbers(16, 5, 2), "bias_ih_l0"),
    "gru": (lambda: nn.GRU(1, 3, batch_first=True), numbers(16, 8, 1), ""),
    "sigmoid": (lambda: nn.Sequential(nn.Linear(2, 8), nn.Sigmoid(), nn.Linear(8, 1), nn.Sigmoid()), numbers(32, 2), "0.bias"),
    "sigmoids": (lambda: nn.Sequential(*sigmoids(2, 4, 4, 1)), numbers(64, 2), "2.bias"),
    "tanh": (lambda: nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)), numbers(64, 1), "0.bias"),
    "relu": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), numbers(64, 4), "0.bias"),
    "logistic": (lambda: nn.Sequential(nn.Linear(3, 1), nn.Sigmoid()), numbers(256, 3), "0.bias"),
    "shared": (Shared, numbers(64, 16), "score.0.bias"),
}  # fmt: skip


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.seeds(3)
def test_narrow_models_move_less_and_train(name: str, seed: int):
    factory, inputs, _ = NARROW[name]
    report = check_init(factory, inputs, seed=seed)
    assert report.ok, report.findings


@pytest.mark.always("relu", "tanh", "sigmoid", "logistic", "lstm")
@pytest.mark.parametrize("name", [n for n, (_, _, shut) in NARROW.items() if shut])
def test_narrow_models_that_are_dead_are_found(name: str):
    factory, inputs, shut = NARROW[name]
    report = check_init(lambda: dead(factory(), shut), inputs)
    assert "unresponsive" in {f.rule for f in report.findings if f.severity == "error"}, report.findings


@pytest.mark.always("sigmoids")
@pytest.mark.parametrize("name", ["lstm", "sigmoids"])
def test_narrow_models_whose_weights_are_tiny_are_found(name: str):
    def tiny() -> nn.Module:
        model = NARROW[name][0]()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1e-4)
        return model

    report = check_init(tiny, NARROW[name][1])
    assert not report.ok, report.response
