"""Made-up tensors: what a shape asks for, drawn."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ProbeError
from .shapes import DTYPES, Shape, in_bytes, is_integer


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
    """Return one made-up input: N(0, 1), integers from 0 to the bound or vocabulary, or coin flips.

    Raises:
        ProbeError: there is not the memory for it.
    """
    refuse_what_does_not_fit([shape])
    try:
        return _draw(shape, model, generator)
    except (RuntimeError, MemoryError) as error:  # of the allocator: every dtype and every bound can be drawn
        raise ProbeError(_too_large([shape], "which could not be allocated")) from error


def refuse_what_does_not_fit(shapes: Iterable[Shape]) -> None:
    """Raise :class:`ProbeError` if the inputs together need more memory than the machine has.

    Asked before, because a system that promises more memory than it has ends the process that uses it.
    """
    shapes = list(shapes)
    memory = _memory()
    if memory is not None and sum(shape.bytes for shape in shapes) > memory:
        raise ProbeError(_too_large(shapes, f"this machine has {in_bytes(memory)}"))


def _draw(shape: Shape, model: nn.Module, generator: torch.Generator) -> Tensor:
    named = shape.dtype or "float32"
    dtype: torch.dtype = getattr(torch, DTYPES[named][0])
    if dtype is torch.bool:
        return torch.rand(shape.sizes, generator=generator, device="cpu") < 0.5
    if is_integer(named):
        limit = min(shape.bound or vocabulary(model), torch.iinfo(dtype).max)
        return torch.randint(limit, shape.sizes, generator=generator, device="cpu").to(dtype)
    wide = dtype if dtype.is_complex else torch.float32
    return torch.randn(shape.sizes, generator=generator, dtype=wide, device="cpu").to(dtype)


def _memory() -> int | None:
    """Bytes of memory of this machine or of the container that this runs in, where the system tells."""
    told: list[int] = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        told.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
            told.append(int(Path(file).read_text()))
    return min(told, default=None)


def _too_large(shapes: list[Shape], why: str) -> str:
    largest = max(shapes, key=lambda shape: shape.bytes)
    sizes = "x".join(str(size) for size in largest.sizes)
    what = f"the input {sizes} asks for" if len(shapes) == 1 else f"the inputs ({sizes} the largest) ask for"
    return f"{what} {in_bytes(sum(shape.bytes for shape in shapes))}, {why}: give a smaller shape"
