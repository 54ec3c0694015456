"""apply_init: what each scheme does to a model, what it leaves alone, and that nothing is lost when it cannot."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from pytest_initcheck import ProbeError, SettingsError, UnhealthyInit, apply_init, check_init, recommend_init
from pytest_initcheck.schemes import Draw
from pytest_initcheck.schemes.choices import SCHEMES


def mlp(depth: int = 8, width: int = 128, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), act()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


class Block(nn.Module):
    """A residual branch of two layers, with or without a norm in front."""

    def __init__(self, width: int, norm: bool = True):
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Residual(nn.Module):
    def __init__(self, depth: int = 4, width: int = 64, norm: bool = True):
        super().__init__()
        self.stem = nn.Linear(16, width)
        self.blocks = nn.ModuleList(Block(width, norm) for _ in range(depth))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Functional(nn.Module):
    """Raw parameters, used as x @ w."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(32, 64))
        self.second = nn.Parameter(torch.randn(64, 48))
        self.third = nn.Parameter(torch.randn(8, 48))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(torch.tanh(x @ self.first) @ self.second), self.third)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[n], other[n]) for n in one)


def rms(x: Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


# -- reproducible, and nothing lost


def test_a_seed_decides_everything_and_torchs_generator_does_not_move():
    one, other = mlp(), mlp()
    state = torch.get_rng_state()

    apply_init(one, "auto", "4x128", seed=3)
    apply_init(other, "auto", "4x128", seed=3)

    assert equal(values(one), values(other))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_generator_of_ones_own():
    one, other = mlp(), mlp()

    apply_init(one, "auto", "4x128", generator=torch.Generator().manual_seed(5))
    apply_init(other, "auto", "4x128", seed=5)

    assert equal(values(one), values(other))


def test_without_a_seed_torchs_generator_is_used_as_in_torch_nn_init():
    torch.manual_seed(1)
    one = apply_init(model := mlp(), "auto", "4x128")
    first = values(model)
    apply_init(model, "auto", "4x128")

    assert one.applied
    assert not equal(first, values(model))


def test_a_dry_run_changes_nothing_and_says_what_would():
    model = mlp()
    before = values(model)

    plan = apply_init(model, "auto", "4x128", dry_run=True)

    assert equal(values(model), before)
    assert not plan.applied
    assert plan["0.weight"].before == pytest.approx(rms(model[0].weight), rel=1e-5)
    assert plan["0.weight"].after == pytest.approx(math.sqrt(2 / 128), rel=1e-6)
    assert str(plan).startswith("auto: would set 18 of 18 parameters\n")


def test_what_raises_half_way_leaves_the_old_values():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    before = values(model)

    with pytest.raises(SettingsError, match=r"^0\.bias \[8\] cannot be filled with orthogonal"):
        apply_init(model, {"0.weight": "zeros", "0.bias": Draw("orthogonal", value=1.0)}, "4x8")

    assert equal(values(model), before)


def test_verify_raises_with_the_report_and_puts_the_values_back():
    model = mlp(30, 64)
    apply_init(model, "kaiming_normal", "16x64", seed=0)
    before = values(model)

    with pytest.raises(UnhealthyInit, match="not healthier") as failure:
        apply_init(model, "normal", "16x64", seed=0, verify=True)

    assert not failure.value.report.ok
    assert equal(values(model), before)


def test_verify_says_what_has_become_of_the_errors():
    model = mlp(30, 64)
    apply_init(model, "normal", "16x64", seed=0, std=0.005)

    plan = apply_init(model, "auto", "16x64", seed=0, verify=True)

    assert plan.notes[-1].endswith(" before, no error after.")
    assert "0 errors before" not in plan.notes[-1]


# -- selecting


def test_include_and_exclude_are_globs_of_names():
    model = Residual()
    before = values(model)

    plan = apply_init(model, "auto", "4x16", include=["blocks.*"], exclude="*.bias", seed=0)

    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {f"blocks.{i}.{n}.weight" for i in range(4) for n in ("up", "down")}
    assert plan["head.weight"].why == "not asked for"


def test_the_first_pattern_that_matches_counts():
    model = mlp(2)

    plan = apply_init(model, {"0.weight": "orthogonal", "2.weight": Draw("normal", 0.3), "*.weight": "zeros"}, "4x128")

    assert plan["0.weight"].draw is not None
    assert plan["0.weight"].draw.kind == "orthogonal"
    assert rms(model[2].weight) == pytest.approx(0.3, rel=0.05)
    assert rms(model[4].weight) == 0
    assert plan["0.bias"].draw is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"scheme": "kaimin"}, "scheme must be one of auto, lsuv, xavier_uniform"),
        ({"include": "layer9.*"}, "include: 'layer9.*' matches no parameter; the first is '0.weight'"),
        ({"scheme": {"*.w": "auto"}}, "scheme: '*.w' matches no parameter"),
        ({"scheme": "auto", "gain": 2.0}, "scheme 'auto' takes no options (got 'gain')"),
        ({"scheme": "kaiming_normal", "std": 2.0}, "scheme 'kaiming_normal' takes gain, mode (got 'std')"),
        ({"scheme": "kaiming_normal", "mode": "fan"}, "mode must be 'fan_in' or 'fan_out' (got 'fan')"),
        ({"scheme": "sparse", "sparsity": 1.5}, "sparsity is the share of zeros, below 1 (got 1.5)"),
        ({"scheme": "normal", "std": -1}, "std must be a number above 0 (got -1)"),
        ({"scheme": "lsuv", "tolerance": 0}, "tolerance must be above 0"),
        ({"seed": 1, "generator": torch.Generator()}, "seed and generator exclude each other"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict, sentence: str):
    model = mlp(2)
    before = values(model)

    with pytest.raises(SettingsError) as failure:
        apply_init(model, inputs="4x128", **arguments)

    assert sentence in str(failure.value)
    assert equal(values(model), before)


def test_models_that_cannot_be_filled():
    with torch.device("meta"):
        meta = nn.Linear(4, 4)
    with pytest.raises(SettingsError, match=r"^weight is on the meta device; call model\.to_empty"):
        apply_init(meta)
    with pytest.raises(SettingsError, match="has no shape yet; run one batch"):
        apply_init(nn.LazyLinear(4))
    with pytest.raises(SettingsError, match=r"model must be an nn\.Module"):
        apply_init(mlp)


def test_without_inputs_only_schemes_that_need_none():
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(32, 32)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.fc(a.reshape(b.shape))

    model = Pair()
    plan = apply_init(model, "xavier_normal", seed=0)

    assert "was not run" in plan.notes[0]
    assert rms(model.fc.weight) == pytest.approx(math.sqrt(1 / 32), rel=0.1)
    with pytest.raises(ProbeError, match="scheme 'auto' must see the model run once"):
        apply_init(model, "auto")


# -- what auto does


# Where 1 is no stable size, the signal drifts, and that is the function's own doing: tanh settles at sqrt(1 / (2 depth)), and
# a signal above 1 finds half of a SiLU's or a Mish's output ever more like a ReLU's, for which their gain is too large.
@pytest.mark.parametrize(
    ("act", "least", "most"),
    [
        (nn.ReLU, 1 / 4, 4),
        (nn.LeakyReLU, 1 / 4, 4),
        (nn.SELU, 1 / 4, 4),
        (nn.ELU, 1 / 8, 8),
        (nn.GELU, 1 / 8, 1.08**30),
        (nn.SiLU, 1 / 8, 1.19**30),
        (nn.Mish, 1 / 8, 1.15**30),
        (nn.Tanh, math.sqrt(1 / 60) / 2, 1),
    ],
)
def test_auto_carries_the_signal_through_thirty_layers(act: type[nn.Module], least: float, most: float):
    model = mlp(30, 256, act)

    apply_init(model, "auto", "8x256", seed=0)

    report = check_init(model, "32x256")
    first, last = report.layers["0"].activation.rms, report.layers["58"].activation.rms
    assert report.ok, str(report)
    assert least < last / first < most


def test_auto_scales_what_ends_a_residual_branch():
    model = Residual(depth=9)

    plan = apply_init(model, "auto", "4x16", seed=0)

    assert plan["blocks.3.down.weight"].after == pytest.approx(1 / math.sqrt(128) / 3)
    assert plan["blocks.3.up.weight"].after == pytest.approx(plan["blocks.0.up.weight"].after)


def test_auto_leaves_a_gate_alone_but_not_a_dead_model():
    model = Residual()
    for block in model.blocks:
        nn.init.zeros_(block.down.weight)
    plan = apply_init(model, "auto", "4x16", seed=0)
    assert plan["blocks.0.down.weight"].draw is None
    assert plan["blocks.0.down.weight"].why.startswith("gate: ")

    for p in model.parameters():
        nn.init.zeros_(p)
    apply_init(model, "auto", "4x16", seed=0)
    assert rms(model.blocks[0].down.weight) > 0
    assert check_init(model, "16x16").ok


def test_a_zero_in_the_middle_is_no_gate():
    model = mlp(4)
    nn.init.zeros_(model[4].weight)

    apply_init(model, "auto", "4x128", seed=0)

    assert rms(model[4].weight) > 0


def test_recurrent_layers():
    model = nn.LSTM(12, 24, batch_first=True)

    apply_init(model, "auto", "4x7x12", seed=0)

    assert [float(g.detach().mean()) for g in (model.bias_ih_l0 + model.bias_hh_l0).chunk(4)] == [0, 1, 0, 0]
    for gate in model.weight_hh_l0.detach().chunk(4):
        assert torch.allclose(gate @ gate.T, torch.eye(24), atol=1e-5)


def test_norms_one_and_zero_heads_prior_kept():
    model = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 1))
    nn.init.constant_(model[3].bias, -4.6)  # a class prior of 1 %, as in RetinaNet
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[0].bias)

    plan = apply_init(model, "auto", "8x16", seed=0)

    assert torch.equal(model[1].weight.detach(), torch.ones(16))
    assert torch.equal(model[0].bias.detach(), torch.zeros(16))
    assert float(model[3].bias.detach()) == pytest.approx(-4.6)
    assert "class prior" in plan["3.bias"].why


def test_an_embedding_tied_to_the_head_gives_unit_logits():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tok = nn.Embedding(50, 64)
            self.norm = nn.LayerNorm(64)
            self.head = nn.Linear(64, 50, bias=False)
            self.head.weight = self.tok.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.norm(self.tok(ids)))

    model = Tied()
    plan = apply_init(model, "auto", torch.randint(0, 50, (4, 9)), seed=0)

    assert plan["tok.weight"].after == pytest.approx(1 / 8)
    assert len(plan) == 3


def test_raw_parameters_are_oriented_by_their_use():
    model = Functional()

    plan = apply_init(model, "auto", "16x32", seed=0)

    assert plan["first"].after == pytest.approx(1 / math.sqrt(32))
    assert plan["second"].after == pytest.approx(math.sqrt(2 / 64))
    assert plan["third"].after == pytest.approx(1 / math.sqrt(48))


def test_what_is_not_reached_is_left_alone():
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Spare()
    before = model.spare.weight.detach().clone()

    plan = apply_init(model, "auto", "4x8")

    assert torch.equal(model.spare.weight, before)
    assert plan["spare.weight"].why == "the output does not depend on it"


# -- whole-model schemes


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_runs_on_a_residual_network(scheme: str):
    model = Residual()

    plan = apply_init(model, scheme, "8x16", seed=0)

    for change in plan.changed:
        found = rms(model.get_parameter(change.name))
        assert found == pytest.approx(change.after, rel=0.1), change.name


def test_zero_gate_is_the_last_scale_of_each_branch():
    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.b, self.n2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x + self.n2(self.b(F.relu(self.n1(self.a(x))))))

    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Conv(), Conv())

    plan = apply_init(model, "zero_gate", "4x3x8x8")

    assert [c.name for c in plan.changed] == ["1.n2.weight", "2.n2.weight"]
    assert rms(model[1].n2.weight) == 0


def test_depth_scaled_is_gpt2s():
    plan = apply_init(Residual(depth=8), "depth_scaled", "4x16")

    assert plan["blocks.0.up.weight"].after == pytest.approx(0.02)
    assert plan["blocks.0.down.weight"].after == pytest.approx(0.02 / math.sqrt(8))


def test_fixup_without_norms():
    model = Residual(depth=16, norm=False)

    plan = apply_init(model, "fixup", "4x16", seed=0)

    free = apply_init(model, "auto", "4x16", dry_run=False)["blocks.0.up.weight"].after
    assert plan["blocks.0.up.weight"].after == pytest.approx(free * 16 ** (-1 / 2))  # m = 2: L^(-1/(2m-2))
    assert plan["blocks.0.down.weight"].after == 0
    assert plan["head.weight"].after == 0


def test_mup_narrows_the_head_as_the_network_widens():
    def head(width: int) -> float:
        return apply_init(Residual(width=width), "mup", "4x16")["head.weight"].after

    assert head(64) == pytest.approx(1 / 8)
    assert head(256) == pytest.approx(1 / 16 / 2)


def test_siren_reads_its_omega_from_the_graph():
    class Sine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 64), nn.Linear(64, 64), nn.Linear(64, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.sin(20 * self.b(torch.sin(20 * self.a(x)))))

    model = Sine()
    for scheme in ("siren", "auto"):
        apply_init(model, scheme, "64x2", seed=0)
        assert float(model.a.weight.detach().abs().max()) == pytest.approx(1 / 2, rel=0.05)
        assert float(model.b.weight.detach().abs().max()) == pytest.approx(math.sqrt(6 / 64) / 20, rel=0.05)


# -- lsuv


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: mlp(6), "64x128"),
        (lambda: mlp(6, act=nn.Tanh), "64x128"),
        (Functional, "64x32"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.ConvTranspose2d(8, 4, 2, stride=2)), "16x3x12x12"),
        (lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(16, 16)), nn.ReLU(), nn.Linear(16, 2)), "64x16"),
        (lambda: nn.Sequential(nn.Linear(16, 16).requires_grad_(False), nn.ReLU(), nn.Linear(16, 2)), "64x16"),
    ],
    ids=["relu", "tanh", "functional", "conv", "weight_norm", "frozen"],
)
def test_lsuv_brings_every_output_to_unit_variance(build, shape: str):
    model = build()

    plan = apply_init(model, "lsuv", shape, seed=0, tolerance=0.01, frozen=True)

    told = [c.why for c in plan.changed if "its output has std" in c.why]
    assert len(told) == sum(c.place.role == "weight" for c in plan)
    assert all(abs(float(why.rpartition(" ")[2]) - 1) <= 0.0101 for why in told), told
    again = apply_init(model, "lsuv", shape, seed=0, dry_run=False, frozen=True)
    assert not any("beyond" in note for note in again.notes)


def test_what_is_frozen_is_left_alone_unless_asked_for():
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    model[0].requires_grad_(False)
    loaded = model[0].weight.clone()

    plan = apply_init(model, "auto", "8x16", seed=0)

    assert torch.equal(model[0].weight, loaded)
    assert {c.name: c.why for c in plan if c.draw is None}["0.weight"] == "frozen: frozen=True changes it, too"
    assert "2.weight" in {c.name for c in plan.changed}
    apply_init(model, "auto", "8x16", seed=0, frozen=True)
    assert not torch.equal(model[0].weight, loaded)


def test_lsuv_counts_what_the_layer_itself_puts_out():
    model = mlp(3)
    x = torch.randn(512, 128)

    apply_init(model, "lsuv", x, seed=0, tolerance=0.01)

    with torch.no_grad():
        h = x
        for layer in model:
            h = layer(h)
            if isinstance(layer, nn.Linear):
                assert float(h.std(correction=0)) == pytest.approx(1, abs=0.011)


def test_a_dry_lsuv_puts_everything_back():
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    before = {n: v.clone() for n, v in model.state_dict().items()}

    plan = apply_init(model, "lsuv", "32x16", dry_run=True, seed=0)

    assert equal(before, dict(model.state_dict()))
    assert len(plan.changed) == 6


# -- weights that something else makes


def test_weight_norm_old_and_new():
    new = parametrizations.weight_norm(nn.Linear(32, 64))
    with pytest.warns(FutureWarning):
        old = nn.utils.weight_norm(nn.Linear(32, 64))

    for layer in (new, old):
        model = nn.Sequential(layer, nn.ReLU(), nn.Linear(64, 2))
        plan = apply_init(model, "auto", "8x32", seed=0)
        model(torch.randn(2, 32))
        assert rms(layer.weight) == pytest.approx(math.sqrt(2 / 32), rel=0.05)
        assert plan["0.weight"].after == pytest.approx(math.sqrt(2 / 32))


def test_a_parametrization_that_cannot_be_inverted_is_refused_by_name():
    class Square(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w * w

    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    parametrize.register_parametrization(model[0], "weight", Square())

    with pytest.raises(SettingsError, match=r"0\.weight is made by Square, which has no right_inverse.*exclude="):
        apply_init(model, "auto", "4x8")
    assert apply_init(model, "auto", "4x8", exclude="0.weight").applied


def test_half_precision_and_complex():
    model = mlp(2).to(torch.bfloat16)
    apply_init(model, "auto", torch.randn(4, 128, dtype=torch.bfloat16), seed=0)
    assert rms(model[0].weight) == pytest.approx(math.sqrt(2 / 128), rel=0.05)

    class Wave(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(8, 8, dtype=torch.complex64))
            self.fc = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc((x.to(torch.complex64) @ self.w).abs())

    plan = apply_init(Wave(), "auto", "4x8", seed=0)
    assert plan["w"].why == "complex64: no scheme for it here"


# -- code to paste


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_code_does_what_the_plan_says(scheme: str):
    def build() -> nn.Sequential:
        conv = nn.Conv2d(16, 64, 3)
        return nn.Sequential(conv, nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 32))

    model, other = build(), build()
    plan = apply_init(model, scheme, "4x16x8x8", seed=0)
    torch.manual_seed(0)

    exec(plan.code(), {"model": other})

    for change in plan.changed:
        assert rms(other.get_parameter(change.name)) == pytest.approx(change.after, rel=0.1)


def test_the_code_for_weight_norm():
    with pytest.warns(FutureWarning):
        old = nn.utils.weight_norm(nn.Conv1d(8, 12, 3))
    for layer in (old, parametrizations.weight_norm(nn.Conv1d(8, 12, 3))):
        model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
        model(torch.randn(2, 8, 9))
        plan = apply_init(model, "auto", "4x8x9", seed=0)
        nn.init.ones_(model.get_parameter(plan["0.weight"].place.parameters[0]))

        exec(plan.code(), {"model": model})

        model(torch.randn(2, 8, 9))
        assert rms(layer.weight) == pytest.approx(math.sqrt(2 / 24), rel=0.1)


# -- what a parameter is, whatever it is called


class Mixed(nn.Module):
    """Raw parameters with the names that weight norm gives to its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mix_g = nn.Parameter(torch.randn(16, 16) / 4)
        self.mix_v = nn.Parameter(torch.ones(16))
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(x @ self.mix_g * self.mix_v))


def test_a_parameter_is_not_weight_norms_because_of_its_name():
    model = Mixed()

    plan = recommend_init(model, "32x16")

    assert [c.place.made_by for c in plan] == ["", "", "", ""]
    assert plan["mix_g"].after == pytest.approx(1 / 4)
    assert "g, v =" not in plan.code()
    apply_init(model, "auto", "32x16", seed=0)


class LSTM(nn.Module):
    """A layer of its own that has torch's names."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_hh = nn.Parameter(torch.randn(16, 16) / 4)
        self.bias_ih = nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.weight_hh + self.bias_ih)


def test_a_layer_is_not_torchs_lstm_because_of_its_name():
    plan = recommend_init(nn.Sequential(LSTM(), nn.Linear(16, 4)), "32x16")

    assert "relu" in plan["0.weight_hh"].why
    assert "forget" not in plan["0.bias_ih"].why


def test_a_layer_that_inherits_from_torchs_lstm_is_one():
    class Own(nn.LSTM):
        pass

    plan = recommend_init(Own(8, 16, batch_first=True), "4x5x8")

    assert "forget gate open" in plan["bias_ih_l0"].why
    assert "state to state" in plan["weight_hh_l0"].why


@pytest.mark.parametrize("followed", [True, False])
def test_roles_are_the_same_with_and_without_a_run_and_through_whatever_makes_a_weight(followed: bool):
    shape = "4x6x8x8" if followed else None

    def net() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(6, 8, 3, groups=2), nn.ReLU(), nn.ConvTranspose2d(8, 4, 4, stride=2))

    made = net()
    parametrizations.weight_norm(made[0])
    parametrizations.orthogonal(made[2])
    with pytest.warns(FutureWarning, match="weight_norm"):
        older = nn.Sequential(*(nn.utils.weight_norm(m) if hasattr(m, "weight") else m for m in net()))

    plans = [recommend_init(m, shape, scheme="kaiming_normal", gain=1.0) for m in (net(), made, older)]

    assert [p["0.weight"].place.made_by for p in plans] == ["", "parametrization", "weight-norm"]
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        assert len({(p[name].place.use, p[name].place.fan_in, p[name].place.fan_out) for p in plans}) == 1, name


def test_lsuv_for_some_weights_is_calibrated_like_lsuv_for_all():
    torch.manual_seed(0)
    model = mlp(depth=2)

    plan = apply_init(model, {"0.*": "lsuv", "*": "auto"}, "64x128", seed=0)

    assert "its output has std" in plan["0.weight"].why
    assert "its output has std" not in plan["2.weight"].why
    x = torch.randn(4096, 128, generator=torch.Generator().manual_seed(1))
    assert float(model[0](x).detach().std()) == pytest.approx(1.0, abs=0.15)


def test_a_draw_of_ones_own_is_not_calibrated_whatever_it_says():
    before = Draw("normal", 3.0, why="lsuv")

    plan = apply_init(mlp(depth=2), {"*.weight": before}, "64x128", seed=0)

    assert plan["0.weight"].draw == before
