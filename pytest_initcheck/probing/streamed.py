"""What a model whose weights are never all in memory is asked in place of its tensors; the streaming package answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from ..records import Stats
from .operands import Use


@dataclass(frozen=True, slots=True)
class AsDrawn:
    """What was read of a parameter while it was in memory: see the fields of the same names in ParameterRecord."""

    value: Stats | None
    kurtosis: float | None
    twin_rows: float = 0.0


class Streamed(Protocol):
    """Weights that come and go; each call below goes through them once."""

    def gather(
        self,
        roots: Sequence[Tensor],
        leaves: Mapping[str, nn.Parameter],
        signals: Sequence[Tensor],
        scale: float,
        uses: Mapping[str, Use],
        others: Sequence[Tensor],
        *,
        keep: bool,
        exact: bool,
    ) -> tuple[dict[str, Stats | None], list[Tensor | None]]:
        """Run a backward pass and return the statistics of each gradient, and the gradients of ``others``, all divided by ``scale``.

        A step along the gradients is kept.
        """

    def known(self, name: str) -> AsDrawn:
        """Return what was read of a parameter."""

    def marks(self) -> dict[str, Tensor | None]:
        """Return, for each gradient that was gathered last, one number in its place: zero where it is zero; ``None`` for none."""

    def slopes(self, roots: Sequence[Tensor], signals: Sequence[Tensor], keep: bool) -> list[Tensor | None]:
        """Run a backward pass, keep a step along it, and return :meth:`marks` in the order of the trained parameters."""

    def pulls(self, root: Tensor, product: Callable[[Tensor, Tensor], float], *, keep: bool) -> dict[str, float]:
        """Run a backward pass and return what ``product`` makes of each trained parameter and its gradient."""

    def step(self) -> float:
        """Take the step that was kept last and return the L1 norm of its gradients."""

    def total(self) -> float:
        """Return the L1 norm of the gradients that were gathered last, as far as a part of a large one tells it."""

    def shrink(self, factor: float) -> None:
        """Multiply the trained weights; vectors and scalars stay."""

    def restore(self) -> None:
        """Undo every step."""

    def look(self, visit: Callable[[str, nn.Parameter], None]) -> Callable[[], None]:
        """Have every parameter visited, as it was drawn, when it is in memory next; calling the result visits those left."""

    def free(self) -> None:
        """Let go of everything that is in memory."""

    def together(self, *questions: Callable[[], object]) -> list[object]:
        """Return what each of the questions returns, asked in one pass through the weights."""
