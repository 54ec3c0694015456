"""What was watched and what the graph said, as a Trace."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..records import LayerRecord, ParameterRecord, Stats, Trace
from ..sharding.layout import gathered, kind_of
from ..sharding.world import current
from .call import Call
from .graph import Graph, nonlinearity
from .layers import RECTIFYING, WEIGHTED, Entry, Watch
from .modules import clean, layer_modules, own_parameters, sample_dim
from .operands import Use, fans, twin_rows, use_of
from .statistics import Pending, kurtosis, measure, settle, settle_units
from .streamed import Streamed


@dataclass(frozen=True, slots=True)
class Seen:
    """What the graph said, read before the backward pass frees what its nodes saved."""

    reached: set[str]
    uses: dict[str, Use]
    parameters: dict[str, str]
    factors: dict[str, float]
    layers: dict[str, str]
    edges: dict[str, tuple[str, ...]]
    unseen: list[str]


def read_graph(model: nn.Module, watch: Watch, graph: Graph) -> Seen:
    owners = _owners(model)
    uses: dict[str, Use] = {}
    behind: dict[str, str] = {}
    factors: dict[str, float] = {}
    reached: set[str] = set()
    for name, p in model.named_parameters():
        uses[name] = use_of(name, p, owners.get(id(p), ("", None))[1], watch.uses, graph)
        if not graph.reaches(p):
            continue
        reached.add(name)
        found = graph.uses(p)
        labels = {nonlinearity(use.node) or graph.followed_by(use.node) for use in found}
        if found:
            factors[name] = graph.factor(found[0].node)
        behind[name] = labels.pop() if len(labels) == 1 else "mixed" if labels - {"none"} else "none"
    stops: dict[Any, str] = {}
    for entry in watch.entries:
        # Containers end in the node of what they contain; the first to have it is the one that computed it.
        if entry.node is not None and entry.node in graph.consumers:
            stops.setdefault(entry.node, entry.name)
    edges = {name: tuple(graph.sources(node, stops)) for node, name in stops.items()}
    layers = {e.name: graph.followed_by(e.node) for e in watch.entries if e.node in graph.consumers}
    unseen = [
        f"{name.removesuffix('Backward')}: a custom autograd function; its inside is not in the graph"
        for name in graph.opaque()
    ]
    return Seen(reached, uses, behind, factors, layers, edges, unseen)


def _owners(model: nn.Module) -> dict[int, tuple[str, nn.Module]]:
    return {id(p): (path, m) for path, m in reversed(list(layer_modules(model))) for p in own_parameters(m)}


def trace_of(
    model: nn.Module,
    call: Call,
    watch: Watch,
    gradients: Mapping[str, Tensor | Stats | None],
    outputs: list[Tensor],
    seen: Seen,
    scale: float,
    *,
    exact: bool = True,
    streamed: Streamed | None = None,
) -> Trace:
    names: dict[int, str] = {}
    aliases: dict[str, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if id(p) in names:
            aliases.setdefault(names[id(p)], []).append(name)
        else:
            names[id(p)] = name
    owners = _owners(model)
    parameters = list(model.named_parameters())
    # What a parametrization makes of a parameter is what the layer computes with.
    weights = [watch.made[id(p)].detach() if id(p) in watch.made else p for _, p in parameters]
    away = set() if streamed is None else {id(p) for _, p in parameters if id(p) not in watch.made}
    known = {name: streamed.known(name) for name, p in parameters if streamed is not None and id(p) in away}
    values = settle([None if id(p) in away else measure(w) for (_, p), w in zip(parameters, weights, strict=True)])
    # A parametrization may divide by a norm of the draw (spectral_norm): its values do not vary as independent ones do.
    peaks = kurtosis([w for (_, p), w in zip(parameters, weights, strict=True) if id(p) not in away])
    drawn = dict(zip((id(p) for _, p in parameters if id(p) not in away), peaks, strict=True))
    drawn = {key: peak for key, peak in drawn.items() if key not in watch.made}
    drawn.update((id(p), known[name].kurtosis) for name, p in parameters if name in known)
    given = [gradients.get(name) for name, _ in parameters]
    settled = settle([_pending(g, exact) for g in given])
    slopes = [g if isinstance(g, Stats) else s for g, s in zip(given, settled, strict=True)]
    whole = (
        measure(outputs[0], batch_dim=sample_dim(outputs[0], call.batch))
        if len(outputs) == 1
        else measure(torch.cat([o.reshape(-1).float() for o in outputs]))
    )
    records: dict[str, ParameterRecord] = {}
    for (name, p), weight, value, slope in zip(parameters, weights, values, slopes, strict=True):
        path, owner = owners.get(id(p), (clean(name.rpartition(".")[0]), None))
        use = seen.uses[name]
        fan_in, fan_out = fans(p, use)
        records[name] = ParameterRecord(
            name=name,
            layer=path,
            kind=kind_of(owner) if owner is not None else "",
            shape=tuple(p.shape),
            dtype=_text(p.dtype),
            fan_in=fan_in,
            fan_out=fan_out,
            value=known[name].value if name in known else value if p.device.type != "meta" else None,
            gradient=slope,
            requires_grad=p.requires_grad,
            reached=name in seen.reached,
            followed_by=seen.parameters.get(name),
            factor=seen.factors.get(name, 1.0),
            role=use.role,
            twin_rows=known[name].twin_rows if name in known else twin_rows(gathered(weight), use),
            aliases=tuple(aliases.get(name, ())),
            kurtosis=drawn.get(id(p)),
            peak=_peak(p) if id(p) in watch.made else None,
        )
    sizes: dict[torch.dtype, int] = {}
    for _, p in parameters:
        sizes[p.dtype] = sizes.get(p.dtype, 0) + p.numel()
    device = next((p.device for _, p in parameters), torch.device("cpu"))
    return Trace(
        layers=_layers(watch.entries, seen, scale),
        parameters=records,
        output=settle([whole])[0],
        inputs=call.described,
        batch=call.batch,
        edges=seen.edges,
        unseen=tuple(seen.unseen),
        device=str(device),
        dtype=_text(max(sizes, key=lambda d: sizes[d], default=torch.float32)),
        torch_version=torch.__version__,
    )


def _pending(tensor: Tensor | Stats | None, exact: bool) -> Pending | None:
    return measure(tensor, exact=exact) if isinstance(tensor, Tensor) else None


def _layers(entries: list[Entry], seen: Seen, scale: float) -> dict[str, LayerRecord]:
    activations = settle([e.activation for e in entries])
    slopes = settle([e.gradient[0] if e.gradient else None for e in entries])
    units = settle_units([e.activation for e in entries])
    inputs = settle([e.input_rms if isinstance(e.input_rms, Pending) else None for e in entries])
    entering = [float(e.input_rms) if isinstance(e.input_rms, Tensor) else None for e in entries]
    flat = [None if e.saturated is None else float(e.saturated) for e in entries]
    if (world := current()) is not None:
        entering, flat = world.mean(entering, squared=True), world.mean(flat)
    records: dict[str, LayerRecord] = {}
    along: dict[str, int] = {}
    for index, (entry, activation, slope, share, taken) in enumerate(
        zip(entries, activations, slopes, units, inputs, strict=True)
    ):
        assert activation is not None, "a layer without a floating output is not an entry"
        input_rms = taken.rms if taken is not None else entering[index]
        records[entry.name] = LayerRecord(
            name=entry.name,
            module=entry.module,
            kind=entry.kind,
            functional=entry.functional,
            leaf=entry.leaf,
            index=index,
            shape=entry.shape,
            dtype=_text(entry.dtype),
            activation=activation,
            gradient=None if slope is None else _scaled(slope, 1.0 / scale),
            input_rms=input_rms,
            input=taken if entry.given is not None else None,
            operation=entry.operation,
            parameters=entry.parameters,
            followed_by=seen.layers.get(entry.name),
            dead_units=_dead(entry, share, along, seen.edges),
            saturated=flat[index],
            opaque=entry.opaque,
        )
    return records


def _scaled(stats: Stats, factor: float) -> Stats:
    if factor == 1.0:
        return stats
    return replace(
        stats,
        mean=stats.mean * factor,
        std=stats.std * factor,
        rms=stats.rms * factor,
        min=stats.min * factor,
        max=stats.max * factor,
    )


def _dead(
    entry: Entry, shares: tuple[float, float] | None, along: dict[str, int], edges: Mapping[str, tuple[str, ...]]
) -> float | None:
    """Share of dead units of a nonlinearity; units lie where the last weighted layer before it put them.

    Args:
        entry: the layer.
        shares: zero slices along dimension 1 and along the last one.
        along: position in ``shares`` for the layers before this one; this one's is added.
        edges: layer -> layers that it reads.
    """
    known = [along[name] for name in edges.get(entry.name, ()) if name in along]
    if (entry.operation or "").startswith("conv"):
        along[entry.name] = 0
    elif entry.operation in WEIGHTED:
        along[entry.name] = 1
    else:
        along[entry.name] = known[0] if known else 0 if len(entry.shape) >= 4 else 1
    if shares is None or entry.operation not in RECTIFYING:
        return None
    share = shares[along[entry.name]]
    return None if math.isnan(share) else share


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _peak(p: Tensor) -> float | None:
    held = gathered(p.detach())
    if held.numel() == 0 or held.is_meta:
        return None
    return float(held.abs().max())
