"""How good the verdict is on labelled pairs of architecture and init fault, and how much of that its thresholds owe to them.

    python tests/benchmarks/verdict.py FOLDER [--seeds 20] [--cache observations.pickle]

FOLDER holds the pairs (``labels.json``, ``archs.py``, ``faults.py``), a scorer (``score.py``) and per-layer bounds to compare
with (``naive.py``, ``naive_tight.py``). Everything is checked once, fixes aside; prints, as Markdown,

1. recall and false alarms with the shipped thresholds, beside those of the bounds, and where reports lay the fault;
2. whether clean models of every architecture get the same verdict from seed to seed;
3. leave-one-architecture-out: the thresholds of ``thresholds.py`` chosen anew from the other architectures alone and
   applied to the one left out. Criterion: in the gap, on a log scale, between the harmless pairs' extreme and the nearest
   harmed one beyond it, halfway; where nothing harmed lies beyond, the harmless extreme moved by half a decade. "Beyond" counts
   only pairs that no other rule fails. Shares that are left of an error are compared by their distance from 1.
"""

from __future__ import annotations

import argparse
import importlib
import math
import pickle
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from pytest_initcheck import check as checking
from pytest_initcheck import examine as examining
from pytest_initcheck import rules, thresholds
from pytest_initcheck.rules import Case
from pytest_initcheck.settings import Settings

#: Rules that only these thresholds decide.
JUDGED = ("unresponsive", "unreachable-targets", "chaotic-response")


@dataclass
class Observed:
    """One checked model: what the rules saw, what they said, and what is true."""

    arch: str
    fault: str
    label: str
    needs: str
    case: Case
    failing: tuple[str, ...]
    warned: bool
    layers: tuple[str, ...]
    seconds: float

    def value(self, name: str) -> float | None:
        """The number that the threshold ``name`` of thresholds.py is compared with, ``None`` where it is not."""
        r = self.case.response
        if not r.movement:
            return None
        moved = max(r.movement)
        if name == "SILENT":
            return moved
        if name == "OUT_OF_REACH":
            return (r.output_centred_rms or 0.0) / r.unit
        if name == "CHAOTIC":
            return r.sensitivity
        if name == "UNREACHED":  # silent networks alone depend on it by itself
            return r.residual if moved < thresholds.SILENT and not r.token_fit else None
        if name == "ASTRAY":
            failed = r.residual is not None and r.residual >= thresholds.UNREACHED and moved >= thresholds.SILENT
            return r.alignment if failed and not r.token_fit else None
        return r.residual if r.token_fit else None


@dataclass(frozen=True)
class Threshold:
    """A constant of thresholds.py.

    Attributes:
        above: whether values above it are faults, rather than those below.
        scale: to a scale on which halfway makes sense, and its inverse.
    """

    name: str
    above: bool
    scale: tuple[Callable[[float], float], Callable[[float], float]]


def _log(x: float) -> float:
    return math.log10(max(x, 1e-12))


def _power(x: float) -> float:
    return float(10.0**x)


def _short(x: float) -> float:
    return -math.log10(max(1 - x, 1e-6))


def _unshort(x: float) -> float:
    return 1 - float(10.0**-x)


def _same(x: float) -> float:
    return x


LOG, SHORT, PLAIN = (_log, _power), (_short, _unshort), (_same, _same)
THRESHOLDS = [
    Threshold("SILENT", False, LOG),
    Threshold("UNREACHED", True, SHORT),
    Threshold("ASTRAY", False, PLAIN),
    Threshold("OUT_OF_REACH", True, LOG),
    Threshold("CHAOTIC", True, LOG),
    Threshold("TOKENS_UNREACHED", True, PLAIN),
]


def chosen(threshold: Threshold, training: list[Observed]) -> float:
    """The value of ``threshold`` by the criterion above, from ``training`` alone; the shipped one where nothing speaks."""
    to, back = threshold.scale
    sign = 1 if threshold.above else -1

    def values(observed: Iterable[Observed]) -> list[float]:
        found = [o.value(threshold.name) for o in observed]
        return [sign * to(v) for v in found if v is not None and math.isfinite(v)]

    fine = values(o for o in training if o.label in ("harmless", "clean"))
    # What other rules fail in any case says nothing about where this one's line must lie.
    sick = values(o for o in training if o.label == "harmed" and not set(o.failing) - set(JUDGED))
    if not fine:
        return float(getattr(thresholds, threshold.name))
    edge = max(fine)
    beyond = [v for v in sick if v > edge]
    return back(sign * ((edge + min(beyond)) / 2 if beyond else edge + 0.5 * (threshold.scale is LOG)))


def fails(observed: Observed) -> bool:
    """Whether the rules, with the thresholds as they are now, fail what was observed."""
    findings, _ = rules.judge(observed.case)
    return any(f.severity == "error" for f in findings)


def observe(folder: Path, modules: argparse.Namespace, seeds: int) -> list[Observed]:
    """Check every pair once and clean models of ``seeds`` seeds."""
    cases: list[Case] = []
    measured = examining._measured

    def remembered(*args: Any) -> examining.Measured:
        found = measured(*args)
        cases.append(found.case)
        return found

    examining._measured = remembered
    labels = modules.score.json.loads((folder / "labels.json").read_text())
    plan = [(p["arch"], p["fault"], 0, p["label"], p["needs"]) for p in labels["pairs"]]
    plan += [(arch, "clean", seed, "clean", "") for arch in labels["clean"] for seed in range(seeds)]
    found = []
    for arch, fault, seed, label, needs in plan:
        model, _ = modules.faults.build_pair(arch, fault, seed)
        batch = modules.archs.batch_of(arch, 777)
        args, kwargs = batch["args"], batch["kwargs"]
        start = modules.score.time.perf_counter()
        report = checking.check(model, (*args, kwargs) if kwargs else args, settings=Settings.of({}), fixes=False)
        seconds = modules.score.time.perf_counter() - start
        told = [f for f in report.findings if f.severity != "note"]
        names = tuple(dict.fromkeys(n for f in told for n in f.layers))
        failing = tuple(f.rule for f in told if f.severity == "error")
        warned = any(f.severity == "warning" for f in told)
        found.append(Observed(arch, fault, label, needs, cases[-1], failing, warned, names, seconds))
    examining._measured = measured
    return found


def share(hits: int, of: int) -> str:
    """``"12/13 = 92.3 %"``."""
    return f"{hits}/{of} = {100 * hits / of:.1f} %" if of else "none"


def bounds(folder: Path, name: str, modules: argparse.Namespace) -> dict[str, tuple[int, int]]:
    """How a judge of the folder does, by label; crashes count as not failed."""
    judge = importlib.import_module(name)
    labels = modules.score.json.loads((folder / "labels.json").read_text())
    counts: dict[str, tuple[int, int]] = {}
    plan = [(p["arch"], p["fault"], 0, p["label"], p["needs"]) for p in labels["pairs"]]
    plan += [(arch, "clean", seed, "clean", "") for arch in labels["clean"] for seed in range(5)]
    for arch, fault, seed, label, _ in plan:
        verdict = modules.score.one(judge, arch, fault, seed)
        hits, of = counts.get(label, (0, 0))
        counts[label] = (hits + (verdict["fail"] is True), of + 1)
    return counts


def ours(observed: Iterable[Observed]) -> dict[str, tuple[int, int]]:
    """The same for this tool."""
    counts: dict[str, tuple[int, int]] = {}
    for o in observed:
        hits, of = counts.get(o.label, (0, 0))
        counts[o.label] = (hits + (bool(o.failing) or (o.needs == "named" and o.warned)), of + 1)
    return counts


def localisation(observed: list[Observed], labels: dict[str, Any], score: ModuleType) -> list[str]:
    """Where the reports of detected local faults lay them."""
    pairs = {(p["arch"], p["fault"]): p for p in labels["pairs"]}
    found = []
    for o in observed:
        pair = pairs.get((o.arch, o.fault))
        detected = bool(o.failing) or (o.needs == "named" and o.warned)
        if pair and pair["scope"] in ("local", "defect") and pair["label"] != "harmless" and detected:
            found.append(score.loc(pair, {"layers": list(o.layers)[:10]}))
    kinds = ("first named is the culprit", "or its neighbour", "culprit among the first three")
    return [f"{kind}: {share(sum(f[i] for f in found), len(found))}" for i, kind in enumerate(kinds)]


def left_out(observed: list[Observed]) -> tuple[list[str], dict[str, tuple[int, int]]]:
    """Rows of the leave-one-architecture-out table, and its sums by label."""
    shipped = {t.name: getattr(thresholds, t.name) for t in THRESHOLDS}
    rows, sums = [], dict.fromkeys(("harmed", "harmless", "clean", "hurt", "defect"), (0, 0))
    try:
        for arch in dict.fromkeys(o.arch for o in observed):
            # Chosen with the shipped ones in place, so that no choice depends on the order.
            others = [o for o in observed if o.arch != arch]
            values = {t.name: chosen(t, others) for t in THRESHOLDS}
            for name, value in values.items():
                setattr(thresholds, name, value)
            row = {}
            for label in sums:
                mine = [o for o in observed if o.arch == arch and o.label == label]
                row[label] = sum(fails(o) or (o.needs == "named" and o.warned) for o in mine), len(mine)
                sums[label] = (sums[label][0] + row[label][0], sums[label][1] + row[label][1])
            cells = [arch, *(f"{v:.4g}" for v in values.values())]
            cells += [f"{hits}/{of}" for hits, of in (row[k] for k in ("harmed", "harmless", "clean"))]
            rows.append("| " + " | ".join(cells) + " |")
            for name, value in shipped.items():
                setattr(thresholds, name, value)
    finally:
        for name, value in shipped.items():
            setattr(thresholds, name, value)
    return rows, sums


def main() -> None:
    """Observe, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=20, help="clean models of each architecture")
    parser.add_argument("--cache", type=Path, help="keep what was observed here, and read it from here")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    sys.path.insert(0, str(options.folder))
    modules = argparse.Namespace(**{n: importlib.import_module(n) for n in ("archs", "faults", "score")})
    labels = modules.score.json.loads((options.folder / "labels.json").read_text())
    if options.cache and options.cache.exists():
        observed: list[Observed] = pickle.loads(options.cache.read_bytes())
    else:
        observed = observe(options.folder, modules, options.seeds)
        if options.cache:
            options.cache.write_bytes(pickle.dumps(observed))
    sums = ours(observed)
    print(f"{len(labels['pairs'])} pairs, {len(labels['clean'])} architectures, torch {torch.__version__}.\n")
    rows, without = left_out(observed)
    tools = {"bounds [1e-3, 1e3]": bounds(options.folder, "naive", modules)}
    tools["bounds [0.1, 10]"] = bounds(options.folder, "naive_tight", modules)
    tools |= {"this tool, shipped thresholds": sums, "this tool, leave-one-architecture-out": without}
    print(
        "| judge | harmed found | defects found | harmless failed | clean failed | hurt failed |\n|---|---|---|---|---|---|"
    )
    for tool, counts in tools.items():
        cells = (share(*counts.get(k, (0, 0))) for k in ("harmed", "defect", "harmless", "clean", "hurt"))
        print(f"| {tool} | {' | '.join(cells)} |")
    print(
        "\nThis tool's reports of detected local faults: "
        + "; ".join(localisation(observed, labels, modules.score))
        + "."
    )
    seconds = sorted(o.seconds for o in observed)
    print(f"One check without fixes takes {seconds[len(seconds) // 2]:.2f} s (median; one thread).\n")
    print("| architecture | clean seeds failed | rules of errors and warnings |\n|---|---|---|")
    for arch in labels["clean"]:
        clean = [o for o in observed if o.arch == arch and o.label == "clean"]
        told = sorted({rule for o in clean for rule in o.failing})
        warned = sum(o.warned for o in clean)
        print(f"| {arch} | {sum(bool(o.failing) for o in clean)}/{len(clean)} | {', '.join(told) or 'none'}"
              f"{f'; warnings on {warned}' if warned else ''} |")  # fmt: skip
    print("\n| left out | " + " | ".join(t.name for t in THRESHOLDS) + " | harmed | harmless | clean |")
    print("|---" * (len(THRESHOLDS) + 4) + "|")
    print("| shipped | " + " | ".join(f"{getattr(thresholds, t.name):.3g}" for t in THRESHOLDS) + " | | | |")
    print("\n".join(rows))
    missed = [f"{o.arch} {o.fault}" for o in observed if o.label == "harmed" and not o.failing]
    alarms = [
        f"{o.arch} {o.fault} ({', '.join(o.failing)})"
        for o in observed
        if o.label in ("harmless", "clean") and o.failing
    ]
    print(
        f"\nHarmed and not found: {'; '.join(missed) or 'none'}.\n\nFailed without harm: {'; '.join(alarms) or 'none'}."
    )


if __name__ == "__main__":
    main()
