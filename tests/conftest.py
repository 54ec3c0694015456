"""Shared by every test."""

from __future__ import annotations

import gc
import importlib

import pytest

# pytester's in-process runs drop the modules that the inner run imported, and torch cannot be imported twice.
import torch

pytest_plugins = ["pytester"]

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

built = Healthy()
"""


@pytest.fixture(scope="session")
def all_of_torch() -> None:
    """Import what torch imports only when it is used: pytester would drop it after a test, and it cannot come twice."""
    from pytest_initcheck import check_init

    importlib.import_module("torch._dynamo")  # optimizers ask for it
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
