"""Finding one's way in a model and in what it returns: layers, parameters, tensors, the sample dimension."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from .memory import holds_values


def layer_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield ``(path, module)`` of everything that counts as a layer: not the wrappers, not what makes weights."""
    making_weights: set[int] = set()
    for module in model.modules():
        if isinstance(module, ParametrizationList):
            making_weights |= {id(m) for m in module.modules()}
    for path, module in model.named_modules():
        if id(module) in making_weights or hasattr(module, "_orig_mod"):
            continue
        if isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict):
            continue
        yield clean(path), module


def clean(path: str) -> str:
    """Path without the names that torch.compile puts in."""
    return ".".join(part for part in path.split(".") if part != "_orig_mod")


def own_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters that belong to the module itself, through parametrizations."""
    yield from module.parameters(recurse=False)
    lists = getattr(module, "parametrizations", None)
    if isinstance(lists, nn.ModuleDict):
        yield from lists.parameters()


def made_by_hooks(module: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ``(parameter, weight)`` of what ``torch.nn.utils.weight_norm`` and its kin compute before each call."""
    for hook in module._forward_pre_hooks.values():
        name = getattr(hook, "name", None)
        if isinstance(name, str) and isinstance(weight := vars(module).get(name), Tensor):
            held = module._parameters.get(f"{name}_v", module._parameters.get(f"{name}_orig"))
            if held is not None:
                yield held, weight


def made_by(chain: ParametrizationList, weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return ``(parameter, weight)``: of several parameters, the one that has the shape of the weight."""
    held = next((p for p in chain.parameters(recurse=False) if p.shape == weight.shape), None)
    return None if held is None else (held, weight)


def parameter_names(model: nn.Module) -> dict[int, str]:
    """Return ``id(parameter) -> name``, each under the first of its names."""
    return {id(p): name for name, p in model.named_parameters()}


def sample_dim(tensor: Tensor, batch: int | None) -> int | None:
    """Return the first dimension of ``tensor`` whose size is ``batch``, which runs over the samples; else ``None``."""
    if batch is None:
        return None
    return next((dim for dim, size in enumerate(tensor.shape) if size == batch), None)


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in nested tuples, lists, dicts, dataclasses, ModelOutputs and plain objects, in order."""
    yield from _tensors(value, set(), 0)


def _tensors(value: Any, seen: set[int], depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if value is None or isinstance(value, str | bytes | int | float | complex | type | nn.Module) or depth > 8:
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    items: Any
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, tuple | list):
        items = value
    elif dataclasses.is_dataclass(value):
        items = [getattr(value, f.name, None) for f in dataclasses.fields(value)]
    elif hasattr(value, "__dict__"):
        items = vars(value).values()
    else:
        return
    for item in items:
        yield from _tensors(item, seen, depth + 1)


def measurable(tensor: Tensor) -> bool:
    """Whether this is a floating tensor that holds values of its own: not one that a function transform wraps or a model freed."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return False
    wrapped = getattr(torch._C._functorch, "is_functorch_wrapped_tensor", None)
    return (wrapped is None or not wrapped(tensor)) and holds_values(tensor)
