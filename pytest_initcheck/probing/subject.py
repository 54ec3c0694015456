"""A model made ready to run: unwrapped, with its shapes, in its mode, from a fixed start, and watched."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Collection, Iterator
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import ProbeError
from ..sharding.layout import kind_of
from ..words import first_line, named_error
from .call import Call
from .guard import Guard, has_lazy
from .layers import Watch
from .randomness import seed_all
from .switches import switches_kept

#: Wrappers that run one module on several devices; that module, ``.module``, is the one that is probed.
PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is run in place of a model; see :func:`subject_of`.

    Attributes:
        model: the module that runs: the model, what it wraps, or a copy of a lazy one.
        call: how it is called.
        unseen: in words, where ``model`` is not the one that was given.
    """

    model: nn.Module
    call: Call
    unseen: tuple[str, ...] = ()

    def run(self, args: tuple[Any, ...] | None = None, kwargs: dict[str, Any] | None = None) -> Any:
        """Return what the model returns for its call (or for other ``args`` and ``kwargs``); switches that it sets go back."""
        switches, graded = switches_kept(), torch.is_grad_enabled()
        try:
            with _eager():
                return copy_context().run(  # what it sets in context variables stays there
                    self.model,
                    *(self.call.args if args is None else args),
                    **(self.call.kwargs if kwargs is None else kwargs),
                )
        finally:
            torch.set_grad_enabled(graded)
            switches()

    @contextlib.contextmanager
    def watched(
        self, *, follow: bool = False, spread: Collection[str] = (), exact: bool = True
    ) -> Iterator[tuple[Watch, Any]]:
        """Run once with gradients recorded, and yield what was watched and what was returned; hooks go with the context.

        Args:
            follow: whether the inputs are followed through the model.
            spread: names of the layers that get a histogram.
            exact: whether every element of large activations and gradients is read.

        Raises:
            ProbeError: the forward pass raised.
        """
        inputs = self.call.tensors if follow else ()
        watch = Watch(self.model, self.call.batch, inputs=inputs, spread=spread, exact=exact)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                try:
                    with watch:
                        raw = self.run()
                except (Exception, SystemExit) as error:
                    raise self.failed("forward", error, layer=watch.innermost) from error
                yield watch, raw
        finally:
            watch.close()

    def failed(self, phase: str, error: Exception | SystemExit, *, layer: str | None = None) -> ProbeError:
        """Return the one sentence on an exception of the model's."""
        where = f" at layer {layer}" if layer else ""
        kind = kind_of(self.model)
        return ProbeError(f"{phase} of {kind} raised {type(error).__name__}{where}: {first_line(error)}", layer=layer)


def subject_of(
    model: nn.Module, call: Call, guard: Guard, *, seed: int = 0, mode: str = "train", unwrap: bool = True
) -> Subject:
    """Return ``model`` ready to run, with the guard's mark at its start.

    Args:
        model: the module that ``guard`` guards.
        call: how to call it.
        guard: an entered :func:`~pytest_initcheck.probing.guard.untouched` context around ``model``.
        seed: seed of what the model draws.
        mode: ``"train"``, ``"eval"`` or ``"as-is"``.
        unwrap: whether to run what torch.compile and data parallelism wrap, and a copy of a lazy model.

    Raises:
        ProbeError: a lazy model could not be given its shapes.
    """
    ready, unseen = _unwrapped(model, call, guard) if unwrap else (model, [])
    if mode != "as-is":
        try:
            ready.train(mode == "train")
        except Exception as error:
            raise ProbeError(
                f"train({mode == 'train'}) of {type(ready).__name__} raised {named_error(error)}; mode='as-is' leaves the mode alone"
            ) from error
    seed_all(seed)
    guard.mark()
    return Subject(ready, call, tuple(unseen))


def _unwrapped(model: nn.Module, call: Call, guard: Guard) -> tuple[nn.Module, list[str]]:
    """The module to run, and in words where that is not ``model`` itself."""
    unseen: list[str] = []
    while True:
        if isinstance(model, PARALLEL):
            unseen.append(f"{type(model).__name__}: the module it wraps was probed, on one device")
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            unseen.append("torch.compile: the module as written was probed, not the compiled one")
            model = inner
        else:
            break
    if any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None for m in model.modules()):
        unseen.append("torch.compile: compiled parts ran as they are written, not as they are compiled")
    if has_lazy(model):
        unseen.append("lazy modules: a copy, given its shapes by one forward pass, was probed; the model is still lazy")
        try:
            model = copy.deepcopy(model)
            with torch.no_grad(), _eager():
                model(*call.args, **call.kwargs)
        except Exception as error:
            raise ProbeError(f"a copy of {type(model).__name__} could not be given its shapes: {error}") from error
        guard.adopt(model)
    return model, unseen


@contextlib.contextmanager
def _eager() -> Iterator[None]:
    """Run functions that were compiled with torch.compile as they are written: hooks do not see inside the others."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
