"""The autograd graph as a map."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_initcheck import check_init
from pytest_initcheck.probing.graph import Graph, nonlinearity, operation
from pytest_initcheck.probing.operands import Use, fans, twin_rows, uses

X = torch.randn(4, 6)


def test_reaches_what_the_output_depends_on() -> None:
    used, unused = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(3))
    graph = Graph([X @ used])
    assert graph.reaches(used)
    assert not graph.reaches(unused)
    assert not Graph([torch.randn(3)]).nodes


USES: dict[str, tuple[Callable[[Tensor], Tensor], str, int, bool]] = {
    "linear": (lambda w: F.linear(X, w), "Mm", 1, True),
    "linear with bias": (lambda w: F.linear(X, w, torch.zeros(6, requires_grad=True)), "Addmm", 2, True),
    "right factor": (lambda w: X @ w, "Mm", 1, False),
    "turned twice": (lambda w: X @ w.t().t(), "Mm", 1, False),
    "transposed": (lambda w: X @ w.transpose(-1, -2), "Mm", 1, True),
    "permuted": (lambda w: X @ w.permute(1, 0), "Mm", 1, True),
    "left factor": (lambda w: w @ X.t(), "Mm", 0, False),
    "cast": (lambda w: F.linear(X.bfloat16(), w.bfloat16()), "Mm", 1, True),
    "embedding": (lambda w: F.embedding(torch.tensor([1, 2]), w), "Embedding", 0, False),
}


@pytest.mark.parametrize("case", USES)
def test_uses(case: str) -> None:
    call, name, position, transposed = USES[case]
    w = nn.Parameter(torch.randn(6, 6))
    (use,) = Graph([call(w)]).uses(w)
    assert (use.operation, use.position, use.transposed) == (name, position, transposed)


BEHIND: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "relu": (torch.relu, "relu"),
    "clamp": (lambda y: y.clamp(min=0), "relu"),
    "silu, written out": (lambda y: y * torch.sigmoid(y), "silu"),
    "through a view and a constant": (lambda y: (y + 1.0).view(2, 2, 6).tanh(), "tanh"),
    "through dropout and pooling": (lambda y: F.max_pool1d(F.dropout(y, 0.5), 2).relu(), "relu"),
    "a product of two signals": (lambda y: y * torch.randn(4, 6, requires_grad=True).exp(), "none"),
    "a scale": (lambda y: y * nn.Parameter(torch.ones(6)), "none"),
    "through a scale": (lambda y: (y * nn.Parameter(torch.ones(6))).sigmoid(), "sigmoid"),
    "a weight": (lambda y: F.linear(y, nn.Parameter(torch.ones(6, 6))).relu(), "none"),
    "a norm, written out": (lambda y: y / (y.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt(), "norm"),
    "sine": (lambda y: torch.sin(30 * y), "sin"),
    "two ways": (lambda y: y.relu() + y.tanh(), "mixed"),
    "the output": (lambda y: y, "none"),
    "selu": (F.selu, "selu"),
    "elu": (F.elu, "elu"),
    "relu6": (F.relu6, "relu"),
    "hardtanh": (F.hardtanh, "tanh"),
    "scores": (lambda y: F.softmax(torch.bmm(y[None], y.t()[None]), -1), "softmax"),
}


@pytest.mark.parametrize("case", BEHIND)
def test_followed_by(case: str) -> None:
    then, label = BEHIND[case]
    y = F.linear(X, nn.Parameter(torch.randn(6, 6)))
    assert Graph([then(y)]).followed_by(y.grad_fn) == label


def test_a_residual_join_that_branches_is_none_and_one_that_does_not_is_looked_through() -> None:
    stream = F.linear(X, nn.Parameter(torch.randn(6, 6)))
    branch = F.linear(X, nn.Parameter(torch.randn(6, 6)))
    joined = stream + branch
    assert Graph([joined.relu()]).followed_by(branch.grad_fn) == "relu"
    assert Graph([joined + joined.relu()]).followed_by(branch.grad_fn) == "none"


def test_deep_graphs_are_walked_without_recursion() -> None:
    y = nn.Parameter(torch.ones(2))
    out: Tensor = y
    for _ in range(20_000):
        out = out + 1
    graph = Graph([out])
    assert graph.reaches(y)
    assert len(graph.uses(y)) == 1


def test_names_of_nodes() -> None:
    y = torch.relu(X.clone().requires_grad_())
    assert operation(y.grad_fn) == "Relu"
    assert nonlinearity(y.grad_fn) == "relu"


def _one(label: str, *args: object, **kwargs: object) -> Use:
    found = [use for tensor, use in uses(label, args, kwargs) if isinstance(tensor, nn.Parameter)]
    assert len(found) == 1
    return found[0]


def test_uses_that_calls_show() -> None:
    w = nn.Parameter(torch.randn(6, 5))
    assert _one("linear", X, w) == Use("weight", 0, 1)
    assert _one("linear", X, weight=w) == Use("weight", 0, 1)
    assert _one("linear", X, w.t()) == Use("weight", 1, 0)
    assert _one("matmul", X, w) == Use("weight", 1, 0)
    assert _one("matmul", w, X) == Use("weight", 0, 1)
    assert _one("einsum", "bi,io->bo", X, w) == Use("weight", 1, 0)
    assert _one("einsum", "oi,bi->bo", w, X) == Use("weight", 0, 1)
    assert _one("embedding", torch.tensor([1]), w) == Use("embedding")
    assert _one("layer_norm", X, (6,), nn.Parameter(torch.ones(6))).role == "norm-scale"
    assert _one("batch_norm", X, None, None, None, nn.Parameter(torch.ones(6))).role == "norm-shift"
    kernel = nn.Parameter(torch.randn(8, 4, 3, 3))
    assert _one("conv2d", X, kernel, None, 1, 0, 1, 2) == Use("weight", groups=2)
    assert _one("conv_transpose2d", X, kernel, stride=(2, 2)) == Use("weight", 1, 0, stride=4)


@pytest.mark.parametrize(
    ("equation", "shape"),
    [
        ("bix,iox->box", (3, 4, 7)),
        ("bxi,xio->bxo", (7, 3, 4)),
        ("bixy,ixoy->boxy", (3, 7, 4, 2)),
        ("bi,io->bo", (3, 4)),
    ],
)
def test_what_an_einsum_does_not_sum_over_is_no_fan_in(equation: str, shape: tuple[int, ...]) -> None:
    w = nn.Parameter(torch.randn(shape))
    assert fans(w, _one("einsum", equation, torch.empty(0), w)) == (3, 4)


class OnePerPosition(nn.Module):
    """Weights of their own at each of 64 positions, as a layer over frequencies has them."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 4)
        self.mix = nn.Parameter(gain * torch.randn(8, 8, 64) / 8**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(torch.einsum("bpi,iop->bpo", self.first(x), self.mix)))


@pytest.mark.parametrize(("gain", "off"), [(1.0, False), (30.0, True)])
def test_weights_at_every_position_are_off_by_their_own_fan_in(gain: float, off: bool) -> None:
    torch.manual_seed(0)
    report = check_init(OnePerPosition(gain), torch.randn(16, 64, 3))

    assert report.ok is not off
    assert ("mix" in {name for f in report.findings for name in f.layers}) is off


def test_fans_are_those_of_torch_where_torch_is_right() -> None:
    for shape in ((6, 5), (8, 4, 3), (8, 4, 3, 3), (8, 4, 3, 3, 3)):
        w = torch.empty(shape)
        assert fans(w, Use("weight")) == nn.init._calculate_fan_in_and_fan_out(w)
    assert fans(torch.empty(6, 5), Use("weight", 1, 0)) == (6, 5)
    assert fans(torch.empty(3, 6, 5), Use("weight", 2, 1)) == (6, 5)
    assert fans(torch.empty(100, 8), Use("embedding")) == (1, 8)
    assert fans(torch.empty(28, 5), Use("weight", groups=4)) == (5, 7)
    assert fans(torch.empty(7), Use("bias")) == (None, None)
    assert fans(torch.empty(1, 9, 8), Use("other")) == (None, None)


def test_twins_are_found_bit_for_bit() -> None:
    w = torch.randn(512, 300, generator=torch.Generator().manual_seed(0))
    assert twin_rows(w, Use("weight")) == 0
    w[17] = w[500]
    assert twin_rows(w, Use("weight")) == 2 / 512
    w[17, 0] += 1e-6 + w[17, 0].abs() * 1e-6
    assert twin_rows(w, Use("weight")) == 0
    assert twin_rows(torch.zeros(8, 8), Use("weight")) == 0
    assert twin_rows(torch.ones(8, 8), Use("weight")) == 1
    assert twin_rows(torch.ones(8, 8), Use("embedding")) == 0
    assert twin_rows(torch.ones(8, 1, 3), Use("weight", groups=8)) == 0
    assert twin_rows(torch.eye(8)[[0, 1, 2, 3, 0, 1, 2, 3]].bfloat16(), Use("weight", groups=2)) == 0
    assert twin_rows(torch.ones(1, 8), Use("weight")) == 0


@pytest.mark.parametrize("factor", [1j, 0.5 + 0.1j, torch.tensor(2j)])
def test_a_complex_constant_is_as_large_as_its_absolute_value(factor: complex | Tensor) -> None:
    class Turned(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(torch.fft.rfft(super().forward(x)) * factor).flatten(1)

    torch.manual_seed(0)
    assert check_init(Turned(6, 8), X).ok
