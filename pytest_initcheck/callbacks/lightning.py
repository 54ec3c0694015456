"""InitCheck for Lightning: the module's own training step on the first real batch, when fitting starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import nn
from torch.utils._pytree import tree_map

from ..errors import ProbeError, SettingsError
from ..probing.guard import untouched
from ..report import Report
from ..settings import Settings
from .announce import announce
from .batches import first_batch, generators_kept, reads_once
from .held import attributes_kept
from .step import check_step, takes

#: Lightning under both of its names.
_NAMES = ("lightning.pytorch", "pytorch_lightning")


def _bases() -> tuple[type, ...]:
    """``Callback`` of what is imported, or else of what is installed."""
    names = [n for n in _NAMES if n in sys.modules] or [n for n in _NAMES if find_spec(n.partition(".")[0])][:1]
    if not names:
        raise ImportError(
            "pytest_initcheck.callbacks.lightning needs Lightning: pip install 'pytest-initcheck[lightning]'"
        )
    return tuple(import_module(n).Callback for n in names)


class InitCheck(*_bases()):  # type: ignore[misc]
    """Check the module before its first step, and leave the run that follows bit for bit as it would have been.

    The first batch is read from the training data, which gives it again; where the data can be read only once, the check
    waits for the batch that training gets. ``log`` and loggers are silent meanwhile.

    Args:
        on: ``"raise"`` (:class:`~pytest_initcheck.UnhealthyInit`) or ``"warn"``.
        **settings: any of :data:`pytest_initcheck.settings.SETTINGS`; ``mode`` is ``"as-is"`` unless it is given, as Lightning
            trains modules in the mode that they are in.

    Attributes:
        report: the report, once there is one.
    """

    def __init__(self, on: str = "raise", **settings: Any) -> None:
        super().__init__()
        if on not in ("raise", "warn"):
            raise SettingsError(f"on must be one of raise, warn (got {on!r})")
        self.report: Report | None = None
        self._on = on
        self._settings = Settings.of(settings, {"mode": "as-is"})
        self._waits = False

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check, unless looking at the data would use it up."""
        __tracebackhide__ = True
        self._waits = False
        if trainer.limit_train_batches == 0 or trainer.max_epochs == 0 or trainer.max_steps == 0:
            return
        with generators_kept(), attributes_kept(trainer.datamodule), _quiet(trainer, pl_module), untouched(pl_module):
            loaders = trainer.fit_loop._data_source.dataloader()
        if any(reads_once(loader) for loader in _leaves(loaders)):
            self._waits = True
            return

        def check() -> Report:
            with attributes_kept(trainer.datamodule), _quiet(trainer, pl_module), untouched(pl_module):
                batch = _on_device(trainer, pl_module, _first_of(loaders))
            return self._checked(trainer, pl_module, batch)

        with generators_kept():
            self.report = announce(check, on=self._on)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        """Check with the first batch that training gets, where it could not be read before."""
        __tracebackhide__ = True
        if self._waits:
            self._waits = False
            with generators_kept():
                self.report = announce(lambda: self._checked(trainer, pl_module, batch), on=self._on)

    def _checked(self, trainer: Any, module: Any, batch: Any) -> Report:
        name = type(module).__name__
        if not module.automatic_optimization:
            raise ProbeError(
                f"{name} optimizes by hand (automatic_optimization=False), so its training_step is no loss to look at: "
                "call pytest_initcheck.callbacks.check_before_training with what it minimizes"
            )
        if not takes(module.training_step, 1) and not takes(module.training_step, 2):
            raise ProbeError(f"training_step of {name} takes more than a batch and its number, so it was not checked")
        with _quiet(trainer, module) as quiet, trainer.precision_plugin.train_step_context():
            return check_step(module, batch, _TrainingStep(quiet), settings=self._settings)


class _TrainingStep:
    """``training_step`` of the module, or of a copy of it, which has lost its trainer."""

    def __init__(self, trainer: _Quiet) -> None:
        self._trainer = trainer

    def __call__(self, module: nn.Module, batch: Any) -> Any:
        step: Any = module.training_step
        for part in _with_trainer(module):
            if part._trainer is None:
                part._trainer = self._trainer
        returned = step(batch, 0) if takes(step, 2) else step(batch)
        return returned.get("loss") if isinstance(returned, dict) else returned


class _Quiet:
    """A trainer that has no loggers; what is set on it, is set on it alone."""

    def __init__(self, trainer: Any, logger: Any) -> None:
        self.__dict__.update(_trainer=trainer, logger=logger, loggers=[] if logger is None else [logger])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_trainer"], name)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Quiet:
        return self


@contextmanager
def _quiet(trainer: Any, module: Any) -> Iterator[_Quiet]:
    """Meanwhile nothing is logged, neither by ``self.log`` nor past it."""
    home = "lightning.pytorch" if type(trainer).__module__.startswith("lightning.") else "pytorch_lightning"
    dummy = import_module(f"{home}.loggers.logger").DummyLogger
    quiet = _Quiet(trainer, dummy() if trainer.logger is not None else None)
    parts = list(_with_trainer(module))
    were = [
        (part, part._trainer, {n: part.__dict__[n] for n in ("log", "log_dict") if n in part.__dict__})
        for part in parts
    ]
    try:
        for part in parts:
            part._trainer = quiet
            part.__dict__.update(log=_nothing, log_dict=_nothing)
        yield quiet
    finally:
        for part, was, own in were:
            part._trainer = was
            for name in ("log", "log_dict"):
                part.__dict__.pop(name, None)
            part.__dict__.update(own)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """In place of ``log``."""


def _with_trainer(module: nn.Module) -> Iterator[Any]:
    """The modules of Lightning's within a module."""
    return (m for m in module.modules() if "_trainer" in m.__dict__)


def _leaves(loaders: Any) -> list[Any]:
    found: list[Any] = []
    tree_map(found.append, getattr(loaders, "iterables", loaders))
    return found


def _first_of(loaders: Any) -> Any:
    """The first batch of what ``train_dataloader`` returns: a loader, or several in a container."""
    combined = getattr(loaders, "iterables", None)
    if combined is None and len(leaves := _leaves(loaders)) == 1 and leaves[0] is loaders:
        return first_batch(loaders)
    if combined is None:
        return tree_map(first_batch, loaders)
    one_each = type(loaders)(tree_map(lambda loader: [first_batch(loader)], combined), loaders._mode)
    return next(iter(one_each))[0]


def _on_device(trainer: Any, module: Any, batch: Any) -> Any:
    """The batch as the training loop hands it over."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)
