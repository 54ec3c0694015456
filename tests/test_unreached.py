"""Why a trainable parameter gets no gradient: its graph is cut, nothing mentions it, or this call does not use it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pytest_initcheck import check_init
from pytest_initcheck.response.perturb import Push
from pytest_initcheck.response.unreached import ONE_BY_ONE, unreached_reasons

Pushed = Callable[..., Push]


def reasons(pushed: Pushed, model: nn.Module, inputs: object = "8x16") -> dict[str, str]:
    push = pushed(model, inputs)
    trace = push.probed.trace
    missing = [n for n, p in trace.parameters.items() if p.requires_grad and not p.reached]
    return unreached_reasons(push.probed.model, push, missing, {layer.module for layer in trace.layers.values()})


class Cut(nn.Module):
    """Its first layer's output is used, through a graph or behind a cut."""

    def __init__(self, cut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self._cut = nn.Linear(16, 16), nn.Linear(16, 4), cut

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self._cut(self.first(x)).relu())


@pytest.mark.parametrize(
    "cut",
    [lambda h: h.detach(), lambda h: torch.as_tensor(h.tolist()), lambda h: h.data * 2],
    ids=["detach", "tolist", "data"],
)
def test_a_value_that_is_used_behind_a_cut_is_blocked(pushed: Pushed, cut: Callable[[Tensor], Tensor]):
    assert reasons(pushed, Cut(cut)) == {"first.weight": "blocked", "first.bias": "blocked"}


def test_a_function_that_is_flat_is_no_cut(pushed: Pushed):
    assert reasons(pushed, Cut(lambda h: (5 * h).round())) == {}  # it gives a gradient, of zeros


def test_without_a_cut_nothing_is_unreached(pushed: Pushed):
    assert reasons(pushed, Cut(lambda h: h.clone())) == {}


def test_a_cut_is_seen_through_a_gate_that_is_shut(pushed: Pushed):
    model = Cut(lambda h: h.detach())
    nn.init.zeros_(model.last.weight)

    assert set(reasons(pushed, model).values()) == {"blocked"}


def test_of_several_modules_only_those_whose_values_the_output_depends_on_are_blocked(pushed: Pushed):
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.dropped, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.dropped(x)  # runs, and nothing comes of it
            return self.head(self.cut(x).detach())

    assert reasons(pushed, Several()) == {
        "cut.weight": "blocked",
        "cut.bias": "blocked",
        "dropped.weight": "unused",
        "dropped.bias": "unused",
    }


def test_a_parameter_of_the_model_itself_that_is_cut_is_blocked(pushed: Pushed):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.scale = nn.Linear(16, 4), nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * self.scale.detach()

    assert reasons(pushed, Scaled()) == {"scale": "blocked"}


class Forgotten(nn.Module):
    """Has a layer that no method names."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.never_named_again = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Elsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.pooler = nn.Linear(16, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, pool: bool = False) -> Tensor:
        return self.pooler(self.used(x)) if pool else self.used(x)


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(16, 4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.heads[0](x)


def test_what_no_code_names_is_unmentioned_and_what_another_call_uses_is_unused(pushed: Pushed):
    assert reasons(pushed, Forgotten()) == {
        "never_named_again.weight": "unmentioned",
        "never_named_again.bias": "unmentioned",
    }
    assert reasons(pushed, Elsewhere()) == {"pooler.weight": "unused", "pooler.bias": "unused"}
    assert reasons(pushed, Positions()) == {"heads.1.weight": "unused", "heads.1.bias": "unused"}


def test_what_is_held_under_two_names_is_mentioned_where_one_of_them_is_read(pushed: Pushed):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.forgotten = nn.Linear(16, 8), nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.hidden = self.body(x)
            return self.head(self.hidden)

    class Tapped(nn.Module):
        def __init__(self, net: Net) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            self.net(x)  # for what it leaves behind
            return self.net.hidden

    class Learner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = Net()  # registered first, and read by nobody
            self.encoder = Tapped(self.kept)

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x)

    assert reasons(pushed, Learner()) == {
        "kept.head.weight": "unused",
        "kept.head.bias": "unused",
        "kept.forgotten.weight": "unmentioned",
        "kept.forgotten.bias": "unmentioned",
    }


def test_what_a_class_before_names_is_mentioned(pushed: Pushed):
    class Heir(Elsewhere):
        def forward(self, x: Tensor, pool: bool = False) -> Tensor:
            return self.used(x)

    assert set(reasons(pushed, Heir()).values()) == {"unused"}


class InsideOut(torch.autograd.Function):
    """A layer that runs a backward pass of its own, as reversible layers do: the graph does not lead to its weights."""

    @staticmethod
    def forward(ctx: object, x: Tensor, layer: nn.Module) -> Tensor:
        ctx.layer, ctx.x = layer, x.detach()
        with torch.no_grad():
            return layer(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor | None, None]:
        with torch.enable_grad():
            x = ctx.x.requires_grad_()
            torch.autograd.backward(ctx.layer(x), gradient)
        return x.grad, None


class Inside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(InsideOut.apply(self.first(x), self.inner))


def test_what_is_fed_by_a_backward_pass_inside_is_not_unreached(pushed: Pushed):
    model = Inside()

    assert reasons(pushed, model) == {}
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")  # in passes without gradients
def test_a_reentrant_checkpoint_is_no_cut():
    class Saves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(checkpoint(self.inner, self.first(x), use_reentrant=True))

    assert "no-gradient" not in {f.rule for f in check_init(Saves(), "8x16").findings}


def test_beyond_so_many_modules_what_is_cut_all_at_once_is_not_told_apart(pushed: Pushed):
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(ONE_BY_ONE + 2))
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + layer(x).detach()
            return self.head(x)

    found = reasons(pushed, Many())

    blocked = {n.rpartition(".")[0] for n, r in found.items() if r == "blocked"}
    assert blocked == {f"layers.{i}" for i in range(ONE_BY_ONE)}
    assert set(found.values()) == {"blocked", "unused"}


def test_weights_are_put_back(pushed: Pushed):
    model = Cut(lambda h: h.detach())
    before = {n: p.detach().clone() for n, p in model.named_parameters()}

    reasons(pushed, model)

    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_with_nothing_unreached_nothing_is_run(pushed: Pushed, monkeypatch: pytest.MonkeyPatch):
    push = pushed(nn.Linear(16, 4), "8x16")
    monkeypatch.setattr(Push, "forward", lambda *a, **k: pytest.fail("ran"))

    assert unreached_reasons(push.probed.model, push, [], set()) == {}


@pytest.mark.parametrize(("size", "said"), [(0, []), (1, ["error"])])
def test_what_is_empty_need_not_be_used(size: int, said: list[str]):
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.spare = nn.Linear(16, 4), nn.Parameter(torch.ones(size))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    torch.manual_seed(0)
    assert [f.severity for f in check_init(Spare(), "8x16").findings if f.rule == "no-gradient"] == said
