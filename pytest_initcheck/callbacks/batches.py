"""The first batch of a data loader, read so that training gets it again."""

from __future__ import annotations

import contextlib
import copy
import io
import queue
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ..errors import ProbeError
from ..probing.randomness import generator_kept, global_generators, is_generator

#: What is read away and does not come back.
_STREAMS = (Iterator, io.IOBase, queue.Queue, queue.SimpleQueue)
#: Objects inside a loader are followed this deep, and no more of them.
_DEEPEST = 5
_MOST = 5_000
#: Of a longer container, the samples of a data set, no entry is followed.
_LONGEST = 64


def first_batch(loader: Any) -> Any:
    """Return the first batch of a loader, which stays where it is, with all generators that it draws from.

    It is read in this process, without workers; samplers are copied.

    Args:
        loader: a ``DataLoader``, or anything else that can be iterated over again (see :func:`reads_once`).

    Raises:
        ProbeError: there is no batch.
    """
    with generators_kept(loader):
        try:
            return next(iter(_again(loader)))
        except StopIteration:
            raise ProbeError("the training data gave no batch, so the model was not checked before training") from None


def reads_once(loader: Any) -> bool:
    """Whether what is read from a loader is gone: a stream, or an iterable data set that holds one."""
    if not isinstance(loader, DataLoader):
        return isinstance(loader, _STREAMS) or any(isinstance(o, _STREAMS) for o in _held(loader))
    dataset = loader.dataset
    if not isinstance(dataset, IterableDataset) and hasattr(type(dataset), "__getitem__"):
        return False
    return isinstance(dataset, _STREAMS) or any(isinstance(o, _STREAMS) for o in _held(dataset))


@contextlib.contextmanager
def generators_kept(*held: Any) -> Iterator[None]:
    """Set the global generators, and those that objects hold, back where they were afterwards."""
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())] if cuda else []
    undo: list[Callable[[], Any]] = global_generators(devices)
    own = (generator_kept(o) for thing in held for o in _held(thing))
    undo += [step for step in own if step is not None]
    try:
        yield
    finally:
        for step in undo:
            step()


def _again(loader: Any) -> Any:
    """A loader that gives the same batches and has a position of its own."""
    if not isinstance(loader, DataLoader):
        return loader
    other: Any = object.__new__(type(loader))
    other.__dict__.update(loader.__dict__)
    alone = {"num_workers": 0, "prefetch_factor": None, "persistent_workers": False, "timeout": 0, "_iterator": None}
    other.__dict__.update({name: value for name, value in alone.items() if name in loader.__dict__})
    other.__dict__["_DataLoader__multiprocessing_context"] = None
    memo: dict[int, Any] = {id(loader.dataset): loader.dataset}
    for held in _held(loader):  # generators are put back instead, and the data is not copied
        if is_generator(held) or isinstance(held, Tensor):
            memo[id(held)] = held
    with contextlib.suppress(Exception):  # a sampler that cannot be copied is iterated over anew, as every epoch does
        own = {
            name: copy.deepcopy(loader.__dict__[name], memo)
            for name in ("sampler", "batch_sampler")
            if name in loader.__dict__
        }
        other.__dict__.update(own)
    return other


def _held(value: Any) -> Iterable[Any]:
    """``value`` and the objects in its attributes and containers, not those in tensors, modules and long lists of samples."""
    seen: dict[int, Any] = {}
    todo = [(value, 0)]
    while todo and len(seen) < _MOST:
        thing, depth = todo.pop()
        if id(thing) in seen or thing is None or isinstance(thing, type | str | bytes | int | float):
            continue
        seen[id(thing)] = thing
        if depth == _DEEPEST or isinstance(thing, Tensor | nn.Module) or is_generator(thing):
            continue
        inside: Iterable[Any] = ()
        if isinstance(thing, Mapping):
            inside = list(thing.values()) if len(thing) <= _LONGEST else ()
        elif isinstance(thing, list | tuple | set):
            inside = list(thing) if len(thing) <= _LONGEST else ()
        attributes = getattr(thing, "__dict__", None)
        todo += [(o, depth + 1) for o in (*inside, *(attributes.values() if isinstance(attributes, dict) else ()))]
    return list(seen.values())
