"""Training a drawn model for a hundred steps at several rates, and how far it got."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foundry_parts.tasks import Task

#: Steps of every training.
STEPS = 100
#: Rates tried for each optimizer.
RATES = {"adam": (5e-4, 2e-3, 5e-3), "sgd": (3e-3, 2e-2, 1e-1)}
#: Losses at the end whose median is the result.
LAST = 12
#: Steps after which a sound twin goes on at its best rate alone.
HEAT = 40
#: Progress from which on a run is not followed further: it will be harmless whatever the last steps bring.
PLENTY = 0.97
#: Steps before which no run is given up, and how often it is looked at afterwards.
PATIENCE, EVERY = 48, 12

Batch = tuple[tuple[Tensor, ...], Any]


def _part(value: Any, low: int, high: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_part(v, low, high) for v in value)
    return value[low:high]


def stream(task: Task, seed: int) -> list[Batch]:
    """Every batch of a training, none drawn twice."""
    inputs, target = task.draw(task.batch * STEPS, torch.Generator().manual_seed(seed))
    cuts = [(i * task.batch, (i + 1) * task.batch) for i in range(STEPS)]
    return [(_part(inputs, *cut), _part(target, *cut)) for cut in cuts]


def median(values: Sequence[float]) -> float:
    """The upper median."""
    return sorted(values)[len(values) // 2]


def progress(loss: float, task: Task, best: float) -> float:
    """Share of the way from the best constant prediction to ``best``; -9 for what is not finite or worse than that."""
    if not math.isfinite(loss):
        return -9.0
    return max((task.constant - loss) / max(task.constant - best, 1e-9), -9.0)


class Run:
    """A model in training at one rate: a loss a step, each on a batch not seen before."""

    def __init__(self, model: nn.Module, task: Task, batches: list[Batch], optimizer: str, rate: float) -> None:
        self.model, self.task, self.batches = model, task, batches
        self.losses: list[float] = []
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.broken = not parameters
        if optimizer == "adam":
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
                parameters or [torch.zeros(())], lr=rate, fused=True
            )
        else:
            self.optimizer = torch.optim.SGD(parameters or [torch.zeros(())], lr=rate, momentum=0.9, fused=True)

    def end(self) -> float:
        """The median of the last losses; infinite if training broke off."""
        return math.inf if self.broken or not self.losses else median(self.losses[-LAST:])

    def advance(self, until: int, best: float | None = None) -> None:
        """Train up to the step ``until``; given the loss ``best`` of a sound twin, only while that can still tell something."""
        torch.manual_seed(len(self.losses))  # the noise of variational models
        while len(self.losses) < until and not self.broken:
            inputs, target = self.batches[len(self.losses)]
            loss = self.task.loss(self.model(*inputs), target)
            self.losses.append(float(loss.detach()))
            if not math.isfinite(self.losses[-1]) or abs(self.losses[-1]) > 1e30 or not loss.requires_grad:
                self.broken = True
                return
            if best is not None and self._decided(best):
                return
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()

    def _decided(self, best: float) -> bool:
        """Whether the run has reached what the twin did, or stays where a constant prediction is."""
        if len(self.losses) < PATIENCE or len(self.losses) % EVERY:
            return False
        reached = progress(self.end(), self.task, best)
        stuck = reached < 0.02 and self.end() > 0.98 * median(self.losses[-3 * LAST : -2 * LAST])
        return stuck or reached > PLENTY


def sound_run(build: Callable[[], nn.Module], task: Task, batches: list[Batch], optimizer: str) -> tuple[float, float]:
    """The loss that a sound model reaches, and the rate: every rate is tried for a while, the best one to the end."""
    runs = {rate: Run(build(), task, batches, optimizer, rate) for rate in RATES[optimizer]}
    for run in runs.values():
        run.advance(HEAT)
    rate = min(runs, key=lambda r: runs[r].end())
    runs[rate].advance(STEPS)
    return runs[rate].end(), rate


def progress_of(
    build: Callable[[], nn.Module],
    task: Task,
    batches: list[Batch],
    optimizer: str,
    best: float,
    first: float,
    enough: float,
) -> float:
    """Largest progress of a model over all rates, the twin's rate first; no further rate is tried once it is ``enough``."""
    found = -9.0
    for rate in sorted(RATES[optimizer], key=lambda r: r != first):
        run = Run(build(), task, batches, optimizer, rate)
        run.advance(STEPS, best)
        found = max(found, progress(run.end(), task, best))
        if found > enough:
            break
    return found
