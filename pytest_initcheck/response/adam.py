"""Adam within the memory of a bare step and one copy of the parameters, which is kept already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from ..probing.probe import gradients
from ..sharding.layout import is_sharded, local

#: Betas and epsilon (Kingma and Ba 2015).
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
#: Tensors of so many elements at most are stepped together, and their moments kept in their own precision.
SMALL = 1 << 14
#: Elements of a larger one that are stepped at a time.
BLOCK = 1 << 16


class Adam:
    """Adam at its default betas; ``torch.optim`` would import torch's compiler, seconds in a fresh process.

    Of large tensors, both moments are kept in bfloat16: together they are as large as the gradients of float32 weights, and
    those are taken in as they arrive in the backward pass and dropped, so that a step needs no more memory than they did.
    What is kept is divided by the bias that it starts with: then no update is smaller than a thirtieth within a fit, and
    none is lost to the eight bits. (The raw second moment changes by a thousandth, and in bfloat16 would not move.)

    Args:
        parameters: what is stepped, in place.
        rate: the learning rate.
    """

    def __init__(self, parameters: Sequence[Tensor], rate: float) -> None:
        self._parameters, self._rate, self._steps = list(parameters), rate, 0
        self._first: dict[int, Tensor] = {}
        #: the second moment, its root where it is kept in bfloat16
        self._second: dict[int, Tensor] = {}
        self._arrived: set[int] = set()

    def step(self, loss: Tensor, *, retain_graph: bool) -> None:
        """Go back through ``loss`` and move every parameter that gets a gradient."""
        self._steps += 1
        self._arrived.clear()
        # What lies on several ranks arrives as the sum of what they hold.
        large = [
            (i, p)
            for i, p in enumerate(self._parameters)
            if p.numel() > SMALL and p.requires_grad and not is_sharded(p)
        ]
        handles = [p.register_hook(partial(self._take, i)) for i, p in large]
        try:
            found = gradients([loss], self._parameters, None, retain_graph=retain_graph)
        finally:
            for handle in handles:
                handle.remove()
        with torch.no_grad():
            groups: dict[tuple[torch.dtype, torch.device], list[int]] = {}
            for i, gradient in enumerate(found):
                if gradient is None:
                    continue
                if i not in self._arrived and gradient.numel() > SMALL:
                    self._take(i, local(gradient.detach()))  # a sparse one, or one of several ranks
                if i in self._arrived:
                    self._move(i)
                else:
                    groups.setdefault((gradient.dtype, gradient.device), []).append(i)
            for members in groups.values():
                self._together(members, [local(g.detach()) for i in members if (g := found[i]) is not None])

    def _take(self, i: int, gradient: Tensor) -> Tensor | None:
        """Bring a gradient into the moments, and leave in its place zeros that take no memory."""
        if gradient.layout is not torch.strided:
            return None
        self._arrived.add(i)
        kind = gradient.dtype if gradient.is_complex() else torch.bfloat16
        if i not in self._first:
            self._first[i] = torch.zeros_like(gradient, dtype=kind)
            self._second[i] = torch.zeros_like(gradient, dtype=torch.bfloat16)
        low = (1 - BETA1) / (1 - BETA1**self._steps)
        high = (1 - BETA2) / (1 - BETA2**self._steps)
        for g, first, second in zip(*map(blocks, (gradient.detach(), self._first[i], self._second[i])), strict=True):
            wide = g if g.is_complex() else g.float()
            size = (wide * wide.conj()).real if g.is_complex() else wide * wide
            first.copy_(first.to(wide.dtype).lerp_(wide, low))
            second.copy_(second.to(size.dtype).square_().lerp_(size, high).sqrt_())
        return gradient.new_zeros(()).expand(gradient.shape)

    def _move(self, i: int) -> None:
        parts = map(blocks, (local(self._parameters[i].data), self._first[i], self._second[i]))
        for value, first, second in zip(*parts, strict=True):
            wide = first if first.is_complex() else first.float()
            value.add_(wide.div(second.float().add_(EPSILON)).to(value.dtype), alpha=-self._rate)

    def _together(self, members: list[int], gradients: list[Tensor]) -> None:
        for i, gradient in zip(members, gradients, strict=True):
            if i not in self._first:
                self._first[i] = torch.zeros_like(gradient)
                self._second[i] = torch.zeros_like(gradient.real if gradient.is_complex() else gradient)
        first, second = [self._first[i] for i in members], [self._second[i] for i in members]
        values = [local(self._parameters[i].data) for i in members]
        complex_ = gradients[0].is_complex()
        sizes = [(g * g.conj()).real for g in gradients] if complex_ else torch._foreach_mul(gradients, gradients)
        torch._foreach_lerp_(first, gradients, 1 - BETA1)
        torch._foreach_lerp_(second, sizes, 1 - BETA2)
        roots = list(torch._foreach_div(second, 1 - BETA2**self._steps))
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, EPSILON)
        if complex_:
            roots = [root.to(value.dtype) for root, value in zip(roots, values, strict=True)]
        torch._foreach_addcdiv_(values, first, roots, value=-self._rate / (1 - BETA1**self._steps))


def blocks(tensor: Tensor) -> Iterator[Tensor]:
    """Yield parts of a tensor of about ``BLOCK`` elements, along its longest dimension: whatever its strides, none is copied."""
    if tensor.numel() <= BLOCK:
        yield tensor
        return
    dim = max(range(tensor.dim()), key=lambda d: tensor.shape[d])
    yield from tensor.split(max(1, BLOCK * tensor.shape[dim] // tensor.numel()), dim)
