"""Which initialization each parameter should have, by where it stands: scheme="auto"."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..gain_table import Gain, weight_gain
from .draws import ONES, ZEROS, Draw, kaiming, orthogonal, siren, xavier
from .places import Place, Wiring

#: What a chooser returns: what to draw (``None``: leave it alone) and why.
Choice = tuple[Draw | None, str]
Chooser = Callable[[Place], Choice]


@dataclass(frozen=True, slots=True)
class Values:
    """What a choice needs to know about the values a parameter has.

    Attributes:
        rms: root mean square.
        constant: whether all are equal.
        finite: whether all are finite.
    """

    rms: float
    constant: bool
    finite: bool

    @property
    def zero(self) -> bool:
        """Whether all values are zero."""
        return self.rms == 0


class Auto:
    """The choice for every parameter of one model.

    Args:
        wiring: where the parameters stand.
        values: what they hold now, by name: deliberate zeros are told by it.
    """

    def __init__(self, wiring: Wiring, values: Mapping[str, Values]) -> None:
        self.wiring = wiring
        self.values = values
        weights = [p.name for p in wiring.places.values() if p.role == "weight"]
        # Zeros are deliberate where they are the exception.
        self.zeros_mean_something = 2 * sum(values[n].zero for n in weights) < len(weights)
        #: the factor inside the sines, where there are any
        self.omega = max((p.omega for p in wiring.places.values() if p.followed_by == "sin"), default=1.0)
        self._weights: dict[str, list[Place]] = {}
        for name, place in wiring.places.items():
            if place.role == "weight":
                self._weights.setdefault(name.rpartition(".")[0], []).append(place)

    def __call__(self, place: Place) -> Choice:
        """Return what to draw for ``place`` and why."""
        value = self.values[place.name]
        if not place.reached:
            return None, "the output does not depend on it"
        if value.zero and self.zeros_mean_something and (gate := self._gate(place)):
            return None, gate
        choose = {
            "weight": self._recurrent if place.use.cell else self._weight,
            "bias": self._bias,
            "norm-scale": lambda _: (ONES, "scale of a norm: one"),
            "norm-shift": lambda _: (ZEROS, "shift of a norm: zero"),
            "embedding": self._embedding,
        }.get(place.role, self._other)
        return choose(place)

    def _gate(self, place: Place) -> str:
        """Why a zero is deliberate; ``""`` if it is not."""
        if place.closes and place.role in ("weight", "norm-scale"):
            return "gate: zero at the end of a residual branch, opens on the first step (Goyal et al. 2017)"
        if place.head:
            return "gate: a zero head starts from the mean prediction and learns on the first step (Zhang et al. 2019)"
        return ""

    def without_branches(self, place: Place) -> Choice:
        """Return what a weight would get if it stood on no residual branch."""
        return self._weight(place, scaled=False)

    def _weight(self, place: Place, *, scaled: bool = True) -> Choice:
        assert place.fan_in
        assert place.fan_out
        if place.followed_by == "sin":
            draw = siren(place.fan_in, first=place.first, omega=place.omega)
            return draw, draw.why
        if place.followed_by == "norm" and len(place.shape) > 2:
            draw = kaiming(place.fan_in, place.fan_out, mode="fan_out")
            return draw, f"{draw.why}; the norm behind absorbs the scale (He et al. 2016)"
        if place.closes and place.normed:
            draw = xavier(place.fan_in, place.fan_out)
            return draw, f"{draw.why}; the norm behind takes the sum of branch and stream"
        gain = Gain(1.0, "a gate") if place.gates else weight_gain(place.followed_by)
        draw = Draw("normal", gain.value / math.sqrt(place.fan_in))
        behind = f" before {place.followed_by}" if place.followed_by not in (None, "none", "mixed") else ""
        why = f"gain {gain.value:.3g}{behind} ({gain.source})"
        if place.closes and self.wiring.branches > 1 and scaled:
            scale = 1.0 / math.sqrt(self.wiring.branches)
            return draw.times(
                scale
            ), f"{why}; last of {self.wiring.branches} residual branches: 1/sqrt (Radford et al. 2019)"
        return draw, why

    def _recurrent(self, place: Place) -> Choice:
        assert place.fan_in
        assert place.fan_out
        if place.use.reads == "state":
            draw = orthogonal(place.fan_in, place.units)
            return draw, f"state to state, each gate {draw.why}"
        draw = xavier(place.fan_in, place.fan_out)
        return draw, f"input to state, each gate {draw.why}"

    def _bias(self, place: Place) -> Choice:
        value = self.values[place.name]
        if place.use.cell == "LSTM":
            if place.use.reads == "input":
                gates = Draw("gates", options={"values": (0.0, 1.0, 0.0, 0.0)})
                return gates, "forget gate open: 1 (Gers et al. 2000; Jozefowicz et al. 2015)"
            return ZEROS, "zero: the forget gate's 1 is in bias_ih"
        if place.followed_by == "sin" and (weight := self._weight_of(place)) is not None and weight.fan_in:
            draw = Draw("uniform", 1.0 / math.sqrt(3.0 * weight.fan_in))
            return draw, "phases of the sines differ (Sitzmann et al. 2020 leave torch's default)"
        head = (weight := self._weight_of(place)) is not None and weight.head
        if head and value.constant and value.finite and 0 < value.rms < 10:
            return None, f"constant {value.rms:.3g} on a head: a class prior (Lin et al. 2017)"
        return ZEROS, "bias: zero (He et al. 2015)"

    def _weight_of(self, bias: Place) -> Place | None:
        beside = self._weights.get(bias.name.rpartition(".")[0], [])
        return beside[0] if len(beside) == 1 else None

    def _embedding(self, place: Place) -> Choice:
        dim = place.fan_out or place.shape[-1]
        if place.aliases:
            std = 1.0 / math.sqrt(dim)
            return Draw("normal", std), "embedding tied to a head: 1/sqrt(dim) gives unit logits (Vaswani et al. 2017)"
        return Draw("normal", EMBEDDING_STD), "embedding"

    def _other(self, place: Place) -> Choice:
        value = self.values[place.name]
        if not value.finite:
            return Draw("normal", 0.02), "not finite, and nothing tells what it is: small, as positions in ViT"
        return None, "how it is used is not known"


EMBEDDING_STD = 0.5
