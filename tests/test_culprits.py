"""Where a fault starts: what a weight is judged by, and what stands out."""

from __future__ import annotations

import math
from itertools import chain

import pytest
import torch
from torch import nn

from pytest_initcheck import apply_init, check_init, recommend_init, thresholds
from pytest_initcheck.records import Finding, LayerRecord, ParameterRecord, Response, Stats, Trace
from pytest_initcheck.rules import RULES, Case
from pytest_initcheck.rules.culprits import (
    STANDS_OUT,
    Suspect,
    expected_std,
    growth,
    suspects,
    typical_deviation,
    weight_deviation,
)


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


# -- what stands out, from records


def stats(rms: float, mean: float = 0.0, *, count: int = 4096, finite: bool = True) -> Stats:
    return Stats(count=count, mean=mean, std=rms, rms=rms, min=-rms, max=rms, zeros=0.0, finite=finite)


def weight(name: str, times: float = 1.0, **fields: object) -> ParameterRecord:
    """A weight on fan_in 64 in front of a ReLU, ``times`` what carries the signal."""
    given = {"followed_by": "relu", "role": "weight", "gradient": stats(1.0), **fields}
    std = math.sqrt(2 / 64) * times
    return ParameterRecord(name, name, "Linear", (64, 64), "float32", 64, 64, stats(std), **given)


def vector(name: str, role: str, rms: float, mean: float | None = None, **fields: object) -> ParameterRecord:
    value = stats(rms, rms if mean is None else mean)
    return ParameterRecord(name, name, "Linear", (64,), "float32", None, None, value, role=role, **fields)


def trace(*parameters: ParameterRecord, layers: tuple[LayerRecord, ...] = (), **fields: object) -> Trace:
    return Trace({x.name: x for x in layers}, {p.name: p for p in parameters}, **fields)


def layer(name: str, rms: float, *parameters: str, gradient: float = 1.0) -> LayerRecord:
    return LayerRecord(
        name, name, "Linear", False, True, 0, (8, 64), "float32", stats(rms), stats(gradient), parameters=parameters
    )


def test_a_weight_is_off_by_the_decades_between_its_size_and_what_carries_the_signal():
    assert weight_deviation(weight("w", 100.0)) == pytest.approx(2.0)
    assert weight_deviation(weight("w", 0.01)) == pytest.approx(-2.0)
    assert weight_deviation(weight("w", 1.0, followed_by="none")) == pytest.approx(math.log10(math.sqrt(2)))
    assert weight_deviation(weight("w", 1.0, factor=30.0)) == pytest.approx(math.log10(30))


@pytest.mark.parametrize(
    "record",
    [
        vector("b", "bias", 1.0),
        weight("w", 0.0),
        weight("w", role="embedding"),
        ParameterRecord("w", "w", "Linear", (2, 2), "float32", 2, 2, stats(9.0, count=4), role="weight"),
        ParameterRecord("w", "w", "Linear", (64, 64), "float32", 64, 64, None, role="weight"),
        ParameterRecord("w", "w", "Linear", (64, 64), "float32", 64, 64, stats(1.0, finite=False), role="weight"),
        ParameterRecord("w", "w", "Linear", (64, 0), "float32", 0, 64, stats(1.0), role="weight"),
    ],
    ids=["bias", "zeros", "embedding", "few values", "unread", "not finite", "no fan"],
)
def test_what_has_no_scale_to_be_off_is_not_off(record: ParameterRecord):
    assert weight_deviation(record) is None


def test_one_weight_among_its_peers_stands_out_and_a_healthy_model_has_none():
    (found,) = suspects(trace(*(weight(f"w{i}", 10.0 if i == 3 else 1.0) for i in range(6))))

    assert (found.name, found.kind, found.common, found.loud) == ("w3", "weight", False, True)
    assert found.decades == pytest.approx(1.0)
    assert found.factor == pytest.approx(10.0)
    assert found.expected == pytest.approx(math.sqrt(2 / 64))
    assert found.cause == (
        "w3 has std 1.77 on fan_in 64 in front of relu, where 0.177 carries the signal: this layer multiplies it by 10"
    )
    assert suspects(trace(*(weight(f"w{i}") for i in range(6)))) == ()


@pytest.mark.parametrize(("factor", "found"), [(10**0.44, 0), (10**0.46, 1), (10**-0.46, 1), (10**-0.44, 0)])
def test_a_weight_stands_out_beyond_what_schemes_in_use_differ_by(factor: float, found: int):
    assert STANDS_OUT == 0.45
    assert len(suspects(trace(*(weight(f"w{i}", factor if i == 3 else 1.0) for i in range(6))))) == found


def test_what_is_as_its_peers_are_does_not_stand_out_though_theory_asks_for_something_else():
    # A scheme that is 0.4 off everywhere, and one layer that theory likes but that is unlike its peers: neither is it.
    shifted = [weight(f"w{i}", 10**0.4) for i in range(6)]

    assert suspects(trace(*shifted)) == ()
    assert suspects(trace(*shifted, weight("odd", 1.0))) == ()
    assert suspects(trace(*shifted, weight("odd", 10**-0.2))) == ()
    assert [s.name for s in suspects(trace(*shifted, weight("odd", 10**0.9)))] == ["odd"]


def test_of_three_weights_theory_alone_judges():
    found = suspects(trace(weight("a", 1.0), weight("b", 10**0.3), weight("c", 10**0.5)))

    assert [(s.name, s.decades) for s in found] == [("c", pytest.approx(0.5))]


def test_a_scale_that_most_share_is_the_schemes_fault_and_one_that_is_twice_as_far_off_is_its_own():
    shared = [weight(f"w{i}", 10.0) for i in range(6)]

    common, *others = suspects(trace(*shared))
    (first, second) = suspects(trace(*shared, weight("worse", 1e4)))

    assert (common.common, common.decades, others) == (True, pytest.approx(1.0), [])
    assert (first.name, first.common) == ("worse", False)
    assert first.decades == pytest.approx(3.0)  # against its peers, the lesser of the two distances
    assert second.common


def test_scales_that_have_nothing_in_common_are_nobodys_scheme():
    scattered = [weight(f"w{i}", 10.0 ** (-3 + 1.5 * i)) for i in range(5)]

    assert not any(s.common for s in suspects(trace(*scattered)))


def test_a_small_factor_that_compounds_over_depth_is_the_schemes():
    def deep(rate: float) -> Trace:
        parameters = [weight(f"w{i}", rate) for i in range(60)]
        return trace(*parameters, layers=tuple(layer(f"l{i}", rate**i, f"w{i}") for i in range(60)))

    (found,) = suspects(deep(0.8))

    assert found.common
    assert found.decades == pytest.approx(math.log10(0.8))
    assert suspects(deep(0.99)) == ()


@pytest.mark.parametrize("role", ["bias", "norm-shift"])
def test_a_bias_of_three_closes_units_and_a_smaller_one_does_not(role: str):
    assert thresholds.LARGE_BIAS == 3.0
    (found,) = suspects(trace(vector("b", role, 3.0, mean=-3.0, followed_by="relu")))

    assert (found.kind, found.rms, found.loud) == ("bias", 3.0, True)
    assert (
        found.cause
        == "b starts at -3 on average (0 is usual): the offset drowns the signal and shuts every unit behind it"
    )
    assert suspects(trace(vector("b", role, 2.99))) == ()
    for other in (vector("b", role, 3.0, followed_by="relu"), vector("b", role, 3.0, mean=-3.0, followed_by="tanh")):
        assert "shuts" not in suspects(trace(other))[0].cause


def test_a_bias_ranks_before_a_weight_that_is_off_by_the_same_factor():
    found = suspects(trace(*(weight(f"w{i}", 10.0 if i == 0 else 1.0) for i in range(6)), vector("b", "bias", 10.0)))

    assert [s.name for s in found] == ["b", "w0"]


@pytest.mark.parametrize(("role", "kind"), [("norm-scale", "norm-scale"), ("embedding", "embedding")])
def test_a_scale_of_three_stands_out_in_a_norm_and_in_an_embedding(role: str, kind: str):
    (found,) = suspects(trace(vector("s", role, 3.0)))

    assert (found.kind, found.expected) == (kind, 1.0)
    assert found.decades == pytest.approx(math.log10(3))
    assert suspects(trace(vector("s", role, 2.0))) == ()
    assert suspects(trace(vector("s", role, 0.02))) == ()


@pytest.mark.parametrize(
    ("fields", "blamed"),
    [
        ({"wakes": False}, True),
        ({"wakes": True, "gradient": stats(0.0)}, False),
        ({"gradient": stats(0.0)}, True),
        ({"gradient": stats(1.0)}, False),
        ({"gradient": None}, False),
    ],
    ids=["never wakes", "wakes", "no gradient", "has a gradient", "not asked"],
)
def test_a_weight_of_zeros_is_blamed_where_a_step_does_not_open_it(fields: dict[str, object], blamed: bool):
    assert [s.kind for s in suspects(trace(weight("w", 0.0, **fields)))] == ["zero"] * blamed


def test_a_bias_of_zeros_is_as_it_should_be():
    assert suspects(trace(vector("b", "bias", 0.0, wakes=False))) == ()


def test_what_a_norm_rescales_or_nothing_reads_is_not_loud():
    def loud(**fields: object) -> bool:
        off = weight("w3", 10.0, **{k: v for k, v in fields.items() if k == "followed_by"})
        peers = [weight(f"w{i}") for i in range(3)]
        layers = (layer("l2", 1.0, "w2"), layer("l3", 1.0, "w3"))
        edges = fields.get("edges", {})
        (found,) = suspects(trace(*peers, off, weight("w4"), layers=layers, edges=edges))
        return found.loud

    assert loud()
    assert not loud(followed_by="norm")
    assert not loud(edges={"l3": ("l2",)})
    assert loud(edges={"l3": ("l2",), "out": ("l3",)})


def test_too_small_is_not_loud():
    assert not Suspect("w", "weight", -1.0, False, "").loud
    assert Suspect("b", "bias", -1.0, False, "").loud


def test_what_starts_earlier_wins_a_tie():
    found = suspects(trace(*(weight(f"w{i}", 10.0 if i in (2, 4) else 1.0) for i in range(7))))

    assert [s.name for s in found] == ["w2", "w4"]


def test_the_typical_deviation_is_that_of_the_weights_that_no_norm_absorbs():
    free = [weight(f"w{i}", 10.0**i) for i in range(3)]

    assert typical_deviation(trace(*free)) == pytest.approx(1.0)
    assert typical_deviation(trace(*free, *(weight(f"n{i}", 1e6, followed_by="norm") for i in range(9)))) == (
        pytest.approx(1.0)
    )
    assert typical_deviation(trace(vector("b", "bias", 1.0))) == 0.0


# -- growth over depth


def rows(values: list[float], kind: str = "activation", norm_at: int | None = None) -> Trace:
    parameters = [vector(f"w{i}", "norm-scale", 1.0) if i == norm_at else weight(f"w{i}") for i in range(len(values))]
    layers = tuple(
        layer(f"l{i}", v, f"w{i}") if kind == "activation" else layer(f"l{i}", 1.0, f"w{i}", gradient=v)
        for i, v in enumerate(values)
    )
    return trace(*parameters, layers=layers)


def test_a_constant_rate_is_read_in_the_direction_in_which_the_signal_travels():
    forward = growth(rows([2.0**i for i in range(8)]))
    backward = growth(rows([2.0**i for i in range(8)], "gradient"), "gradient")

    assert forward is not None
    assert backward is not None
    assert (forward.factor, forward.steps, forward.steadiness) == (pytest.approx(2.0), 7, 1.0)
    assert (forward.first, forward.last) == ("l0", "l7")
    assert backward.factor == pytest.approx(0.5)
    assert (backward.first, backward.last) == ("l7", "l0")


def test_a_last_layer_that_leaves_the_line_does_not_bend_it():
    found = growth(rows([*(0.1**i for i in range(8)), 1.0]))

    assert found is not None
    assert found.factor == pytest.approx(0.1)
    assert found.steadiness == pytest.approx(7 / 8)


def test_a_norm_starts_a_new_run_and_short_runs_have_no_rate():
    assert growth(rows([2.0**i for i in range(4)])) is None
    assert growth(rows([2.0**i for i in range(9)], norm_at=4)) is None
    found = growth(rows([2.0**i for i in range(10)], norm_at=4))
    assert found is not None
    assert (found.first, found.last) == ("l5", "l9")
