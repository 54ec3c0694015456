"""What makes two modules of a suite the same model: class, parameters, settings; and what their code looks like."""

from __future__ import annotations

import enum
import hashlib
import inspect
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ..probing.guard import has_lazy

#: Attributes of a module that say how it is built, rather than what it holds or has come to.
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.Size, enum.Enum)
#: What torch keeps in every module, whatever its class.
_TORCH = frozenset(vars(nn.Module()))
#: A longer container is data.
_LONGEST = 32


def shape_key(module: nn.Module) -> str:
    """Return the class with names and shapes of parameters, in a few letters."""
    kind = type(module)
    shapes = None
    if not has_lazy(module):
        shapes = [(name, tuple(p.shape)) for name, p in module.named_parameters()]
    return f"{kind.__module__}.{kind.__qualname__} {_digest(repr(shapes))}"


def model_key(module: nn.Module) -> str:
    """Return :func:`shape_key` with the settings of the module and of all its parts: an ``alpha=0`` is another model."""
    parts = [(name, type(part).__qualname__, sorted(_settings(part))) for name, part in module.named_modules()]
    return f"{shape_key(module)} {_digest(repr(parts))}"


def source_digest(module: nn.Module) -> str:
    """Return what changes when the code of a model does: of the files that its classes stand in, torch's left out."""
    files = {sys.modules[t.__module__] for t in map(type, module.modules()) if t.__module__ in sys.modules}
    return _digest("".join(sorted(_source(file.__name__) for file in files)))


def _settings(module: nn.Module) -> Iterator[tuple[str, str]]:
    for name, value in vars(module).items():
        if name not in _TORCH and (told := _told(value)) is not None:
            yield name, told


def _told(value: Any, depth: int = 2) -> str | None:
    """A setting in words; ``None`` for what is none."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if inspect.isroutine(value) or isinstance(value, type):
        return getattr(value, "__qualname__", None)
    if type(value) in (tuple, list) and len(value) <= _LONGEST and depth:
        return repr([_told(item, depth - 1) for item in value])
    if type(value) is dict and len(value) <= _LONGEST and depth:
        return repr([(str(name), _told(item, depth - 1)) for name, item in value.items()])
    return None


@lru_cache(maxsize=1024)
def _source(name: str) -> str:
    if name.partition(".")[0] == "torch":
        return torch.__version__
    try:
        return _digest(inspect.getsource(sys.modules[name]))
    except (OSError, TypeError):
        return ""


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
