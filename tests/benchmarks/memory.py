"""Peak memory of a whole check beside that of one bare forward and backward pass, each in a fresh process.

    python tests/benchmarks/memory.py [--threads N] [--repeats N] [--only NAME]

The peak is the process's largest resident set (``ru_maxrss``) less what is resident once the model and its inputs are built and
a small model has been through the same code, so that libraries and kernels do not count. Wanted: at most the bare step's peak and
one more copy of the parameters. The networks are those of ``cost.py``.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys

import torch
from torch import nn

import cost

MIB = 2**20


def resident() -> float:
    """MiB in this process's resident set now (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def peak() -> float:
    """MiB in this process's largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(name: str, kind: str) -> None:
    """Print the peak over the start of one action, and the size of the parameters, in MiB."""
    action = {"bare": cost.bare_step, "probe": cost.probe, "check": cost.check}[kind]
    action(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), torch.randn(4, 8))
    build, make_inputs = cost.CASES[name]
    model, inputs = build(), make_inputs()
    parameters = sum(p.numel() * p.element_size() for p in model.parameters()) / MIB
    before = resident()
    action(model, inputs)
    print(peak() - before, parameters)


def main() -> None:
    """Run the processes and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="the cases whose name contains this")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        one(*options.one)
        return
    print(
        f"torch {torch.__version__}, {options.threads} threads, MiB over the built model, medians of {options.repeats} processes"
    )
    print(f"{'network':20} {'parameters':>10} {'bare':>7} {'probe':>7} {'check':>7} {'allowed':>8}")
    for name in cost.CASES:
        if options.only and options.only not in name:
            continue
        found: dict[str, float] = {}
        size = 0.0
        for kind in ("bare", "probe", "check"):
            peaks = []
            for _ in range(options.repeats):
                command = [sys.executable, __file__, "--threads", str(options.threads), "--one", name, kind]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                most, size = map(float, done.stdout.split())
                peaks.append(most)
            found[kind] = statistics.median(peaks)
        allowed = found["bare"] + size
        line = f"{name:20} {size:10.0f} {found['bare']:7.0f} {found['probe']:7.0f} {found['check']:7.0f} {allowed:8.0f}"
        print(line + ("" if found["check"] <= allowed else "  above"))


if __name__ == "__main__":
    main()
