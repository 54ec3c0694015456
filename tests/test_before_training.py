"""check_before_training: a real batch, the loop's own loss, and a run that is what it would have been without it."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pytest_initcheck import InitcheckWarning, ProbeError, SettingsError, UnhealthyInit, check_init
from pytest_initcheck.callbacks import check_before_training
from pytest_initcheck.callbacks.batches import first_batch, reads_once


class Net(nn.Module):
    """Draws, counts and normalizes while it runs."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(32, 4)
        self.calls = 0
        if sick:
            for parameter in self.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.encoder(x + 0.01 * random.random() + 0.01 * float(np.random.rand())))


def batch(n: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 8, generator=generator), torch.arange(n) % 4


def whole(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


def in_parts(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(model.head(model.encoder(x)), y)


WAYS = {
    "loss": {"loss": F.cross_entropy},
    "criterion": {"loss": nn.CrossEntropyLoss()},
    "step": {"step": whole},
    "step in parts": {"step": in_parts},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_healthy_model_gets_its_report_and_a_sick_one_is_refused(way: dict[str, Any]):
    torch.manual_seed(0)

    report = check_before_training(Net(), batch(), **way)

    assert report is not None
    assert report.ok
    assert report.model == "Net"
    assert set(report.trace.parameters) == {name for name, _ in Net().named_parameters()}
    assert report.trace.loss_of_zero_output == pytest.approx(1.386, abs=1e-3)
    with pytest.raises(UnhealthyInit, match=r"^Net: unhealthy init") as caught:
        check_before_training(Net(sick=True), batch(), **way)
    assert caught.value.report is not None
    assert "check_before_training(model, batch, " in caught.value.report.reproduce


def test_a_wrapper_is_taken_off_for_a_step():
    torch.manual_seed(0)
    model = nn.DataParallel(Net())  # moves it to the accelerator where there is one
    device = next(model.parameters()).device
    report = check_before_training(model, tuple(t.to(device) for t in batch()), step=in_parts)

    assert report is not None
    assert report.ok
    assert "encoder.0.weight" in report.trace.parameters


@pytest.mark.parametrize("sick", [False, True])
def test_a_step_is_judged_as_its_model_and_its_loss_are(sick: bool):
    torch.manual_seed(0)
    model = Net(sick=sick)
    x, y = batch()

    directly = check_init(model, x, loss=lambda out: F.cross_entropy(out, y))
    report = check_before_training(model, (x, y), step=whole, fail_on="never")

    assert report is not None
    assert [(f.rule, f.layers) for f in report.findings] == [(f.rule, f.layers) for f in directly.findings]
    assert [f.fix for f in report.findings] == [f.fix for f in directly.findings]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_run_that_follows_is_bit_identical(way: dict[str, Any]):
    def losses(*, checked: bool) -> tuple[list[float], list[Tensor], Any]:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        model = Net()
        data = DataLoader(TensorDataset(*batch(64)), 16, shuffle=True, generator=torch.Generator().manual_seed(1))
        optimizer = torch.optim.Adam(model.parameters())
        if checked:
            check_before_training(model, first_batch(data), **way)
            assert not optimizer.state
            assert all(p.grad is None for p in model.parameters())
        found = []
        for x, y in [*data, *data][:5]:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found, list(model.state_dict().values()), (model.calls, [m.training for m in model.modules()])

    plain, checked = losses(checked=False), losses(checked=True)

    assert checked[0] == plain[0]
    assert all(map(torch.equal, checked[1], plain[1]))
    assert checked[2] == plain[2]


def test_what_cannot_be_judged_or_is_sick_is_a_warning_where_that_is_asked_for():
    with pytest.warns(InitcheckWarning, match="Net: unhealthy init"):
        report = check_before_training(Net(sick=True), batch(), F.cross_entropy, on="warn")
    assert report is not None
    assert not report.ok
    with pytest.warns(InitcheckWarning, match="returned no loss"):
        assert check_before_training(Net(), batch(), step=lambda model, batch: None, on="warn") is None


def _trains(model: Net, given: Any) -> torch.Tensor:
    loss = F.cross_entropy(model(given[0]), given[1])
    loss.backward()
    return loss


STEPS = {
    r"^the training step of Net returned no loss \(but NoneType\)": lambda m, b: None,
    r"^the training step of Net must return one scalar \(got shape \[16, 4\]\); reduce it with .mean\(\)$": lambda m, b: (
        m(b[0])
    ),
    r"^the loss of the training step of Net depends on no parameter": lambda m, b: m(b[0]).detach().mean(),
    r"^the training step of Net raised TypeError: .*unexpected keyword argument 'nothing'": lambda m, b: m(
        nothing=1, x=b
    ),
    r"^the training step of Net runs a backward pass: give one that returns the loss, and leave backward\(\)": _trains,
}


@pytest.mark.parametrize(("message", "step"), STEPS.items(), ids=["none", "matrix", "detached", "raises", "backward"])
def test_a_step_that_gives_no_loss_is_one_sentence(message: str, step: Any):
    with pytest.raises(ProbeError, match=message) as caught:
        check_before_training(Net(), batch(), step=step)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either loss"),
        ({"loss": F.cross_entropy, "step": whole}, "give either loss"),
        ({"loss": F.cross_entropy, "on": "log"}, "on must be one of raise, warn"),
        ({"loss": F.cross_entropy, "colour": 3}, "unknown setting colour"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, Any], message: str):
    with pytest.raises(SettingsError, match=message):
        check_before_training(Net(), batch(), **arguments)


def test_a_loss_of_two_arguments_needs_a_pair():
    with pytest.raises(SettingsError, match=r"a pair \(inputs, targets\) \(got 3 parts\)"):
        check_before_training(Net(), (*batch(), 1), F.cross_entropy)


def test_a_loss_of_one_argument_takes_the_whole_batch_as_inputs():
    torch.manual_seed(0)
    report = check_before_training(Net(), {"x": batch()[0]}, lambda out: out.square().mean())

    assert report is not None
    assert report.ok


def test_parameters_of_a_step_are_looked_for_in_the_code_of_the_model():
    class Optional(Net):
        def __init__(self) -> None:
            super().__init__()
            self.sometimes = nn.Linear(8, 8)
            self.never = nn.Linear(8, 8)

        def forward(self, x: Tensor, extra: bool = False) -> Tensor:
            return super().forward(self.sometimes(x) if extra else x)

    torch.manual_seed(0)
    report = check_before_training(Optional(), batch(), step=whole, fail_on="never")

    assert report is not None
    told = {f.severity: set(f.layers) for f in report.findings}
    assert {n.partition(".")[0] for n in told["error"]} == {"never"}
    assert {n.partition(".")[0] for n in told["note"]} == {"sometimes"}


# -- the first batch


class Noisy(Dataset):
    """Draws from a generator of its own, and from the global ones."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> Tensor:
        return torch.tensor([i, self.generator.random(), random.random(), float(torch.rand(()))])


class Position:
    """A sampler that goes on where it was left."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[int]:
        while self.at < 12:
            self.at += 1
            yield self.at - 1

    def __len__(self) -> int:
        return 12


LOADERS = {
    "shuffled": lambda: DataLoader(Noisy(), 4, shuffle=True),
    "own generator": lambda: DataLoader(Noisy(), 4, shuffle=True, generator=torch.Generator().manual_seed(5)),
    "sampler with a position": lambda: DataLoader(Noisy(), 4, sampler=Position()),
    "persistent workers": lambda: DataLoader(range(12), 4, num_workers=1, persistent_workers=True),
    "a list of batches": lambda: [torch.ones(2), torch.zeros(2)],
}


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_the_first_batch_comes_again(make: Any):
    def rows(*, looked: bool) -> list[Tensor]:
        random.seed(0)
        torch.manual_seed(0)
        loader = make()
        if looked:
            first_batch(loader)
            assert getattr(loader, "_iterator", None) is None
        return [*loader]

    assert all(map(torch.equal, rows(looked=True), rows(looked=False)))


def test_no_batch_is_one_sentence():
    with pytest.raises(ProbeError, match=r"^the training data gave no batch, so the model was not checked"):
        first_batch([])


class Stream(IterableDataset):
    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows)


@pytest.mark.parametrize(
    ("make", "once"),
    [
        (lambda: iter([1, 2]), True),
        (lambda: DataLoader(Stream(iter([1, 2]))), True),
        (lambda: DataLoader(Stream([1, 2])), False),
        (lambda: DataLoader(Noisy()), False),
        (lambda: [1, 2], False),
    ],
    ids=["iterator", "stream", "list behind", "map", "list"],
)
def test_what_can_be_read_once_is_known(make: Any, once: bool):
    assert reads_once(make()) is once


# -- several processes

RANK = """
import sys, warnings
import torch
from torch import nn
from pytest_initcheck.callbacks import check_before_training
from pytest_initcheck import UnhealthyInit
rank, store, sick = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
if rank == sick:
    for p in model.parameters(): nn.init.zeros_(p)
try:
    check_before_training(model, (torch.randn(8, 8), torch.arange(8) % 4), nn.functional.cross_entropy)
    print("healthy")
except UnhealthyInit as error:
    print(str(error).splitlines()[0])
torch.distributed.destroy_process_group()
"""


@pytest.mark.always("another")
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without torch.distributed")
@pytest.mark.parametrize(
    ("sick", "expected"),
    [
        (
            0,
            [
                "Sequential: unhealthy init",
                "the first process found that this model will not train: its message says why",
            ],
        ),
        (1, ["healthy", "healthy"]),
    ],
    ids=["the first", "another"],
)
def test_all_processes_decide_as_the_first_does(tmp_path: Path, sick: int, expected: list[str]):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "store"), str(sick)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    printed = [process.communicate(timeout=600)[0] for process in started]

    assert all(text.startswith(start) for text, start in zip(printed, expected, strict=True)), printed
