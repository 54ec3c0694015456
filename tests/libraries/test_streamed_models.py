"""transformers' Llama, GPT-2 and ViT at 100M parameters: one block at a time or whole, the same numbers and findings.

Whole, they are neither fitted nor mended here: neither is asked of a streamed model, and each takes a minute at this size. The
rules that a fit decides are compared on smaller models, in ``test_streamed.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import pytest
import torch
from torch import nn

from pytest_initcheck import Report, check_init
from pytest_initcheck.examine import examine
from pytest_initcheck.measured import Request
from pytest_initcheck.probing.probe import OutputChanged
from pytest_initcheck.report import plain
from pytest_initcheck.settings import Settings
from pytest_initcheck.streaming.stream import drawn_whole

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

D = 768

#: Class, configuration, inputs.
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "Llama": (
        "LlamaForCausalLM",
        {"hidden_size": D, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 10000},
        "4x8:int64",
    ),
    "GPT-2": ("GPT2LMHeadModel", {"n_embd": D, "n_layer": 12, "n_head": 12, "vocab_size": 20000}, "4x8:int64"),
    "ViT": ("ViTForImageClassification", {"hidden_size": D, "num_hidden_layers": 14, "image_size": 64}, "4x3x64x64"),
}  # fmt: skip

#: Rules that a fit decides.
FITTED = ("unresponsive", "unreachable-targets")

#: An init function is given a module whose weight has its own values, and that weight.
Spoil = Callable[[nn.Module, torch.Tensor], object]


def is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__


def everywhere(module: nn.Module, weight: torch.Tensor, *, fill: Callable[[torch.Tensor], object]) -> None:
    if not is_norm(module):
        fill(weight)


def inner(module: nn.Module, weight: torch.Tensor, *, fill: Callable[[torch.Tensor], object]) -> None:
    if not is_norm(module) and not isinstance(module, nn.Embedding):
        fill(weight)


def norms(module: nn.Module, weight: torch.Tensor) -> None:
    if is_norm(module):
        weight.zero_()


def wide(module: nn.Module, weight: torch.Tensor) -> None:
    if not isinstance(module, nn.Embedding) and weight.ndim == 2 and max(weight.shape) > D:
        weight.mul_(300)


INITS: dict[str, Spoil | None] = {
    "healthy": None,
    "zero": partial(everywhere, fill=lambda w: w.zero_()),
    "loud perceptrons": wide,
    "overflowing": partial(everywhere, fill=lambda w: w.mul_(1e20)),
    "loud": partial(everywhere, fill=lambda w: w.mul_(100)),
    "constant": partial(inner, fill=lambda w: w.fill_(0.01)),
    "not a number": partial(inner, fill=lambda w: w[:1, :1].fill_(math.nan)),
    "silent norms": norms,
    "equal units": partial(inner, fill=lambda w: w.copy_(w[:1].clone().expand_as(w))),
}

CHECKED = [("Llama", init) for init in INITS] + [
    (model, init) for model in ("GPT-2", "ViT") for init in ("healthy", "not a number")
]


def factory_of(model: str, spoil: Spoil | None) -> Callable[[], nn.Module]:
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    name, fields, _ = MODELS[model]
    kind: Any = getattr(transformers, name)

    class Spoilt(kind):  # type: ignore[misc]
        @torch.no_grad()
        def _init_weights(self, module: nn.Module) -> None:
            super()._init_weights(module)
            if spoil is not None and isinstance(weight := getattr(module, "weight", None), torch.Tensor):
                spoil(module, weight)

    return lambda: Spoilt(kind.config_class(**fields))


def streamed(model: str, init: str) -> Report:
    return check_init(factory_of(model, INITS[init]), MODELS[model][2], stream=True)


def whole(model: str, init: str) -> Report:
    inputs = MODELS[model][2]
    drawn = drawn_whole(factory_of(model, INITS[init]), Request(inputs, settings=Settings.of({"stream": True})))

    def not_fitted(*_: Any) -> NoReturn:
        raise OutputChanged("not asked here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pytest_initcheck.response.ask.fit", not_fitted)
        patch.setattr("pytest_initcheck.examine.mend", lambda _model, _trace, findings, *_, **__: findings)
        return examine(drawn, Request(inputs, race="none"))


def told(report: Report) -> dict[str, Any]:
    """Every number and word of trace and response by name, without what only one of the two is asked."""
    found = dict(flat({"trace": plain(report.trace), "response": plain(report.response)}, ""))
    apart = (".trace.unseen", ".trace.seconds", ".response.token_fit")
    return {k: v for k, v in found.items() if not k.startswith(apart) and ".histogram" not in k}


def flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(item, f"{name}.{key}")
    else:
        yield name, value


def found(report: Report) -> list[tuple[str, str, tuple[str, ...]]]:
    """The findings that no fit decides."""
    return sorted((f.rule, f.severity, f.layers) for f in report.findings if f.rule not in FITTED)


@pytest.mark.parametrize(("model", "init"), CHECKED)
def test_the_same_report_at_a_hundred_million_parameters(model: str, init: str):
    one, two = streamed(model, init), whole(model, init)

    assert 90e6 < sum(p.value.count for p in one.trace.parameters.values() if p.value is not None) < 110e6
    assert told(one) == {k: pytest.approx(v, rel=1e-5) if isinstance(v, float) else v for k, v in told(two).items()}
    assert found(one) == found(two)
    assert (init == "healthy") == (not one.findings)
