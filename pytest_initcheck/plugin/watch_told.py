"""What was found of the models that tests call: merged over tests and workers, and said in a few lines at the end. No torch."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..words import plural, some

if TYPE_CHECKING:
    from ..report import Report

#: What is known of a model, from the weakest to the strongest: of two looks at one model the stronger counts. A model that
#: answers one call is not unhealthy because it does not answer another; memory that was never written stays a fault.
SKIPPED, PUT_OFF, UNJUDGED, GLANCED, UNHEALTHY, HEALTHY, CERTAINLY = STATES = (
    "skipped",
    "put off",
    "unjudged",
    "healthy at a glance",
    "unhealthy",
    "healthy",
    "certainly unhealthy",
)
#: Lines of findings, of warnings and of reasons that are shown unless more are asked for.
LINES = 10

Sighting = Mapping[str, Any]


def merge(entries: dict[str, Sighting], found: Iterable[Sighting]) -> None:
    """Put what was ``found`` into ``entries`` by the key of the model, whatever the order in which workers report."""
    for entry in found:
        before = entries.get(entry["key"])
        if before is None or _strength(entry) > _strength(before):
            entries[entry["key"]] = entry


def _strength(entry: Sighting) -> tuple[int, Any]:
    return STATES.index(entry["state"]), entry["test"]


def is_unhealthy(entry: Sighting) -> bool:
    """Return whether a model is reported, and fails a run that is to fail."""
    return entry["state"] in (UNHEALTHY, CERTAINLY)


def in_order(entries: Iterable[Sighting]) -> list[Sighting]:
    """Return the entries unhealthy first, then those with warnings, then by place."""
    return sorted(
        entries,
        key=lambda e: (
            not is_unhealthy(e),
            -STATES.index(e["state"]),
            not e.get("warnings"),
            e["model"],
            e["where"],
            e["test"],
            e["key"],
        ),
    )


def lines(entries: Iterable[Sighting], *, verbose: bool) -> Iterator[str]:
    """Yield what is said at the end of a run: models by class, worst first, and what was left out and why.

    Args:
        entries: what was found, merged.
        verbose: whether everything is shown, healthy models with it.
    """
    ordered = in_order(entries)
    shown = [
        e for e in ordered if is_unhealthy(e) or e.get("warnings") or (verbose and e["state"] in (GLANCED, HEALTHY))
    ]
    told = list(_alike(shown, verbose=verbose))
    yield from _capped(told, "model", verbose=verbose)
    for state, what in ((UNJUDGED, "not judged"), (PUT_OFF, "not judged"), (SKIPPED, "skipped")):
        reasons: dict[str, list[str]] = {}
        for entry in ordered:
            if entry["state"] == state:
                reasons.setdefault(_reason(entry["said"]), []).append(entry["model"])
        by_count = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
        yield from _capped(
            [f"initcheck: {what} {_counted(models)}: {reason}" for reason, models in by_count],
            "reason",
            verbose=verbose,
        )


def _alike(shown: Iterable[Sighting], *, verbose: bool) -> Iterator[str]:
    """One text for all models of a class of which the same is said."""
    groups: dict[Any, list[Sighting]] = {}
    for entry in shown:
        found = entry["said"].partition(" at ")[0]  # where in it may differ
        groups.setdefault((entry["model"], found, verbose and entry["key"]), []).append(entry)
    for first, *others in groups.values():
        more = f" and {plural(len(others), 'variant')} more" if others else ""
        yield f"{first['where']}: {first['said']}\n    in {first['test']}{more}"


def _capped(told: list[str], what: str, *, verbose: bool) -> Iterator[str]:
    yield from told if verbose else told[:LINES]
    if not verbose and len(told) > LINES:
        yield f"... and {plural(len(told) - LINES, what)} more"


def _reason(said: str) -> str:
    """A reason without what only one call of the model says."""
    return said if len(said) <= 160 else f"{said[:157]}..."


def _counted(models: list[str]) -> str:
    if len(models) == 1:
        return models[0]
    named = [f"{count} {name}" if count > 1 else name for name, count in Counter(models).most_common()]
    return f"{len(models)} models ({some(named, 4)})"


def sums(entries: Iterable[Sighting], *, verbose: bool) -> str:
    """Return the line that counts, and names the command that shows more where there is more."""
    counts = Counter(e["state"] for e in entries)
    looked = sum(counts[state] for state in (UNJUDGED, GLANCED, UNHEALTHY, HEALTHY, CERTAINLY))
    known = sum(bool(e.get("known")) for e in entries)
    warned = sum(e["state"] in (GLANCED, HEALTHY) and bool(e.get("warnings")) for e in entries)
    parts = [f"watched {plural(looked, 'model')} that the tests call"]
    if known:
        parts[0] += f" ({known} known from earlier runs, --cache-clear forgets)"
    for count, what in (
        (counts[UNHEALTHY] + counts[CERTAINLY], "unhealthy"),
        (warned, "with warnings"),
        (counts[UNJUDGED] + counts[PUT_OFF], "not judged"),
        (counts[SKIPPED], "skipped"),
    ):
        if count:
            parts.append(f"{count} {what}")
    more = "" if verbose else _more(entries)
    return ", ".join(parts) + more


def _more(entries: Iterable[Sighting]) -> str:
    """The one command that shows more: the whole reports of the worst model's test."""
    worst = next((e for e in in_order(entries) if is_unhealthy(e)), None)
    if worst is None:
        return ""
    return f"\ninitcheck: the whole report: {_command(worst['test'])}"


def _command(test: str) -> str:
    return f"pytest --initcheck --initcheck-watch=fail {shlex.quote(test)}"


def reports(entries: Iterable[Sighting]) -> list[Report]:
    """Return the reports for files, unhealthy first, each named by class, place and test, so that no two read the same."""
    from ..report import Report

    found, names = [], Counter[str]()
    for entry in in_order(entries):
        if "report" not in entry:
            continue
        report = Report.from_dict(entry["report"])
        test = entry["test"].rpartition("::")[2]
        name = f"{entry['model']} at {entry['where']} in {test}"
        names[name] += 1
        file, _, line = entry["where"].rpartition(":")
        spot = {"file": file, "line": int(line)} if line.isdigit() else {}
        found.append(
            replace(
                report,
                model=f"{name} #{names[name]}" if names[name] > 1 else name,
                findings=tuple(replace(f, evidence={**spot, **f.evidence}) for f in report.findings),
                reproduce=_command(entry["test"]),
                test=entry["test"],
            )
        )
    return found
