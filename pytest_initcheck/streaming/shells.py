"""A model without the memory of its parameters: built as shapes, each parameter a shell that values can be put into."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ..errors import InitcheckError, ProbeError
from ..probing.randomness import seeded
from ..words import named_error

#: Parameters of at most so many elements keep what their constructor gave them, for where no init function writes them.
SMALL = 1 << 16
#: What is said to do with a factory that cannot be put on the meta device.
WITHOUT = "give one that only constructs, or check without stream"


def built_as_shapes(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return what ``factory`` builds under ``seed``, with every parameter that is not small on the meta device.

    Buffers stay where the factory puts them.

    Raises:
        ProbeError: the factory raised, returned no module, or gave values to its parameters.
    """
    with seeded(seed), _parameters_on_meta():
        try:
            model = factory()
        except InitcheckError:
            raise
        except Exception as error:
            raise ProbeError(
                f"the factory cannot be put on the meta device ({named_error(error)}): {WITHOUT}"
            ) from error
    if not isinstance(model, nn.Module):
        raise ProbeError(f"the factory must return an nn.Module (it returned {type(model).__name__})")
    for name, p in model.named_parameters():
        if isinstance(p, UninitializedParameter):
            raise ProbeError(
                f"{name} has no shape before the first pass, so it cannot be streamed: check without stream"
            )
        if not p.is_meta and p.numel() > SMALL:
            raise ProbeError(
                f"the factory gives {name} its values before it can be put on the meta device (a checkpoint?): {WITHOUT}"
            )
    return model


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Let parameters lose their values as they are registered: no more than one is there at a time."""
    register = nn.Module.register_parameter
    known: dict[int, tuple[Any, nn.Parameter]] = {}  # a parameter that is registered twice stays one

    def registered(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and type(param) is nn.Parameter and not param.is_meta and param.numel() > SMALL:
            reference, other = known.get(id(param), (None, None))
            if other is None or reference is None or reference() is not param:
                other = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
                known[id(param)] = weakref.ref(param), other
            param = other
        register(self, name, param)

    nn.Module.register_parameter = registered  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def shelled(
    model: nn.Module, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Exchange every parameter of ``model`` for a shell on ``device``, which has no memory yet.

    Args:
        model: what :func:`built_as_shapes` returned.
        device: where the values will be.
        dtype: what floating parameters and buffers are, if not what they were built as.

    Returns:
        The values of small parameters by name, and the names of the buffers that were on the meta device, filled with NaN.
    """
    kept: dict[str, Tensor] = {}
    shells: dict[int, nn.Parameter] = {}
    for name, p in model.named_parameters():
        wanted = dtype if dtype is not None and p.is_floating_point() else p.dtype
        if not p.is_meta:
            kept[name] = p.detach().to(device, wanted, copy=True)
        shell = nn.Parameter(
            torch.empty_strided(p.size(), p.stride(), dtype=wanted, device=device), requires_grad=p.requires_grad
        )
        shell.untyped_storage().resize_(0)
        shells[id(p)] = shell
    lost: list[str] = []
    for path, module in model.named_modules():
        for key, p in list(module._parameters.items()):
            if p is not None:
                if isinstance(module, nn.RNNBase):
                    setattr(module, key, shells[id(p)])  # it keeps a list of its own
                else:
                    module._parameters[key] = shells[id(p)]
        for key, buffer in list(module._buffers.items()):
            if buffer is None:
                continue
            wanted = dtype if dtype is not None and buffer.is_floating_point() else buffer.dtype
            if buffer.is_meta:
                lost.append(f"{path}.{key}" if path else key)
                filling = float("nan") if wanted.is_floating_point or wanted.is_complex else 0
                module._buffers[key] = torch.full(buffer.shape, filling, dtype=wanted, device=device)
            else:
                module._buffers[key] = buffer.to(device, wanted)
    return kept, lost
