"""What a watched model is called unhealthy for, and what is no evidence; what is remembered; what a run says of it."""

from __future__ import annotations

import json

import pytest

WATCHED = """
import pytest, torch
from torch import nn
from zoo import Healthy, Sick

X = torch.arange(32.0).reshape(4, 8).sin()

class Scaled(nn.Module):
    def __init__(self, alpha=1.0):
        super().__init__()
        self.alpha = alpha
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    def forward(self, x):
        return self.alpha * self.body(x)
"""


def run(models: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    models.makeini("[pytest]\n")
    models.makepyfile(test_it=WATCHED + source)
    result = models.runpytest("--initcheck", *arguments)
    assert "INTERNALERROR" not in result.stdout.str()
    return result


def last(result: pytest.RunResult, start: str) -> str:
    return [line for line in result.outlines if line.startswith(start)][-1]


def test_a_setting_that_switches_the_model_off_is_not_judged_and_does_not_settle_it(models: pytest.Pytester):
    source = """
def test_off():
    Scaled(alpha=0.0)(X)

def test_on():
    Scaled()(X)
"""
    result = run(models, source, "-v", "-p", "no:randomly")

    assert result.parseoutcomes() == {"passed": 2}
    assert "not judged Scaled: unresponsive, but other weights do not help" in result.stdout.str()
    result.stdout.fnmatch_lines(["test_it.py:*: Scaled: healthy init*", "    in test_it.py::test_on"])


@pytest.mark.parametrize("order", ["", "[::-1]"])
@pytest.mark.parametrize("workers", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)], ids=["one", "two"])
def test_one_result_a_model_whatever_the_order_and_the_workers(
    models: pytest.Pytester, workers: tuple[str, ...], order: str
):
    source = f"""
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6]{order})
def test_sick(n):
    Sick()(X)
"""
    if workers:
        pytest.importorskip("xdist")
    result = run(models, source, "--initcheck-watch=fail", "--initcheck-watch-budget=1000", *workers)

    assert result.parseoutcomes() == {"passed": 6, "failed": 1}
    assert last(result, "initcheck: watched") == "initcheck: watched 1 model that the tests call, 1 unhealthy"


def test_a_call_that_is_answered_outweighs_one_that_is_not(models: pytest.Pytester):
    source = """
class Gated(Scaled):
    def forward(self, x, gate=1.0):
        return super().forward(x) * gate

def test_shut():
    Gated()(X, 0.0)

def test_open():
    Gated()(X)
"""
    result = run(models, source)

    assert result.parseoutcomes() == {"passed": 2}
    assert last(result, "initcheck: watched") == "initcheck: watched 1 model that the tests call"


@pytest.mark.parametrize("inputs", ["torch.ones(4, 8)", "torch.zeros(4, 8)", "X[:1].expand(4, 8)"])
def test_where_the_inputs_say_nothing_others_of_the_same_shapes_are_tried(models: pytest.Pytester, inputs: str):
    source = f"""
def test_healthy():
    Healthy()({inputs})

def test_sick():
    Sick()({inputs})
"""
    result = run(models, source)

    assert result.parseoutcomes() == {"passed": 2, "unhealthy": 1}
    result.stdout.fnmatch_lines(["test_it.py:*: Sick: unhealthy init: unresponsive at *"])


def test_a_single_scalar_and_a_single_sample_are_not_judged(models: pytest.Pytester):
    source = """
class Factor(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.0))
    def forward(self, x):
        return (self.factor * 1e-4).sin() * x.detach() * 1e-3

def test_scalar():
    Factor()(X)

def test_one():
    Sick()(X[:1])
"""
    result = run(models, source)

    assert result.parseoutcomes() == {"passed": 2}
    assert "Factor: unresponsive, but it has no weights to speak of" in result.stdout.str()
    assert "Sick: unhealthy" not in result.stdout.str()


UNWRITTEN = """
class Left(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(8, 8)
        self.head = nn.Parameter(torch.empty(4, 8))
        self.register_buffer("kept", torch.full((3,), float("nan")))
    def forward(self, x):
        return self.body(x) @ self.head.T

class Written(Left):
    def __init__(self):
        super().__init__()
        nn.init.normal_(self.head)

def test_left():
    model = Left()
    assert not torch.are_deterministic_algorithms_enabled() or torch.is_deterministic_algorithms_warn_only_enabled()
    model(X)
    assert torch.isfinite(model.head).all() and torch.isnan(model.kept).all()
    assert not torch.are_deterministic_algorithms_enabled()

def test_written():
    Written()(X)

def test_after():
    assert not torch.are_deterministic_algorithms_enabled()
"""


def test_memory_that_was_never_written_is_found_with_certainty(models: pytest.Pytester):
    result = run(models, UNWRITTEN)

    assert result.parseoutcomes() == {"passed": 3, "unhealthy": 1}
    result.stdout.fnmatch_lines(["test_it.py:*: Left: unhealthy init: uninitialized-parameter at head*"])


TOLD = """
def test_asked_for_meanwhile():
    model = Net()
    torch.use_deterministic_algorithms(True)
    model(X)
    assert torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)

def test_asked_for_before_a_check(initcheck):
    model = Net()
    torch.use_deterministic_algorithms(True)
    initcheck(Net, "8x8")
    model(X)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)

def test_turned_off_meanwhile():
    model = Net()
    torch.use_deterministic_algorithms(False)
    model(X)
    assert not torch.are_deterministic_algorithms_enabled()

def test_what_has_no_deterministic_way():
    before = list(warnings.filters)
    model = Net()
    torch.zeros(4).put_(torch.tensor([1, 2]), torch.ones(2))
    model(X)
    assert warnings.filters == before
"""


def test_torchs_deterministic_mode_is_left_to_the_tests(models: pytest.Pytester):
    net = "import warnings\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(8, 4)\n"
    result = run(models, net + TOLD, "-W", "error:put_ does not have")

    assert result.parseoutcomes() == {"passed": 4}


def test_hooks_that_are_the_models_own_methods_are_no_obstacle(models: pytest.Pytester):
    source = """
class Late(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.scale = None
        self.hook = self.register_forward_pre_hook(self.prepare)
    def prepare(self, module, args):
        self.scale = 2.0
        self.hook.remove()
        del self.hook
    def forward(self, x):
        return self.linear(x) * self.scale

def test_it():
    model = Late()
    assert hasattr(model, "hook")
    model(X)
    assert not hasattr(model, "hook") and model.scale == 2.0
"""
    result = run(models, source)

    assert result.parseoutcomes() == {"passed": 1}
    assert last(result, "initcheck: watched") == "initcheck: watched 1 model that the tests call"


def test_healthy_models_are_remembered_until_their_code_changes(models: pytest.Pytester):
    source = """
def test_it():
    Scaled()(X)
    Sick()(X)
"""
    first = run(models, source)
    again = run(models, source)
    changed = run(models, source.replace("Scaled()", "(Scaled())  # other code"))
    forgotten = run(models, source, "--cache-clear")

    assert [r.parseoutcomes()["unhealthy"] for r in (first, again, changed, forgotten)] == [1] * 4
    known = "watched 2 models that the tests call (1 known from earlier runs, --cache-clear forgets), 1 unhealthy"
    assert last(again, "initcheck: watched") == f"initcheck: {known}"
    assert all("known" not in last(r, "initcheck: watched") for r in (first, changed, forgotten))


def test_report_files_name_test_and_line_and_the_worst_comes_first(models: pytest.Pytester):
    source = """
@pytest.mark.parametrize("width", [16, 32])
def test_healthy(width):
    Healthy(width)(X)

def test_sick():
    Sick()(X)
"""
    files = [f"--initcheck-report={kind}:out.{kind}" for kind in ("json", "sarif", "markdown", "html")]
    run(models, source, *files)
    line = (models.path / "test_it.py").read_text().splitlines().index("    Sick()(X)") + 1

    names = [report["model"] for report in json.loads((models.path / "out.json").read_text())]
    assert names == [
        f"Sick at test_it.py:{line} in test_sick",
        f"Healthy at test_it.py:{line - 3} in test_healthy[16]",
        f"Healthy at test_it.py:{line - 3} in test_healthy[32]",
    ]
    for kind in ("markdown", "html"):
        assert names[0] in (models.path / f"out.{kind}").read_text()
    (result, *_) = json.loads((models.path / "out.sarif").read_text())["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == ("test_it.py", line)
    command = json.loads((models.path / "out.json").read_text())[0]["reproduce"].split()
    assert models.runpytest(*command[1:]).parseoutcomes() == {"passed": 1, "failed": 1}


def test_the_line_of_the_test_is_named_where_a_library_makes_the_call(models: pytest.Pytester):
    models.makepyfile(library="def call(model, x):\n    return model(x)\n")
    source = """
def test_it():
    from library import call
    call(Sick(), X)
"""
    result = run(models, source)

    line = (models.path / "test_it.py").read_text().splitlines().index("    call(Sick(), X)") + 1
    result.stdout.fnmatch_lines([f"test_it.py:{line}: Sick: unhealthy init: *"])


def test_ten_lines_at_most_and_the_command_that_shows_more(models: pytest.Pytester):
    source = "\n".join(f"class Sick{n}(Sick): pass\ndef test_{n}(): Sick{n}()(X)\n" for n in range(12))
    result = run(models, source, "--initcheck-watch-budget=1000")

    assert sum("unhealthy init" in line for line in result.outlines) == 10
    result.stdout.fnmatch_lines(
        [
            "... and 2 models more",
            "initcheck: watched 12 models that the tests call, 12 unhealthy",
            "initcheck: the whole report: pytest --initcheck --initcheck-watch=fail test_it.py::test_0",
        ]
    )


def test_warnings_are_listed(models: pytest.Pytester):
    source = """
def test_it():
    model = Healthy()
    nn.init.zeros_(model[2].weight)
    nn.init.constant_(model[2].bias, 20.0)
    model(X)
"""
    result = run(models, source)

    assert result.parseoutcomes() == {"passed": 1}
    result.stdout.fnmatch_lines(["test_it.py:*: Healthy: healthy init, * warning*"])
    assert last(result, "initcheck: watched").endswith("1 with warnings")


def test_an_interrupted_run_says_so(models: pytest.Pytester):
    models.makeini("[pytest]\n")
    models.makepyfile(test_broken="import nothing_of_the_kind")

    result = models.runpytest("--initcheck")

    assert last(result, "initcheck:") == "initcheck: no model was checked: the run was interrupted before"


def test_no_empty_baseline_is_written(models: pytest.Pytester):
    models.makeini("[pytest]\ninitcheck_models = zoo.py:Healthy input=4x8\n")
    models.makepyfile(test_it="def test_it(): pass")

    result = models.runpytest("--initcheck", "--initcheck-baseline=base.txt", "--initcheck-update", "test_it.py")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert not (models.path / "base.txt").exists()
    result.stdout.fnmatch_lines(
        [
            "initcheck: the baseline base.txt was not written: no model was checked",
            "initcheck: 0 models, 1 of initcheck_models left out because single files or tests were named",
        ]
    )
