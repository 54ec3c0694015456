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
