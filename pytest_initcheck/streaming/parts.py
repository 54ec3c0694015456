"""What is drawn and let go together: each repeated block of a model, and what stands around the blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from ..errors import ProbeError, SettingsError
from ..words import some


@dataclass(eq=False)
class Part:
    """Parameters that are in memory at the same time.

    Attributes:
        name: dotted path of the module.
        index: position among the parts, in the order of ``named_modules``.
        block: whether it is one of the repeated blocks.
        modules: what the init function is called on, children first.
        parameters: by name, each in the first part that has it.
    """

    name: str
    index: int
    block: bool
    modules: tuple[nn.Module, ...]
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """What the values take."""
        return sum(p.numel() * p.element_size() for p in self.parameters.values())


def parts_of(model: nn.Module, pattern: str | None) -> list[Part]:
    """Return the parts of ``model``: every parameter is in one of them.

    Args:
        model: the module.
        pattern: names of the blocks, as ``"layers.*"``: dotted names are matched from their end, part by part. ``None`` takes
            the largest modules that are repeated in a list or a sequence.

    Raises:
        SettingsError: the pattern matches nothing.
        ProbeError: there are no repeated modules, or a block shares weights with what is outside of it.
    """
    blocks = list(_named(model, pattern) if pattern else _repeated(model, ""))
    if not blocks and pattern:
        known = sorted({f"{path.rpartition('.')[0]}.*".lstrip(".") for path, _ in _repeated(model, "")})
        has = f"repeated are {some(known)}" if known else "nothing in it is repeated"
        raise SettingsError(f"stream={pattern!r} names no module of {type(model).__name__} ({has})")
    if not blocks:
        raise ProbeError(
            f"no module of {type(model).__name__} is repeated in a ModuleList or Sequential, so there are no blocks to stream: "
            'name what is to be drawn at a time with stream="layers.*", or check without stream'
        )
    within = {id(m): path for path, block in blocks for m in block.modules()}
    above = {prefix for path, _ in blocks for prefix in _prefixes(path)}
    found: list[Part] = []
    for path, module in model.named_modules():
        if id(module) in within:
            if within[id(module)] == path:
                found.append(_part(path, module, len(found), block=True))
        elif path in above:
            found.append(Part(path, len(found), False, (module,)))
        elif path.rpartition(".")[0] in above and path:
            found.append(_part(path, module, len(found), block=False))
    _hand_out(model, found)
    return [part for part in found if part.parameters]


def _part(path: str, module: nn.Module, index: int, *, block: bool) -> Part:
    return Part(path, index, block, tuple(_children_first(module)))


def _children_first(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        yield from _children_first(child)
    yield module


def _prefixes(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition(".")[0]
        yield path


def _repeated(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    children = {id(c): (f"{path}.{name}" if path else name, c) for name, c in module.named_children() if _weighs(c)}
    kinds = Counter(type_before_parametrizations(child) for _, child in children.values())
    listed = isinstance(module, nn.ModuleList | nn.Sequential | nn.ModuleDict)
    for where, child in children.values():
        if listed and kinds[type_before_parametrizations(child)] > 1:
            yield where, child
        else:
            yield from _repeated(child, where)


def _weighs(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _named(model: nn.Module, pattern: str) -> Iterator[tuple[str, nn.Module]]:
    wanted = pattern.split(".")
    taken: list[str] = []
    for path, module in model.named_modules():
        steps = path.split(".")[-len(wanted) :]
        fits = len(steps) == len(wanted) and all(fnmatchcase(s, w) for s, w in zip(steps, wanted, strict=True))
        if path and fits and _weighs(module) and not any(path.startswith(f"{t}.") for t in taken):
            taken.append(path)
            yield path, module


def _hand_out(model: nn.Module, parts: list[Part]) -> None:
    holders: dict[int, Part] = {}
    names = {id(p): name for name, p in model.named_parameters()}
    for part in parts:
        for module in part.modules:
            for p in module._parameters.values():
                if p is None:
                    continue
                holder = holders.setdefault(id(p), part)
                if holder is not part and (holder.block or part.block):
                    raise ProbeError(
                        f"{names[id(p)]} is a weight of {part.name or 'the model'} too, and cannot be let go with {holder.name or 'the model'}: "
                        "name larger blocks that hold both with stream=, or check without stream"
                    )
    for part in parts:
        mine = [p for m in part.modules for p in m._parameters.values() if p is not None and holders[id(p)] is part]
        wanted = {id(p): p for p in mine}
        part.parameters = {name: wanted[key] for key, name in names.items() if key in wanted}
