"""assert_initialized: every parameter was drawn from what was expected of it, as a statistical statement.

Finds the initialization that ran, but not here: a glob that no longer matches, a layer that was added, a residual projection
that lost its factor.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ..errors import SettingsError, UnexpectedInit
from ..models.build import build
from ..probing.randomness import seed_torch
from ..probing.statistics import kurtosis, measure, settle
from ..schemes.distributions import name_distribution
from ..settings import Settings
from ..sharding.flat import is_flat, whole_copy
from ..sharding.layout import gathered, is_distributed, kind_of
from ..sharding.verdict import as_one
from ..sharding.world import current
from ..words import further, plural, some
from .drift import Sample, drifted
from .expect import TESTS, Distribution, Expectation, Misfit, misfits, sampled

#: Failures that are described; of more, the names.
SHOWN = 5
#: Names that are listed.
LISTED = 10

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Checked:
    """One parameter, what was expected of it, and how it differs.

    Attributes:
        name: dotted name.
        shape: shape.
        pattern: the glob that it matched.
        expected: the expectation in words.
        misfits: ways in which it is not as expected; empty if it is.
        looks: what its values look they were drawn from, where they are not as expected.
    """

    name: str
    shape: tuple[int, ...]
    pattern: str
    expected: str
    misfits: tuple[Misfit, ...] = ()
    looks: str = ""


@dataclass(frozen=True, slots=True)
class Initialization:
    """What :func:`assert_initialized` found; its text names what differs and what was not covered.

    Attributes:
        model: class name of the model.
        checked: parameters that a pattern covers, in the model's order.
        uncovered: names of the others.
        false_alarm_rate: chance that a model initialized as expected fails.
    """

    model: str
    checked: tuple[Checked, ...]
    uncovered: tuple[str, ...]
    false_alarm_rate: float

    @property
    def failed(self) -> tuple[Checked, ...]:
        """The parameters that are not as expected."""
        return tuple(c for c in self.checked if c.misfits)

    def __str__(self) -> str:
        failed = self.failed
        if not failed:
            blocks = [f"{self.model}: {plural(len(self.checked), 'parameter')} initialized as expected"]
        else:
            first = failed[0]
            more = further(len(failed))
            blocks = [
                f"{self.model}: {len(failed)} of {plural(len(self.checked), 'parameter')} not initialized as expected: "
                f"{first.name}: {first.misfits[0].text}{more}"
            ]
        blocks += [_block(c) for c in failed[:SHOWN]]
        if len(failed) > SHOWN:
            blocks.append(f"... and {some([c.name for c in failed[SHOWN:]], LISTED)}")
        if self.uncovered:
            blocks.append(f"covered by no pattern: {some(self.uncovered, LISTED)}")
        if failed:
            blocks.append(f"chance of a false alarm: at most {self.false_alarm_rate:g} for the whole model")
        return "\n\n".join(blocks)


def assert_initialized(
    model: nn.Module | Callable[[], nn.Module],
    expected: Mapping[str, Expectation],
    *,
    false_alarm_rate: float = 1e-6,
) -> Initialization:
    """Raise :class:`UnexpectedInit` unless every parameter was drawn from what is expected of it.

    Each parameter is judged by the first pattern that matches its name (a tied one any of its names, a parametrized one the
    name that it has without parametrization). What is drawn is tested for its location, its scale and its shape; constants,
    identities and orthogonality are compared.

    Args:
        model: a module, which is not changed, or a factory without arguments.
        expected: glob of names -> one of the expectations of :mod:`pytest_initcheck.expect`.
        false_alarm_rate: chance that a model initialized as expected fails, all tests together; an upper bound, whatever
            the sizes of the parameters.

    Returns:
        What was checked, and the names that no pattern covers.

    Raises:
        UnexpectedInit: a parameter is not as expected (an ``AssertionError``; its ``report`` is the same object).
        SettingsError: a pattern matches nothing or is never reached, an expectation cannot be used.
    """
    __tracebackhide__ = True
    if not 0 < false_alarm_rate < 1:
        raise SettingsError(f"false_alarm_rate must be between 0 and 1 (got {false_alarm_rate!r})")
    if not isinstance(model, nn.Module):
        if not callable(model):
            raise SettingsError(f"model must be an nn.Module or a zero-argument factory (got {type(model).__name__})")
        model, _ = build(model, 0)
    for pattern, value in expected.items():
        if not isinstance(value, Expectation):
            raise SettingsError(
                f"{pattern!r} must map to an expectation such as normal(std=0.02) or zeros() (got {value!r})"
            )
    if current() is None and is_distributed(model):
        split, rate = model, false_alarm_rate

        def asserted() -> Initialization:
            whole = whole_copy(split) if is_flat(split) else split
            return assert_initialized(whole, expected, false_alarm_rate=rate)

        return as_one(split, Settings().timeout, asserted, str)
    found = list(_parameters_of(model))
    chosen = _chosen(found, expected)
    again = _reset(model) if any(expected[p].of is None for p in chosen.values()) else {}
    plans = [(p, chosen[p.name], expected[chosen[p.name]]) for p in found if p.name in chosen]
    distributions = [None if e.of is None else _distribution(p, e) for p, _, e in plans]
    tests = sum(TESTS for d in distributions if d is None or d.drawn)
    alpha = false_alarm_rate / max(1, tests)
    checked = []
    for (p, pattern, expectation), distribution in zip(plans, distributions, strict=True):
        if distribution is None:
            told = _as_again(p, again, alpha)
        else:
            told = _refusing(p, partial(misfits, p.values, distribution, alpha=alpha))
        looks = _looks(p.values) if told else ""
        checked.append(Checked(p.name, tuple(p.values.shape), pattern, str(expectation), tuple(told), looks))
    uncovered = tuple(p.name for p in found if p.name not in chosen and not p.inner)
    report = Initialization(kind_of(model), tuple(checked), uncovered, false_alarm_rate)
    if report.failed:
        raise UnexpectedInit(str(report), report=report)
    return report


# -- which parameter is judged by which pattern


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A parameter's values under its names; ``inner`` for what a parametrization makes a weight of."""

    name: str
    names: tuple[str, ...]
    values: Tensor
    inner: bool = False


def _parameters_of(model: nn.Module) -> Iterator[_Parameter]:
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    made = set()
    for name, p in model.named_parameters():
        if isinstance(p, UninitializedParameter):
            raise SettingsError(f"{name} is lazy: run the model once, then its parameters have values")
        if p.device.type == "meta":
            raise SettingsError(f"{name} is on the meta device and has no values to look at")
        before, inside, rest = name.partition("parametrizations.")
        if inside:
            owner, tensor = model.get_submodule(before.rstrip(".")), rest.partition(".")[0]
            if (id(owner), tensor) not in made:
                made.add((id(owner), tensor))
                with torch.no_grad():
                    yield _Parameter(before + tensor, (before + tensor,), getattr(owner, tensor).detach())
        whole = gathered(p.detach())
        if whole.is_floating_point():
            yield _Parameter(name, tuple(names[id(p)]), whole, inner=bool(inside))


def _chosen(found: list[_Parameter], expected: Mapping[str, Expectation]) -> dict[str, str]:
    """Parameter -> the first pattern that matches one of its names."""
    chosen: dict[str, str] = {}
    matching = dict.fromkeys(expected, 0)
    for p in found:
        for pattern in expected:
            if any(fnmatchcase(name, pattern) for name in p.names) and not (p.inner and "parametriz" not in pattern):
                matching[pattern] += 1
                chosen.setdefault(p.name, pattern)
    for pattern, count in matching.items():
        if not count:
            raise SettingsError(
                f"the pattern {pattern!r} matches no parameter (there are {some([p.name for p in found], LISTED)})"
            )
        if pattern not in chosen.values():
            raise SettingsError(
                f"the pattern {pattern!r} is never reached: what it matches is matched by one before it, and the first counts"
            )
    return chosen


def _distribution(p: _Parameter, expectation: Expectation) -> Distribution:
    assert expectation.of is not None
    return _refusing(p, partial(expectation.of, p.values))


def _refusing(p: _Parameter, ask: Callable[[], T]) -> T:
    try:
        return ask()
    except SettingsError as e:
        raise SettingsError(f"{p.name}: {e}") from None


# -- the modules' own initialization


def _reset(model: nn.Module) -> dict[str, _Parameter]:
    """Parameters of a copy on which every module's ``reset_parameters`` was called, children first, as construction does."""
    try:
        again = copy.deepcopy(model).cpu()
    except Exception as e:
        raise SettingsError(f"default() needs a copy of the model, and it cannot be copied ({e})") from e
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        seed_torch(0)
        for path, module in reversed(list(again.named_modules())):
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if not callable(reset) or inspect.signature(reset).parameters:
                continue
            try:
                reset()
            except Exception as e:
                raise SettingsError(f"default(): reset_parameters of {path or 'the model'} raised {e!r}") from e
    return {p.name: p for p in _parameters_of(again)}


def _as_again(p: _Parameter, again: Mapping[str, _Parameter], alpha: float) -> list[Misfit]:
    """How a parameter differs from another draw of its module's own initialization, by two-sample tests."""
    now, other = p.values, again[p.name].values.to(p.values.dtype)
    samples = [_sample(x) for x in (other, now)]
    if samples[0].constant is None and samples[0].finite and torch.equal(other, now.cpu()):
        return []  # nothing drew it again: its module has no initialization of its own
    found = [
        Misfit("constant" if d.kind == "constant" else "location" if d.kind == "mean" else "scale", d.text, d.p)
        for d in drifted({"": samples[0]}, {"": samples[1]}, alpha=alpha)
    ]
    if found or samples[0].constant is not None:
        return found
    x, y = (sampled(v, seed).sort().values for seed, v in enumerate((other, now)))
    steps = torch.cat([x, y]).sort().values
    gap = float(
        (torch.searchsorted(x, steps, right=True) / len(x) - torch.searchsorted(y, steps, right=True) / len(y))
        .abs()
        .max()
    )
    # Wei and Dudley, Statistics and Probability Letters 82 (2012): with e instead of 2 for samples of any one size.
    size = len(x) * len(y) / (len(x) + len(y))
    p_value = math.exp(1 - 2 * size * gap * gap)
    return (
        [Misfit("shape", f"distribution function {gap:.2g} off that of a new draw", p_value)] if p_value < alpha else []
    )


def _sample(x: Tensor) -> Sample:
    (value,), (peak,) = settle([measure(x)]), kurtosis([x])
    if value is None or not value.finite:
        return Sample(tuple(x.shape), str(x.dtype), finite=False)
    constant = value.min if value.min == value.max else None
    return Sample(tuple(x.shape), str(x.dtype), constant, value.mean, value.std, peak, value.zeros)


# -- words


def _looks(values: Tensor) -> str:
    fans = (None, None) if values.dim() < 2 else nn.init._calculate_fan_in_and_fan_out(values)
    return str(name_distribution(values, fan_in=fans[0], fan_out=fans[1]))


def _block(c: Checked) -> str:
    shape = "x".join(map(str, c.shape)) or "scalar"
    lines = [f"{c.name} ({shape}), {c.pattern!r}: expected {c.expected}", *(f"  {m.text}" for m in c.misfits)]
    return "\n".join([*lines, f"  it looks like: {c.looks}"])
