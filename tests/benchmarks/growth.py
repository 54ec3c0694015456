"""What a check spends of its own on each layer, and how that grows with the model.

    python tests/benchmarks/growth.py [--short] [--repeats N] [--only NAME]

Our own processor time is that of the whole check less its passes, which are counted in bare steps (``budget.spent``) and
valued at what a bare step of the same model takes, measured before and after. It is given for each layer (a module that is called
and calls none), with the ratio between one size of a family and the next: 1 is linear growth. Wanted: 1 ms at most, and no
ratio above 1.5. Stacks are of Linear, LayerNorm and ReLU, 32 wide, with a shortcut around each three (they train) or without
(they are dead from some hundred layers on, so that the fit and the trials of fixes take part); the other families are what else
makes models large.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pytest_initcheck.budget import TimeBudget
from pytest_initcheck.examine import examine
from pytest_initcheck.measured import Request
from pytest_initcheck.settings import Settings

#: Wanted: at most so many milliseconds of our own for each layer, and at most this ratio from one size to the next.
WANTED_MS, WANTED_RATIO = 1.0, 1.5
WIDTH = 32


class Block(nn.Module):
    """LayerNorm, ReLU and Linear, with a shortcut around them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.act = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.linear(self.act(self.norm(x)))  # type: ignore[no-any-return]


class Reused(nn.Module):
    """One block, called again and again."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.block, self.head, self.times = Block(), nn.Linear(WIDTH, WIDTH), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.block(x)
        return self.head(x)  # type: ignore[no-any-return]


class Scattered(nn.Module):
    """Many small tensors, each added to the signal."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.shifts = nn.ParameterList(nn.Parameter(0.01 * torch.randn(WIDTH)) for _ in range(count))
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        for shift in self.shifts:
            x = x + shift
        return self.head(x)  # type: ignore[no-any-return]


class Attending(nn.Module):
    """One pre-norm layer of attention over many tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, 0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x))  # type: ignore[no-any-return]


def shortcuts(layers: int) -> nn.Module:
    return nn.Sequential(*(Block() for _ in range(layers // 3)), nn.Linear(WIDTH, WIDTH))


def plain(layers: int) -> nn.Module:
    kinds = (lambda: nn.Linear(WIDTH, WIDTH), lambda: nn.LayerNorm(WIDTH), nn.ReLU)
    return nn.Sequential(*(kinds[i % 3]() for i in range(layers)))


def wide(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(WIDTH, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, WIDTH)
    )


#: family -> (builds a model of a size, inputs of a size, sizes, sizes with --short, whether the size is a number of layers).
FAMILIES: dict[
    str, tuple[Callable[[int], nn.Module], Callable[[int], tuple[int, ...]], tuple[int, ...], tuple[int, ...], bool]
] = {
    "shortcuts": (shortcuts, lambda _: (4, WIDTH), (50, 200, 1000, 3000), (50, 200, 800), True),
    "plain": (plain, lambda _: (4, WIDTH), (50, 200, 1000, 3000), (50, 200, 600), True),
    "small tensors": (Scattered, lambda _: (4, WIDTH), (1250, 5000), (625, 1250), True),
    "reused": (Reused, lambda _: (4, WIDTH), (20, 200), (20, 80), True),
    "one weight": (wide, lambda _: (4, WIDTH), (4096, 8192), (4096,), False),
    "tokens": (lambda _: Attending(), lambda n: (2, n, WIDTH), (2048, 8192), (1024,), False),
    "batch": (lambda _: shortcuts(50), lambda n: (n, WIDTH), (64, 512), (512,), False),
}


def seconds(action: Callable[[], object]) -> float:
    """Processor time of one call, garbage collected before."""
    gc.collect()
    start = time.process_time()
    action()
    return time.process_time() - start


def bare_step(model: nn.Module, inputs: Tensor) -> None:
    out = model(inputs)
    torch.autograd.grad(out, list(model.parameters()), torch.randn_like(out), allow_unused=True)


def measured(model: nn.Module, inputs: Tensor) -> tuple[float, float, float, str]:
    """Seconds of a bare step, bare steps that the check took, seconds of our own, and the verdict."""
    budget = TimeBudget.of(Settings().time_budget)
    verdict = ""

    def check() -> None:
        nonlocal verdict
        report = examine(model, Request(inputs, budget=budget))
        verdict = (
            "healthy"
            if report.ok
            else ", ".join(dict.fromkeys(f.rule for f in report.findings if f.severity == "error"))
        )

    before = min(seconds(lambda: bare_step(model, inputs)) for _ in range(2))
    whole = seconds(check)
    bare = (before + min(seconds(lambda: bare_step(model, inputs)) for _ in range(2))) / 2
    return bare, budget.spent, whole - budget.spent * bare, verdict


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="smaller sizes, one round (for CI)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="the families whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 1 if options.short else options.repeats
    print(f"torch {torch.__version__}, 1 thread, processor time, medians of {rounds} rounds")
    print(f"wanted: {WANTED_MS:g} ms of our own a layer at most, growth {WANTED_RATIO:g} at most")
    print(
        f"{'family':14} {'size':>5} {'layers':>6} {'bare ms':>8} {'steps':>6} {'own ms':>8} {'a layer':>8} {'growth':>7}  verdict"
    )
    examine(plain(6), Request(torch.randn(4, WIDTH)))  # the first call of everything pays for imports
    for family, (build, shape, sizes, short, grows) in FAMILIES.items():
        if options.only and options.only not in family:
            continue
        last: float | None = None
        for size in short if options.short else sizes:
            torch.manual_seed(0)
            model = build(size)
            inputs = torch.randn(shape(size), generator=torch.Generator().manual_seed(0))
            found = [measured(model, inputs) for _ in range(rounds)]
            bare, steps, own = (statistics.median(one[i] for one in found) for i in range(3))
            layers = size if grows else sum(next(m.children(), None) is None for m in model.modules())
            each = 1e3 * own / layers
            growth = "" if last is None or not grows else f"{each / last:6.2f}x"
            print(
                f"{family:14} {size:5} {layers:6} {1e3 * bare:8.1f} {steps:6.1f} {1e3 * own:8.0f} {each:8.2f} {growth:>7}  {found[0][3]}",
                flush=True,
            )
            last = each


if __name__ == "__main__":
    main()
