"""Findings for code review: SARIF 2.1.0 (OASIS), and the annotations that GitHub Actions reads from a job's output."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..records import Finding
from ..report import Report, plain

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}


def sarif(reports: Sequence[Report]) -> str:
    """Return the findings of all models as one SARIF 2.1.0 run.

    A finding stands at its ``evidence["file"]`` and ``evidence["line"]`` where it has them; the layer's name is always
    given as a logical location.

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
            file, line = _place(f)
            where = f" at {f.layers[0]}" if f.layers else ""
            properties = {"file": file, "line": line, "title": f"{f.rule}{where}"}
            given = ",".join(f"{k}={_escaped(str(v), property=True)}" for k, v in properties.items() if v is not None)
            lines.append(f"::{_COMMANDS[f.severity]} {given}::{_escaped(_message(report, f))}")
    return "\n".join(lines)


def _rule(name: str) -> dict[str, Any]:
    from ..rules import RULES

    described: dict[str, Any] = {"id": name}
    rule = RULES.get(name)
    if rule is not None:  # another plugin's rule says no more than its name here
        text = (rule.judge.__doc__ or name).strip().split("\n\n")[0]
        described["shortDescription"] = {"text": " ".join(text.split())}
        described["help"] = {"text": f"Threshold: {rule.threshold}. Evidence: {rule.evidence}. Limits: {rule.limits}."}
    return described


def _result(report: Report, f: Finding, index: int) -> dict[str, Any]:
    location: dict[str, Any] = {}
    if f.layers:
        location["logicalLocations"] = [{"fullyQualifiedName": name, "kind": "member"} for name in f.layers[:10]]
    file, line = _place(f)
    if file is not None:
        physical: dict[str, Any] = {"artifactLocation": {"uri": _uri(file)}}
        if line is not None:
            physical["region"] = {"startLine": line}
        location["physicalLocation"] = physical
    result = {
        "ruleId": f.rule,
        "ruleIndex": index,
        "level": f.severity,
        "message": {"text": _message(report, f)},
        "properties": {"model": report.model, "evidence": plain(f.evidence)},
        # Stable from run to run, so that a finding that stays is not shown as new.
        "partialFingerprints": {"initcheck/v1": f"{report.model}:{f.rule}:{f.layers[0] if f.layers else ''}"},
    }
    return {**result, "locations": [location]} if location else result


def _message(report: Report, f: Finding) -> str:
    parts = [f"{report.model}: {f.summary}"]
    parts += [f"Cause: {f.cause}"] if f.cause else []
    parts += [f"Fix: {f.fix}"] if f.fix else []
    parts += [f"Advice: {f.advice}"] if f.advice else []
    parts += [f"Silence: {f.silence}"] if f.silence else []
    return "\n".join(parts)


def _place(f: Finding) -> tuple[str | None, int | None]:
    evidence: Mapping[str, Any] = f.evidence
    file, line = evidence.get("file"), evidence.get("line")
    valid = isinstance(line, int) and not isinstance(line, bool) and line >= 1
    return (str(file), line if valid else None) if file else (None, None)


def _uri(path: str) -> str:
    from urllib.parse import quote

    path = path.replace("\\", "/")
    return ("file://" if path.startswith("/") else "") + quote(path)


def _escaped(text: str, *, property: bool = False) -> str:
    """As the toolkit of GitHub Actions escapes the data and the properties of a workflow command."""
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if property else text
