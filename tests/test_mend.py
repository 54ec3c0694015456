"""What would cure a sick model: tried in place, the smallest edit first, and nothing that did not help."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import Finding, Report, check_init
from pytest_initcheck.budget import TimeBudget
from pytest_initcheck.errors import SettingsError
from pytest_initcheck.mend import LISTED, Edit, healthy, mend
from pytest_initcheck.rules.culprits import Suspect, expected_std, suspects

SICK = Finding("unresponsive", "error", ("2.weight",), "the output does not move")


def stack(depth: int = 3, **edits: float) -> nn.Sequential:
    """Kaiming-normal layers; ``name=value`` fills a parameter (dots as underscores)."""
    torch.manual_seed(0)
    hidden = [m for _ in range(depth) for m in (nn.Linear(32, 32), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(32, 4))
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
    for name, value in edits.items():
        nn.init.constant_(model.get_parameter(name.strip("_").replace("_", ".")), value)
    return model


def checked(model: nn.Module, **settings: object) -> Report:
    return check_init(model, "32x32", **settings)


def errors(report: Report) -> list[Finding]:
    return [f for f in report.findings if f.severity == "error"]


def runs(fix: str, model: nn.Module) -> nn.Module:
    exec(fix, {"torch": torch, "model": model})
    return model


def offered(
    model: nn.Module,
    judge: Callable[[nn.Module], Iterable[Finding]],
    *,
    findings: Iterable[Finding] = (SICK,),
    blamed: Iterable[Suspect] | None = None,
    **options: Any,
) -> list[str]:
    """The fixes that come of a judge that is a stand-in for the check."""
    trace = checked(model, ignore=["*"]).trace
    blamed = suspects(trace) if blamed is None else blamed
    found = mend(model, trace, findings, blamed, lambda trial, again: judge(trial), **options)
    return [f.fix for f in found]


# -- from outside: the fix that is offered cures, the healthy twin needs none


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        ({"_2_weight": 0.0}, "torch.nn.init.normal_(model.get_parameter('2.weight'), std=0.25)"),
        ({"_2_bias": float("nan")}, "torch.nn.init.zeros_(model.get_parameter('2.bias'))"),
        ({"_4_bias": -100.0}, "torch.nn.init.zeros_(model.get_parameter('4.bias'))"),
    ],
)
def test_one_wrong_parameter_is_cured_by_one_line(edit: dict[str, float], line: str):
    model = stack(**edit)

    found = errors(checked(model))

    assert found
    assert {f.fix for f in found} == {line}
    assert not errors(checked(runs(line, copy.deepcopy(model))))
    assert not errors(checked(stack()))


def test_two_wrong_parameters_are_cured_by_two_lines():
    model = stack(_2_bias=-100.0, _6_bias=float("nan"))

    fixes = {f.fix for f in errors(checked(model))}

    assert len(fixes) == 1
    (fix,) = fixes
    assert sorted(fix.splitlines()) == [
        f"torch.nn.init.zeros_(model.get_parameter('{n}'))" for n in ("2.bias", "6.bias")
    ]
    assert not errors(checked(runs(fix, model)))


def test_a_model_that_is_sick_all_over_is_initialized_by_one_call():
    model = stack(depth=8)
    for p in model.parameters():
        nn.init.zeros_(p)

    (fix,) = {f.fix for f in errors(checked(model))}

    assert fix.splitlines()[:2] == ["import pytest_initcheck", "pytest_initcheck.apply_init(model, inputs=inputs)"]


def test_the_model_and_torchs_generator_are_left_as_they_were():
    model = stack(_2_weight=0.0)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()

    checked(model)

    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


class Shut(nn.Module):
    """Sick whatever its weights are."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first, self.head = first, nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).relu()) * 1e-9


@pytest.mark.always("linear")
@pytest.mark.parametrize("first", [nn.Linear(32, 32), nn.LazyLinear(32)], ids=["linear", "lazy"])
def test_what_no_weights_cure_has_no_fix(first: nn.Module):
    found = errors(checked(Shut(first)))

    assert "unresponsive" in {f.rule for f in found}
    assert {f.fix for f in found} == {""}


def test_the_weights_of_a_data_parallel_model_are_mended_where_they_are():
    model = nn.DataParallel(stack(_2_weight=0.0))

    (fix,) = {f.fix for f in errors(checked(model))}

    assert fix == "torch.nn.init.normal_(model.module.get_parameter('2.weight'), std=0.25)"
    assert not errors(checked(runs(fix, model)))


class Uncopied(nn.Sequential):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise TypeError("there is only one of me")


def test_a_model_that_cannot_be_copied_gets_a_fix():
    found = errors(checked(Uncopied(*stack(_2_weight=0.0))))

    assert {f.fix for f in found} == {"torch.nn.init.normal_(model.get_parameter('2.weight'), std=0.25)"}


@pytest.mark.parametrize("count", [1, LISTED, LISTED + 1])
def test_frozen_parameters_are_set_free_however_many_they_are(count: int):
    model = stack(depth=10)
    frozen = [p for n, p in model.named_parameters() if n.endswith("weight")][:count]
    for p in frozen:
        p.requires_grad_(False)

    (told,) = (f for f in checked(model).findings if f.rule == "frozen-parameter")
    runs(told.fix, model)

    assert len(told.layers) == count
    assert all(p.requires_grad for p in model.parameters())
    assert len(told.fix.splitlines()) == (count if count <= LISTED else 2)


# -- with a judge that is a stand-in


def zero(model: nn.Module, name: str) -> bool:
    return not bool(model.get_parameter(name).any())


def test_the_smallest_edit_that_helps_is_offered_though_larger_ones_would_help_too():
    model = stack(_2_weight=10.0, _4_weight=100.0, _2_bias=9.0)
    before = copy.deepcopy(model)
    tried: list[int] = []

    def judge(trial: nn.Module) -> list[Finding]:
        changed = [n for n, p in trial.named_parameters() if not torch.equal(p, before.get_parameter(n))]
        tried.append(len(changed))
        return [] if "4.weight" in changed else [SICK]

    (fix,) = offered(model, judge)

    assert "'4.weight'" in fix
    assert len(fix.splitlines()) == 1
    assert set(tried) == {1}


def test_what_is_off_in_the_same_way_by_as_much_is_repaired_together():
    model = stack(_2_weight=100.0, _4_weight=100.0)
    before = copy.deepcopy(model)

    def judge(trial: nn.Module) -> list[Finding]:
        return [SICK] if torch.equal(trial.get_parameter("4.weight"), before.get_parameter("4.weight")) else []

    (fix,) = offered(model, judge)

    assert sorted(line.partition("'")[2][:8] for line in fix.splitlines()) == ["2.weight", "4.weight"]


def test_a_trial_is_made_in_place_can_be_made_again_and_is_taken_back():
    model = stack(_2_weight=0.0)
    before = copy.deepcopy(model.state_dict())
    seen: list[bool] = []

    def judge(trial: nn.Module, again: Callable[[], None]) -> list[Finding]:
        first = copy.deepcopy(trial.state_dict())
        with torch.no_grad():
            for p in trial.parameters():
                p.add_(1.0)
        again()
        seen.append(trial is model and all(torch.equal(first[n], v) for n, v in trial.state_dict().items()))
        return [SICK]

    trace = checked(model, ignore=["*"]).trace
    mend(model, trace, [SICK], suspects(trace), judge)

    assert seen
    assert all(seen)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_what_was_not_decided_is_no_cure_and_nothing_is_tried_without_a_budget():
    undecided = Finding("undecided", "warning", ("2.weight",), "")

    assert offered(stack(_2_weight=0.0), lambda trial: [undecided]) == [""]
    assert offered(stack(_2_weight=0.0), lambda trial: [], budget=TimeBudget(0.0)) == [""]


def test_a_trial_that_raises_is_no_cure():
    def judge(trial: nn.Module) -> list[Finding]:
        raise ZeroDivisionError("with other weights the forward pass divides by zero")

    assert offered(stack(_2_weight=0.0), judge) == [""]


@pytest.mark.slow
def test_other_errors_may_stay_but_none_may_be_added():
    other = Finding("no-gradient", "error", ("0.weight",), "")
    added = Finding("chaotic-response", "error", ("0.weight",), "")
    model = stack(_2_weight=0.0)

    fixes = offered(model, lambda trial: [other], findings=[SICK, other])

    assert "'2.weight'" in fixes[0]
    assert fixes[1] == ""
    assert offered(model, lambda trial: [added]) == [""]
    assert "'2.weight'" in offered(model, lambda trial: [Finding("dead-units", "warning", (), "")])[0]


def test_a_fix_that_a_rule_wrote_itself_stays_and_a_hand_written_one_about_values_does_not():
    own = Finding("no-gradient", "error", ("0.weight",), "", fix="find the cut")
    typed = Finding("unresponsive", "error", ("2.weight",), "", fix="try harder")

    assert offered(stack(), lambda trial: [own, typed], findings=[own, typed]) == ["find the cut", ""]


def test_without_an_error_about_values_nothing_is_tried():
    def judge(trial: nn.Module) -> list[Finding]:
        raise AssertionError

    note = Finding("unresponsive", "warning", ("2.weight",), "")
    unknown = Finding("non-finite-parameter", "error", ("of.another.model",), "")

    assert offered(stack(), judge, findings=[note, unknown]) == ["", ""]


def everything_but_one_edit(trial: nn.Module) -> list[Finding]:
    """Cured only if more than a few parameters are new."""
    return [] if sum(bool(p.any()) for p in trial.parameters()) > LISTED else [SICK]


def zeros(depth: int) -> nn.Sequential:
    model = stack(depth)
    for p in model.parameters():
        nn.init.zeros_(p)
    return model


def test_more_than_a_few_edits_are_given_as_the_one_call_that_makes_them():
    def whole(trial: nn.Module) -> str:
        for p in trial.parameters():
            nn.init.ones_(p)
        return "initialize(model)"

    assert offered(zeros(LISTED), everything_but_one_edit, whole=whole) == ["initialize(model)"]


def test_the_one_call_is_not_offered_where_it_fails_or_does_not_help():
    def fails(trial: nn.Module) -> str:
        raise SettingsError("not for this model")

    for whole in (fails, lambda trial: "does nothing"):
        assert "initialize" not in offered(zeros(LISTED), everything_but_one_edit, whole=whole)[0]


def test_many_edits_without_such_a_call_are_written_as_loops_that_do_the_same():
    model = zeros(LISTED)

    (fix,) = offered(model, everything_but_one_edit)
    runs(fix, model)

    assert fix.count("for name in [") == len([line for line in fix.splitlines() if line.startswith("for ")]) == 2
    weights = [p for n, p in model.named_parameters() if n.endswith("weight")]
    assert [float(w.detach().std()) for w in weights[:-1]] == pytest.approx([0.25] * (len(weights) - 1), rel=0.1)
    assert all(zero(model, n) for n, _ in model.named_parameters() if n.endswith("bias"))


# -- one parameter


@pytest.mark.parametrize(
    ("edit", "after"),
    [
        (Edit("weight", "constant", 0.0), 0.0),
        (Edit("weight", "constant", 1.0), 1.0),
        (Edit("weight", "constant", 0.5), 0.5),
    ],
)
def test_the_line_of_an_edit_does_what_the_edit_does(edit: Edit, after: float):
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)

    edit.apply(one, torch.Generator())
    runs(edit.code(), other)

    assert torch.equal(one.weight, torch.full((2, 3), after))
    assert torch.equal(other.weight, one.weight)


def test_a_drawn_edit_has_its_std_and_its_seed():
    one, other = nn.Linear(200, 100), nn.Linear(200, 100)
    edit = Edit("weight", "normal", 0.1)

    for model in (one, other):
        edit.apply(model, torch.Generator().manual_seed(4))

    assert torch.equal(one.weight, other.weight)
    assert float(one.weight.detach().std()) == pytest.approx(0.1, rel=0.02)


def test_the_textbook_value_of_each_role():
    model = nn.Sequential(nn.Embedding(8, 32), nn.Linear(32, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 4))
    report = check_init(model, (torch.arange(8).repeat(4, 1), {}))

    found = {name: healthy(p) for name, p in report.parameters.items()}

    assert found["0.weight"] == Edit("0.weight", "normal", 0.5)
    assert found["1.weight"] == Edit("1.weight", "normal", expected_std(report.parameters["1.weight"]) or 0.0)
    assert found["1.bias"] == Edit("1.bias", "constant", 0.0)
    assert found["2.weight"] == Edit("2.weight", "constant", 1.0)
    assert found["2.bias"] == Edit("2.bias", "constant", 0.0)
