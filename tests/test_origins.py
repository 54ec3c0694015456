"""The report says of every parameter what it was drawn from, from a few thousand of its values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_initcheck import check_init
from pytest_initcheck.render import terminal
from pytest_initcheck.schemes import BY_FANS, by_fans, fill_
from pytest_initcheck.schemes.distributions import name_distribution
from pytest_initcheck.schemes.origins import ROWS, VALUES


def test_the_report_names_what_each_parameter_was_drawn_from() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 256), nn.LayerNorm(256), nn.ReLU(), nn.Linear(256, 4))
    nn.init.orthogonal_(model[3].weight)

    said = {name: p.drawn_from for name, p in check_init(model, "8x128").parameters.items()}

    assert said["0.weight"].endswith("= kaiming_uniform(a=sqrt(5)), PyTorch's default: 0.577/sqrt(fan_in)")
    assert said["0.bias"].startswith("uniform +-0.08")
    assert said["1.weight"] == "ones"
    assert said["1.bias"] == "zeros"
    assert said["3.weight"] == "orthogonal, gain 1"
    assert said["3.bias"].endswith("too few values to tell")


def test_the_table_names_the_scheme_as_one_would_call_it_or_the_kind() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 320), nn.ReLU(), nn.Linear(320, 256), nn.ReLU(), nn.Linear(256, 4))
    nn.init.kaiming_normal_(model[0].weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(model[2].weight, mean=0.5, std=0.5)
    nn.init.constant_(model[2].bias, 0.25)
    nn.init.constant_(model[0].bias, float("nan"))

    report = check_init(model, "8x128")
    origins = {name: p.origin for name, p in report.parameters.items()}

    assert origins.pop("2.weight").startswith("normal, mean 0.")
    assert origins == {
        "0.weight": "kaiming_normal(relu, fan_out)",
        "0.bias": "",
        "2.bias": "constant 0.25",
        "4.weight": "kaiming_uniform(a=sqrt(5))",
        "4.bias": "too few to tell",
    }
    table = terminal(report, verbose=2, width=200)
    assert all(f" {origin} " in table for origin in origins.values())


def test_values_that_are_not_finite_are_not_named() -> None:
    model = nn.Linear(8, 8)
    nn.init.constant_(model.bias, float("nan"))

    assert check_init(model, "4x8").parameters["bias"].drawn_from == ""


@pytest.mark.parametrize("scheme", BY_FANS)
def test_a_few_thousand_values_tell(scheme: str) -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        draw = by_fans(scheme, 1152, 2304, "relu", units=256)
        x = fill_(torch.empty(256, 128, 3, 3), draw, generator=generator)

        named = name_distribution(x, fan_in=1152, fan_out=2304, followed_by="relu", sample=VALUES, rows=ROWS)

        assert named.kind == draw.kind
