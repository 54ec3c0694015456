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
