"""Numbers, names and counts as every format writes them."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from ..records import Finding
from ..report import Report
from ..words import plural

_SUFFIXES = (("G", 1e9), ("M", 1e6), ("k", 1e3))


def brief(value: float | None) -> str:
    """Return ``value`` in 2 or 3 digits: ``3.1e-07``, ``0.62``, ``16.0``, ``240``, ``inf``; ``-`` for ``None``."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(float(value))
    if value == 0:
        return "0"
    # Compared after rounding, so that 0.999 is not written "1.00" and 9999.7 not "10000".
    size = abs(float(f"{value:.2g}"))
    if 1e-3 <= size < 1:
        return f"{value:#.2g}"
    if 1 <= size < 100 and abs(value) < 99.95:
        return f"{value:.1f}"
    if 99.95 <= abs(value) < 9999.5:
        return f"{value:.0f}"
    return f"{value:.1e}"


def span(values: Iterable[float]) -> str:
    """Return the smallest and the largest of ``values``: ``0.41..1.9``; one number where they look the same."""
    found = list(values)
    if not found:
        return "-"
    strange = [v for v in found if not math.isfinite(v)]
    found = [v for v in found if math.isfinite(v)]
    ends = [brief(min(found)), brief(max(found))] if found else []
    ends += [brief(v) for v in strange[:1]]
    ends = list(dict.fromkeys(ends))
    return ends[0] if len(ends) == 1 else f"{ends[0]}..{ends[-1]}"


def amount(count: int) -> str:
    """Return a large count in three digits: ``950``, ``133k``, ``11.7M``, ``7.04G``."""
    for suffix, unit in _SUFFIXES:
        # 999,950 is "1M", not "1000k".
        if float(f"{count / unit:.3g}") >= 1:
            return f"{count / unit:.3g}{suffix}"
    return str(count)


def share(share: float | None) -> str:
    """Return a share of one as percent; ``-`` for ``None``."""
    return "-" if share is None else f"{100 * share:.0f} %" if share == 0 or share >= 0.01 else "<1 %"


def shown(text: str, *, ascii: bool = False) -> str:
    """Return ``text`` with what no terminal can show in one cell row (control characters, newlines) escaped.

    Args:
        ascii: escape everything outside ASCII as well.
    """
    if text.isascii() and text.isprintable():
        return text
    out = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return out.encode("ascii", "backslashreplace").decode() if ascii else out


def cells(text: str) -> int:
    """Return how many terminal cells ``text`` takes: wide East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Return ``text`` filled with spaces to ``width`` cells."""
    fill = " " * max(0, width - cells(text))
    return fill + text if right else text + fill


def cut(text: str, width: int) -> str:
    """Return ``text`` in at most ``width`` cells: the segments of a dotted path shortened, then the middle left out."""
    parts = text.split(".") if " " not in text else [text]
    for i, part in enumerate(parts[:-1]):
        if cells(".".join(parts)) <= width:
            break
        if cells(part) > 4:
            parts[i] = part[:3] + "~"
    text = ".".join(parts)
    if cells(text) <= width:
        return text
    keep = max(2, width - 2)
    head, tail = "", ""
    while cells(head) < keep // 3:
        head += text[len(head)]
    while cells(tail) < keep - cells(head) - 1:
        tail = text[len(text) - len(tail) - 1] + tail
    return f"{head}..{tail}"


def counts(findings: Iterable[Finding]) -> list[str]:
    """Return ``["2 errors", "1 warning"]`` for the severities that occur."""
    found = list(findings)
    return [
        plural(n, severity)
        for severity in ("error", "warning", "note")
        if (n := sum(f.severity == severity for f in found))
    ]


def worst_first(reports: Iterable[Report]) -> list[Report]:
    """Return unhealthy models, then those that could not be checked, then healthy ones, each in the order given."""
    return sorted(reports, key=lambda r: (r.ok, not r.checked))


def told_apart(reports: Iterable[Report]) -> list[Report]:
    """Return the reports; where several models are called the same, with the tests that asked in their names."""
    found = list(reports)
    names = Counter(r.model for r in found)
    return [
        replace(r, model=f"{r.model} in {r.test.rpartition('::')[2]}") if r.test and names[r.model] > 1 else r
        for r in found
    ]


def standing(reports: Iterable[Report]) -> str:
    """Return ``"1 of 3 models unhealthy, 1 could not be checked"``; ``""`` where all are healthy."""
    found = list(reports)
    unhealthy = sum(r.checked and not r.ok for r in found)
    unknown = sum(not r.checked for r in found)
    whole = f"of {plural(len(found), 'model')} "
    if unhealthy:
        return f"{unhealthy} {whole}unhealthy" + (f", {unknown} could not be checked" if unknown else "")
    return f"{unknown} {whole}could not be checked" if unknown else ""


def failing(report: Report) -> list[Finding]:
    """Return the findings that made the report unhealthy."""
    severities = {"error": ("error",), "warning": ("error", "warning")}.get(report.fail_on, ())
    return [f for f in report.findings if f.severity in severities]


def setup(report: Report) -> list[str]:
    """Return what the numbers hold for: device and dtype, mode, seed, inputs, version of torch."""
    t = report.trace
    inputs = ", ".join(t.inputs)
    return [
        f"{t.device} {t.dtype}",
        f"{t.mode} mode",
        f"seed {t.seed}",
        *([f"input {inputs}"] if inputs else []),
        *([f"torch {t.torch_version}"] if t.torch_version else []),
    ]
