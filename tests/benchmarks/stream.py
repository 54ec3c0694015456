"""What checking a model one block at a time takes: transformers' Llama at 8B and 70B shapes, in bfloat16.

    python tests/benchmarks/stream.py [--shape 8b|70b] [--blocks N] [--threads N]

Whole, or with ``--blocks N`` from a run of N and one of N / 2 of its blocks, each in a process of its own: time, draws and memory
grow by the same amount with every block, so a line through both says what all of them take. Beside it stands the floor: drawing
every weight three times from a normal distribution, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

#: Fields of transformers' LlamaConfig.
SHAPES: dict[str, dict[str, Any]] = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
    "70b": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8},
}  # fmt: skip
VOCABULARY = 128256
#: Wanted of the 8B shape on two cores.
SECONDS, GIB = 600, 6.0


def measure(shape: str, blocks: int, threads: int) -> dict[str, float]:
    """Check the model once, here, and return what it took."""
    import torch

    torch.set_num_threads(threads)
    for name in ("nms", "qnms"):  # torchvision's wheel beside a CPU build of torch
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from transformers import LlamaConfig, LlamaForCausalLM

    from pytest_initcheck import check_init
    from pytest_initcheck.phases import told_to

    config = LlamaConfig(**{**SHAPES[shape], "num_hidden_layers": blocks}, vocab_size=VOCABULARY)
    started, processor = time.perf_counter(), time.process_time()

    def hears(phase: str) -> None:
        line = f"{time.perf_counter() - started:6.0f} s  {resident():4.1f} GiB  {phase}"
        print(f"\r{line:<100}", end="", file=sys.stderr, flush=True)

    with told_to(hears):
        report = check_init(lambda: LlamaForCausalLM(config).to(torch.bfloat16), stream=True)
    print(file=sys.stderr)
    weights = sum(p.value.count for p in report.trace.parameters.values() if p.value is not None)
    print(report, *report.trace.unseen, sep="\n", file=sys.stderr)
    return {
        "weights": weights,
        "seconds": time.perf_counter() - started,
        "processor": time.process_time() - processor,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def resident() -> float:
    """GiB that this process has in memory, where the system tells."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30
    except OSError:
        return 0.0


def floor(weights: float) -> float:
    """Seconds of processor time for drawing so many normals in bfloat16 three times, as a block of them says."""
    import torch

    block = torch.empty(1 << 25, dtype=torch.bfloat16)
    block.normal_()
    started = time.process_time()
    block.normal_(0, 0.02)
    return 3 * weights * (time.process_time() - started) / block.numel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--blocks", type=int, help="measure so many blocks and half as many, and extrapolate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    every = SHAPES[arguments.shape]["num_hidden_layers"]
    if arguments.here:
        print(json.dumps(measure(arguments.shape, arguments.blocks or every, arguments.threads)))
        return
    counts = [every] if arguments.blocks is None else [max(2, arguments.blocks // 2), arguments.blocks]
    found = []
    for count in counts:
        words = [sys.executable, __file__, "--here", f"--shape={arguments.shape}", f"--blocks={count}"]
        done = subprocess.run([*words, f"--threads={arguments.threads}"], stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout))
        show(f"{count} blocks", found[-1])
    if len(found) == 2:
        each = {key: (found[1][key] - found[0][key]) / (counts[1] - counts[0]) for key in found[0]}
        found.append({key: found[1][key] + each[key] * (every - counts[1]) for key in each})
        show(f"{every} blocks, extrapolated", found[-1])
    if arguments.shape == "8b":
        good = found[-1]["seconds"] <= SECONDS and found[-1]["peak"] <= GIB
        print(f"wanted: at most {SECONDS} s and {GIB} GiB: {'yes' if good else 'NO'}")


def show(what: str, found: dict[str, float]) -> None:
    print(
        f"{what}: {found['weights'] / 1e9:.2f}G weights, {found['seconds']:.0f} s ({found['processor']:.0f} s of processors), "
        f"at most {found['peak']:.2f} GiB; drawing them three times alone: {floor(found['weights']):.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
