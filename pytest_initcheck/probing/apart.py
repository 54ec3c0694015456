"""Whether every sample is computed by itself: shown by the operations of one pass, so that no second pass need ask.

Every value is followed to the sample that it was computed from, operation by operation. What is not known to keep samples
apart ends it: nothing is then said, and whoever asks exchanges a sample and looks. So a mistake can only be in the table of
operations in :mod:`~pytest_initcheck.probing.whereabouts`, and its entries are tested against the exchange.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .memory import holds_values, is_dense
from .modules import sample_dim
from .whereabouts import ABOUT, ALIKE, FIXED, Known, Places, Whereabout, flat, place_after, writes


class Apart:
    """Follows values to their samples; see the module.

    Args:
        model: whose parameters and buffers no sample went into.
        batch: number of samples.
    """

    def __init__(self, model: nn.Module, batch: int | None) -> None:
        self._batch = batch or 0
        self._held = [*model.parameters(), *model.buffers()]  # or another tensor could come to have the id of one
        self._fixed = {id(t) for t in self._held}
        self._places: dict[int, tuple[weakref.ref[Tensor], Whereabout]] = {}
        self._lost = self._batch < 2

    def begin(self, tensors: Iterable[Tensor]) -> None:
        """Take ``tensors`` for what the model is given."""
        for tensor in tensors:
            dim = sample_dim(tensor, self._batch) if varies(tensor, self._batch) else None
            self._put(tensor, FIXED if dim is None else (dim, 1))

    def shows(self, outputs: Iterable[Tensor]) -> bool:
        """Return whether each of ``outputs`` is known to have every sample in a slice of its own."""
        places = [(self.place(t), t) for t in outputs]
        return not self._lost and all(p is not None and p != FIXED and t.shape[p[0]] == self._batch for p, t in places)

    def lose(self) -> None:
        """Say no more: something was computed that cannot be followed."""
        self._lost = True

    def place(self, tensor: Tensor) -> Whereabout | None:
        """Return where the samples of ``tensor`` lie, ``None`` where that is not known."""
        if id(tensor) in self._fixed:
            return FIXED
        found = self._places.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def _put(self, tensor: Tensor, place: Whereabout | None) -> None:
        if place is not None:
            self._places[id(tensor)] = weakref.ref(tensor), place
        else:
            self._places.pop(id(tensor), None)

    def saw(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], func: Any, out: Any) -> None:
        """Follow one operation; called outside of torch-function modes.

        Args:
            name: as :func:`name_of` gives it.
            args, kwargs: of the call.
            func: the function.
            out: what it returned.
        """
        if self._lost:
            return
        if name in ABOUT:
            # How many of them there are may depend on what is in the samples: rows that a mask selects.
            self._lost = bool(args) and isinstance(args[0], Tensor) and self.place(args[0]) is None
            return
        operands, results = flat((*args, *kwargs.values())), flat((out,))
        places = [self.place(t) for t in operands]
        if name in ALIKE and places and places[0] is not None:
            places[0] = FIXED
        if all(p == FIXED for p in places):
            for tensor in results:
                self._put(tensor, FIXED)
            return
        place: Places = None
        if None not in places:
            try:
                place = place_after(Known(name, args, kwargs, func, out, operands, places, self._batch))
            except (TypeError, ValueError, IndexError, RuntimeError, AttributeError):
                place = None  # a form of the call that is not known
        known = place if isinstance(place, list) else [place] * len(results)
        followed = place is not None and None not in known and len(known) == len(results)
        if kwargs.get("out") is not None or (writes(name, kwargs) and not (followed and known[0] == places[0])):
            self._lost = True  # other views of what was written to may be anywhere
        elif not followed and (not results or _has_numbers(out)):
            self._lost = True  # a number on the host may decide anything
        for tensor, at in zip(results, known if followed else [None] * len(results), strict=True):
            self._put(tensor, at)


def varies(tensor: Tensor, batch: int | None) -> bool:
    """Return whether the samples of ``tensor`` differ."""
    if not is_dense(tensor) or tensor.is_complex() or not holds_values(tensor):
        return False
    dim = sample_dim(tensor, batch)
    if dim is None or tensor.numel() == 0:
        return False
    return not bool((tensor == tensor.narrow(dim, 0, 1)).all())


def _has_numbers(value: Any) -> bool:
    """Whether there is anything in ``value`` that is no tensor."""
    if isinstance(value, tuple | list):
        return any(_has_numbers(item) for item in value)
    return value is not None and not isinstance(value, Tensor)
