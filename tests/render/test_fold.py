"""Reports of thousands of layers: what repeats is one row, what differs is seen, and every format stays small."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest

from pytest_initcheck import render
from pytest_initcheck.records import Finding, LayerRecord, ParameterRecord, Stats, Trace
from pytest_initcheck.render import FORMATS, tables
from pytest_initcheck.report import Report

from . import samples

PARTS = (("fc", "Linear", 0.58), ("norm", "LayerNorm", 1.0), ("act", "ReLU", 0.41))


def stats(rms: float, draw: random.Random) -> Stats:
    rms *= draw.uniform(0.97, 1.03)
    mean = draw.gauss(0, rms / 50)
    return Stats(256, mean, math.sqrt(rms**2 - mean**2), rms, -3.3 * rms, 3.3 * rms, 0.0, True, draw.uniform(0.95, 1.0))


def layer(name: str, kind: str, rms: float, index: int, draw: random.Random) -> LayerRecord:
    owns = () if kind == "ReLU" else (f"{name}.weight", f"{name}.bias")
    activation, gradient = stats(rms, draw), stats(1e-3 * rms, draw)
    return LayerRecord(name, name, kind, False, True, index, (8, 32), "float32", activation, gradient, parameters=owns)


def weight(name: str, owner: LayerRecord, draw: random.Random) -> ParameterRecord:
    role = "weight" if name.endswith("weight") else "bias"
    value, gradient = stats(0.1, draw), stats(1e-4, draw)
    return ParameterRecord(name, owner.name, owner.kind, (32, 32), "float32", 32, 32, value, gradient, role=role)


def deep(blocks: int = 1000, size: Callable[[int, str], float] = lambda _block, _part: 1.0) -> Report:
    """A made report of ``blocks`` blocks of three layers; ``size(block, part)`` is a factor on a layer's signal."""
    draw = random.Random(0)
    layers = [
        layer(f"blocks.{i}.{part}", kind, rms * size(i, part), 3 * i + k, draw)
        for i in range(blocks)
        for k, (part, kind, rms) in enumerate(PARTS)
    ]
    weights = [weight(name, owner, draw) for owner in layers for name in owner.parameters]
    edges = {x.name: (before.name,) for before, x in pairwise(layers)}
    return Report("deep", True, (), Trace({x.name: x for x in layers}, {w.name: w for w in weights}, edges=edges))


@cache
def healthy() -> Report:
    return deep()


@cache
def sick() -> Report:
    return deep(size=lambda block, part: 1e-9 if (block, part) == (500, "fc") else 1.0)


def rows(report: Report, width: int = 80) -> list[list[str]]:
    """The cells of the table of layers."""
    return [re.split(r" {2,}", line) for line in tables.layers(report, width=width).splitlines()[3:]]


@pytest.mark.parametrize("width", [80, 200])
def test_what_repeats_is_one_row(width: int):
    text = tables.layers(healthy(), width=width)

    assert text.startswith("layers, 3000 in 3 rows: ")
    assert [row[:3] for row in rows(healthy(), width)] == [
        ["blocks.0..999.fc", "1000", "Linear"],
        ["blocks.0..999.norm", "1000", "LayerNorm"],
        ["blocks.0..999.act", "1000", "ReLU"],
    ]
    assert rows(healthy())[0][3] == "0.56..0.60"
    assert max(map(len, text.splitlines())) <= width


def test_one_that_differs_has_its_own_row():
    found = {row[0]: row for row in rows(sick())}

    assert list(found) == [
        "blocks.0..499.fc",
        "blocks.0..999.norm",
        "blocks.0..999.act",
        "blocks.500.fc",
        "blocks.501..999.fc",
    ]
    assert found["blocks.500.fc"][1] == "1"
    assert found["blocks.500.fc"][3] in ("5.7e-10", "5.8e-10", "5.9e-10", "6.0e-10")


@pytest.mark.parametrize("named", ["blocks.700.fc", "blocks.700.fc.weight"])
def test_what_a_finding_names_has_its_own_row_however_it_looks(named: str):
    report = replace(healthy(), findings=(Finding("dead-units", "error", (named,), "all zero"),))

    assert [row[:2] for row in rows(report)][3] == ["blocks.700.fc", "1"]
    assert "blocks.700.fc.weight  " in tables.parameters(report, width=80)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: replace(x, activation=replace(x.activation, rms=math.nan, finite=False)),
        lambda x: replace(x, gradient=None),
        lambda x: replace(x, dead_units=0.5),
        lambda x: replace(x, kind="Conv1d"),
        lambda x: replace(x, followed_by="tanh"),
        lambda x: replace(x, activation=replace(x.activation, variation=1e-7)),
        lambda x: replace(x, activation=replace(x.activation, zeros=1.0)),
    ],
    ids=["not finite", "no gradient", "dead", "kind", "followed by", "alike over the samples", "zeros"],
)
def test_whatever_differs_is_seen(change: Callable[[LayerRecord], LayerRecord]):
    layers = dict(healthy().layers)
    layers["blocks.321.norm"] = change(layers["blocks.321.norm"])
    report = replace(healthy(), trace=replace(healthy().trace, layers=layers))

    assert ["blocks.321.norm", "1"] in [row[:2] for row in rows(report)]


def test_a_signal_that_changes_over_depth_is_a_run_for_every_factor_of_two():
    report = deep(size=lambda block, _: 1e-8 ** (block / 999))

    found = [row for row in rows(report) if row[0].endswith(".fc")]

    assert 8 / math.log10(2) < len(found) < 40
    assert sum(int(row[1]) for row in found) == 1000


def test_a_short_table_has_a_row_for_every_record():
    report = deep(blocks=60)

    assert len(rows(report)) == 180
    assert "alike" not in tables.layers(report, width=80)


def test_a_narrow_overview_keeps_the_finding_before_all_numbers():
    found = [("models.py:ATransformerWithALongName", samples.vanishing()), ("models.py:Net", samples.healthy())]

    narrow, wide = (render.overview(found, width=width).splitlines() for width in (80, 140))

    (finding,) = (line.split("  ")[-1] for line in wide if "unhealthy" in line)
    (kept,) = (line.split("  ")[-1] for line in narrow if "unhealthy" in line)
    assert finding.startswith(kept)
    assert all(len(line) <= 80 for line in narrow)
    assert "layers" in wide[1]
    assert "layers" not in narrow[1]


def test_several_hundred_models_are_not_folded():
    found = [(f"zoo:model{i}", "could not be built") for i in range(300)]

    assert len(render.overview(found).splitlines()) == 303


@pytest.mark.parametrize("name", ["healthy", "sick"])
def test_sizes(name: str):
    report = healthy() if name == "healthy" else sick()

    sizes = {kind: len(FORMATS[kind]([report]).encode()) for kind in ("text", "json", "html", "markdown")}

    assert sizes["json"] < 4e6
    assert sizes["html"] < 2e6
    assert max(sizes["text"], sizes["markdown"]) < 2e4
    assert len(render.terminal(report, verbose=2, width=200)) < 2e4


def test_json_keeps_every_layer():
    data = json.loads(FORMATS["json"]([sick()]))[0]

    assert Report.from_dict(data) == sick()
    assert data["trace"]["layers"]["name"][1500] == "blocks.500.fc"
    assert data["trace"]["layers"]["activation"]["rms"][1500] == sick().layers["blocks.500.fc"].activation.rms


def test_html_leads_from_the_chart_to_the_row():
    page = FORMATS["html"]([sick()])
    places = [row.split() for row in re.findall(r'<tr data-i="([\d ]+)"', page)]

    assert "3000 layers in 5 rows" in page
    assert ["1500"] in places
    assert sorted(int(i) for row in places for i in row) == list(range(3000))


def _counted(report: Report) -> int:
    """How many values the tables ask for."""
    asked = 0

    class Counting(dict):  # type: ignore[type-arg]
        def values(self):
            nonlocal asked
            asked += 1
            return super().values()

    trace = replace(report.trace, layers=Counting(report.layers), parameters=Counting(report.parameters))
    FORMATS["html"]([replace(report, trace=trace)])
    return asked


def test_no_format_looks_through_all_layers_for_each_layer():
    assert _counted(deep(blocks=100)) == _counted(deep(blocks=400)) < 30
