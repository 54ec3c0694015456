"""What the verdict says of labelled seeds, and how often it is right."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from foundry_parts.drawing import LEFT_OUT, Drawn, draw, may_choose
from foundry_parts.weights import unit_of
from pytest_initcheck import check_init

#: A judged seed: its record and what was said.
Judged = tuple[dict[str, Any], dict[str, Any]]
SEVERITIES = ("error", "warning", "note")


def judge(item: tuple[dict[str, Any], bool]) -> Judged:
    """Check what a record's seed stands for (or its sound twin), with its task's loss or without."""
    record, with_loss = item
    drawn = draw(record["seed"])
    if record["label"] == "twin":
        drawn.origin, drawn.units = "sound", []
    elif (drawn.family, drawn.faults) != (record["family"], record["faults"]):
        message = f"labelled as {record['family']} with {record['faults']}, now {drawn.family} with {drawn.faults}"
        raise ValueError(f"seed {record['seed']} is another model than the labels are of: {message}")
    inputs, target = drawn.batch()
    began = time.process_time()
    try:
        loss = (lambda output: drawn.task.loss(output, target)) if with_loss else None
        report = check_init(drawn.model(), inputs, loss=loss)
    except Exception as error:
        return record, {
            "fail": None,
            "warn": False,
            "layers": [],
            "rules": [],
            "seconds": 0.0,
            "crash": repr(error)[:200],
        }
    seconds = time.process_time() - began
    severity = {id(f): str(getattr(f.severity, "value", f.severity)) for f in report.findings}
    findings = sorted(report.findings, key=lambda f: SEVERITIES.index(severity[id(f)]))
    layers = list(dict.fromkeys(name for f in findings if severity[id(f)] != "note" for name in f.layers))
    verdict = {
        "fail": not report.ok,
        "warn": any(severity[id(f)] == "warning" for f in findings),
        "layers": layers[:10],
    }
    verdict["rules"] = [f.rule for f in findings if severity[id(f)] == "error"]
    verdict["race"] = report.race and {"outcome": report.race.outcome, "told": report.race.told}
    verdict["first"] = _place(drawn, layers) if drawn.units and not report.ok else None
    return record, {**verdict, "seconds": round(seconds, 3)}


def order(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[str]:
    """Modules and bare parameters in the order of a forward pass, what hangs on a module right after it."""
    called: list[str] = []
    hooks = []
    for path, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda m, a, path=path: called.append(path)))
    with torch.no_grad():
        model(*inputs)
    for hook in hooks:
        hook.remove()
    bare: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        unit = unit_of(name, model)
        if unit == name:
            bare.setdefault(name.rpartition(".")[0], []).append(name)
    found: list[str] = []
    for path in dict.fromkeys([*called, *bare]):
        found += [path] if path in called else []
        found += bare.get(path, [])
    return list(dict.fromkeys(found))


def _place(drawn: Drawn, layers: list[str]) -> str:
    """Where the first layer named lies: "target", "neighbour" or "elsewhere"."""
    if not layers:
        return "elsewhere"
    model = drawn.model()
    parents = {u.rpartition(".")[0] for u in drawn.units}
    owning = {unit_of(n, model) for n, _ in model.named_parameters()}
    path = [name for name in order(drawn.sound(), drawn.inputs()) if name in owning or not list(_children(model, name))]
    first = layers[0].replace(".parametrizations.weight", "")
    names = {n for n, _ in model.named_parameters()} | {
        n.replace(".parametrizations.weight", "") for n, _ in model.named_parameters()
    }
    first = unit_of(first, model) if first in names else first
    if first.endswith((".weight", ".bias")):
        first = first.rpartition(".")[0]
    if first in drawn.units:
        return "target"
    units = [i for i, name in enumerate(path) if name in owning]
    near: set[str] = {p for p in parents if p}
    for unit in drawn.units:
        if unit not in path:
            continue
        at = path.index(unit)
        before, after = [i for i in units if i < at], [i for i in units if i > at]
        near.update(path[max(before, default=at) : min(after, default=len(path) - 1) + 1])
    return "neighbour" if first in near else "elsewhere"


def _children(model: nn.Module, name: str) -> list[nn.Module]:
    try:
        return list(model.get_submodule(name).children())
    except AttributeError:
        return []


def wilson(hits: int, total: int) -> str:
    """A share with its 95 % interval."""
    if not total:
        return "-"
    z, p = 1.96, hits / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return f"{hits}/{total} = {100 * p:.1f} % ({100 * max(middle - half, 0):.1f} to {100 * min(middle + half, 1):.1f})"


def found(record: dict[str, Any], verdict: dict[str, Any]) -> bool:
    """Whether the verdict is what the label asks for, or for labels that ask for nothing, whether it failed the model."""
    return verdict["fail"] is True or (record.get("needs") == "named" and verdict["warn"])


#: Rows of the table: title, and the records that count.
ROWS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "harmed found": lambda r: r["label"] == "harmed",
    "  of clear margin (0.1)": lambda r: r["label"] == "harmed" and r["margin"] >= 0.1,
    "defects found": lambda r: r["label"] == "defect",
    "harmless failed": lambda r: r["label"] == "harmless",
    "  of clear margin (0.05)": lambda r: r["label"] == "harmless" and r["margin"] >= 0.05,
    "  published schemes among them": lambda r: r["label"] == "harmless" and r["origin"] == "published",
    "sound failed": lambda r: r["label"] == "sound",
    "sound twins of the others failed": lambda r: r["label"] == "twin",
    "hurt failed": lambda r: r["label"] == "hurt",
}
PARTS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "chosen on": lambda r: may_choose(r["seed"], r["family"]),
    "reported: other seeds": lambda r: r["seed"] % 2 == 1 and r["family"] not in LEFT_OUT,
    "reported: families left out": lambda r: r["family"] in LEFT_OUT,
}


def _naming(rows: list[Judged]) -> list[str]:
    placed = [v["first"] for _, v in rows if v.get("first")]
    right = sum(p == "target" for p in placed)
    return [wilson(right, len(placed)), wilson(right + sum(p == "neighbour" for p in placed), len(placed))]


def report(judged: list[Judged], out: Path | None) -> None:
    """Print the tables, and write a line for every verdict."""
    judged = sorted(judged, key=lambda j: j[0]["seed"])
    if out:
        lines = [
            json.dumps({"seed": r["seed"], "family": r["family"], "label": r["label"], "faults": r["faults"], **v})
            for r, v in judged
        ]
        out.write_text("\n".join(lines) + "\n")
    parts = {name: [j for j in judged if keep(j[0])] for name, keep in PARTS.items()}
    parts = {name: rows for name, rows in parts.items() if rows}
    table = []
    for title, keep in ROWS.items():
        cells = [[found(r, v) for r, v in rows if keep(r)] for rows in parts.values()]
        if any(cells):
            table.append([title, *(wilson(sum(c), len(c)) for c in cells)])
    named = [_naming([j for j in rows if j[0]["label"] != "harmless"]) for rows in parts.values()]
    table.append(["of those failed: first named is at fault", *(n[0] for n in named)])
    table.append(["  or next to it", *(n[1] for n in named)])
    print(tabulate(table, ["", *parts], tablefmt="github"))
    labels = [
        x for x in ("harmed", "defect", "harmless", "sound", "twin", "hurt") if any(r["label"] == x for r, _ in judged)
    ]
    rows = []
    for family in sorted({r["family"] for r, _ in judged}):
        those = [j for j in judged if j[0]["family"] == family]
        counts = [[found(r, v) for r, v in those if r["label"] == label] for label in labels]
        rows.append([family + (" *" if family in LEFT_OUT else ""), *(f"{sum(c)}/{len(c)}" for c in counts)])
    print()
    print(tabulate(rows, ["family (* left out)", *(f"{label} failed" for label in labels)], tablefmt="github"))
    _misses(judged)


def _misses(judged: list[Judged]) -> None:
    wrong = {
        "harmed, not failed": [(r, v) for r, v in judged if r["label"] == "harmed" and not found(r, v)],
        "defects, not named": [(r, v) for r, v in judged if r["label"] == "defect" and not found(r, v)],
        "harmless, failed": [(r, v) for r, v in judged if r["label"] == "harmless" and found(r, v)],
        "sound, failed": [(r, v) for r, v in judged if r["label"] in ("sound", "twin") and found(r, v)],
    }
    for title, rows in wrong.items():
        print(f"\n{title}: {len(rows)}")
        for kind, n in Counter(
            " + ".join(sorted({f.split()[0] for f in r["faults"]})) or "-" for r, _ in rows
        ).most_common(12):
            print(f"  {kind}: {n}")
        # the seeds to look at are those that may be chosen on
        shown = [
            f"{r['seed']} ({', '.join(v['rules'])})" if v["rules"] else str(r["seed"])
            for r, v in rows
            if PARTS["chosen on"](r)
        ]
        if shown:
            print("  seeds: " + ", ".join(shown[:40]))
    crashes = [(r["seed"], v["crash"]) for r, v in judged if v.get("crash")]
    print(f"\ncrashes: {len(crashes)} {crashes[:5]}; {sum(v['seconds'] for _, v in judged):.0f} core-s of checks")
