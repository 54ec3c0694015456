"""The value of the ``initcheck`` fixture. Nothing here imports torch before a model is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InitcheckError, SettingsError, UnhealthyInit
from ..surfaces.ranks import speaks
from . import configuration
from .items import cause_of_theirs, check_in, source_of_item, unchecked

if TYPE_CHECKING:
    import pytest

    from ..report import Report


class Check:
    """Checks a model for a test."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def __repr__(self) -> str:
        return "<the initcheck fixture>"

    def __call__(self, model: Any, inputs: Any = None, *, loss: Any = None, **settings: Any) -> Report:
        """Return the report of a healthy model; raise :class:`UnhealthyInit` for any other.

        Args:
            model: module, or factory without arguments.
            inputs: as ``check_init`` accepts them.
            loss: as ``check_init`` accepts it.
            **settings: settings of ``check_init``; those not given come from the marker, the command line, the ini.
        """
        __tracebackhide__ = True
        name = getattr(model, "__name__", None) or type(model).__name__
        try:
            report = check_in(self._item, model, inputs, loss=loss, asked=settings, name=name)
        except InitcheckError as e:
            if not isinstance(e, SettingsError):  # which says nothing of the model
                unchecked(self._item, name, str(e).removeprefix(f"{name}: "), source_of_item(self._item))
            if configuration.debugging(self._item, settings):
                raise
            raise e.with_traceback(None) from cause_of_theirs(e)
        if not report.ok:
            raise UnhealthyInit(
                str(report) if speaks() else f"{str(report).partition(chr(10))[0]} (rank 0 shows the report)",
                report=report,
            )
        return report
