"""Hooks for conftest.py and for other plugins; the ``initcheck`` command calls them too. PYTEST_DONT_REWRITE

Implement any of them in a ``conftest.py`` or in an installed plugin; leave out the arguments you do not need. The
command knows no ``conftest.py``: it loads the installed plugins that name themselves in the entry point group
``initcheck``. A hook that raises is said with its file and line: one for the run (models, rules) ends it, one for a model
fails that model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from .report import Report
    from .rules import Rule

#: pytest's own marker: one module serves pytest's plugin manager and the command's.
hookspec = pluggy.HookspecMarker("pytest")


@hookspec
def pytest_initcheck_models(config: Any) -> Iterable[str] | None:
    """Return further models to check with ``--initcheck``, each written as a line of the ini ``initcheck_models``.

    Args:
        config: pytest's configuration.
    """


@hookspec
def pytest_initcheck_rules() -> Iterable[Rule] | None:
    """Return further rules: they judge every model, and are selected and silenced as the built-in ones are."""


@hookspec(firstresult=True)
def pytest_initcheck_inputs(name: str) -> Any:
    """Return example inputs for a model that was given none, or ``None`` to leave it to others.

    Args:
        name: the spec of the model, or ``tests/test_models.py:factory`` for a factory in a test module.

    Returns:
        What ``check_init`` accepts as ``inputs``: a tensor, a tuple, a dict, a callable or a shape string.
    """


@hookspec(firstresult=True)
def pytest_initcheck_loss(name: str) -> Callable[[Any], Any] | None:
    """Return the loss to use for a model that was given none: a callable on the output, or ``None``.

    Args:
        name: the spec of the model, or ``tests/test_models.py:factory`` for a factory in a test module.
    """


@hookspec
def pytest_initcheck_report(report: Report) -> None:
    """Called with every report, in the process that made it, before it is shown or judged.

    Args:
        report: what was measured and concluded.
    """
