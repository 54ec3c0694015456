"""A number that is not finite has a maker: the operation and what it was given; NaN that was computed is no unwritten memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pytest_initcheck import Finding, check_init

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))


class Through(nn.Module):
    """fc2(f(fc1(x))), with ``f`` in a module of its own."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.middle, self.fc2 = nn.Linear(8, 8), Calls(f), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.middle(self.fc1(x)))


class Calls(nn.Module):
    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


def first_error(model: object) -> Finding:
    return next(f for f in check_init(model, X).findings if f.severity == "error")


MAKERS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "log": (lambda h: torch.log(h), "log of a negative number"),
    "log of zero": (lambda h: torch.log(h.relu()), "log of zero"),
    "sqrt": (lambda h: h.sqrt(), "sqrt of a negative number"),
    "rsqrt": (lambda h: h.rsqrt(), "rsqrt of a negative number"),
    "power": (lambda h: h**0.5, "a negative number|sqrt of a negative number"),
    "zero to a negative power": (lambda h: h.relu() ** -1.5, "zero to the power of -1.5"),
    "division by zero": (lambda h: h / h.relu(), "division by zero"),
    "0 / 0": (lambda h: h.relu() / h.relu(), "0 / 0"),
    "reciprocal": (lambda h: 1 / h.relu(), "division by zero"),
    "exp": (lambda h: torch.exp(1000 * h), "exp overflows float32 at "),
    "acos": (lambda h: torch.acos(10 * h), r"acos of a number outside \[-1, 1\]"),
    "atanh": (lambda h: torch.atanh(10 * h), r"atanh of a number outside \[-1, 1\]"),
    "all masked": (lambda h: (h + torch.full((8,), -torch.inf)).softmax(-1), "masked"),
    "inf - inf": (lambda h: torch.full((8,), torch.inf) * h.square() - torch.inf, "inf - inf"),
    "std of one": (lambda h: h / h[:, :1].std(1, keepdim=True), "std over a single element"),
    "mean of nothing": (lambda h: h - h[:, 8:].mean(1, keepdim=True), "mean over no elements"),
}


@pytest.mark.filterwarnings("ignore:.*degrees of freedom.*:UserWarning")
@pytest.mark.parametrize("name", MAKERS)
def test_the_first_operation_is_named_with_what_it_was_given(name: str) -> None:
    f, words = MAKERS[name]

    finding = first_error(Through(f))

    assert finding.rule == "non-finite-activation"
    assert finding.layers[0] == "middle"
    assert any(w in finding.cause or w.replace("\\", "") in finding.cause for w in words.split("|")), finding.cause


TWINS: dict[str, Callable[[Tensor], Tensor]] = {
    "log": lambda h: torch.log(h.abs() + 0.1),
    "division": lambda h: h / (h.relu() + 0.1),
    "masked attention": lambda h: h.masked_fill(torch.arange(8) > 3, -torch.inf).softmax(-1) * h,
    "log of zero that a softmax takes": lambda h: (h + torch.log((torch.arange(8) < 4).float())).softmax(-1) * h,
}


@pytest.mark.parametrize("name", TWINS)
def test_what_stays_finite_or_is_a_mask_is_healthy(name: str) -> None:
    assert check_init(Through(TWINS[name]), X).ok


def test_an_infinity_that_a_mask_wrote_is_not_blamed_for_a_later_nan() -> None:
    finding = first_error(
        Through(lambda h: torch.log(h.masked_fill(torch.arange(8) > 3, -torch.inf).softmax(-1)[:, :4] - 2).repeat(1, 2))
    )

    assert "log of a negative number" in finding.cause


def test_an_overflow_keeps_the_layer_and_the_growth() -> None:
    layers = [nn.Linear(8, 8) for _ in range(30)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=100.0)

    finding = first_error(nn.Sequential(*layers))

    assert "overflows float32; the signal grew" in finding.cause


SINGULAR: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "sqrt": (lambda h: h + (0 * h).square().sum(-1, keepdim=True).sqrt(), "sqrt is infinite at 0"),
    "power": (lambda h: h + (0 * h).square() ** 0.3, "a power below 1 is infinite at 0"),
    "acos": (lambda h: h + torch.acos(1 + 0 * h), "acos is infinite at -1 and 1"),
}


@pytest.mark.parametrize("name", SINGULAR)
def test_a_derivative_that_is_not_finite_is_named(name: str) -> None:
    f, words = SINGULAR[name]

    finding = first_error(Through(f))

    assert finding.rule == "non-finite-gradient"
    assert words in finding.cause


class Held(nn.Module):
    def __init__(self, values: Callable[[], Tensor]) -> None:
        super().__init__()
        self.fc, self.scale = nn.Linear(8, 4), nn.Parameter(values())

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.scale


@pytest.mark.parametrize(
    "values",
    [
        lambda: torch.log(torch.full((4,), -1.0)),
        lambda: torch.zeros(4) / torch.zeros(4),
        lambda: torch.empty(0).mean().expand(4).clone(),
        lambda: torch.full((4,), float("nan")),
    ],
    ids=["log", "0 / 0", "mean of nothing", "nan"],
)
def test_nan_that_was_computed_is_not_called_unwritten(values: Callable[[], Tensor]) -> None:
    assert [f.rule for f in check_init(lambda: Held(values), X).findings if f.layers[:1] == ("scale",)][:1] == [
        "non-finite-parameter"
    ]


@pytest.mark.parametrize(
    "values",
    [lambda: torch.empty(4), lambda: torch.Tensor(4), lambda: torch.empty(4) * 0.1],
    ids=["empty", "Tensor", "scaled"],
)
def test_memory_that_was_left_is_called_unwritten(values: Callable[[], Tensor]) -> None:
    assert first_error(lambda: Held(values)).rule == "uninitialized-parameter"


@pytest.mark.parametrize("largest", [1e20, 3.0])
def test_garbage_that_weight_norm_divides_away_is_found_in_the_direction(largest: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(weight_norm(nn.Linear(6, 16)), nn.ReLU(), nn.Linear(16, 2))
    with torch.no_grad():
        model[0].parametrizations.weight.original1.mul_(largest)

    found = [f.layers[0] for f in check_init(model, "8x6").findings if f.rule == "uninitialized-parameter"]

    assert found == (["0.parametrizations.weight.original1"] if largest == 1e20 else [])
