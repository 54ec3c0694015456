"""How often a baseline raises a false alarm, and whether it catches a weight whose std is a tenth off.

    python tests/benchmarks/baseline.py FOLDER [--runs 1000] [--baselines 5]

FOLDER holds labelled architectures, see verdict.py. Five of them are initialized anew RUNS times each, probed, and compared
with baselines recorded from other seeds, through the text of the file and at the default rate. Then the std of a 512x512
weight is multiplied by 1.1 and by 1/1.1, for every kind of draw.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tabulate import tabulate

import pairs
from pytest_initcheck.models.inputs import resolve_inputs
from pytest_initcheck.plugin.baseline_file import dump, load
from pytest_initcheck.plugin.configuration import ALPHA
from pytest_initcheck.probing.guard import untouched
from pytest_initcheck.probing.probe import run_probe
from pytest_initcheck.probing.statistics import kurtosis, measure, settle
from pytest_initcheck.schemes import BY_FANS, by_fans, fill_
from pytest_initcheck.statements.drift import Sample, comparisons, drifted, sample_of


def samples(model: torch.nn.Module, inputs: object) -> dict[str, Sample]:
    """What a check finds out about every parameter."""
    call = resolve_inputs(model, inputs, seed=0)
    with untouched(model, tensors=call.tensors) as guard:
        trace = run_probe(model, call, guard=guard, loss=None, seed=0, mode="train").trace
    found = {name: sample_of(p) for name, p in trace.parameters.items()}
    return {name: sample for name, sample in found.items() if sample is not None}


def main() -> None:
    """Count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--baselines", type=int, default=5)
    options = parser.parse_args()
    modules, _ = pairs.load(options.folder)
    known = [*modules.archs.ARCHS]
    known = known[:: max(1, len(known) // 5)][:5]
    inputs = {arch: pairs.inputs_of(arch, modules) for arch in known}

    def model(arch: str, seed: int) -> torch.nn.Module:
        made: torch.nn.Module = modules.archs.make(arch, seed)
        return made

    kept = [
        load(dump({a: samples(model(a, 10_000_000 + i), inputs[a]) for a in known}), called="baseline")
        for i in range(options.baselines)
    ]
    shares = [ALPHA / sum(comparisons(s) for s in baseline.values()) for baseline in kept]
    rows = []
    for arch in known:
        alarms = 0
        for seed in range(options.runs):
            now = samples(model(arch, seed), inputs[arch])
            alarms += sum(
                bool(drifted(baseline[arch], now, alpha=share)) for baseline, share in zip(kept, shares, strict=True)
            )
        rows.append([arch, comparisons(kept[0][arch]), options.runs * len(kept), alarms])
    print(tabulate(rows, ["architecture", "tests", "comparisons of a model", "false alarms"]), flush=True)

    print()
    rows = []
    for scheme in (s for s in BY_FANS if s not in ("identity", "zeros")):
        caught = tried = 0
        for seed in range(100):
            generator = torch.Generator().manual_seed(seed)
            was, now = torch.empty(512, 512), torch.empty(512, 512)
            draw = by_fans(scheme, 512, 512, "relu", units=512)
            for tensor in (was, now):
                fill_(tensor, draw, generator=generator)
            for factor in (1.1, 1 / 1.1):
                tried += 1
                found = drifted({"w": _sample(was)}, {"w": _sample(now * factor)}, alpha=shares[0])
                caught += any(d.kind in ("std", "constant") for d in found)
        rows.append([scheme, tried, caught])
    print(tabulate(rows, ["draw of a 512x512 weight", "std times 1.1 or 1/1.1", "caught"]))


def _sample(x: torch.Tensor) -> Sample:
    (value,), (peak,) = settle([measure(x)]), kurtosis([x])
    assert value is not None
    constant = value.min if value.min == value.max else None
    return Sample(tuple(x.shape), "float32", constant, value.mean, value.std, peak, value.zeros)


if __name__ == "__main__":
    main()
