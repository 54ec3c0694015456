"""Another look at what got no gradient: other values of the inputs and other randomness may send something through it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ..errors import ProbeError
from ..probing.probe import float_outputs, gradients
from ..probing.randomness import seed_all
from .exchange import replaced
from .perturb import Push, rms

#: So many other draws are tried before a part counts as one that nothing reaches.
OTHER_LOOKS = 3


def arrives(push: Push, names: Collection[str], closed: Sequence[str] = ()) -> set[str]:
    """Return those of the parameters that a gradient arrives at with other inputs and other randomness.

    Args:
        push: runs the model; its parameters are restored before this returns.
        names: trainable parameters without a gradient, or with one that is zero.
        closed: parameters that are zero and may route nothing; they are opened a little.
    """
    found: set[str] = set()
    for look in range(OTHER_LOOKS):
        if len(found) == len(names):
            break
        found |= _reached(push, [n for n in names if n not in found], closed, look)
        push.restore()
    return found


def _reached(push: Push, names: list[str], closed: Sequence[str], look: int) -> set[str]:
    generator = torch.Generator().manual_seed(push.seed + 100 + look)
    with torch.no_grad():
        for name in closed:
            p = push.parameters[name]
            p.data.add_((torch.randn(p.shape, generator=generator, dtype=torch.float32) * 1e-2).to(p.device, p.dtype))
    probed, call = push.probed, push.probed.call
    swap = {id(t): _other_values(t, generator, look) for t in probed.inputs()}
    leaves = [push.parameters[n] for n in names]
    try:
        with torch.enable_grad(), _seeded_anew(probed.model, push.seed + 100 + look):
            raw = probed.rerun_raw(replaced(call.args, swap), replaced(call.kwargs, swap))
            roots = [o for o in float_outputs(raw) if o.requires_grad]
            signals = [
                torch.randn(o.shape, generator=generator, dtype=torch.float32).to(o.device, o.dtype) for o in roots
            ]
            slopes = gradients(roots, leaves, signals, retain_graph=probed.holds_graph) if roots else []
    except (ProbeError, RuntimeError):  # these values are none that the model takes
        return set()
    return {n for n, g in zip(names, slopes, strict=False) if g is not None and g.numel() and rms(g) > 0}


def _other_values(tensor: Tensor, generator: torch.Generator, look: int) -> Tensor:
    """The same values in another order; of ids, at the second look, others between the least and the largest."""
    if tensor.dtype is torch.bool or tensor.numel() < 2 or tensor.is_complex() or tensor.is_inference():
        return tensor
    if look == 1 and not tensor.is_floating_point():
        low, high = int(tensor.min()), int(tensor.max())
        return torch.randint(low, high + 1, tensor.shape, generator=generator).to(tensor.device, tensor.dtype)
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.detach().reshape(-1)[order].reshape(tensor.shape)


@contextmanager
def _seeded_anew(model: nn.Module, seed: int) -> Iterator[None]:
    """Draw other random numbers: every pass starts from the same ones, so they are exchanged as the model is entered."""

    def hook(module: nn.Module, _args: Any) -> None:
        if module is model:
            seed_all(seed)

    handle = register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
