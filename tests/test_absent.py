"""Absent is not cut: experts without tokens, layers that were dropped, and pairs that nothing can open."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import Finding, check_init

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
X[:, 0].clamp_(max=0.9)


class Experts(nn.Module):
    """Tokens go to the expert that the sign pattern of the input picks; the last expert gets none of ``X``."""

    def __init__(self, *, dense: bool, cut: bool = False) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(8, 4) for _ in range(3))
        self.dense, self.cut = dense, cut

    def forward(self, x: Tensor) -> Tensor:
        route = torch.where(x[:, 0] > 0, 0, 1)
        route = torch.where(x[:, 0] > 0.95, 2, route)
        out = x.new_zeros(len(x), 4)
        for i, expert in enumerate(self.experts):
            if self.dense:
                y = expert(x) * (route == i).unsqueeze(1)
                out = out + (y.detach() if self.cut and i == 1 else y)
            else:
                out = out.index_add(0, (where := (route == i).nonzero()[:, 0]), expert(x[where]))
        return out


class Dropped(nn.Module):
    """Each layer is skipped half of the time."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.head, self.drop = nn.Linear(8, 4), drop

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x)
        for layer in self.layers:
            if not (self.training and torch.rand(()) < self.drop):
                h = h + layer(x).tanh()
        return self.head(h) + torch.rand(len(x), 1)


class Adapted(nn.Module):
    """A frozen weight, and a low-rank pair that is trained."""

    def __init__(self, down: float, up: float) -> None:
        super().__init__()
        self.base = nn.Linear(8, 8).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, 8) * down), nn.Parameter(torch.randn(8, 2) * up)

    def forward(self, x: Tensor) -> Tensor:
        return (self.base(x) + x @ self.down.T @ self.up.T).relu()


class OffsetCut(nn.Module):
    def __init__(self, *, weight: bool) -> None:
        super().__init__()
        self.w, self.b, self.cut = nn.Parameter(torch.randn(8, 4) / 3), nn.Parameter(torch.ones(4)), weight

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.w.detach() if self.cut else self.w) + (self.b if self.cut else self.b.detach())


def findings(model: nn.Module, seed: int = 0) -> list[Finding]:
    return [
        f for f in check_init(model, X, seed=seed).findings if f.severity != "note" and f.rule != "frozen-parameter"
    ]


@pytest.mark.parametrize("dense", [False, True])
def test_an_expert_that_no_sample_was_sent_to_is_no_fault(dense: bool) -> None:
    torch.manual_seed(0)

    assert findings(Experts(dense=dense)) == []


def test_an_expert_whose_gradient_is_cut_is_one() -> None:
    torch.manual_seed(0)

    assert [(f.rule, f.layers[0]) for f in findings(Experts(dense=True, cut=True))][:1] == [
        ("no-gradient", "experts.1.weight")
    ]


@pytest.mark.always("0", "1")
@pytest.mark.parametrize("seed", range(8))
def test_layers_that_were_dropped_are_no_fault_also_where_it_was_all_of_them(seed: int) -> None:
    torch.manual_seed(0)

    assert findings(Dropped(0.6), seed) == []


def test_a_model_that_always_drops_everything_does_not_hear_its_input() -> None:
    torch.manual_seed(0)

    assert [f.severity for f in findings(Dropped(1.1))][:1] == ["error"]


@pytest.mark.parametrize("head", [False, True])
def test_low_rank_pairs_of_zeros_on_a_frozen_base_can_never_train(head: bool) -> None:
    torch.manual_seed(0)
    layers = [Adapted(0.0, 0.0) for _ in range(3)]

    found = findings(nn.Sequential(*layers, nn.Linear(8, 4).requires_grad_(head)))

    assert ("error", "blocked-gradient", "0.down") in [(f.severity, f.rule, f.layers[0]) for f in found]


def test_one_half_at_zero_opens_by_itself() -> None:
    torch.manual_seed(0)
    layers = [Adapted(0.5, 0.0) for _ in range(3)]

    assert not any(f.rule == "blocked-gradient" for f in findings(nn.Sequential(*layers, nn.Linear(8, 4))))


def test_an_offset_that_is_cut_beside_a_weight_that_learns_is_a_warning() -> None:
    assert [f.severity for f in findings(OffsetCut(weight=False)) if f.rule == "no-gradient"] == ["warning"]
    assert [f.severity for f in findings(OffsetCut(weight=True)) if f.rule == "no-gradient"] == ["error"]
