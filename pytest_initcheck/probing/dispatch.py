"""A dispatch mode that leaves torch's compiler alone where the model has nothing to do with it."""

from __future__ import annotations

import sys

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Mode(TorchDispatchMode):
    """Sees every operation, as ``TorchDispatchMode``.

    torch wraps the method of every subclass so that no compiler traces it, and to do so imports the compiler at the first
    operation: 300 modules. Here it is wrapped once the compiler is there; before, nobody can trace anything.
    """

    _wrapped = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        kind = type(self)
        if "torch._dynamo" in sys.modules and not kind._wrapped:
            kind._wrapped = True
            kind.__torch_dispatch__ = torch.compiler.disable(kind.__torch_dispatch__)  # type: ignore[method-assign]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
