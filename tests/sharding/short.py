"""Started by torchrun: one rank has no memory left in the midst of a race, and all come to an end. Prints what is wrong."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from networks import fsdp, ids, net
from torch.distributed.device_mesh import init_device_mesh

from pytest_initcheck import ProbeError, check_init
from pytest_initcheck.race import course
from pytest_initcheck.response.adam import Adam

dist.init_process_group("gloo")
RANK, LAST = dist.get_rank(), dist.get_world_size() - 1


class Short(Adam):
    def step(self, *args: Any, **how: Any) -> None:
        if RANK == LAST:
            raise RuntimeError("out of memory")
        super().step(*args, **how)


course.Adam = Short  # type: ignore[misc]
said = "nothing was raised"
try:
    check_init(fsdp(net("silent"), init_device_mesh("cpu", (LAST + 1,))), ids(), timeout=3)
except ProbeError as error:
    said = str(error)
if said != f"rank {LAST} of {LAST + 1} ranks stopped, and the others with it: RuntimeError: out of memory":
    print(f"rank {RANK}: {said}\n", end="", flush=True)
dist.destroy_process_group()
print(f"rank {RANK} done\n", end="", flush=True)
