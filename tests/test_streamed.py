"""Drawn one block at a time or whole: the same report, to the last statistic, for healthy and for sick inits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_initcheck import Report, check_init
from pytest_initcheck.examine import examine
from pytest_initcheck.measured import Request
from pytest_initcheck.report import plain
from pytest_initcheck.settings import Settings
from pytest_initcheck.streaming import recall
from pytest_initcheck.streaming.stream import drawn_whole, streamable

D, VOCABULARY = 32, 60

Init = Callable[[nn.Module], None]


class Attention(nn.Module):
    def __init__(self, bias: bool, causal: bool):
        super().__init__()
        self.qkv, self.out, self.causal = nn.Linear(D, 3 * D, bias=bias), nn.Linear(D, D, bias=bias), causal

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(a, b, bias=False) for a, b in ((D, 2 * D), (D, 2 * D), (2 * D, D)))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, norm: type[nn.Module], mlp: nn.Module, *, bias: bool, causal: bool):
        super().__init__()
        self.norm1, self.norm2 = norm(D), norm(D)
        self.attention, self.mlp = Attention(bias, causal), mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(D, 2 * D), nn.GELU(), nn.Linear(2 * D, D))


class Initialized(nn.Module):
    """Its init function is given, and is called on one module, as transformers' is."""

    def __init__(self, init: Init):
        super().__init__()
        self.init = init

    def _init_weights(self, module: nn.Module) -> None:
        self.init(module)


class Llama(Initialized):
    def __init__(self, init: Init):
        super().__init__(init)
        self.embed = nn.Embedding(VOCABULARY, D)
        self.layers = nn.ModuleList(Block(nn.RMSNorm, Gated(), bias=False, causal=True) for _ in range(3))
        self.norm, self.head = nn.RMSNorm(D), nn.Linear(D, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class GPT2(Initialized):
    def __init__(self, init: Init):
        super().__init__(init)
        self.tokens, self.places, self.drop = nn.Embedding(VOCABULARY, D), nn.Embedding(16, D), nn.Dropout(0.1)
        self.h = nn.ModuleList(Block(nn.LayerNorm, perceptron(), bias=True, causal=True) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.drop(self.tokens(ids) + self.places.weight[: ids.shape[1]])
        for block in self.h:
            x = block(x)
        return self.head(self.norm(x))


class ViT(Initialized):
    def __init__(self, init: Init):
        super().__init__(init)
        self.patches, self.token = nn.Conv2d(3, D, 8, 8), nn.Parameter(torch.zeros(1, 1, D))
        self.places = nn.Parameter(torch.randn(1, 17, D) * 0.02)
        self.blocks = nn.Sequential(*(Block(nn.LayerNorm, perceptron(), bias=True, causal=False) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])


INPUTS = {Llama: "4x8:int64", GPT2: "4x8:int64", ViT: "4x3x32x32"}


def normal(module: nn.Module, std: float = 0.1) -> None:
    if isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d):
        nn.init.normal_(module.weight, std=std)
    if isinstance(bias := getattr(module, "bias", None), Tensor):
        nn.init.zeros_(bias)


def constant(module: nn.Module) -> None:
    normal(module)
    if isinstance(module, nn.Linear):
        nn.init.constant_(module.weight, 0.01)


def not_a_number(module: nn.Module) -> None:
    normal(module)
    if isinstance(module, nn.Linear) and module.out_features == D:
        with torch.no_grad():
            module.weight[0, 0] = math.nan


def silent_norms(module: nn.Module) -> None:
    normal(module)
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        nn.init.zeros_(module.weight)


def dead(module: nn.Module) -> None:
    normal(module)
    if isinstance(module, nn.Linear) and module.out_features == 2 * D and module.bias is not None:
        nn.init.constant_(module.bias, -30)


def closed(module: nn.Module) -> None:
    normal(module)
    if isinstance(module, nn.Linear) and module.out_features == D:
        nn.init.zeros_(module.weight)


INITS: dict[str, Init] = {
    "healthy": normal,
    "overflowing": partial(normal, std=1e30),
    "tiny": partial(normal, std=1e-6),
    "zero": partial(normal, std=0.0),
    "constant": constant,
    "not a number": not_a_number,
    "silent norms": silent_norms,
    "dead": dead,
    "closed": closed,
}


def numbers(report: Report) -> dict[str, Any]:
    """Every number and word of trace and response, without what a fit says and what was not seen."""
    trace, response = plain(report.trace), plain(report.response)
    for key in ("unseen", "seconds"):
        del trace[key]
    for key in ("residual", "fit_steps", "token_fit", "cut"):
        del response[key]
    for layer in trace["layers"].values():
        del layer["histogram"]
    return dict(_flat([trace, response], ""))


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _flat(item, f"{name}[{index}]")
    else:
        yield name, value


def assert_same_numbers(streamed: Report, whole: Report) -> None:
    found, wanted = numbers(streamed), numbers(whole)
    assert found == {k: pytest.approx(v, rel=1e-5) if isinstance(v, float) else v for k, v in wanted.items()}


def assert_alike(streamed: Report, whole: Report) -> None:
    assert_same_numbers(streamed, whole)
    told = [
        # how severe silence is, and what of it is blamed, a fit decides where no gradient is exactly zero
        [(f.rule, "", f.layers[:1]) if f.rule == "unresponsive" else (f.rule, f.severity, f.layers) for f in r.findings]
        for r in (streamed, whole)
    ]
    assert sorted(told[0]) == sorted(told[1])


def both(factory: Callable[[], nn.Module], inputs: str, **settings: Any) -> tuple[Report, Report]:
    streamed = check_init(factory, inputs, stream=True, **settings)
    model = drawn_whole(factory, Request(inputs, None, Settings.of({"stream": True, **settings})))
    with pytest.MonkeyPatch.context() as patch:  # the layer that a fix cures is named first, and streamed none is tried
        patch.setattr("pytest_initcheck.examine.mend", lambda _model, _trace, findings, *_, **__: findings)
        return streamed, examine(model, Request(inputs, settings=Settings.of(settings), race="none"))


@pytest.mark.always(
    "Llama-healthy",
    "Llama-tiny",
    "Llama-zero",
    "Llama-constant",
    "Llama-overflowing",
    "Llama-not a number",
    "Llama-silent norms",
    "Llama-dead",
    "GPT2-healthy",
    "ViT-healthy",
    "GPT2-tiny",
    "ViT-tiny",
)
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("model", [Llama, GPT2, ViT])
def test_the_same_report(model: type[Initialized], init: str):
    streamed, whole = both(partial(model, INITS[init]), INPUTS[model])

    assert_alike(streamed, whole)
    assert (init == "healthy") <= streamed.ok
    assert "were drawn one at a time" in streamed.trace.unseen[-1]


def test_what_makes_an_output_loud_is_the_same():
    streamed, whole = both(partial(Llama, partial(normal, std=5.0)), INPUTS[Llama])

    assert_same_numbers(streamed, whole)  # a fit has more to say of the whole
    assert all(p.pull is not None for p in streamed.trace.parameters.values())


@pytest.mark.parametrize("model", [Llama, GPT2, ViT])
def test_the_same_report_with_blocks_run_again(model: type[Initialized], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recall, "KEPT", 0)

    assert_alike(*both(partial(model, normal), INPUTS[model]))


@pytest.mark.parametrize(
    "settings", [{"dtype": "bfloat16"}, {"dtype": "float16"}, {"mode": "eval"}, {"seed": 7}], ids=str
)
def test_the_same_report_under_settings(settings: dict[str, Any]):
    assert_alike(*both(partial(GPT2, normal), "4x8:int64", **settings))


def test_the_same_report_with_a_loss():
    def loss(output: Tensor) -> Tensor:
        return output.square().mean()

    factory = partial(Llama, normal)
    streamed = check_init(factory, "4x8:int64", loss=loss, stream=True)
    model = drawn_whole(factory, Request(settings=Settings.of({"stream": True})))

    assert_alike(streamed, examine(model, Request("4x8:int64", loss, race="none")))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.norm(self.conv(x)))


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3), nn.Sequential(*(Residual() for _ in range(3)))
        self.head = nn.Linear(8, 4)
        for p in self.body[0].parameters():
            p.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.GRU(8, 8, batch_first=True) for _ in range(2))
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)[0]
        return self.head(x[:, -1])


class Skipping(Llama):
    """Uses one of its blocks never, and cuts the graph behind another."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(self.norm(self.layers[2](self.layers[0](x).detach())))


@pytest.mark.parametrize(
    ("factory", "inputs"),
    [(Convolutions, "4x3x8x8"), (Recurrent, "4x5x8"), (partial(Skipping, normal), "4x8:int64")],
    ids=["batch norm, frozen", "recurrent, parametrized", "unused and cut off"],
)
def test_the_same_report_of_other_kinds(factory: Callable[[], nn.Module], inputs: str):
    assert_alike(*both(factory, inputs))


def test_a_healthy_model_is_drawn_at_most_three_times(monkeypatch: pytest.MonkeyPatch):
    made: list[Any] = []

    def noted(*arguments: Any) -> Any:
        made.append(streamable(*arguments))
        return made[-1]

    monkeypatch.setattr("pytest_initcheck.streaming.stream.streamable", noted)

    report = check_init(partial(Llama, normal), "4x8:int64", stream="layers.*")

    weights, _, model = made[0]
    assert report.ok
    assert weights.drawn <= 3 * sum(p.numel() for p in model.parameters())
