"""How far a few steps of training bring a probed model towards targets that a healthy one reaches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import thresholds
from ..probing.modules import sample_dim
from ..probing.probe import OutputChanged, centred, gradients
from ..sharding.layout import local
from .perturb import Push, rms

#: Token scores are asked to tell this many classes apart, whatever the vocabulary: the task is as hard for every model.
TOKEN_CLASSES = 12
#: Rank of the random functions of the input that serve as targets.
TARGET_RANK = 32


def token_ids(push: Push, output: Tensor) -> Tensor | None:
    """Return the ids that ``output`` has a row of scores for, one row a token; ``None`` if it is no such output."""
    if output.ndim < 3 or output.shape[-1] < 3:
        return None
    for x in push.probed.inputs():
        integers = not x.is_floating_point() and not x.is_complex() and x.dtype is not torch.bool
        if integers and x.ndim == 2 and x.shape == output.shape[:2]:
            return x.detach()
    return None


def labels(ids: Tensor, classes: int, seed: int) -> Tensor:
    """Return a fixed class for every id, each class as often as the others: what a network that tells ids apart learns."""
    generator = torch.Generator().manual_seed(seed + 1)
    known, codes = torch.unique(ids.cpu(), return_inverse=True)
    table = torch.randperm(len(known), generator=generator) % classes
    return table[codes].to(ids.device)


def targets(push: Push, output: Tensor) -> Tensor:
    """Return centred unit-RMS targets that are random smooth functions of the input.

    Functions of the input, not noise: what memorises noise is still not near to learning (AUC 0.98 against 0.96 on
    the trainability pairs).
    """
    generator = torch.Generator().manual_seed(push.seed + 1)
    dim = sample_dim(output, push.probed.batch)
    if dim is None:
        target = torch.randn(output.shape, generator=generator)
    else:
        features = torch.tanh(_features(push, generator))
        rest = [s for d, s in enumerate(output.shape) if d != dim]
        mix = torch.randn(TARGET_RANK, math.prod(rest), generator=generator)
        target = (features @ mix).reshape([output.shape[dim], *rest]).movedim(0, dim)
    target = centred(target, push.probed.batch)
    size = rms(target)
    if size == 0 or not math.isfinite(size):
        target = centred(torch.randn(output.shape, generator=generator), push.probed.batch)
        size = max(rms(target), 1e-12)
    return (target / size).to(output.device, torch.float32)


def _features(push: Push, generator: torch.Generator) -> Tensor:
    """``[batch, rank]`` random projections of the inputs, of about unit variance over the samples."""
    batch = push.probed.batch or 1
    total = torch.zeros(batch, TARGET_RANK)
    for x in push.probed.inputs():
        dim = sample_dim(x, batch)
        if dim is None or x.is_complex():
            continue
        flat = x.detach().movedim(dim, 0).reshape(batch, -1).to("cpu", torch.float32)
        if x.dtype is torch.uint8:
            flat = flat / max(rms(flat), 1.0)  # pixels: numbers that have an order
        elif not x.is_floating_point():
            # Ids have no order: hash each to a phase, so that different tokens are unrelated.
            flat = torch.cos(flat * 12.9898 + torch.arange(flat.shape[1]) * 78.233)
        flat = torch.nan_to_num(flat, 0.0, 0.0, 0.0)
        total += flat @ torch.randn(flat.shape[1], TARGET_RANK, generator=generator)
    level = rms(total)
    total = total - total.mean(0)
    spread = rms(total)
    if spread <= thresholds.BLIND * level:  # of samples that are equal, rounding alone is left
        return torch.randn(batch, TARGET_RANK, generator=generator)
    return 2 * total / spread


def fit(push: Push, start: Tensor, unit: float, ids: Tensor | None) -> tuple[float, int | None]:
    """Return the smallest share of the error that is left within ``FIT_STEPS`` Adam steps at the best rate, and the steps taken.

    The error is the centred squared distance to :func:`targets`; where the output scores classes for every token of the
    input (``ids``), it is the cross-entropy of :func:`labels` over that of a uniform guess, which forgives large scores as
    the loss of such models does.
    """
    score = _squares(push, start, unit) if ids is None else _entropy(push, start, ids)
    enough = thresholds.FIT_ENOUGH if ids is None else thresholds.TOKEN_FIT_ENOUGH
    taken: int | None = None
    parameters = list(push.parameters.values())
    best = math.inf
    for rate in thresholds.FIT_RATES:
        push.restore()
        adam = Adam([local(p.data) for p in parameters], rate)
        for step in range(thresholds.FIT_STEPS + 1):
            output = push.forward(graph=True)[push.probed.primary].float()
            if output.shape != start.shape:
                raise OutputChanged("the size of the output depends on the weights, so no target fits it")
            left, loss = score(output)
            if not math.isfinite(left):
                break
            best = min(best, left)
            if best < enough or step == thresholds.FIT_STEPS or not output.requires_grad:
                taken = step
                break
            adam.step(gradients([loss], parameters, None, retain_graph=push.probed.holds_graph))
        if best < enough:
            break
    push.restore()
    return best, taken


Score = Callable[[Tensor], tuple[float, Tensor]]


def _squares(push: Push, start: Tensor, unit: float) -> Score:
    target = targets(push, start) * unit

    def score(output: Tensor) -> tuple[float, Tensor]:
        left = (centred(output.detach(), push.probed.batch) - target).square().mean() / unit**2
        return float(left), (output - target).square().mean() / unit**2

    return score


def _entropy(push: Push, start: Tensor, ids: Tensor) -> Score:
    classes = min(TOKEN_CLASSES, start.shape[-1])
    generator = torch.Generator().manual_seed(push.seed + 2)
    columns = torch.randperm(start.shape[-1], generator=generator)[:classes].to(start.device)
    wanted = labels(ids, classes, push.seed).reshape(-1)

    def score(output: Tensor) -> tuple[float, Tensor]:
        loss = torch.nn.functional.cross_entropy(output[..., columns].reshape(-1, classes), wanted)
        return float(loss.detach()) / math.log(classes), loss

    return score


class Adam:
    """Adam (Kingma and Ba 2015) at its default betas; ``torch.optim`` would import torch's compiler, seconds in a fresh process."""

    def __init__(self, values: list[Tensor], rate: float) -> None:
        self._rate, self._steps = rate, 0
        self._values = values
        self._first: list[Tensor | None] = [None] * len(values)
        self._second: list[Tensor | None] = [None] * len(values)

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        self._steps += 1
        low, high = 1 - 0.9**self._steps, 1 - 0.999**self._steps
        for i, (value, gradient) in enumerate(zip(self._values, gradients, strict=True)):
            if gradient is None:
                continue
            g = local(gradient.detach())
            size = (g * g.conj()).real if g.is_complex() else g * g
            first, second = self._first[i], self._second[i]
            first = g * 0.1 if first is None else first.lerp_(g, 0.1)
            second = size * 0.001 if second is None else second.lerp_(size, 0.001)
            self._first[i], self._second[i] = first, second
            value.addcdiv_(first, (second / high).sqrt_().add_(1e-8).to(value.dtype), value=-self._rate / low)
