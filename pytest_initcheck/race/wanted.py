"""What is to be learned from the inputs, told for any: random smooth functions of them, of low rank, for every place of an output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..probing.modules import sample_dim
from ..probing.probe import centred
from ..response.perturb import Push, rms

#: Functions of the inputs that the targets are mixed from.
RANK = 16
#: The same for maps and sequences where the inputs have none.
MAP_RANK = 4

#: Inputs, in the order of the call -> what to learn from them.
Wanted = Callable[[Sequence[Tensor]], Tensor]


class Features:
    """Random functions of all inputs that the output follows, of about unit variance over the samples: linear in signals, a sum over the ids."""

    def __init__(self, push: Push, rank: int) -> None:
        self._rank, self._batch, self._seed = rank, push.probed.batch or 1, push.seed + 1
        self._follows = push.follows
        self._scales = [self._scale(x) for x in push.probed.inputs()]
        total = self._projected(push.probed.inputs())
        self._middle = total.mean(0)
        self._spread = rms(total - self._middle)
        self._given: Tensor | None = None
        if not self._spread > 0 or not math.isfinite(self._spread):  # inputs that are the same for all samples
            self._given = torch.randn(
                self._batch, rank, generator=torch.Generator().manual_seed(self._seed), dtype=torch.float32
            )

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return ``[batch, rank]``."""
        return (self._projected(inputs) - self._middle) / self._spread if self._given is None else self._given

    def _flat(self, x: Tensor) -> Tensor | None:
        dim = sample_dim(x, self._batch)
        if dim is None or x.is_complex() or x.numel() == 0:
            return None
        flat = x.detach().movedim(dim, 0).reshape(self._batch, -1).to("cpu", torch.float32)
        return torch.nan_to_num(flat, 0.0, 0.0, 0.0)

    def _scale(self, x: Tensor) -> float:
        flat = self._flat(x)
        return 1.0 if flat is None else rms(flat - flat.mean(0)) * math.sqrt(flat.shape[1]) or 1.0

    def _projected(self, inputs: Sequence[Tensor]) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed)
        total = torch.zeros(self._batch, self._rank, dtype=torch.float32)
        for i, (x, scale) in enumerate(zip(inputs, self._scales, strict=True)):
            flat = self._flat(x)
            if flat is None or not self._follows(i):
                continue
            if x.is_floating_point() or x.dtype in (torch.bool, torch.uint8):
                total += flat @ torch.randn(flat.shape[1], self._rank, generator=generator, dtype=torch.float32) / scale
            else:
                # Ids have no order: a number of its own for each, and wherever it stands, for models that do not tell places.
                turn, phase = torch.rand(2, self._rank, generator=generator, dtype=torch.float32) * 2 * math.pi
                total += torch.cos(flat[..., None] * turn + phase).mean(1) * math.sqrt(2 * flat.shape[1])
        return total


def target_of(push: Push, output: Tensor) -> Wanted:
    """Centred targets of unit RMS: for every place of a map or sequence a function of the input there, else of all of it."""
    generator = torch.Generator().manual_seed(push.seed + 3)
    raw: Wanted | None = None
    if output.ndim > 2 and sample_dim(output, push.probed.batch) == 0:
        raw = next(
            (
                t
                for i in range(len(push.probed.inputs()))
                if push.follows(i) and (t := _local(push, i, output, generator)) is not None
            ),
            None,
        )
        raw = raw or _maps(push, output, generator)
    else:
        raw = _whole(push, output, generator)
    values = raw(push.probed.inputs())
    dim = sample_dim(values, push.probed.batch)
    middle = values.mean(dim, keepdim=True) if dim is not None else torch.zeros((), dtype=torch.float32)
    size = max(rms(values - middle), 1e-12)

    def target(inputs: Sequence[Tensor]) -> Tensor:
        return (raw(inputs) - middle) / size

    return target


def _whole(push: Push, output: Tensor, generator: torch.Generator) -> Wanted:
    dim = sample_dim(output, push.probed.batch) or 0
    rest = [s for d, s in enumerate(output.shape) if d != dim]
    features = Features(push, RANK)
    mix = torch.randn(RANK, math.prod(rest), generator=generator, dtype=torch.float32)

    def target(inputs: Sequence[Tensor]) -> Tensor:
        return (torch.tanh(2 * features(inputs)) @ mix).reshape([-1, *rest]).movedim(0, dim)

    return target


def _local(push: Push, at: int, output: Tensor, generator: torch.Generator) -> Wanted | None:
    """Mixed channels of an input that has the places of the output; ``None`` if it is no such input."""
    x = push.probed.inputs()[at]
    if not x.is_floating_point() or x.ndim != output.ndim or x.shape[0] != output.shape[0]:
        return None
    differing = [d for d in range(1, x.ndim) if x.shape[d] != output.shape[d]]
    if len(differing) > 1:
        return None
    channel = differing[0] if differing else (x.ndim - 1 if x.ndim == 3 else 1)
    size = max(rms(centred(torch.nan_to_num(x.detach().float(), 0.0, 0.0, 0.0), push.probed.batch)), 1e-12)
    mix = torch.randn(x.shape[channel], output.shape[channel], generator=generator, dtype=torch.float32) / math.sqrt(
        x.shape[channel]
    )

    def target(inputs: Sequence[Tensor]) -> Tensor:
        values = torch.nan_to_num(inputs[at].detach().to("cpu", torch.float32), 0.0, 0.0, 0.0).movedim(channel, -1)
        return torch.tanh(values @ mix / size).movedim(-1, channel)

    return target


def _maps(push: Push, output: Tensor, generator: torch.Generator) -> Wanted:
    """A few functions of the inputs, each with a slow wave over the places of the output."""
    features = Features(push, MAP_RANK)
    channel = output.ndim - 1 if output.ndim == 3 else 1
    waves = []
    for _ in range(MAP_RANK):
        wave = torch.ones((), dtype=torch.float32)
        for d in range(1, output.ndim):
            size = output.shape[d]
            if d == channel:
                line = torch.randn(size, generator=generator, dtype=torch.float32)
            else:
                turns = int(torch.randint(0, 3, (), generator=generator))
                line = torch.cos(math.pi * turns * (torch.arange(size) + 0.5) / size)
            wave = wave[..., None] * line
        waves.append(wave)
    every = torch.stack(waves)

    def target(inputs: Sequence[Tensor]) -> Tensor:
        return (torch.tanh(2 * features(inputs)) @ every.flatten(1)).reshape(-1, *every.shape[1:])

    return target
