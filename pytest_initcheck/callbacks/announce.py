"""What a check before training does with what it found: raise or warn, once, and the same in every process."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import torch

from ..errors import InitcheckError, InitcheckWarning, ProbeError, SettingsError, UnhealthyInit
from ..report import Report

_log = logging.getLogger("pytest_initcheck")


def announce(check: Callable[[], Report], *, on: str) -> Report | None:
    """Run a check and say what it found.

    Where ``torch.distributed`` is initialized, all processes must come here: what the first one finds counts for all, and only
    its message is the whole report.

    Args:
        check: makes the report, or raises what keeps it from that.
        on: ``"raise"`` or ``"warn"``.

    Returns:
        The report of this process; ``None`` where it could make none and nothing was raised.

    Raises:
        UnhealthyInit: the model is unhealthy and ``on`` is ``"raise"``.
        ProbeError: nothing could be judged and ``on`` is ``"raise"``.
        SettingsError: ``on`` is no such word.
    """
    __tracebackhide__ = True
    if on not in ("raise", "warn"):
        raise SettingsError(f"on must be one of raise, warn (got {on!r})")
    report, reason = _attempt(check)
    found = "healthy" if report is not None and report.ok else "unhealthy" if report is not None else "not judged"
    first, found = _as_the_first(found)
    if found == "healthy":
        _log.info("%s", report)
        return report
    error = _error(found, report, reason) if first else _elsewhere(found, report)
    if on == "raise":
        raise error
    if first:
        warnings.warn(InitcheckWarning(str(error)), stacklevel=3)
    return report


def _attempt(check: Callable[[], Report]) -> tuple[Report | None, InitcheckError | None]:
    try:
        return check(), None
    except InitcheckError as error:
        return None, error
    except Exception as error:  # in a hook of the library; the other processes wait for what becomes of it
        wrapped = ProbeError(f"the model could not be checked before training: {type(error).__name__}: {error}")
        wrapped.__cause__ = error
        return None, wrapped


def _error(found: str, report: Report | None, reason: InitcheckError | None) -> InitcheckError:
    if found == "unhealthy":
        return UnhealthyInit(str(report), report=report)
    return reason if reason is not None else ProbeError("the model could not be checked before training")


def _elsewhere(found: str, report: Report | None) -> InitcheckError:
    if found == "unhealthy":
        return UnhealthyInit(
            "the first process found that this model will not train: its message says why", report=report
        )
    return ProbeError("the first process could not check this model: its message says why")


def _as_the_first(found: str) -> tuple[bool, str]:
    """Whether this is the first process, and what that one found."""
    together = torch.distributed
    if not together.is_available() or not together.is_initialized() or together.get_world_size() == 1:
        return True, found
    words = [found]
    together.broadcast_object_list(words, src=0)
    return together.get_rank() == 0, words[0]
