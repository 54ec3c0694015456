"""How often the distribution of a weight is named right: every kind, shapes from 64 to 10 million values, several dtypes.

    python tests/benchmarks/naming.py [--seeds 20]

Prints, for each size, the share that is named right, the share that is said to be too few values to tell, and the number
of confident names that are wrong; and every kind that was ever named wrong.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import torch
from tabulate import tabulate

from pytest_initcheck.schemes import BY_FANS, Draw, by_fans, fill_
from pytest_initcheck.schemes.distributions import name_distribution

SHAPES = [
    (8, 8), (64,), (16, 16), (16, 3, 3, 3), (256,), (32, 32), (64, 64), (64, 32, 3, 3), (4096,), (256, 256), (512, 512),
    (256, 128, 3, 3), (1024, 1024), (2048, 2048), (512, 512, 3, 3), (3200, 3200),
]  # fmt: skip
DTYPES = (torch.float32, torch.float32, torch.bfloat16, torch.float16)


def expected(draw: Draw) -> str:
    """Kind under which a draw is right."""
    return draw.kind


def draws(shape: tuple[int, ...]) -> list[tuple[str, Draw]]:
    """Every scheme that a tensor of this shape can be drawn by."""
    if len(shape) == 1:
        kinds = [("normal", Draw("normal", 0.3)), ("uniform", Draw("uniform", 0.3)), ("zeros", Draw("constant"))]
        return [*kinds, ("truncated_normal", Draw("truncated_normal", 0.02)), ("ones", Draw("constant", value=1.0))]
    kernel = torch.Size(shape[2:]).numel()
    fans = shape[1] * kernel, shape[0] * kernel
    made = [(s, by_fans(s, *fans, "relu", units=shape[0])) for s in BY_FANS]
    return [(s, d) for s, d in made if len(shape) > 2 or s != "delta_orthogonal"]


def main() -> None:
    """Draw, name, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    rows = []
    wrong: Counter[tuple[str, str, int]] = Counter()
    for shape in SHAPES:
        right = few = bad = total = 0
        seeds = options.seeds if torch.Size(shape).numel() < 1e6 else max(options.seeds // 10, 2)
        seconds = 0.0
        for scheme, draw in draws(shape):
            if draw.kind == "orthogonal" and torch.Size(shape).numel() > 4e6:
                continue  # drawing it takes minutes
            for seed in range(seeds):
                values = fill_(torch.empty(shape), draw, generator=torch.Generator().manual_seed(seed))
                values = values.to(DTYPES[seed % len(DTYPES)])
                start = time.perf_counter()
                named = name_distribution(values)
                seconds += time.perf_counter() - start
                total += 1
                few += named.kind == "too few"
                right += named.kind == expected(draw)
                if named.kind not in (expected(draw), "too few"):
                    bad += 1
                    wrong[scheme, named.kind, values.numel()] += 1
        size = torch.Size(shape).numel()
        rows.append([str(list(shape)), size, total, right / total, few / total, bad, 1e3 * seconds / total])
    heads = ["shape", "values", "tensors", "right", "too few to tell", "confident and wrong", "ms each"]
    print(tabulate(rows, heads, tablefmt="simple", floatfmt=".3f"))
    known = sum(r[2] * (1 - r[4]) for r in rows)
    print(f"right of those that were named: {sum(r[2] * r[3] for r in rows) / known:.4f}")
    large = [r for r in rows if r[1] >= 4096]
    print(f"right of all with 4,096 values or more: {sum(r[2] * r[3] for r in large) / sum(r[2] for r in large):.4f}")
    for (scheme, kind, size), times in wrong.most_common():
        print(f"  {scheme}, {size} values, named {kind}: {times} times")


if __name__ == "__main__":
    main()
