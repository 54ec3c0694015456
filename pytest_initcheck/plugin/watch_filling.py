"""Memory that a constructor leaves unwritten, found with certainty: it is filled while a suite builds its modules.

Torch itself fills what it allocates (with NaN) if it is told to. It is told so from where a module begins to be built to where
any module is next called, or a phase of the test ends: nothing says where a constructor returns. What still holds the filling
when the module is first called was never written; it is set to zero before the call goes on, as memory fresh from the
operating system would be.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.utils.weak import WeakIdKeyDictionary

from ..models.build import filled_memory, unwritten
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
        parameters = {name for name, _ in module.named_parameters()}
        return {name: fault for name, fault in unwritten(module).items() if name in parameters}

    def clear(self, module: nn.Module) -> None:
        """Set to zero what still holds the filling; a module is asked once."""
        if self._suspicious(module):
            for fault in self.faults(module):
                values = module.get_parameter(fault).data
                values[values.isnan()] = 0
        for part in module.modules():
            self._built.pop(part, None)

    def _suspicious(self, module: nn.Module) -> bool:
        return any(
            part in self._built
            and any(
                not isinstance(p, UninitializedParameter)
                and p.is_floating_point()
                and not p.is_meta
                and p.isnan().any()
                for p in part._parameters.values()
                if p is not None
            )
            for part in module.modules()
        )
