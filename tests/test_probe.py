"""The probe on models of every awkward kind: what it records, and that it survives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pytest_initcheck import ProbeError
from pytest_initcheck.models.inputs import resolve_inputs
from pytest_initcheck.probing.guard import untouched
from pytest_initcheck.probing.probe import Probed, float_outputs, run_probe


def probe(model: nn.Module, inputs: Any = None, **options: Any) -> Probed:
    call = resolve_inputs(model, inputs)
    with untouched(model, tensors=call.tensors) as guard:
        probed = run_probe(model, call, guard=guard, **options)
        again = probed.rerun()
        assert [t.shape for t in again] == [t.shape for t in probed.outputs]
        for one, other in zip(again, probed.outputs, strict=True):
            torch.testing.assert_close(one.detach(), other, equal_nan=True)
        return probed


class Stack(nn.Module):
    """``depth`` fresh weights of one kind, one activation behind each."""

    def __init__(self, depth: int, fill: Callable[[Tensor], Tensor], act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(fill(torch.empty(512, 512)) for _ in range(depth))
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        for w in self.weights:
            x = self.act(F.linear(x, w))
        return x


@dataclass
class Answer:
    logits: Tensor
    note: str


class TestArticle:
    def test_the_first_layer_that_is_not_finite_is_the_29th(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(512, 512, bias=False) for _ in range(100)))
        for p in model.parameters():
            nn.init.normal_(p)
        x = torch.randn(1, 512)
        bad = [r for r in probe(model, x).trace.layers.values() if r.leaf and math.isnan(r.activation.std)]
        # The article's index 28 is where float32's std overflows, in the squares; values themselves go on to 1e38.
        with torch.no_grad():
            y, first = x, None
            for i, layer in enumerate(model):
                y = layer(y)
                if first is None and not torch.isfinite(y).all():
                    first = i
        assert bad[0].name == str(first) == "28"
        assert bad[0].activation.finite is False

    def test_vanishing_weights_keep_their_magnitudes_down_to_the_smallest_number(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(512, 512, bias=False) for _ in range(100)))
        for p in model.parameters():
            nn.init.normal_(p, std=0.01)
        rows = list(probe(model, "8x512").trace.layers.values())
        for i in range(40):
            assert rows[i].activation.std == pytest.approx((0.01 * math.sqrt(512)) ** (i + 1), rel=0.5)
        assert rows[99].activation.rms == 0
        assert rows[99].activation.zeros == 1

    def test_tanh_under_the_old_heuristic_ends_near_1e_minus_24(self) -> None:
        torch.manual_seed(0)
        bound = 1 / math.sqrt(512)
        model = Stack(100, lambda w: w.uniform_(-bound, bound), torch.tanh)
        last = list(probe(model, "1x512").trace.layers.values())[-1]
        assert 3e-25 < last.activation.std < 4e-24


class InPlace(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(7200, 3))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.fc(x)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.head = nn.Linear(6, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


class Raw(nn.Module):
    """Parameters without modules, one of each orientation."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(5, 6))
        self.b = nn.Parameter(torch.randn(5, 7))
        self.c = nn.Parameter(torch.randn(7, 8))
        self.scale = nn.Parameter(torch.ones(8))
        self.unused = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(F.linear(x, self.a))
        x = torch.einsum("bi,io->bo", x, self.b).tanh()
        return F.layer_norm(x @ self.c, (8,), self.scale)


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 6).requires_grad_(False)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class NoGradPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.body(x)
        return self.head(x)


class Outputs(nn.Module):
    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        y = self.fc(x)
        return self.wrap(y, y.square().mean())


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(5, 7, batch_first=True)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        return self.head(y[:, -1])


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.block = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(6, 2)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.block, self.first(x), use_reentrant=self.reentrant))


class Entered(Checkpointed):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.block, x, use_reentrant=False))


class ComplexWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 4, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.complex64) @ self.w


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g * 2


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return Double.apply(self.fc(x))


class Vmapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(lambda row: torch.relu(self.fc(row)))(x)


AWKWARD: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "in-place": (InPlace, "4x3x32x32"),
    "twice": (Twice, None),
    "tied": (Tied, None),
    "raw parameters": (Raw, "4x6"),
    "frozen": (Frozen, None),
    "no_grad part": (NoGradPart, None),
    "tuple": (lambda: Outputs(lambda y, s: (y, s)), None),
    "dict": (lambda: Outputs(lambda y, s: {"loss": s, "logits": y}), None),
    "dataclass": (lambda: Outputs(lambda y, s: Answer(y, "fine")), None),
    "object": (lambda: Outputs(lambda y, s: SimpleNamespace(y=y, ids=y.argmax(1))), None),
    "scalar": (lambda: Outputs(lambda y, s: s), None),
    "nested": (lambda: Outputs(lambda y, s: [None, {"a": (y,)}, y.detach()]), None),
    "lstm": (lambda: Recurrent(nn.LSTM), None),
    "gru": (lambda: Recurrent(nn.GRU), None),
    "rnn": (lambda: Recurrent(nn.RNN), None),
    "bare lstm": (lambda: nn.LSTM(5, 7), None),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3)), "4x3x8x8"),
    "attention layer": (lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), None),
    "encoder, sequence first": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32), 2), None),
    "weight norm": (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.ReLU()), "4x6"),
    "spectral norm": (lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5))), "4x6"),
    "checkpoint": (lambda: Checkpointed(False), "4x6"),
    "checkpoint that inputs enter": (lambda: Entered(False), "4x6"),
    "reentrant checkpoint": (lambda: Checkpointed(True), "4x6"),
    "bfloat16": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).bfloat16(), None),
    "float16": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).half(), None),
    "float64": (lambda: nn.Sequential(nn.Linear(6, 8)).double(), torch.randn(4, 6, dtype=torch.float64)),
    "complex": (ComplexWeights, "4x6"),
    "custom function": (Custom, None),
    "vmap": (Vmapped, None),
    "script": (lambda: torch.jit.script(nn.Sequential(nn.Linear(6, 8), nn.ReLU())), "4x6"),
    "data parallel": (lambda: nn.DataParallel(nn.Linear(6, 2)), "4x6"),
    "transposed convolution": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 4, stride=2), nn.ReLU()), "4x3x8x8"),
    "empty batch norm": (lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout()), None),
    "embedding bag": (lambda: nn.Sequential(nn.EmbeddingBag(10, 6), nn.Linear(6, 2)), None),
    "max norm": (lambda: nn.Sequential(nn.Embedding(10, 6, max_norm=0.1), nn.Linear(6, 2)), None),
    "channels last": (lambda: InPlace().to(memory_format=torch.channels_last), "4x3x32x32"),
    "one sample": (Twice, "1x6"),
}


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script.*:DeprecationWarning", "ignore:.*enable_nested_tensor.*:UserWarning"
)
def test_awkward(name: str) -> None:
    torch.manual_seed(0)
    build, inputs = AWKWARD[name]
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items() if not hasattr(v, "materialize")}
    trace = probe(model, inputs).trace
    for key, value in model.state_dict().items():
        if key in before:
            assert torch.equal(value, before[key]), f"{key} changed"
    assert trace.layers
    assert trace.parameters
    assert trace.output is not None
    assert trace.output.finite
    assert trace.output.rms > 0
    assert any(r.gradient is not None and r.gradient.rms > 0 for r in trace.layers.values())
    assert any(p.gradient is not None and p.gradient.rms > 0 for p in trace.parameters.values())
    assert [r.index for r in trace.layers.values()] == list(range(len(trace.layers)))
    assert all(key == r.name for key, r in trace.layers.items())


class TestRecords:
    def test_a_module_called_twice_is_two_layers(self) -> None:
        layers = probe(Twice(), "4x6").trace.layers
        assert list(layers) == ["fc", ":relu", "fc#2", "(model)"]
        assert layers["fc"].followed_by == "relu"
        assert layers["fc#2"].followed_by == "none"
        assert layers["(model)"].leaf is False

    def test_an_activation_module_is_one_layer_and_a_function_is_one(self) -> None:
        layers = probe(nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 2)), "4x6").trace.layers
        assert [(r.name, r.kind, r.leaf) for r in layers.values()] == [
            ("0", "Linear", True),
            ("1", "GELU", True),
            ("2", "Linear", True),
            ("(model)", "Sequential", False),
        ]

    def test_tied_weights_are_one_parameter_with_an_alias(self) -> None:
        parameters = probe(Tied()).trace.parameters
        assert list(parameters) == ["embed.weight"]
        assert parameters["embed.weight"].aliases == ("head.weight",)

    def test_raw_parameters(self) -> None:
        trace = probe(Raw(), "4x6").trace
        shown = {n: (p.role, p.fan_in, p.fan_out, p.followed_by, p.reached) for n, p in trace.parameters.items()}
        assert shown == {
            "a": ("weight", 6, 5, "gelu", True),
            "b": ("weight", 5, 7, "tanh", True),
            "c": ("weight", 7, 8, "norm", True),
            "scale": ("norm-scale", None, None, "norm", True),
            "unused": ("other", None, None, None, False),
        }
        assert [r.parameters for r in trace.layers.values() if r.functional] == [
            ("a",), (), ("b",), (), ("c",), ("scale",)
        ]  # fmt: skip

    def test_statistics_are_those_of_the_tensors(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        x = torch.randn(16, 6)
        probed = probe(model, x)
        hidden = torch.relu(model[0](x)).detach()
        record = probed.trace.layers["1"]
        assert record.activation.mean == pytest.approx(float(hidden.mean()), rel=1e-5)
        assert record.activation.std == pytest.approx(float(hidden.std()), rel=1e-5)
        assert record.activation.rms == pytest.approx(float(hidden.square().mean().sqrt()), rel=1e-5)
        assert record.activation.zeros == pytest.approx(float((hidden == 0).double().mean()))
        assert record.dead_units == pytest.approx(float((hidden == 0).all(0).double().mean()))
        g = probed.cotangents[0] @ model[2].weight.detach()
        assert record.gradient is not None
        assert record.gradient.rms == pytest.approx(float(g.square().mean().sqrt()), rel=1e-5)
        assert probed.trace.layers["0"].input_rms == pytest.approx(float(x.square().mean().sqrt()), rel=1e-5)
        assert probed.trace.layers["2"].input_rms == pytest.approx(record.activation.rms, rel=1e-6)

    def test_the_cotangent_is_centred_and_of_unit_rms(self) -> None:
        (cotangent,) = probe(nn.Linear(6, 5), "16x6").cotangents
        assert float(cotangent.mean(0).abs().max()) < 1e-8
        assert float((cotangent * cotangent.numel()).square().mean().sqrt()) == pytest.approx(1, rel=1e-5)

    def test_in_place_activations_do_not_overwrite_what_was_measured(self) -> None:
        layers = probe(InPlace(), "4x3x32x32").trace.layers
        assert layers["1"].activation.min < 0
        assert layers["2"].activation.min == 0
        assert all(layers[str(i)].gradient is not None for i in range(5))

    def test_dead_units_are_counted_along_the_units(self) -> None:
        torch.manual_seed(0)
        conv = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))
        conv[0].bias.data[:2] = -100
        assert probe(conv, "4x3x8x8").trace.layers["1"].dead_units == 0.25
        mlp = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        mlp[0].bias.data[:4] = -100
        assert probe(mlp, "4x5x6").trace.layers["1"].dead_units == 0.5

    def test_saturation(self) -> None:
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        model[0].bias.data[:2] = 50
        saturated = probe(model, "4x6").trace.layers["1"].saturated
        assert saturated is not None
        assert saturated >= 0.25

    @pytest.mark.parametrize(
        ("act", "name"),
        [
            (nn.ReLU(), "relu"), (nn.LeakyReLU(), "leaky_relu"), (nn.GELU(), "gelu"), (nn.SiLU(), "silu"),
            (nn.Tanh(), "tanh"), (nn.Sigmoid(), "sigmoid"), (nn.SELU(), "selu"), (nn.ELU(), "elu"),
            (nn.Softplus(), "softplus"), (nn.Softmax(-1), "softmax"), (nn.LayerNorm(8), "norm"), (nn.Dropout(), "none"),
            (nn.BatchNorm1d(8), "norm"), (nn.RMSNorm(8), "norm"), (nn.ReLU6(), "relu"),
        ],
    )  # fmt: skip
    def test_followed_by(self, act: nn.Module, name: str) -> None:
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.1), act, nn.Linear(8, 2))
        assert probe(model, "4x6").trace.parameters["0.weight"].followed_by == name

    def test_a_residual_stream_is_no_nonlinearity_and_the_edges_show_it(self) -> None:
        class Residual(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(12, 6)

            def forward(self, x: Tensor) -> Tensor:
                return x + self.down(F.silu(self.up(self.norm(x))))

        trace = probe(nn.Sequential(nn.Linear(6, 6), Residual(), Residual(), nn.LayerNorm(6)), "4x6").trace
        assert trace.parameters["1.down.weight"].followed_by == "none"
        assert trace.parameters["2.down.weight"].followed_by == "norm"
        assert trace.parameters["1.up.weight"].followed_by == "silu"
        assert set(trace.edges["2"]) == {"1", "2.down"}

    def test_attention_weights_are_seen_through_the_graph(self) -> None:
        parameters = probe(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)).trace.parameters
        weight = parameters["self_attn.in_proj_weight"]
        assert (weight.role, weight.fan_in, weight.fan_out) == ("weight", 16, 48)
        assert parameters["self_attn.in_proj_bias"].role == "bias"
        assert parameters["norm1.weight"].role == "norm-scale"
        assert parameters["linear1.weight"].followed_by == "relu"

    def test_conv1d_as_a_matrix_product_has_its_fans_turned(self) -> None:
        class Turned(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight, self.bias = nn.Parameter(torch.randn(6, 24)), nn.Parameter(torch.zeros(24))

            def forward(self, x: Tensor) -> Tensor:
                return torch.addmm(self.bias, x, self.weight)

        parameters = probe(Turned(), "4x6").trace.parameters
        assert (parameters["weight"].fan_in, parameters["weight"].fan_out) == (6, 24)
        assert parameters["bias"].role == "bias"

    def test_fans_of_convolutions_and_recurrent_weights(self) -> None:
        conv = probe(nn.Conv2d(8, 16, 3, groups=4), "2x8x8x8").trace.parameters["weight"]
        assert (conv.fan_in, conv.fan_out) == (2 * 9, 16 * 9)
        turned = probe(nn.ConvTranspose2d(8, 16, 4, stride=2), "2x8x8x8").trace.parameters["weight"]
        assert (turned.fan_in, turned.fan_out) == (8 * 16 // 4, 16 * 16)
        lstm = probe(nn.LSTM(5, 7, batch_first=True)).trace.parameters
        assert (lstm["weight_ih_l0"].fan_in, lstm["weight_ih_l0"].fan_out) == (5, 7)
        assert (lstm["weight_hh_l0"].fan_in, lstm["weight_hh_l0"].fan_out) == (7, 7)
        assert lstm["bias_ih_l0"].role == "bias"

    def test_twin_rows(self) -> None:
        def share(model: nn.Module, inputs: str) -> float:
            return next(iter(probe(model, inputs).trace.parameters.values())).twin_rows

        torch.manual_seed(0)
        assert share(nn.Linear(64, 32), "4x64") == 0
        constant = nn.Linear(64, 32)
        nn.init.constant_(constant.weight, 0.1)
        assert share(constant, "4x64") == 1
        some = nn.Linear(64, 32)
        some.weight.data[8:16] = some.weight.data[:8]
        assert share(some, "4x64") == 0.5
        depthwise = nn.Conv2d(8, 8, 3, groups=8)
        nn.init.constant_(depthwise.weight, 0.1)
        assert share(depthwise, "4x8x8x8") == 0
        columns = nn.Parameter(torch.randn(64, 32))
        columns.data[:, 1] = columns.data[:, 0]

        class Turned(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.w = columns

            def forward(self, x: Tensor) -> Tensor:
                return x @ self.w

        assert share(Turned(), "4x64") == 2 / 32

    def test_parts_without_a_graph_are_said_to_be_unseen(self) -> None:
        layers = probe(NoGradPart(), "4x6").trace.layers
        assert layers["body"].opaque == "no gradient path"
        assert layers["body"].gradient is None
        assert layers["head"].opaque is None
        assert any("Double" in s for s in probe(Custom(), "4x6").trace.unseen)
        assert any("DataParallel" in s for s in probe(nn.DataParallel(nn.Linear(6, 2)), "4x6").trace.unseen)

    def test_recomputation_is_not_recorded_twice(self) -> None:
        for reentrant in (False, True):
            names = list(probe(Checkpointed(reentrant), "4x6").trace.layers)
            assert names == ["first", "block.0", "block.1", "block.2", "block", "head", "(model)"]

    def test_half_precision_gradients_do_not_underflow(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 512))
        exact = probe(model, "256x64").trace
        half = probe(model.half(), "256x64").trace
        for name, record in exact.parameters.items():
            got = half.parameters[name].gradient
            assert record.gradient is not None
            if record.gradient.rms < 1e-9:
                continue  # the last bias, whose gradient is the sum of a centred cotangent: rounding
            assert got is not None
            assert got.rms == pytest.approx(record.gradient.rms, rel=0.05)
        for name, layer in exact.layers.items():
            slope = half.layers[name].gradient
            assert slope is not None
            assert layer.gradient is not None
            assert slope.rms == pytest.approx(layer.gradient.rms, rel=0.05)

    def test_under_autocast(self) -> None:
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        with torch.autocast("cpu", torch.bfloat16):
            assert probe(model, "4x6").trace.layers["0"].dtype == "bfloat16"

    def test_a_loss_gives_the_signal(self) -> None:
        model = Outputs(lambda y, s: {"loss": s, "logits": y})
        probed = probe(model, "4x6", loss=lambda output: output["loss"])
        loss = probed.rerun_raw
        assert callable(loss)
        assert probed.trace.loss == pytest.approx(float(probed.outputs[0]))
        assert probed.primary == 1
        assert [c.shape for c in probed.cotangents] == [torch.Size([]), torch.Size([4, 4])]


class TestErrors:
    def test_no_parameters(self) -> None:
        with pytest.raises(ProbeError, match="has no parameters"):
            probe(nn.Flatten(), "2x3")

    def test_no_floating_output(self) -> None:
        with pytest.raises(ProbeError, match="no floating-point tensor"):
            probe(Outputs(lambda y, s: y.argmax(1)), "2x6")

    def test_everything_frozen(self) -> None:
        with pytest.raises(ProbeError, match="requires a gradient"):
            probe(nn.Linear(6, 2).requires_grad_(False), "2x6")

    def test_everything_detached(self) -> None:
        with pytest.raises(ProbeError, match="through the autograd graph"):
            probe(Outputs(lambda y, s: y.detach()), "2x6")

    def test_a_forward_that_raises_names_the_layer(self) -> None:
        model = nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.ReLU(), nn.Linear(9, 2)))
        with pytest.raises(
            ProbeError, match=r"forward of Sequential raised RuntimeError at layer 1\.1: mat1"
        ) as caught:
            probe(model, "2x6")
        assert caught.value.layer == "1.1"
        assert isinstance(caught.value.__cause__, RuntimeError)

    def test_a_backward_that_raises(self) -> None:
        class Broken(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                return x.clone()

            @staticmethod
            def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
                raise ValueError("no way back")

        with pytest.raises(ProbeError, match="backward of Outputs raised ValueError: no way back"):
            probe(Outputs(lambda y, s: Broken.apply(y)), "2x6")

    def test_a_loss_that_is_no_scalar(self) -> None:
        with pytest.raises(ProbeError, match="one scalar tensor"):
            probe(nn.Linear(6, 2), "2x6", loss=lambda output: output)


def test_float_outputs_are_in_order_and_real() -> None:
    a, b = torch.randn(2, requires_grad=True), torch.randn(2, dtype=torch.complex64)
    found = float_outputs({"x": [a, torch.tensor([1]), a], "y": b})
    assert found[0] is a
    assert found[1].shape == (2, 2)
