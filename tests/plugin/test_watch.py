"""Watching: models that tests call are probed once, and the tests notice nothing of it."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from pytest_initcheck.plugin import watch_budget

SICK = """
import torch
from zoo import Healthy, Sick

def test_healthy():
    Healthy()(torch.ones(4, 8).cumsum(0))

def test_sick():
    assert Sick()(torch.ones(4, 8).cumsum(0)).shape == (4, 4)
"""


def lines(result: pytest.RunResult) -> str:
    return result.stdout.str()


def watched(models: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    models.makeini("[pytest]\n")
    models.makepyfile(source)
    result = models.runpytest("--initcheck", *arguments)
    assert "INTERNALERROR" not in lines(result)
    return result


def in_a_process_of_its_own(models: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    """As :func:`watched`, for what imports parts of torch that can be imported only once."""
    models.makeini("[pytest]\n")
    models.makepyfile(source)
    return models.runpytest_subprocess("--initcheck", *arguments)


def test_a_finding_is_a_result_of_its_own_and_fails_nothing(models: pytest.Pytester, xdist: tuple[str, ...]):
    result = watched(models, SICK, "-v", "--junitxml=out.xml", "--initcheck-report=json:out.json", *xdist)

    assert result.ret == 0
    assert result.parseoutcomes() == {"passed": 2, "unhealthy": 1}
    result.stdout.fnmatch_lines(["*UNHEALTHY Sick*"])
    result.stdout.fnmatch_lines(
        [
            "*- initcheck: models that the tests call -*",
            "test_*.py:8: Sick: unhealthy init: unresponsive at 0.weight",
            "    in test_*.py::test_sick",
            "test_*.py:5: Healthy: healthy init:*",
            "initcheck: watched 2 models that the tests call, 1 unhealthy",
        ]
    )
    name = "test_a_finding_is_a_result_of_its_own_and_fails_nothing.py"
    cases = {case.get("name"): case for case in ET.parse(models.path / "out.xml").getroot().iter("testcase")}
    assert set(cases) == {"test_healthy", "test_sick", "test_sick [initcheck Sick]"}
    assert len(cases["test_sick"]) == 0
    skipped = cases["test_sick [initcheck Sick]"].find("skipped")
    assert skipped is not None
    assert f"Sick: unhealthy init: unresponsive at 0.weight, called at {name}:8" in skipped.get("message", "")
    # The report file holds what was watched.
    assert {"Healthy", "Sick"} <= set(str(json.loads((models.path / "out.json").read_text())).replace("'", " ").split())


def test_fail(models: pytest.Pytester, xdist_again: tuple[str, ...]):
    result = watched(models, SICK, "--initcheck-watch=fail", "--junitxml=out.xml", *xdist_again)

    assert result.ret == 1
    assert result.parseoutcomes() == {"passed": 2, "failed": 1}
    result.stdout.fnmatch_lines(["*_ test_sick [[]initcheck Sick[]] _*", "*unresponsive at 0.weight*"])
    result.stdout.fnmatch_lines(["UNHEALTHY Sick test_*.py::test_sick*"])
    cases = {case.get("name"): case for case in ET.parse(models.path / "out.xml").getroot().iter("testcase")}
    assert cases["test_sick [initcheck Sick]"].find("failure") is not None


def test_fail_in_the_ini(models: pytest.Pytester):
    models.makeini("[pytest]\ninitcheck_watch = fail\n")
    models.makepyfile(SICK)

    assert models.runpytest("--initcheck").ret == 1
    assert models.runpytest("--initcheck", "--initcheck-watch=report").ret == 0
    assert models.runpytest().ret == 0


def test_off(models: pytest.Pytester):
    result = watched(models, SICK, "--initcheck-watch=off")

    assert result.parseoutcomes() == {"passed": 2}
    assert "no model was checked" in lines(result)


def test_a_configured_suite_is_watched_only_if_asked(models: pytest.Pytester):
    models.makepyfile(
        test_configured="""
        import torch
        from pytest_initcheck import model_case
        from zoo import Healthy, Sick

        model_case("4x8")(Healthy)

        def test_sick():
            Sick()(torch.ones(4, 8).cumsum(0))
        """
    )
    models.makeini("[pytest]\n")

    assert "Sick" not in lines(models.runpytest("--initcheck"))
    asked = models.runpytest("--initcheck", "--initcheck-watch=report")
    assert asked.parseoutcomes()["unhealthy"] == 1
    asked.stdout.fnmatch_lines(["initcheck: watched 1 model that the tests call, 1 unhealthy", "initcheck: 1 model"])

    models.makeini("[pytest]\ninitcheck_models = zoo.py:Healthy input=4x8\n")
    assert "Sick" not in lines(models.runpytest("--initcheck"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--initcheck-watch=loud"], "--initcheck-watch must be one of report, fail, off (got 'loud')"),
        (["-o", "initcheck_watch=loud"], "initcheck_watch must be one of report, fail, off (got 'loud')"),
        (
            ["--initcheck-watch-budget=soon"],
            "--initcheck-watch-budget must be a number of per cent, 0 or more (got 'soon')",
        ),
        (
            ["--initcheck-watch-budget=nan"],
            "--initcheck-watch-budget must be a number of per cent, 0 or more (got 'nan')",
        ),
    ],
)
def test_values_that_cannot_be_used(pytester: pytest.Pytester, arguments: list[str], sentence: str):
    result = pytester.runpytest("--initcheck", *arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {sentence}"])


def test_each_model_once_per_run_and_shapes_tell_models_apart(models: pytest.Pytester):
    result = watched(
        models,
        """
        import torch
        from zoo import Healthy

        X = torch.ones(4, 8).cumsum(0)

        def test_it():
            Healthy()(X); Healthy()(X); Healthy(width=32)(X)

        def test_again():
            Healthy()(X)
        """,
    )

    result.stdout.fnmatch_lines(["initcheck: watched 2 models that the tests call"])


def test_trained_and_loaded_models_are_left_alone(models: pytest.Pytester):
    result = watched(
        models,
        """
        import torch
        from zoo import Healthy, Sick

        X = torch.ones(4, 8).cumsum(0)

        def test_loaded():
            model = Sick()
            model.load_state_dict(Sick().state_dict())
            model(X)

        def test_stepped():
            model = Sick()
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            torch.optim.SGD(model.parameters()).step()
            model(X)

        def test_part_is_loaded():
            encoder = Healthy()
            encoder.load_state_dict(Healthy().state_dict())
            torch.nn.Sequential(encoder, torch.nn.Linear(4, 2))(X)
        """,
    )

    assert result.parseoutcomes() == {"passed": 3}
    assert "watched" not in lines(result)


@pytest.mark.parametrize("calls", ["whole(X); part(X)", "part(X); whole(X)", "part(X); torch.compile(part); whole(X)"])
def test_parts_are_not_reported_beside_the_whole(models: pytest.Pytester, calls: str):
    result = watched(
        models,
        f"""
        import torch
        from zoo import Sick

        X = torch.ones(4, 8).cumsum(0)

        def test_it():
            part = Sick()
            whole = torch.nn.Sequential(part, torch.nn.Linear(4, 4))
            {calls}
        """,
    )

    result.stdout.fnmatch_lines(["test_*: Sequential: unhealthy*"])
    result.stdout.fnmatch_lines(["initcheck: watched 1 model that the tests call, 1 unhealthy"])


NOTHING = """
import random, torch, pytest, numpy, warnings, logging, sys
from torch import nn

class Odd(nn.Module):
    # Draws, writes to its input, its buffer and its weights, warns, logs, prints, counts.
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.calls = 0
        self.seen = []
        self.head = nn.Linear(8, 8)
        for parameter in (*self.linear.parameters(), *self.head.parameters()):
            nn.init.zeros_(parameter)
    def forward(self, x):
        self.calls += 1
        self.seen.append(self.calls)
        x.add_(1)
        random.random(), numpy.random.rand()
        warnings.warn("forward")
        logging.getLogger("odd").warning("forward")
        print("forward")
        return self.head(self.linear(nn.functional.dropout(self.norm(x))).relu())

def fresh(seed):
    torch.manual_seed(seed); random.seed(seed); numpy.random.seed(seed)
    return Odd()
"""


def test_a_test_notices_nothing(models: pytest.Pytester):
    body = f"""{NOTHING}
def test_it(capsys, caplog, recwarn):
    model = fresh(3)
    before = {{n: t.clone() for n, t in model.state_dict().items()}}
    versions = [t._version for t in model.parameters()]
    model.linear.bias.grad = kept = torch.ones(8)
    earlier = model.head(model.linear(model.norm(torch.ones(4, 8))))  # its graph is pulled back after the probe
    x = torch.arange(32.0).reshape(4, 8)
    y = model(x)
    assert torch.equal(x, torch.arange(32.0).reshape(4, 8) + 1)
    assert (model.calls, model.seen, model.training) == (1, [1], True)
    assert model.linear.bias.grad is kept and model.linear.weight.grad is None
    assert versions == [t._version for t in model.parameters()]
    assert all(torch.equal(before[n], t) for n, t in model.named_parameters())
    assert int(model.norm.num_batches_tracked) == 2
    assert capsys.readouterr().out == "forward\\n"
    assert [r.getMessage() for r in caplog.records] == ["forward"]
    assert [str(w.message) for w in recwarn] == ["forward"]
    earlier.sum().backward()
    y.sum().backward()
    open("drawn.txt", "w").write(repr((torch.rand(2), random.random(), numpy.random.rand(), y)))

@pytest.mark.filterwarnings("ignore")
def test_it_without_gradients():
    model = fresh(4).eval()
    with torch.no_grad():
        assert not model(torch.ones(4, 8)).requires_grad
"""
    models.makeini("[pytest]\n")
    models.makepyfile(body)

    models.runpytest().assert_outcomes(passed=2)
    without = (models.path / "drawn.txt").read_text()
    result = models.runpytest("--initcheck")

    assert result.parseoutcomes() == {"passed": 2, "unhealthy": 1}
    assert (models.path / "drawn.txt").read_text() == without


def test_one_line_for_all_shapes_of_a_class_that_one_line_calls(models: pytest.Pytester):
    result = watched(
        models,
        """
        import pytest, torch
        from torch import nn

        class Sick(nn.Linear):
            def __init__(self, width):
                super().__init__(width, width)
                nn.init.zeros_(self.weight)
                nn.init.zeros_(self.bias)
                self.last = nn.Linear(width, 3)
                nn.init.zeros_(self.last.weight)
            def forward(self, x):
                return self.last(super().forward(x).relu())

        @pytest.mark.parametrize("width", [4, 5, 6])
        def test_it(width):
            Sick(width)(torch.arange(4.0 * width).reshape(4, width))
        """,
    )

    assert result.parseoutcomes() == {"passed": 3, "unhealthy": 3}
    result.stdout.fnmatch_lines(["test_*:16: Sick: unhealthy init: *", "    in *::test_it[[]4[]] and 2 variants more"])


def test_what_a_forward_pass_writes_to_outside_the_model_is_put_back(models: pytest.Pytester):
    result = watched(
        models,
        """
        import collections, torch
        from zoo import Sick

        X = torch.ones(4, 8).cumsum(0)
        log, table, total = [], collections.Counter(), 0

        def note():
            global total
            total += 1
            table["calls"] += 1

        class Global(Sick):
            calls = 0
            kept = {1}
            def forward(self, x):
                note()
                log.append("called")
                Global.calls += 1
                self.kept.add(Global.calls + 1)
                return super().forward(x)

        def test_global():
            Global()(X)
            assert (log, dict(table), total, Global.calls, Global.kept) == (["called"], {"calls": 1}, 1, 1, {1, 2})

        def test_closure():
            seen, count = [], 0
            class Local(Sick):
                def forward(self, x):
                    nonlocal count
                    count += 1
                    seen.append({"count": count})
                    return super().forward(x)
            Local()(X)
            assert (seen, count) == ([{"count": 1}], 1)
        """,
    )

    assert result.parseoutcomes() == {"passed": 2, "unhealthy": 2}


def test_an_input_that_the_call_itself_makes_inference_or_needs_gradients(models: pytest.Pytester):
    result = watched(
        models,
        """
        import torch
        from zoo import Sick, Healthy

        def test_inference():
            model = Sick()
            with torch.inference_mode():
                model(torch.ones(4, 8).cumsum(0))

        def test_graph():
            x = torch.ones(4, 8, requires_grad=True)
            Healthy()(x.cumsum(0)).sum().backward()
            assert x.grad is not None
        """,
    )

    assert result.parseoutcomes() == {"passed": 2, "unhealthy": 1}


def test_user_hooks_are_not_called_again(models: pytest.Pytester):
    result = watched(
        models,
        """
        import torch
        from zoo import Healthy

        def test_it():
            model, seen = Healthy(), []
            model[1].register_forward_hook(lambda *a: seen.append(1))
            model(torch.ones(4, 8))
            assert seen == [1]
        """,
    )

    assert result.parseoutcomes() == {"passed": 1}
    result.stdout.fnmatch_lines(["initcheck: skipped Healthy: it has hooks, which a further pass would call again"])


def test_hooks_that_torch_itself_adds_are_no_obstacle(models: pytest.Pytester):
    result = watched(
        models,
        """
        import torch
        from torch import nn
        from torch.nn.utils import spectral_norm

        def test_it():
            nn.Sequential(spectral_norm(nn.Linear(8, 8)), nn.LazyLinear(4))(torch.randn(6, 8))
        """,
    )

    result.stdout.fnmatch_lines(["initcheck: watched 1 model that the tests call"])


#: A call -> how it is said to be skipped.
SKIPPED = {
    "with torch.device('meta'): model = Healthy()\n    model(X.to('meta'))": "Healthy: on the meta device",
    "torch.jit.script(Healthy())(X)": "*: scripted or traced by torch.jit",
    "torch.jit.trace(Healthy(), X)": "Healthy: called while torch.jit traces",
    "torch.func.vmap(Healthy())(X)": "Healthy: called inside a torch.func transform",
    "model = Healthy()\n    torch.func.functional_call(model, {n: p * 2 for n, p in model.named_parameters()}, (X,))": (
        "Healthy: its weights were replaced for this call (torch.func.functional_call)"
    ),
    "with FakeTensorMode(allow_non_fake_inputs=True): Healthy()(torch.ones(4, 8))": (
        "Healthy: called under a dispatch mode (fake tensors, counters)"
    ),
    "model = Healthy()\n    model.forward = lambda x: x\n    model(X)": "Healthy: its forward is set on the object, not by its class",
    "model = Healthy()\n    model.part = Mock()\n    model(X)": "Healthy: parts of it are mocked",
    "model = Healthy()\n    model.steps = [iter([1])]\n    model(X)": (
        "Healthy: it reaches a list_iterator, in which a further pass would leave a trace"
    ),
    "Takes()(iter([X]))": "Takes: its inputs hold a list_iterator, which a further pass might change",
    "Healthy().requires_grad_(False)(X)": "Healthy: no parameter of Healthy requires a gradient, so there is nothing to *",
    "Whole()(X)": "Whole: Whole returned no floating-point tensor (but Tensor), so nothing can be pulled back",
    "with torch.no_grad(): Inference()(X)": (
        "Inference: forward of Inference raised RuntimeError at layer Inference: for inference only"
    ),
    "Huge()(X)": "Huge: larger than 20 million parameters",
    "with torch.profiler.profile(): Healthy()(X)": "Healthy: called while the profiler records",
}


@pytest.mark.parametrize("call", SKIPPED, ids=[said.partition(":")[2].strip()[:30] for said in SKIPPED.values()])
def test_what_cannot_be_probed_is_named_with_the_reason(models: pytest.Pytester, call: str):
    result = watched(
        models,
        f"""
import torch, warnings
from torch import nn
from unittest.mock import Mock
from torch._subclasses import FakeTensorMode
from zoo import Healthy
import pytest

X = torch.ones(4, 8).cumsum(0)

class Takes(Healthy):
    def forward(self, xs):
        return super().forward(next(xs))

class Whole(Healthy):
    def forward(self, x):
        return super().forward(x).argmax()

class Inference(Healthy):
    def forward(self, x):
        if torch.is_grad_enabled():
            raise RuntimeError("for inference only")
        return super().forward(x)

class Huge(Healthy):
    def __init__(self):
        super().__init__()
        self.register_parameter("table", nn.Parameter(torch.empty(20_000, 1_001)))
    def forward(self, x):
        return self[0](x)

@pytest.mark.filterwarnings("ignore")
def test_it():
    {call}
""",
    )

    assert result.parseoutcomes() == {"passed": 1}
    result.stdout.fnmatch_lines([f"initcheck: skipped {SKIPPED[call]}"])
    result.stdout.fnmatch_lines(["initcheck: watched ? model* that the tests call, 1 skipped"])


def test_wrapped_models_are_probed_as_they_were_written(models: pytest.Pytester):
    result = in_a_process_of_its_own(
        models,
        """
        import torch
        from zoo import Healthy, Sick

        X = torch.ones(4, 8).cumsum(0)

        def test_compiled():
            torch.compile(Sick(), backend="eager", fullgraph=True)(X)

        def test_compiled_in_place():
            model = Healthy()
            model.compile(backend="eager")
            model(X)

        def test_a_compiled_function_around_a_model():
            model = Healthy(32)
            torch.compile(lambda x: model(x) + 1, backend="eager", fullgraph=True)(X)

        def test_parallel():
            torch.nn.DataParallel(Healthy(64))(X)
        """,
        "-Werror::UserWarning",
        "-v",
    )

    assert result.parseoutcomes()["passed"] == 4
    result.stdout.fnmatch_lines(["test_*: Sick: unhealthy init: unresponsive at 0.weight"])
    result.stdout.fnmatch_lines(["test_*: Healthy: healthy*", "test_*: Healthy: healthy*"])


def test_torch_fx_and_export_go_their_way(models: pytest.Pytester):
    result = in_a_process_of_its_own(
        models,
        """
        import torch
        from zoo import Healthy

        X = torch.ones(4, 8).cumsum(0)

        def test_fx():
            torch.fx.symbolic_trace(Healthy())(X)

        def test_export():
            torch.export.export(Healthy(), (X,))
        """,
    )

    result.assert_outcomes(passed=2)


def test_an_error_in_the_probe_changes_no_outcome(models: pytest.Pytester):
    models.makeconftest(
        """
        def pytest_initcheck_report(report):
            raise ZeroDivisionError("out of numbers")
        """
    )
    result = watched(models, SICK)

    assert result.parseoutcomes() == {"passed": 2}
    result.stdout.fnmatch_lines(["initcheck: skipped 2 models (Healthy, Sick): ZeroDivisionError: out of numbers"])


def test_a_model_that_fails_its_test_says_so_itself(models: pytest.Pytester):
    result = watched(
        models,
        """
        import pytest, torch
        from zoo import Raises, Sick

        def test_raises():
            with pytest.raises(RuntimeError, match="cheese"):
                Raises()(torch.ones(4, 8))

        def test_fails():
            Sick()(torch.ones(4, 8).cumsum(0))
            assert False
        """,
    )

    assert result.parseoutcomes() == {"passed": 1, "failed": 1}
    result.stdout.fnmatch_lines(
        ["initcheck: skipped Raises: forward of Raises raised RuntimeError at layer Raises: out of cheese"]
    )
    result.stdout.fnmatch_lines(["test_*: Sick: unhealthy*"])
    models.runpytest("--initcheck", "--lf").assert_outcomes(failed=1)


def test_batch_norm_of_one_sample_is_probed_as_it_is_called(models: pytest.Pytester):
    result = watched(
        models,
        """
        import torch
        from torch import nn

        def test_it():
            nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).eval()(torch.ones(1, 8))
        """,
    )

    result.stdout.fnmatch_lines(["initcheck: watched 1 model that the tests call"])


def test_fixtures_are_watched_too(models: pytest.Pytester):
    result = watched(
        models,
        """
        import pytest, torch
        from zoo import Sick

        @pytest.fixture
        def features():
            return Sick()(torch.ones(4, 8).cumsum(0))

        def test_it(features): pass
        """,
    )

    result.stdout.fnmatch_lines(["test_*: Sick: unhealthy*", "    in test_*::test_it"])


def test_checks_of_the_suite_are_not_watched(models: pytest.Pytester):
    result = watched(
        models,
        """
        import torch
        from pytest_initcheck import check_init
        from zoo import Sick, Healthy

        def test_api():
            assert not check_init(Sick(), "4x8").ok

        def test_fixture(initcheck):
            initcheck(Healthy(), "4x8")
        """,
    )

    assert "initcheck: watched" not in lines(result)


def test_no_budget(models: pytest.Pytester):
    result = watched(models, SICK, "--initcheck-watch-budget=0")

    assert result.parseoutcomes() == {"passed": 2}
    result.stdout.fnmatch_lines(
        ["initcheck: skipped 2 models (Healthy, Sick): the budget was spent (--initcheck-watch-budget)"]
    )


def test_settings_apply(models: pytest.Pytester):
    assert watched(models, SICK, "--initcheck-ignore=unresponsive,input-blind").parseoutcomes() == {"passed": 2}


CLEAN = """
import sys, pytest
import torch
before = torch.nn.Module.__call__, torch.nn.Module.load_state_dict
assert pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]) == 0
assert before == (torch.nn.Module.__call__, torch.nn.Module.load_state_dict)
from torch.optim.optimizer import _global_optimizer_post_hooks
assert not _global_optimizer_post_hooks
"""
LAZY = """
import sys, pytest
assert pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]) == 0
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("script", [CLEAN, LAZY], ids=["undone", "no-torch"])
def test_what_is_left_in_the_process(pytester: pytest.Pytester, script: str):
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(
        "def test_it(): pass" if script is LAZY else "import torch\ndef test_it(): torch.nn.Linear(2, 2)"
    )

    subprocess.run([sys.executable, "-c", script, "--initcheck"], check=True, cwd=pytester.path)


def test_a_deadline_of_hypothesis_does_not_count_the_probe(models: pytest.Pytester):
    pytest.importorskip("hypothesis")
    result = watched(
        models,
        """
        import torch
        from hypothesis import given, settings, strategies
        from zoo import Healthy

        @settings(max_examples=2, database=None)
        @given(strategies.integers(1, 4))
        def test_it(rows):
            Healthy()(torch.ones(rows, 8))

        def test_later():
            Healthy()(torch.ones(4, 8).cumsum(0))
        """,
        "-k",
        "test_it",
    )

    result.stdout.fnmatch_lines(["initcheck: skipped Healthy: called in a test of hypothesis, whose deadline would *"])
    models.runpytest("--initcheck").stdout.fnmatch_lines(["initcheck: watched 1 model that the tests call"])


LEFT = """
import threading
import torch
from torch import nn

class Odd(torch.Tensor):
    def isnan(self):
        raise NotImplementedError

class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(1024, 4)
        self.odd = nn.Parameter(torch.ones(3).as_subclass(Odd))
        self.scale = nn.Parameter(torch.empty(1 << 23))  # fresh from the operating system: zeros

    def forward(self, x):
        return self.lin(x) * self.scale[:4]

X = torch.ones(2, 1024)

def finite(y):
    assert not y.isnan().any()

def test_called():
    finite(Scale()(X))

def test_profiled():
    model = Scale()
    with torch.autograd.profiler.profile():
        y = model(X)
    finite(y)

def test_profiled_and_counted():
    names = []

    class Counts(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    model, other = Scale(), Scale()
    with torch.autograd.profiler.profile() as seen:
        model(X)
    with Counts():
        other(X)
    assert not [n for n in (*names, *(e.name for e in seen.function_events)) if "isnan" in n or "index_put" in n]

def test_in_vmap():
    finite(torch.vmap(Scale())(X))

def test_in_a_thread():
    model, got = Scale(), []
    thread = threading.Thread(target=lambda: got.append(model(X)))
    thread.start()
    thread.join()
    finite(got[0])

def test_by_functional_call():
    model = Scale()
    finite(torch.func.functional_call(model, {n: p.detach() for n, p in model.named_parameters()}, (X,)))

def test_traced():
    finite(torch.jit.trace(Scale(), X, check_trace=False)(X))
"""


def test_what_was_filled_is_as_fresh_memory_wherever_a_model_is_called(models: pytest.Pytester):
    result = in_a_process_of_its_own(models, LEFT, "--initcheck-watch=report", "-W", "ignore::DeprecationWarning")

    assert result.parseoutcomes().get("failed", 0) == 0, lines(result)
    assert result.parseoutcomes()["passed"] == 7
    assert "TracerWarning" not in lines(result)


SLOW = """
import torch
from torch import nn

class Bank(nn.Module):
    def __init__(self):  # in Hz: no step of an optimizer moves what comes of it
        super().__init__()
        self.low = nn.Parameter(torch.linspace(30, 7000, 64)[:, None])
        self.band = nn.Parameter(torch.full((64, 1), 110.0))

    def forward(self, x):
        t = torch.arange(-32, 33) / 16000
        high = self.low + self.band
        filters = (2 * torch.pi * t * high).sin() - (2 * torch.pi * t * self.low).sin()
        return nn.functional.conv1d(x, filters[:, None], padding=32)

def test_slow():
    for n in 1600, 1601:
        Bank()(torch.rand(2, 1, n))
"""


def test_what_a_look_has_no_time_to_decide_is_not_judged(models: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch_budget, "LEAST_LOOK", 0.0)
    monkeypatch.setattr(watch_budget, "MOST_LOOK", 0.0)
    result = watched(models, SLOW, "--initcheck-watch=report")

    assert result.ret == 0
    told = "initcheck: not judged Bank: what the first pass left open was not decided within the budget of one look"
    assert told in lines(result), lines(result)
