"""Hooks in conftest.py."""

from __future__ import annotations

import pytest


def test_models_inputs_loss_and_report(models: pytest.Pytester):
    models.makeconftest(
        """
        def pytest_initcheck_models(config):
            return ["zoo.py:Healthy"]

        def pytest_initcheck_inputs(name):
            return "8x8" if name == "zoo.py:Healthy" else None

        def pytest_initcheck_loss(name):
            return lambda output: output.square().mean()

        def pytest_initcheck_report(report):
            print("seen:", report.model, report.trace.inputs, report.trace.loss is not None)
        """
    )

    result = models.runpytest("--initcheck", "-s")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*seen: zoo.py:Healthy *8*8* True"])


def test_what_was_asked_for_beats_the_hook(models: pytest.Pytester):
    models.makeini("[pytest]\ninitcheck_models = zoo.py:Healthy input=6x8\n")
    models.makeconftest(
        """
        def pytest_initcheck_inputs(name):
            return "8x9"
        """
    )

    models.runpytest("--initcheck").assert_outcomes(passed=1)


@pytest.mark.parametrize("lines", ["['resnet']", "'zoo.py:Healthy'", "[3]"])
def test_bad_models_end_the_run_with_one_sentence(models: pytest.Pytester, lines: str):
    models.makeconftest(f"def pytest_initcheck_models(config): return {lines}")

    result = models.runpytest("--initcheck")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: pytest_initcheck_models*"])


RULE = """
def pytest_initcheck_rules():
    from pytest_initcheck.rules import Rule, finding

    def judge(case):
        widest = max(case.trace.layers.values(), key=lambda layer: layer.shape[-1])
        if widest.shape[-1] > 15:
            yield finding("too-wide", "error", [widest.name], f"{widest.shape[-1]} units (at most 15 allowed here)")

    return [Rule("too-wide", "house rules", "error", "15 units", "our budget", "never", judge)]
"""


def test_rules_of_others_judge_and_are_silenced_like_ours(models: pytest.Pytester):
    models.makeini("[pytest]\ninitcheck_models = zoo.py:Healthy input=8x8\n")
    models.makeconftest(RULE)

    result = models.runpytest("--initcheck")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*too-wide*0*", "*16 units (at most 15 allowed here)*"])

    models.runpytest("--initcheck", "--initcheck-ignore=too-wide").assert_outcomes(passed=1)
    models.runpytest("--initcheck", "--initcheck-select=unresponsive").assert_outcomes(passed=1)


def test_a_glob_of_a_class_need_not_match_in_each_of_its_tests_and_is_shown_where_it_does(models: pytest.Pytester):
    models.makeini("[pytest]\n")
    models.makepyfile(
        """
import pytest
from torch import nn

@pytest.mark.initcheck(ignore=["dead-units:0.*", "dead-units:here"])
class TestBoth:
    def test_one(self, initcheck):
        report = initcheck(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), "8x8")
        assert report.settings["ignore"] == ("dead-units:0.*",)
    def test_other(self, initcheck):
        assert "ignore" not in initcheck(nn.Linear(8, 2), "8x8").settings
    @pytest.mark.initcheck(ignore=["dead-units:nowhere"])
    def test_own(self, initcheck):
        with pytest.raises(Exception, match="which match nothing"):
            initcheck(nn.Linear(8, 2), "8x8")
"""
    )

    models.runpytest("--initcheck").assert_outcomes(passed=3)


def test_a_glob_for_all_models_of_a_run_need_not_match_in_each(models: pytest.Pytester):
    models.makeini("[pytest]\ninitcheck_models =\n    zoo.py:Healthy input=8x8\n    zoo.py:Sick input=8x8\n")

    result = models.runpytest("--initcheck", "--initcheck-ignore=unresponsive:no.such.*")

    result.assert_outcomes(passed=1, failed=1)
    assert "match nothing" not in result.stdout.str()


@pytest.mark.parametrize(
    ("arguments", "ini", "called"),
    [
        (["--initcheck-ignore=no-such-rule"], "", "--initcheck-ignore"),
        ([], "initcheck_select = no-such-rule", "initcheck_select"),
    ],
)
def test_rules_that_nobody_has_end_the_run(models: pytest.Pytester, arguments: list[str], ini: str, called: str):
    models.makeini(f"[pytest]\ninitcheck_models = zoo.py:Healthy input=8x8\n{ini}\n")

    result = models.runpytest("--initcheck", *arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {called} names the unknown rule 'no-such-rule' (known: *"])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("[3]", "pytest_initcheck_rules must return a list of *"),
        ("[RULES['unresponsive']]", "*there is a rule 'unresponsive' already*"),
    ],
)
def test_bad_rules_end_the_run(models: pytest.Pytester, answer: str, message: str):
    models.makeini("[pytest]\ninitcheck_ignore = unresponsive\n")
    models.makeconftest(f"""
        def pytest_initcheck_rules():
            from pytest_initcheck.rules import RULES

            return {answer}
        """)

    result = models.runpytest("--initcheck")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


@pytest.mark.parametrize("workers", [[], pytest.param(["-n", "2"], marks=pytest.mark.slow)], ids=["alone", "xdist"])
@pytest.mark.parametrize("hook", ["pytest_initcheck_models(config)", "pytest_initcheck_rules()"])
def test_a_hook_of_the_run_that_raises_ends_it(models: pytest.Pytester, hook: str, workers: list[str]):
    models.makeini("[pytest]\ninitcheck_ignore = unresponsive\n")
    models.makeconftest(f"""
        def read():
            raise KeyError("no models")

        def {hook}:
            return read()
        """)

    result = models.runpytest("--initcheck", *workers)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    name = hook.partition("(")[0]
    assert [line for line in result.errlines if line.strip()] == [
        f"ERROR: {name} in conftest.py:5 failed (KeyError: 'no models'): mend the hook"
    ]
    assert "INTERNALERROR" not in result.stdout.str()


@pytest.mark.parametrize("hook", ["inputs(name)", "loss(name)", "report(report)"])
def test_a_hook_of_a_check_that_raises_fails_its_item(models: pytest.Pytester, hook: str):
    models.makeini("[pytest]\ninitcheck_models = zoo.py:Healthy\n")
    models.makeconftest(f"""
        import torch

        def pytest_initcheck_{hook}:
            torch.ones(2) @ torch.ones(3)

        if {not hook.startswith("inputs")}:
            def pytest_initcheck_inputs(name):
                return "8x8"
        """)

    result = models.runpytest("--initcheck")

    result.assert_outcomes(failed=1)
    sentence = f"pytest_initcheck_{hook.partition('(')[0]} in conftest.py:4 failed (RuntimeError: *): mend the hook"
    result.stdout.fnmatch_lines(
        ["*_ initcheck zoo.py:Healthy _*", sentence, "initcheck: 1 model, 1 could not be checked"]
    )
    assert "_multicall" not in result.stdout.str()
    told = models.runpytest("--initcheck", "-v").stdout.str()
    assert "torch.ones(2) @ torch.ones(3)" in told
    assert "pluggy/" not in told


def test_a_hook_may_end_the_run(models: pytest.Pytester):
    models.makeini("[pytest]\ninitcheck_models = zoo.py:Healthy\n")
    models.makeconftest("""
        import pytest

        def pytest_initcheck_inputs(name):
            pytest.exit("no data here", returncode=7)
        """)

    assert models.runpytest("--initcheck").ret == 7


def test_a_hook_that_raises_in_a_test_shows_the_hook_alone(models: pytest.Pytester):
    models.makeconftest("""
        def pytest_initcheck_inputs(name):
            raise RuntimeError("no data")
        """)
    models.makepyfile("from zoo import Healthy\n\ndef test_it(initcheck):\n    initcheck(Healthy())\n")

    result = models.runpytest()

    result.stdout.fnmatch_lines(
        ["*pytest_initcheck_inputs in conftest.py:2 failed (RuntimeError: no data): mend the hook"]
    )
    assert "_multicall" not in result.stdout.str()
