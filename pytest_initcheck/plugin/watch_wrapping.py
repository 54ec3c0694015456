"""How a listener gets between a suite and torch without being seen: wrappers in torch's own name, and a pass that nobody notices."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from .paths import PACKAGE

_TORCH = str(Path(torch.__file__).parent)
_OURS = f"{PACKAGE}{os.sep}"
_INSTALLED = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sysconfig.get_path("stdlib")})
#: The files that listen, as opposed to those that check.
_LISTENING = frozenset((__file__, str(Path(__file__).with_name("watch_models.py"))))


def replaced(method: str, original: Any, wrapper: Any) -> Callable[[], None]:
    """Put ``wrapper`` in place of that method of ``nn.Module``; return what undoes it, unless somebody else wrapped it since."""
    wrapper.__code__ = as_if_in(original, wrapper)
    setattr(nn.Module, method, wrapper)

    def undo() -> None:
        if getattr(nn.Module, method) is wrapper:
            setattr(nn.Module, method, original)

    return undo


def as_if_in(original: Any, wrapper: Any) -> CodeType:
    """Return the code of ``wrapper`` as if it stood in the file of ``original``.

    By that file torch.compile tells torch's own functions, which it traces through but does not compile for
    themselves: a wrapper that it takes for the user's would be a graph of its own in each module.
    """
    theirs = original.__code__
    code: CodeType = wrapper.__code__
    return code.replace(co_filename=theirs.co_filename, co_firstlineno=theirs.co_firstlineno)


def outside_of_compilation(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function``, not compiled where a compiled function of the user's falls back to Python and calls it."""
    if "torch._dynamo" not in sys.modules:
        return function
    return torch.compiler.disable(function)  # type: ignore[no-any-return]


@contextlib.contextmanager
def unnoticed() -> Iterator[None]:
    """Let nothing that a further pass prints, warns of or logs reach the test; have gradients recorded."""
    always, disabled = torch.is_warn_always_enabled(), logging.root.manager.disable
    sink = io.StringIO()
    with (
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
        warnings.catch_warnings(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        warnings.simplefilter("ignore")
        torch.set_warn_always(True)  # what torch says only once is not used up
        logging.disable(sys.maxsize)
        try:
            yield
        finally:
            logging.disable(disabled)
            torch.set_warn_always(always)


def called_by_us(frame: FrameType | None) -> bool:
    """Return whether a check of this package is what makes the call."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_OURS) and file not in _LISTENING:
            return True
        frame = frame.f_back
    return False


def place(root: Path, test: str | None) -> str:
    """Return ``file:line`` of the innermost frame in the test's own file, else in the project, else outside of torch and of this package."""
    inside, project, outside = f"{root}/", None, None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, _OURS, "<")):
            within = file.startswith(inside) and not file.startswith(_INSTALLED)
            told = f"{Path(file).relative_to(root).as_posix() if within else file}:{frame.f_lineno}"
            if file == test:
                return told
            project = project or (told if within else None)
            outside = outside or told
        frame = frame.f_back
    return project or outside or "?"
