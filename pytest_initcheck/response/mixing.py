"""Whether one sample reads the others: a sample is exchanged, and the outputs of the others are looked at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from .. import thresholds
from ..errors import ProbeError
from ..probing.dispatch import Mode
from ..probing.modules import clean, measurable, sample_dim, tensors
from .exchange import exchanged
from .perturb import Push, rms

_SOFTMAX = ("aten::_softmax", "aten::_log_softmax", "aten::_safe_softmax")


@dataclass(frozen=True, slots=True)
class Mixing:
    """How much one sample changes the outputs of the others.

    Attributes:
        change: RMS of their change over their RMS; ``None`` where it could not be asked.
        layer: dotted path of the first module to return other values for samples that were left alone; ``""`` is the root.
        softmax: whether a softmax runs along the samples.
    """

    change: float | None = None
    layer: str | None = None
    softmax: bool = False


def mixing(push: Push) -> Mixing:
    """Exchange one sample; where that changes other outputs, ask again with the batch norms kept as they were.

    No pass where the probe's own shows that every sample is for itself, one where only the exchange does, three for all others.
    """
    batch = push.probed.batch
    if batch is None or batch < 2:
        return Mixing()
    try:
        with torch.no_grad():
            order = [1, *range(1, batch)]
            args, kwargs, size = exchanged(push.probed, order)
            if size == 0:
                return Mixing()
            if push.probed.apart:
                return Mixing(0.0)
            now = push.probed.select(push.probed.rerun_raw(args, kwargs))
            change = _others(push.probed.outputs, now, batch)
            if change is None or change <= _rounding(push):
                return Mixing(change)
            norms = _Norms(batch)
            with norms, _fingerprints(push.probed.model, batch) as before:
                was = push.probed.select(push.probed.rerun_raw())
            norms.again()
            # Anew: the first pass may have written to what it was given, or freed it.
            args, kwargs, _ = exchanged(push.probed, order)
            with norms, _fingerprints(push.probed.model, batch) as after:
                now = push.probed.select(push.probed.rerun_raw(args, kwargs))
    except ProbeError:  # a model that refuses such a batch
        return Mixing()
    change = _others(was, now, batch)
    if change is None or change <= _rounding(push):
        return Mixing(change)
    return Mixing(change, _first(before, after, _rounding(push)), norms.softmax)


def _rounding(push: Push) -> float:
    return max(thresholds.MIXED, 8 * torch.finfo(push.start.dtype).eps)


def _others(before: list[Tensor], after: list[Tensor], batch: int) -> float | None:
    """The largest relative change of what belongs to other samples than the first."""
    found: list[float] = []
    for was, now in zip(before, after, strict=True):
        dims = [d for d, size in enumerate(was.shape) if size == batch]
        if not dims or was.shape != now.shape:
            continue
        for d in dims:  # of a table of samples by samples, the first row and the first column
            was, now = was.narrow(d, 1, batch - 1), now.narrow(d, 1, batch - 1)
        size = rms(was)
        if size > 0:
            found.append(rms(now.detach() - was.detach()) / size)
    return max(found, default=None)


@contextmanager
def _fingerprints(model: nn.Module, batch: int) -> Iterator[list[tuple[str, Tensor]]]:
    """One number for each sample of what each module returns, in order."""
    names = {id(module): clean(path) for path, module in model.named_modules()}
    found: list[tuple[str, Tensor]] = []
    mine = threading.get_ident()

    def hook(module: nn.Module, _: Any, output: Any) -> None:
        if threading.get_ident() != mine:  # of another pass, that runs beside this one
            return
        first = next((t for t in tensors(output) if measurable(t) and not t.is_complex()), None)
        dim = None if first is None else sample_dim(first, batch)
        if first is not None and dim is not None and id(module) in names:
            flat = first.detach().movedim(dim, 0).reshape(batch, -1).double()
            found.append((names[id(module)], flat @ torch.linspace(1, 2, flat.shape[1]).to(flat)))

    handle = register_module_forward_hook(hook)
    try:
        yield found
    finally:
        handle.remove()


def _first(before: list[tuple[str, Tensor]], after: list[tuple[str, Tensor]], allowed: float) -> str:
    for (name, was), (_, now) in zip(before, after, strict=False):
        if rms(now[1:] - was[1:]) > allowed * rms(was[1:]):
            return name
    return ""


class _Norms(Mode):
    """Batch norms of further passes normalise by what they did in the first: reading the batch is what they are for."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self._batch = batch
        self._taken: list[tuple[Tensor, Tensor]] = []
        self._at: int | None = None
        self.softmax = False

    def again(self) -> None:
        self._at = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name in _SOFTMAX:
            dim = args[1] % max(args[0].dim(), 1)
            self.softmax = self.softmax or sample_dim(args[0], self._batch) == dim
        if "batch_norm" not in name or not isinstance(found, tuple | list) or len(found) < 3 or not found[1].numel():
            return found
        if self._at is None:
            self._taken.append((found[1], found[2]))
            return found
        if self._at >= len(self._taken):
            return found
        mean, scale = self._taken[self._at]
        self._at += 1
        x, weight, bias = args[0], args[1], args[2]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        out = (x - mean.view(shape)) * scale.view(shape)
        if weight is not None:
            out = out * weight.view(shape)
        if bias is not None:
            out = out + bias.view(shape)
        return type(found)((out.to(found[0].dtype), *found[1:]))
