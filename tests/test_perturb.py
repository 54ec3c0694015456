"""A probed model that is pushed: run again as it was, disturbed by so much and no more, and put back."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from pytest_initcheck import check_init
from pytest_initcheck.response.perturb import Push, rms

Pushed = Callable[..., Push]
X = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
Pair = namedtuple("Pair", "left right")


class Same(nn.Module):
    """Returns its input, of which ``pick`` takes a part, once its one weight is 1."""

    def __init__(self, pick: Callable[..., Tensor] = lambda x: x) -> None:
        super().__init__()
        self.one, self._pick = nn.Parameter(torch.ones(1)), pick

    def forward(self, *args: object) -> Tensor:
        return self._pick(*args) * self.one


def test_a_further_pass_returns_what_the_probe_saw(pushed: Pushed):
    push = pushed(nn.Sequential(nn.Linear(32, 16), nn.Dropout(), nn.BatchNorm1d(16)), X)

    again = push.forward(graph=False)[0]

    assert torch.equal(again, push.start)
    assert push.forward(graph=True)[0].requires_grad
    assert not again.requires_grad


def test_parameters_are_put_back(pushed: Pushed):
    push = pushed(nn.Linear(32, 4), X)
    before = {n: p.detach().clone() for n, p in push.parameters.items()}

    for p in push.parameters.values():
        p.data.fill_(7.0)
    push.restore()

    assert all(torch.equal(p, before[n]) for n, p in push.parameters.items())


@pytest.mark.parametrize("size", [1e-3, 1e-2, 0.1])
def test_floating_inputs_are_disturbed_by_a_share_of_their_size(pushed: Pushed, size: float):
    push = pushed(Same(), 5 * X)

    assert push.disturbed is not None
    with torch.no_grad():
        change = push.disturbed(size)[0] - push.start

    assert rms(change) == pytest.approx(size * rms(push.start), rel=0.05)
    assert torch.equal(push.forward(graph=False)[0], push.start)


def test_a_disturbance_is_the_same_each_time_and_another_for_another_seed(pushed: Pushed):
    one, same, other = (pushed(Same(), X, seed=seed) for seed in (0, 0, 1))

    with torch.no_grad():
        a, b, c = (p.disturbed(0.1)[0] for p in (one, same, other) if p.disturbed is not None)

    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("inputs", "pick"),
    [
        ((Pair(X, -X), {}), lambda x: x.left),
        ((OrderedDict(x=X), {}), lambda x: x["x"]),
        ((UserDict(x=X), {}), lambda x: x["x"]),
        ((MappingProxyType({"x": X}), {}), lambda x: x["x"]),
        (({"deep": [(X,)]}, {}), lambda x: x["deep"][0][0]),
        (
            (pack_padded_sequence(X.view(4, 16, 32), torch.tensor([16, 9, 9, 3]), batch_first=True), {}),
            lambda x: x.data,
        ),
    ],
    ids=["namedtuple", "OrderedDict", "UserDict", "read-only", "nested", "PackedSequence"],
)
def test_inputs_are_disturbed_in_whatever_they_come(pushed: Pushed, inputs: object, pick: Callable[..., Tensor]):
    push = pushed(Same(pick), inputs)

    assert push.disturbed is not None
    with torch.no_grad():
        change = push.disturbed(0.1)[0] - push.start

    assert rms(change) == pytest.approx(0.1 * rms(push.start), rel=0.1)


class Reads(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.fc, self._kind = nn.Linear(32, 4), kind

    def forward(self, batch: object) -> Tensor:
        assert isinstance(batch, self._kind)
        return self.fc(batch.left if isinstance(batch, Pair) else batch["x"])


@pytest.mark.parametrize("batch", [Pair(X, -X), OrderedDict(x=X)], ids=["namedtuple", "OrderedDict"])
def test_a_model_that_hears_its_inputs_is_not_called_blind_for_their_container(batch: object):
    report = check_init(Reads(type(batch)), (batch, {}))

    assert report.response.sensitivity == pytest.approx(1.0, rel=0.3)
    assert report.findings == ()


def test_a_mask_of_two_values_is_no_signal_and_stays_as_it_is(pushed: Pushed):
    mask = (X > 0).float()
    push = pushed(Same(lambda x, m: torch.cat([x, m], -1)), (X, mask))

    assert push.disturbed is not None
    with torch.no_grad():
        moved = push.disturbed(0.1)[0]

    assert torch.equal(moved[:, 32:], mask)
    assert not torch.equal(moved[:, :32], X)


@pytest.mark.parametrize("x", [(X > 0).float(), torch.ones(64, 32), torch.full((64, 32), float("inf"))])
def test_where_no_input_is_a_signal_nothing_is_disturbed(pushed: Pushed, x: Tensor):
    assert pushed(Same(), x).disturbed is None


def test_ids_are_disturbed_behind_what_looks_them_up(pushed: Pushed):
    model = nn.Sequential(nn.Embedding(20, 32), Same())
    push = pushed(model, torch.arange(20).repeat(4, 1))

    assert push.disturbed is not None
    with torch.no_grad():
        change = push.disturbed(0.1)[0] - push.start

    assert rms(change) == pytest.approx(0.1 * rms(push.start), rel=0.05)
    assert torch.equal(push.forward(graph=False)[0], push.start)


def test_the_root_mean_square_of_nothing_is_zero():
    assert rms(torch.empty(0)) == 0.0
    assert rms(torch.tensor([3.0, -4.0])) == pytest.approx(12.5**0.5)
