"""The text of a baseline: a section per model, a line per parameter, in an order that merges well.

The format is that of INI files, read and written by :mod:`configparser`.
"""

from __future__ import annotations

import configparser
import math
import re
from collections.abc import Mapping
from io import StringIO
from urllib.parse import quote, unquote

from ..errors import SettingsError
from ..statements.drift import Sample

#: What a model's parameters were drawn from, by name.
Samples = Mapping[str, Sample]

#: First line of every baseline: a file without it is not one, and is not written over.
MAGIC = "# pytest-initcheck baseline, version 1"
_TOLD = (
    MAGIC,
    "# Compared by pytest --initcheck; written by pytest --initcheck --initcheck-update, which keeps every line that still holds.",
)
#: Characters that a name may have as they are; an equals sign would end it, a hash or a bracket at its start would hide it.
_PLAIN = "/:~+*,;!$&'()@^{}|"
_FIELDS = ("constant", "mean", "std", "kurtosis", "alike")
_LINE = re.compile(r"(?P<dtype>\w+) (?P<shape>scalar|\d+(x\d+)*)(?P<rest>( not finite)|( \w+=\S+)*)")


def dump(models: Mapping[str, Samples]) -> str:
    """Return the text of a baseline; models and parameters are in the order of their names."""
    parser = _parser()
    for key in sorted(models):
        parser[key] = {quote(name, safe=_PLAIN): _line(models[key][name]) for name in sorted(models[key])}
    out = StringIO()
    parser.write(out)
    return "\n".join((*_TOLD, "", out.getvalue().rstrip())) + "\n"


def load(text: str, *, called: str) -> dict[str, dict[str, Sample]]:
    """Return what :func:`dump` turned into text.

    Args:
        text: the whole file.
        called: what messages call it.

    Raises:
        SettingsError: the text is damaged, with the number of the line where that shows.
    """
    first = text.partition("\n")[0].strip()
    if first != MAGIC:
        raise SettingsError(
            f"{called} is not a baseline that this version reads: line 1 must be {MAGIC!r} (it is {_cut(first)!r})"
        )
    parser = _parser()
    try:
        parser.read_string(text)
    except configparser.MissingSectionHeaderError as e:
        raise _damaged(called, e.lineno, f"{_cut(e.line.strip())!r} belongs to no model") from None
    except configparser.ParsingError as e:
        number = e.errors[0][0]
        raise _damaged(called, number, f"cannot read {_cut(text.splitlines()[number - 1])!r}") from None
    except configparser.Error as e:  # a duplicate
        line = getattr(e, "lineno", None) or 1
        raise _damaged(called, line, f"{_cut(text.splitlines()[line - 1])!r} stands there a second time") from None
    models: dict[str, dict[str, Sample]] = {}
    for key in parser.sections():
        models[key] = {}
        for name, value in parser[key].items():
            try:
                models[key][unquote(name)] = _sample(value)
            except ValueError as e:
                raise _damaged(called, _line_number(text, key, name), str(e)) from None
    return models


def _parser() -> configparser.RawConfigParser:
    # No section has the empty name: none is one of defaults.
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",), default_section="")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names differ by case
    return parser


def _line(sample: Sample) -> str:
    form = f"{sample.dtype} {'x'.join(map(str, sample.shape)) or 'scalar'}"
    if not sample.finite:
        return f"{form} not finite"
    if sample.constant is not None or not sample.std > 0:
        return f"{form} constant={sample.mean:.9g}"
    shown = {"mean": _mean(sample), "std": f"{sample.std:.6g}"}
    if sample.kurtosis is not None:
        shown["kurtosis"] = f"{sample.kurtosis:.4g}"
    if sample.alike:
        shown["alike"] = f"{sample.alike:.6g}"
    return " ".join([form, *(f"{name}={value}" for name, value in shown.items())])


def _mean(sample: Sample) -> str:
    """The mean with as many digits as make rounding a thousandth of its sampling error."""
    error = sample.std / math.sqrt(max(1.0, sample.count))
    if not sample.mean or not error:
        return f"{sample.mean:.9g}"
    return f"{sample.mean:.{max(1, math.ceil(math.log10(abs(sample.mean) / error)) + 3)}g}"


def _sample(text: str) -> Sample:
    found = _LINE.fullmatch(text)
    if found is None:
        raise ValueError(f"cannot read {_cut(text)!r} (expected: DTYPE SHAPE mean=... std=... kurtosis=...)")
    shape = () if found["shape"] == "scalar" else tuple(int(n) for n in found["shape"].split("x"))
    if found["rest"] == " not finite":
        return Sample(shape, found["dtype"], finite=False)
    values: dict[str, float] = {}
    for pair in found["rest"].split():
        name, _, number = pair.partition("=")
        if name not in _FIELDS or name in values:
            raise ValueError(f"cannot read {pair!r}")
        values[name] = float(number)
        if not math.isfinite(values[name]):
            raise ValueError(f"{pair!r} is not a finite number")
    constant = values.get("constant")
    if constant is not None:
        return Sample(shape, found["dtype"], constant=constant, mean=constant, std=0.0)
    if not values.keys() >= {"mean", "std"} or not values["std"] > 0:
        raise ValueError(f"{_cut(text)!r} lacks a mean or a positive std")
    return Sample(
        shape,
        found["dtype"],
        mean=values["mean"],
        std=values["std"],
        kurtosis=values.get("kurtosis"),
        alike=values.get("alike", 0.0),
    )


def _line_number(text: str, key: str, name: str) -> int:
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("["):
            inside = line.rstrip() == f"[{key}]"
        elif inside and line.partition("=")[0].strip() == name:
            return number
    return 1


def _damaged(called: str, line: int, why: str) -> SettingsError:
    return SettingsError(
        f"{called} is damaged at line {line}: {why}; restore it from version control, or delete it and record it anew "
        "with --initcheck-update"
    )


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
