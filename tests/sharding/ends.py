"""Started by torchrun: ranks that do not do the same come to an end, with one sentence on each. Prints what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from networks import Net, fsdp, ids, net
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from pytest_initcheck import ProbeError, check_init

dist.init_process_group("gloo")
RANK = dist.get_rank()
MESH = init_device_mesh("cpu", (dist.get_world_size(),))


class Stops(Net):
    """Raises on the last rank alone, in the midst of a pass."""

    def forward(self, x: Tensor) -> Tensor:
        if dist.get_world_size() - 1 == RANK:
            raise ValueError("has had enough")
        return super().forward(x)


def told(name: str, expected: str, ask: Callable[[], Any], *, within: float = 30) -> None:
    started = time.monotonic()
    try:
        ask()
        said = "nothing was raised"
    except ProbeError as error:
        said = str(error)
    if expected not in said or "\n" in said or time.monotonic() - started > within:
        print(f"rank {RANK}: {name}: {said}\n", end="", flush=True)


told("other models", "holds another model", lambda: check_init(fsdp(Net(d=32 if RANK else 64), MESH), ids(), timeout=5))
told("all raise", "out of range", lambda: check_init(fsdp(net(), MESH), ids() + 60, timeout=5))
told("one raises", "stopped, and the others with it", lambda: check_init(fsdp(Stops(), MESH), ids(), timeout=3))

left = fsdp(net(), init_device_mesh("cpu", (dist.get_world_size(),)))
if RANK == 0:
    told("one calls", "waited in vain", lambda: check_init(left, ids(), timeout=2))
dist.destroy_process_group()
told("no process group", "no process group is there", lambda: check_init(left, ids()))
print(f"rank {RANK} done\n", end="", flush=True)
