"""How far a few steps bring a model towards targets: against torch's own Adam, and where theory gives the number."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import thresholds
from pytest_initcheck.probing.probe import OutputChanged, centred
from pytest_initcheck.response.fit import TOKEN_CLASSES, fit, labels, targets, token_ids
from pytest_initcheck.response.perturb import Push, rms

Pushed = Callable[..., Push]
X = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
IDS = torch.randint(50, (8, 12), generator=torch.Generator().manual_seed(2))


class Formed(nn.Module):
    """``forward`` of one weight and the inputs."""

    def __init__(self, forward: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.w, self._forward = nn.Parameter(torch.ones(1)), forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self.w, x)


def mlp(scale: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    with torch.no_grad():
        model[0].weight.mul_(scale)
    return model


def scores(vocabulary: int = 50) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(vocabulary, 128), nn.Linear(128, vocabulary))


def fitted(push: Push, ids: Tensor | None = None) -> tuple[float, int | None]:
    found = fit(push, push.start, 1.0, ids)
    return found.left, found.steps


# -- targets


def test_targets_are_centred_and_of_unit_size_and_the_same_each_time(pushed: Pushed):
    push = pushed(mlp(), X)

    target = targets(push, push.start)

    assert target.shape == push.start.shape
    assert rms(target) == pytest.approx(1.0, rel=1e-5)
    assert float(target.mean(0).abs().max()) < 1e-5
    assert torch.equal(target, targets(push, push.start))
    other = pushed(mlp(), X, seed=1)
    assert not torch.equal(target, targets(other, other.start))


@pytest.mark.parametrize("inputs", [X, IDS.float(), IDS], ids=["floats", "whole floats", "ids"])
def test_targets_are_functions_of_the_input(pushed: Pushed, inputs: Tensor):
    twice = torch.cat([inputs, inputs])
    push = pushed(Formed(lambda w, x: w * x.float()), twice)

    target = targets(push, push.start)

    assert torch.allclose(target[: len(inputs)], target[len(inputs) :], atol=1e-5)
    assert not torch.allclose(target[0], target[1], atol=0.1)


def test_near_inputs_have_near_targets_and_near_ids_do_not(pushed: Pushed):
    x = torch.cat([X, X + 1e-3])
    near = pushed(Formed(lambda w, x: w * x), x)
    ids = pushed(Formed(lambda w, x: w * x.float()), torch.cat([IDS, IDS + 1]))

    def gap(push: Push, half: int) -> float:
        target = targets(push, push.start)
        return rms(target[:half] - target[half:])

    assert gap(near, len(X)) < 0.02
    assert gap(ids, len(IDS)) > 0.3


@pytest.mark.parametrize("x", [torch.ones(8, 4), torch.full((8, 4), float("nan"))], ids=["equal", "not a number"])
def test_where_inputs_tell_nothing_targets_are_drawn(pushed: Pushed, x: Tensor):
    push = pushed(Formed(lambda w, x: w * torch.linspace(-1, 1, 32).view(8, 4)), x)

    target = targets(push, push.start)

    assert rms(target) == pytest.approx(1.0, rel=1e-5)
    assert rms(centred(target, 8)) == pytest.approx(1.0, rel=1e-5)


# -- the fit


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_fit_is_that_of_torchs_adam_at_the_best_of_its_rates(
    pushed: Pushed, monkeypatch: pytest.MonkeyPatch, scale: float
):
    monkeypatch.setattr(thresholds, "FIT_ENOUGH", 0.0)  # all steps at all rates
    monkeypatch.setattr(thresholds, "FIT_STEPS", 12)
    push = pushed(mlp(scale), X)
    target = targets(push, push.start)
    best = math.inf
    for rate in thresholds.FIT_RATES:
        model = mlp(scale)
        adam = torch.optim.Adam(model.parameters(), lr=rate)
        for step in range(13):
            output = model(X)
            best = min(best, float((centred(output.detach(), 32) - target).square().mean()))
            if step < 12:
                adam.zero_grad()
                (output - target).square().mean().backward()
                adam.step()

    left, steps = fitted(push)

    assert left == pytest.approx(best, rel=1e-3)
    assert steps == 12


def test_the_fit_ends_as_soon_as_enough_is_fitted(pushed: Pushed):
    left, steps = fitted(pushed(mlp(), X))

    assert left < thresholds.FIT_ENOUGH
    assert steps is not None
    assert 0 < steps < thresholds.FIT_STEPS


@pytest.mark.parametrize(("unit", "offset"), [(1.0, 0.0), (0.01, 0.0), (1.0, 50.0)])
def test_what_says_nothing_of_its_inputs_leaves_the_whole_error(pushed: Pushed, unit: float, offset: float):
    push = pushed(Formed(lambda w, x: w * 0 * x + offset), X)

    found = fit(push, push.start, unit, None)
    left, steps = found.left, found.steps

    assert left == pytest.approx(1.0, rel=1e-5)
    assert steps == thresholds.FIT_STEPS


def test_an_output_far_out_of_reach_keeps_its_distance(pushed: Pushed):
    sick, healthy = (fitted(pushed(mlp(scale), X))[0] for scale in (1000.0, 1.0))

    assert sick > thresholds.STRAYED
    assert healthy < thresholds.FIT_ENOUGH


def test_parameters_are_put_back(pushed: Pushed):
    push = pushed(mlp(), X)
    before = {n: p.detach().clone() for n, p in push.parameters.items()}

    fitted(push)

    assert all(torch.equal(p, before[n]) for n, p in push.parameters.items())


def test_a_fit_that_runs_away_at_one_rate_goes_on_at_the_next(pushed: Pushed, monkeypatch: pytest.MonkeyPatch):
    # Beyond 1.001 the output is not finite: the steps of the two large rates leave that at once.
    model = Formed(lambda w, x: torch.where((w - 1).abs() < 2e-3, 1e-4 * w, torch.inf) * x)
    monkeypatch.setattr(thresholds, "FIT_RATES", (1e-1, 1e-2, 1e-5))

    left, steps = fitted(pushed(model, X))

    assert left == pytest.approx(1.0, rel=1e-3)
    assert steps == thresholds.FIT_STEPS


def test_an_output_of_another_size_has_no_target(pushed: Pushed):
    push = pushed(Formed(lambda w, x: w * x), X)

    with pytest.raises(OutputChanged, match="no target fits it"):
        fit(push, push.start[:, :3], 1.0, None)


# -- scores of tokens


def test_scores_of_tokens_are_told_by_a_row_for_every_id(pushed: Pushed):
    push = pushed(scores(), IDS)

    assert torch.equal(token_ids(push, push.start), IDS)
    assert token_ids(push, push.start[:, :5]) is None
    assert token_ids(push, push.start[..., :2]) is None
    assert token_ids(push, push.start.mean(1)) is None
    floats = pushed(nn.Sequential(nn.Linear(16, 50)), torch.randn(8, 12, 16))
    assert token_ids(floats, floats.start) is None
    truth = pushed(Formed(lambda w, x: w * x.float().unsqueeze(-1).expand(8, 12, 4)), IDS > 25)
    assert token_ids(truth, truth.start) is None


def test_every_id_has_one_class_and_every_class_as_many_ids():
    ids = torch.arange(60).repeat(2).view(8, 15)

    found = labels(ids, TOKEN_CLASSES, seed=0)

    assert torch.equal(found.flatten()[:60], found.flatten()[60:])
    assert torch.bincount(found.flatten()).tolist() == [10] * TOKEN_CLASSES
    assert torch.equal(found, labels(ids, TOKEN_CLASSES, seed=0))
    assert not torch.equal(found, labels(ids, TOKEN_CLASSES, seed=1))
    assert torch.equal(labels(ids * 1000 - 7, TOKEN_CLASSES, seed=0), found)


def test_scores_that_are_all_equal_are_a_uniform_guess(pushed: Pushed):
    flat = Formed(lambda w, x: w * 0 * x.unsqueeze(-1).expand(8, 12, 50).float())

    left, steps = fitted(pushed(flat, IDS), IDS)

    assert left == pytest.approx(1.0, rel=1e-6)
    assert steps == thresholds.FIT_STEPS


@pytest.mark.parametrize("vocabulary", [50, 5000])
def test_tokens_are_told_apart_whatever_the_vocabulary(pushed: Pushed, vocabulary: int):
    left, _ = fitted(pushed(scores(vocabulary), IDS), IDS)

    assert left < thresholds.TOKENS_UNREACHED


def test_tokens_that_look_alike_are_not_told_apart(pushed: Pushed):
    model = scores()
    nn.init.zeros_(model[0].weight)
    model[0].weight.requires_grad_(False)

    assert fitted(pushed(model, IDS), IDS)[0] > 0.9
