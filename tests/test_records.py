"""Reports as data: to JSON and back, without loss."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_initcheck.records import SEVERITIES, Finding, LayerRecord, ParameterRecord, Response, Seeds, Stats, Trace
from pytest_initcheck.report import SCHEMA_VERSION, Report

_float = st.floats(allow_nan=False)
_maybe = st.none() | _float
_name = st.text("abc.#:", min_size=1, max_size=6)
_shape = st.lists(st.integers(0, 99), max_size=3).map(tuple)
_names = st.lists(_name, max_size=2).map(tuple)
_stats = st.builds(
    Stats, count=st.integers(0), mean=_float, std=_float, rms=_float, min=_float, max=_float, zeros=_float,
    finite=st.booleans(), variation=_maybe,
)  # fmt: skip
_layers = st.builds(
    LayerRecord, name=_name, module=_name, kind=_name, functional=st.booleans(), leaf=st.booleans(), index=st.integers(0),
    shape=_shape, dtype=_name, activation=_stats, gradient=st.none() | _stats, input_rms=_maybe, parameters=_names,
    dead_units=_maybe,
)  # fmt: skip
_parameters = st.builds(
    ParameterRecord, name=_name, layer=_name, kind=_name, shape=_shape, dtype=_name, fan_in=st.none() | st.integers(1),
    fan_out=st.none(), value=st.none() | _stats, gradient=st.none() | _stats, aliases=_names, wakes=st.none() | st.booleans(),
)  # fmt: skip


def _by_name(records: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.lists(records, max_size=3).map(lambda rows: {row.name: row for row in rows})


_findings = st.builds(
    Finding, rule=_name, severity=st.sampled_from(SEVERITIES), layers=_names, summary=st.text(max_size=5),
    evidence=st.dictionaries(_name, _float, max_size=2),
)  # fmt: skip
_reports = st.builds(
    Report,
    model=_name,
    ok=st.booleans(),
    findings=st.lists(_findings, max_size=2).map(tuple),
    ignored=st.lists(_findings, max_size=1).map(tuple),
    trace=st.builds(
        Trace,
        layers=_by_name(_layers),
        parameters=_by_name(_parameters),
        output=st.none() | _stats,
        inputs=_names,
        batch=st.none() | st.integers(1),
        equal_samples=st.booleans(),
        loss=_maybe,
        loss_of_zero_output=_maybe,
        unseen=_names,
        edges=st.dictionaries(_name, _names, max_size=2),
        seconds=st.dictionaries(_name, st.floats(0, 9), max_size=1),
    ),
    response=st.builds(
        Response, movement=st.lists(_float, max_size=3).map(tuple), predicted=_maybe, alignment=_maybe, residual=_maybe,
        sensitivity=_maybe, output_rms=_maybe, output_centred_rms=_maybe, unit=_float, sensitivity_if_smaller=_maybe,
        sensitivity_later=_maybe, fit_steps=st.none() | st.integers(0), token_fit=st.none() | st.booleans(),
    ),
    seeds=st.none() | st.builds(Seeds, count=st.integers(1), sick=st.lists(st.integers(0), max_size=2).map(tuple)),
    settings=st.dictionaries(_name, st.integers() | st.text(max_size=3), max_size=2),
)  # fmt: skip


@given(_reports)
def test_to_json_and_back(report: Report):
    text = json.dumps(report.to_dict(), allow_nan=False)

    assert Report.from_dict(json.loads(text)) == report


def test_what_is_not_finite_becomes_text_and_comes_back():
    stats = Stats(3, math.nan, math.inf, math.inf, -math.inf, math.inf, 0.0, False)
    report = Report(
        "m", False, (), Trace({}, {}, output=stats, loss=math.nan), Response((math.inf,), residual=math.nan)
    )

    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))

    assert data["trace"]["output"]["mean"] == "nan"
    assert data["trace"]["output"]["min"] == "-inf"
    back = Report.from_dict(data)
    assert back.trace.output is not None
    assert math.isnan(back.trace.output.mean)
    assert back.trace.output.min == -math.inf
    assert back.trace.loss is not None
    assert math.isnan(back.trace.loss)
    assert back.response.movement == (math.inf,)


def test_layers_are_a_table():
    stats = Stats(6, 0.0, 1.0, 1.0, -1.0, 1.0, 0.0, True)
    one = LayerRecord("a", "a", "Linear", False, True, 0, (2, 3), "float32", stats, gradient=stats)
    other = LayerRecord("b", "b", "ReLU", False, True, 1, (2, 3), "float32", stats)

    table = Report("m", True, (), Trace({"a": one, "b": other}, {})).to_dict()["trace"]["layers"]

    assert dict(zip(table["name"], table["activation"]["rms"], strict=True)) == {"a": 1.0, "b": 1.0}
    assert table["shape"] == [[2, 3], [2, 3]]
    assert table["gradient"]["count"] == [6, None]
    assert table["input"] is None


def test_another_schema_version_is_refused():
    data = Report("m", True, (), Trace({}, {})).to_dict()

    assert data["schema_version"] == SCHEMA_VERSION
    for version in (SCHEMA_VERSION + 1, None):
        with pytest.raises(ValueError, match=f"a report of schema version {version} cannot be read"):
            Report.from_dict({**data, "schema_version": version})


def test_records_are_frozen_and_documented():
    with pytest.raises(FrozenInstanceError):
        Report("m", True, (), Trace({}, {})).ok = False  # type: ignore[misc]
    for record in (Stats, LayerRecord, ParameterRecord, Response, Trace, Finding, Seeds, Report):
        documented = record.__doc__ or ""
        assert [f.name for f in fields(record) if f"{f.name}: " not in documented] == []


def test_views():
    layer = LayerRecord("a", "a", "Linear", False, True, 0, (2, 3), "float32", Stats(6, 0, 1, 1, -1, 1, 0, True))
    report = Report("m", True, (), Trace({"a": layer}, {}))

    assert report.layers["a"].activation.std == 1
    assert dict(report.parameters) == {}


class Text(str):
    __slots__ = ()


class Number(float):
    __slots__ = ()


def test_subclasses_of_built_in_types_do_not_get_through():
    report = Report(
        "m", True, (), Trace({}, {}, torch_version=Text("2.13")), settings={"x": Number(1), "y": True, "z": Text}
    )

    data = report.to_dict()

    assert type(data["trace"]["torch_version"]) is str
    assert [type(value) for value in data["settings"].values()] == [float, bool, str]


def test_finding_in_one_line():
    assert str(Finding("dead-units", "error", ("a", "b"), "all zero")) == "error dead-units a: all zero"
    assert str(Finding("no-gradient", "note", (), "none")) == "note no-gradient: none"
