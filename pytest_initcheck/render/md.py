"""Reports as GitHub-flavoured Markdown, for step summaries and pull requests."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..records import Finding
from ..report import Report
from ..words import and_more, plural
from . import bars
from .code import fitted
from .text import summary_line
from .words import amount, brief, counts, setup, shown, span, standing, told_apart, worst_first

#: Findings written out per model.
AT_MOST = 10
#: GitHub refuses a step summary above 1 MiB, which other steps may need as well: details beyond this are left out.
BYTES = 600_000


def markdown(reports: Sequence[Report]) -> str:
    """Return one table of all models and, for each that has errors or warnings, its findings to unfold.

    Args:
        reports: the models, in the order in which they are shown; unhealthy ones are shown first, then those that could
            not be checked.
    """
    ordered = told_apart(worst_first(reports))
    verdict = standing(ordered) or f"all healthy ({plural(len(ordered), 'model')})"
    if not ordered:
        return "## Initialization check: no model was checked\n"
    lines = [
        f"## Initialization check: {verdict}",
        "",
        "| | model | layers | parameters | activations | gradients | a step moves | findings |",
        "|---|---|--:|--:|--:|--:|--:|---|",
        *(_row(report) for report in ordered),
    ]
    detailed = [r for r in ordered if any(f.severity != "note" for f in r.findings)]
    size = len("\n".join(lines).encode())
    for i, report in enumerate(detailed):
        text = _details(report)
        size += len(text.encode())
        if size > BYTES:
            lines += ["", f"... and {plural(len(detailed) - i, 'model')} more, whose details would make this too long"]
            break
        lines += ["", text]
    return "\n".join(lines) + "\n"


def _row(report: Report) -> str:
    if not report.checked:
        return f"| :grey_question: | {_cell(report.model)} | - | - | - | - | - | could not be checked |"
    leaves = [x for x in report.layers.values() if x.leaf and x.activation.count]
    size = sum(p.value.count for p in report.parameters.values() if p.value is not None)
    moved = report.response.movement
    serious = [f for f in report.findings if f.severity != "note"]
    found = ", ".join(counts(report.findings))
    if serious:
        first = serious[0]
        found += f": {_cell(first.rule)}" + (f" at {_cell(first.layers[0])}" if first.layers else "")
    cells = [
        ":white_check_mark:" if report.ok else ":x:",
        _cell(report.model),
        str(len(leaves)),
        amount(size),
        span(x.activation.rms for x in leaves),
        span(x.gradient.rms for x in leaves if x.gradient is not None and x.gradient.count),
        brief(moved[0]) if moved else "-",
        found or "none",
    ]
    return f"| {' | '.join(cells)} |"


def _details(report: Report) -> str:
    if not report.checked:
        told = [line for f in report.findings for line in (_text(f.summary), "")]
        told += _test(report)
        return "\n".join(
            ["<details>", f"<summary>{_html(report.model)}: not checked</summary>", "", *told, "</details>"]
        )
    lines = ["<details>", f"<summary>{_html(summary_line(report))}</summary>", ""]
    shown_findings = [f for f in report.findings if f.severity != "note"]
    for finding in shown_findings[:AT_MOST]:
        lines += [*_finding(finding), ""]
    if len(shown_findings) > AT_MOST:
        lines += [f"... and {len(shown_findings) - AT_MOST} more", ""]
    profile = bars.profile(report, width=100, ascii=False, ink=lambda text, _: text)
    lines += [_fenced("\n".join(line.rstrip() for line in profile.splitlines()), "text"), ""] if profile else []
    lines += [f"- could not be seen: {_text(sentence)}" for sentence in report.trace.unseen]
    lines += [""] if report.trace.unseen else []
    lines += _test(report)
    if report.reproduce:
        lines += ["Reproduce:", "", _fenced(report.reproduce, "text"), ""]
    lines += [_text(", ".join(setup(report))), "", "</details>"]
    return "\n".join(lines)


def _test(report: Report) -> list[str]:
    return [f"Checked by {_code(report.test)}", ""] if report.test else []


def _finding(f: Finding) -> list[str]:
    where = f" at {_code(f.layers[0])}" if f.layers else ""
    lines = [f"**{f.severity}** {_code(f.rule)}{where}{and_more(len(f.layers))}: {_text(f.summary)}"]
    lines += ["", f"Cause: {_text(f.cause)}"] if f.cause else []
    lines += ["", "Fix:", "", _fenced("\n".join(fitted(f.fix, 100)), "python")] if f.fix else []
    lines += ["", f"Advice: {_text(f.advice)}"] if f.advice else []
    lines += ["", f"Silence: {_code(f.silence)}"] if f.silence else []
    return lines


def _text(text: str) -> str:
    """``text`` with everything escaped that Markdown or HTML would read."""
    return re.sub(r"([\\`*_\[\]|~#$@])", r"\\\1", _html(" ".join(text.split())))


def _html(text: str) -> str:
    return shown(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str) -> str:
    body = shown(text)
    fence = "`" * (max(map(len, re.findall("`+", body)), default=0) + 1)
    space = " " if body.startswith("`") or body.endswith("`") or not body else ""
    return f"{fence}{space}{body}{space}{fence}"


def _cell(text: str) -> str:
    """``text`` as a code span inside a table, where a pipe would end the cell."""
    return _code(text).replace("|", "\\|")


def _fenced(text: str, language: str) -> str:
    body = "\n".join(shown(line) for line in text.splitlines())
    fence = "`" * max(3, max(map(len, re.findall("`+", body)), default=0) + 1)
    return f"{fence}{language}\n{body}\n{fence}"
