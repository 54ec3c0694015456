"""Python to paste, broken into lines that fit and still mean the same."""

from __future__ import annotations

import ast
import io
import tokenize

_INDENT = "    "


def fitted(code: str, width: int) -> list[str]:
    """Return the lines of ``code``, those longer than ``width`` broken behind commas inside brackets.

    What is no Python, or cannot be broken so, stays as it is: it is there to be copied.
    """
    lines = code.splitlines()
    if all(len(line) <= width for line in lines):
        return lines
    try:
        before = ast.dump(ast.parse(code))
        commas = _commas(code)
    except (SyntaxError, ValueError, tokenize.TokenError):
        return lines
    broken = [piece for row, line in enumerate(lines, 1) for piece in _broken(line, commas.get(row, []), width)]
    try:
        return broken if ast.dump(ast.parse("\n".join(broken))) == before else lines
    except SyntaxError:
        return lines


def _commas(code: str) -> dict[int, list[int]]:
    """Row -> columns behind the commas that stand inside brackets."""
    found: dict[int, list[int]] = {}
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type != tokenize.OP:
            continue
        depth += (token.string in "([{") - (token.string in ")]}")
        if token.string == "," and depth:
            found.setdefault(token.end[0], []).append(token.end[1])
    return found


def _broken(line: str, places: list[int], width: int) -> list[str]:
    indent = line[: len(line) - len(line.lstrip())] + 2 * _INDENT
    pieces: list[str] = []
    start, end = 0, 0
    for place in [*places, len(line)]:
        lead = len(indent) if pieces else 0
        if end > start and lead + len(line[start:place].strip() if pieces else line[start:place]) > width:
            pieces.append((indent + line[start:end].strip()) if pieces else line[start:end].rstrip())
            start = end
        end = place
    pieces.append((indent + line[start:].strip()) if pieces else line[start:])
    return pieces
