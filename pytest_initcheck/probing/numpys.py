"""numpy's global generator, which need not be there yet: numpy imports it when it is first used, and we do not use it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .switches import uninterrupted

_NAME = "numpy.random"


class _Birth(MetaPathFinder):
    """Seeds the generator when a model's code imports it, as it would have been seeded had it been there.

    Attributes:
        wanted: the seed, ``None`` to leave what the system gave.
        state: what the system gave.
        given: the last seed that was given to the generator itself.
    """

    wanted: int | None = None
    state: Any = None
    given: int | None = None

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self.state = module.get_state()
                if self.wanted is not None:
                    module.seed(self.wanted)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_BIRTH = _Birth()


def seed_numpy(seed: int) -> None:
    """Seed numpy's generator, now or when it is first used."""
    there: Any = sys.modules.get(_NAME)
    if there is not None:
        _BIRTH.given = seed % 2**32
        if (bits := _exchanged(there)) is not None:
            there.set_state(type(bits)(_BIRTH.given).state)
        else:
            there.seed(_BIRTH.given)
    else:
        _await(seed % 2**32)


def numpy_kept() -> Callable[[], Any]:
    """Return what sets numpy's generator back to where it is, or will be when it is first used."""
    there: Any = sys.modules.get(_NAME)
    if there is not None and _exchanged(there) is not None:
        known = there.get_state(legacy=False)
        return lambda: there.set_state(known)
    if there is not None:
        state, given = there.get_state(), _BIRTH.given
        if given is not None:  # to seed it is twenty times as fast, and this is done before every pass
            with uninterrupted():
                there.seed(given)
                if _same(there.get_state(), state):
                    return lambda: there.seed(given)
                there.set_state(state)
        return lambda: there.set_state(state)
    wanted = _BIRTH.wanted

    def undo() -> None:
        born = sys.modules.get(_NAME)
        if born is None:
            _await(wanted)
        elif wanted is not None:
            born.seed(wanted)
        elif _BIRTH.state is not None:
            born.set_state(_BIRTH.state)

    _await(wanted)
    return undo


def _exchanged(there: Any) -> Any:
    """The bit generator that ``numpy.random.set_bit_generator`` put in the place of numpy's own; its state is a dict."""
    bits = there.get_bit_generator() if hasattr(there, "get_bit_generator") else None  # from numpy 1.24 on
    return None if bits is None or type(bits).__name__ == "MT19937" else bits


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    (_, words, *rest), (_, others, *further) = one, other
    return rest == further and bool((words == others).all())


def _await(wanted: int | None) -> None:
    _BIRTH.wanted = wanted
    if _BIRTH not in sys.meta_path:
        sys.meta_path.insert(0, _BIRTH)
