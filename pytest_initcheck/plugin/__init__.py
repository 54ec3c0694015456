"""The pytest plugin: the hooks and the fixture that pytest finds here, and what they need. PYTEST_DONT_REWRITE"""

from __future__ import annotations

from .hooks import (
    initcheck,
    pytest_addhooks,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_make_collect_report,
    pytest_pycollect_makeitem,
    pytest_report_collectionfinish,
    pytest_sessionstart,
    pytest_testnodedown,
)

__all__ = [
    "initcheck",
    "pytest_addhooks",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_make_collect_report",
    "pytest_pycollect_makeitem",
    "pytest_report_collectionfinish",
    "pytest_sessionstart",
    "pytest_testnodedown",
]
