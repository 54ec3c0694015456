"""Shared by every test."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

# Before torch is imported, here and in every process that a test starts: models this small lose by a second thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# pytester's in-process runs drop the modules that the inner run imported, and torch cannot be imported twice.
import torch

if TYPE_CHECKING:
    from pytest_initcheck.response.perturb import Push

pytest_plugins = ["pytester"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``seeds(n)``: the first seed is tested always, the others by the sweeps."""
    if mark := metafunc.definition.get_closest_marker("seeds"):
        metafunc.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, mark.args[0]))])


def pytest_itemcollected(item: pytest.Item) -> None:
    """``always(ids...)``: these cases are tested always, the others by the sweeps."""
    mark = item.get_closest_marker("always")
    if mark is not None and item.name.partition("[")[2].removesuffix("]") not in mark.args:
        item.add_marker(pytest.mark.slow)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse an id in ``always(ids...)`` that no case has: its test would be left to the sweeps."""
    if any("[" in argument for argument in config.args):  # single cases were named
        return
    wanted = {
        (item.nodeid.partition("[")[0], name)
        for item in items
        if (mark := item.get_closest_marker("always")) is not None
        for name in mark.args
    }
    known = {(item.nodeid.partition("[")[0], item.nodeid.partition("[")[2].removesuffix("]")) for item in items}
    if lost := sorted(f"{test}[{name}]" for test, name in wanted - known):
        raise pytest.UsageError(f"always() names cases that are not there: {', '.join(lost)}")


MODELS = """
from torch import nn

class Healthy(nn.Sequential):
    def __init__(self, width=16):
        super().__init__(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4))

class Sick(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

class Raises(Healthy):
    def forward(self, x):
        raise RuntimeError("out of cheese")

def boom():
    raise RuntimeError("no such thing")

def number():
    return 3

def meta():
    return nn.Sequential(nn.Linear(8, 8, device="meta"))

built = Healthy()
"""


@pytest.fixture(scope="session")
def all_of_torch() -> None:
    """Import what torch imports only when it is used: pytester would drop it after a test, and it cannot come twice."""
    from pytest_initcheck import check_init

    importlib.import_module("torch._dynamo")  # optimizers ask for it
    importlib.import_module("torch.fx.experimental.symbolic_shapes")  # autograd.grad with given gradients asks for it
    importlib.import_module("numpy.random")
    importlib.import_module("pytest_initcheck.plugin.hooks")  # or every inner run imports it anew
    check_init(lambda: torch.nn.Linear(3, 3), "4x3")
    # Each inner run ends with five full collections, and torch alone is half a million objects: leave them out.
    gc.collect()
    gc.freeze()


@pytest.fixture
def models(all_of_torch: None, pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with ``zoo.py``: models that are healthy, sick or raise, and factories that fail."""
    pytester.makepyfile(zoo=MODELS)
    return pytester


@pytest.fixture(params=[(), ("-n", "0"), ("-n", "2")], ids=["no-xdist", "n0", "n2"])
def xdist(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Arguments for pytest: without workers, with none, with two."""
    if request.param:
        pytest.importorskip("xdist")
    return request.param


@pytest.fixture(
    params=[(), ("-n", "0"), pytest.param(("-n", "2"), marks=pytest.mark.slow)], ids=["no-xdist", "n0", "n2"]
)
def xdist_again(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """As ``xdist``, where another test has two workers do the same: each of them imports torch, which takes seconds."""
    if request.param:
        pytest.importorskip("xdist")
    return request.param


@pytest.fixture
def pushed() -> Iterator[Callable[..., Push]]:
    """``pushed(model, inputs)``: the probed model, ready to be pushed; the models are put back when the test is over."""
    from pytest_initcheck.models.inputs import resolve_inputs
    from pytest_initcheck.probing.guard import untouched
    from pytest_initcheck.probing.probe import run_probe
    from pytest_initcheck.response.perturb import push_of

    with ExitStack() as stack:

        def push(
            model: torch.nn.Module, inputs: object, *, loss: Callable[[Any], torch.Tensor] | None = None, seed: int = 0
        ) -> Push:
            call = resolve_inputs(model, inputs, seed=seed)
            guard = stack.enter_context(untouched(model, tensors=call.tensors))
            guard.backup_parameters()
            return push_of(run_probe(model, call, guard=guard, loss=loss, seed=seed), guard, seed=seed)

        yield push
