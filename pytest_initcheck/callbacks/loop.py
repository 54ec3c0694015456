"""check_before_training: the check for a loop that somebody wrote."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..check import check
from ..errors import SettingsError
from ..report import Report
from ..settings import Settings
from .announce import announce
from .step import check_step, repeated


def check_before_training(
    model: nn.Module,
    batch: Any,
    loss: Callable[..., Tensor] | None = None,
    *,
    step: Callable[[nn.Module, Any], Tensor] | None = None,
    on: str = "raise",
    **settings: Any,
) -> Report | None:
    """Check ``model`` on a real batch with the real loss, and leave the run that follows bit for bit as it would have been.

    Where ``torch.distributed`` is initialized, every process must call it; all decide as the first one does.

    Args:
        model: the module that is about to be trained, in training mode.
        batch: what the data loader gives: a pair ``(inputs, targets)`` where ``loss`` takes two arguments, else the inputs,
            as :func:`~pytest_initcheck.check_init` takes them; with ``step`` whatever it takes.
        loss: ``loss(output, targets)`` or ``loss(output)``, a scalar tensor.
        step: in place of ``loss``, for a loop that does more: called with the model and the batch, it returns the loss.
        on: ``"raise"`` or ``"warn"``.
        **settings: any of :data:`pytest_initcheck.settings.SETTINGS`.

    Returns:
        The report; ``None`` where nothing could be judged and ``on="warn"``.

    Raises:
        UnhealthyInit: the model is unhealthy and ``on="raise"``.
        ProbeError: the model could not be run and ``on="raise"``.
        SettingsError: an argument cannot be used.
    """
    __tracebackhide__ = True
    asked = Settings.of(settings)
    if not isinstance(model, nn.Module):
        raise SettingsError(f"model must be the nn.Module that is about to be trained (got {type(model).__name__})")
    if (loss is None) == (step is None):
        raise SettingsError(
            "give either loss, called with the model's output, or step, called with the model and the batch"
        )
    if step is not None:
        return announce(partial(check_step, model, batch, step, settings=asked), on=on)
    assert loss is not None
    inputs, criterion = _divided(batch, loss)
    return announce(lambda: repeated(check(model, inputs, loss=criterion, settings=asked), "loss", asked), on=on)


def _divided(batch: Any, loss: Callable[..., Tensor]) -> tuple[Any, Callable[[Any], Tensor]]:
    """The inputs, and the loss of the output alone."""
    if not _takes_two(loss):
        return batch, loss
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        what = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
        raise SettingsError(
            f"with a loss of two arguments batch must be a pair (inputs, targets) (got {what}); "
            "for anything else give step=, called with the model and the batch"
        )
    inputs, targets = batch
    return inputs, partial(_against, loss, targets)


def _against(loss: Callable[..., Tensor], targets: Any, output: Any) -> Tensor:
    return loss(output, targets)


def _takes_two(loss: Callable[..., Tensor]) -> bool:
    """Whether the loss asks for two arguments at least."""
    try:
        signature = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)
    except (TypeError, ValueError):  # a function of C
        return True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in signature.parameters.values() if p.kind in positional and p.default is p.empty]
    return len(needed) > 1 or any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
