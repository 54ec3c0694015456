"""Models as a suite calls them: from :meth:`Listener.listen` on, each is probed once, with the inputs of that call.

Torch's public hooks do not do for the calls. Hooks on all modules get no keyword arguments before the call, and
torch.compile warns about them, which fails suites whose warnings are errors. ``nn.Module.__call__`` is wrapped instead,
as torch.fx does while it traces, and put back by :meth:`Listener.stop`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import sys
import sysconfig
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import InitcheckError, ProbeError
from ..probing.guard import has_lazy
from ..records import Report
from ..render import summary_line
from ..words import first_line
from .paths import PACKAGE
from .unsuited import call_reason, input_reason, model_reason

#: Probes one model: module, inputs, name, mode (``None``: as configured).
Probe = Callable[[nn.Module, Any, str, str | None], Report]

_TORCH = str(Path(torch.__file__).parent)
_OURS = f"{PACKAGE}{os.sep}"
_INSTALLED = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sysconfig.get_path("stdlib")})


class Listener:
    """Probes every model that a suite calls, each once and before the call itself goes on.

    Args:
        probe: what a probe is; its exceptions become reasons.
        budget: seconds that all probes may take together; the one that exceeds it is finished.
        root: folder of the project: where in it a model was called is what is told.
    """

    def __init__(self, probe: Probe, *, budget: float, root: Path) -> None:
        self._probe = probe
        self._budget = budget
        self._root = root
        self._spent = 0.0
        self._inside = False
        self._test: str | None = None
        self._thread: int | None = None
        self._unsuitable: str | None = None
        self._found: list[tuple[weakref.ref[nn.Module], dict[str, Any]]] = []
        #: What was called in this test, with everything that is a part of it.
        self._parts = WeakIdKeyDictionary()
        #: Keys of the models that are settled for this run.
        self._settled: set[str] = set()
        self._trained = WeakIdKeyDictionary()
        self._steppers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._undo: contextlib.ExitStack | None = None

    # -- being there

    def listen(self) -> None:
        """Wrap what has to be watched; a second call changes nothing."""
        if self._undo is None:
            self._undo = contextlib.ExitStack()
            self._undo.callback(self._wrap_calls())
            self._undo.callback(self._wrap_loading())
            self._undo.callback(register_optimizer_step_post_hook(self._step_hook()).remove)

    def stop(self) -> None:
        """Put back what :meth:`listen` wrapped."""
        if self._undo is not None:
            self._undo.close()
            self._undo = None

    def begin(self, test: str, *, unsuitable: str | None) -> None:
        """Start a test; ``unsuitable`` says why nothing can be probed in it."""
        self._test, self._unsuitable = test, unsuitable
        self._thread = threading.get_ident()
        self._inside = False
        self._found = []
        self._parts = WeakIdKeyDictionary()

    def listening(self, test: str) -> bool:
        """Whether :meth:`begin` was called for this test and it is not over."""
        return self._test == test

    def entries(self) -> list[dict[str, Any]]:
        """Return what was found since :meth:`begin`."""
        return [entry for _, entry in self._found]

    def end(self) -> None:
        """End the test: what is called from here on belongs to none."""
        self._test = None
        self._found = []

    def _wrap_calls(self) -> Callable[[], None]:
        listener, original = self, nn.Module.__call__

        def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            # First, because a compiler that traces this must not see anything of ours.
            if torch.compiler.is_compiling() or listener._inside or listener._deaf():
                return original(self, *args, **kwargs)
            listener._inside = True
            try:
                _outside_of_compilation(listener._called)(self, args, kwargs)
                return original(self, *args, **kwargs)
            finally:
                listener._inside = False

        return _replaced("__call__", original, __call__)

    def _wrap_loading(self) -> Callable[[], None]:
        listener, original = self, nn.Module.load_state_dict

        def load_state_dict(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            result = original(self, *args, **kwargs)
            _outside_of_compilation(listener._mark_trained)(self.parameters())
            return result

        return _replaced("load_state_dict", original, load_state_dict)

    def _deaf(self) -> bool:
        return self._test is None or self._undo is None or threading.get_ident() != self._thread

    # -- what is trained

    def _step_hook(self) -> Callable[[Any, Any, Any], None]:
        listener = self

        def stepped(optimizer: Any, _args: Any, _kwargs: Any) -> None:
            if not torch.compiler.is_compiling() and not listener._inside:
                _outside_of_compilation(listener._stepped)(optimizer)

        stepped.__code__ = _as_if_in(register_optimizer_step_post_hook, stepped)
        return stepped

    def _stepped(self, optimizer: Any) -> None:
        count = sum(len(group["params"]) for group in optimizer.param_groups)
        if self._steppers.get(optimizer) != count:
            self._steppers[optimizer] = count
            self._mark_trained(p for group in optimizer.param_groups for p in group["params"])

    def _mark_trained(self, parameters: Iterator[Any]) -> None:
        for parameter in parameters:
            self._trained[parameter] = True

    # -- a call

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module in self._parts:
            return
        started = perf_counter()
        try:
            self._consider(module, args, kwargs)
        except Exception as error:  # whatever it is, the test has nothing to do with it
            told = first_line(error)
            name = type(module).__name__
            self._note(module, name, "skipped", f"{type(error).__name__}: {told}", key=f"{name} {told}")
        finally:
            self._spent += perf_counter() - started

    def _consider(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if _called_by_us(sys._getframe(1)):
            return None
        module = _unwrapped(module)
        if next(module.parameters(), None) is None:
            self._parts[module] = True
            return None
        name = type(module).__name__
        if reason := call_reason():
            return self._note(module, name, "skipped", reason, key=f"{name} {reason}")
        parts = list(module.modules())
        for part in parts:
            self._parts[part] = True
        self._forget(parts)
        if any(p in self._trained for p in module.parameters()):
            return None
        key = _key(module)
        if key in self._settled:
            return None
        reason = model_reason(module)
        if reason is None and (reason := self._unsuitable or input_reason((args, kwargs))):
            return self._note(module, name, "skipped", reason, key=key)  # another call may do
        self._settled.add(key)
        if reason is None and self._spent >= self._budget:
            reason = f"the budget of {self._budget:g} s was spent (--initcheck-watch-budget)"
        if reason is not None:
            return self._note(module, name, "skipped", reason, key=key)
        started = perf_counter()
        try:
            report = self._probed(module, (*args, kwargs), name)
        except InitcheckError as error:
            return self._note(module, name, "skipped", str(error), key=key)
        state = "healthy" if report.ok else "unhealthy"
        self._note(
            module,
            name,
            state,
            summary_line(report),
            key=key,
            report=report.to_dict(),
            seconds=perf_counter() - started,
        )
        return None

    def _probed(self, module: nn.Module, inputs: Any, name: str) -> Report:
        with _unnoticed():
            try:
                return self._probe(module, inputs, name, None)
            except ProbeError:
                if module.training:
                    raise
                # As the test calls it: one sample is too few for batch norm in training mode.
                return self._probe(module, inputs, name, "as-is")

    def _forget(self, parts: list[nn.Module]) -> None:
        """Take back what was found in modules that now turn out to be parts of a larger one."""
        known = {id(part) for part in parts[1:]}
        kept = []
        for reference, entry in self._found:
            if id(reference()) in known:
                self._settled.discard(entry["key"])
            else:
                kept.append((reference, entry))
        self._found = kept

    def _note(self, module: nn.Module, model: str, state: str, said: str, *, key: str, **more: Any) -> None:
        if any(entry["key"] == key for _, entry in self._found):
            return
        entry = {
            "key": key,
            "model": model,
            "state": state,
            "said": said,
            "where": _where(self._root),
            "test": self._test,
            **more,
        }
        self._found.append((weakref.ref(module), entry))


def _replaced(method: str, original: Any, wrapper: Any) -> Callable[[], None]:
    """Put ``wrapper`` in place of that method of ``nn.Module``; return what undoes it, unless somebody else wrapped it since."""
    wrapper.__code__ = _as_if_in(original, wrapper)
    setattr(nn.Module, method, wrapper)

    def undo() -> None:
        if getattr(nn.Module, method) is wrapper:
            setattr(nn.Module, method, original)

    return undo


def _as_if_in(original: Any, wrapper: Any) -> CodeType:
    """The code of ``wrapper`` as if it stood in the file of ``original``.

    By that file torch.compile tells torch's own functions, which it traces through but does not compile for
    themselves: a wrapper that it takes for the user's would be a graph of its own in each module.
    """
    theirs = original.__code__
    code: CodeType = wrapper.__code__
    return code.replace(co_filename=theirs.co_filename, co_firstlineno=theirs.co_firstlineno)


def _outside_of_compilation(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, not compiled where a compiled function of the user's falls back to Python and calls it."""
    if "torch._dynamo" not in sys.modules:
        return function
    return torch.compiler.disable(function)  # type: ignore[no-any-return]


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module as it was written: what torch.compile and DataParallel wrap."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, nn.DataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def _key(module: nn.Module) -> str:
    """The class with names and shapes of parameters: what makes two modules the same model."""
    kind = type(module)
    shapes = None
    if not has_lazy(module):
        shapes = [(name, tuple(p.shape)) for name, p in module.named_parameters()]
    digest = hashlib.blake2b(repr(shapes).encode(), digest_size=8).hexdigest()
    return f"{kind.__module__}.{kind.__qualname__} {digest}"


@contextlib.contextmanager
def _unnoticed() -> Iterator[None]:
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


def _called_by_us(frame: FrameType | None) -> bool:
    """Whether a check of this package is what makes the call."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_OURS) and file != __file__:
            return True
        frame = frame.f_back
    return False


def _where(root: Path) -> str:
    """``file:line`` of the innermost frame in the project, else of the innermost one that is neither torch's nor ours."""
    inside, outside = f"{root}/", None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, _OURS, "<")):
            if file.startswith(inside) and not file.startswith(_INSTALLED):
                return f"{Path(file).relative_to(root).as_posix()}:{frame.f_lineno}"
            outside = outside or f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return outside or "?"
