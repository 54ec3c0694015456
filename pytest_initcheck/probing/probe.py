"""One forward and one backward pass, made to measure: model + call -> Trace."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..budget import TimeBudget
from ..errors import ProbeError
from ..phases import doing
from ..records import Histogram, Stats, Trace
from ..sharding.backward import pulled_back
from ..sharding.layout import gathered
from ..sharding.world import current
from ..words import first_line
from .backward import start
from .call import Call
from .entrances import followed
from .graph import Graph
from .guard import Guard
from .layers import Watch
from .memory import holds_values
from .modules import sample_dim, tensors
from .operands import Use
from .randomness import seed_all
from .statistics import own_seed
from .streamed import Streamed
from .subject import subject_of
from .tracing import read_graph, trace_of

__all__ = ["Probed", "centred", "float_outputs", "named_trainable", "run_probe", "sample_dim"]

Loss = Callable[[Any], Tensor]


class OutputChanged(ProbeError):
    """A further pass returned something that cannot be compared with what the first one returned."""


@dataclass
class Probed:
    """What one probe found, with the tensors that the response test goes on with.

    Attributes:
        trace: everything measured.
        outputs: detached copies of every floating output that had a graph, in order; complex ones as pairs of reals.
        primary: index of the first output that is not a scalar and that a weight leads to (an entropy or a scale that all samples share
            is made of vectors alone), else of the first that is not a scalar, 0 if all are.
        gradients: gradient by name of trainable parameter (tied ones once); ``None`` where none arrived.
        cotangents: what was pulled back, one for each output (with a loss: its gradient).
        rerun: one more forward pass from the same start; returns the same outputs, under the caller's grad mode.
        rerun_raw: the same, returning the model's output as it is; other ``args`` and ``kwargs`` may be given, a number
            that what the model draws depends on, and that ``inputs`` were asked for just before, so that all is as it was.
        select: picks the tensors of ``outputs`` out of such a raw output.
        call: how the model was called.
        model: the module that ran: the model, what it wraps, or a copy of a lazy one.
        batch: number of samples.
        uses: how each parameter is used, by name.
        inputs: the tensors of the call as they were, whatever the last pass did to them.
        strays: leaves of the graph that are neither parameters of the model nor inputs, each with the path of the module that
            multiplied by it and whether it entered as a weight.
        one_tensor: whether the model returned one real tensor and nothing around it.
        apart: whether the pass itself shows that every sample is computed without the others.
        one_direction: whether the gradients are the slopes of one random direction of one output, and of nothing else.
        followed: relative change of the output over a relative change of the inputs, to first order; ``None`` where the pass does not tell.
        holds_graph: whether a backward pass runs through a graph that is not of this pass, and must leave it to its owner.
        streamed: what is asked in place of the weights, where they are never all in memory; ``gradients`` are its marks then.
        budget: what every pass is counted in; whoever asks something costly spends from it.
    """

    trace: Trace
    outputs: list[Tensor]
    primary: int
    gradients: dict[str, Tensor | None]
    cotangents: list[Tensor]
    rerun: Callable[[], list[Tensor]]
    rerun_raw: Callable[..., Any]
    select: Callable[[Any], list[Tensor]]
    call: Call
    model: nn.Module
    batch: int | None = None
    uses: Mapping[str, Use] = field(default_factory=dict)
    strays: tuple[tuple[Tensor, str, bool], ...] = ()
    holds_graph: bool = False
    one_tensor: bool = False
    apart: bool = False
    one_direction: bool = False
    followed: float | None = None
    inputs: Callable[[], tuple[Tensor, ...]] = tuple
    streamed: Streamed | None = None
    budget: TimeBudget = field(default_factory=TimeBudget)


def run_probe(
    model: nn.Module,
    call: Call,
    *,
    guard: Guard,
    loss: Loss | None = None,
    seed: int = 0,
    mode: str = "train",
    exact: bool = True,
    streamed: Streamed | None = None,
    budget: TimeBudget | None = None,
) -> Probed:
    """Run ``model`` forward and backward once and return what was measured.

    Args:
        model: the module that ``guard`` guards.
        call: how to call it.
        guard: an entered :func:`~pytest_initcheck.probing.guard.untouched` context around ``model``.
        loss: from the model's output to a scalar, whose gradient is then the backward signal; without one it is a fixed
            random cotangent, centred over the samples.
        seed: seed of the random cotangent and of what the model draws.
        mode: ``"train"``, ``"eval"`` or ``"as-is"``.
        exact: whether every element of large activations and gradients counts in their statistics, rather than a part where that decides.
        streamed: reads the weights and their gradients, where they are never all in memory.
        budget: what these passes, and further ones, are counted in.

    Raises:
        ProbeError: the model could not be run, or nothing it returned depends on a parameter that is trained.
    """
    budget = budget or TimeBudget()
    budget.spend(forward=1, backward=1)
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    doing("forward")
    subject = subject_of(model, call, guard, seed=seed, mode=mode)
    trainable = named_trainable(subject.model)  # before the pass, which may add to the model and take from it
    # Of a model on several ranks each sees operations on its own part: what these tell is asked of the whole, and read exactly.
    alone = (world := current()) is None
    exact = exact or not alone
    with _uncollected(), subject.watched(follow=alone, exact=exact) as (watch, raw):
        seconds["forward"] = time.perf_counter() - started
        started = time.perf_counter()
        watch.finish(raw)
        kept, heads = _heads(raw)
        if not heads:
            raise ProbeError(_nothing_to_pull(subject.model, raw))
        # Before the backward pass, in which a function may free what it returned.
        outputs = [h.detach().clone() for h in heads]
        primary = _primary(heads)
        loss_value = _loss_of(loss, raw)
        graph = Graph(heads if loss_value is None else [*heads, loss_value], watch.made)
        seen = read_graph(subject.model, watch, graph)
        opaque = not alone or any(graph.opaque())
        apart = not opaque and watch.apart.shows(heads)
        # With a loss, one direction is pulled back and not a random one; of several outputs, the sum of all arrives.
        tells = loss is None and len(heads) == 1 and heads[0].numel() > 1 and not opaque
        tells = tells and heads[0].dtype in (torch.float32, torch.float64)
        entrances = watch.entrances.leaves if tells and watch.entrances.known else []
        known = {
            id(t) for t in (*subject.model.parameters(), *call.tensors, *trainable.values(), *watch.entrances.leaves)
        }
        if world is not None:
            known |= set(world.standing)
        stray = [t for t in graph.leaves() if t.requires_grad and id(t) not in known]
        strays = tuple((t, watch.foreign.get(id(t), ""), graph.weighs(t)) for t in stray)
        seconds["graph"] = time.perf_counter() - started
        doing("backward")
        started = time.perf_counter()
        half = any(e.dtype is torch.float16 for e in watch.entries) or any(h.dtype is torch.float16 for h in heads)
        scale = float(max(h.numel() for h in heads)) if half else 1.0
        try:
            if streamed is None:
                slopes, cotangents, inward = _backward(
                    heads, loss_value, trainable, entrances, call.batch, seed, scale, graph, keep=guard.holds_graph
                )
                read: Mapping[str, Tensor | Stats | None] = slopes
            else:
                roots, signals, cotangents = _signals(heads, loss_value, call.batch, seed, scale)
                others = [*entrances, *(heads if loss_value is not None else [])]
                read, arrived = streamed.gather(
                    roots, trainable, signals, scale, seen.uses, others, keep=guard.holds_graph, exact=exact
                )
                slopes, inward = streamed.marks(), arrived[: len(entrances)]
                if loss_value is not None:
                    arrived = arrived[len(entrances) :]
                    cotangents = [torch.zeros_like(h) if g is None else g for h, g in zip(heads, arrived, strict=True)]
        except Exception as error:
            raise subject.failed("backward", error) from error
        seconds["backward"] = time.perf_counter() - started
        started = time.perf_counter()
        doing("reading")
        trace = trace_of(subject.model, call, watch, read, outputs, seen, scale, exact=exact, streamed=streamed)
        follows = _followed(watch, trace, inward, outputs[0], call) if tells and scale == 1.0 else None
        seconds["read"] = time.perf_counter() - started

    def select(output: Any) -> list[Tensor]:
        every = float_outputs(output)
        if len(every) <= kept[-1] or any(every[i].dim() != o.dim() for i, o in zip(kept, outputs, strict=True)):
            raise OutputChanged(
                f"{type(subject.model).__name__} returns tensors of other shapes when its weights change a little"
            )
        return [every[i] for i in kept]

    differentiates = False  # whether the forward pass takes gradients itself, and needs a graph for it

    def rerun_raw(
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        noise: int | None = None,
        rewound: bool = False,
    ) -> Any:
        nonlocal differentiates
        budget.spend(forward=1, backward=int(torch.is_grad_enabled()))  # a graph is made to go back through it
        if not rewound:
            guard.rewind()
        if noise is not None:
            seed_all(own_seed(seed) + noise)
        try:
            if not differentiates and not torch.is_grad_enabled():
                try:
                    return subject.run(args, kwargs)
                except RuntimeError:
                    guard.rewind()
                    with torch.enable_grad():
                        output = subject.run(args, kwargs)
                    differentiates = True
                    return output
            with torch.enable_grad() if differentiates else contextlib.nullcontext():
                return subject.run(args, kwargs)
        except (Exception, SystemExit) as error:
            message = first_line(error)
            raise ProbeError(
                f"{type(subject.model).__name__} ran once, but raised {type(error).__name__} when run again with its weights "
                f"or inputs changed a little: {message}"
            ) from error

    def inputs() -> tuple[Tensor, ...]:
        guard.rewind()
        return call.tensors

    trace = replace(
        trace,
        loss=None if loss_value is None else float(loss_value.detach()),
        mode=mode,
        seed=seed,
        unseen=(*subject.unseen, *watch.unseen, *trace.unseen),
        seconds=seconds,
    )
    return Probed(
        holds_graph=guard.holds_graph,
        one_tensor=isinstance(raw, Tensor) and raw.is_floating_point() and raw.layout is torch.strided,
        apart=apart,
        one_direction=tells and scale == 1.0,
        followed=follows,
        inputs=inputs,
        trace=trace,
        outputs=outputs,
        primary=primary,
        gradients=slopes,
        cotangents=cotangents,
        rerun=lambda: select(rerun_raw()),
        rerun_raw=rerun_raw,
        select=select,
        call=call,
        model=subject.model,
        batch=call.batch,
        uses=seen.uses,
        strays=strays,
        streamed=streamed,
        budget=budget,
    )


def histograms(
    model: nn.Module, call: Call, names: Collection[str], *, guard: Guard, seed: int = 0, mode: str = "train"
) -> dict[str, Histogram]:
    """Run ``model`` forward as :func:`run_probe` does, and return how the outputs of some layers are spread, by name.

    Args:
        model, call, guard, seed, mode: as :func:`run_probe`.
        names: of the layers.

    Raises:
        ProbeError: the model could not be run.
    """
    # With gradients, or modules in eval mode would take other paths than in the probe.
    with subject_of(model, call, guard, seed=seed, mode=mode).watched(spread=names) as (watch, _):
        return watch.histograms


def float_outputs(output: Any) -> list[Tensor]:
    """Return every floating tensor in ``output``, in order, each object once; complex ones as pairs of reals."""
    seen: set[int] = set()
    found: list[Tensor] = []
    for tensor in tensors(output):
        if id(tensor) in seen or tensor.numel() == 0 or not holds_values(tensor):
            continue
        seen.add(id(tensor))
        tensor = gathered(tensor)
        if tensor.layout is not torch.strided:
            tensor = tensor.to_dense()
        if tensor.is_complex():
            found.append(torch.view_as_real(tensor.resolve_conj()))
        elif tensor.is_floating_point():
            found.append(tensor)
    return found


def gradients(
    roots: Sequence[Tensor], leaves: Sequence[Tensor], signals: Sequence[Tensor] | None, *, retain_graph: bool
) -> list[Tensor | None]:
    """Return ``torch.autograd.grad`` of ``leaves``, sparse ones as dense; ``None`` for those not reached, or frozen by the pass."""
    trained = [leaf for leaf in leaves if leaf.requires_grad]
    if not trained:
        return [None] * len(leaves)
    if (world := current()) is not None:
        found = iter(pulled_back(world, roots, trained, signals, retain_graph=retain_graph))
    else:
        if signals is not None:
            roots = [start(roots, signals)]
        found = iter(torch.autograd.grad(roots, trained, allow_unused=True, retain_graph=retain_graph))
    every = [next(found) if leaf.requires_grad else None for leaf in leaves]
    return [g if g is None or g.layout is torch.strided else g.to_dense() for g in every]


def named_trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained by name, tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def centred(tensor: Tensor, batch: int | None) -> Tensor:
    """Return ``tensor`` minus its mean over the samples; unchanged where it has fewer than two."""
    dim = sample_dim(tensor, batch)
    if dim is None or tensor.shape[dim] < 2:
        return tensor
    return tensor - tensor.mean(dim, keepdim=True)


# -- the passes


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector out.

    A full collection walks every object that torch made and costs more than all statistics; these passes make little
    garbage, and none that only a collection frees unless the model makes it in any case.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _heads(raw: Any) -> tuple[list[int], list[Tensor]]:
    every = float_outputs(raw)
    kept = [i for i, t in enumerate(every) if t.requires_grad]
    return kept, [every[i] for i in kept]


def _primary(heads: Sequence[Tensor]) -> int:
    large = [i for i, h in enumerate(heads) if h.dim() > 0 and h.numel() > 1]
    if len(large) > 1:
        return next((i for i in large if _weighted(heads[i])), large[0])
    return large[0] if large else 0


def _weighted(head: Tensor) -> bool:
    """Whether a leaf of two dimensions or more leads to ``head``."""
    todo: list[Any] = [head.grad_fn]
    seen: set[Any] = {None}
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor) and leaf.dim() > 1:
            return True
        todo += [following for following, _ in node.next_functions]
    return False


def _nothing_to_pull(model: nn.Module, raw: Any) -> str:
    name = type(model).__name__
    if not any(True for _ in model.parameters()):
        return f"{name} has no parameters, so it has no initialization to check"
    every = float_outputs(raw)
    if not every:
        return f"{name} returned no floating-point tensor (but {type(raw).__name__}), so nothing can be pulled back"
    if not named_trainable(model):
        return f"no parameter of {name} requires a gradient, so there is nothing to train; set requires_grad on some"
    return (
        f"no output of {name} depends on its parameters through the autograd graph; "
        "it may run under no_grad or detach its output"
    )


def _loss_of(loss: Loss | None, raw: Any) -> Tensor | None:
    if loss is None:
        return None
    try:
        value = loss(raw)
    except (Exception, SystemExit) as error:
        raise ProbeError(f"the loss raised {type(error).__name__}: {error}") from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ProbeError(f"the loss must return one scalar tensor (got {got}); reduce it with .mean()")
    if value.is_complex():
        raise ProbeError("the loss must return a real number (got a complex one); take .abs() or .real")
    if not value.requires_grad:
        raise ProbeError("the loss does not depend on the output through the autograd graph, so it has no gradient")
    return value


def _cotangent(head: Tensor, batch: int | None, generator: torch.Generator, scale: float) -> Tensor:
    if head.numel() == 1:
        return torch.full_like(head, scale)
    direction = centred(torch.randn(head.shape, generator=generator, dtype=torch.float32, device="cpu"), batch)
    size = float(direction.square().mean().sqrt()) or 1.0
    return direction.mul_(scale / (size * head.numel())).to(device=head.device, dtype=head.dtype)


def _signals(
    heads: list[Tensor], loss: Tensor | None, batch: int | None, seed: int, scale: float
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Roots, what is pulled back through them, and a copy of that for each head where there is no loss."""
    if loss is not None:
        return [loss], [torch.full_like(loss, scale)], []
    generator = torch.Generator().manual_seed(own_seed(seed))
    cotangents = [_cotangent(h, batch, generator, scale) for h in heads]
    signals = [c.clone() for c in cotangents]
    return heads, signals, [c.float() / scale for c in cotangents] if scale != 1.0 else cotangents


def _backward(
    heads: list[Tensor],
    loss: Tensor | None,
    trainable: dict[str, nn.Parameter],
    entrances: list[Tensor],
    batch: int | None,
    seed: int,
    scale: float,
    graph: Graph,
    *,
    keep: bool,
) -> tuple[dict[str, Tensor | None], list[Tensor], list[Tensor | None]]:
    leaves: list[Tensor] = list(trainable.values())
    cotangents: list[Tensor] = []
    if loss is None:
        generator = torch.Generator().manual_seed(own_seed(seed))
        cotangents = [_cotangent(h, batch, generator, scale) for h in heads]
        # Copies: a function of the user's may write to the gradient that it is given, or free it.
        roots, signals = heads, [c.clone() for c in cotangents]
    else:
        roots, signals = [loss], [torch.full_like(loss, scale)]
    leaves = leaves + entrances
    if loss is not None:
        leaves = leaves + heads
    if "CheckpointFunctionBackward" in graph.opaque():
        # A reentrant checkpoint runs a backward of its own and refuses autograd.grad; the guard has set .grad aside.
        for head in heads if loss is not None else ():
            head.retain_grad()
        if current() is None:
            torch.autograd.backward(start(roots, signals), retain_graph=keep)
        else:
            torch.autograd.backward(roots, signals, retain_graph=keep)
        every: list[Tensor | None] = [leaf.grad for leaf in leaves]
        for leaf in leaves:
            leaf.grad = None
    else:
        every = gradients(roots, leaves, signals, retain_graph=keep)
    if loss is not None:
        cotangents = [
            torch.zeros_like(h) if g is None else g
            for h, g in zip(heads, every[len(trainable) + len(entrances) :], strict=True)
        ]
    if scale != 1.0:
        every = [None if g is None else g.float() / scale for g in every]
        cotangents = [c.float() / scale for c in cotangents]
    inward = every[len(trainable) : len(trainable) + len(entrances)]
    return dict(zip(trainable, every, strict=False)), cotangents, inward


def _followed(watch: Watch, trace: Trace, inward: list[Tensor | None], output: Tensor, call: Call) -> float | None:
    """What the gradient that arrived where signals enter tells: see :mod:`~pytest_initcheck.probing.entrances`."""
    if watch.entrances.signals:
        return watch.entrances.response(inward, output, call.batch)
    power = 0.0
    for entry in watch.looked_up:
        layer = trace.layers[entry.name]
        if layer.gradient is None:
            return None
        power += (layer.activation.rms * layer.gradient.rms) ** 2 * layer.gradient.count
    return followed(power, output, call.batch) if watch.looked_up else None
