"""Started by torchrun: what only sharding can break, each with its healthy twin; inputs, schemes and statements. Prints what is wrong."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from networks import Net, fsdp, ids, net, tensor_parallel
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pytest_initcheck import (
    UnexpectedInit,
    UnhealthyInit,
    apply_init,
    assert_healthy_init,
    assert_initialized,
    check_init,
    expect,
)

dist.init_process_group("gloo")
RANK, RANKS = dist.get_rank(), dist.get_world_size()
MESH = init_device_mesh("cpu", (RANKS,))


def told(name: str, right: bool, what: Any = "") -> None:
    if not right:
        print(f"rank {RANK}: {name}: {what}\n", end="", flush=True)


def errors(model: Any, inputs: Tensor | None = None) -> dict[str, tuple[str, ...]]:
    report = check_init(model, ids() if inputs is None else inputs, timeout=60)
    return {f.rule: f.layers for f in report.findings if f.severity != "note"}


def local(p: Tensor) -> Tensor:
    return p.to_local() if isinstance(p, DTensor) else p


# -- replicas


def nudged(sick: bool) -> Any:
    model = DistributedDataParallel(net())
    with torch.no_grad():
        model.module.blocks[0].w1.weight[3, 4] += 1e-3 * RANK * sick
    return model


sick = nudged(True)
before = sick.module.blocks[0].w1.weight.clone()
told("replicas", errors(sick) == {"replicas-differ": ("module.blocks.0.w1.weight",)}, "not found")
told("replicas", torch.equal(before, sick.module.blocks[0].w1.weight), "the rank's own values are gone")
told("replicas", errors(nudged(False)) == {}, "false alarm")

torch.manual_seed(RANK)
found = errors(fsdp(Net(), MESH, root=False))
told("replicas of the root", found == {"replicas-differ": ("emb.weight", "out.weight", "out.bias")}, found)
torch.manual_seed(RANK)
told("every shard drawn by its own rank", errors(fsdp(Net(), MESH)) == {}, "false alarm")

# -- shards


def filled(seed: int) -> Any:
    model = fsdp(net(), MESH)
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                local(p).copy_(torch.randn(local(p).shape) / p.shape[1] ** 0.5)
    return model


told("copies", "copied-shards" in errors(filled(7)), "not found")
told("copies", errors(filled(7 + RANK)) == {}, "false alarm")


def reset_before(ranks: range) -> Any:
    model = net()
    if RANK in ranks:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
    return fsdp(model, MESH)


found = errors(reset_before(range(1, 2)))
told("apart", list(found) == ["shards-drawn-apart"] and "blocks.0.w1.weight" in found["shards-drawn-apart"], found)
told("apart", "shards-drawn-apart" not in errors(reset_before(range(RANKS))), "false alarm")


def drawn(fan: Callable[[Tensor], int]) -> Any:
    model = tensor_parallel(net(), MESH)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                w = module.weight
                torch.manual_seed(3 + RANK * isinstance(w, DTensor))
                gain = 2 if RANKS == 2 else 1  # that of two ranks for half the fan is no other scheme for all of it
                local(w).copy_(torch.randn(local(w).shape) * (gain / fan(w)) ** 0.5)
    return model


found = errors(drawn(lambda w: local(w).shape[1]))
told("local fan", found.get("local-fan") == ("blocks.0.w2.weight", "blocks.1.w2.weight"), found)
told("local fan", errors(drawn(lambda w: w.shape[1])) == {}, "false alarm")

# -- deferred construction


def factory(left_out: str = "") -> Any:
    with torch.device("meta"):
        model = Net()
    fsdp(model, MESH).to_empty(device="cpu")
    torch.manual_seed(RANK)
    for name, module in model.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset) and name != left_out:
            reset()
    return model


found = errors(lambda: factory("blocks.1.w1"))
told(
    "unwritten", found.get("uninitialized-parameter") == ("blocks.1.w1.bias",) and len(found) == 2, found
)  # the last of two
told("unwritten", errors(factory) == {}, "false alarm")

# -- inputs


def looked_at(inputs: Tensor) -> str:
    return " ".join(check_init(fsdp(net(), MESH), inputs, timeout=60).trace.unseen)


told("the same batch", "was given the same inputs" in looked_at(ids()))
told("batches of their own", f"{8 * 2} samples" in looked_at(ids(RANK)), looked_at(ids(RANK)))
told("other shapes", "brought other shapes" in looked_at(ids(samples=8 + RANK)))

# -- the other functions

whole = net("twins")
split = fsdp(net("twins"), MESH)
try:
    assert_healthy_init(split, ids())
    told("assert_healthy_init", False, "nothing raised")
except UnhealthyInit as error:
    told("assert_healthy_init", error.report is not None and error.report.findings[0].rule == "duplicate-units")
try:
    assert_initialized(split, {"*.w1.weight": expect.normal(std=0.02)})
    told("assert_initialized", False, "nothing raised")
except UnexpectedInit:
    pass
for model in (whole, split):
    apply_init(model, "auto", ids(), seed=3)
equal = [torch.equal(a, b.full_tensor()) for a, b in zip(whole.parameters(), split.parameters(), strict=True)]  # type: ignore[attr-defined]
told("apply_init", all(equal), "a shard is no part of what the whole model was given")
assert_healthy_init(split, ids())
apply_init(split, "auto", ids())
told("apply_init without a seed", errors(split) == {}, "ranks drew apart")

# -- nothing gathers the whole model

alive: dict[int, int] = {}
most = 0
full_tensor = DTensor.full_tensor


def counted(tensor: Any, **how: Any) -> Tensor:
    global most
    found = full_tensor(tensor, **how)
    alive[id(found)] = found.numel()
    weakref.finalize(found, alive.pop, id(found), None)
    most = max(most, sum(alive.values()))
    return found


def open_units(module: nn.Module, *_: Any) -> None:
    global most
    here = {id(p): p.numel() for p in deep.parameters() if not isinstance(p, DTensor)}
    most = max(most, sum(here.values()) + sum(alive.values()))


DTensor.full_tensor = counted  # type: ignore[method-assign, assignment]
handle = nn.modules.module.register_module_forward_hook(open_units)
for kind in ("healthy", "silent"):  # the second is raced, and given a fix
    deep, most = fsdp(net(kind, depth=8), MESH), 0
    size = sum(p.numel() for p in deep.parameters())
    report = check_init(deep, ids(), timeout=60)
    told(f"memory, {kind}", 0 < most < 0.45 * size, f"{most} of {size} elements were gathered at once")
    told(f"race, {kind}", (report.race is not None) is (kind == "silent"), f"raced: {report.race}")
handle.remove()
DTensor.full_tensor = full_tensor  # type: ignore[method-assign]

dist.destroy_process_group()
print(f"rank {RANK} done\n", end="", flush=True)
