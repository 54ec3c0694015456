"""Models as items: those of the configuration and decorated factories."""

from __future__ import annotations

import pytest

INI = """
[pytest]
initcheck_models =
    zoo.py:Sick input=8x8
    zoo.py:Healthy input=8x8
    zoo:Healthy input=8x8 seed=3
"""

CASES = """
import pytest
from pytest_initcheck import model_case
from zoo import Healthy, Sick

@model_case("8x8")
def small():
    return Healthy()

@model_case("8x8")
def test_looking_name():
    return Healthy(4)

@model_case(lambda: __import__("torch").ones(8, 8).cumsum(0) * 0.1, fail_on="never")
class Net(Healthy):
    pass

def test_factory_still_works():
    assert isinstance(small(), Healthy) and isinstance(Net(), Net)
"""


def ids(pytester: pytest.Pytester, *arguments: str) -> list[str]:
    result = pytester.runpytest("--initcheck", "--collect-only", "-q", *arguments)
    return [line for line in result.outlines if "::" in line]


def test_configured_models_need_no_test_file_and_are_sorted(models: pytest.Pytester):
    models.makeini(INI)

    assert ids(models) == [
        "initcheck::zoo.py:Healthy[input=8x8]",
        "initcheck::zoo.py:Sick[input=8x8]",
        "initcheck::zoo:Healthy[input=8x8,seed=3]",
    ]
    result = models.runpytest("--initcheck")
    result.assert_outcomes(passed=2, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["collected 3 items", "initcheck .F.*", "initcheck: 3 models, 1 unhealthy"])


def test_nothing_is_collected_without_the_flag(models: pytest.Pytester):
    models.makeini(INI)
    models.makepyfile(test_models=CASES)

    models.runpytest().assert_outcomes(passed=1)
    result = models.runpytest("-v")
    result.stdout.fnmatch_lines(["initcheck: 6 models left out (--initcheck checks them)"])


def test_decorated_factories(models: pytest.Pytester):
    models.makepyfile(test_models=CASES)

    assert ids(models) == [
        "test_models.py::small",
        "test_models.py::test_looking_name",
        "test_models.py::Net",
        "test_models.py::test_factory_still_works",
    ]
    models.runpytest("--initcheck", "-W", "error").assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-k", "Sick"], ["initcheck::zoo.py:Sick[input=8x8]"]),
        (["-k", "small"], ["test_models.py::small"]),
        (["-m", "initcheck", "-k", "not zoo"], ["test_models.py::small", "test_models.py::test_looking_name", "test_models.py::Net"]),
        (["-m", "not initcheck"], ["test_models.py::test_factory_still_works"]),
        (["test_models.py::small"], ["test_models.py::small"]),
        (["--strict-markers", "-k", "Sick"], ["initcheck::zoo.py:Sick[input=8x8]"]),
        (["--import-mode=importlib", "-o", "pythonpath=.", "-k", "Sick or Net"], ["test_models.py::Net", "initcheck::zoo.py:Sick[input=8x8]"]),
    ],
)  # fmt: skip
def test_selection(models: pytest.Pytester, arguments: list[str], expected: list[str]):
    models.makeini(INI)
    models.makepyfile(test_models=CASES)

    assert ids(models, *arguments) == expected


def test_naming_a_file_leaves_configured_models_out_and_says_so(models: pytest.Pytester):
    models.makeini(INI)
    models.makepyfile(test_models=CASES)

    result = models.runpytest("--initcheck", "test_models.py")

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        ["initcheck: 3 models, 3 of initcheck_models left out because single files or tests were named"]
    )


def test_failure_shows_the_diagnosis_alone(models: pytest.Pytester):
    models.makeini("[pytest]\ninitcheck_models = zoo.py:Sick input=8x8\n")

    result = models.runpytest("--initcheck")

    text = result.stdout.str()
    result.stdout.fnmatch_lines(["*_ initcheck zoo.py:Sick _*"])
    assert "Traceback" not in text
    assert "items.py" not in text
    title = next(i for i, line in enumerate(result.outlines) if line.startswith("___"))
    first = result.outlines[title + 1]
    (summary,) = (line for line in result.outlines if line.startswith("FAILED initcheck::zoo.py:Sick[input=8x8] - "))
    shown = summary.partition(" - ")[2].removesuffix("...")
    assert shown
    assert first.startswith(shown)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("zoo.py:Nope", "zoo.py has no 'Nope'*"),
        ("zoo.py:boom", "building the model failed (RuntimeError: no such thing)*"),
        ("zoo.py:number", "the factory returned an int, expected an nn.Module"),
        ("zoo.py:Raises input=8x8", "*out of cheese*"),
        ("zoo.py:meta input=8x8", "0.weight of Sequential is on the meta device and has no values: check*"),
        ("zoo.py:Healthy input=8x9", "*"),
        ("zoo.py:Healthy input=1000000000000x8", "the input 1000000000000x8 asks for 32,000,000,000,000 bytes*"),
        ("zoo.py:Healthy input=8x8 device=cuda:77", "*cuda*"),
        ("zoo.py:Healthy input=8x8 device=toaster", "*toaster*"),
        ("nowhere.at.all:Net", "there is no module 'nowhere'*"),
    ],
)
def test_what_cannot_be_checked_fails_with_a_sentence(models: pytest.Pytester, spec: str, message: str):
    models.makeini(f"[pytest]\ninitcheck_models =\n  {spec}\n  zoo.py:Healthy input=8x8\n")

    result = models.runpytest("--initcheck")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([message, "initcheck: 2 models, 1 could not be checked"])
    text = result.stdout.str()
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    assert ".py:" not in text.replace("zoo.py:", "").replace("path/file.py:", "")  # no frame of anybody's code


def test_verbose_shows_where_the_factory_failed(models: pytest.Pytester):
    models.makeini("[pytest]\ninitcheck_models = zoo.py:boom\n")

    models.runpytest("--initcheck", "-v").stdout.fnmatch_lines(
        [
            "building the model failed (RuntimeError: no such thing)*",
            "zoo.py:*: in boom",
            "E   RuntimeError: no such thing",
        ]
    )


def test_pytest_marks_work_on_cases(models: pytest.Pytester):
    models.makepyfile(
        test_models="""
        import pytest
        from pytest_initcheck import model_case
        from zoo import Healthy, Sick

        @pytest.mark.skip(reason="no time")
        @model_case("8x8")
        def skipped(): return Healthy()

        @pytest.mark.xfail(reason="known")
        @model_case("8x8")
        def known(): return Sick()

        @pytest.mark.initcheck(fail_on="never", seed=9)
        @model_case("8x8", seed=1)
        def marked(): return Sick()

        @model_case("8x8")
        def asks_for_a_library(): pytest.importorskip("no_such_library_at_all")
        """
    )

    models.runpytest("--initcheck", "-k", "skipped").assert_outcomes(skipped=1, deselected=3)
    models.runpytest("--initcheck").assert_outcomes(passed=1, skipped=2, xfailed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'8xQ'", "test_models.py:3: model_case: input '8xQ' is not a shape: *"),
        ("'8x8', seed='x'", "test_models.py:3: model_case: seed must be a whole number of at least 0 (got 'x')"),
        ("'8x8', sed=3", "test_models.py:3: model_case: unknown setting sed (known: *"),
        ("'8x8', ignore='no-such-rule'", "test_models.py::needs: ignore names the unknown rule 'no-such-rule' *"),
        ("'8x9'", "test_models.py:3: model_case: needs must be callable without arguments (*'width'*): wrap it"),
    ],
)
def test_unusable_decorator_ends_the_run_with_a_sentence(models: pytest.Pytester, arguments: str, message: str):
    models.makepyfile(
        test_models=f"""
        from pytest_initcheck import model_case

        @model_case({arguments})
        def needs({"width" if "9" in arguments else ""}): ...

        def test_other(): ...
        """
    )

    result = models.runpytest("--initcheck")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.assert_outcomes()
    result.stderr.fnmatch_lines([f"ERROR: {message.replace('[', '[[]')}"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_no_model_at_all_is_said(pytester: pytest.Pytester):
    pytester.makepyfile("def test_it(): pass")

    pytester.runpytest("--initcheck").stdout.fnmatch_lines(["initcheck: no model was checked (name models in *"])


def test_last_failed(models: pytest.Pytester):
    models.makeini(INI)

    models.runpytest("--initcheck")
    result = models.runpytest("--initcheck", "--lf")

    result.assert_outcomes(failed=1, deselected=2)


def test_items_leave_the_generators_alone(models: pytest.Pytester):
    models.makepyfile(
        test_models="""
        import random
        import torch
        from pytest_initcheck import model_case
        from zoo import Healthy

        def test_before():
            torch.manual_seed(5); random.seed(5)

        @model_case("8x8")
        def model(): return Healthy()

        def test_after():
            seen = torch.rand(3), random.random()
            torch.manual_seed(5); random.seed(5)
            assert torch.equal(seen[0], torch.rand(3)) and seen[1] == random.random()
        """
    )

    models.runpytest("--initcheck").assert_outcomes(passed=3)


# -- ids as arguments


def test_an_id_that_was_printed_can_be_run(models: pytest.Pytester, xdist_again: tuple[str, ...]):
    models.makeini(INI)
    models.makepyfile(test_it="def test_it(): pass", test_other="def test_other(): pass")

    result = models.runpytest("--initcheck", "initcheck::zoo.py:Sick[input=8x8]", *xdist_again)
    result.assert_outcomes(failed=1)

    ids = ["initcheck::zoo.py:Healthy[input=8x8]", "initcheck::zoo:Healthy[input=8x8,seed=3]", "test_it.py::test_it"]
    result = models.runpytest("--initcheck", "-rA", *ids, *xdist_again)
    result.assert_outcomes(passed=3)
    if not xdist_again:
        result.stdout.fnmatch_lines(["initcheck: 2 models, 1 of initcheck_models left out because *"])


def test_a_part_of_the_name_chooses(models: pytest.Pytester):
    models.makeini(INI)

    models.runpytest("--initcheck", "-k", "zoo.py:Healthy").assert_outcomes(passed=1, deselected=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["initcheck::zoo.py:Sick"], "initcheck::zoo.py:Sick needs --initcheck: only then are models checked"),
        (
            ["--initcheck", "initcheck::zoo.py:Sick"],
            "initcheck::zoo.py:Sick is none of the configured models (known: initcheck::zoo.py:Healthy[[]input=8x8], *",
        ),
    ],
)
def test_an_id_that_cannot_be_run_says_why(models: pytest.Pytester, arguments: list[str], message: str):
    models.makeini(INI)

    result = models.runpytest(*arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
