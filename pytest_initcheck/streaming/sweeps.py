"""Passes backward through weights that come and go: each gradient is read as it arrives, a step along it kept, and let go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..probing.backward import start
from ..probing.operands import Use, twin_rows
from ..probing.statistics import kurtosis, measure, settle
from ..probing.streamed import AsDrawn
from ..records import Stats
from ..response.foretold import l1_norm
from ..response.stepping import EPSILON, LOUD_GRADIENT
from .changes import CHUNK, Exact, Shrink, Step, signs_of
from .lanes import together
from .weights import Weights

#: Models whose trained parameters take less than this keep what one bit a weight cannot say of a step.
ROOM = 1 << 30
#: Elements of a half-precision tensor that are read in one piece.
_PIECE = 1 << 24

_QUIET = (
    "the gradients of {} weights are so small that an optimizer's step along them is not of one size: "
    "one bit a weight and one size a tensor were kept of it, so the movement of the output is an estimate"
)


class Sweeps:
    """Answers :class:`~pytest_initcheck.probing.streamed.Streamed` with the weights of one model.

    Args:
        weights: the weights.
        trained: trained parameters by name.
    """

    def __init__(self, weights: Weights, trained: Mapping[str, nn.Parameter]) -> None:
        self._weights, self._trained = weights, trained
        self._known: dict[str, AsDrawn] = {}
        self._marks: dict[str, Tensor] = {}
        self._step = Step()
        self._norm = 0.0
        self._told = 0.0
        self._estimated = 0
        self._stepped = False
        self._whole = sum(p.numel() * p.element_size() for p in trained.values()) < ROOM
        weights.visit(self._read)

    @property
    def unseen(self) -> list[str]:
        """What was estimated, one sentence."""
        return [_QUIET.format(f"{self._estimated:,}")] if self._estimated and self._stepped else []

    def gather(
        self,
        roots: Sequence[Tensor],
        leaves: Mapping[str, nn.Parameter],
        signals: Sequence[Tensor],
        scale: float,
        uses: Mapping[str, Use],
        others: Sequence[Tensor],
        *,
        keep: bool,
        exact: bool,
    ) -> tuple[dict[str, Stats | None], list[Tensor | None]]:
        found: dict[str, Stats | None] = dict.fromkeys(leaves)

        def look(name: str, p: nn.Parameter) -> None:
            if name in uses and (share := twin_rows(p, uses[name])):
                self._known[name] = AsDrawn(self._known[name].value, self._known[name].kurtosis, share)

        def take(name: str, gradient: Tensor) -> None:
            found[name] = _stats(gradient, exact=exact)

        self._weights.visit(look)
        arrived = self._backward(roots, leaves, signals, keep, take, scale, others)
        self._weights.finish(look)
        return found, arrived

    def known(self, name: str) -> AsDrawn:
        if name not in self._known:
            self._weights.finish(self._read)
        return self._known[name]

    def marks(self) -> dict[str, Tensor | None]:
        return {name: self._marks.get(name) for name in self._trained}

    def slopes(self, roots: Sequence[Tensor], signals: Sequence[Tensor], keep: bool) -> list[Tensor | None]:
        self._backward(roots, self._trained, signals, keep, None, 1.0)
        return list(self.marks().values())

    def pulls(self, root: Tensor, product: Callable[[Tensor, Tensor], float], *, keep: bool) -> dict[str, float]:
        found: dict[str, float] = {}

        def take(name: str, gradient: Tensor) -> None:
            found[name] = product(self._trained[name].detach(), gradient)

        self._backward([root], self._trained, [torch.ones_like(root)], keep, take, 1.0, steps=False)
        return found

    def step(self) -> float:
        self._stepped = True
        self._weights.change(self._step)
        return self._norm

    def total(self) -> float:
        return self._told

    def shrink(self, factor: float) -> None:
        self._weights.change(Shrink(factor, frozenset(self._trained)))

    def restore(self) -> None:
        self._weights.restore()

    def look(self, visit: Callable[[str, nn.Parameter], None]) -> Callable[[], None]:
        self._weights.visit(visit)
        return lambda: self._weights.finish(visit)

    def free(self) -> None:
        self._weights.free()

    def together(self, *questions: Callable[[], object]) -> list[object]:
        return together(self._weights, questions)

    # -- one pass

    def _backward(
        self,
        roots: Sequence[Tensor],
        leaves: Mapping[str, nn.Parameter],
        signals: Sequence[Tensor],
        keep: bool,
        take: Callable[[str, Tensor], None] | None,
        scale: float,
        others: Sequence[Tensor] = (),
        *,
        steps: bool = True,
    ) -> list[Tensor | None]:
        if steps:
            self._marks, self._step, self._norm, self._told = {}, Step(), 0.0, 0.0
        handles = [
            p.register_post_accumulate_grad_hook(self._arriving(name, take, scale, steps))
            for name, p in leaves.items()
            if p.requires_grad
        ]
        wanted = [p for p in leaves.values() if p.requires_grad]
        try:
            torch.autograd.backward(start(roots, signals), retain_graph=keep, inputs=[*wanted, *others] or None)
            arrived = [t.grad for t in others]
            return arrived if scale == 1.0 else [None if g is None else g.float() / scale for g in arrived]
        finally:
            for handle in handles:
                handle.remove()
            for p in (*leaves.values(), *others):
                p.grad = None
            self._weights.recall.start()

    def _arriving(
        self, name: str, take: Callable[[str, Tensor], None] | None, scale: float, steps: bool
    ) -> Callable[[Tensor], None]:
        def hook(p: Tensor) -> None:
            gradient, p.grad = p.grad, None
            if gradient is None:
                return
            with torch.no_grad(), torch._C.DisableTorchFunction():
                gradient = gradient if gradient.layout is torch.strided else gradient.to_dense()
                if scale != 1.0:
                    gradient = gradient.float() / scale
                if take is not None:
                    take(name, gradient)
                if steps:
                    self._keep(name, gradient)

        return hook

    def _keep(self, name: str, gradient: Tensor) -> None:
        norm = float(torch._foreach_norm([gradient], 1)[0])
        self._norm += norm
        self._told += l1_norm(gradient)
        still = norm == 0.0 and not bool(gradient.any())
        self._marks[name] = torch.zeros(1) if still else torch.ones(1)
        if not norm < LOUD_GRADIENT * gradient.numel():
            self._step.directions[name] = signs_of(gradient)
        elif self._whole:
            self._step.directions[name] = Exact(gradient / gradient.abs().add_(EPSILON))
        else:
            self._estimated += gradient.numel()
            self._step.directions[name] = signs_of(gradient, _size(gradient))

    def _read(self, name: str, p: nn.Parameter) -> None:
        self._known[name] = AsDrawn(_stats(p), kurtosis([p])[0])


def _size(gradient: Tensor) -> float:
    """The one size of a step that moves the output, to first order, as far as the step does."""
    moved = size = 0.0
    for chunk in gradient.reshape(-1).split(CHUNK):
        large = chunk.float().abs_()
        size += float(large.sum(dtype=torch.float64))
        moved += float((large * large / (large + EPSILON)).sum(dtype=torch.float64))
    return moved / size if size > 0 and math.isfinite(moved) else 0.0


def _stats(tensor: Tensor, *, exact: bool = True) -> Stats | None:
    """Statistics of a tensor; of one that would have to be cast to be read, piece by piece."""
    x = tensor.detach()
    if (
        x.device.type != "cpu"
        or x.dtype in (torch.float32, torch.float64)
        or x.numel() <= _PIECE
        or not x.is_contiguous()
    ):
        return settle([measure(x, exact=exact)])[0]
    return _merged(
        [s for s in settle([measure(piece, exact=exact) for piece in x.view(-1).split(_PIECE)]) if s is not None]
    )


def _merged(pieces: Sequence[Stats]) -> Stats | None:
    if not pieces:
        return None
    count = sum(s.count for s in pieces)
    mean = sum(s.mean * s.count for s in pieces) / count
    square = sum(s.rms * s.rms * s.count for s in pieces) / count
    within = sum(s.std * s.std * (s.count - 1) + (s.mean - mean) ** 2 * s.count for s in pieces)
    return Stats(
        count=count,
        mean=mean,
        std=math.sqrt(within / max(count - 1, 1)),
        rms=math.sqrt(square),
        min=min(s.min for s in pieces),
        max=max(s.max for s in pieces),
        zeros=sum(s.zeros * s.count for s in pieces) / count,
        finite=all(s.finite for s in pieces),
    )
