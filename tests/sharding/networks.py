"""Small models, what can be wrong with them, and the ways to spread them over ranks. Imported by the scripts that torchrun starts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

CPU = torch.device("cpu")
#: FSDP's word on outputs that are views, DTensor's on gathering what a 2-D mesh holds: of torch, not of the check.
warnings.filterwarnings("ignore")


class Block(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.w1, self.w2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.w2(torch.relu(self.w1(self.norm(x))))


class Net(nn.Module):
    """Ids in, a few residual blocks, scores out."""

    def __init__(self, d: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.emb = nn.Embedding(64, d)
        self.blocks = nn.ModuleList(Block(d) for _ in range(depth))
        self.norm = nn.LayerNorm(d)
        self.out = nn.Linear(d, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.emb(x)
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x))


def _healthy(_: Net) -> None:
    pass


def _several_twins(net: Net) -> None:
    for block in net.blocks:
        block.w1.weight.fill_(0.1)  # type: ignore[union-attr]


def _silent(net: Net) -> None:
    net.norm.weight.zero_()
    net.out.weight.zero_()


def _twins(net: Net) -> None:
    net.blocks[0].w1.weight.fill_(0.1)  # type: ignore[union-attr]


def _loud(net: Net) -> None:
    for block in net.blocks:
        block.w2.weight.mul_(200)  # type: ignore[union-attr]


def _dead(net: Net) -> None:
    for block in net.blocks:
        block.w1.bias.fill_(-100)  # type: ignore[union-attr]


def _infinite(net: Net) -> None:
    net.blocks[1].w2.weight[3, 5] = torch.inf  # type: ignore[union-attr]


def _frozen(net: Net) -> None:
    net.blocks[0].w2.weight.requires_grad_(False)  # type: ignore[union-attr]


#: What is done to a healthy model.
SICK: dict[str, Callable[[Net], None]] = {
    "healthy": _healthy,
    "twins": _twins,
    "several twins": _several_twins,
    "silent": _silent,
    "loud": _loud,
    "dead": _dead,
    "infinite": _infinite,
    "frozen": _frozen,
}


def net(sick: str = "healthy", **size: int) -> Net:
    """The same model on every rank."""
    torch.manual_seed(0)
    model = Net(**size)
    with torch.no_grad():
        SICK[sick](model)
    return model


def ids(seed: int = 5, samples: int = 8) -> Tensor:
    return torch.randint(0, 64, (samples, 16), generator=torch.Generator().manual_seed(seed))


# -- layouts


def fsdp(model: Any, mesh: DeviceMesh, *, root: bool = True, **policy: Any) -> Any:
    for block in model.blocks:
        fully_shard(block, mesh=mesh, **policy)
    return fully_shard(model, mesh=mesh, **policy) if root else model


def tensor_parallel(model: Any, mesh: DeviceMesh) -> Any:
    for block in model.blocks:
        parallelize_module(block, mesh, {"w1": ColwiseParallel(), "w2": RowwiseParallel()})
    return model


def sequence_parallel(model: Any, mesh: DeviceMesh) -> Any:
    for block in model.blocks:
        plan = {
            "norm": SequenceParallel(),
            "w1": ColwiseParallel(input_layouts=Shard(1)),
            "w2": RowwiseParallel(output_layouts=Shard(1)),
        }
        parallelize_module(block, mesh, plan)
    ends = {
        "emb": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "norm": SequenceParallel(),
        "out": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    }
    return parallelize_module(model, mesh, ends)


def first_fsdp(model: Any, *, use_orig_params: bool = True) -> Any:
    for i, block in enumerate(model.blocks):
        model.blocks[i] = FullyShardedDataParallel(block, device_id=CPU, use_orig_params=use_orig_params)
    return FullyShardedDataParallel(model, device_id=CPU, use_orig_params=use_orig_params)


def layouts() -> dict[str, Callable[[Any], Any]]:
    """Name -> what spreads a model over the ranks there are."""
    count = dist.get_world_size()
    mesh = init_device_mesh("cpu", (count,))
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    found: dict[str, Callable[[Any], Any]] = {
        "ddp": DistributedDataParallel,
        "the first fsdp": first_fsdp,
        "the first fsdp by vectors": lambda m: first_fsdp(m, use_orig_params=False),
        "fsdp": lambda m: fsdp(m, mesh),
        "fsdp, root not sharded": lambda m: fsdp(m, mesh, root=False),
        "fsdp, kept whole after forward": lambda m: fsdp(m, mesh, reshard_after_forward=False),
        "fsdp, mixed precision": lambda m: fsdp(m, mesh, mp_policy=half),
        "fsdp, CPU offload": lambda m: fsdp(m, mesh, offload_policy=CPUOffloadPolicy(pin_memory=False)),
    }
    if count % 2 == 0:  # torch's own plans want even parts; FSDP pads
        found |= {
            "tensor parallel": lambda m: tensor_parallel(m, mesh),
            "sequence parallel": lambda m: sequence_parallel(m, mesh),
        }
    if count % 2 == 0 and count > 2:
        both = init_device_mesh("cpu", (count // 2, 2), mesh_dim_names=("dp", "tp"))
        found |= {
            "fsdp and tensor parallel": lambda m: fsdp(tensor_parallel(m, both["tp"]), both["dp"]),
            "fsdp and sequence parallel": lambda m: fsdp(sequence_parallel(m, both["tp"]), both["dp"]),
            "hsdp": lambda m: fsdp(m, both),
        }
    return found
