"""The graph's leaves are the truth: what gets a gradient must be registered, and what is registered must be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import Finding, check_init

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
GLOBAL = nn.Linear(8, 8)


class Net(nn.Module):
    """tail(relu(extra(x))), where ``extra`` is whatever ``keep`` put somewhere and ``use`` takes from there."""

    def __init__(self, keep: Callable[[Any], Any], use: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.head, self.tail, self.use = nn.Linear(8, 8), nn.Linear(8, 4), use
        keep(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.use(self, self.head(x).relu()).relu())


class Holder:
    def __init__(self) -> None:
        self.layer = nn.Linear(8, 8)


class Linears(list[nn.Module]):
    """A list, and no ModuleList."""


def nothing(_net: Any) -> None:
    pass


def put(name: str, make: Callable[[], Any]) -> Callable[[Any], Any]:
    return lambda net: setattr(net, name, make())


UNREGISTERED: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Tensor], Tensor], str, str, str]] = {
    "dict": (put("w", lambda: {"h": nn.Linear(8, 8)}), lambda m, h: m.w["h"](h), "w.h.weight", "a plain dict", "warning"),
    "list": (put("w", lambda: [nn.Linear(8, 8)]), lambda m, h: m.w[0](h), "w.0.weight", "a plain list", "warning"),
    "nested": (put("w", lambda: {"a": [(nn.Linear(8, 8),)]}), lambda m, h: m.w["a"][0][0](h), "w.a.0.0.weight", "tuple", "warning"),
    "tensor": (put("w", lambda: torch.randn(8, 8, requires_grad=True)), lambda m, h: h @ m.w, "w", "an attribute", "warning"),
    "object": (put("w", Holder), lambda m, h: m.w.layer(h), "w.layer.weight", "a Holder", "warning"),
    "list of parameters": (put("w", lambda: [nn.Parameter(torch.eye(8))]), lambda m, h: h @ m.w[0], "w.0", "list", "warning"),
    "buffer": (
        lambda m: m.register_buffer("w", torch.randn(8, 8, requires_grad=True)),
        lambda m, h: h @ m.w,
        "w",
        "a buffer",
        "warning",
    ),
    "closure": (put("f", lambda: (lambda layer: lambda h: layer(h))(nn.Linear(8, 8))), lambda m, h: m.f(h), "f.layer.weight", "a function", "warning"),
    "global": (nothing, lambda _, h: GLOBAL(h), "(model)", "outside of the model", "warning"),
    "layer made in forward": (nothing, lambda _, h: nn.Linear(8, 8)(h), "(model)", r"made in forward\(\)", "error"),
    "parameter made in forward": (nothing, lambda _, h: h @ nn.Parameter(torch.randn(8, 8)), "(model)", r"made in forward\(\)", "error"),
    "weight made in forward": (nothing, lambda _, h: h @ torch.randn(8, 8, requires_grad=True), "(model)", r"made in forward\(\)", "error"),
    "norm made in forward": (nothing, lambda _, h: nn.LayerNorm(8)(h), "(model)", r"made in forward\(\)", "warning"),
    "parameter wrapped again": (
        put("w", lambda: nn.Parameter(torch.eye(8) + 0.1 * torch.randn(8, 8))),
        lambda m, h: h @ nn.Parameter(m.w),
        "(model)",
        r"made in forward\(\)",
        "error",
    ),
}  # fmt: skip


def stray(make: Callable[[], nn.Module]) -> list[Finding]:
    torch.manual_seed(0)
    return [f for f in check_init(make(), X).findings if f.rule == "unregistered-parameter"]


@pytest.mark.always("list", "nested", "global", "list of parameters", "weight made in forward", "tensor")
@pytest.mark.parametrize("name", UNREGISTERED)
def test_what_no_optimizer_is_given_is_named_with_where_it_lives(name: str) -> None:
    keep, use, where, words, severity = UNREGISTERED[name]

    (finding,) = stray(lambda: Net(keep, use))

    assert finding.severity == severity
    assert finding.layers[0] == where
    assert words.replace("\\", "") in f"{finding.cause} {finding.summary}"


REGISTERED: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Tensor], Tensor]]] = {
    "ModuleDict": (put("w", lambda: nn.ModuleDict({"h": nn.Linear(8, 8)})), lambda m, h: m.w["h"](h)),
    "also registered": (lambda m: (setattr(m, "a", nn.Linear(8, 8)), setattr(m, "w", [m.a])), lambda m, h: m.w[0](h)),
    "frozen": (put("w", lambda: [nn.Linear(8, 8).requires_grad_(False)]), lambda m, h: m.w[0](h)),
    "constant": (nothing, lambda _, h: h @ torch.eye(8)),
    "input that is differentiated by": (
        nothing,
        lambda m, h: torch.autograd.grad(m.head(z := h.detach().requires_grad_()).square().sum(), z, create_graph=True)[0] + h,
    ),
    "state kept by the pass": (
        nothing,
        lambda m, h: setattr(m, "state", h.detach().requires_grad_()) or m.head(m.state) + h,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REGISTERED)
def test_what_is_registered_frozen_or_data_is_healthy(name: str) -> None:
    keep, use = REGISTERED[name]

    assert stray(lambda: Net(keep, use)) == []


def test_a_model_whose_layers_are_all_in_a_list_is_told_so() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(8, 8), nn.Linear(8, 4)]

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[1](self.layers[0](x).relu())

    (finding,) = stray(Listed)
    assert finding.severity == "error"
    assert finding.layers == ("layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias")


class Noisy(nn.Module):
    """Mentions ``w_noise`` where values are given and shown; :class:`Noisier`, of the same file, reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.w_noise = nn.Parameter(torch.randn(8, 4) * 0.3), nn.Parameter(torch.zeros(8, 4))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.w_noise)

    def extra_repr(self) -> str:
        return f"{self.w_noise.shape}"

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


class Noisier(Noisy):
    def forward(self, x: Tensor, noise: bool = False) -> Tensor:
        return x @ self.w + (x @ self.w_noise if noise else 0)


class ByName(Noisy):
    def forward(self, x: Tensor, part: str = "") -> Tensor:
        return x @ self.w + (x @ getattr(self, "w_" + part) if part else 0)


def noised(module: Any, x: Tensor) -> Tensor:
    return x @ module.w_noise


class ThroughFunction(Noisy):
    def forward(self, x: Tensor, noise: bool = False) -> Tensor:
        return x @ self.w + (noised(self, x) if noise else 0)


class ReadFromAround(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Noisy()

    def forward(self, x: Tensor, noise: bool = False) -> Tensor:
        return self.inner(x) + (x @ self.inner.w_noise if noise else 0)


def test_what_is_put_into_a_module_of_torch_from_outside_is_read_by_nobody() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    model[0].forgotten = nn.Linear(8, 8)

    (finding,) = (f for f in check_init(model, X).findings if f.rule == "no-gradient")

    assert (finding.severity, finding.layers[0]) == ("error", "0.forgotten.weight")


def test_a_parameter_that_no_code_of_its_class_reads_is_an_error_although_its_module_runs() -> None:
    (finding,) = (f for f in check_init(Noisy(), X).findings if f.rule == "no-gradient")

    assert (finding.severity, finding.layers) == ("error", ("w_noise",))


@pytest.mark.parametrize("model", [Noisier, ByName, ThroughFunction, ReadFromAround])
def test_one_that_another_branch_reads_is_a_note(model: type[nn.Module]) -> None:
    (finding,) = (f for f in check_init(model(), X).findings if f.rule == "no-gradient")

    assert finding.severity == "note"
