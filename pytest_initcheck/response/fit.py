"""How far a few steps of training bring a probed model towards targets that a healthy one reaches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import thresholds
from ..probing.modules import sample_dim
from ..probing.probe import OutputChanged, centred
from .adam import Adam
from .perturb import Push, rms

#: Token scores are asked to tell this many classes apart, whatever the vocabulary: the task is as hard for every model.
TOKEN_CLASSES = 12
#: Rank of the random functions of the input that serve as targets.
TARGET_RANK = 32


def token_ids(push: Push, output: Tensor) -> Tensor | None:
    """Return the ids that ``output`` has a row of scores for, one row a token; ``None`` if it is no such output."""
    if output.ndim < 3 or output.shape[-1] < 3:
        return None
    for i, x in enumerate(push.probed.inputs()):
        integers = not x.is_floating_point() and not x.is_complex() and x.dtype is not torch.bool
        if integers and x.ndim == 2 and x.shape == output.shape[:2] and push.follows(i):
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
        target = torch.randn(output.shape, generator=generator, dtype=torch.float32)
    else:
        features = torch.tanh(_features(push, generator))
        rest = [s for d, s in enumerate(output.shape) if d != dim]
        mix = torch.randn(TARGET_RANK, math.prod(rest), generator=generator, dtype=torch.float32)
        target = (features @ mix).reshape([output.shape[dim], *rest]).movedim(0, dim)
    target = centred(target, push.probed.batch)
    size = rms(target)
    if size == 0 or not math.isfinite(size):
        target = centred(torch.randn(output.shape, generator=generator, dtype=torch.float32), push.probed.batch)
        size = max(rms(target), 1e-12)
    return (target / size).to(output.device, torch.float32)


def _features(push: Push, generator: torch.Generator) -> Tensor:
    """``[batch, rank]`` random projections of the inputs, of about unit variance over the samples."""
    batch = push.probed.batch or 1
    total = torch.zeros(batch, TARGET_RANK, dtype=torch.float32)
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
        total += flat @ torch.randn(flat.shape[1], TARGET_RANK, generator=generator, dtype=torch.float32)
    level = rms(total)
    total = total - total.mean(0)
    spread = rms(total)
    if spread <= thresholds.BLIND * level:  # of samples that are equal, rounding alone is left
        return torch.randn(batch, TARGET_RANK, generator=generator, dtype=torch.float32)
    return 2 * total / spread


@dataclass(frozen=True, slots=True)
class Fit:
    """How far a fit got.

    Attributes:
        left: the smallest share of the error that was left at any step of any rate.
        steps: Adam steps that the last rate took.
        cut: whether the budget was spent before every rate had all its steps; then more might have been reached.
    """

    left: float
    steps: int | None
    cut: bool = False


def fit(push: Push, start: Tensor, unit: float, ids: Tensor | None) -> Fit:
    """Return the smallest share of the error that is left within ``FIT_STEPS`` Adam steps at the best rate.

    The error is the centred squared distance to :func:`targets`; where the output scores classes for every token of the
    input (``ids``), it is the cross-entropy of :func:`labels` over that of a uniform guess, which forgives large scores as
    the loss of such models does.
    """
    score = _squares(push, start, unit) if ids is None else _entropy(push, start, ids)
    enough = thresholds.FIT_ENOUGH if ids is None else thresholds.TOKEN_FIT_ENOUGH
    taken: int | None = None
    parameters = list(push.parameters.values())
    best, cut = math.inf, False
    enough_spent = push.probed.budget.halfway()  # a race may be needed, which settles more
    for rate in thresholds.FIT_RATES:
        push.restore()
        adam = Adam(parameters, rate)
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
            if enough_spent():
                taken, cut = step, True
                break
            adam.step(loss, retain_graph=push.probed.holds_graph)
        if best < enough or cut:
            break
    push.restore()
    return Fit(best, taken, cut)


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
