"""The one object that every surface shows, as data and back: what was measured, what was concluded from it, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from .race_records import Heat, Race
from .records import Finding, Histogram, LayerRecord, ParameterRecord, Response, Seeds, Stats, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Version of the layout of :meth:`Report.to_dict`; raised when a key changes its meaning or goes away.
SCHEMA_VERSION = 3
#: The finding that a report of a model that could not be checked consists of. No rule: it can be neither selected nor silenced.
NOT_CHECKED = "not-checked"


@dataclass(frozen=True, slots=True)
class Report:
    """Trace, findings and verdict: the one object that every surface shows.

    Attributes:
        model: the model in words: a spec or a class name.
        ok: whether no finding is as severe as ``fail_on``.
        findings: most severe first, ignored ones left out.
        ignored: findings that the user silenced.
        trace: what was measured.
        response: how the function answered.
        fail_on: ``"error"``, ``"warning"`` or ``"never"``.
        reproduce: the line that repeats this check.
        settings: the settings that differ from their defaults.
        seeds: with several seeds, how many of them are sick; else ``None``.
        spread: with several seeds, the least, median and greatest activation RMS of each layer over the initialisations.
        race: how the model fared against repaired copies of it; ``None`` where there was no need to ask.
        source: where its class or factory stands, or else what names it: ``"src/models.py:12"``; ``""`` where nobody said.
        test: id of the pytest test or item that asked: ``"tests/test_net.py::test_it"``; ``""`` outside of pytest.
    """

    model: str
    ok: bool
    findings: tuple[Finding, ...]
    trace: Trace
    response: Response = field(default_factory=Response)
    ignored: tuple[Finding, ...] = ()
    fail_on: str = "error"
    reproduce: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: Seeds | None = None
    spread: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    race: Race | None = None
    source: str = ""
    test: str = ""

    @classmethod
    def not_checked(cls, model: str, why: str, *, source: str = "", test: str = "") -> Report:
        """Return what stands in the report's place where a model could not be checked.

        Args:
            model: the model in words.
            why: what kept it from being checked, in one sentence.
            source, test: as the attributes.
        """
        finding = Finding(NOT_CHECKED, "error", (), why)
        return cls(model, ok=False, findings=(finding,), trace=Trace({}, {}), source=source, test=test)

    @property
    def checked(self) -> bool:
        """Whether the model could be checked; where not, the only finding says why."""
        return all(f.rule != NOT_CHECKED for f in self.findings)

    @property
    def layers(self) -> Mapping[str, LayerRecord]:
        """Layer records by name, in call order."""
        return self.trace.layers

    @property
    def parameters(self) -> Mapping[str, ParameterRecord]:
        """Parameter records by name."""
        return self.trace.parameters

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready data (NaN and infinities become strings)."""
        data = {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "trace"}
        trace = {f.name: getattr(self.trace, f.name) for f in fields(self.trace)}
        tables = {
            "layers": _columns(LayerRecord, self.layers),
            "parameters": _columns(ParameterRecord, self.parameters),
        }
        data["trace"] = {name: tables[name] if name in tables else plain(value) for name, value in trace.items()}
        return {"schema_version": SCHEMA_VERSION, **data}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Return the report that :meth:`to_dict` turned into data.

        Raises:
            ValueError: the data has another schema version.
        """
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"a report of schema version {version!r} cannot be read: this version reads {SCHEMA_VERSION}"
            )
        trace = dict(data["trace"])
        trace["layers"] = {row["name"]: _layer(row) for row in _rows(trace["layers"])}
        trace["parameters"] = {row["name"]: _parameter(row) for row in _rows(trace["parameters"])}
        trace["output"] = _stats(trace["output"])
        trace["edges"] = {k: tuple(v) for k, v in trace["edges"].items()}
        for key in ("inputs", "unseen"):
            trace[key] = tuple(trace[key])
        for key in ("loss", "loss_of_zero_output"):
            trace[key] = _number(trace[key])
        response = {k: _number(v) for k, v in data["response"].items()}
        response["movement"] = tuple(_number(v) for v in response["movement"])
        seeds = data["seeds"]
        return cls(
            model=data["model"],
            ok=data["ok"],
            findings=tuple(_finding(f) for f in data["findings"]),
            ignored=tuple(_finding(f) for f in data["ignored"]),
            trace=Trace(**trace),
            response=Response(**response),
            fail_on=data["fail_on"],
            reproduce=data["reproduce"],
            settings=data["settings"],
            seeds=None if seeds is None else Seeds(seeds["count"], tuple(seeds["sick"])),
            spread={k: tuple(_number(x) for x in v) for k, v in data.get("spread", {}).items()},
            race=_race(data.get("race")),
            source=data.get("source", ""),
            test=data.get("test", ""),
        )

    def __str__(self) -> str:
        from .render import terminal

        return terminal(self)

    def _repr_html_(self) -> str:
        from .render import fragment

        return fragment(self)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw the RMS of activations and gradients over depth and return the matplotlib axes (extra ``[plot]``)."""
        from .render import plot

        return plot(self, ax=ax)


def _race(data: Mapping[str, Any] | None) -> Race | None:
    if data is None:
        return None
    heats = tuple(Heat(**{k: _number(v) for k, v in heat.items()}) for heat in data["heats"])
    apart = {name: _number(factor) for name, factor in data["apart"].items()}
    return Race(**{**data, "heats": heats, "apart": apart})


def plain(value: Any) -> Any:
    """Return a record as dicts, lists, strings and numbers; non-finite floats become ``"nan"``, ``"inf"``, ``"-inf"``."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)  # numpy's float64 is a float, but xdist's wire knows only the built-in one
    return str(value)


def _columns(kind: type, records: Mapping[str, Any]) -> dict[str, Any]:
    """Records as a table, a list for each field: what a thousand records would repeat, the names of fields, stands there once."""
    rows = list(records.values())
    table: dict[str, Any] = {}
    for f in fields(kind):
        column = [getattr(row, f.name) for row in rows]
        if not str(f.type).startswith("Stats"):
            table[f.name] = [plain(value) for value in column]
        elif all(stats is None for stats in column):
            table[f.name] = None
        else:
            table[f.name] = {
                s.name: [None if stats is None else plain(getattr(stats, s.name)) for stats in column]
                for s in fields(Stats)
            }
    return table


def _rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of :func:`_columns` as one dict for each record."""
    count = len(table["name"])
    columns = {name: [None] * count if column is None else column for name, column in table.items()}
    for name, column in columns.items():
        if isinstance(column, Mapping):
            stats = [dict(zip(column, values, strict=True)) for values in zip(*column.values(), strict=True)]
            columns[name] = [None if one["count"] is None else one for one in stats]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) and value in ("nan", "inf", "-inf") else value


def _stats(data: Mapping[str, Any] | None) -> Stats | None:
    return None if data is None else Stats(**{k: _number(v) for k, v in data.items()})


def _layer(data: Mapping[str, Any]) -> LayerRecord:
    d = {k: _number(v) for k, v in data.items()}
    d.update(shape=tuple(d["shape"]), parameters=tuple(d["parameters"]))
    d.update(activation=_stats(d["activation"]), gradient=_stats(d["gradient"]), input=_stats(d.get("input")))
    if histogram := d.get("histogram"):
        d["histogram"] = Histogram(**{**histogram, "counts": tuple(histogram["counts"])})
    return LayerRecord(**d)


def _parameter(data: Mapping[str, Any]) -> ParameterRecord:
    d = {k: _number(v) for k, v in data.items()}
    d.update(shape=tuple(d["shape"]), aliases=tuple(d["aliases"]))
    d.update(value=_stats(d["value"]), gradient=_stats(d["gradient"]))
    return ParameterRecord(**d)


def _finding(data: Mapping[str, Any]) -> Finding:
    evidence = {k: _number(v) for k, v in data["evidence"].items()}
    return Finding(**{**data, "layers": tuple(data["layers"]), "evidence": evidence})
