"""Where each parameter stands: what uses it, what comes before and behind it, and which residual branches there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn
from torch.nn.parameter import UninitializedParameter

from ..probing.call import Call
from ..probing.graph import Graph, nonlinearity
from ..probing.guard import untouched
from ..probing.layers import Watch
from ..probing.modules import Held, Maker, held_by, own_parameters
from ..probing.operands import Use, fans, use_in
from ..probing.probe import float_outputs
from ..probing.subject import subject_of
from ..probing.tracing import read_graph
from .branches import Branches


@dataclass(frozen=True, slots=True)
class Place:
    """One parameter and where it stands.

    Attributes:
        name: the name users know: ``"conv.weight"`` also where a parametrization makes that weight.
        parameters: names of the parameters that hold it.
        made_by: what makes it of them: ``"parametrization"``, ``"weight-norm"``, or ``""`` where it is the parameter.
        kind: class name of the module that owns it.
        shape: shape of the tensor called ``name``.
        use: how it is used.
        fan_in: as in :class:`~pytest_initcheck.ParameterRecord`.
        fan_out: likewise.
        followed_by: likewise.
        reached: whether the output depends on it.
        first: whether it is a weight that reads the model's inputs.
        head: whether it is a weight that nothing but the output reads.
        closes: whether it is the last weight, or a scale behind it, of a residual branch.
        normed: whether a norm stands between it and the end of its residual branch, or right behind that.
        gates: whether what it makes is a factor for other signals, behind a sigmoid.
        branch: for a weight on a residual branch, how many weights stand in a row on that branch; 0 elsewhere.
        omega: constant factor between it and a sine behind it.
        aliases: further names of the same tensor.
    """

    name: str
    parameters: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]
    use: Use
    fan_in: int | None = None
    fan_out: int | None = None
    followed_by: str | None = None
    reached: bool = True
    first: bool = False
    head: bool = False
    closes: bool = False
    normed: bool = False
    gates: bool = False
    branch: int = 0
    omega: float = 1.0
    aliases: tuple[str, ...] = ()
    made_by: Maker = ""

    @property
    def role(self) -> str:
        """As in :class:`~pytest_initcheck.ParameterRecord`."""
        return self.use.role

    @property
    def units(self) -> int:
        """Number of outputs of a weight, in one group."""
        return self.shape[self.use.out_dim] // self.use.groups


@dataclass(frozen=True, slots=True)
class Wiring:
    """All places of a model, by name.

    Attributes:
        places: in the order of ``named_parameters``.
        branches: number of residual branches that are added to a stream.
        followed: whether the model was run; otherwise only its modules' kinds are known.
        norms: whether there is a norm layer.
    """

    places: Mapping[str, Place]
    branches: int = 0
    followed: bool = True
    norms: bool = False


def read_wiring(model: nn.Module, call: Call, *, seed: int = 0) -> Wiring:
    """Run ``model`` forward once, leaving no trace, and return where its parameters stand.

    Args:
        model: the module.
        call: how to call it.
        seed: seed of what the model draws.
    """
    with untouched(model, tensors=call.tensors) as guard:
        guard.backup_parameters()
        for p in model.parameters():
            if p.is_floating_point() and not isinstance(p, UninitializedParameter):
                p.requires_grad_(True)  # what is frozen has a place, too
        # Not unwrapped: places go by the names that the user's model has.
        with subject_of(model, call, guard, seed=seed, unwrap=False).watched() as (watch, raw):
            graph = Graph([t for t in float_outputs(raw) if t.requires_grad], watch.made)
            return _read(model, watch, graph)


def module_wiring(model: nn.Module) -> Wiring:
    """Return what the kinds of the modules tell without running the model."""
    # of the modules that share a tensor, the first one tells
    modules = reversed(list(model.modules()))
    kinds = {id(h.direction): use_in(m, h.attribute, h.direction) for m in modules for h in held_by(m)}
    places = dict(_places(model, {n: kinds[id(p)] for n, p in model.named_parameters() if id(p) in kinds}))
    return Wiring(places, followed=False, norms=any(p.role == "norm-scale" for p in places.values()))


# -- names


@dataclass(frozen=True, slots=True)
class _Known:
    """A tensor that users know by one name, and the names of the parameters that hold it."""

    name: str
    parameters: tuple[str, ...]
    direction: str
    shape: tuple[int, ...]
    made_by: Maker


def _known(model: nn.Module) -> Iterator[_Known]:
    names = dict(model.named_parameters())
    called = {id(p): name for name, p in names.items()}
    holders: dict[int, tuple[str, nn.Module, Held]] = {}
    for path, module in model.named_modules():
        for held in held_by(module):
            for p in held.parameters:
                holders.setdefault(id(p), (path, module, held))
    seen: set[int] = set()
    for name, p in names.items():
        if id(p) in seen:
            continue
        path, module, held = holders.get(id(p), ("", model, Held(name, (p,), p)))
        if not held.made_by:
            yield _Known(name, (name,), name, () if isinstance(p, UninitializedParameter) else tuple(p.shape), "")
            continue
        seen.update(id(q) for q in held.parameters)
        shape = held.direction.shape if held.made_by == "weight-norm" else getattr(module, held.attribute).shape
        yield _Known(
            f"{path}.{held.attribute}" if path else held.attribute,
            tuple(called[id(q)] for q in held.parameters),
            called[id(held.direction)],
            tuple(shape),
            held.made_by,
        )


def _places(model: nn.Module, uses: Mapping[str, Use]) -> Iterator[tuple[str, Place]]:
    parameters = dict(model.named_parameters())
    every: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        every.setdefault(id(p), []).append(name)
    kinds = {id(p): type(m).__name__ for m in model.modules() for p in own_parameters(m)}
    for held in _known(model):
        p = parameters[held.direction]
        use = uses.get(held.direction, Use("other"))
        fan_in, fan_out = (None, None) if isinstance(p, UninitializedParameter) else fans(p, use)
        yield (
            held.name,
            Place(
                name=held.name,
                parameters=held.parameters,
                kind=kinds.get(id(p), ""),
                shape=held.shape,
                use=use,
                fan_in=fan_in,
                fan_out=fan_out,
                aliases=tuple(n for n in every[id(p)] if n != held.direction),
                made_by=held.made_by,
            ),
        )


# -- what the graph says


def _read(model: nn.Module, watch: Watch, graph: Graph) -> Wiring:
    seen = read_graph(model, watch, graph)
    parameters = dict(model.named_parameters())
    reading = Branches(graph, parameters, {n: u.role for n, u in seen.uses.items()})
    places: dict[str, Place] = {}
    directions = {h.name: h.direction for h in _known(model)}
    for name, place in _places(model, seen.uses):
        direction = directions[name]
        nodes = [u.node for u in graph.uses(parameters[direction])]
        weight = place.role == "weight"
        # The steps of a recurrent layer are sums, too, but no branches that somebody adds to a stream.
        closes, normed = (False, False) if place.use.cell else reading.closing(nodes)
        followed = seen.parameters.get(direction)
        places[name] = replace(
            place,
            followed_by=followed,
            reached=any(graph.reaches(parameters[n]) for n in place.parameters),
            first=weight and bool(nodes) and not any(reading.reads_weights(n) for n in nodes),
            head=weight and bool(nodes) and not any(n in reading.read for n in nodes),
            closes=closes,
            normed=normed,
            gates=followed == "sigmoid" and reading.gates(nodes),
            branch=0 if place.use.cell else max((reading.inside.get(n, 0) for n in nodes), default=0),
            omega=seen.factors.get(direction, 1.0) if followed == "sin" else 1.0,
        )
    norms = any(p.role == "norm-scale" for p in places.values()) or any(nonlinearity(n) == "norm" for n in graph.nodes)
    return Wiring(places, branches=len(reading.closed), norms=norms)
