"""Started by torchrun: sharded models get the report of the unsharded one, on every rank, and are left as they were.

Arguments: layouts (comma-separated, or ``all``), then sick models. Prints a line for each thing that is not so.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
from networks import SICK, ids, layouts, net

from pytest_initcheck import Report, check_init
from pytest_initcheck.check import check
from pytest_initcheck.settings import Settings


def concluded(report: Report) -> list[Any]:
    # DDP's parameters are its module's.
    return [(f.rule, f.severity, f.layers, f.fix.replace("model.module.", "model.")) for f in report.findings]


def values(model: Any) -> dict[str, torch.Tensor]:
    held = model.state_dict()
    return {n: (t.to_local() if hasattr(t, "to_local") else t).clone() for n, t in held.items()}


def compared(name: str, one: Report, other: Report) -> list[str]:
    """What differs in the numbers, beyond rounding."""
    wrong = []
    if list(one.layers) != list(other.layers):
        wrong.append(f"layers {list(other.layers)}")
    for p in one.parameters.values():
        q = other.parameters[p.name]
        assert p.value is not None
        assert q.value is not None
        pairs = [(p.value.std, q.value.std), (p.value.max, q.value.max), (p.twin_rows, q.twin_rows)]
        if "mixed" not in name and p.gradient is not None and p.gradient.rms > 1e-8:
            pairs += [(p.gradient.rms, q.gradient.rms if q.gradient is not None else 0.0)]
        if any(a != b and not abs(a - b) <= 1e-4 * abs(a) for a, b in pairs if a == a):
            wrong.append(f"{p.name}: {pairs}")
        for field in ("shape", "fan_in", "fan_out", "role", "followed_by", "origin", "reached", "kind"):
            if getattr(p, field) != getattr(q, field):
                wrong.append(f"{p.name}.{field}: {getattr(p, field)} became {getattr(q, field)}")
    for layer in one.layers.values():
        rms = other.layers[layer.name].activation.rms
        if "mixed" not in name and abs(layer.activation.rms - rms) > 1e-4 * layer.activation.rms:
            wrong.append(f"{layer.name}: {layer.activation.rms} became {rms}")
    return wrong


def raced(one: Report, other: Report) -> list[str]:
    """What differs in the race, beyond what rounding makes of forty steps."""
    if one.race is None or other.race is None:
        return [] if one.race is other.race else [f"race: {one.race} became {other.race}"]
    told = [(r.outcome, [h.task for h in r.heats], r.apart.keys(), r.alone) for r in (one.race, other.race)]
    apart = max((abs(h.gone - g.gone) for h, g in zip(one.race.heats, other.race.heats, strict=False)), default=0.0)
    return [] if told[0] == told[1] and apart < 0.02 else [f"race: {one.race} became {other.race}"]


def main(wanted: str, sick: list[str]) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    spread = {n: make for n, make in layouts().items() if wanted == "all" or n in wanted.split(",")}
    for kind in sick or list(SICK):
        alone = check(net(kind), ids(), settings=Settings())
        for name, make in spread.items():
            if kind == "frozen" and name.endswith("vectors"):
                continue  # a flat vector is trained or it is not
            model = make(net(kind))
            before = values(model)
            report = check_init(model, ids(), timeout=60)
            wrong = [] if concluded(report) == concluded(alone) else [f"{concluded(alone)} became {concluded(report)}"]
            if kind != "infinite":
                wrong += compared(name, alone, report)
            if "mixed" not in name:
                wrong += raced(alone, report)
            wrong += [f"{n} was changed" for n, v in values(model).items() if not torch.equal(v, before[n])]
            wrong += ["a gradient was left"] if any(p.grad is not None for p in model.parameters()) else []
            for line in wrong:
                print(f"rank {rank}: {name}, {kind}: {line}\n", end="", flush=True)
            # It still trains: what FSDP and DDP keep between passes is in order.
            if kind == "healthy":
                model(ids()).float().square().mean().backward()
                if all(p.grad is None for p in model.parameters()):
                    print(f"rank {rank}: {name}: no gradient after the check\n", end="", flush=True)
    dist.destroy_process_group()
    print(f"rank {rank} done\n", end="", flush=True)


main(sys.argv[1], sys.argv[2:])
