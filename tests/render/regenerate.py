"""Write what the tests of the renderers compare with, and what is generated from the records.

``python tests/render/regenerate.py`` writes the golden files, ``pytest_initcheck/report.schema.json`` and
``docs/reference/report-json.md``; read the difference before you commit it. With ``--check`` it writes nothing, names
what differs and ends with status 1.
"""

from __future__ import annotations

import json
import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(ROOT)]
    from samples import SAMPLES
else:
    from .samples import SAMPLES

from pytest_initcheck import race_records, records, report  # noqa: E402  (after the path is set)
from pytest_initcheck.render import github_annotations, markdown, sarif, terminal  # noqa: E402


def own_part(text: str) -> str:
    """SARIF without what changes when the version or the words of a rule do."""
    data = json.loads(text)
    driver = data["runs"][0]["tool"]["driver"]
    driver.update(semanticVersion="", rules=[rule["id"] for rule in driver["rules"]])
    return json.dumps(data, indent=1)


#: name -> (text of the file, from a sample): every renderer whose output people read or other programs parse.
TEXTS = {
    "80": lambda r: terminal(r),
    "200": lambda r: terminal(r, width=200),
    "v": lambda r: terminal(r, verbose=1),
    "vv": lambda r: terminal(r, verbose=2, width=120),
    "ascii": lambda r: terminal(r, ascii=True),
    "color": lambda r: terminal(r, color=True),
    "md": lambda r: markdown([r]),
    "sarif": lambda r: own_part(sarif([r])),
    "annotations": lambda r: github_annotations([r]),
}
GOLDEN = {
    "healthy": ["80", "v"],
    "noted": ["80", "v"],
    "warned": ["80"],
    "vanishing": ["80", "200", "v", "vv", "ascii", "color", "md"],
    "dead": ["80"],
    "nan": ["80", "v"],
    "many": ["80", "vv"],
    "deep": ["80", "200"],
    "unicode_names": ["80", "v", "ascii", "md", "sarif", "annotations"],
    "empty": ["80", "v"],
    "nothing_fails": ["80"],
    "located": ["sarif", "annotations"],
}


def golden() -> dict[Path, str]:
    """Path -> text of every golden file."""
    return {
        HERE / "golden" / f"{sample}.{kind}.txt": TEXTS[kind](SAMPLES[sample]()) + "\n"
        for sample, kinds in GOLDEN.items()
        for kind in kinds
    }


# -- the schema, from the records' types and docstrings

RECORDS = (
    report.Report, records.Finding, records.Trace, records.LayerRecord, records.ParameterRecord, records.Stats,
    records.Histogram, records.Response, records.Seeds, race_records.Race, race_records.Heat,
)  # fmt: skip


def described(record: type) -> tuple[str, dict[str, str]]:
    """The first sentence of a record's docstring, and what it says on each attribute."""
    text = (record.__doc__ or "").replace("``", "`")
    head, _, attributes = text.partition("Attributes:")
    found: dict[str, str] = {}
    for entry in re.split(r"\n {8}(?=\w+:)", attributes)[1:]:
        name, _, rest = entry.partition(":")
        found[name] = " ".join(re.sub(r":class:`~?(?:\w+\.)*(\w+)`", r"`\1`", rest).split())
    return " ".join(head.split()), found


def type_schema(hint: Any) -> dict[str, Any]:
    """JSON Schema of a type annotation of the records."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if is_dataclass(hint):
        return {"$ref": f"#/$defs/{hint.__name__}"}
    if hint is type(None):
        return {"type": "null"}
    if hint is float:
        return {"$ref": "#/$defs/number"}
    if hint in (int, bool, str):
        return {"type": {int: "integer", bool: "boolean", str: "string"}[hint]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [type_schema(a) for a in arguments]}
    if origin is tuple and arguments[1:] == (...,):
        return {"type": "array", "items": type_schema(arguments[0])}
    if origin is tuple and len(set(arguments)) == 1:
        return {**type_schema(tuple[arguments[0], ...]), "minItems": len(arguments), "maxItems": len(arguments)}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": type_schema(arguments[1])}
    raise TypeError(f"the schema has no word for {hint!r}")


#: Records that are written as one table of all of them.
TABLES = (records.LayerRecord, records.ParameterRecord)


def column(hint: Any, words: dict[str, Any]) -> dict[str, Any]:
    """The schema of one column of a table, from the schema of a value."""
    about = {"description": words["description"]}
    if records.Stats in (hint, *typing.get_args(hint)):
        return {**about, "anyOf": [{"type": "null"}, {"$ref": "#/$defs/StatsColumns"}]}
    return {**about, "type": "array", "items": {key: value for key, value in words.items() if key != "description"}}


def schema(*, strict: bool = False) -> dict[str, Any]:
    """The JSON Schema of what ``json_text`` writes; ``strict`` refuses keys that are not in it."""
    definitions: dict[str, Any] = {
        "number": {
            "description": "A number; NaN and infinities, which JSON does not have, are strings.",
            "anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}],
        }
    }
    for record in RECORDS:
        sentence, attributes = described(record)
        hints = typing.get_type_hints(record, vars(sys.modules[record.__module__]))
        properties = {f.name: {"description": attributes[f.name], **type_schema(hints[f.name])} for f in fields(record)}
        if record in TABLES:
            properties = {name: column(hints[name], words) for name, words in properties.items()}
        definitions[record.__name__] = {
            "description": f"A table: for each key a list with a value for each record. {sentence}"
            if record in TABLES
            else sentence,
            "type": "object",
            "properties": properties,
            "required": list(properties),
            **({"additionalProperties": False} if strict else {}),
        }
    for name, record in (("layers", records.LayerRecord), ("parameters", records.ParameterRecord)):
        words = definitions["Trace"]["properties"][name]["description"]
        definitions["Trace"]["properties"][name] = {"description": words, "$ref": f"#/$defs/{record.__name__}"}
    definitions["StatsColumns"] = {
        "description": "Statistics of several tensors: for each key a list; where there is no tensor, all are null.",
        "type": "object",
        "properties": {
            name: {
                "type": "array",
                "items": {"anyOf": [{k: v for k, v in words.items() if k != "description"}, {"type": "null"}]},
            }
            for name, words in definitions["Stats"]["properties"].items()
        },
        "required": definitions["Stats"]["required"],
        **({"additionalProperties": False} if strict else {}),
    }
    top = definitions["Report"]
    top["properties"] = {
        "schema_version": {"description": "version of this layout", "const": report.SCHEMA_VERSION},
        **top["properties"],
    }
    top["required"].insert(0, "schema_version")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pytest-initcheck report",
        "description": "One report, or an array of reports.",
        "anyOf": [{"$ref": "#/$defs/Report"}, {"type": "array", "items": {"$ref": "#/$defs/Report"}}],
        "$defs": definitions,
    }


# -- the reference page

PAGE = """# The JSON report

<!-- Written by tests/render/regenerate.py from the records' types and docstrings: change those. -->

`initcheck check SPEC --format json` prints one report as a JSON object, or, for several specs, an array of such objects in the
order of the specs; what the model's own code prints goes to stderr meanwhile. A report file of a run
(`--initcheck-report=json:PATH`, `--report json:PATH`) is an array always. In Python the same data is `report.to_dict()`;
`Report.from_dict(data)` turns it back into a report, without loss.

The layout is published as a JSON Schema (draft 2020-12) in the package, `pytest_initcheck/report.schema.json`:

```python
import json
from importlib.resources import files

schema = json.loads(files("pytest_initcheck").joinpath("report.schema.json").read_text())
```

**Version.** `schema_version` is {version}. It is raised when a key goes away or changes its meaning; new keys do not raise
it, so a reader should ignore keys that it does not know. `Report.from_dict` refuses another version.

In version 3 `trace.layers` and `trace.parameters` are tables: an object with a list for each field, in which the same place
belongs to the same record, instead of an object for each record. Statistics are an object of lists in turn, `null` in all of
them where a record has none, and `null` as a whole where no record has any. That takes less than half of the space (3,000
layers: 3 MB), is what data frames and plots want, and loses nothing:

```python
layers = report["trace"]["layers"]
rms = dict(zip(layers["name"], layers["activation"]["rms"]))
```

In version 2
`response.details`, an object of numbers, gave way to keys of their own: `seeds` and `sick_share` became `seeds.count` and
`seeds.sick` (the sick seeds themselves), `equal_samples` and `loss_of_zero_output` stand in `trace`, the other seven in
`response` under their names; `equal_samples` and `response.token_fit` are booleans, `response.fit_steps` is an integer, and
what was not asked is `null` instead of missing.

**Numbers.** JSON has no NaN and no infinity. Where a number may be one of them, it is the string `"nan"`, `"inf"` or
`"-inf"`; in the tables below such a value is called *number*.

**Models that could not be checked** have an object like any other: `ok` is false, and the only finding has the rule
`not-checked`, which is no rule that could be selected or silenced, and says in its `summary` what kept the model from being
checked. Its `trace` is empty. `Report.from_dict(data).checked` is false for these alone.

**Order.** `layers` are in call order, `parameters` in the order of `named_parameters`, `findings` most severe first.

What to read for what:

| question | key |
|---|---|
| did it pass? | `ok` |
| could it be checked at all? | `findings[0].rule` is not `not-checked` |
| where does the model stand? | `source` |
| what is wrong, and where? | `findings[].rule`, `.severity`, `.layers[0]`, `.summary` |
| what to do? | `findings[].cause`, `.fix`, `.silence` |
| how large is the signal at a layer? | `trace.layers.activation.rms`, `.gradient.rms`, in the order of `trace.layers.name` |
| how large is a weight? | `trace.parameters.value.std`, in the order of `trace.parameters.name` |
| how to repeat it? | `reproduce` |
"""


def type_words(hint: Any) -> str:
    """A type annotation in the words of JSON."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return "any"
    if is_dataclass(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    if origin is Literal:
        return ", ".join(f"`{json.dumps(a)}`" for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_words(a) for a in arguments)
    if origin is tuple:
        count = "" if arguments[1:] == (...,) else f"{len(arguments)} "
        return f"array of {count}{type_words(arguments[0])}"
    if origin is Mapping:
        return f"object of {type_words(arguments[1])}"
    return {float: "number", int: "integer", bool: "boolean", str: "string", type(None): "null"}[hint]


def page() -> str:
    """The text of ``docs/reference/report-json.md``."""
    parts = [PAGE.replace("{version}", str(report.SCHEMA_VERSION))]
    for record in RECORDS:
        sentence, attributes = described(record)
        hints = typing.get_type_hints(record, vars(sys.modules[record.__module__]))
        if record in TABLES:
            sentence = f"{sentence} All of them are one table: for each key a list."
        parts.append(f"## {record.__name__}\n\n{sentence}\n\n| key | type | meaning |\n|---|---|---|")
        rows = [("schema_version", "integer", "version of this layout")] if record is report.Report else []
        rows += [(f.name, type_words(hints[f.name]), attributes[f.name]) for f in fields(record)]
        if record is records.Trace:
            tables = {"layers": "[LayerRecord](#layerrecord)", "parameters": "[ParameterRecord](#parameterrecord)"}
            rows = [(name, f"table of {tables[name]}" if name in tables else kind, text) for name, kind, text in rows]
        parts[-1] += (
            "".join("\n| `{}` | {} | {} |".format(*(c.replace("|", "\\|") for c in row)) for row in rows) + "\n"
        )
    return "\n".join(parts)


def generated() -> dict[Path, str]:
    """Path -> text of every file that is generated from the records."""
    return {
        ROOT / "pytest_initcheck" / "report.schema.json": json.dumps(schema(), indent=2) + "\n",
        ROOT / "docs" / "reference" / "report-json.md": page(),
    }


def main(arguments: list[str]) -> int:
    """Write or check every file."""
    wanted = {**golden(), **generated()}
    stale = {p for p in (HERE / "golden").glob("*") if p not in wanted}
    differs = {p for p, text in wanted.items() if not p.is_file() or p.read_text(encoding="utf-8") != text} | stale
    for path in sorted(differs):
        print(path.relative_to(ROOT))
        if "--check" in arguments:
            continue
        if path in stale:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8", newline="\n")
    return 1 if differs and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
