"""Memory that a constructor leaves unwritten, found with certainty: it is filled while a suite builds its modules.

Torch itself fills what it allocates (with NaN) if it is told to. It is told so from where a module begins to be built to where
any module is next called, or a phase of the test ends: nothing says where a constructor returns. What still holds the filling
when the module is first called was never written; it is set to zero before the call goes on, as memory fresh from the
operating system would be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.weak import WeakIdKeyDictionary

from ..models.build import filled_memory, still_filled
from ..records import ConstructionFault


class Filling:
    """Fills memory while modules are built, and knows which were built meanwhile."""

    def __init__(self) -> None:
        self._on: ExitStack | None = None
        self._built = WeakIdKeyDictionary()

    def start(self, module: nn.Module) -> None:
        """Fill from here on, where ``module`` begins to be built."""
        if self._on is None and not torch.are_deterministic_algorithms_enabled():
            self._on = ExitStack()
            self._on.enter_context(filled_memory())
        if self._on is not None:
            self._built[module] = True

    def stop(self) -> None:
        """Fill no longer."""
        if self._on is not None:
            self._on.close()
            self._on = None

    def faults(self, module: nn.Module) -> Mapping[str, ConstructionFault]:
        """Return the parameters that still hold the filling, by name; a buffer may be NaN on purpose."""
        if not self._suspicious(module):
            return {}
        return still_filled((name, p) for name, p in module.named_parameters() if _holds_nan(p))

    def clear(self, module: nn.Module) -> None:
        """Set to zero what still holds the filling; a module is asked once."""
        parts = [part for part in module.modules() if part in self._built] if self._built else []
        if not parts:
            return
        with _unseen():
            # Of parts that were copied from built ones, too, as the layers of a transformer are.
            for part in module.modules():
                for p in part._parameters.values():
                    if p is not None and _holds_nan(p):
                        values = p.data
                        values[values.isnan()] = 0
        for part in parts:
            self._built.pop(part, None)

    def _suspicious(self, module: nn.Module) -> bool:
        parts = list(module.modules())
        return any(part in self._built for part in parts) and any(
            _holds_nan(p) for part in parts for p in part._parameters.values() if p is not None
        )


@contextmanager
def _unseen() -> Iterator[None]:
    """Let no tracer, mode or profiler of the test's see anything of this."""
    state, profiled = torch._C._get_tracing_state(), torch._C._autograd._profiler_enabled()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    if profiled:
        torch._C._autograd._enable_record_function(False)
    try:
        with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
            yield
    finally:
        if profiled:
            torch._C._autograd._enable_record_function(True)
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def _holds_nan(p: object) -> bool:
    """Whether a parameter holds a NaN; one that is not made of plain numbers cannot be asked."""
    if not isinstance(p, torch.Tensor) or isinstance(p, UninitializedParameter):
        return False
    try:
        return bool(p.is_floating_point() and not p.is_meta and p.isnan().any())
    except Exception:  # a tensor of another library's, or under a transform of torch's
        return False
