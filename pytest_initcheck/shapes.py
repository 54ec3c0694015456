"""Shape strings and made-up tensors: "2x3x32x32", "8x64:int64"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .errors import SettingsError

# dtypes that a shape string may name
_DTYPES: Mapping[str, torch.dtype] = {
    **{n: getattr(torch, n) for n in ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")},
    **{n: getattr(torch, n) for n in ("uint8", "int8", "int16", "int32", "int64", "bool")},
    "half": torch.float16,
    "float": torch.float32,
    "double": torch.float64,
    "int": torch.int32,
    "long": torch.int64,
}


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
            r"(?:(?P<name>[A-Za-z_]\w*)\s*=\s*)?(?P<sizes>\d+(?:\s*[xX,]\s*\d+)*)"
            r"(?:\s*:\s*(?:torch\.)?(?P<dtype>[A-Za-z]\w*))?(?:\s*:\s*(?P<bound>\d+))?",
            part,
        )
        if match is None:
            raise SettingsError(
                f"input {part!r} is not a shape: write sizes joined by x, then :dtype if it is not float32, "
                'for instance "2x3x32x32", "8x64:int64" or "mask=2x32:bool"'
            )
        dtype, bound = match["dtype"], match["bound"]
        if dtype is not None and dtype not in _DTYPES:
            raise SettingsError(f"input {part!r} has the unknown dtype {dtype!r} (known: {', '.join(_DTYPES)})")
        if bound is not None and (dtype is None or not _is_integer(_DTYPES[dtype]) or int(bound) < 1):
            raise SettingsError(
                f"input {part!r}: an upper bound of at least 1 goes with an integer dtype, as in 8x64:int64:100"
            )
        sizes = tuple(int(s) for s in re.split(r"\s*[xX,]\s*", match["sizes"]))
        if 0 in sizes:
            raise SettingsError(f"input {part!r} has a dimension of size 0; every size must be at least 1")
        shapes.append(Shape(match["name"], sizes, dtype, None if bound is None else int(bound)))
    if not shapes:
        raise SettingsError(f'the shape string {text!r} names no input; write for instance "2x3x32x32" or "8x64:int64"')
    names = [s.name for s in shapes if s.name is not None]
    if len(set(names)) < len(names):
        raise SettingsError(f"the shape string {text!r} names one keyword twice")
    return tuple(shapes)


def vocabulary(model: nn.Module) -> int:
    """Return how many different ids every embedding of the model understands, 2 where it has none."""
    sizes = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    config = getattr(model, "config", None)
    for holder in (config, getattr(config, "text_config", None)):
        if isinstance(size := getattr(holder, "vocab_size", None), int) and size > 0:
            # Other tables (positions, token types) are indexed by ids of their own.
            return min([size, *(s for s in sizes if s >= size)])
    return min(sizes, default=2)


def draw(shape: Shape, model: nn.Module, generator: torch.Generator) -> Tensor:
    """Return one made-up input: N(0, 1), integers from 0 to the bound or vocabulary, or coin flips."""
    dtype = _DTYPES[shape.dtype or "float32"]
    if dtype is torch.bool:
        return torch.rand(shape.sizes, generator=generator, device="cpu") < 0.5
    if _is_integer(dtype):
        limit = min(shape.bound or vocabulary(model), torch.iinfo(dtype).max)
        return torch.randint(limit, shape.sizes, generator=generator, device="cpu").to(dtype)
    wide = dtype if dtype.is_complex else torch.float32
    return torch.randn(shape.sizes, generator=generator, dtype=wide, device="cpu").to(dtype)


def _is_integer(dtype: torch.dtype) -> bool:
    return not dtype.is_floating_point and not dtype.is_complex and dtype is not torch.bool
