"""Where a fault starts: what a weight is judged by, and what stands out."""

from __future__ import annotations

import math
from itertools import chain

import pytest
import torch
from torch import nn

from pytest_initcheck import apply_init, check_init, recommend_init
from pytest_initcheck.records import Finding, LayerRecord, Response, Stats, Trace
from pytest_initcheck.rules import RULES, Case
from pytest_initcheck.rules.culprits import Suspect, expected_std, weight_deviation


def stack(activation: type[nn.Module], depth: int = 6, width: int = 64) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = chain.from_iterable((nn.Linear(width, width), activation()) for _ in range(depth))
    return nn.Sequential(*hidden, nn.Linear(width, 4))


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Mish, nn.GELU, nn.SiLU, nn.ReLU, nn.SELU])
def test_a_weight_is_judged_by_the_std_that_it_would_be_given(activation: type[nn.Module]):
    model = stack(activation)

    report = check_init(model, "32x64")
    plan = recommend_init(model, "32x64")

    for name, record in report.parameters.items():
        if record.role == "weight":
            assert expected_std(record) == pytest.approx(plan[name].after), name


def test_a_sigmoid_network_is_told_the_std_that_recommend_init_writes():
    model = stack(nn.Sigmoid)
    with torch.no_grad():
        model[4].weight.mul_(100)

    told = next(f for f in check_init(model, "32x64").findings if f.rule == "gain-mismatch")

    assert told.evidence["expected_std"] == pytest.approx(recommend_init(model, "32x64")["4.weight"].after)
    assert f"{told.evidence['expected_std']:.3g} carries the signal" in told.cause


def test_what_apply_init_writes_does_not_stand_out():
    for activation in (nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Mish):
        model = stack(activation)
        apply_init(model, "auto", "32x64", seed=0)

        off = [d for p in check_init(model, "32x64").parameters.values() if (d := weight_deviation(p)) is not None]

        assert off == pytest.approx([0.0] * 7, abs=math.log10(1.1))


@pytest.mark.parametrize("rule", ["cut-recurrence", "saturated-state"])
def test_a_layer_is_not_blamed_for_what_another_one_with_a_longer_name_does(rule: str):
    flat = Stats(count=8, mean=1.0, std=0.0, rms=1.0, min=1.0, max=1.0, zeros=0.0, finite=True)
    layer = LayerRecord("rnn1", "rnn1", "RNN", False, True, 0, (8, 4), "float32", flat, saturated=1.0)
    theirs, own = (Suspect(f"{n}.weight_hh_l0", "weight", 2.0, False, f"{n} is loud") for n in ("rnn10", "rnn1"))

    def judged(*culprits: Suspect) -> Finding:
        case = Case(Trace({"rnn1": layer}, {}), Response(), culprits=culprits, memory={"rnn1": 1e-6})
        (found,) = RULES[rule].judge(case)
        return found

    assert judged(theirs).layers == ("rnn1",)
    assert judged(theirs, own).layers == ("rnn1.weight_hh_l0",)
    assert judged(theirs, own).cause == "rnn1 is loud"


def test_a_bias_is_told_by_its_size_and_not_by_its_rank():
    case = Case(Trace({}, {}), Response(), culprits=(Suspect("fc.bias", "bias", -9.0, False, "", 0.0, rms=4.5),))

    (found,) = RULES["nonzero-bias"].judge(case)

    assert found.summary == "fc.bias starts at RMS 4.5 (below 3)"
