"""Faults of initialization: each changes a soundly drawn model in place and says what it did to which layers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from foundry_parts.weights import RECURRENT, Weight, apply_scheme, biases, each, named, norms, pick, unit_of, weights


@dataclass
class Fault:
    """What was done.

    Attributes:
        name: kind and details, as ``scale x100 one``.
        units: the layers it was done to; empty if to all.
        parameters: their parameters.
        kind: the key of :data:`FAULTS` that it was drawn by.
        defect: "" if training alone says whether it is one; "error" if it must be an error, "named" if a warning will do.
    """

    name: str
    units: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    defect: str = ""
    kind: str = ""


Make = Callable[[nn.Module, random.Random, tuple[str, ...]], "Fault | None"]
#: Every kind of fault with how often it is drawn; each returns ``None`` where the model has nothing of the kind.
FAULTS: dict[str, tuple[float, Make]] = {}


def fault(often: float) -> Callable[[Make], Make]:
    """Register a kind of fault."""

    def register(function: Make) -> Make:
        FAULTS[function.__name__.rstrip("_")] = (often, function)
        return function

    return register


def is_head(name: str, head: tuple[str, ...]) -> bool:
    """Whether a parameter belongs to the head."""
    return name.startswith(head) if head else False


def inner(
    model: nn.Module, head: tuple[str, ...], kinds: tuple[str, ...] = ("layer", "raw", "recurrent")
) -> list[Weight]:
    """Weights other than the head's and those that are zero."""
    return [w for w in weights(model) if not is_head(w.name, head) and w.kind in kinds and w.rms() > 0]


def done(name: str, changed: list[Weight], scope: str, defect: str = "") -> Fault | None:
    if not changed:
        return None
    if scope == "all":
        return Fault(f"{name} all", defect=defect)
    units = list(dict.fromkeys(w.unit for w in changed))
    return Fault(f"{name} {scope}", units, [p for w in changed for p in w.parameters()], defect)


def _scope(r: random.Random, *, one: float = 0.4, some: float = 0.25) -> str:
    u = r.random()
    return "one" if u < one else "some" if u < one + some else "all"


def _change(
    model: nn.Module, r: random.Random, head: tuple[str, ...], name: str, change: Callable[[Weight], object], scope: str
) -> Fault | None:
    found = weights(model) if scope == "all" else inner(model, head)
    changed = [w for w in each([w for w in found if w.kind != "embedding"], scope, r) if w.rms() > 0]
    for w in changed:
        change(w)
    return done(name, changed, scope)


@fault(5)
def scale(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """Weights times a factor."""
    scope = _scope(r)
    factor = r.choice(
        (0.01, 0.03, 0.1, 0.3, 3.0, 10.0, 30.0, 100.0) if scope == "all" else (0.001, 0.01, 0.1, 10.0, 100.0, 1000.0)
    )
    return _change(model, r, head, f"scale x{factor:g}", lambda w: w.scale_(factor), scope)


@fault(3)
def bias(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """Biases far from zero: one of them constant, or all of them drawn."""
    found = [b for b in biases(model) if not is_head(b[0], head)]
    if not found:
        return None
    if r.random() < 0.3:
        for _, _, p in biases(model):
            p.normal_()
        return Fault("bias normal all")
    name, unit, p = r.choice(found)
    value = r.choice((-30.0, -10.0, -3.0, 3.0, 10.0, 30.0))
    p.fill_(value)
    return Fault(f"bias {value:g} one", [unit], [name])


@fault(1.5)
def zero(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """Weights of zero."""
    return _change(model, r, head, "zero", lambda w: w.set_(torch.zeros_like(w.value())), _scope(r, one=0.7, some=0.2))


@fault(2)
def distribution(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """The wrong distribution: only positive, uniform to 1, heavy tails, mostly zeros."""
    kind = r.choice(("rand", "uniform 1", "positive", "cauchy", "sparse"))

    def change(w: Weight) -> None:
        old = w.value()
        new = {
            "rand": lambda: torch.rand_like(old),
            "uniform 1": lambda: torch.rand_like(old) * 2 - 1,
            "positive": lambda: old.abs(),
            "cauchy": lambda: torch.empty_like(old).cauchy_().clamp(-1e4, 1e4) * w.rms(),
            "sparse": lambda: old * (torch.rand_like(old) < 0.1),
        }[kind]()
        w.set_(new)

    return _change(model, r, head, f"distribution {kind}", change, _scope(r))


@fault(1.5)
def fan(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """The wrong fan: the other one, the kernel forgotten, the root forgotten."""
    kind = r.choice(("out", "no kernel", "no root"))

    def factor(w: Weight) -> float:
        if kind == "out":
            return math.sqrt(w.fan_in / w.fan_out)
        return math.sqrt(w.cells) if kind == "no kernel" else 1 / math.sqrt(w.fan_in)

    if all(abs(factor(w) - 1) < 0.05 for w in weights(model)):
        return None
    return _change(model, r, head, f"fan {kind}", lambda w: w.scale_(factor(w)), _scope(r, one=0.2))


@fault(1)
def twice(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """The scale applied twice."""
    return _change(model, r, head, "twice", lambda w: w.scale_(w.rms()), _scope(r, one=0.3))


@fault(3)
def unapplied(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """Left as randn gave it."""
    return _change(model, r, head, "unapplied randn", lambda w: w.set_(torch.randn_like(w.value())), _scope(r))


@fault(1)
def classes(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """A loop over the wrong things: every parameter drawn alike, norms and gates too, or one class of layers left to its default."""
    if r.random() < 0.6:
        std = r.choice((0.02, 0.1, 1.0))
        for p in model.parameters():
            p.data.normal_(0, std)
        return Fault(f"classes normal {std:g} all")
    kinds = sorted(
        {type(w.module).__bases__[-1].__name__ if w.wrapped else type(w.module).__name__ for w in weights(model)}
    )
    kind = r.choice(kinds)
    apply_scheme(
        model, "torch_default", lambda w: kind in (type(w.module).__name__, type(w.module).__bases__[-1].__name__)
    )
    return Fault(f"classes default {kind} all")


@fault(0.6)
def tied(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """Two layers given one weight; a head tied to an embedding that is drawn as embeddings are."""
    found = [w for w in weights(model) if not w.wrapped and w.kind in ("layer", "embedding")]
    words = [w for w in found if w.kind == "embedding"]
    pairs = [(a, b) for a in words for b in found if b.kind == "layer" and a.value().shape == b.value().shape]
    if pairs and r.random() < 0.7:
        a, b = r.choice(pairs)
        nn.init.normal_(a.raw())
        b.module.weight = a.module.weight
        return Fault("tied embedding one", [a.unit, b.unit], [a.name, b.name])
    pairs = [
        (a, b)
        for i, a in enumerate(found)
        for b in found[i + 1 :]
        if a.kind == b.kind == "layer" and a.value().shape == b.value().shape
    ]
    pair = pick(r, pairs)
    if pair is None:
        return None
    a, b = pair
    b.module.weight = a.module.weight
    return Fault("tied layers one", [a.unit, b.unit], [a.name, b.name])


@fault(2)
def head(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """A head far off scale."""
    w = pick(r, [w for w in weights(model) if is_head(w.name, head) and w.rms() > 0])
    if w is None:
        return None
    factor = r.choice((0.0, 0.01, 30.0, 100.0, 300.0, 1000.0))
    if factor:
        w.scale_(factor)
    else:
        w.set_(torch.zeros_like(w.value()))
    return done(f"head x{factor:g}", [w], "one")


@fault(3)
def norm(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """The scale of a norm, or of all."""
    found = norms(model)
    if not found:
        return None
    scope, factor = _scope(r, one=0.7, some=0), r.choice((0.0, 0.01, 30.0, 100.0))
    changed = list(each(found, scope, r))
    for _, m in changed:
        m.weight.data.mul_(factor)  # type: ignore[union-attr, operator]
    if scope == "all":
        return Fault(f"norm x{factor:g} all")
    return Fault(f"norm x{factor:g} one", [n for n, _ in changed], [f"{n}.weight" for n, _ in changed])


@fault(6)
def recurrent(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """Weights over time, or decays, off scale."""
    rates = named(model, "log_rate")
    if rates:
        name, p = r.choice(rates)
        shift = r.choice((-8.0, 4.0, 8.0))
        p.add_(shift)
        return Fault(f"recurrent rate {shift:+g} one", [name], [name])
    w = pick(r, [w for w in weights(model) if w.kind == "recurrent" and "hh" in w.name])
    if w is None:
        return None
    factor = r.choice((0.01, 3.0, 10.0, 100.0))
    w.scale_(factor)
    return done(f"recurrent x{factor:g}", [w], "one")


@fault(4)
def gate(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """A gate shut, or wide open, from the first step."""
    choices: list[tuple[str, str, Tensor, float]] = []
    for path, m in model.named_modules():
        if isinstance(m, RECURRENT) and not isinstance(m, nn.RNN | nn.RNNCell):
            h = m.hidden_size
            for name, p in m.named_parameters(recurse=False):
                if name.startswith("bias_ih"):
                    lstm = isinstance(m, nn.LSTM | nn.LSTMCell)
                    choices.append((f"{path}.{name}", "input", p.data[:h], -10.0))
                    choices.append(
                        (
                            f"{path}.{name}",
                            "output" if lstm else "keep",
                            p.data[3 * h :] if lstm else p.data[h : 2 * h],
                            -10.0 if lstm else 10.0,
                        )
                    )
    choices += [(n, "shut", p, r.choice((-10.0, -5.0))) for n, p in named(model, "gate.bias")]
    choices += [(n, "residual", p, r.choice((1e-6, 10.0))) for n, p in named(model, "alpha")]
    choice = pick(r, choices)
    if choice is None:
        return None
    name, what, p, value = choice
    similar = [c for c in choices if c[1] == what]
    if len(similar) > 1 and r.random() < 0.4:
        for _, _, q, _ in similar:
            q.fill_(value)
        return Fault(f"gate {what} {value:g} all")
    p.fill_(value)
    return Fault(f"gate {what} {value:g} one", [unit_of(name, model)], [name])


@fault(6)
def logit_scale(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """A scale of logits given as it is where its logarithm belongs."""
    found = named(model, "logit_scale")
    if not found:
        return None
    found[0][1].fill_(r.choice((8.0, 14.3)))
    return Fault("logit_scale no log one", [found[0][0]], [found[0][0]])


@fault(4)
def attention(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """Queries and keys far too large."""
    groups: dict[str, list[Weight]] = {}
    for w in weights(model):
        if w.name.endswith((".q.weight", ".k.weight", "qkv.weight", "in_proj_weight")):
            groups.setdefault(w.unit.rpartition(".")[0], []).append(w)
    if not groups:
        return None
    scope = r.choice(("one", "all"))
    changed = [w for g in each(list(groups.values()), scope, r) for w in g]
    for w in changed:
        rows = w.raw()
        (rows[: 2 * len(rows) // 3] if w.name.endswith(("qkv.weight", "in_proj_weight")) else rows).mul_(30)
    return done("attention x30", changed, scope)


@fault(4)
def embedding(model: nn.Module, r: random.Random, head: tuple[str, ...]) -> Fault | None:
    """A table of embeddings off scale."""
    w = pick(r, [w for w in weights(model) if w.kind == "embedding" and w.rms() > 0])
    if w is None:
        return None
    factor = r.choice((0.001, 0.01, 20.0, 100.0))
    w.scale_(factor)
    return done(f"embedding x{factor:g}", [w], "one")


def draw_fault(model: nn.Module, r: random.Random, head: tuple[str, ...], among: list[str]) -> Fault | None:
    """Apply one fault to ``model``, of the kinds ``among``; ``None`` if it has nothing that any of a dozen tries could change."""
    for _ in range(12):
        kind = r.choices(among, [FAULTS[k][0] for k in among])[0]
        found = FAULTS[kind][1](model, r, head)
        if found is not None:
            found.kind = kind
            return found
    return None
