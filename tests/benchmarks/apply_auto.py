"""Whether apply_init(model, "auto") cures: apply it to faulty models and to clean ones, train, compare.

    python tests/benchmarks/apply_auto.py FOLDER [--scheme auto] [--arch a,b] [--fault a,b] [--out apply_auto.json]

FOLDER holds labelled pairs of architecture and init fault with the code that builds and trains them. Every pair that is
harmed by its weights or biases is built, initialized with the scheme, and trained with Adam at the folder's learning
rates; it is cured if the best of them reaches 85 % of the progress that the clean model makes. Clean models are
initialized and trained likewise, over several seeds; none may lose more than 5 %. Prints both, and every exception.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from pairs import ENOUGH, inputs_of, load, progress
from pytest_initcheck import apply_init

#: What a clean model may lose.
LOSS = 0.05


def main() -> None:
    """Initialize, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scheme", default="auto")
    parser.add_argument("--arch", help="only these architectures, separated by commas")
    parser.add_argument("--fault", help="only these faults, separated by commas; clean for the clean models")
    parser.add_argument("--seeds", type=int, default=3, help="initializations of each clean model (default: 3)")
    parser.add_argument("--out", type=Path, help="JSON of every pair")
    options = parser.parse_args()
    modules, labels = load(options.folder)
    harmed = [p for p in labels["pairs"] if p["label"] == "harmed"]
    todo = [(p["arch"], p["fault"], 0) for p in harmed]
    todo += [(arch, "clean", seed) for arch in labels["clean"] for seed in range(options.seeds)]
    todo = [t for t in todo if not options.arch or t[0] in options.arch.split(",")]
    todo = [t for t in todo if not options.fault or t[1] in options.fault.split(",")]
    rows: list[dict[str, Any]] = []
    for arch, fault, seed in todo:
        inputs = inputs_of(arch, modules)

        def repair(model: torch.nn.Module, inputs: Any = inputs, seed: int = seed) -> None:
            apply_init(model, options.scheme, inputs, seed=seed)

        enough = 1 - LOSS if fault == "clean" else ENOUGH
        reached = progress(arch, fault, repair, labels["clean"][arch], modules, enough=enough)
        rows.append({"arch": arch, "fault": fault, "seed": seed, "progress": reached})
        if options.out:
            options.out.write_text(json.dumps(rows, indent=1))
    for title, some, enough in (
        ("harmed pairs, cured", [r for r in rows if r["fault"] != "clean"], ENOUGH),
        ("clean models, no worse", [r for r in rows if r["fault"] == "clean"], 1 - LOSS),
    ):
        held = [r for r in some if max(r["progress"].values()) >= enough]
        share = len(held) / max(len(some), 1)
        print(f"{title} (at least {enough:.0%} of the clean progress): {len(held)}/{len(some)} = {share:.3f}")
        for r in some:
            if r not in held:
                reached = ", ".join(f"{p:.2f} at {rate}" for rate, p in r["progress"].items())
                print(f"  not: {r['arch']} {r['fault']}, seed {r['seed']}: {reached}")


if __name__ == "__main__":
    main()
