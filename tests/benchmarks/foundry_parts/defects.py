"""Faults that are mistakes whatever a short training shows."""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from torch import Tensor, nn

from foundry_parts.faults import Fault, done, fault, inner
from foundry_parts.weights import Weight, pick, unit_of, weights


@fault(4)
def constant(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """Units that are exact twins: a constant, or one unit's weights copied to all."""
    found = [w for w in inner(model, head, ("layer", "raw")) if w.value().shape[0] > 1 and w.wrapped != "spectral"]
    found = [
        w for w in found if getattr(w.module, "groups", 1) == 1
    ]  # alike filters of different channels are no twins
    if not found:
        return None
    if r.random() < 0.25:
        for w in found:
            w.set_(torch.full_like(w.value(), 0.01))
        return Fault("constant .01 all", defect="error")
    w = r.choice(found)
    value = w.value().clone()
    if r.random() < 0.5:
        value.fill_(w.rms() * 0.1)
    elif w.kind == "raw":
        value = value[..., :1].expand_as(value).clone()
    elif isinstance(w.module, nn.ConvTranspose1d | nn.ConvTranspose2d):
        value = value[:, :1].expand_as(value).clone()
    else:
        value = value[:1].expand_as(value).clone()
    w.set_(value)
    return done("constant", [w], "one", "error")


@fault(3.5)
def unwritten(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """Memory that nothing was written to, or a value that is no number."""
    w = pick(r, [w for w in weights(model) if w.kind != "embedding" and w.wrapped != "spectral"])
    if w is None:
        return None
    kind = r.choice(("garbage", "nan", "inf"))
    p = w.raw()
    if kind == "garbage":
        u, n = torch.rand_like(p), torch.randn_like(p)
        p.copy_(torch.where(u < 0.3, n * 1e20, torch.where(u < 0.7, n * 1e-42, torch.zeros_like(n))))
    else:
        p.view(-1)[r.randrange(p.numel())] = math.nan if kind == "nan" else math.inf
    return done(f"unwritten {kind}", [w], "one", "error")


def _layers(model: nn.Module, head: tuple[str, ...]) -> dict[str, Weight]:
    """One weight of each layer that is a module of its own and not the head."""
    return {w.unit: w for w in inner(model, head, ("layer", "recurrent"))}


@fault(2)
def frozen(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """A layer that the optimizer never sees."""
    w = pick(r, list(_layers(model, head).values()))
    if w is None:
        return None
    names = [n for n, p in model.named_parameters() if unit_of(n, model) == w.unit]
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return Fault("frozen one", [w.unit], names, "named")


def _detach(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    return tuple(map(_detach, value)) if isinstance(value, tuple) else value


@fault(2.5)
def detached(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """A layer whose output is cut from the graph."""
    w = pick(r, list(_layers(model, head).values()))
    if w is None:
        return None
    kind = type(w.module)
    w.module.__class__ = type(
        kind.__name__, (kind,), {"forward": lambda self, *a, **k: _detach(kind.forward(self, *a, **k))}
    )
    return Fault("detached one", [w.unit], w.parameters(), "error")


@fault(1.5)
def unused(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """A layer that nothing calls."""
    owner, path = model, ""
    if isinstance(model, nn.Sequential):  # a child of it would be called
        path, owner = next((n, m) for n, m in model.named_children() if not isinstance(m, nn.Sequential))
        path += "."
    owner.add_module("spare", nn.Linear(16, 16))
    return Fault("unused one", [f"{path}spare"], [f"{path}spare.weight", f"{path}spare.bias"], "error")
