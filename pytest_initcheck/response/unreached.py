"""Why a trainable parameter gets no gradient: its value is used and the graph is cut, or nothing uses it."""

from __future__ import annotations

import torch
from torch import nn

from ..probing.backward import start
from ..sharding.layout import gathered
from .again import arrives
from .perturb import Push, rms
from .reads import AttributesRead
from .stepping import common

#: The first so many modules are asked one by one whether the output depends on their values; a forward pass each.
ONE_BY_ONE = 12


def unreached_reasons(model: nn.Module, push: Push, unreached: list[str], called: set[str]) -> dict[str, str]:
    """Return, for every parameter in ``unreached``, why no gradient comes back.

    Args:
        model: the module that was probed.
        push: runs it; parameters are restored before this returns.
        unreached: names of trainable parameters that no path of the graph leads to.
        called: dotted paths of the modules that ran.

    Returns:
        ``"blocked"``: the output changes with the value, so the gradient is cut; ``"unmentioned"``: nothing uses it, and no
        code of the classes that hold it reads it; ``"unused"``: this call does not use it.
    """
    reasons = dict.fromkeys(unreached, "unused")
    if not unreached:
        return reasons
    groups: dict[str, list[str]] = {}
    for name in unreached:
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    closed: list[str] = []
    ran = {owner: names for owner, names in groups.items() if owner in called or not owner}
    if ran:
        closed = [n for n, p in push.parameters.items() if n not in reasons and not bool(gathered(p.detach()).any())]
        if _moves(push, [n for names in ran.values() for n in names], closed):
            for names in list(ran.values())[:ONE_BY_ONE]:
                if len(ran) == 1 or _moves(push, names, closed):
                    reasons.update(dict.fromkeys(names, "blocked"))
    for name in _fed_from_inside(push, [n for n, r in reasons.items() if r == "blocked"]):
        del reasons[name]
    blocked = [n for n, r in reasons.items() if r == "blocked"]
    if blocked:
        # What is absent (a layer that was dropped, an expert that nothing was sent to) is not cut.
        reasons.update(dict.fromkeys(arrives(push, blocked, closed), "unused"))
    code = AttributesRead()
    for name in list(reasons):
        if reasons[name] == "unused" and not code.read(model, name):
            reasons[name] = "unmentioned"
    return reasons


def _moves(push: Push, names: list[str], closed: list[str]) -> bool:
    """Whether the outputs change when these parameters do, once what is zero (``closed``) is a little open.

    Behind a gate that is shut, nothing changes the output.
    """
    generator = torch.Generator().manual_seed(push.seed + 3)
    with torch.no_grad():
        for name in closed:
            _disturb(push.parameters[name], 1e-2, generator)
        before = push.forward(graph=False) if closed else push.probed.outputs
        for name in names:
            _disturb(push.parameters[name], max(rms(push.parameters[name]), 1e-2), generator)
        after = push.forward(graph=False)
    push.restore()
    pairs = zip(before, after, strict=False)
    return any(one.shape != other.shape or rms(other - one) > 1e-5 * rms(one) for one, other in pairs)


def _disturb(parameter: torch.Tensor, size: float, generator: torch.Generator) -> None:
    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32).to(parameter.device)
    parameter.data.add_((noise * size).to(parameter.dtype))


def _fed_from_inside(push: Push, names: list[str]) -> list[str]:
    """Names of parameters that a real backward pass gives a gradient to, although no path of the graph leads to them.

    Custom functions (reversible layers, reentrant checkpoints) run a backward pass of their own inside.
    """
    if not names:
        return []
    with torch.enable_grad():
        outputs = push.forward(graph=True)
        pairs = [
            common(o, c.to(o.dtype)) for o, c in zip(outputs, push.probed.cotangents, strict=True) if o.requires_grad
        ]
        root = start([o for o, _ in pairs], [c.clone() for _, c in pairs])
        torch.autograd.backward(root, retain_graph=push.probed.holds_graph)
    fed = [n for n in names if push.parameters[n].grad is not None]
    for parameter in push.parameters.values():
        parameter.grad = None
    return fed
