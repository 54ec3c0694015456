"""Numbers, counts, lists and errors in words."""

from __future__ import annotations

import math

import pytest

from pytest_initcheck.words import and_more, digits, first_line, further, named_error, number, plural, some


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "?"), (0.0, "0"), (-0.0, "0"), (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"),
        (0.12345, "0.123"), (-0.12345, "-0.123"), (1e-3, "0.001"), (2.5e-4, "2.5e-04"), (999.4, "999"), (1234.5, "1234"),
        (12345.0, "1.2e+04"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, text: str):
    assert number(value) == text


def test_counts_and_lists():
    assert [plural(n, "layer") for n in (0, 1, 2)] == ["0 layers", "1 layer", "2 layers"]
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some(["a", "b", "c", "d"]) == "a, b, c and 1 more"
    assert some("abcd", 1) == "a and 3 more"
    assert some([]) == ""
    assert [further(n) for n in (0, 1, 3)] == ["", "", " (+2 more)"]
    assert [and_more(n) for n in (0, 1, 3)] == ["", "", " (and 2 more)"]
    assert and_more(3, "more weights") == " (and 2 more weights)"


@pytest.mark.parametrize(
    ("value", "text"), [(0.12345, "0.123"), (12345.0, "1.23e+04"), (1.5e-4, "0.00015"), (0.0, "0"), (math.nan, "?")]
)
def test_digits(value: float, text: str):
    assert digits(value) == text


def test_errors():
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(ValueError()) == ""
    assert named_error(ValueError("one\ntwo")) == "ValueError: one"
    assert named_error(KeyboardInterrupt()) == "KeyboardInterrupt"
