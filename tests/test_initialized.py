"""``assert_initialized``: which pattern judges which parameter, what is said, and what cannot be asked."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from pytest_initcheck import SettingsError, UnexpectedInit, assert_initialized
from pytest_initcheck.expect import Expectation, default, normal, ones, orthogonal, uniform, zeros

LAYERS = 4
RESIDUAL = 0.02 / math.sqrt(2 * LAYERS)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(32)
        self.c_attn = nn.Linear(32, 96)
        self.c_proj = nn.Linear(32, 32)


class GPT(nn.Module):
    """As GPT-2 initializes; ``skip`` is a block whose residual projection is forgotten."""

    def __init__(self, skip: int | None = None) -> None:
        super().__init__()
        self.wte = nn.Embedding(100, 32)
        self.h = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(32, 100, bias=False)
        self.head.weight = self.wte.weight
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif ".ln." not in name:
                scaled = name.endswith("c_proj.weight") and not name.startswith(f"h.{skip}.")
                nn.init.normal_(p, std=RESIDUAL if scaled else 0.02)


EXPECTED: Mapping[str, Expectation] = {
    "*.c_proj.weight": normal(std=RESIDUAL),
    "*.bias": zeros(),
    "*.ln.weight": ones(),
    "*.weight": normal(std=0.02),
}


@pytest.mark.parametrize("seed", range(5))
def test_what_is_as_expected_passes(seed: int) -> None:
    torch.manual_seed(seed)

    found = assert_initialized(GPT(), EXPECTED)

    assert str(found) == "GPT: 25 parameters initialized as expected"
    assert found.uncovered == ()


@pytest.mark.parametrize("block", range(LAYERS))
@pytest.mark.parametrize("seed", range(3))
def test_the_one_projection_that_was_forgotten_is_named(block: int, seed: int) -> None:
    torch.manual_seed(seed)

    with pytest.raises(UnexpectedInit) as caught:
        assert_initialized(GPT(skip=block), EXPECTED)

    assert caught.value.report is not None
    assert [c.name for c in caught.value.report.failed] == [f"h.{block}.c_proj.weight"]


def test_the_message() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2), nn.LayerNorm(2))
    nn.init.constant_(model[0].weight, 0.5)
    nn.init.zeros_(model[0].bias)

    with pytest.raises(UnexpectedInit) as caught:
        assert_initialized(model, {"0.weight": normal(std=0.02), "0.bias": zeros()})

    assert str(caught.value) == (
        "Sequential: 1 of 2 parameters not initialized as expected: 0.weight: all values are 0.5\n\n"
        "0.weight (2x4), '0.weight': expected normal(std=0.02)\n"
        "  all values are 0.5\n"
        "  it looks like: constant 0.5\n\n"
        "covered by no pattern: 1.weight, 1.bias, 2.weight, 2.bias\n\n"
        "chance of a false alarm: at most 1e-06 for the whole model"
    )


def test_pytorchs_default_is_recognized_where_the_init_was_not_applied() -> None:
    torch.manual_seed(0)

    with pytest.raises(UnexpectedInit, match=r"looks like: uniform .* = kaiming_uniform.*PyTorch's default"):
        assert_initialized(nn.Linear(64, 64), {"weight": normal(std=0.02)})


def test_default_is_what_reset_parameters_draws() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.LSTM(32, 32), nn.MultiheadAttention(32, 4), nn.BatchNorm1d(8))
    before = torch.get_rng_state()
    kept = {name: p.clone() for name, p in model.named_parameters()}

    assert_initialized(model, {"*": default()})

    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(p, kept[name]) for name, p in model.named_parameters())
    nn.init.normal_(model[0].weight, std=0.072)
    nn.init.zeros_(model[3].weight)
    with pytest.raises(UnexpectedInit) as caught:
        assert_initialized(model, {"*": default()})
    assert caught.value.report is not None
    assert [c.name for c in caught.value.report.failed] == ["0.weight", "3.weight"]


@pytest.mark.parametrize("seed", range(20))
def test_default_raises_no_alarm(seed: int) -> None:
    torch.manual_seed(100 + seed)

    assert_initialized(
        lambda: nn.Sequential(nn.Linear(16, 3), nn.Conv2d(3, 8, 3), nn.GRU(8, 8), nn.Embedding(9, 5)),
        {"*": default()},
        false_alarm_rate=0.005,
    )


def test_a_parametrized_weight_is_judged_under_its_own_name() -> None:
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(8, 8))

    found = assert_initialized(nn.ModuleDict({"fc": layer}), {"fc.weight": orthogonal()})

    assert [c.name for c in found.checked] == ["fc.weight"]
    assert found.uncovered == ("fc.bias",)


def test_a_tied_weight_is_judged_by_any_of_its_names() -> None:
    found = assert_initialized(GPT(), {"head.weight": normal(std=0.02)})

    assert [c.name for c in found.checked] == ["wte.weight"]


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (
            {"*.c_porj.weight": zeros()},
            r"the pattern '\*.c_porj.weight' matches no parameter \(there are wte.weight, h.0.ln",
        ),
        ({"*": zeros(), "*.bias": zeros()}, r"the pattern '\*.bias' is never reached"),
        ({"*": 0.02}, r"'\*' must map to an expectation such as normal\(std=0.02\) or zeros\(\) \(got 0.02\)"),
        ({"h.0.ln.bias": orthogonal()}, r"h.0.ln.bias: orthogonal needs two dimensions or more"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(expected: Mapping[str, Expectation], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        assert_initialized(GPT(), expected)


def test_values_that_are_not_there() -> None:
    with pytest.raises(SettingsError, match="weight is lazy"):
        assert_initialized(nn.LazyLinear(3), {"*": zeros()})
    with pytest.raises(SettingsError, match="weight is on the meta device"):
        assert_initialized(nn.Linear(3, 3, device="meta"), {"*": zeros()})
    with pytest.raises(SettingsError, match="false_alarm_rate must be between 0 and 1"):
        assert_initialized(nn.Linear(3, 3), {"*": zeros()}, false_alarm_rate=0)
    model = nn.Linear(3, 3)
    model.made = model.weight * 2
    with pytest.raises(SettingsError, match=r"default\(\) needs a copy"):
        assert_initialized(model, {"*": default()})


def test_the_rate_is_shared_among_all_tests() -> None:
    """A value that is rare, not impossible: refused alone, accepted among many at the same rate for the whole model."""
    alone = nn.ParameterList([nn.Parameter(torch.tensor([5.5]))])
    torch.manual_seed(0)
    many = nn.ParameterList([*(nn.Parameter(torch.randn(100)) for _ in range(100)), nn.Parameter(torch.tensor([5.5]))])

    with pytest.raises(UnexpectedInit):
        assert_initialized(alone, {"*": normal()}, false_alarm_rate=1e-5)
    assert_initialized(many, {"*": normal()}, false_alarm_rate=1e-5)


def test_uniform_is_told_from_a_wider_one() -> None:
    torch.manual_seed(0)
    with pytest.raises(UnexpectedInit, match=r"values from -0.1\d+ to 0.1\d+, expected -0.1 to 0.1"):
        assert_initialized(nn.Linear(50, 50), {"weight": uniform(-0.1, 0.1)})
