"""The check where training starts: a function for a loop, and callbacks for Lightning and for transformers' Trainer.

The callbacks are in modules of their own, which import their libraries: :mod:`pytest_initcheck.callbacks.lightning` and
:mod:`pytest_initcheck.callbacks.transformers`.
"""

from .loop import check_before_training

__all__ = ["check_before_training"]
