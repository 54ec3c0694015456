"""What a block's operations saved for the backward pass, beyond a limit let go: the block is run again when it is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..errors import ProbeError
from ..probing.call import with_items
from ..probing.randomness import global_generators
from ..probing.surroundings import Surroundings

#: Bytes that blocks may save before they are run again instead.
KEPT = 1 << 29
#: Tensors of so few elements are always kept: constants, from which the graph is read.
FEW = 64


class Recall:
    """Runs blocks with an eye on what they save.

    Args:
        is_weight: whether a tensor is the memory of a weight, which is drawn again by itself.
        refuse: told why a block cannot be run again.

    Attributes:
        again: how often a block was run again.
    """

    def __init__(self, is_weight: Callable[[Tensor], bool], refuse: Callable[[str], None]) -> None:
        self.again = 0
        self._is_weight, self._refuse = is_weight, refuse
        self._bytes = 0
        self._running = False
        self._last: _Call | None = None

    def start(self) -> None:
        """Count what is saved from here on."""
        self._bytes, self._last = 0, None

    @contextlib.contextmanager
    def call(self, name: str, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        """Watch what the call of ``block`` inside the context saves."""
        if self._running or not torch.is_grad_enabled():
            yield
            return
        one = _Call(self, name, block, args, kwargs) if self._bytes >= KEPT else None
        with saved_tensors_hooks(
            self._counted if one is None else one.pack, self._as_it_is if one is None else one.unpack
        ):
            yield

    def lets_go(self, tensor: Tensor) -> bool:
        """Whether ``tensor``, saved by a block, is not kept."""
        return tensor.numel() > FEW and not self._is_weight(tensor)

    def run(self, one: _Call) -> list[Tensor]:
        """Return what ``one`` saved, from another run of its block."""
        if self._last is not None and self._last is not one:
            self._last.values = None  # one block at a time
        self._last = one
        self.again += 1
        self._running = True
        try:
            return one.saved_again()
        except ProbeError as error:
            self._refuse(str(error))
            raise
        finally:
            self._running = False

    def _counted(self, tensor: Tensor) -> Tensor:
        if self.lets_go(tensor):
            self._bytes += tensor.numel() * tensor.element_size()
        return _apart(tensor)

    @staticmethod
    def _as_it_is(tensor: Tensor) -> Tensor:
        return tensor


class _Call:
    """One call of a block: its inputs as they were, and what it saved, while that is needed."""

    def __init__(
        self, recall: Recall, name: str, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._recall, self._name, self._block = recall, name, block
        self._args, self._kwargs = _copied(args), _copied(kwargs)
        self._start = Surroundings([args, kwargs])  # caches that a block adds to, generators
        self._autocast = [(d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")]
        self._shapes: list[torch.Size] = []
        self.values: list[Tensor] | None = None

    def pack(self, tensor: Tensor) -> Tensor | int:
        if not self._recall.lets_go(tensor):
            return _apart(tensor)
        self._shapes.append(tensor.shape)
        return len(self._shapes) - 1

    def unpack(self, saved: Tensor | int) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        if torch._C._current_graph_task_id() == -1:  # the graph is read, not run
            return torch.empty(self._shapes[saved], device="meta")
        if self.values is None:
            self.values = self._recall.run(self)
        return self.values[saved]

    def saved_again(self) -> list[Tensor]:
        found: list[Tensor] = []

        def pack(tensor: Tensor) -> Tensor:
            if self._recall.lets_go(tensor):
                found.append(tensor.detach())
            return _apart(tensor)

        now, generators = Surroundings([self._args, self._kwargs]), global_generators([])
        try:
            self._start.restore()
            with contextlib.ExitStack() as stack:
                stack.enter_context(torch.enable_grad())
                for device, on, dtype in self._autocast:
                    if on or torch.is_autocast_enabled(device):
                        stack.enter_context(torch.autocast(device, dtype=dtype, enabled=on))
                stack.enter_context(saved_tensors_hooks(pack, self._recall._as_it_is))
                self._block(*self._args, **self._kwargs)
        finally:
            now.restore()
            for undo in generators:
                undo()
        if [t.shape for t in found] != self._shapes:
            raise ProbeError(
                f"{self._name} computes something else when it is run again for the backward pass: give inputs that are small enough "
                "to keep what all blocks compute, or check without stream"
            )
        return found


def _apart(tensor: Tensor) -> Tensor:
    """What a node may keep: were it a result of the node itself, the two would hold one another for good, without a backward pass."""
    return tensor if tensor.is_leaf else tensor.detach()


def _copied(value: Any) -> Any:
    """``value`` with its tensors copied, each with the same need for a gradient."""
    if isinstance(value, Tensor):
        copy = value.detach().clone()
        return copy.requires_grad_(value.requires_grad) if value.is_floating_point() else copy
    return with_items(value, _copied) if isinstance(value, list | tuple | dict) else value
