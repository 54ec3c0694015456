"""Finding a model's weights, biases, norms and gates, whatever it is built of, and drawing weights by published schemes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
#: Modules that are layers, whatever their parameters are called.
OWNERS = (*LAYERS, *RECURRENT, nn.Embedding, nn.MultiheadAttention)
#: Parameters that are neither weights nor biases though they may have two dimensions.
SPECIAL = ("alpha", "logit_scale", "log_rate", "score", "place", "b", "c")


@dataclass
class Weight:
    """A weight and where it hangs.

    Attributes:
        unit: the module it belongs to, or its own name where a bare parameter hangs on a larger module.
        kind: "layer", "recurrent", "embedding" or "raw".
    """

    name: str
    unit: str
    module: nn.Module
    attribute: str
    kind: str
    fan_in: float
    fan_out: float
    cells: float = 1.0
    wrapped: str = ""

    def value(self) -> Tensor:
        """The weight as it is used."""
        if self.kind == "raw":
            return dict(self.module.named_parameters())[self.attribute].detach()
        return getattr(self.module, self.attribute).detach()

    def parameters(self) -> list[str]:
        """Names of the parameters that make it up."""
        if not self.wrapped:
            return [self.name]
        ends = ("original0", "original1") if self.wrapped == "weight" else ("original",)
        return [f"{self.unit}.parametrizations.weight.{end}" for end in ends]

    def set_(self, value: Tensor) -> None:
        """Write the weight."""
        with torch.no_grad():
            if self.wrapped == "weight":
                held = self.module.parametrizations.weight  # type: ignore[union-attr]
                if float(value.abs().max()) == 0:  # a direction of zero has none
                    held.original0.zero_()
                else:
                    norms = value.flatten(1).norm(dim=1).view(-1, *[1] * (value.dim() - 1))
                    held.original0.copy_(norms)
                    held.original1.copy_(value)
            elif self.wrapped == "spectral":
                self.module.parametrizations.weight.original.copy_(value)  # type: ignore[union-attr]
            else:
                self._parameter().copy_(value)

    def _parameter(self) -> Tensor:
        return dict(self.module.named_parameters(recurse=self.kind == "raw"))[self.attribute]

    def raw(self) -> Tensor:
        """The parameter that holds the weight (its direction, for a weight-normed one)."""
        if not self.wrapped:
            return self._parameter().data
        held = self.module.parametrizations.weight  # type: ignore[union-attr]
        return (held.original1 if self.wrapped == "weight" else held.original).data

    def scale_(self, factor: float) -> None:
        """Multiply the weight."""
        with torch.no_grad():
            if self.wrapped == "weight":
                self.module.parametrizations.weight.original0.mul_(factor)  # type: ignore[union-attr]
            else:
                self.raw().mul_(factor)

    def rms(self) -> float:
        """Root mean square."""
        return float(self.value().square().mean().sqrt())


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm with a weight."""
    return "Norm" in type(module).__name__ and isinstance(getattr(module, "weight", None), Tensor)


def _fans(module: nn.Module, w: Tensor) -> tuple[float, float, float]:
    """Fans and the number of cells of a kernel."""
    cells = float(w[0, 0].numel()) if w.dim() > 2 else 1.0
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d):
        cells /= math.prod(module.stride)
        return w.shape[0] * cells, w.shape[1] * cells, cells
    groups = getattr(module, "groups", 1)
    return w.shape[1] * cells, w.shape[0] * cells / groups, cells


def weights(model: nn.Module) -> list[Weight]:
    """Every weight, in the order of definition; one that two modules share is listed once."""
    found: list[Weight] = []
    seen: set[int] = set()

    def add(weight: Weight) -> None:
        if weight.raw().data_ptr() not in seen:
            seen.add(weight.raw().data_ptr())
            found.append(weight)

    for path, module in model.named_modules():
        prefix = path + "." if path else ""
        if "parametrizations" in path or is_norm(module):
            continue
        if isinstance(module, LAYERS):
            held = getattr(module, "parametrizations", None)
            wrapped = "" if held is None else ("weight" if hasattr(held.weight, "original1") else "spectral")
            fans = _fans(module, module.weight)
            add(Weight(prefix + "weight", path, module, "weight", "layer", *fans, wrapped))
        elif isinstance(module, nn.Embedding):
            add(Weight(prefix + "weight", path, module, "weight", "embedding", 1.0, module.weight.shape[1]))
        elif isinstance(module, nn.MultiheadAttention):
            width = module.embed_dim
            add(Weight(prefix + "in_proj_weight", path, module, "in_proj_weight", "layer", width, width))
        elif isinstance(module, RECURRENT):
            for name, p in module.named_parameters(recurse=False):
                if name.startswith("weight"):
                    add(Weight(prefix + name, path, module, name, "recurrent", p.shape[1], p.shape[0]))
        else:
            for name, p in module.named_parameters(recurse=False):
                if p.dim() >= 2 and name not in SPECIAL:
                    add(Weight(prefix + name, prefix + name, module, name, "raw", p.shape[-2], p.shape[-1]))
    return found


def biases(model: nn.Module) -> list[tuple[str, str, Tensor]]:
    """Name, unit and value of every bias that is not a norm's."""
    found = []
    for path, module in model.named_modules():
        if is_norm(module):
            continue
        prefix = path + "." if path else ""
        for name, p in module.named_parameters(recurse=False):
            raw = not isinstance(module, OWNERS)
            if p.dim() == 1 and ("bias" in name or "bias" in path or (raw and name.startswith("b_"))):
                found.append((prefix + name, prefix + name if raw else path, p.data))
    return found


def norms(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of every norm."""
    return [(path, m) for path, m in model.named_modules() if is_norm(m)]


def named(model: nn.Module, *ends: str) -> list[tuple[str, Tensor]]:
    """Parameters whose names end so."""
    return [(n, p.data) for n, p in model.named_parameters() if n.endswith(ends)]


def unit_of(parameter: str, model: nn.Module) -> str:
    """The unit a parameter belongs to: its module, or itself where it hangs on a module that is no layer."""
    parameter = parameter.replace(".parametrizations.weight", "")
    path = parameter.rpartition(".")[0]
    module = model.get_submodule(path) if path else model
    return path if isinstance(module, OWNERS) or is_norm(module) else parameter


Scheme = Callable[[Weight, Tensor], object]


def _normal(std: Callable[[Weight], float]) -> Scheme:
    return lambda w, t: nn.init.normal_(t, std=std(w))


def _uniform(std: Callable[[Weight], float]) -> Scheme:
    return lambda w, t: nn.init.uniform_(t, -std(w) * math.sqrt(3), std(w) * math.sqrt(3))


def _orthogonal(w: Weight, t: Tensor) -> None:
    for part in t if w.kind == "raw" and t.dim() == 3 else [t]:
        nn.init.orthogonal_(part)


#: Published schemes, from fans as the weight is used.
SCHEMES: dict[str, Scheme] = {
    "torch_default": _uniform(lambda w: 1 / math.sqrt(3 * w.fan_in)),
    "xavier_uniform": _uniform(lambda w: math.sqrt(2 / (w.fan_in + w.fan_out))),
    "xavier_normal": _normal(lambda w: math.sqrt(2 / (w.fan_in + w.fan_out))),
    "kaiming_normal": _normal(lambda w: math.sqrt(2 / w.fan_in)),
    "kaiming_uniform": _uniform(lambda w: math.sqrt(2 / w.fan_in)),
    "kaiming_fan_out": _normal(lambda w: math.sqrt(2 / w.fan_out)),
    "lecun_normal": _normal(lambda w: math.sqrt(1 / w.fan_in)),
    "orthogonal": _orthogonal,
    "truncated_02": lambda w, t: nn.init.trunc_normal_(t, std=0.02, a=-0.04, b=0.04),
    "normal_02": _normal(lambda w: 0.02),
    "normal_05": _normal(lambda w: 0.05),
}


def apply_scheme(model: nn.Module, scheme: str, chosen: Callable[[Weight], bool] = lambda w: True) -> None:
    """Draw every layer's weight anew, and set its bias to zero (PyTorch's own draws those too)."""
    for weight in weights(model):
        if weight.kind == "embedding" or not chosen(weight):
            continue
        if scheme == "torch_default" and weight.kind == "recurrent":
            bound = 1 / math.sqrt(weight.module.hidden_size)  # type: ignore[arg-type]
            weight.set_(torch.empty_like(weight.value()).uniform_(-bound, bound))
            continue
        value = torch.empty_like(weight.value())
        SCHEMES[scheme](weight, value)
        weight.set_(value)
        bias = getattr(weight.module, "bias", None)
        if weight.kind == "layer" and isinstance(bias, Tensor):
            bound = 1 / math.sqrt(weight.fan_in) if scheme == "torch_default" else 0.0
            nn.init.uniform_(bias, -bound, bound)


def pick(r: random.Random, found: list[Any]) -> Any:
    """One of them, ``None`` of none."""
    return r.choice(found) if found else None


def each(found: list[Any], scope: str, r: random.Random) -> Iterator[Any]:
    """One, some or all of them."""
    if scope == "all" or not found:
        yield from found
    elif scope == "one":
        yield r.choice(found)
    else:
        yield from sorted(r.sample(found, max(2, len(found) // 3)) if len(found) > 2 else found, key=found.index)
