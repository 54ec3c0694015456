"""Whether a model trains once the offered fix is pasted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

from foundry_parts.drawing import draw
from foundry_parts.labelling import HARMLESS
from foundry_parts.scoring import PARTS, wilson
from foundry_parts.training import progress_of, sound_run, stream
from pytest_initcheck import check_init


def repaired(item: tuple[dict[str, Any], bool]) -> dict[str, Any]:
    """Check a record's model, paste the first error's fix, train, and compare with the sound twin under Adam."""
    record, with_loss = item
    drawn = draw(record["seed"])
    task, (inputs, target) = drawn.task, drawn.batch()
    loss = (lambda output: task.loss(output, target)) if with_loss else None
    report = check_init(drawn.model(), inputs, loss=loss)
    errors = [f for f in report.findings if f.severity == "error"]
    first = next((f for f in errors if f.fix), None)
    told = {**record, "rules": [f.rule for f in errors], "fix": first.fix if first else "", "reached": None}
    if first is None:
        return told

    def build() -> nn.Module:
        model = drawn.model()
        torch.manual_seed(0)
        exec(first.fix, {"model": model, "inputs": inputs, "torch": torch})
        return model

    try:
        batches = stream(task, drawn.seed * 10 + 5)
        best, rate = sound_run(drawn.sound, task, batches, "adam")
        told["reached"] = round(progress_of(build, task, batches, "adam", best, rate, HARMLESS), 2)
    except Exception as error:  # a fix that does not run
        told["reached"], told["crash"] = -9.0, repr(error)[:200]
    return told


def report_fixes(rows: list[dict[str, Any]]) -> None:
    """Print the shares, and the seeds that may be looked at."""
    for part, keep in PARTS.items():
        failed = [r for r in rows if keep(r) and r["rules"]]
        fixed = [r for r in failed if r["fix"]]
        held = sum(r["reached"] >= HARMLESS for r in fixed)
        if failed:
            print(f"{part}: fix offered for {wilson(len(fixed), len(failed))} of the errors")
            print(f"  of these, reach {HARMLESS:.0%} of the sound twin's progress: {wilson(held, len(fixed))}")
    for r in sorted(rows, key=lambda r: r["seed"]):
        if PARTS["chosen on"](r) and r["rules"] and (r["reached"] is None or r["reached"] < HARMLESS):
            fix = " / ".join(r["fix"].splitlines())[:100] or "no fix"
            print(f"  {r['seed']} {r['family']} {r['faults']} {r['rules']}: {r['reached']} {r.get('crash', '')} {fix}")
    print(dict(Counter(r["rules"][0] for r in rows if r["rules"] and not r["fix"])), "without a fix")
