"""Forward and backward passes that free, resize, swap, share, raise and change shape: one sentence or a report, and no trace."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_initcheck import ProbeError, Report, check_init

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two layers around something that a test does to the hidden tensor."""

    def __init__(self, deed: Callable[[Tensor], Tensor] = lambda h: h) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(6, 16), nn.Linear(16, 3)
        self.deed = deed

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.deed(torch.relu(self.inner(x))))


def raw(t: Tensor) -> bytes:
    return t.detach().contiguous().view(torch.uint8).numpy().tobytes() if t.dim() else repr(t.item()).encode()


def weights(model: nn.Module) -> dict[str, Any]:
    return {n: (id(p), raw(p), p.requires_grad, p.grad) for n, p in model.named_parameters()}


def checked(model: nn.Module, inputs: Any, **more: Any) -> Report:
    """Check, and see that the weights and torch's generator are what they were."""
    before, generator = weights(model), torch.get_rng_state()

    report = check_init(model, inputs, **more)

    assert weights(model) == before
    assert torch.equal(torch.get_rng_state(), generator)
    return report


# -- the memory of what a pass was given


class GivesBack(torch.autograd.Function):
    """Computes its input again in the backward pass, and frees its output there, as reversible layers do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x * 2
        ctx.out = out.detach()
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        ctx.out.untyped_storage().resize_(0)
        return gradient * 2


class WritesGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        out = gradient.clone()
        gradient.zero_()
        return out


class Frees(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        x.untyped_storage().resize_(0)
        return self.outer(torch.relu(h))


class Does(nn.Module):
    """Computes with its input, then does something to it."""

    def __init__(self, deed: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        self.deed = deed

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x.clone())
        with torch.no_grad():
            self.deed(x)
        return out


DEEDS: dict[str, Callable[[Tensor], Any]] = {
    "free": lambda x: x.untyped_storage().resize_(0),
    "grow": lambda x: x.untyped_storage().resize_(1 << 12),
    "resize": lambda x: x.resize_(2, 2),
    "point elsewhere": lambda x: setattr(x, "data", torch.zeros(2)),
    "set_": lambda x: x.set_(torch.zeros(3)),
    "share": lambda x: x.share_memory_(),
    "transpose": lambda x: x.t_(),
    "write": lambda x: x.fill_(9),
    "hook": lambda x: x.requires_grad_().register_hook(lambda g: 1 / 0),
}


@pytest.mark.always("free", "point elsewhere", "write", "hook")
@pytest.mark.parametrize("deed", DEEDS)
def test_every_pass_gets_the_inputs_it_would_have_had(deed: str) -> None:
    x = X.clone()

    report = checked(Does(DEEDS[deed]), x)

    assert report.ok
    assert raw(x) == raw(X)
    assert x.shape == X.shape
    assert not x.requires_grad
    # Against deeds that change nothing, seen or unseen: what writes to its input has it disturbed in earnest.
    assert report.response in [check_init(Does(d), X.clone()).response for d in (lambda x: x.mul_(1), lambda x: None)]


@pytest.mark.parametrize("deed", DEEDS)
def test_what_a_batch_object_holds_goes_back_too(deed: str) -> None:
    @dataclass
    class Batch:
        x: Tensor
        seen: list[int] = field(default_factory=list)

    class Taking(Does):
        def forward(self, batch: Batch) -> Tensor:  # type: ignore[override]
            batch.seen.append(1)
            return super().forward(batch.x)

    batch = Batch(X.clone())
    held = batch.x

    checked(Taking(DEEDS[deed]), (batch,))

    assert batch.x is held
    assert raw(held) == raw(X)
    assert held.shape == X.shape
    assert batch.seen == []


def test_views_into_one_buffer_are_put_back_as_one() -> None:
    class Buffers(Net):
        def __init__(self) -> None:
            super().__init__()
            self.flat = torch.arange(12.0)
            self.left, self.right = self.flat[:6], self.flat[6:]

        def forward(self, x: Tensor) -> Tensor:
            torch.as_strided(self.left, (12,), (1,)).add_(1)
            return super().forward(x + 0 * self.right)

    model = Buffers()

    checked(model, X)

    assert model.flat.tolist() == list(range(12))
    assert model.left.untyped_storage().data_ptr() == model.flat.untyped_storage().data_ptr()


def test_a_tensor_that_looks_at_a_weight_does_not_undo_the_steps() -> None:
    class Looking(Net):
        def __init__(self) -> None:
            super().__init__()
            self.view = self.outer.weight.detach()[0]

    report = checked(Looking(), X)

    assert report.response.movement == check_init(Net(), X).response.movement


def test_a_function_that_frees_its_output_in_the_backward_pass() -> None:
    class Last(Net):
        def forward(self, x: Tensor) -> Tensor:
            return GivesBack.apply(super().forward(x))  # type: ignore[no-any-return]

    assert checked(Last(), X).ok


def test_a_function_that_writes_to_its_gradient() -> None:
    class Last(Net):
        def forward(self, x: Tensor) -> Tensor:
            return WritesGradient.apply(super().forward(x))  # type: ignore[no-any-return]

    report = checked(Last(), X)

    assert report.response.alignment == pytest.approx(check_init(Net(), X).response.alignment or 0)


def test_a_model_that_frees_its_input() -> None:
    x = X.clone()

    with pytest.raises(ProbeError, match="backward of Frees raised RuntimeError"):  # as it would in training
        check_init(Frees(), x)
    assert raw(x) == raw(X)


def test_an_input_that_was_freed_before() -> None:
    x = X.clone()
    x.untyped_storage().resize_(0)

    with pytest.raises(ProbeError, match=r"the memory of an input was freed before the call \(float32\[8, 6\]\)"):
        check_init(Net(), x)


def test_a_batch_that_the_model_takes_apart() -> None:
    class Popping(Net):
        def forward(self, batch: dict[str, Any]) -> Tensor:  # type: ignore[override]
            return super().forward(batch.pop("x")) + 0 * batch["also"].pop()

    batch = {"x": X, "also": [torch.ones(())]}

    assert checked(Popping(), (batch, {})).ok
    assert [*batch] == ["x", "also"]
    assert len(batch["also"]) == 1


# -- gradients as autograd hands them out


def test_gradients_that_are_expanded_or_shared() -> None:
    class Shared(Net):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
            self.unused = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (self.a + self.b) + 0 * sum(p.sum() for p in self.unused.parameters())

    assert checked(Shared(), X).ok


def test_a_step_along_a_shared_gradient_is_taken_once_for_each() -> None:
    class Faint(nn.Module):
        """Gradients far below Adam's epsilon: there, a step's size depends on the gradient's."""

        def __init__(self, parts: int) -> None:
            super().__init__()
            self.parts = nn.ParameterList(nn.Parameter(torch.full((6,), 0.5)) for _ in range(parts))

        def forward(self, x: Tensor) -> Tensor:
            return x * (1e-9 * sum(self.parts))

    one, two = (check_init(Faint(parts), X, ignore=["*"]).response.movement[0] for parts in (1, 2))

    assert two == pytest.approx(2 * one, rel=1e-3)


def test_sparse_gradients() -> None:
    ids = torch.randint(0, 20, (8, 4), generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Embedding(20, 6, sparse=True), nn.Flatten(), nn.Linear(24, 3))

    assert checked(model, ids).ok


# -- shapes that depend on weights or luck


class Lengthy(Net):
    """Repeats samples as often as its weights say, as a synthesizer does with durations."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        times = 2 + int(1e4 * float(self.inner.weight.detach().abs().sum())) % 3
        return y.repeat_interleave(times, 1)


class Lucky(Net):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return [y] if float(self.inner.weight.detach()[0, 0]) == self.first else [y[0], y[1]]

    def __init__(self) -> None:
        super().__init__()
        self.first = float(self.inner.weight.detach()[0, 0])


def test_a_size_that_depends_on_the_weights() -> None:
    report = checked(Lengthy(), X)

    assert report.ok
    assert any("the size of the output depends on the weights" in told for told in report.trace.unseen)


def test_a_structure_that_depends_on_the_weights_is_one_sentence() -> None:
    with pytest.raises(ProbeError, match="returns tensors of other shapes when its weights change a little"):
        check_init(Lucky(), X)


# -- graphs


def test_gradients_taken_inside_forward() -> None:
    class Forces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))

        def forward(self, x: Tensor) -> Tensor:
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]

    assert checked(Forces(), X).ok


@pytest.mark.parametrize("place", ["attribute", "deep inside"])
def test_a_graph_from_an_earlier_call_stays_its_owners(place: str) -> None:
    class Memory(Net):
        def __init__(self) -> None:
            super().__init__()
            self.state: Any = torch.zeros(1, 16)

        def forward(self, x: Tensor) -> Tensor:
            state = self.state if isinstance(self.state, Tensor) else self.state[0]["last"]
            h = torch.relu(self.inner(x)) + state
            self.state = h.mean(0, keepdim=True)
            if place != "attribute":
                self.state = ({"last": self.state},)
            return self.outer(h)

    model = Memory()
    first = model(X).square().mean()

    checked(model, X)

    first.backward()
    assert model.inner.weight.grad is not None


# -- what lies outside the module


def test_generators_in_closures_and_objects() -> None:
    torch_one = torch.Generator().manual_seed(1)
    python_one = random.Random(2)
    numpy_one = numpy.random.default_rng(3)

    @dataclass
    class Noise:
        generator: torch.Generator

        def draw(self, like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=self.generator)

    noise = Noise(torch.Generator().manual_seed(4))

    def deed(h: Tensor) -> Tensor:
        h = h + torch.rand(16, generator=torch_one) + python_one.random() + float(numpy_one.random())
        return h + noise.draw(h)

    def states() -> Any:
        numbers = repr(numpy_one.bit_generator.state)
        return torch_one.get_state().tolist(), python_one.getstate(), numbers, noise.generator.get_state().tolist()

    before = states()

    checked(Net(deed), X)

    assert states() == before


CALLS = {"module": 0}
LOG: list[int] = []


class Counting(Net):
    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.meter = Meter()
        self.table = numpy.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        CALLS["module"] += 1
        LOG.append(1)
        type(self).calls += 1
        self.meter.count += 1
        self.meter.deep["list"].append(x)
        self.table += 1
        return super().forward(x)


class Meter:
    __slots__ = ("count", "deep")

    def __init__(self) -> None:
        self.count = 0
        self.deep: dict[str, list[Any]] = {"list": []}


def test_counters_around_the_module() -> None:
    model = Counting()

    checked(model, X)

    assert (CALLS, LOG, Counting.calls) == ({"module": 0}, [], 0)
    assert (model.meter.count, model.meter.deep, model.table.tolist()) == (0, {"list": []}, [0, 0, 0])


def test_inputs_that_are_drawn_are_the_same_each_time_and_cost_no_randomness() -> None:
    state = torch.get_rng_state()

    one, two = (check_init(Net(), lambda: torch.randn(8, 6)).response for _ in range(2))

    assert one == two
    assert torch.equal(torch.get_rng_state(), state)


# -- exceptions


class RaisesAt(Net):
    """Raises at its n-th call, whatever is put back in between."""

    def __init__(self, n: int, error: BaseException) -> None:
        super().__init__()
        self.tick: Iterator[int] = iter(range(10**6))
        self.n, self.error = n, error
        self.norm, self.drop = nn.BatchNorm1d(16), nn.Dropout(0.1)
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.norm(self.inner(x))) + torch.rand(16, generator=self.generator)
        if next(self.tick) == self.n:
            raise self.error
        return self.outer(h)


def state_of(model: nn.Module) -> Any:
    buffers = {n: raw(b) for n, b in model.named_buffers()}
    modes = [m.training for m in model.modules()]
    keys = {n: list(vars(m)) for n, m in model.named_modules()}
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    generator = raw(model.generator.get_state())  # type: ignore[union-attr,operator]
    return weights(model), buffers, modes, keys, hooks, generator, raw(torch.get_rng_state()), torch.is_grad_enabled()


_AT_ANY_CALL = [
    pytest.param(kind, sick, marks=[pytest.mark.slow] if sick and kind is not KeyboardInterrupt else [])
    for kind in (KeyboardInterrupt, SystemExit, MemoryError, RuntimeError)
    for sick in (False, True)
]


@pytest.mark.parametrize(("kind", "sick"), _AT_ANY_CALL)
def test_an_exception_at_any_call_leaves_everything_as_it_was(kind: type[BaseException], sick: bool) -> None:
    calls = 0
    raised = kind if kind is KeyboardInterrupt else ProbeError
    while True:
        model = RaisesAt(calls, kind("stop"))
        if sick:  # then the fit and trials of fixes run, too
            nn.init.normal_(model.outer.weight, std=300.0)
        before, x = state_of(model), X.clone()

        with contextlib.suppress(raised):
            check_init(model, x)

        assert state_of(model) == before
        assert raw(x) == raw(X)
        if next(model.tick) <= model.n:  # it was never called that often
            break
        calls += 1 if calls < 40 else 29  # a race makes hundreds, each as the one before
    assert calls >= (30 if sick else 2)


def test_a_hook_of_the_users_that_raises() -> None:
    model = Net()
    model.inner.register_forward_hook(lambda *_: 1 / 0)

    with pytest.raises(ProbeError, match="forward of Net raised ZeroDivisionError at layer inner: division by zero"):
        check_init(model, X)
    assert len(model.inner._forward_hooks) == 1


def test_what_is_left_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("of our own\nwith a second line")

    monkeypatch.setattr("pytest_initcheck.measured.suspects", broken)

    with pytest.raises(ProbeError) as caught:
        check_init(Net(), X)

    assert str(caught.value) == (
        "Net could not be checked: in the phase 'response' came ZeroDivisionError: of our own "
        "(debug=True or --initcheck-debug shows the traceback)"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_recurrent_class_with_a_signature_of_its_own() -> None:
    class Own(nn.GRU):
        def forward(self, x: Tensor) -> Any:  # type: ignore[override]
            return super().forward(x)[0]

    report = checked(Own(6, 16, batch_first=True), torch.randn(8, 5, 6))

    assert any("whether it carries its state was not judged" in told for told in report.trace.unseen)


def test_a_model_on_the_meta_device() -> None:
    with pytest.raises(
        ProbeError, match=r"weight of Linear is on the meta device and has no values: check the model after"
    ):
        check_init(nn.Linear(6, 3, device="meta"), "8x6")


class MetaBuffer(nn.Module):
    """A buffer without values that the forward pass reads, or does not."""

    def __init__(self, read: bool) -> None:
        super().__init__()
        self.linear, self.read = nn.Linear(6, 3), read
        self.register_buffer("scale", torch.ones(3, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return out * self.scale if self.read else out


@pytest.mark.parametrize("inputs", ["8x6", None])
@pytest.mark.parametrize(
    ("model", "name"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3, device="meta")), "1.weight of Sequential"),
        (lambda: MetaBuffer(read=True), "scale of MetaBuffer"),
    ],
)
def test_a_model_that_is_partly_on_the_meta_device(model: Any, name: str, inputs: Any) -> None:
    with pytest.raises(ProbeError, match=rf"^{name} is on the meta device and has no values: check the model after"):
        check_init(model(), inputs)


def test_a_buffer_on_the_meta_device_that_nothing_reads() -> None:
    assert check_init(MetaBuffer(read=False), torch.randn(8, 6)).ok


def test_a_loss_that_is_not_defined_for_zeros() -> None:
    def loss(out: Tensor) -> Tensor:
        if not bool(out.any()):
            raise ValueError("log of zero")
        return F.softplus(out).mean()

    assert checked(Net(), X, loss=loss).trace.loss is not None


def test_an_interruption_while_things_are_put_back_waits() -> None:
    class Slow(random.Random):
        """Is interrupted in the midst of being set back, as a timeout may hit."""

        def setstate(self, state: Any) -> None:
            super().setstate(state)
            signal.raise_signal(signal.SIGINT)

    class Drawing(Net):
        def __init__(self) -> None:
            super().__init__()
            self.random = Slow(1)
            self.register_buffer("counter", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.counter.add_(1)
            return super().forward(x) + self.random.random()

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        pytest.skip("started with interruptions ignored, as a background job is")
    model = Drawing()
    before, generator = weights(model), torch.get_rng_state()

    with pytest.raises(KeyboardInterrupt):
        check_init(model, X)

    assert weights(model) == before
    assert float(model.counter) == 0
    assert torch.equal(torch.get_rng_state(), generator)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
