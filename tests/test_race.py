"""The race: another initialization of the same model, trained alike, is what a verdict is measured by."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import check_init
from pytest_initcheck.models.inputs import resolve_inputs
from pytest_initcheck.probing.guard import untouched
from pytest_initcheck.probing.probe import run_probe
from pytest_initcheck.race import race as race_module
from pytest_initcheck.race.constant import best_constant
from pytest_initcheck.race.course import COPY_RATES
from pytest_initcheck.race.fresh import shuffled
from pytest_initcheck.race.race import race
from pytest_initcheck.race.tasks import Asked, tasks
from pytest_initcheck.race_records import Heat, Race
from pytest_initcheck.records import Finding, Response, Trace
from pytest_initcheck.report import Report
from pytest_initcheck.response.perturb import Push, push_of
from pytest_initcheck.rules import Case, judge
from pytest_initcheck.rules.raced import settled, unclear


def tanh_net(std: float | None, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(12):
        layers += [nn.Linear(32, 32), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(32, 4))
    for m in model.modules():
        if isinstance(m, nn.Linear):
            nn.init.zeros_(m.bias)
            nn.init.normal_(m.weight, std=std) if std else nn.init.xavier_normal_(m.weight)
    return model


def vectors(n: int = 32) -> Tensor:
    return torch.randn(n, 32, generator=torch.Generator().manual_seed(1))


def errors(report: Report) -> list[Finding]:
    return [f for f in report.findings if f.severity == "error"]


@pytest.mark.seeds(3)
def test_a_network_that_hardly_speaks_is_failed_because_another_start_of_it_learns(seed):
    found = errors(check_init(tanh_net(0.05, seed), vectors()))

    assert found
    assert "training steps" in found[0].summary
    assert found[0].fix


@pytest.mark.seeds(3)
def test_its_healthy_twin_passes(seed):
    assert errors(check_init(tanh_net(None, seed), vectors())) == []


def test_the_offered_fix_runs_as_pasted_and_cures():
    model = tanh_net(0.05)
    fix = errors(check_init(model, vectors()))[0].fix
    torch.manual_seed(0)
    exec(fix, {"torch": torch, "model": model, "inputs": vectors()})

    assert errors(check_init(model, vectors())) == []


def test_a_plainly_healthy_model_never_races(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(race_module, "_raced", lambda *a, **k: pytest.fail("raced"))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))

    check_init(model, torch.randn(32, 16))


class Likelihood(nn.Module):
    """Log-densities of its inputs under normals that it sets itself: an output that is not free to be anything."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 2 * width))

    def forward(self, x: Tensor) -> Tensor:
        mean, log_std = self.net(x).chunk(2, 1)
        return (-0.5 * ((x - mean) / log_std.exp()) ** 2 - log_std).sum(1)


def test_a_loss_without_end_decides_by_how_far_it_falls():
    torch.manual_seed(0)
    inputs = torch.randn(32, 64)
    sound = check_init(Likelihood(), inputs, loss=lambda o: -o.mean() / 64)
    sick = Likelihood()
    nn.init.normal_(sick.net[0].weight, std=30.0)
    nn.init.normal_(sick.net[2].weight, std=0.7)

    assert errors(sound) == []
    assert errors(check_init(sick, inputs, loss=lambda o: -o.mean() / 64))


def large_head(scale: float) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    with torch.no_grad():
        model[4].weight.mul_(scale)
    return model


def test_a_large_head_is_wrong_for_squares_and_right_for_classes():
    inputs = vectors()
    wanted = torch.randint(0, 4, (32,), generator=torch.Generator().manual_seed(2))
    values = torch.randn(32, 4, generator=torch.Generator().manual_seed(2))
    squares: Callable[[Tensor], Tensor] = lambda o: nn.functional.mse_loss(o, values)  # noqa: E731
    classes: Callable[[Tensor], Tensor] = lambda o: nn.functional.cross_entropy(o, wanted)  # noqa: E731

    assert errors(check_init(large_head(300.0), inputs, loss=squares))
    assert errors(check_init(large_head(60.0), inputs, loss=classes)) == []
    assert errors(check_init(large_head(1.0), inputs, loss=squares)) == []


def relu_stack(scale: float, head: float = 1.0, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(*(m for i in range(4) for m in (nn.Linear(64 if i else 16, 64), nn.ReLU())), nn.Linear(64, 4))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                nn.init.kaiming_normal_(p).mul_(scale)
            else:
                p.zero_()
        model[8].weight.mul_(head)
    return model


@pytest.mark.parametrize("samples", [2, 3, 4, 16])
def test_no_sample_stays_in_its_place_and_all_tensors_go_together(samples: int):
    rows = torch.arange(samples)
    for seed in range(50):
        numbers, ids, rest = shuffled([rows[:, None] * torch.ones(2), rows, torch.zeros(samples + 1)], samples, seed)

        assert torch.equal(numbers[:, 0].long(), ids)
        assert sorted(ids.tolist()) == rows.tolist()
        assert not (ids == rows).any()
        assert torch.equal(rest, torch.zeros(samples + 1))  # what has no samples


@pytest.mark.seeds(3)
def test_what_is_learned_by_heart_clears_a_model_of_nothing(seed: int):
    def report(model: nn.Module, samples: int) -> Report:
        inputs = torch.randn(samples, 16, generator=torch.Generator().manual_seed(1))
        wanted = inputs[:, :2].argmax(1)
        return check_init(model, inputs, loss=lambda o: nn.functional.cross_entropy(o, wanted))

    few, many = report(relu_stack(3.0, seed=seed), 16), report(relu_stack(3.0, seed=seed), 1024)

    assert few.race is not None
    assert few.race.by_heart is not None
    assert "these samples are learned by heart" in errors(few)[0].summary
    assert few.reproduce == "check_init(model, inputs, loss=loss, seed=0)"
    assert many.race is not None
    assert many.race.by_heart is None  # so many cannot be
    assert errors(many)
    assert [errors(report(relu_stack(1.0, seed=seed), n)) for n in (16, 1024)] == [[], []]
    truly = report(relu_stack(1.0, head=30.0, seed=seed), 1024)
    assert truly.race is not None
    assert (truly.race.outcome, errors(truly)) == ("held", [])
    assert truly.race.passes < 250  # what does not learn them exchanged is asked nothing else


def raced(model: nn.Module, inputs: Tensor, repair: Callable[[nn.Module], str], **kwargs) -> Race:
    call = resolve_inputs(model, inputs, device=None, dtype=None, seed=0)
    with untouched(model, tensors=call.tensors) as guard:
        guard.backup_parameters()
        probed = run_probe(model, call, guard=guard)
        push = push_of(probed, guard)
        return race(push, repair, [], Asked(tasks(push)), **{"accused": False, **kwargs})


def healthy_copy(trial: nn.Module) -> str:
    trial.load_state_dict(tanh_net(None).state_dict())
    return "repaired"


def test_the_same_race_twice_is_the_same():
    first = raced(tanh_net(0.05), vectors(), healthy_copy, accused=True)

    assert first == raced(tanh_net(0.05), vectors(), healthy_copy, accused=True)
    assert first.outcome == "lost"


def test_a_race_leaves_no_trace_even_when_it_is_interrupted():
    model = tanh_net(0.05)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()

    def interrupted(trial: nn.Module) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        raced(model, vectors(), interrupted)

    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_better_copy_nothing_is_lost():
    assert raced(tanh_net(None), vectors(), lambda trial: "nothing").outcome == "held"


def test_a_model_that_learns_runs_alone():
    made = []

    found = raced(tanh_net(None), vectors(), lambda trial: made.append(trial) or "copy")

    assert made == []
    assert found.outcome == "held"
    assert found.heats[0].repaired is None


def test_out_of_memory_and_out_of_budget_are_said():
    def greedy(trial: nn.Module) -> str:
        raise MemoryError

    hungry = raced(tanh_net(0.03), vectors(), greedy)
    short = raced(tanh_net(0.03), vectors(), healthy_copy, limit=5)

    assert (hungry.outcome, short.outcome) == ("open", "open")
    assert "memory" in hungry.told
    assert "given up after 5 training steps" in short.told
    assert not hungry.unbeaten
    assert not short.unbeaten


def hardly(trial: nn.Module) -> str:
    with torch.no_grad():
        for parameter in trial.parameters():
            parameter.mul_(1.01)
    return "no repair"


def test_where_repaired_copies_learn_nothing_either_nobody_is_beaten():
    stuck, few = (raced(tanh_net(0.03), vectors(), hardly, steps=steps) for steps in (40, 12))

    assert (stuck.outcome, stuck.unbeaten) == ("open", True)
    assert stuck.told == "race: no task that its output admits was learned, neither as it is nor repaired"
    assert (few.outcome, few.unbeaten) == ("open", True)  # who is not beaten is not shown to be at fault


def test_an_accused_model_and_its_copies_get_more_steps_where_nobody_learned():
    doubted, accused = (raced(tanh_net(0.03), vectors(), hardly, accused=accused) for accused in (False, True))

    assert doubted.outcome == "open"
    assert (accused.outcome, accused.heats[0].steps) == ("held", 100)  # it was only late


class Blind(nn.Module):
    """Says the same whatever comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tanh_net(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.zeros_like(x)) + 0 * x.sum()


@pytest.mark.slow
def test_no_copy_runs_further_steps_where_they_could_change_nothing():
    copies, alone = (raced(Blind(), vectors(), hardly, accused=True, stands=stands) for stands in (False, True))

    assert copies.outcome == alone.outcome == "open"
    assert copies.unbeaten
    assert alone.unbeaten
    assert alone.runs <= copies.runs - 2 * len(COPY_RATES)  # those of two tasks


@pytest.mark.slow
def test_what_was_only_late_is_cleared_whether_or_not_copies_would_have_run():
    found = [raced(tanh_net(0.03), vectors(), hardly, accused=True, stands=stands) for stands in (False, True)]

    assert [(one.outcome, one.heats[0].steps) for one in found] == [("held", 100), ("held", 100)]


def test_further_steps_that_a_limit_cuts_off_are_said():
    cut = raced(tanh_net(0.03), vectors(), hardly, accused=True, limit=700)

    assert (cut.outcome, cut.unbeaten) == ("open", True)  # as it was before them
    assert cut.told.startswith("race: no task that its output admits was learned")
    assert cut.told.endswith("; given up after 700 training steps")


@pytest.mark.parametrize(("limit", "unbeaten"), [(2 * 21 + 30, True), (2 * 21 + 10, False)])
def test_a_copy_that_ran_at_one_rate_before_the_limit_says_who_is_not_beaten(limit: int, unbeaten: bool):
    cut = raced(tanh_net(0.03), vectors(), hardly, accused=True, steps=20, limit=limit)

    assert (cut.outcome, cut.unbeaten) == ("open", unbeaten)


class Diffusion(nn.Module):
    """Averages over neighbours in every layer, so that no place can say what came in just there."""

    def __init__(self, gain: float = 1.0, bias: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList([nn.Linear(6, 32), nn.Linear(32, 32), nn.Linear(32, 32)])
        self.out = nn.Linear(32, 3)
        near = (torch.rand(14, 14, generator=torch.Generator().manual_seed(0)) < 0.4).float() + torch.eye(14)
        self.register_buffer("near", near / near.sum(1, keepdim=True))
        with torch.no_grad():
            for layer in (*self.layers, self.out):
                layer.weight.mul_(gain)
            self.layers[0].bias.add_(bias)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(self.near @ layer(x))
        return self.out(x)


def diffused(**kwargs: float) -> Report:
    x = torch.randn(8, 14, 6, generator=torch.Generator().manual_seed(1))
    return check_init(Diffusion(**kwargs), x)


def test_what_is_far_worse_than_a_constant_is_beaten_by_a_copy_that_is_not():
    sick = diffused(gain=12.0)

    assert not sick.ok
    assert sick.race is not None
    assert sick.race.outcome == "lost"
    assert "times the error of the best constant, and" in sick.race.words
    assert diffused().ok


def from_seed(seed: int) -> Callable[[nn.Module], str]:
    def repair(trial: nn.Module) -> str:
        trial.load_state_dict(Diffusion(seed=seed).state_dict())
        return "repaired"

    return repair


@pytest.mark.parametrize(("bias", "outcome"), [(-10.0, "lost"), (10.0, "held")])
def test_where_nobody_learns_a_usual_task_a_model_is_taught_what_it_says_from_other_start_values(bias, outcome):
    x = torch.randn(8, 14, 6, generator=torch.Generator().manual_seed(1))

    found = raced(Diffusion(bias=bias), x, from_seed(0), accused=True, teacher=from_seed(1))

    assert (found.outcome, found.heats[0].task) == (outcome, "what the model says from other start values")


class Tagger(nn.Module):
    """A class for every token, read from a recurrent state."""

    def __init__(self, loud: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.rnn, self.out = nn.Embedding(8, 32), nn.GRU(32, 32, batch_first=True), nn.Linear(32, 8)
        with torch.no_grad():
            self.embed.weight.mul_(loud)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.rnn(self.embed(ids))[0])


def test_a_saturated_state_that_learns_is_a_note():
    ids = torch.randint(0, 8, (24, 6), generator=torch.Generator().manual_seed(1))

    report = check_init(Tagger(30.0), ids)

    (saturated,) = [f for f in report.findings if f.rule == "saturated-state"]
    assert (report.ok, saturated.severity) == (True, "note")
    assert "; but it learns: " in saturated.summary


class Pooled(nn.Module):
    """Sums what it says of all rows, as of one graph: its output has no samples."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 12))
        with torch.no_grad():
            self.net[4].weight.mul_(gain)

    def forward(self, x: Tensor, kinds: Tensor) -> Tensor:
        rows = self.net(x)
        return torch.stack([rows[kinds == k].mean(0) for k in range(3)])


class Distribution(Pooled):
    """Sums of probabilities over three graphs, which nothing of unit scale around zero can be asked of."""

    def forward(self, x: Tensor, kinds: Tensor) -> Tensor:
        rows = self.net(x).softmax(-1)
        return torch.stack([rows[kinds == k].sum(0) for k in range(3)])


def without_samples(model: nn.Module) -> Report:
    x = torch.randn(900, 6, generator=torch.Generator().manual_seed(1))
    return check_init(model, (x, torch.arange(900) % 3))


def test_an_output_without_samples_is_failed_where_a_copy_learns_fixed_numbers_better():
    sick = without_samples(Pooled(3e3))

    assert not sick.ok
    assert sick.race is not None
    assert (sick.race.outcome, sick.race.heats[0].task) == ("lost", "fixed numbers")
    assert without_samples(Pooled(1.0)).ok


def test_an_output_without_samples_is_not_failed_where_copies_learn_no_better():
    report = without_samples(Distribution(1.0))

    assert report.ok
    assert [(f.rule, f.summary.rpartition("; ")[2]) for f in report.findings] == [
        ("unreachable-targets", "but repaired copies learn no better")
    ]


class Density(nn.Module):
    """The log-density of every sample by affine couplings: one number each, which no target can be told for."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)) for _ in range(4)
        )
        with torch.no_grad():
            for net in self.nets:
                for layer in net:
                    if isinstance(layer, nn.Linear):
                        layer.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        volume = torch.zeros(len(x))
        for net in self.nets:
            scale, shift = net(first).chunk(2, 1)
            scale = 2 * torch.tanh(scale / 2)
            first, second, volume = second * scale.exp() + shift, first, volume + scale.sum(1)
        size = first.square().sum(1) + second.square().sum(1)
        return volume - size / 2 - 4 * math.log(2 * math.pi)


@pytest.mark.seeds(3)
def test_a_log_likelihood_is_raised_where_no_target_can_be_told(seed: int):
    inputs = torch.randn(32, 8, generator=torch.Generator().manual_seed(seed))
    sound, wild = check_init(Density(1.0), inputs), check_init(Density(5.0), inputs)

    assert errors(sound) == []
    assert errors(wild)
    assert wild.race is not None
    assert wild.race.closest is not None
    assert wild.race.closest.task == "minus the mean output (as of a log-likelihood)"


def test_the_winner_says_which_parameters_it_changed_and_by_how_much():
    def one(trial: nn.Module) -> str:
        nn.init.normal_(trial.get_parameter("4.weight"), std=1 / 8)
        return "one"

    found = raced(large_head(300.0), vectors(), one, accused=True)

    assert found.outcome == "lost"
    assert found.alone == "4.weight"
    assert list(found.apart) == ["4.weight"]
    assert 100 < found.apart["4.weight"] < 300


def test_a_loss_that_refuses_what_training_makes_of_the_output_breaks_a_run_off():
    values = torch.randn(32, 4, generator=torch.Generator().manual_seed(2))
    start = large_head(2000.0)(vectors()).detach()

    def refuses(output: Tensor) -> Tensor:
        now = output.detach()
        if bool((now != now[0]).any()) and not torch.allclose(now, start, rtol=1e-3):
            raise ValueError("Expected parameter scale to satisfy the constraint")
        return nn.functional.mse_loss(output, values)

    report = check_init(large_head(2000.0), vectors(), loss=refuses)

    assert errors(report)
    assert report.race is not None


# -- the loss of a constant


def test_the_best_constant_of_known_losses():
    values = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, -2.0, 0.0])
    wanted = torch.arange(64) % 4

    squares = best_constant(lambda o: nn.functional.mse_loss(o, values), torch.randn(64, 3), 64)
    entropy = best_constant(lambda o: nn.functional.cross_entropy(o, wanted), 20 * torch.randn(64, 4), 64)

    assert squares is not None
    assert entropy is not None
    assert squares.loss == pytest.approx(float(values.var(0, unbiased=False).mean()), rel=0.02)
    assert entropy.loss == pytest.approx(1.386, rel=0.02)


def test_a_loss_without_end_and_one_that_refuses_constants_have_none():
    def refuses(output: Tensor) -> Tensor:
        raise RuntimeError("no")

    assert best_constant(lambda o: -o.mean(), torch.randn(8), 8) is None
    assert best_constant(refuses, torch.randn(8, 2), 8) is None
    assert best_constant(lambda o: o["loss"], {"loss": torch.tensor(1.0)}, 8) is None


# -- what the rules make of it


def case(outcome: str, gone: float, repaired: float) -> Case:
    heats = (Heat("classes of the samples", 40, gone, repaired),)
    return Case(Trace({}, {}), Response(), race=Race(outcome, heats, "line" if outcome == "lost" else ""))  # type: ignore[arg-type]


def test_what_no_copy_does_better_is_no_error():
    chaos = Finding("chaotic-response", "error", (), "chaos")
    silent = Finding("unresponsive", "error", (), "still")

    assert [f.severity for f in settled(case("held", 0.3, 0.35), [chaos, silent])] == ["note", "warning"]
    assert [f.severity for f in settled(case("open", 0.0, 0.0), [chaos])] == ["error"]


def test_what_rests_on_learning_is_no_error_where_nobody_learns():
    far = Finding("unreachable-targets", "error", (), "far", fix="line")
    silent = Finding("unresponsive", "error", (), "still", fix="line")
    open_, unbeaten = case("open", 0.0, 0.0), Race("open", unbeaten=True)

    assert [(f.severity, f.fix) for f in settled(open_, [far, silent])] == [("error", "line")] * 2
    alone, both = (settled(replace(open_, race=unbeaten), found) for found in ([far], [far, silent]))
    assert [(f.severity, f.fix) for f in alone] == [("warning", "")]
    assert [(f.severity, f.fix) for f in both] == [
        ("error", "line")
    ] * 2  # what does not move fails, and all that is said of it


@pytest.mark.parametrize(
    ("size", "with_unit_inputs", "severity"), [(1e3, None, "warning"), (1e5, None, "error"), (1e5, 50.0, "warning")]
)
def test_what_starts_beyond_all_targets_fails_though_no_copy_learns(
    size: float, with_unit_inputs: float | None, severity: str
):
    far = Finding("unreachable-targets", "error", (), "far", fix="line")
    response = Response(output_centred_rms=size, with_unit_inputs=with_unit_inputs)
    given = replace(case("open", 0.0, 0.0), race=Race("open", unbeaten=True), response=response)

    assert [f.severity for f in settled(given, [far])] == [severity]


def test_what_training_moves_is_not_unresponsive_where_nobody_learns():
    far = Finding("unreachable-targets", "error", (), "far")
    silent = Finding("unresponsive", "error", (), "still", fix="line")
    blind = Finding("input-blind", "error", (), "blind")
    moved = replace(case("open", 0.0, 0.0), race=Race("open", unbeaten=True, moved=True))

    told = list(settled(moved, [far, silent]))

    assert [(f.severity, f.fix) for f in told] == [("warning", "")] * 2
    assert [f.summary for f in told] == [
        "far; but repaired copies learn no better",
        "still; but training moves it, and repaired copies learn no better",
    ]
    assert "straight through" in told[1].cause
    assert [f.severity for f in settled(moved, [silent, blind])] == ["error"] * 2


def test_what_never_learns_in_a_model_that_does_is_worth_a_warning():
    shut = Finding("blocked-gradient", "error", ("a", "b"), "a and b are zero", fix="line")

    assert [f.severity for f in settled(case("held", 0.7, 0.7), [shut])] == ["warning"]
    assert [f.severity for f in settled(case("lost", 0.0, 0.7), [shut])] == ["error"]


def test_a_lost_race_is_an_error_of_its_own_where_nothing_else_is():
    found, _ = judge(case("lost", 0.04, 0.91))

    assert [(f.rule, f.severity, f.fix) for f in found] == [("outperformed", "error", "line")]
    assert found[0].summary == (
        "other start values of the same model learn better: 40 training steps on classes of the samples take away 4 % of the "
        "error, and 91 % with the fix below"
    )


def test_an_error_that_a_race_confirms_says_by_how_much():
    silent = Finding("unresponsive", "error", (), "still")

    [found] = settled(case("lost", -0.2, 0.91), [silent])

    assert found.summary.endswith("take away nothing of the error, and 91 % with the fix below")


def test_other_errors_make_a_race_needless():
    broken = Finding("non-finite-parameter", "error", ("w",), "NaN")

    assert not unclear(case("open", 0, 0), [broken])


class Quantized(nn.Module):
    """An encoder whose code is the nearest one of a table, passed straight through (van den Oord et al. 2017), and a decoder."""

    def __init__(self, bound: float = 1 / 128, *, summed: bool = False) -> None:
        super().__init__()
        self.summed = summed
        self.encoder = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16))
        self.codes = nn.Embedding(128, 16)
        self.decoder = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32))
        nn.init.uniform_(self.codes.weight, -bound, bound)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        code = self.codes(torch.cdist(z, self.codes.weight).argmin(-1))
        near = (code - z.detach()).square() + 0.25 * (z - code.detach()).square()
        return self.decoder(z + (code - z).detach()), near.sum() if self.summed else near.mean()


@pytest.mark.seeds(4)
@pytest.mark.parametrize("given", [False, True], ids=["no loss", "loss"])
def test_a_table_that_learns_from_the_model_s_own_loss_alone_is_raced_with_it(seed: int, given: bool):
    x = vectors(64)
    torch.manual_seed(seed)

    report = check_init(
        Quantized(), x, loss=(lambda out: (out[0] - x.tanh()).square().mean() + out[1]) if given else None
    )

    assert report.ok, report


def test_a_loss_of_its_own_that_is_a_sum_does_not_drown_the_task():
    torch.manual_seed(0)

    assert check_init(Quantized(summed=True), vectors(64)).ok


def test_codes_that_are_all_one_fail():
    torch.manual_seed(0)

    found = errors(check_init(Quantized(bound=0.0), vectors(64)))

    assert {"unresponsive", "input-blind"} & {f.rule for f in found}


class Still(nn.Module):
    """A loud fixed map of the inputs, and next to nothing that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fixed", torch.randn(8, 8))
        self.weak = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return 30 * (x @ self.fixed) + 1e-3 * self.weak(x)


@pytest.mark.seeds(4)
@pytest.mark.parametrize("batch", [4, 8])
def test_what_hardly_moves_fails_whatever_its_loss_varies_by_from_batch_to_batch(batch: int, seed: int):
    torch.manual_seed(seed)
    x = torch.randn(batch, 8)

    report = check_init(Still(), x)

    assert "unresponsive" in {f.rule for f in errors(report)}, report


@pytest.mark.parametrize(
    ("outputs", "own"),
    [
        (lambda a, b: (a, b), ()),  # samples alone
        (lambda a, b: (a, b.square().mean()), (1,)),  # what b learns from, it learns from alone
        (lambda a, b: (a, (a + b).square().mean()), (1,)),
        (lambda a, b: (a, a.square().mean()), ()),  # a loss of what is asked for
        (lambda a, b: (a, a.square().mean(), b.square().mean()), (2,)),
    ],
    ids=["samples", "own loss", "joint loss", "loss of the output", "both losses"],
)
def test_a_loss_of_the_model_s_own_is_trained_where_parameters_learn_from_it_alone(
    outputs: Callable[[Tensor, Tensor], tuple[Tensor, ...]], own: tuple[int, ...], pushed: Callable[..., Push]
):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(32, 4), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return outputs(self.one(x), self.other(x))

    asked = tasks(pushed(Two(), vectors()))

    assert asked
    assert {task.own_losses for task in asked} == {own}


class RunsOut(nn.Module):
    """Has memory for so many passes, whoever makes them."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
        nn.init.normal_(self.body[2].weight, std=1e-5)
        self.passes = iter(range(passes))  # which no guard winds back

    def forward(self, x: Tensor) -> Tensor:
        if next(self.passes, None) is None:
            raise RuntimeError("CUDA out of memory")
        return self.body(x)


def test_a_forward_pass_without_memory_is_no_run_that_breaks_off():
    torch.manual_seed(0)
    report = check_init(RunsOut(12), vectors())

    assert report.race is not None
    assert report.race.told == "race: out of memory, so the first look decides"
    assert report.race.told in report.trace.unseen
