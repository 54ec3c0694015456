"""From an integer to a model: which family, which initialization, which faults."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from torch import nn

from foundry_parts import defects, densities, grids, sequences, vectors
from foundry_parts.design import FAMILIES, Design
from foundry_parts.faults import FAULTS, Fault, draw_fault
from foundry_parts.tasks import Task
from foundry_parts.weights import SCHEMES, apply_scheme

__all__ = ["defects", "densities", "grids", "sequences", "vectors"]  # imported for what they register

#: Families that nothing is ever chosen on, whatever the seed.
LEFT_OUT = ("experts", "flow", "graph", "implicit", "siamese", "state_space", "unet")
#: Kinds of fault that come alone.
ALONE = ("constant", "unwritten", "frozen", "detached", "unused")
#: Shares of sound and of published initializations; the rest are faults.
SOUND, PUBLISHED = 0.33, 0.13


@dataclass
class Drawn:
    """A model with its task and what is wrong with it.

    Attributes:
        origin: "sound", "published" or "faults".
        faults: what was done to the sound initialization, in words.
        units, parameters: where; empty if everywhere.
        needs: "" unless it is a mistake whatever training says: "error", or "named" if a warning will do.
    """

    seed: int
    family: str
    design: Design
    origin: str = "sound"
    faults: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    needs: str = ""

    @property
    def task(self) -> Task:
        """The design's task."""
        return self.design.task

    def sound(self, again: int = 0) -> nn.Module:
        """The architecture with its own sound initialization; ``again`` draws it anew."""
        torch.manual_seed(self.seed * 10 + again)
        return self.design.build().train()

    def model(self) -> nn.Module:
        """The model as it is judged, built anew."""
        model = self.sound()
        self.spoil(model)
        return model

    def inputs(self) -> tuple[torch.Tensor, ...]:
        """A batch of inputs."""
        return self.batch()[0]

    def batch(self) -> tuple[tuple[torch.Tensor, ...], object]:
        """Inputs and targets of one batch, none that training sees."""
        return self.task.draw(self.task.batch, torch.Generator().manual_seed(self.seed * 10 + 7))

    @property
    def chosen(self) -> bool:
        """Whether thresholds may be chosen on it."""
        return may_choose(self.seed, self.family)

    def spoil(self, model: nn.Module) -> list[Fault]:
        """Apply the scheme or the faults that were drawn to a soundly built model."""
        r = random.Random(f"foundry {self.seed} faults")
        if self.origin == "published":
            scheme = r.choice(sorted(SCHEMES))
            apply_scheme(model, scheme)
            return [Fault(scheme)]
        if self.origin != "faults":
            return []
        count = r.choices((1, 2, 3), (0.6, 0.25, 0.15))[0]
        among = [k for k in FAULTS if count == 1 or k not in ALONE]
        done: list[Fault] = []
        for _ in range(count):
            before = _fingerprint(model)
            for _ in range(8):  # a fault may change nothing: gates that are shut anyway, fans that are alike
                found = draw_fault(model, r, self.design.head, among)
                if found is not None and (found.defect or _fingerprint(model) != before):
                    done.append(found)
                    among.remove(found.kind)
                    break
        return done


def may_choose(seed: int, family: str) -> bool:
    """Whether thresholds may be chosen on a seed of a family."""
    return seed % 2 == 0 and family not in LEFT_OUT


def _fingerprint(model: nn.Module) -> list[bytes]:
    return [p.detach().numpy().tobytes() for p in model.parameters()]


def draw(seed: int) -> Drawn:
    """What ``seed`` stands for."""
    r = random.Random(f"foundry {seed}")
    family = r.choice(sorted(FAMILIES))
    u = r.random()
    drawn = Drawn(seed, family, FAMILIES[family](random.Random(f"foundry {seed} design")))
    drawn.origin = "sound" if u < SOUND else "published" if u < SOUND + PUBLISHED else "faults"
    done = drawn.spoil(drawn.sound())
    drawn.faults = [f.name for f in done]
    drawn.needs = next((f.defect for f in done if f.defect), "")
    if all(f.units for f in done):
        drawn.units = list(dict.fromkeys(u for f in done for u in f.units))
        drawn.parameters = list(dict.fromkeys(p for f in done for p in f.parameters))
    if not done:
        drawn.origin = "sound"
    return drawn


def design_of(family: str, seed: int) -> Drawn:
    """A sound model of one family, for those who ask for it by name."""
    return Drawn(seed, family, FAMILIES[family](random.Random(f"foundry {seed} design")))
