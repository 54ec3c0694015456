"""Models as a suite calls them: from :meth:`Listener.listen` on, each is looked at with the inputs of that call.

Torch's public hooks do not do for the calls. Hooks on all modules get no keyword arguments before the call, and
torch.compile warns about them, which fails suites whose warnings are errors. ``nn.Module.__call__`` is wrapped instead,
as torch.fx does while it traces, and put back by :meth:`Listener.stop`.

A first look is cheap and comes to every model; a second one, at what the first found unhealthy, is put off to where half of
the budget is left unspent, or to the end of the run.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import InitcheckError, ProbeError
from ..probing.guard import BEFORE
from ..records import ConstructionFault
from ..render import summary_line
from ..report import Report
from ..words import first_line
from .unsuited import call_reason, input_reason, model_reason
from .watch_budget import Budget
from .watch_evidence import CERTAIN, is_glance, is_undecided, second_look, telling
from .watch_filling import Filling
from .watch_key import model_key, shape_key, source_digest
from .watch_told import CERTAINLY, GLANCED, HEALTHY, PUT_OFF, SKIPPED, UNHEALTHY, UNJUDGED
from .watch_wrapping import as_if_in, called_by_us, outside_of_compilation, place, replaced, unnoticed

#: Checks one model: module, inputs, name, mode (``None``: as configured), whether to try fixes, what construction left.
Probe = Callable[[nn.Module, Any, str, str | None, bool, Mapping[str, ConstructionFault]], Report]

#: So many calls of a model are looked at where none of them shows that it is healthy.
CALLS = 3
#: What looks at further variants of a model and second looks may take of the budget while first looks are to come.
LATER = 0.5


class Listener:
    """Looks at every model that a suite calls, before the call itself goes on.

    Args:
        probe: what a look is; its exceptions become reasons.
        budget: what all looks may take.
        root: folder of the project: where in it a model was called is what is told.
        known: models that an earlier run found healthy, by key, with a digest of their code.
    """

    def __init__(self, probe: Probe, *, budget: Budget, root: Path, known: Mapping[str, str]) -> None:
        self._probe = probe
        self._budget = budget
        self._root = root
        self._known = known
        self._inside = False
        self._test: str | None = None
        self._file: str | None = None
        self._thread: int | None = None
        self._unsuitable: str | None = None
        self._found: list[tuple[weakref.ref[nn.Module], dict[str, Any]]] = []
        #: What was called in this test, with everything that is a part of it.
        self._parts = WeakIdKeyDictionary()
        #: Modules that were looked at: what they count by themselves makes no other model of them.
        self._seen = WeakIdKeyDictionary()
        #: Keys of the models that are settled for this run, and how often each was looked at.
        self._settled: set[str] = set()
        self._times: dict[str, int] = {}
        #: Classes and shapes of which one variant is settled.
        self._shapes: set[str] = set()
        self._later: list[Callable[[], None]] = []
        self._trained = WeakIdKeyDictionary()
        self._steppers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._filling = Filling()
        self._undo: contextlib.ExitStack | None = None

    # -- being there

    def listen(self) -> None:
        """Wrap what has to be watched; a second call changes nothing."""
        if self._undo is None:
            self._undo = contextlib.ExitStack()
            self._undo.callback(self._wrap_calls())
            self._undo.callback(self._wrap_loading())
            self._undo.callback(self._wrap_building())
            BEFORE.append(self.pause)
            self._undo.callback(BEFORE.remove, self.pause)
            self._undo.callback(register_optimizer_step_post_hook(self._step_hook()).remove)

    def stop(self) -> None:
        """Put back what :meth:`listen` wrapped."""
        self._filling.stop()
        if self._undo is not None:
            self._undo.close()
            self._undo = None

    def begin(self, test: str, *, file: str | None, unsuitable: str | None) -> None:
        """Start a test that stands in ``file``; ``unsuitable`` says why nothing can be looked at in it."""
        self._test, self._file, self._unsuitable = test, file, unsuitable
        self._thread = threading.get_ident()
        self._inside = False
        self._found = []
        self._parts = WeakIdKeyDictionary()

    def listening(self, test: str) -> bool:
        """Whether :meth:`begin` was called for this test and it is not over."""
        return self._test == test

    def pause(self) -> None:
        """Fill no memory any more, until a model is built again: a phase of a test is over."""
        self._filling.stop()

    def catch_up(self, *, last: bool) -> None:
        """Take the second looks that were put off, as far as the budget goes; where the run ends, with all of it."""
        self._inside = True
        try:
            while self._later and self._budget.allows(1.0 if last else LATER):
                with self._budget.spending():
                    self._later.pop(0)()
        finally:
            self._inside = False

    def entries(self) -> list[dict[str, Any]]:
        """Return what was found since :meth:`begin`."""
        return [entry for _, entry in self._found]

    def end(self) -> None:
        """End the test: what is called from here on belongs to none."""
        self._filling.stop()
        self._test = None
        self._found = []

    def _wrap_calls(self) -> Callable[[], None]:
        listener, original = self, nn.Module.__call__

        def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            # First, because a compiler that traces this must not see anything of ours.
            if torch.compiler.is_compiling() or listener._inside or listener._deaf():
                if not torch.compiler.is_compiling() and listener._test is not None and not listener._inside:
                    outside_of_compilation(listener._filling.clear)(self)  # of another thread: it is not looked at
                return original(self, *args, **kwargs)
            listener._inside = True
            try:
                listener._filling.stop()
                outside_of_compilation(listener._called)(self, args, kwargs)
                return original(self, *args, **kwargs)
            finally:
                listener._inside = False

        return replaced("__call__", original, __call__)

    def _wrap_loading(self) -> Callable[[], None]:
        listener, original = self, nn.Module.load_state_dict

        def load_state_dict(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            result = original(self, *args, **kwargs)
            outside_of_compilation(listener._mark_trained)(self.parameters())
            return result

        return replaced("load_state_dict", original, load_state_dict)

    def _wrap_building(self) -> Callable[[], None]:
        listener, original = self, nn.Module.__init__

        def __init__(self: nn.Module, *args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            if not torch.compiler.is_compiling() and not listener._inside and not listener._deaf():
                outside_of_compilation(listener._filling.start)(self)
            original(self, *args, **kwargs)

        return replaced("__init__", original, __init__)

    def _deaf(self) -> bool:
        return self._test is None or self._undo is None or threading.get_ident() != self._thread

    # -- what is trained

    def _step_hook(self) -> Callable[[Any, Any, Any], None]:
        listener = self

        def stepped(optimizer: Any, _args: Any, _kwargs: Any) -> None:
            if not torch.compiler.is_compiling() and not listener._inside:
                outside_of_compilation(listener._stepped)(optimizer)

        stepped.__code__ = as_if_in(register_optimizer_step_post_hook, stepped)
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
        if module in self._parts or called_by_us(sys._getframe(1)):
            return
        module = _unwrapped(module)
        try:
            self._consider(module, args, kwargs)
        except Exception as error:  # whatever it is, the test has nothing to do with it
            told = first_line(error)
            name = type(module).__name__
            self._skip(module, f"{name} {told}", f"{type(error).__name__}: {told}")

    def _consider(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if next(module.parameters(), None) is None:
            self._parts[module] = True
            return None
        try:
            if reason := call_reason():
                return self._skip(module, f"{type(module).__name__} {reason}", reason)
            self._judge(module, args, kwargs)
        finally:
            self._filling.clear(module)
        return None

    def _judge(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        parts = list(module.modules())
        for part in parts:
            self._parts[part] = True
        self._forget(parts)
        if module in self._seen or any(p in self._trained for p in module.parameters()):
            return None
        key, shape = model_key(module), shape_key(module)
        if key in self._settled:
            return None
        if key in self._known and self._known[key] == source_digest(module):
            self._settle(module, key, shape)
            self._note(module, key, HEALTHY, f"{type(module).__name__}: healthy in an earlier run", known=True)
            return None
        reason = model_reason(module) or self._unsuitable or input_reason((args, kwargs))
        if reason is not None:
            return self._skip(module, key, reason)  # another call may do
        if not self._budget.allows(LATER if shape in self._shapes else 1.0):
            return self._skip(module, key, "the budget was spent (--initcheck-watch-budget)")
        inputs = (*args, kwargs)
        with self._budget.spending(warms=True):
            try:
                self._look(module, inputs, key, shape)
            except InitcheckError as error:
                self._settle(module, key, shape)
                self._skip(module, key, str(error))
        return None

    def _look(self, module: nn.Module, inputs: Any, key: str, shape: str) -> None:
        """The cheap look at one call; what it finds unhealthy is looked at again."""
        started = perf_counter()
        faults = self._filling.faults(module)
        given = telling(inputs)
        try:
            report = self._report(module, given, False, faults)
        except ProbeError:
            if given is inputs:
                raise
            given = inputs  # not every value will do
            report = self._report(module, inputs, False, faults)
        self._seen[module] = True
        times = self._times[key] = self._times.get(key, 0) + 1
        glanced = report.ok and is_glance(report)
        if report.ok and is_undecided(report):  # it would be as slow at the next call
            self._settle(module, key, shape)
            self._note(
                module, key, UNJUDGED, "what the first pass left open was not decided within the budget of one look"
            )
            return
        certain = any(f.rule in CERTAIN for f in report.findings)
        if certain or (report.ok and not glanced) or times >= CALLS:
            self._settle(module, key, shape)
        if report.ok or certain:
            state = CERTAINLY if certain and not report.ok else GLANCED if glanced else HEALTHY
            self._note(module, key, state, summary_line(report), report=report, started=started)
        elif times > 1:
            return  # as before
        elif self._budget.allows(LATER):
            self._look_again(module, given, key, report, started)
        else:
            self._put_off(module, given, key, report)

    def _put_off(self, module: nn.Module, inputs: Any, key: str, report: Report) -> None:
        reason = f"{summary_line(report).partition(': ')[2]}, and the budget was spent before a second look"
        entry = self._note(module, key, PUT_OFF, f"{reason} (--initcheck-watch-budget)")
        try:
            kept, given = copy.deepcopy((module, inputs))
        except Exception:  # cannot be kept
            return
        here = weakref.ref(module), {k: v for k, v in (entry or {}).items() if k in ("where", "test")}
        self._later.append(lambda: self._look_again(kept, given, key, report, perf_counter(), here=here))

    def _look_again(
        self, module: nn.Module, inputs: Any, key: str, first: Report, started: float, here: Any = None
    ) -> None:
        def look(model: nn.Module, given: Any, fixes: bool) -> Report:
            return self._report(model, given, fixes, {})

        state, report, remark = second_look(look, module, inputs, first)
        if state == "unjudged":
            self._note(module, key, UNJUDGED, remark, here=here)
            return
        said = summary_line(report) + (f" ({remark})" if remark else "")
        self._note(module, key, HEALTHY if report.ok else UNHEALTHY, said, report=report, started=started, here=here)

    def _report(self, module: nn.Module, inputs: Any, fixes: bool, faults: Mapping[str, ConstructionFault]) -> Report:
        name = type(module).__name__
        with unnoticed():
            try:
                return self._probe(module, inputs, name, None, fixes, faults)
            except ProbeError:
                if module.training:
                    raise
                # As the test calls it: one sample is too few for batch norm in training mode.
                return self._probe(module, inputs, name, "as-is", fixes, faults)

    def _settle(self, module: nn.Module, key: str, shape: str) -> None:
        self._seen[module] = True
        self._settled.add(key)
        self._shapes.add(shape)

    def _forget(self, parts: list[nn.Module]) -> None:
        """Take back what was found in modules that now turn out to be parts of a larger one."""
        known = {id(part) for part in parts[1:]}
        kept = []
        for reference, entry in self._found:
            if id(reference()) in known and entry["test"] == self._test:
                self._settled.discard(entry["key"])
                self._times.pop(entry["key"], None)
            else:
                kept.append((reference, entry))
        self._found = kept

    def _skip(self, module: nn.Module, key: str, reason: str) -> None:
        self._note(module, key, SKIPPED, reason)

    def _note(
        self,
        module: nn.Module,
        key: str,
        state: str,
        said: str,
        *,
        report: Report | None = None,
        started: float | None = None,
        here: Any = None,
        known: bool = False,
    ) -> dict[str, Any] | None:
        if any((entry["key"], entry["state"]) == (key, state) for _, entry in self._found):
            return None
        reference, place_of = here or (
            weakref.ref(module),
            {"where": place(self._root, self._file), "test": self._test},
        )
        entry = {"key": key, "model": type(module).__name__, "state": state, "said": said, **place_of, "seconds": 0.0}
        if started is not None:
            entry["seconds"] = perf_counter() - started
        if report is not None:
            entry["report"] = report.to_dict()
            entry["warnings"] = sum(f.severity == "warning" for f in report.findings)
        if state == HEALTHY:
            entry["code"] = self._known[key] if known else source_digest(module)
            entry["known"] = known
        self._found.append((reference, entry))
        return entry


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module as it was written: what torch.compile and DataParallel wrap."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, nn.DataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner
