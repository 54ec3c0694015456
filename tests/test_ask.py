"""How the function answers when it is pushed: against closed forms where there are some, sick against healthy where not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import check_init, thresholds
from pytest_initcheck.probing.probe import OutputChanged, centred
from pytest_initcheck.response.ask import ask, natural_unit
from pytest_initcheck.response.perturb import Push, rms
from pytest_initcheck.response.stepping import EPSILON, common

Pushed = Callable[..., Push]
STEP = thresholds.STEP


def waves(samples: int, columns: int) -> Tensor:
    """Columns of -1 and 1 that are orthogonal to one another and to a constant (a Hadamard matrix without its first)."""
    h = torch.ones(1, 1)
    while len(h) < samples:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h[:, 1 : columns + 1].contiguous()


class Formed(nn.Module):
    """``forward`` of parameters with names and of the inputs."""

    def __init__(self, forward: Callable[..., Tensor], **values: Tensor | float) -> None:
        super().__init__()
        self._forward = forward
        for name, value in values.items():
            setattr(self, name, nn.Parameter(torch.as_tensor(value)))

    def forward(self, *args: Tensor) -> Tensor:
        return self._forward(self, *args)


def pulled(size: float) -> Callable[[Tensor], Tensor]:
    """A loss of a single weight w behind inputs of -1 and 1: its gradient is ``size``."""
    return lambda output: size * (output * waves(16, 1)).mean()


# -- one step


@pytest.mark.parametrize("width", [1, 4, 16])
def test_one_step_moves_a_linear_layer_by_its_size_times_the_root_of_the_fan(pushed: Pushed, width: int):
    # Every weight moves by STEP, whatever its gradient; the inputs' columns are orthogonal and of unit RMS.
    response = ask(pushed(nn.Linear(width, 5), waves(32, width))).response

    assert response.movement[0] == pytest.approx(STEP * math.sqrt(width), rel=1e-4)


def test_of_a_linear_layer_the_gradient_predicts_just_the_part_that_goes_where_it_was_asked_to(pushed: Pushed):
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(3))

    response = ask(pushed(nn.Linear(16, 5, bias=False), x)).response

    assert response.predicted is not None
    assert response.alignment is not None
    assert 0 < response.alignment < 1
    assert response.predicted == pytest.approx(response.movement[0] * response.alignment, rel=1e-3)


def test_a_linear_layer_that_is_asked_for_what_a_step_can_give_goes_straight_there(pushed: Pushed):
    x = waves(32, 4)

    response = ask(pushed(nn.Linear(4, 3), x), suspicious=True).response
    straight = ask(pushed(nn.Linear(4, 1), x, loss=lambda y: (y * x.sum(1, keepdim=True)).mean())).response

    assert straight.alignment == pytest.approx(1.0, abs=1e-5)
    assert response.alignment is not None
    assert response.alignment < 0.9


def test_a_bias_moves_no_sample_against_another(pushed: Pushed):
    offset = Formed(lambda m, x: x + m.b, b=torch.zeros(4))

    answer = ask(pushed(offset, waves(16, 4)))

    assert answer.response.movement == pytest.approx((0.0,) * thresholds.LOOKS, abs=1e-7)


@pytest.mark.parametrize(
    ("gradient", "share"), [(1e-10, 1 / 101), (1e-8, 1 / 2), (1e-6, 100 / 101), (1e-4, 1.0), (1.0, 1.0)]
)
def test_a_gradient_near_adams_epsilon_moves_less(pushed: Pushed, gradient: float, share: float):
    assert EPSILON == 1e-8
    scaled = Formed(lambda m, x: x * m.w, w=torch.ones(1))

    response = ask(pushed(scaled, waves(16, 1), loss=pulled(gradient))).response

    assert response.movement[0] == pytest.approx(STEP * share, rel=1e-3)
    assert response.predicted == pytest.approx(STEP * gradient, rel=1e-4)


def test_parameters_that_share_a_gradient_step_each_by_their_own(pushed: Pushed):
    # The gradient of a + b is one tensor for both: divided by its size twice in place, the second would step by 1.
    both = Formed(lambda m, x: x * (m.a + m.b), a=torch.ones(1), b=torch.ones(1))

    response = ask(pushed(both, waves(16, 1), loss=pulled(1e-8))).response

    assert response.movement[0] == pytest.approx(STEP * (1 / 2 + 1 / 2), rel=1e-3)


def test_a_gradient_that_is_one_number_for_all_elements_steps_every_element(pushed: Pushed):
    summed = Formed(lambda m, x: x * m.w.sum(), w=torch.ones(8))

    assert ask(pushed(summed, waves(16, 1), loss=pulled(1.0))).response.movement[0] == pytest.approx(8 * STEP, rel=1e-4)


def test_what_is_frozen_does_not_step(pushed: Pushed):
    model = Formed(lambda m, x: x * (m.a + m.b), a=torch.ones(1), b=torch.ones(1))
    model.a.requires_grad_(False)

    assert ask(pushed(model, waves(16, 1))).response.movement[0] == pytest.approx(STEP, rel=1e-4)


class Freezes(nn.Module):
    """Freezes one of its weights in every pass, or thaws it."""

    def __init__(self, thaws: bool) -> None:
        super().__init__()
        self.a, self.b, self._thaws = nn.Linear(8, 8), nn.Linear(8, 4), thaws

    def forward(self, x: Tensor) -> Tensor:
        self.a.weight.requires_grad_(self._thaws)
        return self.b(self.a(x).relu())


@pytest.mark.parametrize("thaws", [False, True])
def test_a_pass_may_freeze_and_thaw(thaws: bool):
    model = Freezes(thaws)
    model.a.weight.requires_grad_(not thaws)

    report = check_init(model, "32x8")

    assert report.response.movement[0] > 0
    assert not [f for f in report.findings if f.severity == "error"]
    assert model.a.weight.requires_grad is not thaws


def test_the_weights_and_the_probes_gradients_are_put_back(pushed: Pushed):
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    before = [p.detach().clone() for p in model.parameters()]

    ask(pushed(model, "16x8"), suspicious=True, oversized=True)

    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_an_output_that_is_not_finite_is_not_asked(pushed: Pushed):
    model = nn.Linear(8, 2)
    nn.init.constant_(model.bias, float("inf"))

    answer = ask(pushed(model, "16x8"))

    assert answer.response.movement == ()
    assert answer.response.sensitivity is None
    assert dict(answer.wakes) == {}


# -- gates


def test_a_zero_head_hears_at_once(pushed: Pushed):
    answer = ask(pushed(Formed(lambda m, x: 9 * x * m.head, head=torch.zeros(1)), "16x1"))

    assert dict(answer.wakes) == {}
    assert len(answer.response.movement) == 1


def test_a_gate_behind_a_zero_head_wakes_after_a_step_and_what_it_hides_after_two(pushed: Pushed):
    model = Formed(
        lambda m, x: (x + m.gate * (x * m.w).tanh()) * m.head,
        w=torch.ones(1),
        gate=torch.zeros(1),
        head=torch.zeros(1),
    )

    answer = ask(pushed(model, "16x1"))

    assert dict(answer.wakes) == {"gate": True, "w": True}
    assert len(answer.response.movement) >= 2


def test_a_product_of_zeros_never_wakes_and_one_of_a_zero_and_a_one_does(pushed: Pushed):
    def product(a: float, b: float) -> dict[str, bool]:
        return dict(ask(pushed(Formed(lambda m, x: x * m.a * m.b, a=[a], b=[b]), "16x1")).wakes)

    assert product(0.0, 0.0) == {"a": False, "b": False}
    assert product(0.0, 1.0) == {"b": True}


def test_the_steps_stop_where_nothing_is_silent(pushed: Pushed):
    assert len(ask(pushed(nn.Linear(8, 4), "16x8")).response.movement) == 1
    silent = ask(pushed(Formed(lambda m, x: x * m.w * 1e-9, w=torch.ones(1)), "16x1")).response
    assert len(silent.movement) == thresholds.LOOKS


# -- the disturbed input


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_linear_map_hears_its_inputs_as_they_are(pushed: Pushed, scale: float):
    model = nn.Linear(64, 64)
    nn.init.orthogonal_(model.weight, gain=scale)

    assert ask(pushed(model, "256x64")).response.sensitivity == pytest.approx(1.0, rel=0.05)


def test_a_disturbance_is_a_share_of_the_whole_input_and_told_against_what_varies(pushed: Pushed):
    x = 5 + 0.1 * torch.randn(256, 16, generator=torch.Generator().manual_seed(0))

    def heard(power: int) -> float | None:
        return ask(pushed(Formed(lambda m, x: m.w * x**power, w=torch.ones(1)), x)).response.sensitivity

    # Noise of 1 % of the RMS 5 on what varies by 0.1: half of it, through any nearly linear function.
    assert heard(1) == pytest.approx(50.0, rel=0.05)
    assert heard(2) == pytest.approx(50.0, rel=0.1)


def test_what_does_not_follow_the_input_is_asked_again_after_the_steps(pushed: Pushed):
    x = torch.tensor([-2.0, -1.0, 1.0, 2.0]).repeat(8, 4)[:, torch.arange(16)] * waves(8, 1)
    deaf = ask(pushed(Formed(lambda m, x: m.w * waves(8, 1).expand_as(x), w=torch.ones(1)), x)).response
    hears = ask(pushed(Formed(lambda m, x: m.w * x, w=torch.ones(1)), x)).response

    assert deaf.sensitivity == 0.0
    assert deaf.sensitivity_later == 0.0
    assert len(deaf.movement) == thresholds.LOOKS
    assert hears.sensitivity_later is None


def test_a_choice_that_no_small_disturbance_turns_is_asked_by_exchanging_samples(pushed: Pushed):
    x = torch.tensor([-2.0, -1.0, 1.0, 2.0]).repeat(8, 4)[:, torch.arange(16)] * waves(8, 1)
    chosen = ask(pushed(Formed(lambda m, x: m.w * x.sign(), w=torch.ones(1)), x)).response

    assert chosen.disturbance is not None
    assert chosen.disturbance > 1
    assert chosen.sensitivity == pytest.approx(1.0)
    assert chosen.sensitivity_later is None


def test_an_output_that_is_one_for_all_has_no_sensitivity(pushed: Pushed):
    assert ask(pushed(Formed(lambda m, x: x * 0 + m.w, w=torch.ones(1)), "16x4")).response.sensitivity is None


def test_weights_that_are_frozen_are_not_made_smaller(pushed: Pushed):
    x = 5 + 0.1 * torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(16, 16)
    model.weight.requires_grad_(False)

    response = ask(pushed(model, x), oversized=True).response

    assert response.sensitivity is not None
    assert response.sensitivity > thresholds.CHAOTIC
    assert response.sensitivity_if_smaller == response.sensitivity


def test_chaos_is_the_weights_where_smaller_ones_cure_it_and_asked_only_of_large_ones(pushed: Pushed):
    def chaotic() -> nn.Sequential:
        torch.manual_seed(0)
        layers = [m for _ in range(12) for m in (nn.Linear(32, 32, bias=False), nn.Tanh())]
        for m in layers:
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=8 / math.sqrt(32))
        return nn.Sequential(*layers, nn.Linear(32, 4))

    asked = ask(pushed(chaotic(), "64x32"), oversized=True).response
    spared = ask(pushed(chaotic(), "64x32"), oversized=False).response

    assert asked.sensitivity is not None
    assert asked.sensitivity > thresholds.CHAOTIC
    assert asked.sensitivity_if_smaller is not None
    assert asked.sensitivity_if_smaller < thresholds.CURED * asked.sensitivity
    assert spared.sensitivity is not None
    assert spared.sensitivity > thresholds.CHAOTIC
    assert spared.sensitivity_if_smaller is None


# -- outputs of changing size, and the unit they are judged in


def test_what_two_outputs_have_in_common():
    a, b = torch.arange(12.0).view(3, 4), torch.ones(2, 6)

    one, other = common(a, b)

    assert torch.equal(one, a[:2])
    assert other.shape == (2, 4)
    assert common(a, a)[0] is a


@pytest.mark.parametrize("shape", [(3,), (3, 0), (3, 4, 1)])
def test_outputs_without_anything_in_common_are_not_compared(shape: tuple[int, ...]):
    with pytest.raises(OutputChanged, match=r"shape \[3, 4\] cannot be compared"):
        common(torch.ones(3, 4), torch.ones(shape))


def test_an_output_whose_size_depends_on_the_weights_is_judged_by_what_stays(pushed: Pushed):
    # Longer by one column as soon as the weight has moved from 1, up or down.
    model = Formed(lambda m, x: (m.w * x)[:, : 4 + int(m.w != 1)], w=torch.ones(1))
    x = waves(16, 8)

    answer = ask(pushed(model, x))

    assert answer.response.movement[0] == pytest.approx(STEP, rel=1e-4)
    assert answer.unseen[0] == (
        "the size of the output depends on the weights ([16, 4] before, [16, 5] after a step): its movement was judged "
        "on what is common"
    )


def test_an_output_whose_size_depends_on_the_weights_is_not_fitted(pushed: Pushed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(thresholds, "FAR", 0.0)  # then it is always tried
    model = Formed(lambda m, x: (m.w * x)[:, : 4 + int(m.w != 1)], w=torch.ones(1))

    answer = ask(pushed(model, waves(16, 8)))

    assert answer.response.residual is None
    assert answer.unseen[-1].endswith("so no target fits it: whether it can be fitted was not judged")


def test_probabilities_are_judged_by_their_own_size_and_scores_by_one():
    scores = torch.randn(8, 1000, generator=torch.Generator().manual_seed(0))

    assert natural_unit(scores) == 1.0
    assert natural_unit(scores.softmax(-1)) == pytest.approx(rms(scores.softmax(-1)))
    assert natural_unit(scores.softmax(-1)) < 0.01
    assert natural_unit(scores.view(8, 10, 100).softmax(1)) < 1.0
    assert natural_unit(scores.sigmoid()) == 1.0
    assert natural_unit(torch.ones(8, 1)) == 1.0


def test_a_softmax_over_many_classes_moves_in_units_of_its_own(pushed: Pushed):
    model = nn.Sequential(nn.Linear(16, 1000), nn.Softmax(-1))

    push = pushed(model, "32x16")
    response = ask(push).response

    assert response.unit == pytest.approx(rms(push.start))
    assert response.movement[0] > thresholds.SILENT


def test_the_size_of_the_output_is_told_with_and_without_what_samples_share(pushed: Pushed):
    model = nn.Linear(8, 4)
    nn.init.constant_(model.bias, 3.0)

    push = pushed(model, "64x8")
    response = ask(push).response

    assert response.output_rms == pytest.approx(rms(push.start))
    assert response.output_centred_rms == pytest.approx(rms(centred(push.start, 64)))
    assert response.output_rms is not None
    assert response.output_rms > 2.5
    assert response.output_centred_rms is not None
    assert response.output_centred_rms < 1.0
