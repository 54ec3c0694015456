"""A report as text for terminals: the first line says it all, the rest says where, why and what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .. import thresholds
from ..records import Finding
from ..report import Report
from ..rules.function import disturbed
from ..words import further, plural, some
from . import bars, tables
from .code import fitted
from .words import amount, brief, counts, failing, setup, shown, span

#: Findings shown before "... and 3 more".
AT_MOST = 10
#: Names of layers listed behind the first one.
ALSO = 3
#: Prose is easier to read in columns of this width, however wide the terminal is.
PROSE = 110
#: What a healthy report says of itself behind its name leaves facts out rather than grow longer than this.
LINE = 116

_STYLES = {"error": "31;1", "warning": "33;1", "note": "36", "healthy": "32;1", "dim": "2", "bold": "1"}


class _Ink:
    """Wraps text in ANSI codes, or leaves it as it is."""

    def __init__(self, color: bool) -> None:
        self._color = color

    def __call__(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._color and text else text


def summary_line(report: Report, *, width: int = LINE, ascii: bool = False) -> str:
    """Return the verdict in one line.

    Args:
        report: what to tell.
        width: a healthy report leaves facts out rather than say more than this behind its name.
        ascii: escape what is not ASCII.
    """
    line = headline(report, width)
    return shown(f"{report.model}: {line.said}{line.behind}", ascii=ascii)


def terminal(report: Report, *, verbose: int = 0, color: bool = False, width: int = 80, ascii: bool = False) -> str:
    """Return the whole report as text, without a newline at its end.

    Args:
        report: what to tell.
        verbose: 1 adds notes and the table of layers, 2 all findings and the table of parameters.
        color: use ANSI colours; nothing is said by colour alone.
        width: columns to fill; lines to be copied (fixes, the command) are never broken.
        ascii: write ASCII only, for streams that can show no other.
    """
    if not report.checked:
        return "\n".join(shown(f"{report.model}: not checked: {finding.summary}") for finding in report.findings)
    ink, prose = _Ink(color), min(width, PROSE)
    line = headline(report, max(width, LINE))
    style = "healthy" if report.ok else "error"
    head = f"{ink(shown(report.model) + ':', 'bold')} {ink(line.said, style)}{shown(line.behind)}"
    blocks = [head, *_findings(report, verbose, ink, prose)]
    if not report.ok or verbose:
        blocks.append(bars.profile(report, width=width, ascii=ascii, ink=ink))
    if verbose:
        blocks += [_response(report, prose), tables.layers(report, width=width)]
    if verbose > 1:
        blocks.append(tables.parameters(report, width=width))
    if not report.ok or verbose or len(blocks) > 1:
        blocks += [_ignored(report, verbose, prose), _unseen(report, prose), _reproduce(report, prose)]
    text = "\n\n".join(b for b in blocks if b)
    text = "\n".join(line.rstrip() for line in text.splitlines())
    return text.encode("ascii", "backslashreplace").decode() if ascii else text


def overview(rows: Iterable[tuple[str, Report | str]], *, width: int = 80, ascii: bool = False) -> str:
    """Return a table of several models: what each is called with its report, or in a few words why it was not checked."""
    verdicts = []
    for name, found in rows:
        if isinstance(found, str):
            verdicts.append(tables.Verdict(name, "not checked", (found,)))
            continue
        told = failing(found) or [f for f in found.findings if f.severity != "note"]
        where = _where(told[0]) if told else "-"
        verdicts.append(
            tables.Verdict(
                name,
                headline(found).verdict,
                (where + further(len(told)), where, told[0].rule) if told else (where,),
                layers=sum(1 for x in found.layers.values() if x.leaf and x.activation.count),
                parameters=sum(p.value.count for p in found.parameters.values() if p.value is not None),
            )
        )
    text = tables.verdicts(verdicts, width=width)
    return text.encode("ascii", "backslashreplace").decode() if ascii else text


# -- the first line


@dataclass(frozen=True, slots=True)
class Headline:
    """The first line of a report, in parts.

    Attributes:
        verdict: ``"healthy"``, ``"unhealthy"``, ``"undecided"``, or ``"passes"`` where only ``fail_on`` lets it.
        counted: what is said of the findings of a model that passes, or ``""``.
        facts: the finding that stands for all, or what a healthy model says of itself.
    """

    verdict: str
    counted: str = ""
    facts: str = ""

    @property
    def said(self) -> str:
        """The verdict in words."""
        return self.verdict if self.verdict == "passes" else f"{self.verdict} init"

    @property
    def behind(self) -> str:
        """What follows the verdict on the line."""
        return (f", {self.counted}" if self.counted else "") + (f": {self.facts}" if self.facts else "")


def headline(report: Report, width: int = LINE) -> Headline:
    """Return the first line of ``report`` in parts; a healthy one leaves facts out rather than grow longer than ``width``."""
    bad = failing(report)
    if not report.ok:
        shown_first = bad or report.findings
        return Headline("unhealthy", facts=f"{_where(shown_first[0])}{further(len(bad))}" if shown_first else "")
    open_findings = [f for f in report.findings if f.severity != "note"]
    if open_findings:
        # Passes because of fail_on only: not called healthy where an error was found.
        verdict = "passes" if any(f.severity == "error" for f in open_findings) else "healthy"
        if verdict == "healthy" and any(f.rule == "undecided" for f in open_findings):
            verdict = "undecided"
        reason = f"fail_on={report.fail_on}, " if verdict == "passes" else ""
        told = f"{_where(open_findings[0])}{further(len(open_findings))}"
        return Headline(verdict, f"{reason}{', '.join(counts(open_findings))}", told)
    counted = counts(report.findings) + ([f"{len(report.ignored)} silenced"] if report.ignored else [])
    left = width - len("healthy init: ")
    facts = ""
    for fact in _facts(report):
        more = f"{facts}, {fact}" if facts else fact
        if len(more) > left:
            break
        facts = more
    return Headline("healthy", facts=facts + (f" ({', '.join(counted)})" if counted else ""))


def _where(finding: Finding) -> str:
    return f"{finding.rule} at {finding.layers[0]}" if finding.layers else finding.rule


def _facts(report: Report) -> list[str]:
    """What a healthy model's line says, the most telling facts first."""
    leaves = [x for x in report.layers.values() if x.leaf and x.activation.count]
    forward = [x.activation.rms for x in leaves]
    backward = [x.gradient.rms for x in leaves if x.gradient is not None and x.gradient.count]
    size = sum(p.value.count for p in report.parameters.values() if p.value is not None)
    r = report.response
    return [
        plural(len(leaves), "layer"),
        *([f"{amount(size)} params"] if size else []),
        *([f"a step moves {brief(r.movement[0])}{' at least' if r.foretold else ''}"] if r.movement else []),
        *([f"activations {span(forward)}"] if forward else []),
        *([f"gradients {span(backward)}"] if backward else []),
        *([f"sensitivity {brief(r.sensitivity)}"] if r.sensitivity is not None else []),
        f"seed {report.trace.seed}",
        f"{report.trace.device} {report.trace.dtype}",
    ]


# -- findings


def _findings(report: Report, verbose: int, ink: _Ink, width: int) -> list[str]:
    wanted = [f for f in report.findings if f.severity != "note" or verbose]
    notes = len(report.findings) - len(wanted)
    limit = len(wanted) if verbose > 1 else AT_MOST
    blocks: list[str] = []
    told: dict[str, str] = {}
    for finding in wanted[:limit]:
        blocks.append(_finding(finding, verbose, ink, width, told))
    left = []
    if len(wanted) > limit:
        left.append(f"... and {len(wanted) - limit} more ({', '.join(counts(wanted[limit:]))}; -vv shows them)")
    if notes and (blocks or not report.ok):
        left.append(f"{plural(notes, 'note')} (-v shows {'it' if notes == 1 else 'them'})")
    return blocks + (["\n".join(ink(line, "dim") for line in left)] if left else [])


def _finding(f: Finding, verbose: int, ink: _Ink, width: int, told: dict[str, str]) -> str:
    where = f" at {shown(f.layers[0])}" if f.layers else ""
    lines = [f"{ink(f'{f.severity} {shown(f.rule)}', f.severity)}{ink(where, 'bold')}"]
    lines += _wrapped(f.summary, width, indent="  ")
    also = f.layers[1:]
    if also:
        names = also if verbose > 1 else also[:ALSO]
        lines += _labelled("also", some(also, len(names)), width)
    if verbose and f.evidence:
        lines += _labelled("evidence", _evidence(f.evidence), width)
    for label, said in (("cause", f.cause), ("fix", f.fix), ("advice", f.advice)):
        same = told.setdefault(said, f.rule)
        if not said:
            continue
        if same != f.rule:
            lines += _labelled(label, f"as {same} above", width)
        else:
            lines += _pasted(label, said, width) if label == "fix" else _labelled(label, said, width)
    lines += _pasted("silence", f.silence, width) if f.silence else []
    return "\n".join(lines)


def _evidence(evidence: Mapping[str, object]) -> str:
    parts = []
    for name, value in evidence.items():
        text = brief(value) if isinstance(value, float) else str(value)
        parts.append(f"{name} {text}")
    return ", ".join(parts)


def _labelled(label: str, text: str, width: int) -> list[str]:
    return _wrapped(text, width, indent=" " * 11, first=f"  {label:<9}")


def _pasted(label: str, text: str, width: int) -> list[str]:
    """Code to copy: broken only where it stays the same code, and under its label where it takes several lines."""
    if len(text.splitlines()) == 1 and len(text) <= width - 11:
        return [f"  {label:<9}{shown(text)}"]
    return [f"  {label}", *(f"      {shown(line)}" for line in fitted(text, width - 6))]


def _wrapped(text: str, width: int, *, indent: str, first: str | None = None) -> list[str]:
    return textwrap.wrap(
        shown(" ".join(text.split())),
        max(40, width),
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


# -- what follows the findings


def _response(report: Report, width: int) -> str:
    r = report.response
    parts = []
    if r.foretold:
        parts.append(f"by its gradient, an optimizer-sized step moves the output by {brief(r.movement[0])} at least")
    elif r.movement:
        steps = (
            "an optimizer-sized step moves" if len(r.movement) == 1 else f"{len(r.movement)} optimizer-sized steps move"
        )
        predicted = "" if r.predicted is None else f" (its gradient predicts {brief(r.predicted)})"
        parts.append(f"{steps} the output by {', '.join(brief(m) for m in r.movement)}{predicted}")
    if r.alignment is not None:
        parts.append(f"the way it moves correlates {brief(r.alignment)} with the way it was asked to move")
    if r.residual is not None:
        parts.append(f"a fit of {thresholds.FIT_STEPS} Adam steps leaves {brief(100 * r.residual)} % of the error")
    if r.sensitivity is not None:
        parts.append(disturbed(r.sensitivity, r.disturbance))
    if report.trace.loss is not None:
        parts.append(f"the loss starts at {brief(report.trace.loss)}")
    lines = _wrapped("response: " + "; ".join(parts), width, indent="  ", first="") if parts else []
    race = report.race
    if race is not None:
        what = {"lost": "it lost", "held": "it kept up", "open": "it did not decide"}[race.outcome]
        shown = f": {race.words}" if race.heats else ""
        cost = f"{plural(race.passes, 'training step')} in {plural(race.runs, 'run')}"
        lines += _wrapped(f"race against repaired copies: {what}{shown} ({cost} in all)", width, indent="  ", first="")
    return "\n".join(lines)


def _ignored(report: Report, verbose: int, width: int) -> str:
    if not report.ignored:
        return ""
    if not verbose:
        return f"{plural(len(report.ignored), 'finding')} silenced (-v lists)"
    lines = ["silenced:"]
    for finding in report.ignored:
        lines += _wrapped(str(finding), width, indent="    ", first="  - ")
    return "\n".join(lines)


def _unseen(report: Report, width: int) -> str:
    lines: list[str] = []
    for sentence in report.trace.unseen:
        lines += _wrapped(sentence, width, indent="    ", first="  - ")
    return "\n".join(["could not be seen:", *lines]) if lines else ""


def _reproduce(report: Report, width: int) -> str:
    lines = _wrapped(", ".join(setup(report)), width, indent="")
    return "\n".join([*([f"reproduce: {shown(report.reproduce)}"] if report.reproduce else []), *lines])
