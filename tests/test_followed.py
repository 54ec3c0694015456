"""Inputs that the output is computed from, and those that a loss compares it with: these are no part of a task, and stay in their places."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_initcheck.callbacks import check_before_training
from pytest_initcheck.errors import UnhealthyInit
from pytest_initcheck.models.inputs import resolve_inputs
from pytest_initcheck.probing.guard import untouched
from pytest_initcheck.probing.probe import run_probe
from pytest_initcheck.race.course import Course, Spent
from pytest_initcheck.race.followed import followed
from pytest_initcheck.race.tasks import Task, tasks
from pytest_initcheck.report import Report
from pytest_initcheck.response.perturb import push_of


class WithTargets(nn.Module):
    """Returns its own loss beside what it says, as models of transformers do."""

    def __init__(self, gate: float | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
        self.condition = None if gate is None else nn.Linear(4, 3)
        self.gate = None if gate is None else nn.Parameter(torch.full((3,), gate))

    def forward(self, x: Tensor, more: Tensor, targets: Tensor) -> dict[str, Tensor]:
        said = self.body(x)
        if self.condition is not None:
            said = said + self.gate * self.condition(more)
        return {"loss": F.cross_entropy(said, targets), "scores": said}


def given(n: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(n, 8, generator=draw), torch.randn(n, 4, generator=draw), torch.arange(n) % 3


def found(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[bool, ...]:
    call = resolve_inputs(model, inputs)
    before = [p.clone() for p in model.parameters()]
    with untouched(model) as guard:
        told = followed(push_of(run_probe(model, call, guard=guard), guard), None)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    return told


def test_targets_are_told_apart_from_what_is_not_read():
    """What changes nothing at all may be a dead part, and is asked about."""
    assert found(WithTargets(), given()) == (True, True, False)


@pytest.mark.parametrize("gate", [0.0, 1.0])
def test_a_branch_that_starts_closed_is_followed(gate: float):
    assert found(WithTargets(gate), given()) == (True, True, False)


def test_a_single_input_is_not_asked_about():
    assert found(nn.Linear(8, 3), given()[:1]) == (True,)


class Towers(nn.Module):
    """Two outputs of two inputs, and a loss of both with targets."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor, more: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        left, right = self.left(x), self.right(more)
        return left, right, F.cross_entropy(left + right, targets)


def test_what_any_output_follows_is_no_target():
    assert found(Towers(), given()) == (True, True, False)


class Deaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor, more: Tensor) -> Tensor:
        return self.own.expand(len(x), 3)


def test_what_follows_nothing_is_asked_with_all_that_it_is_given():
    assert found(Deaf(), given()[:2]) == (True, True)


def test_no_task_is_a_function_of_the_targets():
    model, (x, more, targets) = WithTargets(), given()
    call = resolve_inputs(model, (x, more, targets))
    with untouched(model) as guard:
        push = push_of(run_probe(model, call, guard=guard), guard)
        losses = []
        for which in (followed(push, None), ()):
            for task in tasks(replace(push, followed=which)):
                outputs = push.forward(graph=False)
                losses.append(float(task.loss(None, outputs, (x, more, targets.roll(1)))))
                losses[-1] -= float(task.loss(None, outputs, (x, more, targets)))

    told, untold = losses[: len(losses) // 2], losses[len(losses) // 2 :]
    assert told == [0.0] * len(told)
    assert any(untold)


class Language(nn.Module):
    """Takes labels before ids, and scores classes for every token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(20, 16), nn.Linear(16, 20)

    def forward(self, labels: Tensor, ids: Tensor) -> dict[str, Tensor]:
        scores = self.head(self.table(ids))
        return {"loss": F.cross_entropy(scores.flatten(0, 1), labels.flatten()), "scores": scores}


class Maps(nn.Module):
    """Takes the map that it is to give before the one that it is computed from."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, wanted: Tensor, x: Tensor) -> dict[str, Tensor]:
        said = self.body(x)
        return {"loss": F.mse_loss(said, wanted), "map": said}


def drawn(*shape: int, high: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(sum(shape))
    return torch.randint(high, shape, generator=draw) if high else torch.randn(shape, generator=draw)


TARGETS_FIRST = {
    "tokens": (Language(), (drawn(8, 6, high=20), drawn(8, 6, high=20))),  # as a language model is given its ids
    "maps": (Maps(), (drawn(8, 2, 5, 5), drawn(8, 2, 5, 5).flip(0))),
}


@pytest.mark.parametrize("name", TARGETS_FIRST)
def test_tasks_ask_for_functions_of_what_is_read(name: str):
    model, (wanted, read) = TARGETS_FIRST[name]
    call = resolve_inputs(model, (wanted, read))
    with untouched(model) as guard:
        push = push_of(run_probe(model, call, guard=guard), guard)
        push = replace(push, followed=followed(push, None))
        (task,) = tasks(push)
        outputs = push.forward(graph=False)

        def loss(*inputs: Tensor) -> float:
            return float(task.loss(None, outputs, inputs))

        assert push.followed == (False, True)
        assert loss(wanted, read) == loss(wanted.roll(1, 0), read) != loss(wanted, read.roll(1, 0))


@pytest.mark.parametrize("kind", ["noise", "exchanged", "mixed"])
def test_targets_stay_where_they_are(kind: str):
    model, (wanted, read) = Maps(), TARGETS_FIRST["maps"][1]
    task = Task("any", lambda raw, outputs, inputs: outputs[0].sum(), 1.0, fresh=kind == "mixed")
    task = replace(task, shuffled=kind == "exchanged")
    call = resolve_inputs(model, (wanted, read))
    with untouched(model) as guard:
        push = push_of(run_probe(model, call, guard=guard), guard)
        seen = []
        for which in ((False, True), ()):
            course = Course(replace(push, followed=which), task, Spent(math.inf, push.probed.budget))
            seen.append(course._pass(0)[1])

    assert torch.equal(seen[0][0], wanted)
    assert not torch.equal(seen[0][1], read)
    assert not torch.equal(seen[1][0], wanted)


# -- a training step is judged as its loss is


def net(inner: float, head: float, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    with torch.no_grad():
        model[2].weight.mul_(inner)
        model[4].weight.mul_(head)
    return model


def told(model: nn.Module, batch: tuple[Tensor, Tensor], **how: object) -> Report:
    try:
        report = check_before_training(model, batch, **how)
    except UnhealthyInit as error:
        report = error.report
    assert report is not None
    return report


def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.seeds(2)
@pytest.mark.parametrize(
    ("samples", "inner", "head", "healthy"),
    [(8, 1, 1, True), (8, 1, 1000, True), (32, 1, 1, True), (32, 10, 100, False)],
)
def test_a_loss_and_a_step_that_computes_it_give_one_verdict(
    samples: int, inner: float, head: float, healthy: bool, seed: int
):
    x = torch.randn(samples, 16, generator=torch.Generator().manual_seed(seed))
    batch = (x, (x @ torch.randn(16, 4, generator=torch.Generator().manual_seed(7))).argmax(1))

    by_loss = told(net(inner, head, seed), batch, loss=nn.CrossEntropyLoss())
    by_step = told(net(inner, head, seed), batch, step=step)

    assert by_loss.ok is by_step.ok is healthy
    assert [f.rule for f in by_loss.findings] == [f.rule for f in by_step.findings]
