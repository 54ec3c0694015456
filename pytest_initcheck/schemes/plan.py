"""What would be changed in a model's weights, from what to what and why; as data, a table, and code to paste."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..report import plain
from ..words import digits
from .distributions import Named
from .draws import Draw
from .places import Place


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one parameter.

    Attributes:
        place: the parameter and where it stands.
        draw: what it is filled with; ``None`` where it is left alone.
        why: the reason, with the source of the scheme.
        before: RMS of the values it has (NaN where they cannot be read).
        origin: the distribution that the values it has were drawn from; ``None`` where that was not asked.
    """

    place: Place
    draw: Draw | None
    why: str
    before: float = math.nan
    origin: Named | None = None

    @property
    def name(self) -> str:
        """Name of the parameter."""
        return self.place.name

    @property
    def after(self) -> float:
        """RMS that the values will have, by the formula."""
        if self.draw is None:
            return self.before
        if self.draw.kind == "gates":
            values = self.draw.options["values"]
            return math.sqrt(sum(v * v for v in values) / len(values))
        if self.draw.kind == "identity":
            units, inputs = self.place.shape[self.place.use.out_dim], self.place.shape[self.place.use.in_dim]
            return abs(self.draw.value) * math.sqrt(min(units, inputs) / math.prod(self.place.shape))
        return abs(self.draw.value) if self.draw.kind == "constant" else self.draw.std

    @property
    def becomes(self) -> str:
        """What the values will be, in words."""
        return "left alone" if self.draw is None else self.draw.label

    def code(self) -> str:
        """Return lines of Python that do it, with the names ``model``, ``torch`` and ``nn``; ``""`` for nothing."""
        if self.draw is None:
            return ""
        use = self.place.use
        how = {"out_dim": use.out_dim, "in_dim": use.in_dim, "groups": use.groups}
        if not self.place.made_by:
            return self.draw.code(self._target(), **how)
        module, _, attribute = self.place.name.rpartition(".")
        owner = f"model.get_submodule({module!r})" if module else "model"
        drawn = f"weight = torch.empty_like({owner}.{attribute})\n{self.draw.code('weight', **how)}\n"
        if self.place.made_by == "weight-norm":
            lines = (
                "with torch.no_grad():",
                f"    g, v = {owner}.{attribute}_g, {owner}.{attribute}_v",
                "    v.copy_(weight)",
                "    g.copy_(torch.norm_except_dim(weight, 2, g.shape.index(max(g.shape)) if g.dim() else -1))",
            )
            return drawn + "\n".join(lines)
        return f"{drawn}with torch.no_grad():\n    {owner}.{attribute} = weight"

    def _target(self) -> str:
        return f"model.get_parameter({self.place.name!r})"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a scheme does to a model's parameters, whether it was done or not.

    Attributes:
        scheme: name of the scheme.
        changes: one entry for each parameter, in the order of ``named_parameters``; those left alone, too.
        applied: whether the model has been changed.
        notes: what holds for the whole model, one sentence each.
    """

    scheme: str
    changes: tuple[Change, ...]
    applied: bool = False
    notes: tuple[str, ...] = field(default=())

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    def __getitem__(self, name: str) -> Change:
        for change in self.changes:
            if change.name == name:
                return change
        raise KeyError(name)

    @property
    def changed(self) -> tuple[Change, ...]:
        """The entries that change something."""
        return tuple(c for c in self.changes if c.draw is not None)

    def code(self) -> str:
        """Return Python to paste: a function body that does the same with the names ``model``, ``torch`` and ``nn``."""
        lines = ["import torch", "from torch import nn", ""]
        imported = False
        for change in self.changed:
            for line in change.code().splitlines():
                if line.startswith("from "):
                    if not imported:
                        lines.insert(2, line)
                        imported = True
                    continue
                lines.append(line)
        return "\n".join(lines) + "\n"

    def table(self, *, width: int = 120) -> str:
        """Return the plan as a table in plain text, the reasons numbered below it.

        Args:
            width: columns at most; names lose their beginning where they do not fit.
        """
        numbers: dict[str, int] = {}
        rows = []
        longest = width // 3
        for c in self.changes:
            is_now = "" if c.origin is None else _cut(c.origin.short, max(20, width // 4))
            number = numbers.setdefault(c.why, len(numbers) + 1)
            after = "" if c.draw is None else digits(c.after)
            name = c.name if len(c.name) <= longest else f"...{c.name[3 - longest :]}"
            rows.append([name, is_now, digits(c.before), _cut(c.becomes, max(20, width // 4)), after, number])
        heads = ["parameter", "is", "std", "becomes", "std", "why"]
        shown = [i for i, head in enumerate(heads) if head != "is" or any(r[1] for r in rows)]
        from tabulate import tabulate

        text = tabulate(
            [[row[i] for i in shown] for row in rows],
            [heads[i] for i in shown],
            tablefmt="simple",
            disable_numparse=True,
            colalign=["right" if heads[i] in ("std", "why") else "left" for i in shown] if rows else None,
        )
        lines = [*(_cut(line.rstrip(), width) for line in text.splitlines()), ""]
        for why, number in numbers.items():
            lead = f"{number:3}  "
            lines += textwrap.wrap(why, width, initial_indent=lead, subsequent_indent=" " * len(lead))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready data."""
        rows = []
        for c in self.changes:
            rows.append(
                {
                    "name": c.name,
                    "shape": c.place.shape,
                    "role": c.place.role,
                    "fan_in": c.place.fan_in,
                    "fan_out": c.place.fan_out,
                    "followed_by": c.place.followed_by,
                    "drawn_from": None if c.origin is None else str(c.origin),
                    "rms": c.before,
                    "becomes": None if c.draw is None else {"kind": c.draw.kind, "rms": c.after},
                    "why": c.why,
                    "code": c.code(),
                }
            )
        data = plain({"scheme": self.scheme, "applied": self.applied, "notes": self.notes, "parameters": rows})
        assert isinstance(data, dict)
        return data

    def to_json(self) -> str:
        """Return :meth:`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1)

    def __str__(self) -> str:
        return self.text()

    def text(self, *, width: int = 120) -> str:
        """Return the headline, the table and the notes.

        Args:
            width: columns at most.
        """
        done = "set" if self.applied else "would set"
        head = f"{self.scheme}: {done} {len(self.changed)} of {len(self.changes)} parameters"
        return "\n".join(
            [
                head,
                "",
                self.table(width=width),
                *(("", *(textwrap.fill(n, width) for n in self.notes)) if self.notes else ()),
            ]
        )


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 3] + "..."
