"""The first FSDP lays parameters out in flat vectors without shapes: what it wraps, as ordinary modules with whole parameters."""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from torch import Tensor, nn

#: What is said of it.
TOLD = "FullyShardedDataParallel: every rank gathered a whole copy, which was probed; fully_shard's models are not gathered"


def _wrapper() -> Any:
    return getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)


def is_flat(model: nn.Module) -> bool:
    """Return whether any module of ``model`` is wrapped by the first FSDP."""
    kind = _wrapper()
    return kind is not None and any(isinstance(m, kind) for m in model.modules())


def whole_copy(model: nn.Module) -> nn.Module:
    """Return the modules that FSDP wraps in ``model``, with copies of all parameters and buffers; every rank calls this."""
    with _wrapper().summon_full_params(model, writeback=False):
        return _copied(model, {}, {})


def _copied(module: nn.Module, modules: dict[int, nn.Module], tensors: dict[int, Tensor]) -> nn.Module:
    if isinstance(module, _wrapper()):
        return _copied(module.module, modules, tensors)
    if id(module) in modules:
        return modules[id(module)]
    modules[id(module)] = other = copy.copy(module)  # its dictionary is a new one, what that holds is not
    other._parameters = {n: _own(p, tensors) for n, p in module._parameters.items()}
    other._buffers = {n: _own(b, tensors) for n, b in module._buffers.items()}
    other._modules = {n: m if m is None else _copied(m, modules, tensors) for n, m in module._modules.items()}
    return other


def _own(tensor: Any, tensors: dict[int, Tensor]) -> Any:
    if tensor is None:
        return None
    if id(tensor) not in tensors:
        with torch.no_grad():
            other = tensor.detach().clone()
        tensors[id(tensor)] = nn.Parameter(other, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else other
    return tensors[id(tensor)]
