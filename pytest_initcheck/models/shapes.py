"""Shape strings: "2x3x32x32", "8x64:int64". Read without torch, so that a bad one is found before any model is built."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import SettingsError

_FLOATS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16}
_INTEGERS = {"uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8}
_BYTES = {**_FLOATS, **_INTEGERS, "bool": 1}
_ALSO = {"half": "float16", "float": "float32", "double": "float64", "int": "int32", "long": "int64"}
#: dtypes that a shape string may name -> (what torch calls it, bytes of one element).
DTYPES: Mapping[str, tuple[str, int]] = {
    **{name: (name, size) for name, size in _BYTES.items()},
    **{name: (known, _BYTES[known]) for name, known in _ALSO.items()},
}
#: Bytes that a tensor can have at most, wherever it is.
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Shape:
    """One part of a shape string.

    Attributes:
        name: keyword, or ``None`` for a positional input.
        sizes: sizes of the dimensions; ``()`` is a scalar.
        dtype: dtype as text, ``None`` where it was not given.
        bound: integers are drawn from 0 to ``bound - 1``; ``None`` where it was not given.
    """

    name: str | None
    sizes: tuple[int, ...]
    dtype: str | None = None
    bound: int | None = None

    @property
    def bytes(self) -> int:
        """Bytes of memory that the input takes."""
        return math.prod(self.sizes) * DTYPES[self.dtype or "float32"][1]


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Return the parts of a shape string such as ``"2x3x32x32; mask=2x32:bool; 8x64:int64:1000"``.

    Raises:
        SettingsError: the text cannot be read that way.
    """
    shapes: list[Shape] = []
    for part in text.split(";"):
        if not (part := part.strip()):
            continue
        match = re.fullmatch(
            # No size and no bound of more digits than Python reads as a number at once.
            r"(?:(?P<name>[A-Za-z_]\w*)\s*=\s*)?(?P<sizes>-?\d{1,999}(?:\s*[xX,]\s*-?\d{1,999})*)"
            r"(?:\s*:\s*(?:torch\.)?(?P<dtype>[A-Za-z]\w*))?(?:\s*:\s*(?P<bound>\d{1,999}))?",
            part,
        )
        if match is None:
            raise SettingsError(
                f"input {part!r} is not a shape: write sizes joined by x, then :dtype if it is not float32, "
                'for instance "2x3x32x32", "8x64:int64" or "mask=2x32:bool"'
            )
        dtype, bound = match["dtype"], match["bound"]
        if dtype is not None and dtype not in DTYPES:
            raise SettingsError(f"input {part!r} has the unknown dtype {dtype!r} (known: {', '.join(DTYPES)})")
        if bound is not None and (dtype is None or not is_integer(dtype) or int(bound) < 1):
            raise SettingsError(
                f"input {part!r}: an upper bound of at least 1 goes with an integer dtype, as in 8x64:int64:100"
            )
        sizes = tuple(int(s) for s in re.split(r"\s*[xX,]\s*", match["sizes"]))
        if min(sizes) < 1:
            raise SettingsError(f"input {part!r} has a dimension of size {min(sizes)}; every size must be at least 1")
        shape = Shape(match["name"], sizes, dtype, None if bound is None else int(bound))
        if shape.bytes > _LARGEST:
            raise SettingsError(f"input {part!r} asks for {in_bytes(shape.bytes)}, more than any tensor can have")
        shapes.append(shape)
    if not shapes:
        raise SettingsError(f'the shape string {text!r} names no input; write for instance "2x3x32x32" or "8x64:int64"')
    names = [s.name for s in shapes if s.name is not None]
    if len(set(names)) < len(names):
        raise SettingsError(f"the shape string {text!r} names one keyword twice")
    return tuple(shapes)


def is_integer(dtype: str) -> bool:
    """Whether a dtype of a shape string holds whole numbers (``bool`` holds none)."""
    return DTYPES[dtype][0] in _INTEGERS


def in_bytes(count: int) -> str:
    """``32,000,000,000,000 bytes (32 TB)``; far above that, a power of ten."""
    if count >= 10**24:
        return f"about 10^{len(str(count)) - 1} bytes"
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB")):
        if count >= 10**power:
            return f"{count:,} bytes ({count / 10**power:,.3g} {unit})"
    return f"{count:,} bytes"
