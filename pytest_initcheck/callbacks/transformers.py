"""InitCheck for transformers' Trainer: its own loss on the first real batch, when training begins."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback

from ..errors import ProbeError, SettingsError
from ..report import Report
from ..settings import Settings
from .announce import announce
from .batches import first_batch, generators_kept, reads_once
from .held import attributes_kept
from .step import check_step


class InitCheck(TrainerCallback):  # type: ignore[misc]
    """Check the model before its first step, and leave the run that follows bit for bit as it would have been.

    The first batch is read from the training data, which gives it again; the loss is ``Trainer.compute_loss`` of it.

    Args:
        on: ``"raise"`` (:class:`~pytest_initcheck.UnhealthyInit`) or ``"warn"``.
        batch: a batch in place of the first one, for data that can be read only once.
        **settings: any of :data:`pytest_initcheck.settings.SETTINGS`.

    Attributes:
        report: the report, once there is one.
    """

    def __init__(self, on: str = "raise", *, batch: Any = None, **settings: Any) -> None:
        if on not in ("raise", "warn"):
            raise SettingsError(f"on must be one of raise, warn (got {on!r})")
        self.report: Report | None = None
        self._on = on
        self._batch = batch
        self._settings = Settings.of(settings)

    def on_train_begin(self, *_: Any, train_dataloader: Any = None, **__: Any) -> None:
        """Check."""
        __tracebackhide__ = True
        trainer = _trainer_of(self, sys._getframe())

        def check() -> Report:
            if trainer is None:
                raise ProbeError(
                    "InitCheck found no Trainer that calls it, so the model was not checked before training"
                )
            batch = trainer._prepare_inputs(self._first(train_dataloader))
            return check_step(trainer.model, batch, _ComputeLoss(trainer), settings=self._settings)

        with generators_kept(), attributes_kept(trainer):
            self.report = announce(check, on=self._on)

    def _first(self, loader: Any) -> Any:
        if self._batch is not None:
            return self._batch
        loader = getattr(loader, "base_dataloader", loader)  # accelerate's counts epochs, and reads a batch ahead
        if reads_once(loader):
            raise ProbeError(
                "the training data can be read only once, so no batch was taken from it and the model was not checked: "
                "give InitCheck(batch=...) one"
            )
        return first_batch(loader)


class _ComputeLoss:
    """``Trainer.compute_loss``, as a step."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        with self._trainer.compute_loss_context_manager():
            return self._trainer.compute_loss(model, dict(batch) if isinstance(batch, dict) else batch)


def _trainer_of(callback: InitCheck, frame: FrameType | None) -> Trainer | None:
    """The trainer that is calling: callbacks are told of everything but that, and ``compute_loss`` is its."""
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Trainer) and callback in found.callback_handler.callbacks:
            return found
        frame = frame.f_back
    return None
