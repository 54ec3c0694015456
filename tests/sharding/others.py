"""Started by torchrun: what one architecture does not show of the race and the fixes. Prints a line for each thing that is not so."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from networks import fsdp, ids, net
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from pytest_initcheck import Report, check_init

dist.init_process_group("gloo")
RANK = dist.get_rank()
MESH = init_device_mesh("cpu", (dist.get_world_size(),))
WANTED = torch.randint(0, 10, (8, 16), generator=torch.Generator().manual_seed(1))


class Codes(nn.Module):
    """The nearest entries of a codebook, which learns from a number that is returned besides."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16))
        self.book = nn.Embedding(64, 16)
        self.decoder = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32))
        nn.init.uniform_(self.book.weight, -1 / 64, 1 / 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        code = self.book(torch.cdist(z, self.book.weight).argmin(1))
        apart = (code - z.detach()).square().mean() + 0.25 * (code.detach() - z).square().mean()
        return self.decoder(z + (code - z).detach()), apart


class WithTargets(nn.Module):
    """A regressor that is given its targets, and starts far from zero by the bias of an inner layer, or of the last."""

    def __init__(self, inner: float, last: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
        nn.init.constant_(self.body[2].bias, inner)
        nn.init.constant_(self.body[4].bias, last)
        with torch.no_grad():
            self.body[4].weight.abs_()

    def forward(self, x: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        said = self.body(x)
        return said, (said - wanted).square().mean()


def split(model: WithTargets) -> nn.Module:
    for layer in model.body[::2]:
        fully_shard(layer, mesh=MESH)
    return fully_shard(model, mesh=MESH)


def codes() -> Codes:
    torch.manual_seed(0)
    return Codes()


def loss(output: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.flatten(0, 1), WANTED.flatten())


def told(name: str, held: bool, otherwise: str) -> None:
    if not held:
        print(f"rank {RANK}: {name}: {otherwise}\n", end="", flush=True)


def concluded(report: Report) -> Any:
    found = [(f.rule, f.severity, f.layers, f.fix.replace("model.module.", "model.")) for f in report.findings]
    race = report.race
    return found, race and (race.outcome, [(h.task, round(h.gone, 2)) for h in race.heats])


x = torch.randn(32, 32, generator=torch.Generator().manual_seed(2))
alone = concluded(check_init(codes(), x))
for name, spread in (("ddp", DistributedDataParallel), ("fsdp", lambda m: fully_shard(m, mesh=MESH))):
    found = concluded(check_init(spread(codes()), x, timeout=60))
    told(f"a codebook, {name}", found == alone, f"{alone} became {found}")
for inner, last, healthy in ((30.0, 0.0, False), (0.0, 60.0, True)):
    given = (x, x[:, :1].contiguous())
    alone = concluded(check_init(WithTargets(inner, last), given))
    told(f"biases {inner} and {last}", ("outperformed" not in [f[0] for f in alone[0]]) is healthy, str(alone))
    for name, spread in (("ddp", DistributedDataParallel), ("fsdp", split)):
        found = concluded(check_init(spread(WithTargets(inner, last)), given, timeout=60))
        told(f"biases {inner} and {last}, {name}", found == alone, f"{alone} became {found}")
for kind in ("silent", "dead"):
    alone = concluded(check_init(net(kind), ids(), loss=loss))
    for name, make in (("ddp", DistributedDataParallel), ("fsdp", lambda m: fsdp(m, MESH))):
        found = concluded(check_init(make(net(kind)), ids(), loss=loss, timeout=60))
        told(f"a loss, {kind}, {name}", found == alone, f"{alone} became {found}")
for budget in ("60x", "250x"):
    alone = concluded(check_init(net("silent"), ids(), time_budget=budget))
    found = concluded(check_init(fsdp(net("silent"), MESH), ids(), time_budget=budget, timeout=60))
    told(f"a budget of {budget}", found == alone, f"{alone} became {found}")
for name, make in (("ddp", DistributedDataParallel), ("fsdp", lambda m: fsdp(m, MESH, reshard_after_forward=False))):
    model = make(net("silent"))
    output = model(ids()).square().mean()
    report = check_init(model, ids(), timeout=60)
    told(f"a graph that is held, {name}", report.race is not None, "no race")
    try:
        output.backward()
    except RuntimeError as error:
        told(f"a graph that is held, {name}", False, str(error)[:200])
dist.destroy_process_group()
print(f"rank {RANK} done\n", end="", flush=True)
