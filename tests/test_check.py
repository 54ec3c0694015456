"""check_init and assert_healthy_init from outside: what they accept, say, refuse, and leave as it was."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_initcheck import (
    ProbeError,
    Report,
    SettingsError,
    UnhealthyInit,
    assert_healthy_init,
    check_init,
)
from pytest_initcheck.records import Seeds
from pytest_initcheck.rules.named import worst_layers


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(inplace=True),
        nn.Dropout(0.2),
        nn.Linear(32, 32),
        nn.Tanh(),
        nn.Linear(32, 4),
    )


def dead() -> nn.Sequential:
    model = net()
    with torch.no_grad():
        model[4].bias.fill_(30.0)
    return model


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...]


class Wrapped(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body, self.kind = net(), kind

    def forward(self, x: Tensor) -> Any:
        y = self.body(x)
        return {"tuple": (y, [y * 2]), "dict": {"out": y}, "dataclass": Output(y, (y,))}[self.kind]


class Raises(nn.Module):
    def __init__(self, at: int) -> None:
        super().__init__()
        self.body, self.at, self.calls = (
            net(),
            at,
            iter(range(1, 100)),
        )  # an iterator: the guard would set a number back

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if next(self.calls) >= self.at:
            raise RuntimeError("not today")
        return y


class Explodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        raise RuntimeError("no way back")


class BackwardRaises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, x: Tensor) -> Tensor:
        return Explodes.apply(self.body(x))


X = torch.randn(16, 16, generator=torch.Generator().manual_seed(3))


def state(model: nn.Module, *tensors: Tensor) -> list[Any]:
    """Everything that a probe might change, as plain data."""
    return [
        [
            (n, p.detach().numpy().tobytes(), p.requires_grad, id(p), id(p.grad), p._version)
            for n, p in model.named_parameters()
        ],
        [(n, b.numpy().tobytes(), id(b)) for n, b in model.named_buffers()],
        [
            (n, m.training, sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks))
            for n, m in model.named_modules()
        ],
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        [(t.detach().numpy().tobytes(), t.requires_grad) for t in tensors],
    ]


@pytest.fixture
def unchanged() -> Iterator[Any]:
    kept: list[tuple[nn.Module, tuple[Tensor, ...], list[Any]]] = []

    def watch(model: nn.Module, *tensors: Tensor) -> nn.Module:
        kept.append((model, tensors, state(model, *tensors)))
        return model

    yield watch
    for model, tensors, before in kept:
        assert state(model, *tensors) == before


@pytest.mark.parametrize("make", [net, dead], ids=["healthy", "sick"])
@pytest.mark.parametrize("mode", ["train", "eval", "as-is"])
def test_nothing_of_the_users_changes(make: Any, mode: str, unchanged: Any) -> None:
    model = make()
    model[3].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)

    check_init(unchanged(model, X), X, mode=mode)


@pytest.mark.parametrize("at", [1, 2])
def test_nothing_changes_when_a_forward_raises_on_some_pass(at: int, unchanged: Any) -> None:
    with pytest.raises(ProbeError, match="not today"):
        check_init(unchanged(Raises(at), X), X)


def test_nothing_changes_when_backward_raises(unchanged: Any) -> None:
    with pytest.raises(ProbeError, match="no way back"):
        check_init(unchanged(BackwardRaises(), X), X)


@hypothesis_settings(max_examples=8, deadline=None)
@given(
    scale=st.sampled_from([0.0, 1e-3, 1.0, 1e3, 1e20]),
    frozen=st.booleans(),
    training=st.booleans(),
    grad=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_state_is_bit_equal_whatever_the_model(
    scale: float, frozen: bool, training: bool, grad: bool, seed: int
) -> None:
    model = net().train(training)
    with torch.no_grad():
        model[4].weight.mul_(scale)
    model[0].weight.requires_grad_(not frozen)
    if grad:
        model[6].bias.grad = torch.ones(4)
    torch.manual_seed(seed)
    before = state(model, X)

    check_init(model, X, seed=seed % 1000)

    assert state(model, X) == before


def test_the_same_seed_gives_the_same_report() -> None:
    first, second = (check_init(net(), X).to_dict() for _ in range(2))
    for report in (first, second):
        report["trace"]["seconds"] = {}

    assert first == second


@pytest.mark.parametrize("kind", ["tuple", "dict", "dataclass"])
def test_outputs_of_any_shape(kind: str) -> None:
    assert check_init(Wrapped(kind), X).ok


@pytest.mark.parametrize("inputs", [X, (X,), {"input": X}, ({"input": X},), lambda: X, "16x16", None], ids=range(7))
def test_inputs_in_every_form(inputs: Any) -> None:
    assert check_init(net(), inputs).ok


def test_the_readme_example_reads_as_it_says() -> None:
    report = check_init(dead(), X)
    finding = report.findings[0]

    assert isinstance(report, Report)
    assert not report.ok
    assert (finding.rule, finding.severity, finding.layers[0]) == ("unresponsive", "error", "4.bias")
    assert finding.evidence["movement"] < 1e-6
    assert "starts at 30" in finding.cause
    assert "zeros_(model.get_parameter('4.bias'))" in finding.fix
    assert report.layers["5"].activation.std < 1e-3
    assert report.to_dict()["schema_version"] == 3


def test_the_fix_that_is_offered_works() -> None:
    model = dead()
    report = check_init(model, X)

    exec(report.findings[0].fix, {"torch": torch, "model": model})

    assert check_init(model, X).ok


def test_assert_raises_with_the_report_as_its_message() -> None:
    with pytest.raises(UnhealthyInit) as caught:
        assert_healthy_init(dead(), X)

    assert isinstance(caught.value, AssertionError)
    assert caught.value.report is not None
    assert str(caught.value) == str(caught.value.report)
    assert "unresponsive at 4.bias" in str(caught.value).splitlines()[0]


def test_silenced_findings_do_not_fail_and_are_kept() -> None:
    report = check_init(dead(), X, ignore=["unresponsive:4.*", "input-blind", "nonzero-bias"])

    assert report.ok
    assert {f.rule for f in report.ignored} >= {"unresponsive"}


@pytest.mark.parametrize(("shift", "blind"), [(9.0, True), (0.0, False)])
def test_what_was_judged_of_one_sample_is_not_said_not_to_have_been(shift: float, blind: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    with torch.no_grad():
        model[0].weight.mul_(1e-9 if blind else 1.0)
        model[0].bias.fill_(shift)

    report = check_init(model, torch.randn(1, 8))

    assert ("input-blind" in {f.rule for f in report.findings}) is blind
    (told,) = [remark for remark in report.trace.unseen if remark.startswith("one sample:")]
    assert "input-blind" not in told


def test_one_sample_of_integers_is_not_judged_for_following_them() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.float())

    report = check_init(Counts(), torch.arange(8).unsqueeze(0))

    assert any(told.startswith("one sample:") and "input-blind" in told for told in report.trace.unseen)


@pytest.mark.parametrize(("fail_on", "ok"), [("error", True), ("warning", False), ("never", True)])
def test_fail_on_decides_what_fails(fail_on: str, ok: bool) -> None:
    model = net()
    with torch.no_grad():
        model[4].bias.fill_(3.5)

    assert check_init(model, X, fail_on=fail_on).ok is ok


def test_never_does_not_fail_an_error_either() -> None:
    assert check_init(dead(), X, fail_on="never").ok


def test_bounds_are_per_layer_and_the_last_glob_wins() -> None:
    model = net()

    assert check_init(model, X, activation_std=(1e-2, 1e2)).ok
    tight = check_init(model, X, activation_std={"*": (0.9, 1.1), "[1-9]*": (None, None), "(model)": (None, None)})
    assert [f.layers for f in tight.findings if f.severity == "error"] == [("0",)]


def test_a_loss_of_the_users_is_the_backward_signal() -> None:
    report = check_init(net(), X, loss=lambda y: y.square().mean())

    assert report.ok
    assert report.trace.loss is not None


def test_in_inference_mode_the_same_is_said() -> None:
    model = net()
    with torch.inference_mode():
        report = check_init(model, X)

    assert report.findings == check_init(model, X).findings


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_init(net(), X, ignore=["no-such-rule"]), "ignore names the unknown rule 'no-such-rule'"),
        (lambda: check_init(net(), X, ignore=["dead-units:head.*"]), "which match nothing in this model"),
        (
            lambda: check_init(net(), X, activation_std={"hed": (0, 1)}),
            "activation_std names layers 'hed', which match nothing",
        ),
        (lambda: check_init(net(), X, frozen=["backbone.*"]), "frozen names layers 'backbone.*', which match nothing"),
        (lambda: check_init(net(), X, mode="training"), "mode must be one of train, eval, as-is (got 'training')"),
        (lambda: check_init(net(), X, sed=1), "unknown setting sed"),
        (lambda: check_init(net(), X, device="nowhere"), "device 'nowhere' cannot be used here"),
        (lambda: check_init(net(), X, dtype="int8"), "dtype must be a floating dtype"),
        (lambda: check_init(net(), X, seeds=3), "seeds needs a factory"),
        (lambda: check_init(net(), X, deferred="init_weights"), "deferred needs a factory"),
        (lambda: check_init(3, X), "model must be an nn.Module or a zero-argument factory (got int)"),
        (lambda: check_init(lambda: 3, X), "the factory must return an nn.Module (it returned int)"),
        (lambda: check_init(net(), torch.randn(4, 5)), "at layer 0"),
        (lambda: check_init(net(), X, loss=lambda y: y), "the loss must return one scalar tensor"),
        (lambda: check_init(nn.ReLU(), X), "ReLU has no parameters"),
    ],
    ids=range(15),
)
def test_bad_input_is_one_clear_sentence(call: Any, message: str) -> None:
    with pytest.raises((SettingsError, ProbeError)) as caught:
        call()

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_forward_that_raises_names_the_layer() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(16, 8), nn.Linear(9, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    with pytest.raises(ProbeError) as caught:
        check_init(Late(), X)

    assert caught.value.layer == "second"
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_copy_is_probed_where_another_dtype_is_asked_for() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())

    report = check_init(model, X, dtype="float64")

    assert report.trace.dtype == "float64"
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in model.state_dict().items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str) -> None:
    assert check_init(net(), X, dtype=dtype).ok


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_samples_are_said_and_fail_nothing(value: float) -> None:
    report = check_init(net(), torch.full((8, 16), value))

    assert report.ok
    assert "equal-samples" in {f.rule for f in report.findings if f.severity == "warning"}


def test_several_seeds_give_the_spread_of_every_layer() -> None:
    report = check_init(net, X, seeds=4)

    low, middle, high = report.spread["0"]
    assert low <= middle <= high
    assert report.seeds == Seeds(count=4, sick=())


def test_sick_seeds_are_named() -> None:
    def flaky() -> nn.Module:
        shut = int(torch.randint(3, ())) == 0
        model = net()
        if shut:
            nn.init.constant_(model[1].bias, -30.0)
        return model

    report = check_init(flaky, X, seeds=8)

    assert report.seeds is not None
    assert report.seeds.count == 8
    assert 0 < len(report.seeds.sick) < 8
    for seed in range(8):
        assert check_init(flaky, X, seed=seed).ok is (seed not in report.seeds.sick)
    assert check_init(flaky, X).seeds is None


def test_each_answer_stands_where_it_belongs_and_has_its_type() -> None:
    torch.manual_seed(0)
    slow = nn.Sequential(*(m for _ in range(20) for m in (nn.Linear(16, 16), nn.Tanh())), nn.Linear(16, 3))
    for p in slow.parameters():
        p.data.mul_(0.1)
    healthy = check_init(net(), X, loss=lambda y: y.square().mean() + 2)
    dead, equal = check_init(slow, X), check_init(net(), torch.ones(8, 16))

    assert healthy.trace.loss_of_zero_output == pytest.approx(2)
    assert (healthy.response.fit_steps, healthy.response.token_fit, healthy.trace.equal_samples) == (None, None, False)
    assert 0 < (healthy.response.output_centred_rms or 0) <= (healthy.response.output_rms or 0)
    assert (type(dead.response.fit_steps), dead.response.token_fit, dead.response.unit) == (int, False, 1.0)
    assert dead.trace.loss_of_zero_output is None
    assert equal.trace.equal_samples is True


def test_a_factory_builds_under_the_seed_and_leaves_the_generators() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))

    one, two, other = (check_init(make, X, seed=s).parameters["0.weight"].value for s in (1, 1, 2))

    assert one == two != other
    assert torch.equal(torch.get_rng_state(), before)


def test_memory_that_was_never_written_is_found_in_buffers_and_integers_too() -> None:
    class Holes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(16, 4)
            self.register_buffer("count", torch.empty(3, dtype=torch.int64))
            self.register_buffer("scale", torch.Tensor(4))
            self.table = nn.Parameter(torch.empty_like(self.fc.bias))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x)

    report = check_init(Holes, X)

    named = {f.layers[0] for f in report.findings if f.rule == "uninitialized-parameter"}
    assert named == {"count", "scale", "table"}
    assert not torch.are_deterministic_algorithms_enabled()


class Closed(nn.Module):
    """Its relu, a function and no module, lets nothing through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)
        nn.init.constant_(self.norm.bias, -9.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.dropout(torch.relu(self.norm(self.first(x)))))


def test_the_layers_that_findings_name_have_histograms():
    model = Closed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()

    report = check_init(model, torch.randn(32, 8, generator=torch.Generator().manual_seed(0)))

    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    named = worst_layers(report.trace, report.findings)
    varied = [name for name in named if report.layers[name].activation.std > 0]
    assert varied
    assert [name for name, layer in report.layers.items() if layer.histogram] == sorted(
        varied, key=list(report.layers).index
    )
    for name in varied:
        layer = report.layers[name]
        assert layer.histogram is not None
        assert sum(layer.histogram.counts) == layer.activation.count
        # The second probe saw what the first one measured.
        assert (layer.histogram.low, layer.histogram.high) == (layer.activation.min, layer.activation.max)
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_a_healthy_model_has_none():
    report = check_init(net, torch.randn(32, 16, generator=torch.Generator().manual_seed(0)))

    assert report.ok
    assert not report.findings
    assert [layer for layer in report.layers.values() if layer.histogram] == []


def test_what_construction_left_is_told_by_a_field_and_not_by_a_name():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_parameter("w (deferred)", nn.Parameter(torch.empty(8, 4)))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.get_parameter("w (deferred)")

    (found,) = [f for f in check_init(Net, "4x8").findings if f.rule == "uninitialized-parameter"]

    assert found.cause.startswith("allocated with torch.empty")
