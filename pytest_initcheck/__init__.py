"""Will this model train from the weights it starts with? PYTEST_DONT_REWRITE"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .apply import apply_init as apply_init
    from .apply import recommend_init as recommend_init
    from .check import assert_healthy_init as assert_healthy_init
    from .check import check_init as check_init
    from .errors import InitcheckError as InitcheckError
    from .errors import InitcheckWarning as InitcheckWarning
    from .errors import ProbeError as ProbeError
    from .errors import SettingsError as SettingsError
    from .errors import TargetError as TargetError
    from .errors import UnexpectedInit as UnexpectedInit
    from .errors import UnhealthyInit as UnhealthyInit
    from .errors import UnstableScaling as UnstableScaling
    from .records import Finding as Finding
    from .records import LayerRecord as LayerRecord
    from .records import ParameterRecord as ParameterRecord
    from .records import Response as Response
    from .records import Stats as Stats
    from .records import Trace as Trace
    from .report import Report as Report
    from .statements.initialized import assert_initialized as assert_initialized
    from .statements.scaling import ScalingReport as ScalingReport
    from .statements.scaling import assert_stable_scaling as assert_stable_scaling
    from .statements.scaling import check_scaling as check_scaling
    from .surfaces.cases import model_case as model_case

    __version__: str

# Lazy (PEP 562): pytest imports this package on every run, and torch must not come with it.
_HOME = {
    "apply_init": "apply",
    **dict.fromkeys(("ScalingReport", "assert_stable_scaling", "check_scaling"), "statements.scaling"),
    "recommend_init": "apply",
    "assert_healthy_init": "check",
    "check_init": "check",
    "assert_initialized": "statements.initialized",
    "model_case": "surfaces.cases",
    **dict.fromkeys(
        (
            "InitcheckError",
            "InitcheckWarning",
            "ProbeError",
            "SettingsError",
            "TargetError",
            "UnexpectedInit",
            "UnhealthyInit",
            "UnstableScaling",
        ),
        "errors",
    ),
    **dict.fromkeys(("Finding", "LayerRecord", "ParameterRecord", "Response", "Stats", "Trace"), "records"),
    "Report": "report",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        # Not kept: where pytest runs inside pytest, the inner run drops the modules that it imported.
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("pytest-initcheck")
        except PackageNotFoundError:  # on the path, and not installed
            return "unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
