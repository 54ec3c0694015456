"""The text of a baseline: what is written is read again, and what is damaged is named with its line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_initcheck.errors import SettingsError
from pytest_initcheck.plugin.baseline_file import MAGIC, dump, load
from pytest_initcheck.statements.drift import Sample, drifted

NAMES = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=20
)  # what add_module takes
SHAPES = st.lists(st.integers(1, 300), max_size=3).map(tuple)
NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)
SAMPLES = st.one_of(
    st.builds(Sample, SHAPES, st.just("bfloat16"), finite=st.just(False)),
    st.builds(lambda shape, c: Sample(shape, "float32", constant=c, mean=c, std=0.0), SHAPES, NUMBERS),
    st.builds(
        lambda shape, mean, std, peak, alike: Sample(shape, "float64", None, mean, std, peak, alike),
        SHAPES,
        NUMBERS,
        st.floats(1e-12, 1e6),
        st.none() | st.floats(1.0, 1e3),
        st.floats(0.0, 0.99),
    ),
)
#: As pytest writes node ids: no line breaks, nothing at the edges that a reader would not see.
KEYS = NAMES.map(str.strip).filter(bool)
ONE = {"tests/test_a.py::test_it[2x3]": {"fc.weight": Sample((4, 3), "float32", None, 0.01, 0.5, 3.0)}}


@given(st.dictionaries(KEYS, st.dictionaries(NAMES, SAMPLES, max_size=4), max_size=3))
def test_what_is_written_is_read_again(models: dict[str, dict[str, Sample]]) -> None:
    text = dump(models)
    again = load(text, called="it")

    assert dump(again) == text
    assert again.keys() == models.keys()
    for key, samples in models.items():
        assert not drifted(samples, again[key], alpha=1e-6)


def test_it_reads_well() -> None:
    assert dump(ONE).splitlines()[3:] == [
        "[tests/test_a.py::test_it[2x3]]",
        "fc.weight = float32 4x3 mean=0.01 std=0.5 kurtosis=3",
    ]


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ("mean=0.01 ", "", r"damaged at line 5: 'float32 4x3 std=0.5 kurtosis=3' lacks a mean"),
        ("std=0.5", "std=nan", r"damaged at line 5: 'std=nan' is not a finite number"),
        ("std=0.5", "std=half", r"damaged at line 5: could not convert string to float: 'half'"),
        ("std=0.5", "width=3", r"damaged at line 5: cannot read 'width=3'"),
        ("float32 4x3", "float32", r"damaged at line 5: cannot read 'float32 mean=0.01 std=0.5"),
        ("fc.weight", "<<<<<<< HEAD\nfc.weight", r"damaged at line 5: cannot read '<<<<<<< HEAD'"),
        ("fc.weight", "=======\nfc.weight", r"damaged at line 5: cannot read '======='"),
        ("fc.weight", "fc.weight = float32 1 constant=0\nfc.weight", r"damaged at line 6: 'fc.weight = float32 4x3 "),
        ("[tests", "fc.bias = 1\n[tests", r"damaged at line 4: 'fc.bias = 1' belongs to no model"),
        (MAGIC, "[pytest]", r"is not a baseline that this version reads: line 1 must be '# pytest-initcheck baseline"),
    ],
)
def test_damage_is_named_with_its_line(was: str, now: str, message: str) -> None:
    text = dump(ONE)
    assert was in text

    with pytest.raises(SettingsError, match=message):
        load(text.replace(was, now), called="init.ini")


@pytest.mark.parametrize("text", ["", "\n", "{}", "\x00\x01"])
def test_another_file_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(SettingsError, match="is not a baseline"):
        load(text, called="init.ini")
