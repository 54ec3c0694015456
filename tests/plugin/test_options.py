"""Every option and every ini: read once, checked once, in the order of precedence."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_initcheck.plugin.configuration import configured
from pytest_initcheck.settings import SETTINGS, Settings
from pytest_initcheck.surfaces.options import flag

#: name -> (a value as text, the same parsed, another value as text, that parsed)
VALUES = {
    "seed": ("3", 3, "4", 4),
    "seeds": ("2", 2, "5", 5),
    "device": ("cpu", "cpu", "meta", "meta"),
    "dtype": ("float64", "float64", "torch.bfloat16", "bfloat16"),
    "mode": ("eval", "eval", "as-is", "as-is"),
    "activation_std": ("0.1:10", (("*", 0.1, 10.0),), "head.*=:3", (("head.*", None, 3.0),)),
    "gradient_std": ("1e-6:", (("*", 1e-6, None),), "0:1", (("*", 0.0, 1.0),)),
    "ignore": ("dead-units", ("dead-units",), "no-gradient:a.*,dead-units", ("no-gradient:a.*", "dead-units")),
    "select": ("dead-units", ("dead-units",), "no-gradient", ("no-gradient",)),
    "frozen": ("encoder.*", ("encoder.*",), "a b", ("a", "b")),
    "fail_on": ("warning", "warning", "never", "never"),
    "deferred": ("init_weights", "init_weights", "reset", "reset"),
    "stream": ("layers.*", "layers.*", "true", "true"),
    "time_budget": ("5s 7x", "7x,5s", "none", "none"),
    "timeout": ("30", 30, "60", 60),
    "debug": ("true", True, "false", False),
}


def test_every_setting_is_tested_here():
    assert list(VALUES) == [s.name for s in SETTINGS]


def resolved(pytester: pytest.Pytester, *arguments: str) -> Settings:
    configuration = configured(pytester.parseconfigure(*arguments))
    return Settings.of(configuration.command_line, configuration.ini)


def write_ini(pytester: pytest.Pytester, column: int) -> None:
    lines = [f"initcheck_{name} = {values[column]}" for name, values in VALUES.items()]
    pytester.makeini("\n".join(["[pytest]", *lines]))


@pytest.mark.parametrize("with_ini", [False, True], ids=["alone", "against ini"])
def test_options(pytester: pytest.Pytester, with_ini: bool):
    if with_ini:
        write_ini(pytester, 2)

    words = [flag(s, "initcheck-") if s.switch else f"{flag(s, 'initcheck-')}={VALUES[s.name][0]}" for s in SETTINGS]

    found = resolved(pytester, *words)

    assert {s.name: getattr(found, s.name) for s in SETTINGS} == {name: values[1] for name, values in VALUES.items()}


def test_ini(pytester: pytest.Pytester):
    write_ini(pytester, 0)

    found = resolved(pytester)

    assert {s.name: getattr(found, s.name) for s in SETTINGS} == {name: values[1] for name, values in VALUES.items()}


def test_repeated_options_collect(pytester: pytest.Pytester):
    repeatable = [s for s in SETTINGS if s.repeat]

    found = resolved(pytester, *(f"{flag(s, 'initcheck-')}={VALUES[s.name][i]}" for i in (0, 2) for s in repeatable))

    assert {s.name: getattr(found, s.name) for s in repeatable} == {
        s.name: (*VALUES[s.name][1], *VALUES[s.name][3]) for s in repeatable
    }


def test_native_toml(pytester: pytest.Pytester):
    pytester.makefile(
        ".toml", pytest='[pytest]\ninitcheck_seed = 3\ninitcheck_ignore = ["dead-units"]\ninitcheck = true\n'
    )

    config = pytester.parseconfigure()

    assert configured(config).ini == {"seed": 3, "ignore": ["dead-units"]}
    assert configured(config).enabled


#: Lines of TOML, and what each says.
NUMERIC = {
    "initcheck_watch_budget = 5": 5.0,
    "initcheck_watch_budget = 2.5": 2.5,
    'initcheck_watch_budget = "5"': 5.0,
    "initcheck_baseline_alpha = 0.01": 0.01,
    'initcheck_baseline_alpha = "1e-3"': 0.001,
    "initcheck_seed = 3": 3,
    'initcheck_seed = "3"': 3,
    'initcheck_seeds = "4"': 4,
    'initcheck_timeout = "30"': 30,
    "initcheck_time_budget = 25": "25s",
    "initcheck_time_budget = 2.5": "2.5s",
    'initcheck_time_budget = "25s"': "25s",
}


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="native TOML came with pytest 9")
@pytest.mark.parametrize("line", NUMERIC)
def test_numbers_of_native_toml_are_numbers_or_text(pytester: pytest.Pytester, line: str):
    pytester.makefile(".toml", pytest=f"[pytest]\n{line}\n")
    name = line.partition(" ")[0].removeprefix("initcheck_")

    found = configured(pytester.parseconfigure())

    assert getattr(found if hasattr(found, name) else Settings.of(found.ini), name) == NUMERIC[line]


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="native TOML came with pytest 9")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("initcheck_watch_budget = true", "initcheck_watch_budget must be a number of per cent, 0 or more (got True)"),
        ("initcheck_watch_budget = [5]", "initcheck_watch_budget must be a number of per cent, 0 or more (got [5])"),
        (
            "initcheck_baseline_alpha = 2",
            "initcheck_baseline_alpha must be a chance between 0 and 1, both left out (got 2)",
        ),
        ("initcheck_seed = 1.5", "initcheck_seed must be a whole number of at least 0 (got 1.5)"),
        ("initcheck_time_budget = true", "initcheck_time_budget must be bare steps (60x), *(got True)"),
        ("initcheck_watch = 3", "initcheck_watch must be text (*)"),
    ],
)
def test_what_native_toml_cannot_say_ends_the_run(pytester: pytest.Pytester, line: str, message: str):
    pytester.makefile(".toml", pytest=f"[pytest]\n{line}\n")

    result = pytester.runpytest()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message.replace('[', '[[]')}"])


@pytest.mark.skipif(pytest.version_tuple < (9, 2), reason="an ini has one type before pytest 9.2")
@pytest.mark.parametrize("value", ["1", '"1"', '"auto"'])
def test_verbosity_is_a_number_or_text(pytester: pytest.Pytester, value: str):
    pytester.makefile(".toml", pytest=f"[pytest]\nverbosity_initcheck = {value}\n")

    assert pytester.parseconfigure("-v").get_verbosity("initcheck") == 1


def test_defaults(pytester: pytest.Pytester):
    assert resolved(pytester) == Settings()
    assert not configured(pytester.parseconfigure()).enabled


@pytest.mark.parametrize(
    ("arguments", "ini", "message"),
    [
        (["--initcheck-seed=abc"], "", "--initcheck-seed must be a whole number of at least 0 (got 'abc')"),
        (["--initcheck-fail-on=maybe"], "", "--initcheck-fail-on must be one of error, warning, never (got 'maybe')"),
        (["--initcheck-activation-std=3:1"], "", "--initcheck-activation-std must be a pair (low, high)*"),
        ([], "initcheck_seed = abc", "initcheck_seed must be a whole number (*'abc'*)"),
        ([], "initcheck_seed = -1", "initcheck_seed must be a whole number of at least 0 (got -1)"),
        ([], "initcheck_mode = both", "initcheck_mode must be one of train, eval, as-is (got 'both')"),
        ([], "initcheck_debug = perhaps", "initcheck_debug must be true or false (*'perhaps'*)"),
        ([], "initcheck = perhaps", "initcheck must be true or false (*'perhaps'*)"),
        ([], "verbosity_initcheck = loud", "verbosity_initcheck must be a whole number or auto (got 'loud')"),
        (["--initcheck"], "initcheck_models = resnet", "initcheck_models: 'resnet' names no model: write pkg.mod:Factory, *"),
        (["--initcheck"], "initcheck_models = zoo:A sed=3", "initcheck_models: zoo:A sed=3: unknown setting 'sed' (known: *"),
        (["--initcheck"], "initcheck_models = zoo:A input=32xQ", "initcheck_models: zoo:A input=32xQ: input '32xQ' is not a shape: *"),
        (["--initcheck", "-n2"], "initcheck_models = zoo:A dtype=foo", "initcheck_models: zoo:A dtype=foo: dtype must be a floating dtype: *"),
        (["--initcheck"], "initcheck_models = zoo:A ignore=nope", "initcheck_models: zoo:A ignore=nope: ignore names the unknown rule 'nope' *"),
        (["--initcheck-select=nope"], "", "--initcheck-select names the unknown rule 'nope' (known: *"),
        (["--initcheck-dtype=foo"], "", "--initcheck-dtype must be a floating dtype: *(got 'foo')"),
        ([], "initcheck_ignore = nope", "initcheck_ignore names the unknown rule 'nope' (known: *"),
        (["--initcheck"], "initcheck_models =\n  zoo:A\n  zoo:A", "initcheck_models names zoo:A twice: name it once"),
    ],
)  # fmt: skip
def test_bad_value_ends_the_run_with_one_sentence(
    pytester: pytest.Pytester, arguments: list[str], ini: str, message: str
):
    pytester.makeini(f"[pytest]\n{ini}\n")
    pytester.makepyfile("def test_it(): pass")

    result = pytester.runpytest(*arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message.replace('[', '[[]')}"])
    assert len([line for line in result.errlines if line.strip()]) == 1
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_bad_models_are_not_read_without_the_flag(pytester: pytest.Pytester):
    pytester.makeini("[pytest]\ninitcheck_models = resnet\n")
    pytester.makepyfile("def test_it(): pass")

    assert pytester.runpytest().ret == 0


def test_help_names_every_option_and_ini(pytester: pytest.Pytester):
    text = pytester.runpytest("--help").stdout.str()

    for setting in SETTINGS:
        assert flag(setting, "initcheck-") in text
        assert f"initcheck_{setting.name} (" in text
    for name in ("initcheck", "initcheck_models", "initcheck_junit", "verbosity_initcheck"):
        assert f"  {name} (" in text


def test_ini_turns_it_on_and_no_option_turns_it_off(models: pytest.Pytester):
    models.makeini("[pytest]\ninitcheck = true\ninitcheck_models = zoo.py:Healthy input=8x8\n")

    models.runpytest().assert_outcomes(passed=1)
    models.runpytest("-o", "initcheck=false").assert_outcomes()


def test_paths_are_relative_to_the_configuration_file(models: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    models.makeini("[pytest]\ninitcheck_models = zoo.py:Healthy input=8x8\n")
    inside = models.mkdir("inside")
    monkeypatch.chdir(inside)

    models.runpytest("--initcheck").assert_outcomes(passed=1)
    assert Path.cwd() == inside
