"""What every run of pytest has of this plugin; the rest is imported once a run asks for it. PYTEST_DONT_REWRITE

pytest rewrites the assertions of every module of a plugin, and where no bytecode can be written it parses each of them
anew in every run. So what is imported by a run that does not use this plugin is these few lines, :mod:`.options` and the
hook specifications; ``tests/plugin/test_start.py`` counts them. An option, a line of the configuration, a marker, a case
or the fixture asks for :mod:`.hooks` or :mod:`.fixture`, and with it for the rest.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from importlib.machinery import ModuleSpec

    from .fixture import Check
    from .items import ModelItem


class _AsALibrary:
    """Finds the rest of this package ahead of pytest, which would rewrite 100 modules, and without bytecode in every run anew."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, _target: Any = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, path) if name.startswith("pytest_initcheck.") else None


sys.meta_path.insert(0, _AsALibrary)

from . import options  # noqa: E402  # found by it

#: Until this is imported, nobody can have decorated a factory.
_CASES = "pytest_initcheck.surfaces.cases"


def pytest_addoption(parser: pytest.Parser) -> None:
    options.register(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from .. import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    if _AsALibrary not in sys.meta_path:  # pytest runs inside pytest
        sys.meta_path.insert(0, _AsALibrary)
    config.add_cleanup(lambda: sys.meta_path.remove(_AsALibrary) if _AsALibrary in sys.meta_path else None)
    config.addinivalue_line("markers", options.marker())
    if options.asked(config):
        from . import hooks

        hooks.start(config)


@pytest.fixture
def initcheck(request: pytest.FixtureRequest) -> Check:
    """Assert that a model trains from the weights it starts with: initcheck(model, inputs)."""
    from .fixture import Check

    return Check(request.node)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> list[ModelItem] | None:
    if "__initcheck_case__" not in getattr(obj, "__dict__", ()):
        return None
    from . import hooks

    return hooks.items_of(collector, name, obj)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    call: pytest.CallInfo[object] | None = getattr(report, "call", None)
    if call is None or call.excinfo is None or "pytest_initcheck.errors" not in sys.modules:
        return report
    from . import hooks

    return hooks.collected(collector, report, call.excinfo)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if options.MISUSE in getattr(config, "workeroutput", ()) or _marked(items):
        from . import hooks

        hooks.check_items(config, items)


def _marked(items: list[pytest.Item]) -> bool:
    """Whether any item has our marker; its parents are looked at once, not once for each of its neighbours."""
    seen: set[Any] = set()
    for item in items:
        node: Any = item
        while node is not None and node not in seen:
            for mark in node.own_markers:
                if mark.name == "initcheck":
                    return True
            seen.add(node)
            node = node.parent
    return False


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    sentence = getattr(node, "workeroutput", {}).get(options.MISUSE)
    if sentence is not None:
        raise pytest.UsageError(sentence)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    if config.get_verbosity("initcheck") <= 0 or not (config.getini("initcheck_models") or _CASES in sys.modules):
        return []
    from . import hooks

    return hooks.left_out(config)
