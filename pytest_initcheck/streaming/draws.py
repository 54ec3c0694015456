"""The values of one part of a model, drawn by the model's own init function from a seed of their own: the same each time."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter as preserved

from ..errors import InitcheckError, ProbeError
from ..probing.randomness import seeded
from ..probing.statistics import own_seed
from ..records import ConstructionFault
from ..words import named_error
from .parts import Part

#: Elements of a tensor that are looked at to see whether an init function wrote to it.
LOOKED_AT = 4096

Way = Callable[[], object]


class Draws:
    """Fills the parameters of a part, the rest of the model being shapes meanwhile.

    What the model's init function writes to stands; modules that it leaves out are asked to ``reset_parameters()``; small
    parameters that nothing writes to keep what their constructor gave them.

    Args:
        model: the module, its parameters shells.
        kept: values of small parameters by name, as constructed.
        method: name of the init function: of the model, taking a module (``_init_weights``) or nothing (``init_weights``), or
            ``"reset_parameters"``. ``None`` looks for these in this order.
        seed: seed of the draws; each part has its own.

    Attributes:
        faults: parameters and buffers that nothing writes to, once their part was filled.
    """

    def __init__(self, model: nn.Module, kept: Mapping[str, Tensor], method: str | None, seed: int) -> None:
        self._model, self._kept, self._seed = model, kept, own_seed(seed)
        self._slots = [
            (m, key, p, nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad))
            for m, key, p in _slots(model)
        ]
        self._ways = _ways(model, method)
        self._plans: dict[Part, tuple[list[str], list[nn.Module], list[str]]] = {}
        self.faults: dict[str, ConstructionFault] = {}

    def fill(self, part: Part) -> None:
        """Write the values of ``part``, whose parameters have their memory; it is drawn alike each time.

        Raises:
            ProbeError: the init function raised.
        """
        seed = (self._seed + 0x9E3779B1 * (part.index + 1)) % 2**62
        tensors = tuple(part.parameters.values())
        with (
            torch._C.DisableTorchFunction(),
            torch.inference_mode(False),
            torch.no_grad(),
            preserved(tensors),
            self._others_as_shapes({id(p) for p in tensors}),
        ):
            if part not in self._plans:
                self._plans[part], filled = self._planned(part, seed)
                if filled:
                    return
            self._fill(part, seed, *self._plans[part])

    def fill_buffers(self, lost: Iterable[str]) -> None:
        """Have the init function write the buffers that the factory put on the meta device."""
        names = list(lost)
        if not names:
            return
        with torch._C.DisableTorchFunction(), torch.no_grad(), self._others_as_shapes(set()), seeded(self._seed):
            everything = Part("", 0, False, tuple(self._model.modules()))
            for way in self._ways:
                self._run(way, everything)
            for module in self._model.modules():
                own = module._buffers.values()
                reset: Any = getattr(module, "reset_parameters", None)
                if any(b is not None and _left(b) for b in own) and callable(reset):
                    reset()
        buffers = dict(self._model.named_buffers())
        for name in names:
            if name in buffers and _left(buffers[name]):
                self._blame(name)

    # -- one part

    def _planned(self, part: Part, seed: int) -> tuple[tuple[list[str], list[nn.Module], list[str]], bool]:
        """Which ways write something, which modules are asked themselves, what stays as constructed; and whether it is done already."""
        chosen: list[str] = []
        missing = set(part.parameters)
        for way in self._ways:
            if not missing:
                break
            self._fill(part, seed, [way], [], [])
            left = self._unwritten(part)
            if missing - left:
                chosen.append(way)
            missing &= left
            if not missing and chosen == [way] and not self._doubtful(part):
                return (chosen, [], []), True
        own = [m for m in part.modules if self._resets(m, part, missing)]
        self._fill(part, seed, chosen, own, [])
        constructed = sorted(n for n in self._unwritten(part) if n in self._kept)
        doubtful = self._doubtful(part) - set(constructed)
        if not doubtful and not constructed:
            return (chosen, own, []), True
        if doubtful:  # an init function may compute NaN: over another filling it does so again
            self._fill(part, seed, chosen, own, [], filling=113.0)
            for name in sorted(doubtful):
                if not _sampled(part.parameters[name]).isnan().any():
                    self._blame(name)
        return (chosen, own, constructed), False

    def _doubtful(self, part: Part) -> set[str]:
        return {name for name, p in part.parameters.items() if bool(_sampled(p).isnan().any())}

    def _resets(self, module: nn.Module, part: Part, missing: set[str]) -> bool:
        """Whether nothing of what the module itself holds was written, and it says how."""
        names = {id(p): name for name, p in part.parameters.items()}
        held = [names[id(p)] for p in module._parameters.values() if p is not None and id(p) in names]
        return bool(held) and missing.issuperset(held) and callable(getattr(module, "reset_parameters", None))

    def _fill(
        self,
        part: Part,
        seed: int,
        ways: list[str],
        own: list[nn.Module],
        constructed: list[str],
        filling: float = math.nan,
    ) -> None:
        if part not in self._plans or any(name in self.faults for name in part.parameters):
            for p in part.parameters.values():
                if p.is_floating_point() or p.is_complex():
                    p.fill_(filling)
        with seeded(seed):
            try:
                for way in ways:
                    self._run(way, part)
                for module in own:
                    module.reset_parameters()  # type: ignore[operator]
            except InitcheckError:
                raise
            except Exception as error:
                told = " and ".join([*ways, *(["reset_parameters"] if own else [])])
                raise ProbeError(
                    f"{told} of {type(self._model).__name__} cannot initialize {part.name or 'the model'} alone ({named_error(error)}): "
                    "name one that takes a module with deferred=, or check without stream"
                ) from error
        for name in constructed:
            part.parameters[name].copy_(self._kept[name])

    def _run(self, way: str, part: Part) -> None:
        function: Any = getattr(self._model, way)
        if _takes_a_module(function):
            for module in part.modules:
                function(module)
        else:
            function()

    def _unwritten(self, part: Part) -> set[str]:
        return {name for name, p in part.parameters.items() if _left(p)}

    def _blame(self, name: str) -> None:
        told = "the init function of the model leaves it as it was allocated"
        self.faults[name] = ConstructionFault(name, "unwritten", told)

    @contextmanager
    def _others_as_shapes(self, here: set[int]) -> Iterator[None]:
        """An init function that reaches for another part writes to nothing."""
        others = [slot for slot in self._slots if id(slot[2]) not in here]
        try:
            for module, key, _, shape in others:
                module._parameters[key] = shape
            yield
        finally:
            for module, key, p, _ in others:
                module._parameters[key] = p


def _slots(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    for module in model.modules():
        for key, p in module._parameters.items():
            if p is not None:
                yield module, key, p


def _ways(model: nn.Module, method: str | None) -> list[str]:
    if method == "reset_parameters":
        return []
    if method is not None:
        if not callable(getattr(model, method, None)):
            raise ProbeError(
                f"deferred={method!r} names no method of {type(model).__name__}, whose blocks it is to initialize"
            )
        return [method]
    # One that takes a module comes first: the other one may remember what it has initialized already.
    found = [name for name in ("_init_weights", "init_weights") if callable(getattr(model, name, None))]
    return sorted(found, key=lambda name: not _takes_a_module(getattr(model, name)))


def _takes_a_module(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is p.empty for p in parameters)


def _left(tensor: Tensor) -> bool:
    """Whether ``tensor`` still holds what it was filled with, as a sample of it says."""
    return tensor.numel() > 0 and bool(_sampled(tensor).isnan().all())


def _sampled(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // LOOKED_AT)]
