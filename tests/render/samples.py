"""Reports made by hand, one for each thing that a renderer must cope with. No torch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from pytest_initcheck.records import Finding, LayerRecord, ParameterRecord, Response, Stats, Trace
from pytest_initcheck.report import Report


def stats(rms: float, *, count: int = 2048, zeros: float = 0.0, variation: float | None = 0.7) -> Stats:
    finite = math.isfinite(rms)
    return Stats(
        count=count,
        mean=0.01 * rms,
        std=rms,
        rms=rms,
        min=-3.2 * rms if finite else float("-inf"),
        max=3.4 * rms,
        zeros=zeros,
        finite=finite,
        variation=variation,
    )


def layer(name: str, kind: str, index: int, forward: float, backward: float | None, **more: object) -> LayerRecord:
    module, _, operation = name.partition(":")
    record = LayerRecord(
        name=name,
        module=module,
        kind=kind,
        functional=bool(operation),
        leaf=True,
        index=index,
        shape=(16, 128),
        dtype="float32",
        activation=stats(forward, zeros=0.5 if kind == "ReLU" else 0.0),
        gradient=None if backward is None else stats(backward, variation=None),
        parameters=(f"{name}.weight", f"{name}.bias") if kind in ("Linear", "Conv2d") else (),
        followed_by="relu" if kind == "Linear" else "none",
    )
    return replace(record, **more)  # type: ignore[arg-type]


def weight(owner: LayerRecord, std: float, gradient: float | None) -> ParameterRecord:
    return ParameterRecord(
        name=f"{owner.name}.weight",
        layer=owner.name,
        kind=owner.kind,
        shape=(128, 128),
        dtype="float32",
        fan_in=128,
        fan_out=128,
        value=stats(std, count=16384, variation=None),
        gradient=None if gradient is None else stats(gradient, count=16384, variation=None),
        followed_by="relu",
        role="weight",
    )


def trace(layers: list[LayerRecord], *, std: float = 0.125, **more: object) -> Trace:
    owners = [x for x in layers if x.parameters]
    root = LayerRecord(
        name="(model)", module="", kind="Net", functional=False, leaf=False, index=len(layers), shape=(16, 10),
        dtype="float32", activation=layers[-1].activation, gradient=layers[-1].gradient,
    )  # fmt: skip
    made = Trace(
        layers={x.name: x for x in [*layers, root]},
        parameters={
            p.name: p for x in owners for p in [weight(x, std, x.gradient.rms if x.gradient is not None else None)]
        },
        output=layers[-1].activation,
        inputs=("float32[16, 128]",),
        batch=16,
        torch_version="2.13.0",
        seconds={"forward": 0.0112, "backward": 0.0254},
    )
    return replace(made, **more)  # type: ignore[arg-type]


def stack(depth: int, factor: float, back: float = 1.0, *, prefix: str = "blocks.{}") -> list[LayerRecord]:
    layers = []
    for i in range(depth):
        name = prefix.format(i // 2) + (".fc" if i % 2 == 0 else ".act")
        layers.append(
            layer(name, "Linear" if i % 2 == 0 else "ReLU", i, 0.9 * factor**i, 3e-3 * back ** (depth - 1 - i))
        )
    return layers


def healthy() -> Report:
    return Report(
        model="resnet18",
        ok=True,
        findings=(),
        trace=trace(stack(14, 1.02)),
        response=Response((0.0812,), 0.0797, 0.37, None, 1.52, output_rms=0.61),
        reproduce="initcheck check timm:resnet18 --seed 0",
    )


GATE = Finding(
    "closed-gate",
    "note",
    ("blocks.1.fc.weight", "blocks.2.fc.weight"),
    "2 parameters start without gradient behind a gate and get one after a step: blocks.1.fc.weight, blocks.2.fc.weight",
    {"parameters": 2},
    "zero on purpose at the start (zero-init residual): it opens by itself",
)


def noted() -> Report:
    return replace(healthy(), model="timm:deit_tiny", findings=(GATE,), ignored=(replace(GATE, rule="cloned-layers"),))


def warned() -> Report:
    finding = Finding(
        "gain-mismatch",
        "warning",
        ("blocks.3.fc.weight",),
        "blocks.3.fc.weight stands out by x12.0",
        {"decades": 1.08, "expected_std": 0.125},
        "blocks.3.fc.weight has std 1.5 on fan_in 128 in front of relu, where 0.125 carries the signal",
        "torch.nn.init.normal_(model.blocks[3].fc.weight, std=0.125)",
        'ignore=["gain-mismatch:blocks.3.fc.weight"]',
    )
    return replace(healthy(), model="Net", findings=(finding, GATE))


def vanishing() -> Report:
    finding = Finding(
        "unresponsive",
        "error",
        ("blocks.0.fc.weight", *(f"blocks.{i}.fc.weight" for i in range(1, 6))),
        "3 optimizer steps move the output by 3.6e-09 (at least 0.001 expected)",
        {"movement": 3.6e-09, "allowed": 1e-3, "residual": 1.0},
        "blocks.0.fc.weight has std 0.01 on fan_in 128 in front of relu, where 0.125 carries the signal: this layer "
        "multiplies it by 0.0804; most layers of this model are off by as much, so it is the scheme: x0.08 a layer",
        "for module in model.modules():\n    if isinstance(module, torch.nn.Linear):\n"
        "        torch.nn.init.kaiming_normal_(module.weight, nonlinearity='relu')",
        'ignore=["unresponsive:blocks.0.fc.weight"]',
    )
    bound = Finding(
        "activation-std",
        "error",
        ("blocks.4.fc",),
        "activation std 2.3e-06 at blocks.4.fc (at least 0.01 asked for)",
        {"std": 2.3e-06, "low": 0.01, "high": 100.0},
        "activation_std asks for 0.01 to 100 here",
        silence='ignore=["activation-std:blocks.4.fc"]',
    )
    return Report(
        model="zoo.py:Deep",
        ok=False,
        findings=(finding, bound, GATE),
        trace=trace(stack(12, 0.2, 0.2), std=0.01),
        response=Response((1.8e-10, 5.5e-10, 3.6e-9), 2.5e-5, 0.066, 1.0, 2.3),
        reproduce="initcheck check zoo.py:Deep --input 16x128 --activation-std 0.01:100 --seed 0",
        settings={"activation_std": (("*", 0.01, 100.0),)},
    )


def dead() -> Report:
    layers = stack(10, 1.0)
    silent = stats(0.0, zeros=1.0, variation=0.0)
    layers[5:] = [
        replace(x, activation=silent, gradient=None, dead_units=1.0 if x.kind == "ReLU" else None) for x in layers[5:]
    ]
    finding = Finding(
        "unresponsive",
        "error",
        ("blocks.2.act",),
        "3 optimizer steps move the output by 0 (at least 0.001 expected)",
        {"movement": 0.0},
        "every unit of blocks.2.act is zero for every sample: blocks.2.fc.bias starts at -10",
        "torch.nn.init.zeros_(model.blocks[2].fc.bias)",
        'ignore=["unresponsive:blocks.2.act"]',
    )
    return Report(
        model="Dead",
        ok=False,
        findings=(finding,),
        trace=trace(layers, unseen=("blocks.4 ran under torch.no_grad(): the gradient behind it was not seen",)),
        response=Response((0.0,), 0.0, 0.0, 1.0, None),
        reproduce="check_init(model, inputs, seed=0)",
    )


def nan() -> Report:
    layers = stack(8, 100.0)
    layers[4:] = [
        replace(x, activation=stats(math.inf if i == 0 else math.nan, variation=None), gradient=stats(math.nan))
        for i, x in enumerate(layers[4:])
    ]
    finding = Finding(
        "non-finite-activation",
        "error",
        ("blocks.2.fc",),
        "the output of blocks.2.fc is not finite in float16 (layer 5 of 8)",
        {"layer": 5, "of": 8, "input_rms": 9e5},
        "the forward signal overflows float16; the signal grew x100 a layer",
        silence='ignore=["non-finite-activation:blocks.2.fc"]',
    )
    return Report(
        model="Overflow",
        ok=False,
        findings=(finding,),
        trace=trace(layers, dtype="float16", device="cuda:0", loss=math.nan),
        response=Response((math.nan,), math.inf, 0.0, math.inf, math.nan, output_rms=math.inf),
        reproduce="check_init(model, inputs, seed=0, dtype='float16')",
    )


def many() -> Report:
    base = vanishing()
    severities = ["error"] * 9 + ["warning"] * 4
    findings = [
        Finding(
            f"rule-{i}", severity, (f"blocks.{i % 6}.fc",), f"value {i} (at most 1)", {"value": float(i)}, f"cause {i}"
        )  # type: ignore[arg-type]
        for i, severity in enumerate(severities)
    ]
    return replace(base, model="Many", findings=(*findings, GATE))


@cache
def deep() -> Report:
    random.seed(0)
    layers = []
    for i in range(500):
        name = f"encoder.layers.{i // 10}.attention.projection_{i % 10}"
        layers.append(layer(name, "Linear", i, 0.97**i * random.uniform(0.8, 1.2), 1e-3 * 0.97 ** (499 - i)))
    finding = replace(vanishing().findings[0], layers=("encoder.layers.31.attention.projection_4.weight",))
    return replace(vanishing(), model="pkg.models:Deep500", findings=(finding,), trace=trace(layers))


def unicode_names() -> Report:
    names = ["编码器.层0", "café.Ω", "a\nb", "<script>alert(1)</script>", "x|y`z", "s\u0301ub\x1b[31m"]
    layers = [layer(name, "Linear", i, 0.5**i, 1e-3) for i, name in enumerate(names)]
    finding = Finding(
        "unresponsive", "error", ("<script>alert(1)</script>", "编码器.层0"), "a < b & c | d: \"quoted\" `code`",
        {"名": "</script>"}, "cause <b>bold</b>", "model['<script>'].weight  # |", 'ignore=["unresponsive:<script>*"]',
    )  # fmt: skip
    return Report(
        model="Ünïcode & <Co>",
        ok=False,
        findings=(finding,),
        trace=trace(layers, unseen=("<i>nothing</i>",)),
        reproduce="check_init(model, inputs)",
    )


def empty() -> Report:
    return Report(model="Empty", ok=True, findings=(), trace=Trace(layers={}, parameters={}))


def nothing_fails() -> Report:
    return replace(vanishing(), ok=True, fail_on="never")


def located() -> Report:
    base = vanishing()
    finding = replace(base.findings[0], evidence={**base.findings[0].evidence, "file": "src/zoo.py", "line": 12})
    return replace(base, findings=(finding, *base.findings[1:]))


SAMPLES: dict[str, Callable[[], Report]] = {
    f.__name__: f
    for f in (healthy, noted, warned, vanishing, dead, nan, many, deep, unicode_names, empty, nothing_fails, located)
}
