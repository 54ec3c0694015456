"""The table of settings: every form of a value, and what is said of a bad one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_initcheck.errors import SettingsError
from pytest_initcheck.settings import BY_NAME, SETTINGS, Settings, bound_for, matches
from pytest_initcheck.surfaces.options import command_line


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("seed", 3, 3),
        ("seed", "4", 4),
        ("device", "", None),
        ("dtype", "torch.float64", "float64"),
        ("ignore", "a, b  c", ("a", "b", "c")),
        ("ignore", ["a:x.*", "b"], ("a:x.*", "b")),
        ("ignore", ("a",), ("a",)),
        ("activation_std", (0.1, 10), (("*", 0.1, 10.0),)),
        ("activation_std", [None, 10], (("*", None, 10.0),)),
        ("activation_std", {"head.*": (0, 1), "body": (None, None)}, (("head.*", 0.0, 1.0), ("body", None, None))),
        ("activation_std", "0.1:10", (("*", 0.1, 10.0),)),
        ("activation_std", "head.*=:10 body=1:", (("head.*", None, 10.0), ("body", 1.0, None))),
        ("activation_std", ["head=0:1", "0:2"], (("head", 0.0, 1.0), ("*", 0.0, 2.0))),
        ("activation_std", (("head", 0.0, 1.0),), (("head", 0.0, 1.0),)),
        ("activation_std", [], ()),
        ("stream", True, "true"),
        ("stream", "yes", "true"),
        ("stream", False, None),
        ("stream", "off", None),
        ("stream", "model.layers.*", "model.layers.*"),
        ("debug", True, True),
        ("debug", "Yes", True),
        ("debug", "off", False),
        ("activation_std", (0, math.inf), (("*", 0.0, math.inf),)),
    ],
)
def test_parse(name: str, value: object, parsed: object):
    assert getattr(Settings.of({name: value}), name) == parsed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1), ("seed", 1.5), ("seed", True), ("seed", "x"), ("seed", [1]), ("seed", 2**63), ("seed", "9" * 5000),
        ("dtype", "int8"), ("dtype", "foo"), ("device", "cuda:x"), ("device", "cuda 1"), ("deferred", "init()"),
        ("seeds", 0),
        ("stream", "zoo:Net"), ("stream", 3), ("stream", "a b"),
        ("mode", "both"), ("mode", 3),
        ("fail_on", "ERROR"),
        ("ignore", 3), ("ignore", [3]),
        ("debug", 1), ("debug", "perhaps"),
        ("activation_std", 3), ("activation_std", (1,)), ("activation_std", (2, 1)), ("activation_std", (-1, 1)),
        ("activation_std", (math.nan, 1)), ("activation_std", "1"), ("activation_std", "a:b"), ("activation_std", "1:2:3"),
        ("activation_std", {"x": 3}), ("gradient_std", ["0:1", (0, 1)]),
    ],
)  # fmt: skip
def test_bad_value_is_one_sentence_with_name_and_value(name: str, value: object):
    with pytest.raises(SettingsError) as caught:
        Settings.of({name: value})

    message = str(caught.value)
    assert message.startswith(f"{name} must be ")
    assert message.endswith(f"(got {value!r})")
    assert "\n" not in message


def test_unknown_name_lists_the_known():
    with pytest.raises(SettingsError, match=r"unknown setting --sed \(known: seed, seeds, device"):
        Settings.of({"sed": 1}, prefix="--")


def test_first_layer_wins_and_none_is_not_given():
    found = Settings.of({"seed": None, "mode": "eval"}, {"seed": 5, "mode": "as-is"}, {"seed": 7, "seeds": 2})

    assert (found.seed, found.mode, found.seeds) == (5, "eval", 2)
    assert found.given == {"seed": 5, "mode": "eval", "seeds": 2}


def test_given_leaves_out_what_equals_the_default():
    assert Settings.of({"seed": 0, "mode": "train", "ignore": []}).given == {}


def test_given_leaves_out_what_changes_no_report():
    asked = Settings.of({"debug": True})

    assert asked.debug
    assert asked.given == {}
    assert "debug" not in command_line("m:N", None, asked)


def test_defaults_of_table_and_record_agree():
    assert Settings.of() == Settings()
    assert {s.name: s.default for s in SETTINGS} == {s.name: getattr(Settings(), s.name) for s in SETTINGS}


def test_help_is_one_sentence_without_its_default():
    for setting in SETTINGS:
        assert setting.help
        assert not setting.help.endswith(".")
        assert "default" not in setting.help


def test_bound_for_takes_the_last_match():
    bounds = Settings.of({"activation_std": {"*": (0, 1), "head.*": (None, None), "head.out": (2, 3)}}).activation_std

    assert bound_for(bounds, "body") == (0, 1)
    assert bound_for(bounds, "head.in") == (None, None)
    assert bound_for(bounds, "head.out") == (2, 3)
    assert bound_for((), "body") == (None, None)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("dead-units", True),
        ("dead-*", True),
        ("dead-units:a.*", True),
        ("dead-units:b.*", False),
        ("*:a.c", True),
        ("no-gradient", False),
    ],
)
def test_matches(pattern: str, expected: bool):
    assert matches([pattern], "dead-units", ["a.c"]) is expected


_numbers = st.none() | st.floats(0, 1e30)
_pairs = st.tuples(_numbers, _numbers).map(lambda p: p if None in p else tuple(sorted(p)))
_words = st.lists(st.from_regex(r"[a-z][a-z-]{0,8}(:[a-z.*]{1,5})?", fullmatch=True), min_size=1, max_size=3)
_values = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 10**6),
        "seeds": st.integers(1, 9),
        "device": st.sampled_from(["cpu", "cuda:1"]),
        "mode": st.sampled_from(BY_NAME["mode"].choices),
        "fail_on": st.sampled_from(BY_NAME["fail_on"].choices),
        "activation_std": st.dictionaries(
            st.from_regex(r"[a-z.*]{1,6}", fullmatch=True), _pairs, min_size=1, max_size=3
        ),
        "ignore": _words,
        "select": _words,
    },
)


@given(_values)
def test_the_reproduction_line_asks_for_the_same_settings(values: dict[str, object]):
    import shlex

    from pytest_initcheck.cli.command import _parser
    from pytest_initcheck.surfaces.options import given as given_options

    asked = Settings.of(values)

    words = shlex.split(command_line("pkg.mod:Net", "2x3", asked))

    assert words[0] == "initcheck"
    arguments = _parser(words[1:]).parse_args(words[1:])
    assert (arguments.specs, arguments.input) == (["pkg.mod:Net"], ["2x3"])
    assert Settings.of(given_options(arguments)) == asked
