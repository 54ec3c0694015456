"""Plain training by SGD, for the rows that say which initialization learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..phases import doing
from .images import Images


@dataclass(frozen=True, slots=True)
class Curve:
    """How a training went.

    Attributes:
        steps: after how many steps it was looked at.
        losses: cross-entropy on images that were not trained on.
        accuracies: share of them that is named right.
    """

    steps: tuple[int, ...]
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]

    @property
    def best(self) -> float:
        """Highest accuracy."""
        return max(self.accuracies)

    def first(self, accuracy: float) -> int | None:
        """Steps after which ``accuracy`` was first reached; ``None`` if it never was."""
        return next((s for s, a in zip(self.steps, self.accuracies, strict=True) if a >= accuracy), None)


def train(
    model: nn.Module,
    images: Images,
    held_out: Images,
    *,
    rate: float,
    momentum: float,
    steps: int,
    batch: int,
    seed: int,
    name: str,
    looks: int = 40,
    enough: float = 1.1,
    watch: Callable[[int], None] | None = None,
) -> Curve:
    """Train ``model`` in place and return its learning curve.

    Args:
        model: from images to scores.
        images: to train on.
        held_out: to judge by.
        rate: learning rate of SGD.
        momentum: of SGD.
        steps: number of steps.
        batch: images of a step.
        seed: of the order of the images.
        name: what is said of it while it runs.
        looks: how often the held-out images are looked at.
        enough: accuracy at which training stops.
        watch: called with the number of steps at each look.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    generator = torch.Generator().manual_seed(seed)
    every = max(1, steps // looks)
    seen: list[tuple[int, float, float]] = []
    for step in range(steps + 1):
        if step % every == 0:
            doing(f"{name}, step {step} of {steps}")
            with torch.no_grad():
                scores = model(held_out.pixels)
                loss = float(F.cross_entropy(scores, held_out.labels))
                seen.append((step, loss, float((scores.argmax(1) == held_out.labels).double().mean())))
            if watch is not None:
                watch(step)
            if seen[-1][2] >= enough:
                break
        pixels, labels = images.batch(batch, generator)
        optimizer.zero_grad()
        F.cross_entropy(model(pixels), labels).backward()
        optimizer.step()
    steps_seen, losses, accuracies = zip(*seen, strict=True)
    return Curve(tuple(steps_seen), tuple(losses), tuple(accuracies))
