"""Numbers, counts, lists and errors in words, the same in every message. No torch."""

from __future__ import annotations

from collections.abc import Iterable


def number(value: float | None) -> str:
    """Return ``value`` as messages show it: three significant digits at most, exponents only when they help."""
    if value is None or value != value:
        return "?" if value is None else "nan"
    if value == 0 or value in (float("inf"), float("-inf")):
        return str(value) if value else "0"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.1e}"


def digits(value: float) -> str:
    """Return ``value`` in three significant digits, as lists of like numbers show it; ``?`` for what is not a number."""
    return "?" if value != value else f"{value:.3g}"


def spelled(count: int) -> str:
    """Return a small whole number as a word: ``"three"``; digits from ten on."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return words[count] if 0 <= count < len(words) else str(count)


def scientific(value: float) -> str:
    """Return ``value`` with an exponent and no more digits than it needs: ``"1e-3"``."""
    mantissa, _, exponent = f"{value:.5e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def percent(share: float) -> str:
    """Return ``share`` in per cent, as messages show numbers."""
    return f"{number(float(f'{100 * share:.12g}'))} %"


def plural(count: int, word: str) -> str:
    """Return ``1 layer`` or ``3 layers``."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def some(names: Iterable[str], most: int = 3) -> str:
    """Return the names, at most ``most`` of them, and how many more there are: ``a, b, c and 4 more``."""
    listed = list(names)
    left = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {left} more" if left > 0 else "")


def and_more(count: int, what: str = "more") -> str:
    """Return what stands in brackets behind the first of ``count``: `` (and 3 more)``, or nothing if it is the only one."""
    return f" (and {count - 1} {what})" if count > 1 else ""


def further(count: int, what: str = "") -> str:
    """Return what stands behind one of ``count`` that is told: `` (+3 more)``, or nothing if it is the only one."""
    return f" (+{count - 1} more{f' {what}' if what else ''})" if count > 1 else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message; ``""`` if it has none."""
    return str(error).strip().partition("\n")[0]


def named_error(error: BaseException) -> str:
    """Return an exception in one line: its class, and the first line of its message."""
    first = first_line(error)
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
