"""The one table of settings: pytest options, ini names, marker and keyword arguments, CLI flags and docs all come from it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any

from .errors import SettingsError

#: Bounds by layer glob; the last matching entry wins, ``(None, None)`` lifts the bound.
Bounds = tuple[tuple[str, float | None, float | None], ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    Attributes:
        name: keyword argument; the option is ``--initcheck-NAME`` and the ini ``initcheck_NAME``, with ``_`` as ``-``
            in the option.
        default: value when nobody says anything.
        parse: value of any surface (text, number, sequence) -> the value that :class:`Settings` holds;
            raises :class:`SettingsError`.
        help: one sentence; surfaces append the default.
        metavar: placeholder in ``--help``.
        repeat: the option may be given several times (ini: one a line).
        choices: allowed words, where the set is closed.
        bare: what the option says where it is given without a value; ``""`` where it needs one.
        reported: whether reports and the line that repeats them name it: not where it changes nothing that is found.
    """

    name: str
    default: Any
    parse: Callable[[str, Any], Any]
    help: str
    metavar: str
    repeat: bool = False
    choices: tuple[str, ...] = ()
    reported: bool = True
    bare: str = ""

    @property
    def switch(self) -> bool:
        """Whether the option takes no value: naming it turns it on."""
        return isinstance(self.default, bool)


def _fail(name: str, expected: str, got: object) -> SettingsError:
    return SettingsError(f"{name} must be {expected} (got {got!r})")


#: What a floating dtype is called, and what else it is called.
_FLOATING = ("float32", "bfloat16", "float16", "float64", "float", "half", "double")
#: Seeds beyond are more than a generator of torch takes.
_SEEDS = 2**63


def _integer(minimum: int) -> Callable[[str, Any], int]:
    def parse(name: str, value: Any) -> int:
        try:
            number = int(value) if not isinstance(value, bool | float) else None
        except (TypeError, ValueError):
            number = None
        if number is None or number < minimum:
            raise _fail(name, f"a whole number of at least {minimum}", value)
        if number >= _SEEDS:
            raise _fail(name, "a whole number below 2**63", value)
        return number

    return parse


def _word(choices: tuple[str, ...]) -> Callable[[str, Any], str]:
    def parse(name: str, value: Any) -> str:
        if value not in choices:
            raise _fail(name, "one of " + ", ".join(choices), value)
        return str(value)

    return parse


def _switch(name: str, value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in words:
        raise _fail(name, "true or false", value)
    return words[value.lower()]


def _text(_name: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    return str(value).removeprefix("torch.")


def _dtype(name: str, value: Any) -> str | None:
    text = _text(name, value)
    if text is not None and text not in _FLOATING:
        raise _fail(name, f"a floating dtype: {', '.join(_FLOATING[:4])}", value)
    return text


def _device(name: str, value: Any) -> str | None:
    """Its form alone: which devices there are, torch says where it is used, and backends bring names of their own."""
    text = _text(name, value)
    if text is not None and not re.fullmatch(r"[A-Za-z]\w*(:\d+)?", text):
        raise _fail(name, "a device such as cpu, cuda or cuda:1", value)
    return text


def _method(name: str, value: Any) -> str | None:
    text = _text(name, value)
    if text is not None and not text.isidentifier():
        raise _fail(name, "the name of a method such as init_weights", value)
    return text


def _stream(name: str, value: Any) -> str | None:
    """``"true"`` where blocks are to be found, else what they are called."""
    if value is None or value is False or value is True:
        return "true" if value else None
    text = value.strip() if isinstance(value, str) else ""
    if text.lower() in ("false", "no", "off", "0"):
        return None
    if text.lower() in ("true", "yes", "on", "1"):
        return "true"
    if not re.fullmatch(r"[\w*?\[\]!.-]+", text):
        raise _fail(name, "true, false, or the names of the blocks such as layers.*", value)
    return text


def _budget(name: str, value: Any) -> str:
    """``"60x"`` (bare steps), ``20`` or ``"20s"`` (seconds), both, or ``"none"``; returns them in this form, steps first."""
    text = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value
    expected = "bare steps (60x), seconds (20s), both (60x,20s) or none"
    if not isinstance(text, str):
        raise _fail(name, expected, value)
    parts = [part for part in re.split(r"[,\s]+", text.strip().lower()) if part]
    if parts == ["none"]:
        return "none"
    found: dict[str, str] = {}
    for part in parts:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(x|s?)", part)
        if match is None or (match[2] or "s") in found:
            raise _fail(name, expected, value)
        found[match[2] or "s"] = match[1]
    if not found:
        raise _fail(name, expected, value)
    return ",".join(found[unit] + unit for unit in ("x", "s") if unit in found)


def _words(name: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    items = re.split(r"[,\s]+", value) if isinstance(value, str) else value
    if not isinstance(items, Iterable):
        raise _fail(name, "a list of words", value)
    out: list[str] = []
    for item in items:
        if not isinstance(item, str):
            raise _fail(name, "a list of words", value)
        out += [word for word in re.split(r"[,\s]+", item) if word]
    return tuple(out)


def _bound(name: str, value: Any, whole: object) -> tuple[float | None, float | None]:
    """``(low, high)`` or ``"low:high"``, either side may be missing."""
    expected = "a pair (low, high) or 'low:high' with 0 <= low <= high"
    sides = value.split(":") if isinstance(value, str) else value
    if not isinstance(sides, tuple | list) or len(sides) != 2:
        raise _fail(name, expected, whole)
    try:
        low, high = (None if s is None or s == "" else float(s) for s in sides)
    except (TypeError, ValueError):
        raise _fail(name, expected, whole) from None
    for side in (low, high):
        if side is not None and (math.isnan(side) or side < 0):
            raise _fail(name, expected, whole)
    if low is not None and high is not None and low > high:
        raise _fail(name, expected, whole)
    return low, high


def _bounds(name: str, value: Any) -> Bounds:
    """``(low, high)``, ``{"glob": (low, high)}``, ``"low:high"``, ``"glob=low:high"`` or a list of the last two."""
    if value is None or value == "":
        return ()
    if isinstance(value, Mapping):
        rows = [(str(glob), pair) for glob, pair in value.items()]
    elif isinstance(value, str):
        rows = [_glob_and_pair(item) for item in re.split(r"[,\s]+", value) if item]
    elif isinstance(value, tuple | list) and value and all(isinstance(v, str) and ":" in v for v in value):
        rows = [_glob_and_pair(item) for v in value for item in re.split(r"[,\s]+", v) if item]
    elif isinstance(value, tuple | list) and value and all(isinstance(v, tuple | list) and len(v) == 3 for v in value):
        rows = [(str(glob), (low, high)) for glob, low, high in value]
    elif isinstance(value, tuple | list) and not value:
        return ()
    else:
        rows = [("*", value)]
    return tuple((glob, *_bound(name, pair, value)) for glob, pair in rows)


def _glob_and_pair(item: str) -> tuple[str, str]:
    glob, eq, pair = item.rpartition("=")
    return (glob, pair) if eq else ("*", pair)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "seed", 0, _integer(0), "seed of inputs, dropout and random directions; a factory builds under it too", "N"
    ),
    Setting("seeds", 1, _integer(1), "number of initialisations to look at, where the model is a factory", "N"),
    Setting("device", None, _device, "device to probe on; a model that lives elsewhere is copied there", "DEVICE"),
    Setting(
        "dtype",
        None,
        _dtype,
        "floating dtype to probe in (float32, bfloat16, float16, float64); a copy is cast",
        "DTYPE",
    ),
    Setting(
        "mode",
        "train",
        _word(("train", "eval", "as-is")),
        "mode of the modules during the probe",
        "MODE",
        choices=("train", "eval", "as-is"),
    ),
    Setting(
        "activation_std",
        (),
        _bounds,
        "bounds on every layer's activation std, LOW:HIGH or GLOB=LOW:HIGH",
        "BOUNDS",
        repeat=True,
    ),
    Setting(
        "gradient_std",
        (),
        _bounds,
        "bounds on every layer's gradient std, LOW:HIGH or GLOB=LOW:HIGH",
        "BOUNDS",
        repeat=True,
    ),
    Setting("ignore", (), _words, "findings to silence, RULE or RULE:LAYER-GLOB", "RULES", repeat=True),
    Setting("select", (), _words, "only these rules, RULE or RULE:LAYER-GLOB", "RULES", repeat=True),
    Setting("frozen", (), _words, "globs of parameters that are frozen on purpose", "GLOBS", repeat=True),
    Setting(
        "fail_on",
        "error",
        _word(("error", "warning", "never")),
        "least severity that fails",
        "SEVERITY",
        choices=("error", "warning", "never"),
    ),
    Setting(
        "deferred", None, _method, "also build on the meta device and run this init function of the model", "METHOD"
    ),
    Setting(
        "stream",
        None,
        _stream,
        "draw a factory's model block by block: true, or the blocks' names (layers.*)",
        "BLOCKS",
        bare="true",
    ),
    Setting(
        "time_budget",
        "200x,20s",
        _budget,
        "what an unclear model may cost: bare steps (60x), seconds (20s), both, or none",
        "LIMITS",
    ),
    Setting(
        "timeout",
        120,
        _integer(1),
        "seconds that a rank of a distributed model is waited for",
        "SECONDS",
        reported=False,
    ),
    Setting(
        "debug",
        False,
        _switch,
        "show the traceback behind the sentence where a model could not be checked",
        "BOOL",
        reported=False,
    ),
)

BY_NAME: Mapping[str, Setting] = {s.name: s for s in SETTINGS}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one check, parsed; see :data:`SETTINGS` for what each means."""

    seed: int = 0
    seeds: int = 1
    device: str | None = None
    dtype: str | None = None
    mode: str = "train"
    activation_std: Bounds = ()
    gradient_std: Bounds = ()
    ignore: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    fail_on: str = "error"
    deferred: str | None = None
    stream: str | None = None
    time_budget: str = "200x,20s"
    timeout: int = 120
    debug: bool = False
    #: Settings that somebody gave and that bear on the report, by name: what the reproduction line shows.
    given: Mapping[str, Any] = field(default_factory=dict, compare=False)
    #: Settings that hold for every model of a run: a glob in them need not match something in each.
    shared: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    @classmethod
    def of(cls, *layers: Mapping[str, Any], shared: int | None = None, prefix: str = "") -> Settings:
        """Return the settings that several surfaces ask for, the first one that gives a value winning.

        Args:
            layers: mappings name -> value, most important first; ``None`` means "not given".
            shared: number of the first of them that holds for other models, too, as do all after it; ``None`` if none does.
            prefix: put before names in messages (``"--initcheck-"``).

        Raises:
            SettingsError: a name is unknown or a value cannot be used.
        """
        for layer in layers:
            for name in layer:
                if name not in BY_NAME:
                    raise SettingsError(f"unknown setting {prefix}{name} (known: {', '.join(BY_NAME)})")
        given: dict[str, Any] = {}
        common = set()
        for name in BY_NAME:
            for i, layer in enumerate(layers):
                if layer.get(name) is not None:
                    given[name] = layer[name]
                    if shared is not None and i >= shared:
                        common.add(name)
                    break
        parsed = {name: BY_NAME[name].parse(prefix + name, value) for name, value in given.items()}
        told = {n: v for n, v in parsed.items() if BY_NAME[n].reported and v != getattr(_DEFAULTS, n)}
        return cls(**parsed, given=told, shared=frozenset(common))


_DEFAULTS = Settings()
assert [f.name for f in fields(Settings)][:-2] == [s.name for s in SETTINGS], "the table and the record disagree"


def matches(patterns: Iterable[str], rule: str, names: Iterable[str]) -> bool:
    """Return whether ``rule`` on any of ``names`` is meant by one of ``patterns`` (``RULE`` or ``RULE:GLOB``, ``*`` in both)."""
    for pattern in patterns:
        wanted, colon, glob = pattern.partition(":")
        if fnmatchcase(rule, wanted) and (not colon or any(fnmatchcase(name, glob) for name in names)):
            return True
    return False


def bound_for(bounds: Bounds, name: str) -> tuple[float | None, float | None]:
    """Return the bound that applies to the layer ``name``: the last entry whose glob matches, else none."""
    found: tuple[float | None, float | None] = (None, None)
    for glob, low, high in bounds:
        if fnmatchcase(name, glob):
            found = (low, high)
    return found
