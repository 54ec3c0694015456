"""One verdict: what every rank found compared, and one sentence for all where they did not come to the same end."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TypeVar

from torch import Tensor, nn

from ..errors import InitcheckError, ProbeError
from ..report import Report
from ..words import named_error, plural
from .faults import equal, spread
from .flat import TOLD, is_flat, whole_copy
from .layout import is_sharded
from .world import World, current, named

T = TypeVar("T")

#: Names of parameters that are listed where ranks have different ones.
LISTED = 3


def one_report(model: nn.Module, timeout: float, judge: Callable[[nn.Module], Report]) -> Report:
    """Return the report that all ranks agree on: the first rank's, where all come to the same verdict.

    Args:
        model: a model that several processes hold together; every one of them calls this.
        timeout: seconds that a rank is waited for.
        judge: examines the model, or the modules that the first FSDP wraps, on this rank.

    Raises:
        ProbeError, InitcheckError: as :func:`as_one`.
    """

    def looked() -> Report:
        world = current()
        assert world is not None
        subject = whole_copy(model) if is_flat(model) else model
        world.spread = spread(world, subject)
        with equal(world, subject, world.spread):
            report = judge(subject)
        if subject is not model:
            report = replace(report, trace=replace(report.trace, unseen=(TOLD, *report.trace.unseen)))
        return report

    # Timings and the last digits are each rank's own: one report is everybody's.
    return as_one(model, timeout, looked, verdict, everywhere=True)


def as_one(
    model: nn.Module, timeout: float, run: Callable[[], T], said: Callable[[T], str], *, everywhere: bool = False
) -> T:
    """Return what ``run`` returns on this rank, where it says the same on all of them.

    Args:
        model: a model that several processes hold together; every one of them calls this.
        timeout: seconds that a rank is waited for.
        run: what to do; ranks tell each other through :func:`~pytest_initcheck.sharding.world.current`.
        said: what must be the same everywhere.
        everywhere: whether to return what the first rank's ``run`` returned.

    Raises:
        ProbeError: the ranks hold different models, say different things, or one of them raised or did not come to an end.
        InitcheckError: what every rank raised.
    """
    raised: BaseException | None = None
    found: list[T] = []
    with _met(World(model, timeout)) as world:
        try:
            _same_model(world, model)
            world.learn()
            found.append(run())
            outcome = {"said": said(found[0])}
        except Exception as error:
            raised = error
            outcome = {"raised": str(error) if isinstance(error, InitcheckError) else named_error(error)}
        sentence = _disagreement(world.ranks, world.agree(outcome))
        if sentence is None and found:
            return world.told(found[0] if world.rank == world.ranks[0] else None)[0] if everywhere else found[0]
    if sentence is not None:
        raise ProbeError(sentence) from raised
    assert raised is not None
    raise raised


@contextmanager
def _met(world: World) -> Iterator[World]:
    with ExitStack() as stack:
        try:
            stack.enter_context(world)
        except Exception as error:
            raise ProbeError(
                f"rank {world.rank} waited in vain for {plural(len(world.ranks) - 1, 'other rank')}: every rank that holds a part of "
                f"the model must call the check ({named_error(error)[:120]})"
            ) from error
        yield world


def verdict(report: Report) -> str:
    """Return a digest of what is concluded: rules, severities, first layers, and what was looked at."""
    concluded = [(f.rule, f.severity, f.layers) for f in (*report.findings, *report.ignored)]
    seen = [[*report.layers], [*report.parameters], report.ok]
    return hashlib.sha256(json.dumps([concluded, seen]).encode()).hexdigest()[:16]


def _disagreement(ranks: Sequence[int], found: Sequence[Mapping[str, str]]) -> str | None:
    """What ranks that did not come to the same end are told; ``None`` where they did."""
    if all(outcome == found[0] for outcome in found) and "silent" not in found[0]:
        return None
    count = plural(len(ranks), "rank")
    late = ("timed out", "timeout", "connection closed", "connection reset", "broken pipe")
    raised = [(r, o["raised"]) for r, o in zip(ranks, found, strict=True) if "raised" in o]
    own = [(r, text) for r, text in raised if not any(word in text.lower() for word in late)]
    silent = [(r, o["silent"]) for r, o in zip(ranks, found, strict=True) if "silent" in o]
    if own:
        text = own[0][1]
        with_it = [r for r, other in own if other == text]
        return f"{named(with_it)} of {count} stopped, and the others with it: {text}"
    if silent:
        return f"{named([r for r, _ in silent])} of {count} {silent[0][1]}: every rank must call the check, on the same model"
    if raised:
        return f"{named([r for r, _ in raised])} of {count} waited for the others in vain: {raised[0][1]}"
    most = Counter(o["said"] for o in found).most_common(1)[0][0]
    odd = [r for r, o in zip(ranks, found, strict=True) if o["said"] != most]
    return (
        f"{named(odd)} of {count} came to another verdict than the others: the ranks do not compute the same function"
    )


# -- before


def _same_model(world: World, model: nn.Module) -> None:
    """Refuse ranks that hold different models, before any of them waits for a tensor that another one does not have."""
    flat = is_flat(model)  # of whose vectors each rank has another part
    mine = [(n, [] if flat else _form(t)) for n, t in (*model.named_parameters(), *model.named_buffers())]
    # Through the store, in one message of one size: ranks whose lists differ in length still hear one another.
    digest = hashlib.sha256(json.dumps([type(model).__name__, mine]).encode()).hexdigest()
    told = world.told(digest)
    if len(set(told)) == 1:
        return
    every = world.told((type(model).__name__, mine))
    most = Counter(told).most_common(1)[0][0]
    known, odd = every[told.index(most)], [r for r, d in zip(world.ranks, told, strict=True) if d != most]
    other = every[world.ranks.index(odd[0])]
    apart = [n for n, _ in {*map(_pair, known[1])} ^ {*map(_pair, other[1])}]
    what = (
        f"a {other[0]} rather than a {known[0]}"
        if other[0] != known[0]
        else "other shapes or layouts of " + ", ".join(list(dict.fromkeys(sorted(apart)))[:LISTED])
    )
    raise ProbeError(f"{named(odd)} of {plural(len(world.ranks), 'rank')} holds another model than the others: {what}")


def _pair(entry: Sequence[object]) -> tuple[str, str]:
    return str(entry[0]), json.dumps(entry[1])


def _form(tensor: Tensor) -> list[object]:
    placements = str(tensor.placements) if is_sharded(tensor) else ""  # type: ignore[attr-defined]
    return [list(tensor.shape), str(tensor.dtype), tensor.requires_grad, placements]
