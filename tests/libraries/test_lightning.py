"""InitCheck in Lightning's Trainer: the module's own step is judged, and the run is what it would have been without it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pytest_initcheck import InitcheckWarning, ProbeError, UnhealthyInit

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module", params=["lightning.pytorch", "pytorch_lightning"])
def pl(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(request.param.partition(".")[0], exc_type=ImportError)
    return import_module(request.param)


def init_check(*arguments: Any, **keywords: Any) -> Any:
    from pytest_initcheck.callbacks.lightning import InitCheck

    return InitCheck(*arguments, **keywords)


def data(n: int = 64) -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(torch.randn(n, 8, generator=generator), torch.arange(n) % 4)


class Stream(IterableDataset):
    """Rows that are gone once they are read."""

    def __init__(self) -> None:
        self.rows = iter(data())

    def __iter__(self) -> Iterator[Any]:
        return self.rows


def net_of(pl: Any, *, sick: bool = False, optimize_by_hand: bool = False, step: Any = None, loader: Any = None) -> Any:
    from torchmetrics import MeanMetric

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4))
            self.mean = MeanMetric()
            self.automatic_optimization = not optimize_by_hand
            self.losses: list[float] = []
            self.batches: list[int] = []
            if sick:
                for parameter in self.parameters():
                    nn.init.zeros_(parameter)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            loss = F.cross_entropy(self(x + 0.1 * torch.randn_like(x) + 0.01 * random.random()), y)
            self.mean.update(loss.detach())
            self.log("loss", loss)
            self.log_dict({"mean": self.mean})
            self.logger.log_metrics({"step": float(batch_idx)}, step=self.global_step)
            self.losses.append(loss.item())
            self.batches.append(batch_idx)
            return {"loss": loss, "rate": self.trainer.optimizers[0].param_groups[0]["lr"]}

        def train_dataloader(self) -> Any:
            return loader()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-2)

    net = Net()
    if step is not None:
        Net.training_step = step
    return net


def trainer_of(pl: Any, callback: Any, folder: Path) -> tuple[Any, list[Any]]:
    logged: list[Any] = []

    class Recorder(pl.loggers.logger.Logger):
        name, version = "recorder", 0

        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            logged.append((dict(metrics), step))

        def log_hyperparams(self, *_: Any, **__: Any) -> None:
            pass

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    callbacks = [] if callback is None else [callback]
    return (
        pl.Trainer(
            max_steps=5,
            accelerator="cpu",
            devices=1,
            callbacks=callbacks,
            logger=Recorder(),
            log_every_n_steps=1,
            default_root_dir=folder,
            **quiet,
        ),
        logged,
    )


LOADERS = {
    "shuffled": lambda: DataLoader(data(), 8, shuffle=True),
    "own generator": lambda: DataLoader(data(), 8, shuffle=True, generator=torch.Generator().manual_seed(5)),
    "read once": lambda: DataLoader(Stream(), 8),
}


@pytest.mark.parametrize("hook", [False, True], ids=["argument", "hook"])
@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_five_steps_are_bit_identical(pl: Any, tmp_path: Path, loader: Any, hook: bool):
    def run(callback: Any) -> Any:
        pl.seed_everything(0, verbose=False)
        net = net_of(pl, loader=loader)
        trainer, logged = trainer_of(pl, callback, tmp_path)
        trainer.fit(net, None if hook else loader())
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        state = {name: value.tolist() for name, value in net.state_dict().items()}
        modes = [m.training for m in net.modules()]
        assert net.trainer is trainer
        assert not {"log", "log_dict"} & set(vars(net))
        return net.losses, net.batches, logged, metrics, state, modes, torch.rand(3).tolist(), random.random()

    callback = init_check()

    assert run(callback) == run(None)
    assert callback.report.ok
    assert callback.report.model == "Net"
    assert set(callback.report.trace.parameters) == {name for name, _ in net_of(pl).named_parameters()}


def test_a_sick_module_makes_no_step(pl: Any, tmp_path: Path):
    net = net_of(pl, sick=True)
    trainer, logged = trainer_of(pl, init_check(), tmp_path)

    with pytest.raises(UnhealthyInit, match=r"^Net: unhealthy init: unresponsive at net.0.weight"):
        trainer.fit(net, DataLoader(data(), 8))
    assert net.losses == []
    assert logged == []


def test_fixes_are_tried_with_the_modules_own_step(pl: Any, tmp_path: Path):
    net, check = net_of(pl), init_check("warn")
    nn.init.zeros_(net.net[0].weight)
    nn.init.zeros_(net.net[0].bias)
    nn.init.zeros_(net.net[4].weight)
    trainer, _ = trainer_of(pl, check, tmp_path)

    with pytest.warns(InitcheckWarning, match="Net: unhealthy init"):
        trainer.fit(net, DataLoader(data(), 8))
    assert len(net.losses) == 5
    assert any(f.fix for f in check.report.findings)


def no_loss(self: Any, batch: Any, batch_idx: int) -> None:
    self(batch[0])


@pytest.mark.parametrize(
    ("net", "loader", "message"),
    [
        (
            {"optimize_by_hand": True},
            LOADERS["shuffled"],
            "^Net optimizes by hand .*check_before_training with what it minimizes$",
        ),
        ({"step": no_loss}, LOADERS["shuffled"], r"^the training step of Net returned no loss \(but NoneType\)"),
        ({}, lambda: DataLoader(TensorDataset(torch.ones(0, 8), torch.ones(0)), 8), "^the training data gave no batch"),
    ],
    ids=["by hand", "no loss", "no batch"],
)
def test_what_cannot_be_judged_is_one_sentence(pl: Any, tmp_path: Path, net: dict[str, Any], loader: Any, message: str):
    trainer, _ = trainer_of(pl, init_check(), tmp_path)

    with pytest.raises(ProbeError, match=message):
        trainer.fit(net_of(pl, **net), loader())


def test_several_loaders_give_one_batch(pl: Any, tmp_path: Path):
    def step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        (x, y), (u, v) = batch["a"], batch["b"]
        return F.cross_entropy(self(torch.cat([x, u])), torch.cat([y, v]))

    check = init_check()
    trainer, _ = trainer_of(pl, check, tmp_path)

    trainer.fit(net_of(pl, step=step), {"a": DataLoader(data(), 8), "b": DataLoader(data(), 4)})

    assert check.report.ok
