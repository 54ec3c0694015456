"""What to feed a model: the user's inputs, a shape string, or what the model itself says about them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ProbeError, SettingsError
from ..probing.call import Call, walk, with_items
from ..probing.guard import has_lazy, untouched
from ..probing.memory import holds_values
from ..probing.randomness import seeded
from ..words import named_error
from .drawing import draw, refuse_what_does_not_fit
from .infer import WHAT_TO_PASS, infer
from .shapes import Shape, parse_shapes


def resolve_inputs(
    model: nn.Module,
    inputs: Any,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    seed: int = 0,
) -> Call:
    """Return how to call ``model``: with ``inputs`` in whatever form they come, or with what the model lets infer.

    The user's tensors are not written to: they are copied where a model could overwrite them.

    Args:
        model: the module that will be called.
        inputs: tensor, tuple (positional), dict (keywords), tuple ending in a dict (both), callable that returns one of
            these (called under ``seed``), shape string, or ``None``.
        device: where inputs go; the model's device if ``None``.
        dtype: what floating inputs are cast to; if ``None``, they are cast only where the model is half precision, and inputs that are
            made up where it is float64.
        seed: seed of inputs that are made up.

    Raises:
        SettingsError: a shape string cannot be read, or ``inputs`` is of no known form.
        ProbeError: ``inputs`` is ``None`` and the model does not let them be inferred, the callable failed, or what it
            gave cannot be moved to the device.
    """
    generator = torch.Generator().manual_seed(seed)
    source = "given"
    asked = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    if callable(inputs) and not isinstance(inputs, nn.Module):
        try:
            with untouched(model, also=(inputs,)) as guard, seeded(seed):  # it may call the model
                guard.backup_parameters()
                inputs = inputs()
        except Exception as error:
            raise ProbeError(f"the inputs callable raised {named_error(error)}") from error
    if isinstance(inputs, str):
        args, kwargs = _from_shapes(parse_shapes(inputs), model, generator)
        source = "shape"
    elif inputs is None:
        args, kwargs, source = infer(model, generator, lambda args: _refused(model, args, asked))
    else:
        args, kwargs = _as_call(inputs)
    where = torch.device(device) if device is not None else _device_of(model)
    made_up = source not in ("given", "example_input_array")
    wanted = asked or _own_dtype(model, made_up=made_up)
    try:
        args, kwargs = _moved((args, kwargs), where, wanted)
    except RecursionError as error:
        raise ProbeError("the inputs are nested too deep, or hold themselves") from error
    described = tuple(describe(name, t) for name, t in walk((args, kwargs)))
    return Call(args, kwargs, described, _batch(model, args, kwargs), source)


def _refused(model: nn.Module, args: tuple[Any, ...], dtype: torch.dtype | None) -> BaseException | None:
    """What the model raises when it is called with ``args``."""
    if has_lazy(model):
        return None  # it would be given its shape for good
    placed = _moved(args, _device_of(model), dtype or _own_dtype(model, made_up=True))
    with untouched(model), torch.no_grad():
        try:
            model(*placed)
        except (Exception, SystemExit) as error:
            return error
    return None


def _from_shapes(
    shapes: tuple[Shape, ...], model: nn.Module, generator: torch.Generator
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    refuse_what_does_not_fit(shapes)
    args = tuple(draw(s, model, generator) for s in shapes if s.name is None)
    return args, {s.name: draw(s, model, generator) for s in shapes if s.name is not None}


def _as_call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        if not all(isinstance(k, str) for k in inputs):
            raise SettingsError(
                "inputs given as a dict are keyword arguments, so every key must be a string; "
                "wrap the dict in a tuple, (batch, {}), to pass it as it is"
            )
        return (), dict(inputs)
    if isinstance(inputs, tuple):
        if inputs and isinstance(inputs[-1], dict) and all(isinstance(k, str) for k in inputs[-1]):
            return inputs[:-1], dict(inputs[-1])
        return inputs, {}
    if isinstance(inputs, list):
        return (inputs,), {}
    raise SettingsError(
        f"inputs must be a tensor, tuple, dict, callable or shape string (got {type(inputs).__name__}); {WHAT_TO_PASS}"
    )


def _device_of(model: nn.Module) -> torch.device:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def _own_dtype(model: nn.Module, *, made_up: bool) -> torch.dtype | None:
    """The model's dtype where all its floating parameters have one, and inputs of float32 would not fit it."""
    dtypes = {p.dtype for p in model.parameters() if p.dtype.is_floating_point}
    apart = (*_HALF, torch.float64) if made_up else _HALF
    return next(iter(dtypes)) if len(dtypes) == 1 and dtypes <= set(apart) else None


_HALF = (torch.float16, torch.bfloat16)


def _moved(value: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if isinstance(value, Tensor):
        if not value.is_meta and not holds_values(value):
            raise ProbeError(f"the memory of an input was freed before the call ({describe('', value)})")
        target = dtype if dtype is not None and value.is_floating_point() else value.dtype
        try:
            moved = value.to(device=device, dtype=target)
        except Exception as error:
            raise ProbeError(
                f"an input cannot be moved to {device} as {target}: it raised {named_error(error)}"
            ) from error
        if moved is value and not value.is_nested:
            # A copy, so that in-place operations of the model do not reach the user's tensor.
            moved = value.detach().clone().requires_grad_(value.requires_grad)
        return moved
    if not callable(getattr(value, "to", None)):
        items = isinstance(value, Mapping | tuple | list)
        return with_items(value, lambda v: _moved(v, device, dtype)) if items else value
    # Objects that bring their own way to move (BatchEncoding, graph batches) are asked to; some move in place.
    try:
        return copy.copy(value).to(device)
    except Exception as error:
        what = f"an input of type {type(value).__name__} cannot be moved to {device}"
        raise ProbeError(f"{what}: its method to raised {named_error(error)}") from error


def describe(name: str, tensor: Tensor) -> str:
    """Return one input as reports show it: ``"input_ids int64[4, 64]"``."""
    text = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape) if not tensor.is_nested else '[nested]'}"
    return f"{name} {text}" if name else text


def _batch(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Size of the sample dimension: the first one, the second one where the model itself says ``batch_first=False``."""
    for _, tensor in walk((args, kwargs)):
        if tensor.dim() == 0:
            continue
        if tensor.dim() >= 3 and getattr(model, "batch_first", None) is False:
            return tensor.size(1)
        return tensor.size(0)
    return None
