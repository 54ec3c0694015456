"""A stimulus that did not arrive is no response of zero: inputs that no little noise reaches, each with a twin that ignores them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_initcheck import check_init

IDS = torch.randint(0, 40, (16, 5), generator=torch.Generator().manual_seed(0))
FLAGS = torch.rand(16, 24, generator=torch.Generator().manual_seed(1)) > 0.5
PIXELS = torch.randint(0, 256, (16, 3, 4, 4), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
NUMBERS = torch.randn(16, 24, generator=torch.Generator().manual_seed(3))


class Reads(nn.Module):
    """An encoding of the inputs behind a small network, or noise of the same shape in its place."""

    def __init__(self, encoding: Callable[..., Tensor], width: int, *, ignores: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 8).requires_grad_(False)
        self.net = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 4))
        self.encoding, self.ignores = encoding, ignores

    def forward(self, *inputs: Any) -> Tensor:
        h = self.encoding(self, *inputs)
        return self.net(torch.randn_like(h) if self.ignores else h)


class Pair(NamedTuple):
    ids: Tensor
    flags: Tensor


ENCODINGS: dict[str, tuple[Callable[..., Tensor], int, Any]] = {
    "pixels": (lambda m, x: x.flatten(1).float() / 255, 48, PIXELS),
    "pixels as int64": (lambda m, x: x.flatten(1) / 255, 48, PIXELS.long()),
    "one-hot": (lambda m, i: F.one_hot(i, 40).float().mean(1), 40, IDS),
    "functional embedding": (lambda m, i: F.embedding(i, m.table.weight).flatten(1), 40, IDS),
    "rows of a table": (lambda m, i: m.table.weight[i].flatten(1), 40, IDS),
    "flags": (lambda m, x: x.float(), 24, FLAGS),
    "flags as numbers": (lambda m, x: x - 0.5, 24, FLAGS.float()),
    "ids beside a constant mask": (lambda m, i, w: (m.table.weight[i] * w[..., None]).flatten(1), 40, (IDS, torch.ones(16, 5))),
    "ids beside numbers": (lambda m, i, x: m.table.weight[i].flatten(1) + 0 * x.mean(), 40, (IDS, NUMBERS)),
    "a named tuple": (lambda m, p: torch.cat([p.flags.float(), m.table.weight[p.ids].flatten(1)], 1), 64, (Pair(IDS, FLAGS),)),
    "an ordered dict": (lambda m, d, _: d["x"], 24, (OrderedDict(x=NUMBERS), ())),
}  # fmt: skip
COMMON = ("pixels", "ids beside numbers")


@pytest.mark.parametrize("name", ENCODINGS)
def test_inputs_that_are_read_are_heard(name: str):
    encoding, width, inputs = ENCODINGS[name]
    report = check_init(lambda: Reads(encoding, width, ignores=False), inputs)
    assert report.ok, report
    assert not [f for f in report.findings if f.rule == "input-blind"]


@pytest.mark.parametrize("name", [n if n in COMMON else pytest.param(n, marks=pytest.mark.slow) for n in ENCODINGS])
def test_inputs_that_are_ignored_are_not(name: str):
    encoding, width, inputs = ENCODINGS[name]
    report = check_init(lambda: Reads(encoding, width, ignores=True), inputs)
    assert [f.rule for f in report.findings if f.severity == "error"] == ["input-blind"], report


class NearestCode(nn.Module):
    """An encoder whose output is exchanged for the nearest entry of a codebook, with the gradient passed straight through."""

    def __init__(self, *, shut: bool) -> None:
        super().__init__()
        self.encoder, self.book, self.decoder = nn.Linear(20, 16), nn.Embedding(64, 16), nn.Linear(16, 20)
        nn.init.uniform_(self.book.weight, -1 / 64, 1 / 64)
        self.shut = shut

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x * 0 if self.shut else x)
        code = self.book(torch.cdist(z, self.book.weight).argmin(1))
        return self.decoder(z + (code - z).detach()), (code - z.detach()).square().mean()


@pytest.mark.parametrize("seed", range(8))
def test_one_sample_that_a_little_noise_leaves_in_its_code_is_heard(seed: int):
    torch.manual_seed(seed)
    x = torch.randn(1, 20)
    assert "input-blind" not in {f.rule for f in check_init(NearestCode(shut=False), x).findings}
    assert "input-blind" in {f.rule for f in check_init(NearestCode(shut=True), x).findings if f.severity == "error"}


def test_one_sample_of_integers_cannot_be_disturbed_and_that_is_said():
    encoding, width, inputs = ENCODINGS["one-hot"]
    report = check_init(lambda: Reads(encoding, width, ignores=True), inputs[:1])
    assert report.ok
    assert any("not judged" in told and "arrive" in told for told in report.trace.unseen)
    assert report.response.sensitivity is None


def test_a_container_that_cannot_be_filled_again_is_heard_all_the_same():
    class Frozen(dict[str, Tensor]):
        def __copy__(self) -> dict[str, Tensor]:
            return self

        def __setitem__(self, key: str, value: Tensor) -> None:
            raise TypeError("frozen")

    model = Reads(lambda m, d, _: d["x"].float(), 24, ignores=False)
    report = check_init(model, (Frozen(x=FLAGS), ()))
    assert report.ok, report


class Sorted(nn.Module):
    """Lengths must fall: samples in another order raise."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 4)

    def forward(self, ids: Tensor) -> Tensor:
        if bool((ids[1:, 0] > ids[:-1, 0]).any()):
            raise ValueError("not sorted")
        return self.fc(torch.randn(len(ids), 5))


def test_a_model_that_refuses_exchanged_samples_is_not_judged():
    report = check_init(Sorted(), IDS[IDS[:, 0].argsort(descending=True)])
    assert report.ok, report
    assert any("not sorted" in told for told in report.trace.unseen)
