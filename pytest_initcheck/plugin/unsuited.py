"""Why a call of a model, its inputs or the model itself do not lend themselves to further passes in the midst of a test."""

from __future__ import annotations

import enum
import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..probing.modules import own_parameters
from ..probing.surroundings import Surroundings

#: Parameters above which a model is left out: a probe takes several passes and copies of all weights.
MOST_PARAMETERS = 20_000_000

#: Types of arguments that a forward pass cannot change.
_FIXED = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, enum.Enum)


def call_reason() -> str | None:
    """Return why no model can be probed where the program stands now, or ``None``."""
    if torch._C._get_tracing_state() is not None:
        return "called while torch.jit traces"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "called inside a torch.func transform"
    if torch._C._len_torch_dispatch_stack():
        return "called under a dispatch mode (fake tensors, counters)"
    if any(not isinstance(mode, DeviceContext) for mode in torch.overrides._get_current_function_mode_stack()):
        return "called under a function mode"
    if torch._C._autograd._profiler_enabled():
        return "called while the profiler records"
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        return "called under hooks on saved tensors"
    if torch.nn.modules.module._has_any_global_hook():
        return "called under hooks on all modules"
    return None


def input_reason(inputs: Any) -> str | None:
    """Return why a model cannot be called again with ``inputs``, or ``None``."""
    odd = next(_odd(inputs), None)
    if odd is None:
        return None
    if isinstance(odd, Tensor):
        return f"its inputs hold a {type(odd).__name__} that has no values here"
    return f"its inputs hold a {type(odd).__name__}, which a further pass might change"


def _odd(value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.is_meta or is_traceable_wrapper_subclass(value) or torch._is_functional_tensor(value):
            yield value
    elif type(value) is dict:
        for item in value.values():
            yield from _odd(item)
    elif type(value) in (tuple, list) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        for item in value:
            yield from _odd(item)
    elif not isinstance(value, _FIXED):
        yield value


def model_reason(model: nn.Module) -> str | None:
    """Return why ``model`` cannot be run further times without a trace, or ``None``."""
    size = 0
    own = {id(module) for module in model.modules()}
    for module in model.modules():
        kind = type(module)
        if isinstance(module, torch.jit.ScriptModule):
            return "scripted or traced by torch.jit"
        if isinstance(module, nn.parallel.DistributedDataParallel) or kind.__module__.startswith("torch.distributed."):
            return f"{kind.__name__}: distributed over processes"
        if "forward" in vars(module):
            return "its forward is set on the object, not by its class"
        if _has_mock(module):
            return "parts of it are mocked"
        if any(_foreign(hook, own) for hook in _hooks(module)):
            return "it has hooks, which a further pass would call again"
        for parameter in own_parameters(module):
            if reason := _parameter_reason(parameter):
                return reason
            size += 0 if isinstance(parameter, UninitializedParameter) else parameter.numel()
    if size > MOST_PARAMETERS:
        return f"larger than {MOST_PARAMETERS // 10**6} million parameters"
    if lasting := Surroundings([model]).lasting:
        return f"it reaches a {type(lasting[0]).__name__}, in which a further pass would leave a trace"
    return None


def _parameter_reason(parameter: Tensor) -> str | None:
    if parameter.is_meta:
        return "on the meta device"
    if is_traceable_wrapper_subclass(parameter):
        return f"its weights are {type(parameter.data).__name__}s"
    if isinstance(parameter, UninitializedParameter):
        return None
    if not parameter.is_leaf:
        return "its weights were replaced for this call (torch.func.functional_call)"
    if parameter.is_inference():
        return "its weights are inference tensors"
    if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
        return "its weights have hooks, which a further pass would call again"
    return None


def _hooks(module: nn.Module) -> list[Any]:
    kinds = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return [hook for kind in kinds for hook in kind.values()]


def _foreign(hook: Any, own: set[int]) -> bool:
    """Whether a hook is neither torch's (weight_norm, pruning, lazy shapes) nor a method of the model's own modules."""
    while isinstance(hook, partial):
        hook = hook.func
    if id(getattr(hook, "__self__", None)) in own:
        return False
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return not str(home).startswith("torch.")


def _has_mock(module: nn.Module) -> bool:
    mock = sys.modules.get("unittest.mock")
    if mock is None:
        return False
    held = (*vars(module).values(), getattr(type(module), "forward", None))
    return any(isinstance(value, mock.NonCallableMock) for value in held)
