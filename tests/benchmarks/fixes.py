"""Whether the fixes that reports offer help: apply each to a fresh copy, train it, and compare with the clean model.

    python tests/benchmarks/fixes.py FOLDER [--hurt] [--arch a,b] [--out fixes.json]

FOLDER holds labelled pairs of architecture and init fault with the code that builds and trains them (``labels.json``,
``archs.py``, ``faults.py``, ``train.py``). Every harmed pair (with ``--hurt``, every hurt one, too) is checked as it stands;
the text of the first error's fix is executed with the names ``model``, ``inputs`` and ``torch`` on a fresh copy; the
copy is trained with Adam at the folder's learning rates. A fix holds if the best of them reaches 85 % of the progress that
the clean model makes. Prints the two shares and every pair that has no fix or whose fix does not hold.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from pairs import ENOUGH, inputs_of, load, progress
from pytest_initcheck import check_init


def offered(arch: str, fault: str, modules: Any) -> tuple[str, str, list[str]]:
    """Text of the fix of the first error that has one, the rule that offers it, and all rules that fail."""
    model, _ = modules.faults.build_pair(arch, fault)
    report = check_init(model, inputs_of(arch, modules))
    errors = [f for f in report.findings if f.severity == "error"]
    first = next((f for f in errors if f.fix), None)
    return (first.fix, first.rule, [f.rule for f in errors]) if first else ("", "", [f.rule for f in errors])


def main() -> None:
    """Check, repair, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hurt", action="store_true", help="also the pairs that only suffer")
    parser.add_argument("--arch", help="only these architectures, separated by commas")
    parser.add_argument("--fault", help="only these faults, separated by commas")
    parser.add_argument("--out", type=Path, help="JSON of every pair")
    options = parser.parse_args()
    modules, labels = load(options.folder)
    kinds = ("harmed", "hurt") if options.hurt else ("harmed",)
    pairs = [p for p in labels["pairs"] if p["label"] in kinds]
    pairs = [p for p in pairs if not options.arch or p["arch"] in options.arch.split(",")]
    pairs = [p for p in pairs if not options.fault or p["fault"] in options.fault.split(",")]
    rows: list[dict[str, Any]] = []
    for pair in pairs:
        arch, fault, start = pair["arch"], pair["fault"], time.perf_counter()
        fix, rule, failing = offered(arch, fault, modules)
        row = {
            "arch": arch,
            "fault": fault,
            "label": pair["label"],
            "without": pair["progress"]["adam"],
            "failing": failing,
        }
        row |= {"fix": fix, "rule": rule, "check_seconds": time.perf_counter() - start}
        if fix:
            inputs = inputs_of(arch, modules)

            def repair(model: torch.nn.Module, fix: str = fix, inputs: Any = inputs) -> None:
                exec(fix, {"model": model, "inputs": inputs, "torch": torch})

            row["progress"] = progress(arch, fault, repair, labels["clean"][arch], modules)
        rows.append(row)
        if options.out:
            options.out.write_text(json.dumps(rows, indent=1))
    for kind in kinds:
        report([r for r in rows if r["label"] == kind], kind)


def report(rows: list[dict[str, Any]], kind: str) -> None:
    """Print the shares of one label, and what failed."""
    fixed = [r for r in rows if r["fix"]]
    held = [r for r in fixed if max(r["progress"].values()) >= ENOUGH]
    share = f"{len(fixed)}/{len(rows)} = {len(fixed) / max(len(rows), 1):.3f}"
    print(f"{kind}: fix offered for {share} (at least 0.80 wanted of the harmed)")
    share = f"{len(held)}/{len(fixed)} = {len(held) / max(len(fixed), 1):.3f}"
    print(f"{kind}: of these, reach {ENOUGH:.0%} of the clean progress {share} (at least 0.95 wanted)")
    for r in rows:
        if not r["fix"]:
            print(f"  no fix: {r['arch']} {r['fault']}: {', '.join(r['failing']) or 'no error found'}")
    for r in fixed:
        if r not in held:
            reached = ", ".join(f"{p:.2f} at {rate}" for rate, p in r["progress"].items())
            print(f"  does not hold: {r['arch']} {r['fault']} ({r['rule']}): {reached}")
            print("    " + r["fix"].replace("\n", "\n    "))


if __name__ == "__main__":
    main()
