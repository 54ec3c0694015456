"""What the verdict learned from architectures that its thresholds were not chosen on, each with its healthy twin."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pytest_initcheck import Report, check_init


def errors(report: Report) -> set[str]:
    return {f.rule for f in report.findings if f.severity == "error"}


class Sine(nn.Module):
    """Coordinates through sin(omega * (W x + b)), the omega outside the weights (Sitzmann et al. 2020)."""

    def __init__(self, init: str, omega: float = 10.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 64), *(nn.Linear(64, 64) for _ in range(3))])
        self.head = nn.Linear(64, 3)
        self.omega = omega
        for i, layer in enumerate([*self.layers, self.head]):
            if init == "siren":
                bound = 1 / 2 if i == 0 else math.sqrt(6 / 64) / omega
                nn.init.uniform_(layer.weight, -bound, bound)
            elif init == "xavier":
                nn.init.xavier_normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(self.omega * layer(x))
        return self.head(x)


@pytest.mark.seeds(3)
@pytest.mark.parametrize(("init", "sick"), [("siren", False), ("xavier", True), ("default", True)])
def test_the_factor_in_the_sine_belongs_to_the_weights(init: str, sick: bool, seed: int):
    torch.manual_seed(seed)

    report = check_init(Sine(init), "64x2")

    assert ("chaotic-response" in errors(report)) is sick
    assert report.ok is not sick
    assert report.trace.parameters["layers.1.weight"].factor == 10


class ReZero(nn.Module):
    """Residual branches behind scalars that start at zero, one of whose layers may be cut off."""

    def __init__(self, cut: bool, used: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
        self.alpha = nn.Parameter(torch.zeros(4))
        self.head = nn.Linear(32, 3)
        self.cut, self.used = cut, used

    def forward(self, x: Tensor) -> Tensor:
        for i, (a, layer) in enumerate(zip(self.alpha, self.layers, strict=True)):
            if i == 1 and not self.used:
                continue
            y = torch.tanh(layer(x))
            x = x + a * (y.detach() if self.cut and i == 1 else y)
        return self.head(x)


def test_a_cut_behind_a_closed_gate_is_a_cut():
    cut, whole, skipped = (check_init(ReZero(*flags), "16x32") for flags in ((True,), (False,), (False, False)))

    assert errors(cut) == {"no-gradient"}
    assert set(cut.findings[0].layers) == {"layers.1.weight", "layers.1.bias"}
    assert whole.ok
    assert skipped.ok  # this call does not use it: a note
    assert [f.severity for f in skipped.findings if f.rule == "no-gradient"] == ["note"]


@pytest.mark.seeds(3)
@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_an_output_that_varies_with_dropout_only_is_blind(gamma: float, seed: int):
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i in range(3):
        layers += [nn.Linear(8 if i == 0 else 96, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Dropout(0.1)]
    model = nn.Sequential(*layers, nn.Linear(96, 4))
    nn.init.constant_(model[1].weight, gamma)

    report = check_init(model, "64x8")

    assert ("input-blind" in errors(report)) is (gamma == 0)
    assert report.ok is (gamma == 1)


def test_a_zero_head_behind_dropout_is_a_gate():
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 4))
    nn.init.zeros_(model[3].weight)

    assert check_init(model, "64x8").ok


class Recurrent(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.rnn = nn.RNN(6, 48, batch_first=True)
        self.head = nn.Linear(48, 2)
        nn.init.orthogonal_(self.rnn.weight_hh_l0)
        nn.init.xavier_uniform_(self.rnn.weight_ih_l0)
        self.head.weight.data.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_an_output_that_thirty_steps_do_not_bring_back(scale: float):
    torch.manual_seed(0)

    report = check_init(Recurrent(scale), "48x12x6")

    assert ("unreachable-targets" in errors(report)) is (scale > 1)
    assert not errors(report) or report.findings[0].layers[0] == "head.weight"


def test_large_scores_of_tokens_are_forgiven_as_cross_entropy_forgives_them():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tok = nn.Embedding(12, 48)
            self.body = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48))
            self.final = nn.LayerNorm(48)
            self.head = nn.Linear(48, 12)
            nn.init.normal_(self.head.weight, std=8.0)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.tok(ids)
            return self.head(self.final(x + self.body(x)))

    torch.manual_seed(0)
    report = check_init(Tokens(), torch.randint(0, 12, (16, 12), generator=torch.Generator().manual_seed(0)))

    assert (report.response.output_centred_rms or 0.0) > 40
    assert "unreachable-targets" not in errors(report)


def test_a_normed_weight_is_judged_by_what_it_is_normed_to():
    def build(scale: float) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(*(m for _ in range(5) for m in (weight_norm(nn.Linear(32, 32)), nn.ReLU())))
        model.append(nn.Linear(32, 2))
        for layer in model[:-1:2]:
            layer.weight = nn.init.kaiming_normal_(torch.empty(32, 32), nonlinearity="relu")
        with torch.no_grad():
            model[4].parametrizations.weight.original0.mul_(scale)
        return model

    plain, loud = check_init(build(1.0), "32x32"), check_init(build(100.0), "32x32")

    direction, norm = (f"4.parametrizations.weight.original{i}" for i in (1, 0))
    assert plain.ok
    assert plain.trace.parameters[norm].role == "other"
    assert plain.trace.parameters[direction].followed_by == "relu"
    ratio = loud.trace.parameters[direction].value.rms / plain.trace.parameters[direction].value.rms
    assert ratio == pytest.approx(100, rel=1e-4)
    assert loud.findings[0].layers[0] == direction


@pytest.mark.seeds(6)
def test_the_noise_of_the_check_is_nobodys_input(seed: int):
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))

    report = check_init(model, x, seed=0)

    assert report.response.sensitivity == pytest.approx(1.1, abs=0.4)
    assert abs(report.response.alignment) > 0.3


class Deep(nn.Sequential):
    """A hundred layers without norms or biases."""

    def __init__(self, act: type[nn.Module], init: str) -> None:
        super().__init__(*(m for _ in range(100) for m in (nn.Linear(128, 128, bias=False), act())))
        for p in self.parameters():
            if init == "heuristic":
                nn.init.uniform_(p, -1 / math.sqrt(128), 1 / math.sqrt(128))
            else:
                getattr(nn.init, init)(p)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("act", "init", "sick"),
    [
        pytest.param(nn.Tanh, "heuristic", True, marks=pytest.mark.slow),
        (nn.Tanh, "xavier_uniform_", False),
        pytest.param(nn.ReLU, "xavier_uniform_", True, marks=pytest.mark.slow),
        (nn.ReLU, "kaiming_normal_", False),
    ],
)
def test_a_gradient_that_adam_does_not_feel_moves_nothing(
    act: type[nn.Module], init: str, sick: bool, seed: int
) -> None:
    torch.manual_seed(seed)

    report = check_init(Deep(act, init), "16x128", seed=seed)

    assert ("unresponsive" in errors(report)) is sick, report.response
    assert report.ok is not sick


def test_the_default_dtype_of_the_user_is_not_ours():
    """A head far too loud comes to the fit, whose targets are drawn in single precision."""
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
        with torch.no_grad():
            model[2].weight *= 1000
        report = check_init(model, torch.randn(16, 8))
    finally:
        torch.set_default_dtype(torch.float32)
    assert [f.rule for f in report.findings if f.severity == "error"] == ["unreachable-targets"], report


def test_a_part_may_be_copied_in_the_forward_pass():
    class Follows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.body(x))
            return self.head(h) + copy.deepcopy(self.head).requires_grad_(False)(h)

    torch.manual_seed(0)
    report = check_init(Follows(), torch.randn(16, 8))
    assert report.ok, report
    assert {"body", "head"} <= set(report.layers)
