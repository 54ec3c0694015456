"""Where each parameter stands: what uses it, what comes before and behind it, and which residual branches there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from .branches import Branches
from .graph import Graph, nonlinearity
from .inputs import Call
from .layers import Watch
from .modules import own_parameters
from .probe import float_outputs
from .state import untouched
from .tracing import read_graph
from .weights import Use, fans


@dataclass(frozen=True, slots=True)
class Place:
    """One parameter and where it stands.

    Attributes:
        name: the name users know: ``"conv.weight"`` also where a parametrization makes that weight.
        parameters: names of the parameters that hold it.
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
        trained: whether it requires a gradient.
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
    trained: bool = True

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
        model.train()
        torch.manual_seed(seed)
        watch = Watch(model, call.batch)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                with watch:
                    raw = model(*call.args, **call.kwargs)
                graph = Graph([t for t in float_outputs(raw) if t.requires_grad], watch.made)
                return _read(model, watch, graph)
        finally:
            watch.close()


def module_wiring(model: nn.Module) -> Wiring:
    """Return what the kinds of the modules tell without running the model."""
    places = dict(_places(model, {n: u for n, (u, _) in _by_kind(model).items()}))
    return Wiring(places, followed=False, norms=any(p.role == "norm-scale" for p in places.values()))


# -- names


@dataclass(frozen=True, slots=True)
class _Held:
    """A tensor that users know by one name, and the parameters that hold it."""

    name: str
    parameters: tuple[str, ...]
    direction: str
    shape: tuple[int, ...]


def _held(model: nn.Module) -> Iterator[_Held]:
    seen: set[str] = set()
    names = dict(model.named_parameters())
    for name, p in names.items():
        if name in seen:
            continue
        path, _, own = name.rpartition(".")
        shape = () if isinstance(p, UninitializedParameter) else tuple(p.shape)
        head, found, tail = path.partition("parametrizations.")
        if found:
            attribute = tail.partition(".")[0]
            owner = model.get_submodule(head.rstrip("."))
            group = tuple(n for n in names if n.startswith(f"{head}parametrizations.{attribute}."))
            direction = next((n for n in group if n.endswith(("original", "original1"))), group[-1])
            yield _Held(head + attribute, group, direction, tuple(getattr(owner, attribute).shape))
            seen.update(group)
        elif own.endswith(("_v", "_g")) and (pair := _weight_norm(model, path, own)) is not None:
            prefix = f"{path}." if path else ""
            yield _Held(
                prefix + pair, (f"{prefix}{pair}_g", f"{prefix}{pair}_v"), f"{prefix}{pair}_v", _v(model, path, pair)
            )
            seen.update((f"{prefix}{pair}_g", f"{prefix}{pair}_v"))
        else:
            yield _Held(name, (name,), name, shape)


def _v(model: nn.Module, path: str, pair: str) -> tuple[int, ...]:
    return tuple(getattr(model.get_submodule(path), f"{pair}_v").shape)


def _weight_norm(model: nn.Module, path: str, own: str) -> str | None:
    """Attribute that torch.nn.utils.weight_norm, the older one, computes before each call; ``None`` if it does not."""
    word = own[:-2]
    module = model.get_submodule(path)
    hooks = module._forward_pre_hooks.values()
    known = any(type(h).__name__ == "WeightNorm" and getattr(h, "name", None) == word for h in hooks)
    return word if known else None


def _by_kind(model: nn.Module) -> dict[str, tuple[Use, nn.Module]]:
    found: dict[str, tuple[Use, nn.Module]] = {}
    for path, module in model.named_modules():
        for p in own_parameters(module):
            name = next((n for n, q in module.named_parameters() if q is p), None)
            if name is not None:
                full = f"{path}.{name}" if path else name
                found.setdefault(full, (_kind_use(module, name, p), module))
    return found


def _kind_use(module: nn.Module, name: str, p: Tensor) -> Use:
    own = name.removeprefix("parametrizations.").partition(".")[0]
    own = own.removesuffix("_v") if name == own else own
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        if p.dim() < 2:
            return Use("bias")
        return Use("weight", groups=max(p.shape[0] // module.hidden_size, 1) if "_hr_" not in own else 1)
    if isinstance(module, nn.MultiheadAttention):
        return Use("weight" if own.endswith("weight") else "bias" if own == "in_proj_bias" else "other")
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return Use("embedding")
    if isinstance(module, nn.Linear | nn.Bilinear) or hasattr(module, "transposed"):
        if own == "bias":
            return Use("bias")
        if own == "weight" and getattr(module, "transposed", False):
            stride = 1
            for s in getattr(module, "stride", (1,)):
                stride *= int(s)
            return Use("weight", out_dim=1, in_dim=0, stride=stride)
        if own == "weight":
            return Use("weight", groups=int(getattr(module, "groups", 1)))
    if isinstance(module, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
        return Use("norm-shift" if own == "bias" else "norm-scale")
    return Use("other")


def _places(model: nn.Module, uses: Mapping[str, Use]) -> Iterator[tuple[str, Place]]:
    parameters = dict(model.named_parameters())
    every: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        every.setdefault(id(p), []).append(name)
    kinds = {id(p): type(m).__name__ for m in model.modules() for p in own_parameters(m)}
    for held in _held(model):
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
                trained=any(parameters[n].requires_grad for n in held.parameters),
            ),
        )


# -- what the graph says


def _read(model: nn.Module, watch: Watch, graph: Graph) -> Wiring:
    seen = read_graph(model, watch, graph)
    parameters = dict(model.named_parameters())
    reading = Branches(graph, parameters, {n: u.role for n, u in seen.uses.items()})
    recurrent = {
        f"{path}.{n}" if path else n
        for path, m in model.named_modules()
        if isinstance(m, nn.RNNBase | nn.RNNCellBase)
        for n, _ in m.named_parameters()
    }
    places: dict[str, Place] = {}
    directions = {h.name: h.direction for h in _held(model)}
    for name, place in _places(model, seen.uses):
        direction = directions[name]
        nodes = [u.node for u in graph.uses(parameters[direction])]
        weight = place.role == "weight"
        # The steps of a recurrent layer are sums, too, but no branches that somebody adds to a stream.
        closes, normed = (False, False) if place.name in recurrent else reading.closing(nodes)
        followed = seen.parameters.get(direction)
        places[name] = Place(
            name=name,
            parameters=place.parameters,
            kind=place.kind,
            shape=place.shape,
            use=place.use,
            fan_in=place.fan_in,
            fan_out=place.fan_out,
            followed_by=followed,
            reached=any(graph.reaches(parameters[n]) for n in place.parameters),
            first=weight and bool(nodes) and not any(reading.reads_weights(n) for n in nodes),
            head=weight and bool(nodes) and not any(n in reading.read for n in nodes),
            closes=closes,
            normed=normed,
            gates=followed == "sigmoid" and reading.gates(nodes),
            branch=0 if place.name in recurrent else max((reading.inside.get(n, 0) for n in nodes), default=0),
            omega=seen.factors.get(direction, 1.0) if followed == "sin" else 1.0,
            aliases=place.aliases,
            trained=place.trained,
        )
    norms = any(p.role == "norm-scale" for p in places.values()) or any(nonlinearity(n) == "norm" for n in graph.nodes)
    return Wiring(places, branches=len(reading.closed), norms=norms)
