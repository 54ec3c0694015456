"""The ranks that hold one model: numbers of all of them, the same on each, and an end that all come to."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ProbeError
from ..records import Spread
from ..words import plural
from .layout import is_sharded, resharded, standing_in, units

#: Checks of distributed models so far in this process: the same number on every rank, or they do not do the same.
_COUNT = itertools.count()
#: Added to the time that a rank is waited for, so that those that wait hear what the one that was late says.
_GRACE = 10.0

_current: list[World] = []


def current() -> World | None:
    """Return the ranks that check one model together now; ``None`` where this process is alone."""
    return _current[-1] if _current else None


class World:
    """The ranks that hold one model, and what they tell each other while they check it.

    Args:
        model: the distributed model.
        timeout: seconds that a rank is waited for.

    Attributes:
        ranks: global ranks, in order.
        rank: this process's.
        sharded: whether parameters are split, rather than held by every rank.
        accumulates: whether gradients arrive in ``.grad`` alone, as FSDP's do.
        spread: how each parameter and buffer lies on the ranks, once that was asked.
        standing: id of the parameter that a pass computes with -> that one, and the one that it stands in for.

    Raises:
        ProbeError: no process group is there, or the ranks do not meet.
    """

    def __init__(self, model: nn.Module, timeout: float) -> None:
        import torch.distributed as dist

        self._dist = dist
        self._timeout = timedelta(seconds=timeout)
        self._model = model
        kind = type(model).__name__
        if not (dist.is_available() and dist.is_initialized()):
            raise ProbeError(
                f"{kind} is spread over processes and no process group is there: "
                "call torch.distributed.init_process_group() first, and start the program with torchrun"
            )
        self.ranks = _ranks_of(model, dist)
        self.rank = dist.get_rank()
        if self.rank not in self.ranks:
            raise ProbeError(
                f"rank {self.rank} holds no part of {kind}, whose mesh has ranks {_listed(self.ranks)}: check it there"
            )
        self.sharded = any(is_sharded(p) for p in model.parameters())
        self.accumulates = next(units(model), None) is not None
        self.standing: Mapping[int, tuple[nn.Parameter, nn.Parameter]] = {}
        self.spread: Sequence[Spread] = ()
        self._key = f"pytest_initcheck/{'-'.join(map(str, self.ranks))}/{next(_COUNT)}"
        self._group: Any = None
        self._entered = contextlib.ExitStack()

    def __enter__(self) -> World:
        from torch.distributed.tensor.experimental import implicit_replication

        dist = self._dist
        with self._entered as stack:
            stack.enter_context(_timeouts(dist, self._timeout))
            # Its own group, of this check alone: numbers travel between the hosts, and a rank that is late breaks no group of the
            # model's. Made by hand: groups of torch's register are named by their ranks, and a second one finds the first's addresses.
            store = dist.PrefixStore(f"{self._key}/group", dist.distributed_c10d._get_default_store())
            place = self.ranks.index(self.rank)
            self._group = dist.ProcessGroupGloo(store, place, len(self.ranks), self._timeout)
            stack.callback(setattr, self, "_group", None)
            # Noise and steps are the same on every rank: added to a sharded tensor, each takes its part.
            stack.enter_context(implicit_replication())
            _current.append(self)
            stack.callback(_current.remove, self)
            self._entered = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._entered.close()

    def learn(self) -> None:
        """Find out which parameters stand in for which while a pass runs; every rank has the same model when this is called."""
        resharded(self._model)
        self.standing = standing_in(self._model)

    def generator(self) -> torch.Generator:
        """Return a generator in the same state on every rank, from a draw of the first one's own."""
        seed = self.told(int(torch.randint(2**62, ())))[0]
        return torch.Generator().manual_seed(seed)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the model as they are registered now."""
        yield from self._model.parameters()

    # -- what all tell each other

    def rows(self, numbers: Sequence[float]) -> list[list[float]]:
        """Return these numbers of every rank, in the order of the ranks."""
        mine = torch.tensor(list(numbers), dtype=torch.float64)
        return [row.tolist() for row in self._gathered(mine)]

    def every(self, flags: Sequence[bool]) -> list[bool]:
        """Return of each flag whether it is set on every rank."""
        return [all(column) for column in zip(*self.rows([float(f) for f in flags]), strict=True)] if flags else []

    def told(self, value: Any) -> list[Any]:
        """Return what every rank gives, in the order of the ranks."""
        mine = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        sizes = [int(size) for size in self._gathered(torch.tensor([mine.numel()]))]
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: mine.numel()] = mine
        every = self._gathered(padded)
        return [pickle.loads(bytes(row[:size].tolist())) for row, size in zip(every, sizes, strict=True)]

    def _gathered(self, mine: Tensor) -> list[Tensor]:
        every = [torch.empty_like(mine) for _ in self.ranks]
        self._group.allgather([every], [mine]).wait()
        return every

    def mean(self, values: Sequence[float | None], *, squared: bool = False) -> list[float | None]:
        """Return the mean over the ranks of each value (of squares: its root); ``None`` stays."""
        asked = [v for v in values if v is not None]
        if not asked:
            return list(values)
        found = iter([_mean(column, squared=squared) for column in zip(*self.rows(asked), strict=True)])
        return [None if v is None else next(found) for v in values]

    # -- the end

    def agree(self, outcome: Mapping[str, str]) -> list[dict[str, str]]:
        """Return the outcome of every rank, of one that says nothing in time a sentence.

        It goes through the store that the ranks met in, not through a group: a rank that still waits in a collective that
        another one never came to comes here once its own wait is over.
        """
        store = self._dist.distributed_c10d._get_default_store()
        store.set(f"{self._key}/{self.rank}", json.dumps(dict(outcome)))
        found: list[dict[str, str]] = []
        for rank in self.ranks:
            key = f"{self._key}/{rank}"
            try:
                store.wait([key], self._timeout + timedelta(seconds=_GRACE))
                found.append(json.loads(store.get(key)))
            except Exception:  # a timeout, or the store is gone with the process that kept it
                found.append({"silent": f"said nothing for {self._timeout.total_seconds():g} s"})
        return found


def _ranks_of(model: nn.Module, dist: Any) -> tuple[int, ...]:
    found: set[int] = set()
    for tensor in (*model.parameters(), *model.buffers()):
        if is_sharded(tensor):
            mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
            mesh = mesh._get_root_mesh() if hasattr(mesh, "_get_root_mesh") else mesh
            found.update(int(r) for r in mesh.mesh.flatten().tolist())
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            found.update(dist.get_process_group_ranks(module.process_group))
    return tuple(sorted(found or range(dist.get_world_size())))


@contextlib.contextmanager
def _timeouts(dist: Any, bound: timedelta) -> Iterator[None]:
    """No collective of any group of this process waits longer than ``bound``."""
    were: list[tuple[Any, timedelta]] = []
    for group in list(dist.distributed_c10d._world.pg_map):
        for device in getattr(group, "_device_types", ()):
            with contextlib.suppress(Exception):  # a backend that knows no bound
                backend = group._get_backend(device)
                were.append((backend, backend.options._timeout))
                backend._set_default_timeout(bound)
    try:
        yield
    finally:
        for backend, was in were:
            with contextlib.suppress(Exception):
                backend._set_default_timeout(was)


def _mean(column: Sequence[float], *, squared: bool) -> float:
    if all(v == column[0] for v in column):
        return column[0]
    if squared:
        return math.sqrt(math.fsum(v * v for v in column) / len(column))
    return math.fsum(column) / len(column)


def _listed(ranks: Sequence[int]) -> str:
    return (
        ", ".join(map(str, ranks)) if len(ranks) <= 8 else f"{ranks[0]} to {ranks[-1]} ({plural(len(ranks), 'rank')})"
    )


def named(ranks: Sequence[int]) -> str:
    """Return ``"rank 1"`` or ``"ranks 1, 3"``."""
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {_listed(ranks)}"
