"""Whether what was found in a watched model is a fault of its initialization, rather than of how a test calls it.

A test builds models in order to test something else: with a setting that switches them off, on equal rows, on a single
sample, with a part that is mocked. What it finds is a fault of the initialization only if the model does not answer inputs
of our own of the same shapes either, and a copy of it with other weights does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ProbeError
from ..mend import ABOUT_VALUES
from ..probing.memory import is_dense
from ..report import Report

#: Checks a model: module, inputs, whether fixes are tried on copies.
Look = Callable[[nn.Module, Any, bool], Report]

#: Findings that need no second opinion: the values themselves are there to be seen, or the bound is the user's own.
CERTAIN = frozenset(("uninitialized-parameter", "non-finite-parameter", "activation-std", "gradient-std"))


def telling(inputs: Any) -> Any:
    """Return inputs of our own of the same shapes where all samples of ``inputs`` are equal, else ``inputs``."""
    tensors = [t for t in _tensors(inputs) if is_dense(t) and t.dim() > 0]
    batch = tensors[0].size(0) if tensors else 0
    varied = any(t.size(0) == batch and bool((t != t[:1]).any()) for t in tensors)
    return inputs if varied or batch < 2 else next(_own_inputs(inputs), inputs)


def is_glance(report: Report) -> bool:
    """Return whether a call tells too little of how a model starts to speak for it: one sample, or equal ones."""
    return report.trace.batch == 1 or report.trace.equal_samples


def is_undecided(report: Report) -> bool:
    """Return whether the budget of the look was spent before it could say."""
    return any(f.rule == "undecided" for f in report.findings)


def second_look(look: Look, model: nn.Module, inputs: Any, first: Report) -> tuple[str, Report, str]:
    """Return whether an unhealthy model is at fault: its state, the report that shows it, and what is to be said of it.

    Args:
        look: checks a model.
        model: what was found unhealthy; it is left as it is.
        inputs: what it was given.
        first: the report that was made with these.

    Returns:
        ``"healthy"``, ``"unhealthy"`` or ``"unjudged"``; a report; a remark in words, or ``""``.
    """
    if any(f.rule in CERTAIN for f in _errors(first)):
        return "unhealthy", first, ""
    for own in _own_inputs(inputs):
        try:
            other = look(model, own, False)
        except ProbeError:  # not every value will do
            continue
        if other.ok and not is_glance(other) and not is_undecided(other):
            return "healthy", other, "with inputs of our own of the same shapes"
    if not any(f.rule in ABOUT_VALUES for f in _errors(first)):
        return "unhealthy", first, ""
    reason = _says_nothing(model, first)
    if reason is None:
        mended = look(model, inputs, True)
        kept = [f for f in mended.findings if f.severity != "error" or f.fix or f.rule not in ABOUT_VALUES]
        if any(f.severity == "error" for f in kept):
            return "unhealthy", replace(mended, findings=tuple(kept)), ""
        reason = "other weights do not help, so that it is not their doing"
    return "unjudged", first, f"{_named(first)}, but {reason}"


def _errors(report: Report) -> list[Any]:
    return [f for f in report.findings if f.severity == "error"]


def _named(report: Report) -> str:
    return next((f.rule for f in _errors(report)), "unhealthy")


def _says_nothing(model: nn.Module, report: Report) -> str | None:
    """Why this call tells nothing of how the model starts, or ``None``."""
    if not any(p.requires_grad and p.ndim > 1 and p.numel() > 1 for p in model.parameters()):
        return "it has no weights to speak of"
    if report.trace.equal_samples:
        return "all samples of its inputs are equal"
    if report.trace.batch == 1:
        return "it was given a single sample"
    return None


# -- inputs of our own


def _own_inputs(inputs: Any) -> Iterator[Any]:
    """The inputs with every signal in them drawn anew: normal, then between 0 and 1; nothing where there is none."""
    if not any(_drawable(t) for t in _tensors(inputs)):
        return
    for draw in (torch.randn, torch.rand):
        generator = torch.Generator().manual_seed(0)
        yield _drawn(inputs, partial(_anew, draw, generator))


def _anew(draw: Callable[..., Tensor], generator: torch.Generator, tensor: Tensor) -> Tensor:
    return draw(tensor.shape, generator=generator)


def _drawable(tensor: Tensor) -> bool:
    return is_dense(tensor) and tensor.is_floating_point() and tensor.numel() > 1 and not tensor.is_inference()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _drawn(value: Any, draw: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return draw(value).to(value) if _drawable(value) else value
    if isinstance(value, dict):
        return {name: _drawn(item, draw) for name, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_drawn(item, draw) for item in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_drawn(item, draw) for item in value))
    return value
