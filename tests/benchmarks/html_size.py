"""Size of the HTML report of a deep model, and the time to write it.

python tests/benchmarks/html_size.py [--layers 500]

Aim: under 1.5 MB for 500 layers; fails above.
"""

from __future__ import annotations

import argparse
import sys
import time

from torch import nn

from pytest_initcheck import check_init
from pytest_initcheck.render import FORMATS

LIMIT = 1.5e6


def main() -> int:
    """Print the figures and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=500)
    layers = parser.parse_args().layers
    report = check_init(
        lambda: nn.Sequential(*(nn.Tanh() if i % 2 else nn.Linear(32, 32) for i in range(layers))), "8x32"
    )
    start = time.perf_counter()
    size = len(FORMATS["html"]([report]).encode())
    seconds = time.perf_counter() - start
    print(f"{len(report.layers)} layers: {size / 1e6:.2f} MB of HTML in {seconds:.2f} s (aim: under {LIMIT / 1e6} MB)")
    return int(size > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
