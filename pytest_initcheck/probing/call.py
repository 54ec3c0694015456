"""How a model is called, and the tensors in nested arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Call:
    """How the model is called.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        described: one entry for each tensor: ``"float32[2, 3, 32, 32]"``, ``"input_ids int64[4, 64]"``.
        batch: number of samples; ``None`` where no input has a dimension.
        source: where the inputs come from: ``"given"``, ``"shape"``, ``"example_input_array"``, ``"dummy_inputs"``,
            ``"input_size"``, ``"first layer NAME"``.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    described: tuple[str, ...]
    batch: int | None
    source: str

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor among the arguments."""
        return tuple(t for _, t in walk((self.args, self.kwargs)))


def walk(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield ``(keyword, tensor)`` for every tensor in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from walk(item, str(key))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from walk(item, name)
