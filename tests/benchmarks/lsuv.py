"""Whether LSUV does what it says: the std of what every weight computes, over the architectures of a folder.

    python tests/benchmarks/lsuv.py FOLDER [--tolerance 0.05]

FOLDER holds architectures with the code that builds them. Each is built clean, initialized with ``scheme="lsuv"`` on one
batch, and run again on that batch: prints, for each, how many weights were calibrated, which were left to other means and
why, and the smallest and the largest std of a calibrated output.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tabulate import tabulate

from pairs import inputs_of, load
from pytest_initcheck import apply_init


def main() -> None:
    """Initialize, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.05)
    options = parser.parse_args()
    modules, labels = load(options.folder)
    rows = []
    for arch in labels["clean"]:
        model, _ = modules.faults.build_pair(arch, "clean")
        plan = apply_init(model, "lsuv", inputs_of(arch, modules), seed=0, tolerance=options.tolerance)
        stds = [float(c.why.rpartition(" ")[2]) for c in plan if "its output has std" in c.why]
        others = {
            c.why.partition(":")[0].partition(",")[0] for c in plan if c.place.role == "weight" and "std" not in c.why
        }
        within = all(abs(s - 1) <= options.tolerance for s in stds)
        rows.append([arch, len(stds), min(stds), max(stds), "yes" if within else "NO", "; ".join(sorted(others))])
    heads = ["architecture", "calibrated", "least std", "largest std", f"within {options.tolerance:g}", "others"]
    print(tabulate(rows, heads, tablefmt="simple", floatfmt=".3f"))


if __name__ == "__main__":
    main()
