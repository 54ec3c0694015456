"""A probed model that may be pushed: run again, disturbed, stepped, and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from ..probing import statistics
from ..probing.guard import Guard
from ..probing.probe import Probed, named_trainable
from ..probing.statistics import own_seed


@dataclass
class Push:
    """What the response test needs of a probed model.

    Attributes:
        forward: one pass with the probe's inputs and randomness; returns the floating outputs that had a graph.
        disturbed: the same with the inputs disturbed by this much of their RMS; ``None`` where none can be.
        restore: puts the parameters back to their values at the start.
        parameters: trainable parameters by name.
        gradients: their gradients under ``cotangents`` (``None`` where none arrived); the first step consumes them.
        outputs: the outputs of the probe's own pass, detached.
        cotangents: the directions they were asked to move in.
        primary: which output is judged.
        batch: number of samples; ``None`` where there is no sample dimension.
        inputs: returns the tensors of the call as they were, for targets that are functions of them.
        seed: seed of targets and disturbances.
        holds_graph: whether backward passes must not free the graph, parts of which belong to somebody else.
        unseen: filled by the response test: what could not be asked, one sentence each.
        wakes: filled by the response test: for each parameter whose gradient was exactly zero, whether steps bring one.
    """

    forward: Callable[[], list[Tensor]]
    disturbed: Callable[[float], list[Tensor]] | None
    restore: Callable[[], None]
    parameters: dict[str, nn.Parameter]
    gradients: dict[str, Tensor | None]
    outputs: Sequence[Tensor]
    cotangents: Sequence[Tensor]
    primary: int
    batch: int | None
    inputs: Callable[[], Sequence[Tensor]]
    seed: int = 0
    holds_graph: bool = False
    unseen: list[str] = field(default_factory=list)
    wakes: dict[str, bool] = field(default_factory=dict)


def push_of(probed: Probed, guard: Guard, *, seed: int = 0) -> Push:
    """Return what pushes ``probed.model``; ``guard`` undoes whatever is done to it."""
    guard.backup_parameters()
    seed = own_seed(seed)
    return Push(
        forward=probed.rerun,
        disturbed=_disturber(probed, seed),
        restore=guard.restore_parameters,
        parameters=named_trainable(probed.model),
        gradients=probed.gradients,
        outputs=probed.outputs,
        cotangents=probed.cotangents,
        primary=probed.primary,
        batch=probed.batch,
        inputs=probed.inputs,
        seed=seed,
        holds_graph=probed.holds_graph,
    )


def _disturber(probed: Probed, seed: int) -> Callable[[float], list[Tensor]] | None:
    """Noise on the floating inputs; where all inputs are ids, on what the layers that take them return."""
    given = probed.inputs()
    if any(_disturbable(t) for t in given):

        def on_inputs(size: float) -> list[Tensor]:
            generator = torch.Generator().manual_seed(seed + 2)
            swap = {id(t): _noisy(t, size, generator) for t in probed.inputs() if _disturbable(t)}
            return probed.select(
                probed.rerun_raw(_replaced(probed.call.args, swap), _replaced(probed.call.kwargs, swap))
            )

        return on_inputs
    if not any(not t.is_floating_point() and not t.is_complex() for t in given):
        return None

    def on_embeddings(size: float) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed + 2)
        with _noise_behind_ids(size, generator):
            return probed.rerun()

    return on_embeddings


def _replaced(value: Any, swap: dict[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return swap.get(id(value), value)
    if type(value) is dict:
        return {k: _replaced(v, swap) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_replaced(v, swap) for v in value)
    return value


def _disturbable(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a signal: floating, finite, and not a mask of two values."""
    if not tensor.is_floating_point() or tensor.numel() < 2 or tensor.is_inference():
        return False
    flat = tensor.detach().reshape(-1)
    low, high = torch.aminmax(flat)
    if not bool(torch.isfinite(low) & torch.isfinite(high)) or low == high:
        return False
    return not bool(((flat == low) | (flat == high)).all())


def _noisy(tensor: Tensor, size: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(tensor.shape, generator=generator).to(tensor.device)
    scale = tensor.detach().float().square().mean().sqrt() * size
    return (tensor.detach().float() + noise * scale).to(tensor.dtype)


@contextmanager
def _noise_behind_ids(size: float, generator: torch.Generator) -> Iterator[None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        ids = args and isinstance(args[0], Tensor) and not args[0].is_floating_point() and not args[0].is_complex()
        if not ids or next(module.children(), None) is not None:
            return None
        if not isinstance(output, Tensor) or not output.is_floating_point() or output.numel() < 2:
            return None
        return _noisy(output, size, generator)

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def rms(x: Tensor) -> float:
    """Return the root mean square of ``x`` in double precision (0.0 for an empty tensor)."""
    return float(statistics.rms(x))


def forward(push: Push, *, graph: bool) -> list[Tensor]:
    with torch.set_grad_enabled(graph):
        return push.forward()
