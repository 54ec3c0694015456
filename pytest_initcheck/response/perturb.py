"""A probed model that may be pushed: run again, disturbed, stepped, and put back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from ..probing import statistics
from ..probing.apart import varies
from ..probing.entrances import disturbable
from ..probing.guard import Guard
from ..probing.layers import looks_up
from ..probing.probe import Probed, named_trainable
from ..probing.statistics import own_seed
from ..probing.streamed import Streamed
from ..sharding.layout import gathered, spread_as
from .exchange import Disturbed, exchanged, replaced


class Disturbs(Protocol):
    """One pass with the inputs disturbed by ``size`` of their RMS, each draw in its own way."""

    def __call__(self, size: float, draw: int = 0) -> Disturbed: ...


@dataclass(frozen=True)
class Push:
    """A probed model that can be run again, disturbed, stepped, and put back; made by :func:`push_of`.

    Attributes:
        probed: the model, how it was called, and what the probe saw of it.
        guard: undoes whatever is done to the model.
        parameters: trainable parameters by name.
        disturbed: one pass with the inputs disturbed by this much of their RMS, each draw in its own way; ``None`` where none can be.
        swapped: one pass with every sample in another one's place; ``None`` where no input differs over the samples.
        seed: seed of targets and disturbances.
        followed: for each input, whether the output is computed from it; empty where nobody asked, and all are taken for that.
    """

    probed: Probed
    guard: Guard
    parameters: Mapping[str, nn.Parameter]
    disturbed: Disturbs | None
    seed: int = 0
    swapped: Callable[[], Disturbed] | None = None
    followed: tuple[bool, ...] = ()

    def follows(self, at: int) -> bool:
        """Return whether the output is taken to be computed from this input: it is no target that a loss compares it with."""
        return not self.followed or self.followed[at]

    @property
    def streamed(self) -> Streamed | None:
        """What is asked in place of the weights, where they are never all in memory."""
        return self.probed.streamed

    @property
    def start(self) -> Tensor:
        """The output that is judged, as the probe's own pass gave it."""
        return self.probed.outputs[self.probed.primary]

    def forward(self, *, graph: bool) -> list[Tensor]:
        """Return the floating outputs of one pass with the probe's inputs and randomness."""
        with torch.set_grad_enabled(graph):
            return self.probed.rerun()

    def restore(self) -> None:
        """Put the parameters back to their values at the start."""
        if self.streamed is not None:
            self.streamed.restore()
        self.guard.restore_parameters()


def push_of(probed: Probed, guard: Guard, *, seed: int = 0) -> Push:
    """Return what pushes ``probed.model``; ``guard`` undoes whatever is done to it."""
    if probed.streamed is not None:
        probed.streamed.free()  # what is drawn again needs no copy
    guard.backup_parameters()
    seed, given = own_seed(seed), probed.inputs()  # every look at them rewinds: once is enough
    disturbed, swapped = _disturber(probed, seed, given), _swapper(probed, given)
    return Push(probed, guard, named_trainable(probed.model), disturbed, seed, swapped)


def _disturber(probed: Probed, seed: int, given: Sequence[Tensor]) -> Disturbs | None:
    """Noise on the floating inputs; where all inputs are ids, on what the layers that take them return."""
    if any(disturbable(t) for t in given):

        def on_inputs(size: float, draw: int = 0) -> Disturbed:
            generator = torch.Generator().manual_seed(seed + 2 + draw)
            swap = {id(t): noisy(t, size, generator) for t in probed.inputs() if disturbable(t)}
            arrived: set[int] = set()
            args, kwargs = (replaced(part, swap, arrived) for part in (probed.call.args, probed.call.kwargs))
            return Disturbed(probed.select(probed.rerun_raw(args, kwargs, rewound=True)), size if arrived else 0.0)

        return on_inputs
    if not any(not t.is_floating_point() and not t.is_complex() for t in given):
        return None

    def on_embeddings(size: float, draw: int = 0) -> Disturbed:
        generator = torch.Generator().manual_seed(seed + 2 + draw)
        with _noise_behind_ids(size, generator) as reached:
            return Disturbed(probed.rerun(), size if reached else 0.0)

    return on_embeddings


def _swapper(probed: Probed, given: Sequence[Tensor]) -> Callable[[], Disturbed] | None:
    """Samples exchanged."""
    batch = probed.batch
    if batch is None or batch < 2:
        return None
    if not any(varies(t, batch) for t in given):
        return None

    def swapped() -> Disturbed:
        args, kwargs, size = exchanged(probed, [*range(1, batch), 0])
        return Disturbed(probed.select(probed.rerun_raw(args, kwargs, rewound=True)), size)

    return swapped


def noisy(tensor: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Return ``tensor`` with noise of ``size`` times its RMS."""
    held = gathered(tensor.detach())
    noise = torch.randn(held.shape, generator=generator, dtype=torch.float32).to(held.device)
    scale = held.float().square().mean().sqrt() * size
    return spread_as((held.float() + noise * scale).to(held.dtype), tensor)


@contextmanager
def _noise_behind_ids(size: float, generator: torch.Generator) -> Iterator[list[str]]:
    """Noise on what layers return that were given ids; yields the class names of those that were."""
    reached: list[str] = []

    mine = threading.get_ident()

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        other = threading.get_ident() != mine  # of another pass, that runs beside this one
        if other or not looks_up(module, args, output):
            return None
        reached.append(type(module).__name__)
        return noisy(output, size, generator)

    handle = register_module_forward_hook(hook)
    try:
        yield reached
    finally:
        handle.remove()


def rms(x: Tensor) -> float:
    """Return the root mean square of ``x`` in double precision (0.0 for an empty tensor)."""
    return float(statistics.rms(x))
