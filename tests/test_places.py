"""Where each parameter stands: what reads it, what is behind it, and on which residual branch it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from pytest_initcheck.models.inputs import resolve_inputs
from pytest_initcheck.schemes.places import Place, Wiring, module_wiring, read_wiring


def wiring(model: nn.Module, inputs: object = "8x16") -> Wiring:
    return read_wiring(model, resolve_inputs(model, inputs))


def places(model: nn.Module, inputs: object = "8x16") -> dict[str, Place]:
    return dict(wiring(model, inputs).places)


class Block(nn.Module):
    """``x + b(act(a(x)))``, with a norm before, inside, behind the sum, or nowhere."""

    def __init__(self, norm: str = "") -> None:
        super().__init__()
        self.a, self.b, self.where = nn.Linear(16, 16), nn.Linear(16, 16), norm
        self.norm = nn.LayerNorm(16) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(self.norm(x) if self.where == "before" else x).relu()
        y = self.b(y)
        if self.where == "inside":
            y = self.norm(y)
        return self.norm(x + y) if self.where == "behind" else x + y


class Formed(nn.Module):
    """Whatever ``forward`` does with named modules and parameters."""

    def __init__(self, forward: Callable[..., Tensor], **held: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self._forward = forward
        for name, part in held.items():
            setattr(self, name, part)

    def forward(self, *args: Tensor) -> Tensor:
        return self._forward(self, *args)


def in_row(*blocks: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 16), *blocks, nn.Linear(16, 4))


# -- first, head, what is behind


def test_the_first_weight_reads_the_inputs_and_the_head_is_read_by_none():
    found = places(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)))

    assert [(p.first, p.head) for n, p in found.items() if n.endswith("weight")] == [
        (True, False),
        (False, False),
        (False, True),
    ]
    assert not any(p.first or p.head for n, p in found.items() if n.endswith("bias"))
    assert [p.followed_by for n, p in found.items() if n.endswith("weight")] == ["relu", "tanh", "none"]
    assert (found["0.weight"].fan_in, found["0.weight"].fan_out, found["0.weight"].units) == (16, 8, 8)


def test_every_weight_that_reads_the_inputs_is_first_and_every_one_that_is_not_read_a_head():
    two = Formed(
        lambda m, x: torch.cat([m.left(m.a(x).relu()), m.right(m.b(x).relu())], -1),
        a=nn.Linear(16, 8),
        b=nn.Linear(16, 8),
        left=nn.Linear(8, 2),
        right=nn.Linear(8, 2),
    )

    found = places(two)

    assert {n for n, p in found.items() if p.first} == {"a.weight", "b.weight"}
    assert {n for n, p in found.items() if p.head} == {"left.weight", "right.weight"}


def test_what_reads_an_embedding_is_not_first():
    model = nn.Sequential(nn.Embedding(11, 16), nn.Linear(16, 4))

    found = places(model, torch.arange(11).repeat(4, 1))

    assert found["0.weight"].role == "embedding"
    assert not found["1.weight"].first
    assert found["1.weight"].head


def test_a_convolution_in_groups_has_the_fans_of_one_group():
    place = places(nn.Sequential(nn.Conv2d(8, 16, 3, groups=4)), "4x8x6x6")["0.weight"]

    assert (place.fan_in, place.units, place.use.groups) == (2 * 9, 4, 4)


@pytest.mark.parametrize(
    ("act", "omega", "told"), [(lambda x: (30 * x).sin(), 30.0, "sin"), (lambda x: (30 * x).tanh(), 1.0, "tanh")]
)
def test_the_factor_in_front_of_a_sine_is_read_and_of_nothing_else(
    act: Callable[[Tensor], Tensor], omega: float, told: str
):
    model = Formed(lambda m, x: m.head(act(m.fc(x))), fc=nn.Linear(16, 16), head=nn.Linear(16, 4))

    found = places(model)

    assert (found["fc.weight"].followed_by, found["fc.weight"].omega) == (told, omega)
    assert found["head.weight"].omega == 1.0


# -- residual branches


def test_the_last_weight_of_a_branch_closes_it_and_a_plain_stack_has_no_branch():
    found = wiring(in_row(Block(), Block()))
    plain = wiring(in_row(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)))

    assert {n for n, p in found.places.items() if p.closes and p.role == "weight"} == {"1.b.weight", "2.b.weight"}
    assert {n: p.branch for n, p in found.places.items() if p.role == "weight"} == {
        "0.weight": 0,
        "1.a.weight": 2,
        "1.b.weight": 2,
        "2.a.weight": 2,
        "2.b.weight": 2,
        "3.weight": 0,
    }
    assert (found.branches, plain.branches) == (2, 0)
    assert not any(p.closes or p.branch for p in plain.places.values())


@pytest.mark.parametrize(("norm", "normed"), [("", False), ("before", False), ("inside", True), ("behind", True)])
def test_a_branch_is_normed_by_a_norm_between_its_weight_and_the_sum_or_behind_the_sum(norm: str, normed: bool):
    found = wiring(in_row(Block(norm), Block(norm)))

    assert {found.places[f"{i}.b.weight"].normed for i in (1, 2)} == {normed}
    assert found.norms is bool(norm)


def test_the_scale_of_the_last_norm_closes_a_branch_too():
    found = places(in_row(Block("inside"), Block("before")))

    assert found["1.norm.weight"].closes
    assert not found["2.norm.weight"].closes


def test_a_sum_of_two_like_branches_is_no_residual_one():
    fork = Formed(
        lambda m, x: m.head(m.a(m.stem(x)) + m.b(m.stem(x))),
        stem=nn.Linear(16, 16),
        a=nn.Linear(16, 16),
        b=nn.Linear(16, 16),
        head=nn.Linear(16, 4),
    )

    assert wiring(fork).branches == 0


def test_the_steps_of_a_recurrent_layer_are_no_branches():
    recurrent = Formed(lambda m, x: m.head(m.rnn(x)[0]), rnn=nn.RNN(16, 16, batch_first=True), head=nn.Linear(16, 4))

    found = wiring(recurrent, "8x5x16")

    assert not any(p.closes or p.branch for p in found.places.values())


def test_what_a_sigmoid_makes_a_factor_of_gates_and_a_sigmoid_alone_does_not():
    def held() -> dict[str, nn.Module]:
        return {"g": nn.Linear(16, 16), "v": nn.Linear(16, 16)}

    gated = places(Formed(lambda m, x: m.g(x).sigmoid() * m.v(x), **held()))
    added = places(Formed(lambda m, x: m.g(x).sigmoid() + m.v(x), **held()))

    assert (gated["g.weight"].gates, gated["v.weight"].gates) == (True, False)
    assert not any(p.gates for p in added.values())


# -- names, and what holds a weight


@pytest.mark.parametrize(
    ("made", "parts", "made_by"),
    [
        (
            parametrizations.weight_norm,
            ("0.parametrizations.weight.original0", "0.parametrizations.weight.original1"),
            "parametrization",
        ),
        (parametrizations.spectral_norm, ("0.parametrizations.weight.original",), "parametrization"),
    ],
)
def test_a_weight_that_is_made_goes_by_the_name_that_users_know(
    made: Callable[[nn.Module], nn.Module], parts: tuple[str, ...], made_by: str
):
    found = places(nn.Sequential(made(nn.Linear(16, 8)), nn.ReLU(), nn.Linear(8, 4)))

    assert list(found) == ["0.bias", "0.weight", "2.weight", "2.bias"]
    place = found["0.weight"]
    assert (place.parameters, place.made_by, place.shape) == (parts, made_by, (8, 16))
    assert (place.role, place.followed_by, place.fan_in, place.reached) == ("weight", "relu", 16, True)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_the_older_weight_norm_is_known_too():
    place = places(nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(16, 8)), nn.ReLU()))["0.weight"]

    assert (place.made_by, place.parameters, place.shape) == ("weight-norm", ("0.weight_g", "0.weight_v"), (8, 16))
    assert (place.fan_in, place.followed_by) == (16, "relu")


def test_a_parameter_of_a_name_like_weight_norms_is_a_parameter():
    mixing = Formed(
        lambda m, x: m.fc(x) @ m.mix_g + m.mix_v,
        fc=nn.Linear(16, 8),
        mix_g=nn.Parameter(torch.randn(8, 8)),
        mix_v=nn.Parameter(torch.randn(8)),
    )

    found = places(mixing)

    assert {n: (p.parameters, p.made_by) for n, p in found.items() if n.startswith("mix")} == {
        "mix_g": (("mix_g",), ""),
        "mix_v": (("mix_v",), ""),
    }
    assert (found["mix_g"].role, found["mix_g"].fan_in) == ("weight", 8)


def test_tied_weights_are_one_place_with_further_names():
    model = Formed(
        lambda m, x: m.out(m.fc(m.embed(x))), embed=nn.Embedding(16, 8), fc=nn.Linear(8, 8), out=nn.Linear(8, 16)
    )
    model.out.weight = model.embed.weight

    found = places(model, torch.arange(16).repeat(4, 1))

    assert found["embed.weight"].aliases == ("out.weight",)
    assert "out.weight" not in found


def test_what_is_frozen_has_a_place_and_stays_frozen():
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    model[0].requires_grad_(False)

    found = places(model)

    assert not model[0].weight.requires_grad
    assert (found["0.weight"].reached, found["0.weight"].followed_by, found["0.weight"].first) == (True, "relu", True)


def test_what_the_output_does_not_depend_on_is_not_reached():
    model = Formed(lambda m, x: m.used(x), used=nn.Linear(16, 4), spare=nn.Linear(16, 4))

    assert {n: p.reached for n, p in places(model).items()} == {
        "used.weight": True,
        "used.bias": True,
        "spare.weight": False,
        "spare.bias": False,
    }


def test_a_model_is_left_as_it_was():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 4)).eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    state = torch.get_rng_state()

    places(model)

    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


# -- without a run


def test_modules_alone_tell_roles_and_fans_but_not_what_is_behind():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4))

    found = module_wiring(model)

    assert (found.followed, found.norms, found.branches) == (False, True, 0)
    assert {n: (p.role, p.fan_in) for n, p in found.places.items() if n.endswith("weight")} == {
        "0.weight": ("weight", 27),
        "1.weight": ("norm-scale", None),
        "4.weight": ("weight", 8),
    }
    assert all(p.followed_by is None for p in found.places.values())


def test_a_lazy_layer_has_a_place_without_a_shape():
    place = module_wiring(nn.Sequential(nn.LazyLinear(8))).places["0.weight"]

    assert (place.shape, place.fan_in) == ((), None)
