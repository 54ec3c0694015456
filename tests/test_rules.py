"""Every rule has a sick model that it must catch and a healthy near-twin that it must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import check_init
from pytest_initcheck.check import check
from pytest_initcheck.mend import ABOUT_VALUES
from pytest_initcheck.rules import RULES
from pytest_initcheck.settings import Settings


def mlp(
    depth: int = 8, width: int = 64, act: type[nn.Module] = nn.ReLU, gain: float = 1.0, out: int = 4
) -> nn.Sequential:
    """Kaiming-normal weights times ``gain``, zero biases."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), act()]
    model = nn.Sequential(*layers, nn.Linear(width, out))
    nonlinearity = "relu" if act is nn.ReLU else "linear"
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity=nonlinearity)
            module.weight.data.mul_(gain)
            nn.init.zeros_(module.bias)
    return model


def normed(depth: int, gain: float) -> nn.Sequential:
    """A stack whose scale a norm layer takes away before the head."""
    return nn.Sequential(*list(mlp(depth, gain=gain))[:-1], nn.LayerNorm(64), nn.Linear(64, 4))


def quiet_head(depth: int, gain: float) -> nn.Sequential:
    """A stack whose growth a small head takes back, so that only the gradient shows it."""
    return edited(mlp(depth, gain=gain), f"{2 * depth}.weight", lambda w: w.mul_(gain**-depth))


def edited(model: nn.Module, name: str, change: Callable[[Tensor], Any]) -> nn.Module:
    with torch.no_grad():
        change(model.get_parameter(name))
    return model


class LowRank(nn.Module):
    """A frozen layer, and the product of two factors beside it that is all there is to learn."""

    def __init__(self, down: float, up: float) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Linear(64, 64), nn.Linear(64, 8, bias=False), nn.Linear(8, 64, bias=False)
        self.base.requires_grad_(False)
        with torch.no_grad():
            self.down.weight.mul_(down)
            self.up.weight.mul_(up)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


class Residual(nn.Module):
    """x + up(down(x)), a low-rank branch on a trunk, with the given scales of its two factors."""

    def __init__(self, down: float, up: float) -> None:
        super().__init__()
        self.trunk = mlp(2)
        self.down, self.up = nn.Linear(64, 8, bias=False), nn.Linear(8, 64, bias=False)
        self.head = nn.Linear(64, 4)
        with torch.no_grad():
            self.down.weight.mul_(down)
            self.up.weight.mul_(up)
        self.trunk[-1] = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        h = self.trunk(x)
        return self.head(h + self.up(self.down(h)))


class Cut(nn.Module):
    def __init__(self, *, detach: bool) -> None:
        super().__init__()
        self.first, self.second, self.detach = nn.Linear(64, 64), nn.Linear(64, 4), detach

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.second(h.detach() if self.detach else h)


class Spare(nn.Module):
    """A layer that the forward pass may or may not use, and one that no method mentions."""

    def __init__(self, *, mentioned: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 4)
        if mentioned:
            self.aside = nn.Linear(64, 4)
        else:
            self.forgotten_projection = nn.Linear(64, 4)

    def forward(self, x: Tensor, both: bool = False) -> Tensor:
        return self.fc(x) + self.aside(x) if both else self.fc(x)


class Listed(nn.Module):
    """Layers in a container, which registers them or does not."""

    def __init__(self, container: Callable[[Any], Any]) -> None:
        super().__init__()
        self.first, self.rest = nn.Linear(64, 64), container([nn.Linear(64, 64)])
        self.last = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.rest[0](self.first(x).relu()).relu())


class Routed(nn.Module):
    """Four experts, of which the best ``k`` are mixed by weights that sum to one."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.gate, self.k = nn.Linear(64, 4, bias=False), k
        self.experts = nn.ModuleList(nn.Linear(64, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weight, index = self.gate(x).softmax(-1).topk(self.k)
        weight = weight / weight.sum(-1, keepdim=True)
        every = torch.stack([e(x) for e in self.experts], 1)
        return (weight[..., None] * every.gather(1, index[..., None].expand(-1, -1, 8))).sum(1)


class Recurrent(nn.Module):
    def __init__(self, gates: float, weight: float = 1.0) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(16, 32, batch_first=True), nn.Linear(32, 4)
        with torch.no_grad():
            self.rnn.bias_ih_l0[:64] = gates
            self.rnn.weight_hh_l0.mul_(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Singular(nn.Module):
    """A norm whose derivative at zero is not finite, unless a small number keeps it away from there."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.gate, self.fc, self.eps = nn.Linear(64, 64), nn.Linear(64, 4), eps
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + (self.gate(x).square().sum(-1, keepdim=True) + self.eps).sqrt()


def cloned(*, deep: bool) -> nn.Module:
    layer = nn.Linear(64, 64)
    copies = [nn.Linear(64, 64) for _ in range(3)]
    if deep:
        for copy in copies:
            copy.load_state_dict(layer.state_dict())
    return nn.Sequential(
        layer, nn.Tanh(), copies[0], nn.Tanh(), copies[1], nn.Tanh(), copies[2], nn.Tanh(), nn.Linear(64, 4)
    )


def linears(n: int) -> list[nn.Module]:
    return [nn.Linear(64, 64) for _ in range(n)]


def repeated(layers: Callable[[int], list[nn.Module]]) -> nn.Sequential:
    """Four layers, whatever ``layers`` makes of that."""
    made = layers(4)
    return nn.Sequential(*made, nn.Linear(64, 4))


def frozen(*, everything_else: bool) -> nn.Module:
    model = mlp(3)
    if not everything_else:
        model[2].weight.requires_grad_(False)
    return model


class Empty(nn.Module):
    def __init__(self, *, written: bool) -> None:
        super().__init__()
        self.fc, self.scale = nn.Linear(64, 4), nn.Parameter(torch.empty(4))
        if written:
            nn.init.ones_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.scale


class Deferred(nn.Module):
    """``init_weights`` draws the head either as the constructor does, or ten times smaller."""

    def __init__(self, *, std: float) -> None:
        super().__init__()
        self.fc, self.std = nn.Linear(64, 32), std
        nn.init.normal_(self.fc.weight, std=0.1)
        nn.init.zeros_(self.fc.bias)

    def init_weights(self) -> None:
        nn.init.normal_(self.fc.weight, std=self.std)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def flaky(*, share: int) -> Callable[[], nn.Module]:
    """A factory whose model is dead for one seed in ``share`` (0: for none)."""

    def make() -> nn.Module:
        unlucky = share and int(torch.randint(share, ())) == 0
        return edited(mlp(), "4.weight", lambda w: w.zero_() if unlucky else w)

    return make


X = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
SEQUENCE = torch.randn(16, 12, 16, generator=torch.Generator().manual_seed(1))
SICK_AND_TWIN: dict[str, tuple[str, Callable[[], Any], Callable[[], Any], dict[str, Any]]] = {
    "non-finite-parameter": (
        "error",
        lambda: edited(mlp(), "4.weight", lambda w: w[0, 0].fill_(float("nan"))),
        lambda: edited(mlp(), "4.weight", lambda w: w[0, 0].fill_(3.0)),
        {},
    ),
    "uninitialized-parameter": (
        "error",
        lambda: lambda: Empty(written=False),
        lambda: lambda: Empty(written=True),
        {},
    ),
    "deferred-mismatch": (
        "error",
        lambda: lambda: Deferred(std=0.02),
        lambda: lambda: Deferred(std=0.1),
        {"deferred": "init_weights"},
    ),
    "non-finite-activation": ("error", lambda: mlp(40, gain=16.0), lambda: mlp(40), {}),
    "non-finite-gradient": ("error", lambda: Singular(0.0), lambda: Singular(1e-4), {}),
    "activation-std": ("error", lambda: mlp(gain=0.5), mlp, {"activation_std": (0.1, 10.0)}),
    "gradient-std": ("error", lambda: mlp(gain=0.5), mlp, {"gradient_std": (1e-4, 1.0)}),
    "unresponsive": ("error", lambda: mlp(20, act=nn.Tanh, gain=0.1), lambda: mlp(20, act=nn.Tanh), {}),
    "undecided": (
        "warning",
        lambda: mlp(20, act=nn.Tanh, gain=0.1),
        lambda: mlp(20, act=nn.Tanh),
        {"time_budget": "8x"},
    ),
    "outperformed": ("error", lambda: mlp(12, act=nn.Tanh, gain=0.3), lambda: mlp(12, act=nn.Tanh), {}),
    "input-blind": (
        "error",
        lambda: edited(edited(mlp(), "16.bias", lambda b: b.fill_(0.5)), "6.bias", lambda b: b.fill_(-20.0)),
        lambda: edited(edited(mlp(), "16.bias", lambda b: b.fill_(0.5)), "6.bias", lambda b: b.fill_(-0.2)),
        {},
    ),
    "unreachable-targets": (
        "error",
        lambda: edited(mlp(), "8.weight", lambda w: w.mul_(100)),
        lambda: edited(mlp(), "8.weight", lambda w: w.mul_(2)),
        {},
    ),
    "chaotic-response": ("error", lambda: mlp(20, act=nn.Tanh, gain=4.0), lambda: mlp(20, act=nn.Tanh), {}),
    "explosive-response": (
        "warning",
        lambda: edited(mlp(), "16.weight", lambda w: w.mul_(1000)),
        lambda: edited(mlp(), "16.weight", lambda w: w.mul_(5)),
        {},
    ),
    "overconfident-output": (
        "warning",
        lambda: edited(mlp(), "16.weight", lambda w: w.mul_(30)),
        mlp,
        {"loss": lambda y: nn.functional.cross_entropy(y, torch.arange(32, device=y.device) % 4)},
    ),
    "cut-recurrence": ("error", lambda: Recurrent(-15.0), lambda: Recurrent(-1.0), {"inputs": SEQUENCE}),
    "saturated-state": (
        "error",
        lambda: edited(Recurrent(0.0), "rnn.weight_ih_l0", lambda w: w.mul_(60)),
        lambda: edited(Recurrent(0.0), "rnn.weight_ih_l0", lambda w: w.mul_(2)),
        {"inputs": SEQUENCE},
    ),
    "no-gradient": ("error", lambda: Cut(detach=True), lambda: Cut(detach=False), {}),
    "unregistered-parameter": ("warning", lambda: Listed(list), lambda: Listed(nn.ModuleList), {}),
    "frozen-parameter": (
        "warning",
        lambda: frozen(everything_else=False),
        lambda: frozen(everything_else=True),
        {},
    ),
    "blocked-gradient": ("error", lambda: LowRank(0.0, 0.0), lambda: LowRank(1.0, 0.0), {}),
    "rounding-gradient": ("warning", lambda: Routed(1), lambda: Routed(2), {}),
    "closed-gate": ("note", lambda: Residual(1.0, 0.0), lambda: Residual(1.0, 1.0), {}),
    "duplicate-units": (
        "error",
        lambda: edited(mlp(), "4.weight", lambda w: w.copy_(w[:1].expand_as(w).clone())),
        lambda: edited(mlp(), "4.weight", lambda w: w[1].copy_(w[0])),
        {},
    ),
    "cloned-layers": ("note", lambda: cloned(deep=True), lambda: cloned(deep=False), {}),
    "shared-module": ("note", lambda: repeated(lambda n: [nn.Linear(64, 64)] * n), lambda: repeated(linears), {}),
    "gain-mismatch": (
        "warning",
        lambda: edited(mlp(), "4.weight", lambda w: w.mul_(10)),
        lambda: edited(mlp(), "4.weight", lambda w: w.mul_(1.5)),
        {},
    ),
    "nonzero-bias": (
        "warning",
        lambda: edited(mlp(), "4.bias", lambda b: b.fill_(8.0)),
        lambda: edited(mlp(), "4.bias", lambda b: b.fill_(0.5)),
        {},
    ),
    "norm-scale-sign": (
        "warning",
        lambda: edited(normed(2, 1.0), "4.weight", lambda w: w.normal_(0.0, 0.02)),
        lambda: edited(normed(2, 1.0), "4.weight", lambda w: w.normal_(1.0, 0.02)),
        {},
    ),
    "unscaled-input": ("warning", mlp, mlp, {"inputs": 120 + 30 * X, "twin": {"inputs": X}}),
    "unlucky-seeds": ("warning", lambda: flaky(share=3), lambda: flaky(share=0), {"seeds": 8, "select": None}),
    "vanishing-activations": ("warning", lambda: mlp(30, gain=0.8), lambda: mlp(30), {}),
    "exploding-activations": ("warning", lambda: normed(14, 2.0), lambda: normed(14, 1.0), {}),
    "vanishing-gradients": ("warning", lambda: mlp(30, gain=0.8), lambda: mlp(30), {}),
    "exploding-gradients": ("warning", lambda: quiet_head(14, 2.0), lambda: quiet_head(14, 1.0), {}),
    "equal-samples": (
        "warning",
        mlp,
        mlp,
        {"inputs": torch.ones(32, 64), "twin": {"inputs": X}},
    ),
    "dead-units": (
        "warning",
        lambda: edited(mlp(), "4.bias", lambda b: b[:-2].fill_(-20.0)),
        lambda: edited(mlp(), "4.bias", lambda b: b[:4].fill_(-20.0)),
        {},
    ),
    "offset-output": (
        "warning",
        lambda: edited(mlp(), "16.bias", lambda b: b.fill_(30.0)),
        lambda: edited(mlp(), "16.bias", lambda b: b.fill_(4.0)),
        {},
    ),
    "mixed-samples": (
        "warning",
        lambda: nn.Sequential(mlp(2), nn.Softmax(0)),
        lambda: nn.Sequential(mlp(2), nn.BatchNorm1d(4), nn.Softmax(1)),
        {},
    ),
    "saturated-units": (
        "warning",
        lambda: edited(mlp(act=nn.Tanh), "4.weight", lambda w: w.mul_(200)),
        lambda: mlp(act=nn.Tanh),
        {},
    ),
    "half-precision-overflow": (
        "note",
        lambda: edited(mlp(4), "2.weight", lambda w: w.mul_(1e5)),
        lambda: edited(mlp(4), "2.weight", lambda w: w.mul_(2)),
        {},
    ),
}


def found(make: Callable[[], Any], rule: str, options: dict[str, Any]) -> list[str]:
    torch.manual_seed(0)
    options = {"inputs": X, "select": [rule], **options}
    options.pop("twin", None)
    report = check_init(make(), options.pop("inputs"), **options)
    return [f.severity for f in report.findings if f.rule == rule]


def test_every_rule_has_a_sick_model_and_a_healthy_twin() -> None:
    # init-drift is no property of a model alone: tests/test_drift.py and tests/plugin/test_baselines.py
    by_ranks = {name for name, rule in RULES.items() if rule.family == "sharding"}  # tests/sharding/faults.py

    assert set(SICK_AND_TWIN) == set(RULES) - {"init-drift"} - by_ranks


@pytest.mark.parametrize("rule", sorted(SICK_AND_TWIN))
def test_the_sick_model_is_caught(rule: str) -> None:
    severity, sick, _, options = SICK_AND_TWIN[rule]

    assert found(sick, rule, options)[:1] == [severity]


@pytest.mark.parametrize("rule", sorted(SICK_AND_TWIN))
def test_its_healthy_twin_is_not(rule: str) -> None:
    severity, _, twin, options = SICK_AND_TWIN[rule]

    assert severity not in found(twin, rule, {**options, **options.get("twin", {})})


def test_a_part_that_other_arguments_would_use_is_a_note_and_a_forgotten_one_an_error() -> None:
    assert found(lambda: Spare(mentioned=True), "no-gradient", {}) == ["note"]
    assert found(lambda: Spare(mentioned=False), "no-gradient", {}) == ["error"]


class Pairs(nn.Module):
    """A factorization machine: what two ids have in common is the product of their rows."""

    def __init__(self, std: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.alone, self.factors = nn.Embedding(20, 1), nn.Embedding(20, 8)
        nn.init.normal_(self.factors.weight, std=std)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = self.factors(ids)
        out: torch.Tensor = self.alone(ids).sum(1) + 0.5 * (rows.sum(1).square() - rows.square().sum(1)).sum(
            -1, keepdim=True
        )
        return out


def test_a_table_of_zeros_that_is_multiplied_with_itself_is_named():
    ids = torch.randint(20, (64, 3), generator=torch.Generator().manual_seed(0))

    found = {f.rule: f for f in check_init(Pairs(0.0), (ids,)).findings}
    assert found["blocked-gradient"].layers[0] == "factors.weight"
    assert "blocked-gradient" not in {f.rule for f in check_init(Pairs(0.1), (ids,)).findings}


def test_a_table_of_which_these_inputs_read_the_padding_alone_is_no_dead_part():
    class Segments(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.words, self.segments = nn.Embedding(20, 16), nn.Embedding(2, 16, padding_idx=0)
            self.head = nn.Linear(16, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.words(ids) + self.segments(torch.zeros_like(ids)))
            return out

    ids = torch.randint(20, (64, 3), generator=torch.Generator().manual_seed(0))
    assert "blocked-gradient" not in {f.rule for f in check_init(Segments(), (ids,)).findings}


@pytest.mark.always("blocked-gradient", "unresponsive", "input-blind")
@pytest.mark.parametrize("rule", sorted(ABOUT_VALUES))
def test_a_rule_offers_no_fix_that_nobody_tried(rule: str) -> None:
    _, sick, _, options = SICK_AND_TWIN[rule]
    torch.manual_seed(0)

    report = check(sick(), options.get("inputs", X), settings=Settings.of({"select": [rule]}), fixes=False)

    assert report.findings
    assert [f.fix for f in report.findings] == [""] * len(report.findings)


@pytest.mark.slow
@pytest.mark.parametrize("rule", sorted(SICK_AND_TWIN))
def test_every_fix_runs_as_pasted_and_what_does_not_run_is_advice(rule: str) -> None:
    _, sick, _, options = SICK_AND_TWIN[rule]
    torch.manual_seed(0)
    options = {"inputs": X, **options}
    options.pop("twin", None)
    options.pop("select", None)
    inputs, made = options.pop("inputs"), sick()
    model = made if isinstance(made, nn.Module) else made()

    for finding in check_init(made, inputs, **options).findings:
        exec(finding.fix, {"model": model, "inputs": inputs, "torch": torch, "nn": nn})
        assert not (finding.fix and finding.advice)


def test_what_takes_a_change_of_the_code_is_advice() -> None:
    report = check_init(Spare(mentioned=False), X)

    (finding,) = [f for f in report.findings if f.rule == "no-gradient"]

    assert (finding.fix, finding.advice) == ("", "use it in forward(), or delete it: del model.forgotten_projection")
    assert "  advice   use it in forward()" in str(report)


@pytest.mark.parametrize("name", sorted(RULES))
def test_rules_say_what_they_decide_by(name: str) -> None:
    rule = RULES[name]

    assert all((rule.severity, rule.threshold, rule.evidence, rule.limits, rule.judge.__doc__))


def test_settings_are_those_of_the_table() -> None:
    assert Settings().fail_on == "error"
