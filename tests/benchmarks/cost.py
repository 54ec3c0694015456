"""What a check costs, as a multiple of one bare forward and backward pass of the same model.

    python tests/benchmarks/cost.py [--short] [--repeats N] [--threads N] [--clock cpu] [--device cuda] [--only NAME]

Bare step, probe (the trace alone) and whole check are timed in turn, round after round in one process, so that what else the
machine does meets all of them; the ratios are medians over the rounds. On a machine that others use, ``--threads 1 --clock cpu``
counts processor time instead of waiting. Two networks, written here so that nothing but torch is
needed: a 50-layer bottleneck residual network on 4 x 3 x 128 x 128 (as constructed, and with zero-initialized last norm scales
in its branches) and a 12-layer pre-norm transformer of width 512 on 4 x 128 tokens.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pytest_initcheck import check_init
from pytest_initcheck.models.inputs import resolve_inputs
from pytest_initcheck.probing.guard import untouched
from pytest_initcheck.probing.probe import run_probe

#: Wanted: at most these multiples of the bare step.
WANTED = {"probe": 1.15, "check": 1.6}


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions around a shortcut (He et al. 2016), the stride on the middle one."""

    def __init__(self, width: int, inner: int, stride: int) -> None:
        super().__init__()
        out = 4 * inner
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width != out:
            self.shortcut = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        return self.relu(y + self.shortcut(x))


class ResNet50(nn.Module):
    """The 50-layer residual network, 25.6 M parameters."""

    def __init__(self, *, zero_gamma: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        width = 64
        for stage, count in enumerate((3, 4, 6, 3)):
            for block in range(count):
                blocks.append(Bottleneck(width, 64 << stage, 2 if stage and not block else 1))
                width = 256 << stage
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_gamma and isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return out


class Transformer(nn.Module):
    """A 12-layer pre-norm encoder of width 512 with embedding and head over 8,000 tokens, 46 M parameters."""

    def __init__(self, vocabulary: int = 8000, width: int = 512, layers: int = 12, tokens: int = 128) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Parameter(0.02 * torch.randn(tokens, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 8, 4 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.head(self.norm(x))
        return out


def images() -> Tensor:
    return torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def ids() -> Tensor:
    return torch.randint(0, 8000, (4, 128), generator=torch.Generator().manual_seed(0))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "resnet50": (lambda: ResNet50(zero_gamma=False), images),
    "resnet50 zero-gamma": (lambda: ResNet50(zero_gamma=True), images),
    "transformer": (Transformer, ids),
}


def bare_step(model: nn.Module, inputs: Tensor) -> None:
    """One forward and one backward pass with a random cotangent, gradients returned and dropped."""
    out = model(inputs)
    torch.autograd.grad(out, list(model.parameters()), torch.randn_like(out), allow_unused=True)


def probe(model: nn.Module, inputs: Tensor) -> dict[str, float]:
    """The probe alone, guard included; seconds by phase."""
    call = resolve_inputs(model, inputs)
    with untouched(model, tensors=call.tensors) as guard:
        return dict(run_probe(model, call, guard=guard).trace.seconds)


def check(model: nn.Module, inputs: Tensor) -> dict[str, float]:
    """The whole check; its number of findings."""
    return {"findings": float(len(check_init(model, inputs).findings))}


def passes(action: Callable[[nn.Module, Tensor], object], model: nn.Module, inputs: Any) -> tuple[int, int]:
    """How often ``action`` runs ``model`` forward and backward."""
    counts = {"forward": 0, "backward": 0}

    def entered(module: nn.Module, _: object) -> None:
        counts["forward"] += module is model

    def pulled(run: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            counts["backward"] += 1
            return run(*args, **kwargs)

        return counted

    handle = register_module_forward_pre_hook(entered)
    try:
        with (
            mock.patch("torch.autograd.grad", pulled(torch.autograd.grad)),
            mock.patch("torch.autograd.backward", pulled(torch.autograd.backward)),
        ):
            action(model, inputs)
    finally:
        handle.remove()
    return counts["forward"], counts["backward"]


def timed(
    action: Callable[[nn.Module, Tensor], object], model: nn.Module, inputs: Tensor, clock: Callable[[], float]
) -> tuple[float, object]:
    """Seconds of one call and what it returned, garbage collected before."""
    gc.collect()
    settle(inputs)
    start = clock()
    result = action(model, inputs)
    settle(inputs)
    return clock() - start, result


def settle(inputs: Tensor) -> None:
    """Wait for what was asked of an accelerator."""
    if inputs.device.type != "cpu":
        torch.accelerator.synchronize()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--short", action="store_true", help="three rounds (for CI: shows that it runs, not what it costs)"
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--only", help="the cases whose name contains this")
    parser.add_argument("--device", default="cpu", help="an accelerator counts on the wall clock, waited for")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    rounds = 3 if options.short else options.repeats
    print(
        f"torch {torch.__version__}, {options.device}, {options.threads} threads, {options.clock} clock, medians over {rounds} rounds"
    )
    print(
        f"{'network':20} {'bare s':>7} {'probe':>7} {'check':>7}   (wanted: probe {WANTED['probe']}x, check {WANTED['check']}x)"
    )
    for name, (build, make_inputs) in CASES.items():
        if options.only and options.only not in name:
            continue
        torch.manual_seed(0)
        model, inputs = build().to(options.device), make_inputs().to(options.device)
        actions = {"bare": bare_step, "probe": probe, "check": check}
        for action in actions.values():
            action(model, inputs)  # the first call of everything pays for memory and kernels
        seconds: dict[str, list[float]] = {kind: [] for kind in actions}
        ratios: dict[str, list[float]] = {"probe": [], "check": []}
        phases: dict[str, list[float]] = {}
        findings = 0.0
        forwards, backwards = passes(check, model, inputs)
        for turn in range(rounds):
            # A bare step on either side of what is measured: a machine that slows down halfway slows one of them, too.
            for kind in ("probe", "check") if turn % 2 else ("check", "probe"):
                before, _ = timed(bare_step, model, inputs, clock)
                spent, result = timed(actions[kind], model, inputs, clock)
                after, _ = timed(bare_step, model, inputs, clock)
                seconds["bare"] += [before, after]
                seconds[kind].append(spent)
                ratios[kind].append(spent / ((before + after) / 2))
                assert isinstance(result, dict)
                if kind == "probe":
                    for phase, value in result.items():
                        phases.setdefault(phase, []).append(value)
                else:
                    findings = result["findings"]
        middle = {kind: statistics.median(values) for kind, values in ratios.items()}
        bare = statistics.median(seconds["bare"])
        print(
            f"{name:20} {bare:7.3f} {middle['probe']:6.2f}x {middle['check']:6.2f}x   "
            f"passes: {forwards} forward, {backwards} backward; findings {findings:.0f}"
        )
        inside = {phase: statistics.median(values) for phase, values in phases.items()}
        inside["guard, inputs"] = statistics.median(seconds["probe"]) - sum(inside.values())
        print("  probe, s: " + ", ".join(f"{phase} {value:.3f}" for phase, value in inside.items()))
        print(f"  after the probe, s: {statistics.median(seconds['check']) - statistics.median(seconds['probe']):.3f}")


if __name__ == "__main__":
    main()
