"""Which layers findings name: a finding may name a layer, a module or a parameter."""

from __future__ import annotations

from collections.abc import Iterable

from ..records import Finding, LayerRecord, Trace


def inside(path: str, name: str) -> bool:
    """Whether the layer or parameter ``name`` is, or is in, the module at ``path``: ``rnn10.bias`` is not in ``rnn1``."""
    return not path or name == path or name.startswith(f"{path}.")


def layer_of(trace: Trace, name: str) -> LayerRecord | None:
    """Return the layer that ``name`` means: a layer's own, or the one that uses a parameter."""
    if name in trace.layers:
        return trace.layers[name]
    parameter = trace.parameters.get(name)
    for layer in trace.layers.values():
        if name in layer.parameters:
            return layer
    if parameter is None:
        return None
    inside = [x for x in trace.layers.values() if x.module == parameter.layer]
    return next((x for x in inside if x.leaf), inside[0] if inside else None)


def worst_layers(trace: Trace, findings: Iterable[Finding], *, most: int = 6) -> list[str]:
    """Return the names of the layers that errors and warnings name first, at most ``most``."""
    named: dict[str, None] = {}
    for finding in findings:
        for name in finding.layers[:3] if finding.severity != "note" else ():
            layer = layer_of(trace, name)
            if layer is not None and layer.activation.count:
                named.setdefault(layer.name)
    return list(named)[:most]
