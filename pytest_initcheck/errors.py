"""The exceptions and the warning that users can meet, each one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report import Report
    from .statements.initialized import Initialization
    from .statements.scaling import ScalingReport


class InitcheckError(Exception):
    """Base of every exception that this package raises on purpose.

    Attributes:
        short: what went wrong in a few words, for a cell of a table; ``""`` where the message itself is short enough.
    """

    def __init__(self, message: str = "", *, short: str = "") -> None:
        super().__init__(message)
        self.short = short


class SettingsError(InitcheckError, ValueError):
    """An option, a marker argument or a keyword has a value that cannot be used."""


class TargetError(InitcheckError):
    """A spec such as ``pkg.mod:Factory`` could not be turned into a model."""


class ProbeError(InitcheckError, RuntimeError):
    """The model could not be run forward and backward, so nothing can be said about it.

    Attributes:
        layer: dotted name of the last layer that was reached, or ``None``.
    """

    def __init__(self, message: str, *, layer: str | None = None, short: str = "") -> None:
        super().__init__(message, short=short)
        self.layer = layer


class UnhealthyInit(InitcheckError, AssertionError):
    """The model starts from weights that it will not train from; the message is the rendered report.

    Attributes:
        report: the :class:`~pytest_initcheck.Report` behind the message.
    """

    def __init__(self, message: str, *, report: Report | None = None) -> None:
        super().__init__(message)
        self.report = report


class UnstableScaling(InitcheckError, AssertionError):
    """Something in the model drifts with its size; the message is the table.

    Attributes:
        report: the :class:`~pytest_initcheck.statements.scaling.ScalingReport` behind the message.
    """

    def __init__(self, message: str, *, report: ScalingReport | None = None) -> None:
        super().__init__(message)
        self.report = report


class UnexpectedInit(InitcheckError, AssertionError):
    """A parameter was not drawn from what was expected of it; the message says how it differs.

    Attributes:
        report: the :class:`~pytest_initcheck.statements.initialized.Initialization` behind the message.
    """

    def __init__(self, message: str, *, report: Initialization | None = None) -> None:
        super().__init__(message)
        self.report = report


class InitcheckWarning(UserWarning):
    """Something the user should know that is no verdict on a model (filter it by this class)."""


for _public in (
    InitcheckError,
    SettingsError,
    TargetError,
    ProbeError,
    UnhealthyInit,
    UnstableScaling,
    UnexpectedInit,
    InitcheckWarning,
):
    _public.__module__ = "pytest_initcheck"
