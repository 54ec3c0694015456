"""Finding one's way in a model and in what it returns: layers, parameters, tensors, the sample dimension."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.weight_norm import WeightNorm

from .memory import holds_values

#: What computes a tensor that users know by a name: nothing (it is a parameter), ``torch.nn.utils.parametrize``, or the
#: hook of ``torch.nn.utils.weight_norm``, the older one.
Maker = Literal["", "parametrization", "weight-norm"]


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor that a module computes with, and the parameters that hold it.

    Attributes:
        attribute: what the module calls it: ``"weight"`` also where it is made of other parameters.
        parameters: what it is made of; the parameter itself where nothing makes it.
        direction: of several parameters, the one with the tensor's shape; scales and factors stand beside it.
        made_by: what makes it.
        norm_dim: for weight norm, the dimension that keeps its norms.
    """

    attribute: str
    parameters: tuple[nn.Parameter, ...]
    direction: nn.Parameter
    made_by: Maker = ""
    norm_dim: int = 0


def held_by(module: nn.Module) -> Iterator[Held]:
    """Yield what the module itself computes with, each tensor that is made of parameters in place of these."""
    if isinstance(module, ParametrizationList):
        return  # what it holds is its module's
    within: set[int] = set()
    lists = getattr(module, "parametrizations", None)
    for attribute, chain in lists.items() if isinstance(lists, nn.ModuleDict) else ():
        if isinstance(chain, ParametrizationList) and (parameters := tuple(chain.parameters())):
            yield Held(attribute, parameters, _direction(parameters, chain), "parametrization")
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            g, v = (module._parameters[f"{hook.name}_{part}"] for part in "gv")
            if g is not None and v is not None:
                within |= {id(g), id(v)}
                yield Held(hook.name, (g, v), v, "weight-norm", hook.dim)
    for attribute, p in module._parameters.items():
        if p is not None and id(p) not in within:
            yield Held(attribute, (p,), p)


def _direction(parameters: tuple[nn.Parameter, ...], chain: ParametrizationList) -> nn.Parameter:
    """The largest of the originals, of equal ones the last: a scale stands before what it scales."""
    originals = [p for p in chain._parameters.values() if p is not None]
    return max(reversed(originals or parameters), key=Tensor.numel)


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
    originals = tuple(chain.parameters(recurse=False))
    held = _direction(originals, chain) if originals else None
    return None if held is None or held.shape != weight.shape else (held, weight)


def shared_modules(model: nn.Module) -> list[tuple[str, ...]]:
    """Return the paths of modules with parameters that stand several times in one module: ``[layer] * 4``."""
    found: list[tuple[str, ...]] = []
    for path, module in model.named_modules():
        places: dict[int, list[str]] = {}
        for name, child in module._modules.items():
            if child is not None and next(child.parameters(), None) is not None:
                places.setdefault(id(child), []).append(clean(f"{path}.{name}" if path else name))
        found += [tuple(names) for names in places.values() if len(names) > 1]
    return found


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
    if issubclass(type(value), Tensor):  # a mock says that it is one
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
