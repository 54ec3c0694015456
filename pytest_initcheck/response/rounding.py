"""Weights whose gradient is nothing but rounding: exact zero is not the only nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import ProbeError
from ..probing.probe import gradients
from ..records import ParameterRecord, Trace
from ..sharding.layout import gathered
from .perturb import Push, rms

#: Of what the strongest parameter moves the output by, a weight that moves it by less than so many roundings is looked at.
ROUNDINGS = 64
#: Change of all weights, relative to their RMS, after which a gradient still points where it did, and rounding does not.
NUDGE = 1e-3
#: Cosine of the gradients before and after; a real one keeps 0.99 and more, rounding is as good as independent.
SAME = 0.5


def rounding_only(push: Push, trace: Trace) -> Mapping[str, float]:
    """Return the weights whose gradient is rounding, each with what it moves the output by against the strongest parameter.

    Two forward and backward passes more, and only where a gradient is that small. Offsets and scales are not asked: in front of
    a norm, or of a softmax, the function is the same whatever they are, and that is no fault.

    Args:
        push: runs the model; its parameters are restored before this returns.
        trace: what the probe saw.
    """
    strengths = {n: s for n in push.parameters if (s := _strength(trace.parameters[n])) is not None}
    top = max(strengths, key=lambda n: strengths[n], default=None)
    if top is None or _sees_signs_only(trace):
        return {}
    bound = ROUNDINGS * torch.finfo(push.parameters[top].dtype).eps
    faint = [n for n, s in strengths.items() if _carries(trace.parameters[n]) and 0 < s < bound * strengths[top]]
    faint = [n for n in faint if push.parameters[n].dtype in (torch.float32, torch.float64)]
    if not faint:
        return {}
    looks = [_nudged(push, [*faint, top], look) for look in range(2)]
    if None in looks:
        return {}
    found: dict[str, float] = {}
    for i, name in enumerate(faint):
        pairs = [(look[i], look[-1]) for look in looks if look is not None]
        shares = [_moves(push, name, g) / (_moves(push, top, t) or 1.0) for g, t in pairs]
        if all(share < bound for share in shares) and abs(_cosine(pairs[0][0], pairs[1][0])) < SAME:
            found[name] = max(shares)
    return found


def _strength(p: ParameterRecord) -> float | None:
    """What a change of the parameter by its own size could move the output by, to first order."""
    if p.gradient is None or p.value is None or not (p.gradient.finite and p.value.finite):
        return None
    return p.gradient.rms * p.value.rms * p.gradient.count


def _carries(p: ParameterRecord) -> bool:
    """Whether it mixes several inputs: a weight of one input only scales, and a norm behind it takes that away."""
    return p.role == "weight" and p.fan_in is not None and p.fan_in > 1


def _sees_signs_only(trace: Trace) -> bool:
    """Whether a batch norm sees two samples: it makes them -1 and 1 whatever they were."""
    few = trace.batch is not None and trace.batch <= 2
    return few and any("BatchNorm" in x.kind or x.kind == "batch_norm" for x in trace.layers.values())


def _nudged(push: Push, names: list[str], look: int) -> list[Tensor] | None:
    """Gradients of one fixed direction, not centred over the samples, with all weights changed a little."""
    generator = torch.Generator().manual_seed(push.seed + 200 + look)
    signals = torch.Generator().manual_seed(push.seed + 200)
    with torch.no_grad():
        for p in push.parameters.values():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float32).to(p.device)
            p.data.add_((noise * (rms(p) * NUDGE)).to(p.dtype))
    try:
        outputs = [o for o in push.forward(graph=True) if o.requires_grad]
        given = [torch.randn(o.shape, generator=signals, dtype=torch.float32).to(o.device, o.dtype) for o in outputs]
        found = gradients(outputs, [push.parameters[n] for n in names], given, retain_graph=push.probed.holds_graph)
    except (ProbeError, RuntimeError):  # a backward pass that refuses autograd.grad
        return None
    finally:
        push.restore()
    whole = [g for g in found if g is not None]
    return whole if len(whole) == len(names) else None


def _moves(push: Push, name: str, gradient: Tensor) -> float:
    return rms(gradient) * rms(push.parameters[name]) * gradient.numel()


def _cosine(one: Tensor, other: Tensor) -> float:
    one, other = gathered(one), gathered(other)
    sizes = rms(one) * rms(other)
    return float((one.double() * other.double()).mean()) / sizes if sizes else 0.0
