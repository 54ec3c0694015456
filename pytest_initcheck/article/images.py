"""Images to learn from, drawn where they are needed: six shapes of any place, size and contrast, in noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("disk", "ring", "square", "frame", "plus", "triangle")
#: Pixels along one side.
SIDE = 16


@dataclass(frozen=True, slots=True)
class Images:
    """Images and what they show.

    Attributes:
        pixels: ``[n, 1, SIDE, SIDE]``, of mean 0 and std 1 over all.
        labels: ``[n]``, indices into :data:`KINDS`.
    """

    pixels: Tensor
    labels: Tensor

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return ``size`` of them by chance, with their labels."""
        chosen = torch.randint(len(self.labels), (size,), generator=generator)
        return self.pixels[chosen], self.labels[chosen]


def draw(count: int, *, seed: int) -> Images:
    """Return ``count`` images; the same for the same seed."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(KINDS), (count,), generator=g)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=g)

    size = between(0.35, 0.7)
    along = torch.linspace(-1, 1, SIDE)
    y = ((along.view(1, -1, 1) - between(-0.3, 0.3)) / size).expand(count, SIDE, SIDE)
    x = ((along.view(1, 1, -1) - between(-0.3, 0.3)) / size).expand(count, SIDE, SIDE)
    radius, box, arms = torch.hypot(x, y), torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    masks = {
        "disk": radius < 1,
        "ring": (radius < 1) & (radius > 0.6),
        "square": box < 0.9,
        "frame": (box < 0.9) & (box > 0.5),
        "plus": (box < 1) & (arms < 0.3),
        "triangle": (y < 0.8) & (y > -1) & (x.abs() < (y + 1) / 1.8),
    }
    shown = torch.stack([masks[kind] for kind in KINDS])[labels, torch.arange(count)].float()
    contrast = between(0.5, 1.5) * torch.where(between(0, 1) < 0.5, -1.0, 1.0)
    pixels = shown * contrast + 0.3 * torch.randn(count, SIDE, SIDE, generator=g)
    return Images(((pixels - pixels.mean()) / pixels.std()).unsqueeze(1), labels)
