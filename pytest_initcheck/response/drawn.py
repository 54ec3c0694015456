"""What a model draws on its way: values that training takes as given, although they are made of weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..probing.dispatch import Mode
from ..probing.guard import Guard
from ..probing.probe import OutputChanged, Probed, float_outputs
from .perturb import Push, push_of

#: Operations that draw values around a tensor and pass no gradient back to it (the action of a policy, a token).
_DRAWS = (
    "aten::normal",
    "aten::bernoulli",
    "aten::multinomial",
    "aten::poisson",
    "aten::binomial",
    "aten::exponential",
)


def given_draws(push: Push) -> Push | None:
    """Return what pushes the same model while what it draws around its outputs stays as it was drawn first; ``None`` if it draws nothing so.

    A policy's log-probability is that of an action that is given. Replayed noise moves the action with its mean: ``action - mean`` is then
    the same for every mean, and the output seems to follow neither weights nor inputs.
    """
    draws: list[Tensor] = []
    with (
        torch.enable_grad(),
        _Held(draws, fresh=True),
    ):  # where none is recorded in spite of that, the model wants it so
        push.probed.rerun_raw()
    if not draws:
        return None
    again = push.probed.rerun_raw

    def rerun_raw(*args: Any, **how: Any) -> Any:
        with torch.enable_grad(), _Held(draws, fresh=False):
            return again(*args, **how)

    return _rerun_by(push.probed, rerun_raw, push.guard, push.seed)


def _rerun_by(probed: Probed, rerun_raw: Any, guard: Guard, seed: int) -> Push:
    other = replace(probed, rerun_raw=rerun_raw, rerun=lambda: probed.select(rerun_raw()))
    return replace(push_of(other, guard), seed=seed)


def samples(push: Push) -> Push | None:
    """Return what pushes the same model and judges the first floating output without a graph, where the model draws; else ``None``.

    What it returns so is what it drew, a function of the weights although no gradient passes.
    """
    probed = push.probed
    probed.inputs()  # rewinds
    before = _generators(push)
    with torch.no_grad():
        every = float_outputs(probed.rerun_raw())
    if all(bool(torch.equal(a, b)) for a, b in zip(before, _generators(push), strict=True)):
        return None
    graded = {i for i, t in enumerate(_flags(probed)) if t}
    at = next((i for i, t in enumerate(every) if i not in graded and t.dim() > 0 and t.numel() > 1), None)
    if at is None:
        return None

    def select(output: Any) -> list[Tensor]:
        found = float_outputs(output)
        if len(found) <= at:
            raise OutputChanged("a pass returns fewer tensors than the first did")
        return [*probed.select(output), found[at]]

    rerun_raw = probed.rerun_raw
    other = replace(
        probed,
        outputs=[*probed.outputs, every[at].detach().clone()],
        cotangents=[*probed.cotangents, torch.zeros_like(every[at])],
        primary=len(probed.outputs),
        select=select,
        rerun=lambda: select(rerun_raw()),
    )
    return replace(push_of(other, push.guard), seed=push.seed)


def _flags(probed: Probed) -> list[bool]:
    """Which floating outputs have a graph."""
    with torch.enable_grad():
        return [t.requires_grad for t in float_outputs(probed.rerun_raw())]


def _generators(push: Push) -> list[Tensor]:
    """States of torch's generators."""
    devices = {p.device for p in push.parameters.values() if p.device.type == "cuda"}
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in sorted(devices, key=str))]


class _Held(Mode):
    """Keeps what is drawn around a tensor, and what is made of a draw where no gradient is recorded (``Distribution.sample``)."""

    def __init__(self, draws: list[Tensor], fresh: bool) -> None:
        super().__init__()
        self._draws, self._fresh, self._at = draws, fresh, 0
        self._sampling = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        random = torch.Tag.nondeterministic_seeded in func.tags
        self._sampling = not torch.is_grad_enabled() and (self._sampling or random)
        in_place = func._schema.name.endswith("_")  # the generator repeats these
        if not isinstance(found, Tensor) or in_place or not (self._sampling or func._schema.name in _DRAWS):
            return found
        if self._fresh:
            self._draws.append(found.clone())
            return found
        kept = self._draws[self._at] if self._at < len(self._draws) else found
        self._at += 1
        return kept.clone() if kept.shape == found.shape and kept.dtype == found.dtype else found
