"""JSON: valid against the published schema, back to the same report, and the schema is that of the records."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from pytest_initcheck.render import json_text
from pytest_initcheck.report import Report

from . import samples
from .regenerate import generated, schema
from .samples import SAMPLES

jsonschema = pytest.importorskip("jsonschema")


def check(data: Any, *, strict: bool) -> None:
    wanted = (
        schema(strict=True)
        if strict
        else json.loads(files("pytest_initcheck").joinpath("report.schema.json").read_text())
    )
    jsonschema.Draft202012Validator.check_schema(wanted)
    jsonschema.Draft202012Validator(wanted).validate(data)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@pytest.mark.parametrize("sample_name", SAMPLES)
@pytest.mark.parametrize("strict", [pytest.param(False, marks=pytest.mark.slow), True])
def test_valid_and_back_again(sample_name: str, strict: bool):
    report = SAMPLES[sample_name]()

    data = json.loads(json_text(report), parse_constant=refuse)

    check(data, strict=strict)
    assert json_text(Report.from_dict(data)) == json_text(report)


def test_several_are_an_array():
    data = json.loads(json_text([samples.healthy(), samples.nan()]))

    check(data, strict=True)
    assert [d["ok"] for d in data] == [True, False]
    assert json.loads(json_text([])) == []


def test_a_model_that_could_not_be_checked_is_a_report_too():
    report = Report.not_checked("zoo.py:Broken", "building the model failed", source="zoo.py:3")

    data = json.loads(json_text([samples.healthy(), report]), parse_constant=refuse)

    check(data, strict=True)
    assert [d["ok"] for d in data] == [True, False]
    assert [Report.from_dict(d).checked for d in data] == [True, False]
    assert Report.from_dict(data[1]) == report


def test_reports_of_before_have_no_source():
    data = samples.healthy().to_dict()
    del data["source"]

    assert Report.from_dict(data).source == ""


def test_the_schema_refuses_what_is_no_report():
    data = samples.healthy().to_dict()
    del data["findings"]

    for wrong in (data, {}, "report", {**samples.healthy().to_dict(), "schema_version": 99}):
        with pytest.raises(jsonschema.ValidationError):
            check(wrong, strict=False)


def test_a_real_report_is_valid():
    from torch import nn

    from pytest_initcheck import check_init

    report = check_init(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), "8x4", activation_std=(0.01, float("inf"))
    )

    check(json.loads(json_text(report), parse_constant=refuse), strict=True)


@pytest.mark.parametrize("path", generated(), ids=lambda p: p.name)
def test_what_is_generated_is_up_to_date(path: Path):
    """After a change of the records: python tests/render/regenerate.py."""
    if not path.parent.is_dir():
        pytest.skip("docs are not part of this tree")

    assert path.read_text(encoding="utf-8") == generated()[path]
