"""What lies around a model or is odd about what it is given: put back, or told in one sentence."""

from __future__ import annotations

import array
import collections
import contextvars
import functools
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pytest_initcheck import ProbeError, check_init
from pytest_initcheck.probing.surroundings import Surroundings

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


# -- memory


@pytest.mark.skipif(sys.platform == "win32", reason="the question is put to a POSIX system")
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_weights_and_buffers_in_a_file_that_is_mapped_read_only(tmp_path: Path) -> None:
    def mapped(t: Tensor) -> Tensor:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        t.detach().numpy().tofile(file)
        return torch.from_numpy(numpy.memmap(file, dtype=numpy.float32, mode="r", shape=tuple(t.shape)))

    net = Net(nn.BatchNorm1d(16))
    net.inner.weight.data = mapped(net.inner.weight)
    net.deed.running_mean = mapped(net.deed.running_mean)  # type: ignore[attr-defined]
    weight, mean = net.inner.weight.data_ptr(), net.deed.running_mean.data_ptr()  # type: ignore[attr-defined]

    assert check_init(net, X).ok
    assert (net.inner.weight.data_ptr(), net.deed.running_mean.data_ptr()) == (weight, mean)  # type: ignore[attr-defined]


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_sparse_inputs_and_outputs(layout: torch.layout) -> None:
    class Graph(Net):
        def forward(self, links: Tensor) -> Tensor:
            (links._values() if layout is torch.sparse_coo else links.values()).mul_(2)
            return super().forward(links @ X).to_sparse()

    links = torch.eye(8).to_sparse(layout=layout)

    assert check_init(Graph(), links).ok
    assert torch.equal(links.to_dense(), torch.eye(8))


def test_a_parameter_whose_elements_share_memory_is_one_sentence() -> None:
    net = Net()
    net.inner.bias = nn.Parameter(torch.zeros(1).expand(16))

    with pytest.raises(ProbeError, match=r"elements of inner.bias of Net share memory .* no optimizer can step it"):
        check_init(net, X)


def test_a_float8_parameter_is_one_sentence() -> None:
    net = Net()
    net.extra = nn.Parameter(torch.ones(4).to(torch.float8_e4m3fn))

    with pytest.raises(ProbeError, match="extra of Net is float8_e4m3fn, in which no optimizer can step"):
        check_init(net, X)


# -- parameters and leaves that are not registered


def test_a_module_that_is_not_registered_keeps_its_weights() -> None:
    teacher = nn.Linear(16, 16)

    def deed(h: Tensor) -> Tensor:
        teacher.weight.data.mul_(2)
        return h + teacher(h)

    weight = teacher.weight.detach().clone()
    check_init(Net(deed), X)

    assert torch.equal(teacher.weight, weight)
    assert teacher.weight.grad is None


def test_leaves_elsewhere_keep_their_gradients() -> None:
    @dataclass
    class Batch:
        x: Tensor

    class Reentrant(Net):
        def forward(self, batch: Batch) -> Tensor:  # type: ignore[override]
            return super().forward(checkpoint(lambda x: x * scale, batch.x, use_reentrant=True))

    scale, batch = torch.ones(6, requires_grad=True), Batch(X.clone().requires_grad_())
    scale.grad = torch.ones(6)

    check_init(Reentrant(), (batch,))

    assert batch.x.grad is None
    assert scale.grad.tolist() == [1] * 6


def test_a_loss_with_weights_of_its_own() -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, y: Tensor) -> Tensor:
            self.weight.data.mul_(2)
            return (y * self.weight).square().mean()

    loss = Loss()
    check_init(Net(), X, loss=loss)

    assert loss.weight.tolist() == [1]


def test_an_inputs_callable_that_calls_and_writes_to_the_model() -> None:
    net = Net(nn.BatchNorm1d(16))
    weight = net.inner.weight.detach().clone()

    def inputs() -> Tensor:
        net(X)
        net.eval()
        net.inner.weight.data.mul_(2)
        return X

    check_init(net, inputs)

    assert net.training
    assert int(net.deed.num_batches_tracked) == 0  # type: ignore[attr-defined]
    assert torch.equal(net.inner.weight, weight)


# -- objects


class Slots:
    __slots__ = ("__private", "absent", "nothing")

    def __init__(self) -> None:
        self.__private = 0
        self.nothing = None

    def count(self) -> int:
        self.__private += 1
        return self.__private


VARIABLE = contextvars.ContextVar("VARIABLE", default=0)


def test_what_a_forward_pass_leaves_in_objects_is_taken_back() -> None:
    @functools.lru_cache
    def cached() -> Tensor:
        return net.inner.weight.sum()  # with a graph that the check frees

    def counting() -> None:
        counting.calls = getattr(counting, "calls", 0) + 1  # type: ignore[attr-defined]

    def deed(h: Tensor) -> Tensor:
        global NEW
        NEW = 1
        Net.new = 1
        VARIABLE.set(1)
        slots.count()
        slots.absent = slots.nothing = 1
        raw[0] = numbers[0] = 9
        records["x"] += 1
        stretched.resize(7, refcheck=False)
        mapping["new"] = 1
        counting()
        return h + cached()

    slots, raw, numbers = Slots(), bytearray(b"a"), array.array("f", [1])
    records, stretched = numpy.zeros(2, dtype=[("x", "f4")]), numpy.ones(4)
    mapping: collections.UserDict[str, int] = collections.UserDict()
    net = Net(deed)

    check_init(net, X)

    assert "NEW" not in globals()
    assert not hasattr(Net, "new")
    assert VARIABLE.get() == 0
    assert slots.count() == 1
    assert not hasattr(slots, "absent")
    assert slots.nothing is None
    assert (raw, numbers.tolist(), records["x"].tolist(), stretched.tolist()) == (b"a", [1], [0, 0], [1] * 4)
    assert not mapping
    assert not hasattr(counting, "calls")
    assert cached.cache_info().currsize == 0


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")
def test_attributes_of_a_scripted_module() -> None:
    net = torch.jit.script(Counting())

    check_init(net, X)

    assert net.calls == 0


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


def test_objects_that_lie_about_what_they_are() -> None:
    class Refusing(tuple[int]):
        def __iter__(self) -> Any:
            raise RuntimeError("not to be read")

    class Unhashable:
        broken = False

        def __hash__(self) -> int:
            if self.broken:
                raise RuntimeError("no hash any more")
            return 1

    net, gone = Net(), Counting()
    kinds = (Tensor, torch.Generator, numpy.ndarray, list, dict, nn.Linear, numpy.random.Generator)
    net.odd = [*(MagicMock(spec=kind) for kind in kinds), weakref.proxy(net), weakref.proxy(gone), Refusing([1])]
    net.keys = {Unhashable(): 1}
    Unhashable.broken = True
    del gone

    assert check_init(net, X).ok


def test_a_generator_that_cannot_be_set_back_keeps_nothing_else_from_it() -> None:
    class Stuck(numpy.random.RandomState):
        def set_state(self, state: Any) -> None:
            raise RuntimeError("stuck")

    net, stuck = Net(lambda h: (net.counter.add_(1), h)[1]), Stuck(1)
    net.register_buffer("counter", torch.zeros(1))
    net.random, generator = stuck, torch.get_rng_state()

    with pytest.raises(ProbeError, match="stuck"):
        check_init(net, X)

    assert float(net.counter) == 0
    assert torch.equal(torch.get_rng_state(), generator)


def test_data_beside_the_model_neither_costs_a_walk_nor_hides_what_it_registers() -> None:
    net = Net()
    net.register_buffer("counter", torch.zeros(1))
    net.outer.data = {i: {j: [j] for j in range(100)} for i in range(3000)}

    found = Surroundings([net])

    assert any(t is net.counter for t in found.tensors)
    assert found._entries < 200_000


# -- sentences


def test_a_train_method_that_raises() -> None:
    class Frozen(Net):
        def train(self, mode: bool = True) -> Frozen:
            raise AttributeError("frozen")

    with pytest.raises(ProbeError, match=r"train\(True\) of Frozen raised AttributeError: frozen; mode='as-is' leaves"):
        check_init(Frozen(), X)
    assert check_init(Frozen(), X, mode="as-is").ok


def test_a_complex_loss() -> None:
    with pytest.raises(ProbeError, match="the loss must return a real number"):
        check_init(Net(), X, loss=lambda y: (y * 1j).sum())


def test_inputs_that_hold_themselves() -> None:
    batch: list[Any] = [X]
    batch.append(batch)

    with pytest.raises(ProbeError, match="the inputs are nested too deep, or hold themselves"):
        check_init(Net(), (batch,))


def test_what_a_device_that_wakes_up_later_starts_from_is_left_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    for backend in (torch.cuda, torch.xpu, torch.mtia):
        monkeypatch.setattr(backend, "is_initialized", lambda: False)
        monkeypatch.setattr(backend, "manual_seed_all", seeds.append)

    check_init(nn.Sequential(nn.Linear(6, 16), nn.Dropout(), nn.Linear(16, 2)), X)
    check_init(lambda: nn.Linear(6, 2), X)

    assert seeds == []
