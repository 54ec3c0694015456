"""The ``initcheck`` fixture and marker: they work without the flag."""

from __future__ import annotations

import pytest

PRECEDENCE = """
import pytest
from zoo import Healthy

seen = []

@pytest.mark.initcheck(seed=3)
class TestClass:
    @pytest.mark.initcheck(seed=4)
    def test_call(self, initcheck):
        assert initcheck(Healthy, "8x8", seed=5).trace.seed == 5

    @pytest.mark.initcheck(seed=4)
    def test_closest_marker(self, initcheck):
        assert initcheck(Healthy, "8x8").trace.seed == 4

    def test_marker(self, initcheck):
        assert initcheck(Healthy, "8x8").trace.seed == 3

def test_command_line(initcheck):
    assert initcheck(Healthy, "8x8").trace.seed == 2
"""


def test_precedence(models: pytest.Pytester):
    models.makeini("[pytest]\ninitcheck_seed = 1\n")
    models.makepyfile(PRECEDENCE)

    models.runpytest("--initcheck-seed=2", "--strict-markers").assert_outcomes(passed=4)
    models.runpytest("-k", "command_line").stdout.fnmatch_lines(["*assert 1 == 2*"])


def test_sick_model_fails_the_test_at_the_users_line(models: pytest.Pytester):
    models.makepyfile(
        """
        from zoo import Sick

        def test_it(initcheck):
            initcheck(Sick(), "8x8")  # here
        """
    )

    result = models.runpytest()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">       initcheck(Sick(), *# here", "E       pytest_initcheck.UnhealthyInit: *"])
    assert "pytest_initcheck/plugin" not in result.stdout.str()
    assert "initcheck:" not in result.outlines[-1]


def test_return_value_is_the_report(models: pytest.Pytester):
    models.makepyfile(
        """
        from zoo import Healthy, Sick

        def test_it(initcheck):
            assert initcheck(Healthy(), "8x8").ok
            report = initcheck(Sick(), "8x8", fail_on="never")
            assert report.ok and report.findings
        """
    )

    models.runpytest("-W", "error").assert_outcomes(passed=1)


def test_tests_that_use_it_are_counted(models: pytest.Pytester):
    models.makepyfile(
        """
        from zoo import Healthy, Sick

        def test_two(initcheck):
            initcheck(Healthy(), "8x8")
            initcheck(Sick(), "8x8")
        """
    )

    models.runpytest("--initcheck").stdout.fnmatch_lines(["initcheck: 2 models, 1 unhealthy"])
    assert "initcheck: 2" not in models.runpytest().stdout.str()


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("sed=3", "unknown setting 'sed' (known: seed, *"),
        ("seed='x'", "seed must be a whole number of at least 0 (got 'x')"),
        ("3", "the marker initcheck takes keywords only (got 3)"),
        ("dtype='foo'", "dtype must be a floating dtype: *(got 'foo')"),
        ("ignore=['no-such-rule:x']", "ignore names the unknown rule 'no-such-rule' (known: *"),
    ],
)
def test_bad_marker_is_found_at_collection(pytester: pytest.Pytester, marker: str, message: str):
    pytester.makepyfile(
        test_it=f"""
        import pytest

        @pytest.mark.initcheck({marker})
        def test_marked(): pass

        def test_other(): pass
        """
    )

    result = pytester.runpytest()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: test_it.py::test_marked: {message}"])


def test_a_setting_that_is_wrong_at_import_is_found_where_it_is_written(pytester: pytest.Pytester, all_of_torch: None):
    # It is raised deep in the package, whose frames are not the user's, whatever folder of it they are in.
    pytester.makepyfile(
        test_it="""
        import torch
        from pytest_initcheck import check_init

        check_init(torch.nn.Linear(8, 8), "8xQ")
        """
    )

    result = pytester.runpytest()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: test_it.py:4: input '8xQ' is not a shape: *"])


@pytest.mark.parametrize(
    ("decorator", "message"),
    [
        ("pytest.mark.initcheck(sed=3)", "test_it.py::test_marked: unknown setting 'sed' (known: *"),
        ("model_case('8xQ')", "test_it.py:4: model_case: input '8xQ' is not a shape: *"),
    ],
    ids=["marker", "model_case"],
)
def test_what_xdist_s_workers_find_ends_the_run_once(pytester: pytest.Pytester, decorator: str, message: str):
    pytest.importorskip("xdist")
    pytester.makepyfile(
        test_it=f"""
        import pytest
        from pytest_initcheck import model_case

        @{decorator}
        def test_marked(): pass

        def test_other(): pass
        """
    )

    result = pytester.runpytest("-n", "2")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.assert_outcomes()
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    assert len([line for line in result.errlines if line.strip()]) == 1


def test_marker_and_fixture_are_documented(pytester: pytest.Pytester):
    pytester.runpytest("--markers").stdout.fnmatch_lines(["@pytest.mark.initcheck(seed=0, *): settings for *"])
    pytester.runpytest("--fixtures").stdout.fnmatch_lines(["initcheck -- *", "*Assert that a model trains from*"])


@pytest.mark.parametrize("call", ["sed=3", "mode='x'"])
def test_bad_call_raises(models: pytest.Pytester, call: str):
    models.makepyfile(
        f"""
        import pytest
        from pytest_initcheck import SettingsError
        from zoo import Healthy

        def test_it(initcheck):
            with pytest.raises(SettingsError):
                initcheck(Healthy, "8x8", {call})
        """
    )

    models.runpytest().assert_outcomes(passed=1)
