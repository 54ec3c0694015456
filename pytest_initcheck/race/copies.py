"""Repaired copies of a model, as start values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from ..errors import InitcheckError
from ..response.perturb import Push
from ..sharding.layout import local, resharded
from ..sharding.together import same
from ..sharding.world import current
from .course import StartValues, out_of_memory

#: Changes a model in place, and returns the lines that do the same.
Repair = Callable[[nn.Module], str]


@dataclass(frozen=True)
class Copy:
    """A repair: the lines that do it, and the start values that it changes."""

    text: str
    values: StartValues


class Copies:
    """Repaired copies, made when the first one is asked for."""

    def __init__(self, push: Push, repairs: Sequence[Repair]) -> None:
        self._push, self._repairs = push, repairs
        self._made: list[Copy] | None = None

    def every(self) -> list[Copy]:
        """The copies, the whole of the model first; those that change nothing, or what another one does, are left out."""
        if self._made is None:
            self._push.restore()
            # The whole of the model last: what changes little is kept in little, so that of the weights one copy is held at a time.
            found = [self._repaired(repair) for repair in reversed(self._repairs)]
            self._made = []
            for one in reversed(found):
                if one is not None and not any(_alike(one.values, other.values) for other in self._made):
                    self._made.append(one)
        return self._made

    def other(self, repair: Repair) -> StartValues:
        """What ``repair`` changes, for another use than a copy that runs; nothing where it cannot be done."""
        self._push.restore()
        made = self._repaired(repair)
        return {} if made is None else made.values

    def _repaired(self, repair: Repair) -> Copy | None:
        parameters = self._push.parameters
        made: tuple[str, dict[str, Tensor]] | None = None
        try:
            made = self._in_a_copy(repair) if current() is None else self._in_place(repair)
        except InitcheckError:
            pass
        except Exception as error:  # a model that cannot be copied, or not initialized anew, cannot be raced
            if isinstance(error, MemoryError) or (current() is not None and out_of_memory(error)):
                raise
        if same(None if made is None else 0.0) is None or made is None:
            return None
        text, values = made
        values = {n: v for n, v in values.items() if n in parameters and v.shape == parameters[n].shape}
        stays = unchanged([(v, parameters[n].detach()) for n, v in values.items()])
        values = {n: v for (n, v), as_it_is in zip(values.items(), stays, strict=True) if not as_it_is}
        return Copy(text, values) if values else None

    def _in_a_copy(self, repair: Repair) -> tuple[str, dict[str, Tensor]]:
        trial: nn.Module = copy.deepcopy(self._push.probed.model)
        text = repair(trial)
        return text, {n: p.detach() for n, p in trial.named_parameters()}

    def _in_place(self, repair: Repair) -> tuple[str, dict[str, Tensor]]:
        """As :meth:`_in_a_copy`, of a model that several ranks hold, of which no copy can be made."""
        model = self._push.probed.model
        try:
            resharded(model)
            with ExitStack() as versions:  # a graph that the user holds must not take the weights for changed
                for p in model.parameters():
                    versions.enter_context(_unsafe_preserve_version_counter(p))
                text = repair(model)
            return text, {n: p.detach().clone() for n, p in self._push.parameters.items()}
        finally:
            self._push.restore()


def unchanged(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[bool]:
    """Return of each pair of tensors, laid out alike, whether they are equal; on every rank, where several hold them."""
    here = [torch.equal(local(a), local(b)) for a, b in pairs]
    return here if (world := current()) is None else world.every(here)


def _alike(one: StartValues, other: StartValues) -> bool:
    return one.keys() == other.keys() and all(unchanged([(v, other[n]) for n, v in one.items()]))
