"""Rows 16 and 17: Glorot and Bengio's five hidden layers of tanh, from Xavier's initialization and from the older heuristic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch.nn.functional as F
from torch import nn

from ..apply import apply_init
from ..models.inputs import resolve_inputs
from ..probing.guard import untouched
from ..probing.probe import run_probe
from ..schemes.draws import Draw
from .agreement import holds
from .images import KINDS, SIDE, Images, draw
from .outcome import Effort, Outcome
from .training import Curve, train

HIDDEN, WIDTH = 5, 300
STEPS, BATCH = 6000, 10
RATES = (0.05, 0.1)
INITS = ("xavier", "standard")
#: Images that the gradients are measured on.
_LOOK = 300


@dataclass(frozen=True, slots=True)
class Run:
    """One training and the gradients on the way.

    Attributes:
        curve: how it learned.
        variances: look -> variance of the weight gradient of each hidden layer, lowest first.
    """

    curve: Curve
    variances: tuple[tuple[float, ...], ...]


def network(init: str, *, seed: int) -> nn.Sequential:
    """Return the network: ``"xavier"`` uniform, or ``"standard"``: uniform in +-1/sqrt(fan_in)."""
    layers: list[nn.Module] = [nn.Flatten()]
    for i in range(HIDDEN):
        layers += [nn.Linear(WIDTH if i else SIDE * SIDE, WIDTH), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, len(KINDS)))
    scheme: str | Mapping[str, str | Draw] = "xavier_uniform"
    if init == "standard":
        scheme = {
            **{
                f"{name}.weight": Draw("uniform", 1 / math.sqrt(3 * module.in_features))
                for name, module in model.named_children()
                if isinstance(module, nn.Linear)
            },
            "*.bias": "zeros",
        }
    apply_init(model, scheme, draw(2, seed=0).pixels, seed=seed)
    return model


@lru_cache(maxsize=1)
def _data() -> tuple[Images, Images]:
    return draw(6000, seed=1), draw(1000, seed=2)


@lru_cache(maxsize=32)
def run(init: str, rate: float, seed: int) -> Run:
    """Train the network and measure the weight gradients on the way, by the probe."""
    images, held_out = _data()
    model = network(init, seed=seed)
    pixels, labels = images.pixels[:_LOOK], images.labels[:_LOOK]
    names = [f"{2 * i + 1}.weight" for i in range(HIDDEN)]
    variances: list[tuple[float, ...]] = []

    def watch(_step: int) -> None:
        call = resolve_inputs(model, pixels)
        with untouched(model, tensors=call.tensors) as guard:
            trace = run_probe(model, call, guard=guard, loss=lambda out: F.cross_entropy(out, labels)).trace
        gradients = [trace.parameters[name].gradient for name in names]
        variances.append(tuple(g.std**2 if g is not None else math.nan for g in gradients))

    curve = train(
        model,
        images,
        held_out,
        rate=rate,
        momentum=0.0,
        steps=STEPS,
        batch=BATCH,
        seed=seed,
        name=f"{init} tanh network, learning rate {rate:g}, seed {seed}",
        watch=watch,
    )
    return Run(curve, tuple(variances))


def typical(run: Run) -> tuple[float, ...]:
    """Geometric mean over the training of the variance of each hidden layer's weight gradient."""
    return tuple(math.exp(sum(map(math.log, layer)) / len(layer)) for layer in zip(*run.variances, strict=True))


def gradients(effort: Effort) -> Outcome:
    """Row 16: weight gradients layer by layer, while the network trains."""
    rate = RATES[-1]
    found = {init: [typical(run(init, rate, seed)) for seed in range(effort.trainings)] for init in INITS}
    gaps = {init: [max(v) / min(v) for v in runs] for init, runs in found.items()}
    lower = [v[0] == max(v) and v[-1] < 2 * min(v) for v in found["standard"]]
    started = {
        init: [max(v) / min(v) for v in (run(init, rate, s).variances[0] for s in range(effort.trainings))]
        for init in INITS
    }
    words = {init: f"x{min(g):.2g} to x{max(g):.2g}" for init, g in gaps.items()}
    return Outcome(
        f"largest over smallest variance: Xavier {words['xavier']}, standard {words['standard']}",
        (
            holds("the gap is larger from the standard initialization", min(gaps["standard"]) > max(gaps["xavier"])),
            holds("Xavier: within a factor of ten", max(gaps["xavier"]) < 10),
            holds("standard: highest at the lowest layer, least at the top", all(lower)),
        ),
        {"variances": found, "gap_at_start": started, "gap": gaps},
    )


def convergence(effort: Effort) -> Outcome:
    """Row 17: how soon and how well both learn, each at the better of two learning rates."""
    best: dict[str, list[Curve]] = {}
    for init in INITS:
        best[init] = [
            max((run(init, rate, seed).curve for rate in RATES), key=lambda c: c.best)
            for seed in range(effort.trainings)
        ]
    reached = {init: [c.first(0.5) or math.inf for c in curves] for init, curves in best.items()}
    top = {init: [c.best for c in curves] for init, curves in best.items()}

    def said(init: str) -> str:
        soon = [f"{steps:g}" for steps in sorted(reached[init]) if steps < math.inf]
        when = f"after {', '.join(soon)} steps" if soon else "never"
        never = (
            f", not from {len(reached[init]) - len(soon)} of {len(reached[init])} seeds"
            if len(soon) < len(reached[init])
            else ""
        )
        return f"{init} {sum(top[init]) / len(top[init]):.0%} (50 % {when}{never})"

    return Outcome(
        f"accuracy: {said('xavier')}, {said('standard')}",
        (
            holds("Xavier gets to 50 % sooner", max(reached["xavier"]) < min(reached["standard"])),
            holds("and to a higher accuracy", min(top["xavier"]) > max(top["standard"])),
        ),
        {"curves": best},
    )
