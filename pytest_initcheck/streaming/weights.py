"""Parameters that are in memory only while they are read: whichever operation touches one has its part drawn first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter as preserved
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from ..errors import ProbeError
from ..phases import doing, done_last
from .changes import Alteration
from .draws import Draws
from .parts import Part
from .recall import Recall

#: Parts around the blocks stay once they were drawn, if they take less than this share of the largest block.
STAYS = 0.25

Visit = Callable[[str, nn.Parameter], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Written:
    """An operation that wrote to a parameter, to be repeated."""

    name: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    run: Callable[[Tensor], object]

    def __call__(self, parameters: Mapping[str, Tensor]) -> None:
        if (p := parameters.get(self.name)) is not None:
            self.run(p.as_strided(self.size, self.stride, self.offset))


class Weights:
    """The parameters of a model, part by part.

    Args:
        model: the module, its parameters shells.
        parts: what is drawn and let go together.
        draws: fills a part.

    Attributes:
        parts: likewise.
        drawn: how many weights were drawn so far.
        refusal: why the model cannot be streamed, once a pass has shown it.
        recall: lets go of what blocks save for the backward pass.
    """

    def __init__(self, model: nn.Module, parts: Sequence[Part], draws: Draws) -> None:
        self.parts = tuple(parts)
        self.drawn = 0
        self.refusal: str | None = None
        self._draws = draws
        self._of = {_key(p): part for part in parts for p in part.parameters.values()}
        self._names = {_key(p): name for part in parts for name, p in part.parameters.items()}
        self._here: dict[Part, list[Alteration]] = {}
        self._small = STAYS * max((part.bytes for part in parts if part.block), default=0)
        self._visits: list[tuple[Visit, set[Part]]] = []
        self._inside: dict[int, list[tuple[Part, AbstractContextManager[None]]]] = {}
        self._lane = threading.local()
        self._changes: list[Alteration] = []
        self._before: Callable[[Part], None] | None = None
        self.recall = Recall(lambda t: _key(t) in self._of, self._cannot)
        blocks = {part.name: part for part in parts if part.block}
        for path, module in model.named_modules():
            if path in blocks:
                module.register_forward_pre_hook(self._entering(blocks[path], module), prepend=True, with_kwargs=True)
                module.register_forward_hook(self._leaving, always_call=True)

    # -- what was done to them

    @property
    def changes(self) -> list[Alteration]:
        """What was done to the weights since they were drawn, as this lane has them."""
        return getattr(self._lane, "changes", self._changes)

    @contextmanager
    def lane(self) -> Iterator[None]:
        """Watch what this thread does; what it does to the weights stays its own."""
        self._lane.changes = list(self._changes)
        try:
            with self.watched():
                yield
        finally:
            del self._lane.changes

    def adopt(self, changes: Sequence[Alteration]) -> None:
        """Take over what was done in a lane."""
        self.changes[:] = changes

    def change(self, change: Alteration) -> None:
        """Do something to all weights, each when it is drawn next."""
        self.changes.append(change)

    def restore(self) -> None:
        """Undo every change."""
        self.changes.clear()

    # -- coming and going

    def watched(self) -> TorchDispatchMode:
        """Return a context in which whatever this thread reads is drawn first."""
        return _Touched(self)

    def take_turns(self, before: Callable[[Part], None] | None) -> None:
        """Have ``before`` called where a thread needs a part that is not there as it needs it."""
        self._before = before

    def ready(self, part: Part) -> bool:
        """Whether ``part`` is in memory, with the changes that this thread has made."""
        applied = self._here.get(part)
        return applied is not None and _alive(part) and applied == self.changes

    def visit(self, visit: Visit, parts: Sequence[Part] | None = None) -> None:
        """Have ``visit`` called once with every parameter, as it was drawn; those that no pass draws, at :meth:`finish`."""
        self._visits.append((visit, set(self.parts if parts is None else parts)))

    def finish(self, visit: Visit) -> None:
        """Draw what ``visit`` has not seen yet."""
        for known, left in list(self._visits):
            if known == visit:
                for part in [part for part in self.parts if part in left]:
                    if self._here.get(part) == [] and _alive(part):
                        self._show(part)
                    else:
                        self.bring(part)
                self._visits.remove((known, left))

    def free(self) -> None:
        """Let go of everything."""
        for part in list(self._here):
            self._drop(part)

    def bring(self, part: Part) -> None:
        """Have ``part`` in memory, with the changes of this thread; others are let go.

        Raises:
            ProbeError: the init function raised.
        """
        if self.ready(part):
            return
        if self._before is not None:
            self._before(part)
            if self.ready(part):
                return
        with _disable_current_modes():
            self._bring(part, self.changes)

    def _bring(self, part: Part, wanted: Sequence[Alteration]) -> None:
        applied = self._here.get(part)
        fresh = applied is None or not _alive(part) or applied != list(wanted[: len(applied)])
        tensors = tuple(part.parameters.values())
        if fresh or applied is None:
            for other in list(self._here):
                if other is part or other.block or other.bytes > self._small:
                    self._drop(other)
            self._draw(part)
            applied = self._here[part] = []
        with torch.no_grad(), torch.inference_mode(False), preserved(tensors):
            parameters = {name: p.data for name, p in part.parameters.items()}
            for change in wanted[len(applied) :]:
                change(parameters)
                applied.append(change)

    def _draw(self, part: Part) -> None:
        phase = done_last()
        doing(f"{phase.partition(': ')[0]}: {part.name or 'the model itself'}")
        for p in part.parameters.values():
            p.untyped_storage().resize_(p.numel() * p.element_size())
        self._draws.fill(part)
        self.drawn += sum(p.numel() for p in part.parameters.values())
        self._show(part)

    def _show(self, part: Part) -> None:
        for visit, left in self._visits:
            if part in left:
                left.discard(part)
                with torch.no_grad(), torch._C.DisableTorchFunction():
                    for name, p in part.parameters.items():
                        visit(name, p)

    def _drop(self, part: Part) -> None:
        self._here.pop(part, None)
        for p in part.parameters.values():
            p.untyped_storage().resize_(0)

    # -- what a pass touches

    def touched(self, args: Any, kwargs: Any) -> None:
        """Bring what an operation is about to read or write."""
        needed: dict[Part, None] = {}
        for tensor in _dense((args, kwargs)):
            if (part := self._of.get(tensor.untyped_storage()._cdata)) is not None:
                needed[part] = None
        if not needed:
            return
        stack = self._inside.get(threading.get_ident())
        current = stack[-1][0] if stack else None
        blocks = [part for part in needed if part.block]
        if len(blocks) > 1 or (current is not None and blocks and blocks[0] is not current):
            reader = current or blocks[0]
            self._refuse(reader, next(part for part in blocks if part is not reader))
        for part in needed:
            self.bring(part)
        if len(needed) > 1 and not all(self.ready(part) for part in needed):
            self._refuse(*list(needed)[:2])

    def wrote(self, func: Any, args: Any, kwargs: Any) -> None:
        """Keep what an operation has just done to a parameter, so that it is done again."""
        for index in _writes(func):
            if index >= len(args):
                continue
            target = args[index]
            for tensor in _dense(target):
                part = self._of.get(tensor.untyped_storage()._cdata)
                if part is None:
                    continue
                if tensor is not target:
                    raise ProbeError("several weights are written to at once, which cannot be streamed")
                rest_before, rest = args[:index], args[index + 1 :]
                written = _Written(
                    self._names[_key(tensor)],
                    tuple(tensor.shape),
                    tuple(tensor.stride()),
                    int(tensor.storage_offset()),
                    lambda x, b=rest_before, r=rest: func(*b, x, *r, **kwargs),  # type: ignore[misc]
                )
                self.changes.append(written)
                for other, applied in self._here.items():
                    if other is part or applied == self.changes[:-1]:
                        applied.append(written)

    def _cannot(self, why: str) -> None:
        self.refusal = why

    def _refuse(self, reader: Part, other: Part) -> None:
        self._cannot(
            f"{reader.name or 'the model'} reads weights of {other.name or 'the model'}, which cannot be in memory at the same time: "
            "name larger blocks that hold both with stream=, or check without stream"
        )
        raise ProbeError(str(self.refusal))

    def _entering(self, part: Part, block: nn.Module) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            call = self.recall.call(part.name, block, args, kwargs)
            call.__enter__()
            self._inside.setdefault(threading.get_ident(), []).append((part, call))

        return hook

    def _leaving(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        stack = self._inside.get(threading.get_ident())
        if stack:
            stack.pop()[1].__exit__(None, None, None)


class _Touched(TorchDispatchMode):
    """Sees every operation of one thread, those of a backward pass, too."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = weights

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.detach.default:  # looks at nothing
            return func(*args, **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default and not isinstance(args[0], Tensor):
            return args[0]  # a number that was wrapped
        self._weights.touched(args, kwargs)
        out = func(*args, **kwargs)
        if func._schema.is_mutable:
            self._weights.wrote(func, args, kwargs)
        return out


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _alive(part: Part) -> bool:
    """Whether the memory is there: whoever puts a model back to how it was found takes it away."""
    return all(p.untyped_storage().nbytes() > 0 for p in part.parameters.values() if p.numel())


def _dense(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.layout is torch.strided and not value.is_nested:
            yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _dense(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _dense(item)


_WRITES: dict[Any, tuple[int, ...]] = {}


def _writes(func: Any) -> tuple[int, ...]:
    """Positions of the arguments that an operation writes to."""
    if func not in _WRITES:
        _WRITES[func] = tuple(
            i for i, a in enumerate(func._schema.arguments) if a.alias_info is not None and a.alias_info.is_write
        )
    return _WRITES[func]
