"""Rows 18 and 19: He et al.'s networks of 22 and 30 layers of ReLU, from their initialization and from Xavier's."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import median

from torch import nn

from ..apply import apply_init
from .agreement import holds
from .images import KINDS, Images, draw
from .outcome import Effort, Outcome
from .training import Curve, train

#: Channels of the first and of the second half, where the image is four times smaller.
CHANNELS = (16, 32)
RATE, MOMENTUM, BATCH = 0.003, 0.9, 32
STEPS = 3000
INITS = ("kaiming", "xavier")
#: Std of the images: as pixels of 0 to 255 with their mean taken off have, which is what these networks were given.
PIXELS = 64.0
#: Learned: far above what naming the most frequent shape gives, a sixth.
LEARNED = 0.35
#: Nobody doubts that it learns: training stops.
ENOUGH = 0.55


def network(layers: int, init: str, *, seed: int) -> nn.Sequential:
    """Return ``layers`` layers with weights: convolutions of 3x3 with ReLUs behind them, and a linear one."""
    found: list[nn.Module] = []
    channels = 1
    for i in range(layers - 1):
        wide = CHANNELS[i >= layers // 2]
        stride = 2 if i in (2, layers // 2) else 1
        found += [nn.Conv2d(channels, wide, 3, stride, 1), nn.ReLU()]
        channels = wide
    model = nn.Sequential(*found, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, len(KINDS)))
    apply_init(model, f"{init}_normal", draw(2, seed=0).pixels, seed=seed)
    return model


@lru_cache(maxsize=1)
def _data() -> tuple[Images, Images]:
    train_on, held_out = draw(6000, seed=1), draw(500, seed=2)
    return Images(train_on.pixels * PIXELS, train_on.labels), Images(held_out.pixels * PIXELS, held_out.labels)


def run(layers: int, init: str, seed: int) -> Curve:
    """Train the network."""
    images, held_out = _data()
    return train(
        network(layers, init, seed=seed),
        images,
        held_out,
        rate=RATE,
        momentum=MOMENTUM,
        steps=STEPS,
        batch=BATCH,
        seed=seed,
        name=f"{layers} layers, {init}, seed {seed}",
        looks=STEPS // 50,
        enough=ENOUGH,
    )


def depth(layers: int, *, stalls: bool) -> Callable[[Effort], Outcome]:
    """Return the measurement of a network of so many layers.

    Args:
        layers: with weights.
        stalls: whether the article says that Xavier does not learn at all; else that it learns later.
    """

    def measure(effort: Effort) -> Outcome:
        found = {init: [run(layers, init, seed) for seed in range(effort.trainings)] for init in INITS}
        learned = {init: [c.first(LEARNED) or math.inf for c in curves] for init, curves in found.items()}
        statements = [holds("Kaiming learns", max(learned["kaiming"]) < math.inf)]
        if stalls:
            statements.append(holds("Xavier does not", min(learned["xavier"]) == math.inf))
        else:
            # The plateau at the start is so long that from some seeds units die before it ends.
            statements.append(holds("Xavier learns too, from most seeds", median(learned["xavier"]) < math.inf))
            statements.append(holds("but later than Kaiming", max(learned["kaiming"]) < min(learned["xavier"])))
        return Outcome(
            "; ".join(f"{init} {_when(learned[init])}" for init in INITS), tuple(statements), {"curves": found}
        )

    return measure


def _when(steps: list[float]) -> str:
    if min(steps) == math.inf:
        return f"not in {STEPS} steps"
    soon = [f"{s:g}" for s in sorted(steps) if s < math.inf]
    never = f" (not from {len(steps) - len(soon)} of {len(steps)} seeds)" if len(soon) < len(steps) else ""
    return f"learns after {', '.join(soon)} steps{never}"
