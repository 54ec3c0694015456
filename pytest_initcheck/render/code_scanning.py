"""Findings for code review: SARIF 2.1.0 (OASIS), and the annotations that GitHub Actions reads from a job's output."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..records import Finding
from ..report import NOT_CHECKED, Report, plain

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}


def sarif(reports: Sequence[Report]) -> str:
    """Return the findings of all models as one SARIF 2.1.0 run; a model that could not be checked is an error of its own.

    Every result has a file and a line, without which GitHub's code scanning does not take it: ``evidence["file"]`` and
    ``evidence["line"]`` of the finding, else where the model stands, else the first line of what names it. The layer's
    name is a logical location.

    Args:
        reports: the models.
    """
    from .. import __version__

    found = [(r, f) for r in reports for f in r.findings]
    names = list(dict.fromkeys(f.rule for _, f in found))
    driver = {
        "name": "pytest-initcheck",
        "semanticVersion": __version__,
        "rules": [_rule(name) for name in names],
    }
    results = [_result(report, finding, names.index(finding.rule)) for report, finding in found]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1, allow_nan=False)


def github_annotations(reports: Sequence[Report]) -> str:
    """Return a workflow command for each error and warning, which GitHub shows on the line of the layer.

    Args:
        reports: the models.
    """
    lines = []
    for report in reports:
        for f in report.findings:
            if f.severity == "note":
                continue
            file, line = _place(report, f)
            where = f" at {f.layers[0]}" if f.layers else ""
            properties = {"file": file, "line": line, "title": f"{f.rule}{where}"}
            given = ",".join(f"{k}={_escaped(str(v), property=True)}" for k, v in properties.items() if v is not None)
            lines.append(f"::{_COMMANDS[f.severity]} {given}::{_escaped(_message(report, f))}")
    return "\n".join(lines)


def _rule(name: str) -> dict[str, Any]:
    from ..rules import RULES

    # Another plugin's rule says no more than its name here.
    text = "The model could not be built or run, so nothing is known of it." if name == NOT_CHECKED else name
    described: dict[str, Any] = {"id": name, "shortDescription": {"text": text}}
    rule = RULES.get(name)
    if rule is not None:
        text = (rule.judge.__doc__ or name).strip().split("\n\n")[0]
        described["shortDescription"] = {"text": " ".join(text.split())}
        described["help"] = {"text": f"Threshold: {rule.threshold}. Evidence: {rule.evidence}. Limits: {rule.limits}."}
    return described


def _result(report: Report, f: Finding, index: int) -> dict[str, Any]:
    file, line = _place(report, f)
    physical = {"artifactLocation": {"uri": _uri(file or _named(report))}, "region": {"startLine": line or 1}}
    location: dict[str, Any] = {"physicalLocation": physical}
    if f.layers:
        location["logicalLocations"] = [{"fullyQualifiedName": name, "kind": "member"} for name in f.layers[:10]]
    same = [report.model, *([report.test] if report.test else []), f.rule, f.layers[0] if f.layers else ""]
    return {
        "ruleId": f.rule,
        "ruleIndex": index,
        "level": f.severity,
        "message": {"text": _message(report, f)},
        "properties": {
            "model": report.model,
            **({"test": report.test} if report.test else {}),
            "evidence": plain(f.evidence),
        },
        # Stable from run to run, so that a finding that stays is not shown as new.
        "partialFingerprints": {"initcheck/v2": ":".join(same)},
        "locations": [location],
    }


def _message(report: Report, f: Finding) -> str:
    parts = [f"{report.model}: {f.summary}"]
    parts += [f"Cause: {f.cause}"] if f.cause else []
    parts += [f"Fix: {f.fix}"] if f.fix else []
    parts += [f"Advice: {f.advice}"] if f.advice else []
    parts += [f"Silence: {f.silence}"] if f.silence else []
    return "\n".join(parts)


def _place(report: Report, f: Finding) -> tuple[str | None, int | None]:
    evidence: Mapping[str, Any] = f.evidence
    file, line = evidence.get("file"), evidence.get("line")
    if not file:
        file, _, number = report.source.rpartition(":")
        line = int(number) if number.isdecimal() else None
    valid = isinstance(line, int) and not isinstance(line, bool) and line >= 1
    return (str(file), line if valid else None) if file else (None, None)


def _named(report: Report) -> str:
    """The file of a spec such as ``models.py:Net``; of any other model its name, which leads nowhere but says which it is."""
    file, spec, _ = report.model.partition(".py:")
    return f"{file}.py" if spec else report.model


def _uri(path: str) -> str:
    from urllib.parse import quote

    path = path.replace("\\", "/")
    return ("file://" if path.startswith("/") else "") + quote(path, errors="backslashreplace")


def _escaped(text: str, *, property: bool = False) -> str:
    """As the toolkit of GitHub Actions escapes the data and the properties of a workflow command."""
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if property else text
