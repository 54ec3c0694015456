"""A training step as a model and a loss: what the model returns within it, and what the rest makes of that."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module

from ..check import check
from ..errors import ProbeError
from ..probing.call import walk
from ..probing.guard import untouched
from ..probing.randomness import seeded
from ..probing.subject import PARALLEL
from ..report import Report
from ..settings import Settings
from ..sharding.layout import is_sharded
from ..words import named_error

#: From the model and a batch to the loss.
Function = Callable[[nn.Module, Any], Any]


def check_step(model: nn.Module, batch: Any, step: Function, *, settings: Settings) -> Report:
    """Check ``model`` with the loss that ``step`` computes of a batch.

    What is judged as the model's output is what the last call of a part of it with trained parameters returned that is no part
    of a larger call: ``self(x)`` in a step that computes its loss itself, the decoder where encoder and decoder are called.

    Args:
        model: the module that is trained; it is left as it is.
        batch: what ``step`` takes.
        step: called with a module and a batch, it returns the loss of that batch.
        settings: what is asked for.

    Raises:
        ProbeError: the step did not give a loss that can be minimized, or as :func:`~pytest_initcheck.check_init`.
    """
    while isinstance(model, PARALLEL):
        model = model.module  # its wrapper talks to other processes at every pass
    if any(is_sharded(p) for p in model.parameters()):
        raise ProbeError(
            f"the training step of {type(model).__name__} cannot be judged: several ranks hold its weights together; "
            "give loss= in place of step="
        )
    whole = _Step.around(model, step)
    tensors = [t for _, t in walk(batch)]
    with untouched(model, tensors=tensors, also=(step, batch)) as guard, torch.enable_grad(), seeded(settings.seed):
        guard.backup_parameters()
        if settings.mode != "as-is":
            model.train(settings.mode == "train")
        whole.choose(batch)
    report = check(whole, (batch, {}), loss=whole.last.loss_of, settings=settings, name=type(model).__name__)
    return repeated(report, "step=step", settings)


def repeated(report: Report, how: str, settings: Settings) -> Report:
    """Return the report with the line that repeats it: ``how`` is the argument after model and batch."""
    given = {"seed": settings.seed, **settings.given}
    arguments = ", ".join(["model", "batch", how, *(f"{k}={v!r}" for k, v in given.items())])
    return replace(report, reproduce=f"check_before_training({arguments})")


class _Calls:
    """While entered: what the outermost calls of modules return, in order.

    Args:
        replace: number of a call, and what it is to return instead.
    """

    def __init__(self, replace: tuple[int, Any] | None = None) -> None:
        self.made: list[tuple[nn.Module, Any]] = []
        self._replace = replace
        self._depth = 0

    def __enter__(self) -> _Calls:
        self._handles = [
            every_module.register_module_forward_pre_hook(self._entered),
            every_module.register_module_forward_hook(self._left, always_call=True),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _entered(self, *_: Any) -> None:
        self._depth += 1

    def _left(self, module: nn.Module, _: Any, output: Any) -> Any:
        self._depth -= 1
        if self._depth:
            return None
        self.made.append((module, output))
        return self._replace[1] if self._replace is not None and self._replace[0] == len(self.made) - 1 else None


class _Last:
    """The last pass of a step: shared by all copies, and no part of what is put back."""

    def __init__(self) -> None:
        self.step: _Step | None = None
        self.batch: Any = None
        self.output: Any = None
        self.loss: Any = None

    def loss_of(self, output: Any) -> Any:
        """The loss of what the last pass returned; of anything else, what the step makes of that in its place."""
        if output is self.output or self.step is None:
            return self.loss
        return self.step.run(self.batch, instead=output)[1]


class _Step(nn.Module):
    """A model that is called with a batch: the same parameters, parts and names, run as the training step runs them."""

    step: ClassVar[Function]
    last: ClassVar[_Last]
    chosen: ClassVar[int | None] = None
    #: The class whose code says what is read of the model.
    stands_for: ClassVar[type]
    #: The model: no part of this one, or every name in it would be there twice.
    whole: nn.Module

    @classmethod
    def around(cls, model: nn.Module, step: Function) -> _Step:
        """Return a module of a class of its own: what is not to be copied with the model stands on the class."""
        kind = type(model)
        own = {"step": staticmethod(step), "last": _Last(), "stands_for": kind, "__module__": cls.__module__}
        return type(kind.__name__, (cls,), own)(model)  # type: ignore[no-any-return]

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        registers = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")
        self.__dict__.update({name: model.__dict__[name] for name in registers}, whole=model)
        self.training = model.training

    def train(self, mode: bool = True) -> _Step:
        """Set the mode as the model itself does."""
        self.whole.train(mode)
        self.training = self.whole.training
        return self

    def choose(self, batch: Any) -> None:
        """Run once and settle which call's output is judged.

        Raises:
            ProbeError: the step raised, or its loss is none.
        """
        name = type(self).__name__
        try:
            with _Calls() as calls, _no_backward(self.whole, name):
                loss = type(self).step(self.whole, batch)
        except ProbeError:
            raise
        except Exception as error:
            raise ProbeError(f"the training step of {name} raised {named_error(error)[:300]}") from error
        if not isinstance(loss, Tensor):
            raise ProbeError(
                f"the training step of {name} returned no loss (but {type(loss).__name__}), so nothing can be judged"
            )
        if loss.numel() != 1:
            raise ProbeError(
                f"the training step of {name} must return one scalar (got shape {list(loss.shape)}); reduce it with .mean()"
            )
        if not loss.requires_grad:
            raise ProbeError(
                f"the loss of the training step of {name} depends on no parameter through the autograd graph: "
                "it may be detached, or everything frozen"
            )
        numbers = [i for i, (module, output) in enumerate(calls.made) if _trained(module) and _answers(output)]
        type(self).chosen = numbers[-1] if numbers else None

    def forward(self, batch: Any) -> Any:
        """Run the step, note the loss, and return what the model returned within it."""
        output, loss = self.run(batch)
        last = self.last
        last.step, last.batch, last.output, last.loss = self, batch, output, loss
        return output

    def run(self, batch: Any, instead: Any = None) -> tuple[Any, Any]:
        """Return what is judged as the output, and the loss.

        Args:
            batch: what the step takes.
            instead: what the call that is judged is to return.
        """
        chosen = self.chosen
        with _Calls(None if instead is None or chosen is None else (chosen, instead)) as calls:
            loss = type(self).step(self.whole, batch)
        if chosen is None or chosen >= len(calls.made):
            return loss, loss
        return _told(calls.made[chosen][1]), loss


@contextmanager
def _no_backward(model: nn.Module, name: str) -> Iterator[None]:
    """Stop a step that runs a backward pass, before an optimizer takes it further."""

    def refuse(_: Tensor) -> None:
        raise ProbeError(
            f"the training step of {name} runs a backward pass: give one that returns the loss, and leave backward() and the "
            "optimizer to the training loop"
        )

    trained = [p for p in model.parameters() if p.requires_grad and p.is_leaf]
    handles = [p.register_post_accumulate_grad_hook(refuse) for p in trained]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def _answers(output: Any) -> bool:
    return any(t.requires_grad and t.dim() > 0 for _, t in walk(output))


def _told(output: Any) -> Any:
    """The output without the scalars in it: a loss that the model computes itself says nothing about a sample."""
    if isinstance(output, Mapping):
        return {k: v for k, v in output.items() if not (isinstance(v, Tensor) and v.dim() == 0)}
    if isinstance(output, tuple | list):
        return tuple(v for v in output if not (isinstance(v, Tensor) and v.dim() == 0))
    return output


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with ``count`` positional arguments."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    return True
