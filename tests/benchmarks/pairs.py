"""Labelled pairs of architecture and init fault, with the code that builds and trains them: what two benchmarks share."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

#: Share of the clean model's progress from which on a fault counts as cured (the folder's own line for "harmless").
ENOUGH = 0.85


def load(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return the modules of the folder and its labels, on one thread and with denormals flushed as its labels were made."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    sys.path.insert(0, str(folder))
    modules = argparse.Namespace(**{name: importlib.import_module(name) for name in ("archs", "faults", "train")})
    return modules, json.loads((folder / "labels.json").read_text())


def inputs_of(arch: str, modules: Any) -> Any:
    """Return a batch as check_init and apply_init take it."""
    batch = modules.archs.batch_of(arch, 777)
    return (*batch["args"], batch["kwargs"]) if batch["kwargs"] else batch["args"]


def progress(
    arch: str,
    fault: str,
    repair: Callable[[torch.nn.Module], object],
    clean: dict[str, Any],
    modules: Any,
    *,
    enough: float = ENOUGH,
) -> dict[str, float]:
    """Share of the clean model's progress that a repaired copy makes, by learning rate of Adam; stops once it is enough."""
    ref, floor = clean["ref"], clean["end"]["adam"]
    best = clean["best_lr"]["adam"]
    found: dict[str, float] = {}
    for rate in sorted(modules.train.LRS["adam"], key=lambda r: r != best):
        model, _ = modules.faults.build_pair(arch, fault)
        torch.manual_seed(0)
        repair(model)
        losses, _ = modules.train.train(arch, model, "adam", rate, floor)
        found[str(rate)] = (ref - modules.train.end(losses)) / (ref - floor)
        if found[str(rate)] >= enough:
            break
    return found
