"""What each scheme does to each parameter of a model: its weights by the scheme, the rest as the literature says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..errors import SettingsError
from .auto import Auto, Choice, Chooser, Values
from .draws import BY_FANS, ZEROS, Draw, by_fans, orthogonal, siren
from .places import Place, Wiring


@dataclass(frozen=True, slots=True)
class Scheme:
    """A scheme for whole models.

    Attributes:
        source: where it comes from, and what it does, in a sentence.
        options: names of the keyword arguments that it takes.
        needs_graph: whether it must know what stands behind a weight unless ``gain`` is given.
    """

    source: str
    options: tuple[str, ...] = ()
    needs_graph: bool = True


_GAIN = ("gain",)
SCHEMES: Mapping[str, Scheme] = {
    "auto": Scheme("each weight by the graph: gain of what follows, residual branches scaled, gates left alone"),
    "lsuv": Scheme("orthogonal, then every layer's output to unit variance on data (Mishkin and Matas 2016)"),
    **{
        name: Scheme(
            source,
            {
                "kaiming": ("gain", "mode"),
                "xavier": _GAIN,
                "orthogonal": _GAIN,
                "delta": _GAIN,
                "sparse": ("gain", "std", "sparsity"),
                "identity": _GAIN,
                "normal": ("std",),
                "truncated": ("std",),
            }.get(name.partition("_")[0], ()),
            needs_graph=name.partition("_")[0] in ("kaiming", "orthogonal", "delta", "sparse"),
        )
        for name, source in BY_FANS.items()
    },
    "zero_gate": Scheme("zero the last norm scale of each residual branch, nothing else (Goyal et al. 2017)"),
    "depth_scaled": Scheme("normal, residual projections by 1/sqrt(branches) (GPT-2, Radford et al. 2019)", ("std",)),
    "fixup": Scheme("residual networks without norms (Zhang et al. 2019)"),
    "mup": Scheme("width scaling of muP: the head by 1/fan_in (Yang et al. 2021, table 3)", ("base_width",)),
    "siren": Scheme("sine networks (Sitzmann et al. 2020)", ("omega",)),
}


def chooser(scheme: str, wiring: Wiring, values: Mapping[str, Values], options: Mapping[str, Any]) -> Chooser:
    """Return what decides on each parameter.

    Args:
        scheme: a key of :data:`SCHEMES`.
        wiring: where the parameters stand.
        values: what they hold now.
        options: keyword arguments of the scheme.

    Raises:
        SettingsError: the scheme or an option is unknown, or has a value that cannot be used.
    """
    known = scheme_called(scheme)
    for name in options:
        if name not in known.options:
            takes = f"takes {', '.join(known.options)}" if known.options else "takes no options"
            raise SettingsError(f"scheme {scheme!r} {takes} (got {name!r})")
    for name, value in options.items():
        if name == "mode":
            if value not in ("fan_in", "fan_out"):
                raise SettingsError(f"mode must be 'fan_in' or 'fan_out' (got {value!r})")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise SettingsError(f"{name} must be a number above 0 (got {value!r})")
        elif name == "sparsity" and value >= 1:
            raise SettingsError(f"sparsity is the share of zeros, below 1 (got {value!r})")
    auto = Auto(wiring, values)
    if scheme == "auto":
        return auto
    if scheme in BY_FANS:
        return partial(_plain, auto, scheme, options)
    return partial(_WHOLE[scheme], auto, **options)


def scheme_called(name: str) -> Scheme:
    """Return the scheme of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in SCHEMES:
        raise SettingsError(f"scheme must be one of {', '.join(SCHEMES)} (got {name!r})")
    return SCHEMES[name]


def _plain(auto: Auto, scheme: str, options: Mapping[str, Any], place: Place) -> Choice:
    """The same scheme for every weight; embeddings too where the scheme is a fixed std."""
    fixed = scheme in ("normal", "truncated_normal")
    if place.role == "embedding" and fixed and place.reached:
        draw = by_fans(scheme, 1, 1, **options)
        return draw, draw.why
    if place.role != "weight" or not place.reached:
        return auto(place)
    assert place.fan_in
    assert place.fan_out
    draw = by_fans(scheme, place.fan_in, place.fan_out, place.followed_by, units=place.units, **options)
    return draw, draw.why


def _zero_gate(_auto: Auto, place: Place) -> Choice:
    """Each residual block starts as the identity: Goyal et al. 2017, section 5.1."""
    if place.role == "norm-scale" and place.closes:
        return ZEROS, "last scale of its residual branch: the block starts as the identity (Goyal et al. 2017)"
    return None, "not the last scale of a residual branch"


def _depth_scaled(auto: Auto, place: Place, *, std: float = 0.02) -> Choice:
    """Radford et al. 2019, section 2.3: 1/sqrt(N) with N the number of residual layers, two for each transformer block."""
    if place.role not in ("weight", "embedding") or not place.reached:
        return auto(place)
    draw = Draw("normal", std, why=f"normal, std {std:g} (GPT-2, Radford et al. 2019)")
    if place.role == "weight" and place.closes and auto.wiring.branches > 1:
        n = auto.wiring.branches
        draw = draw.times(1.0 / math.sqrt(n), f"end of one of {n} residual branches: by 1/sqrt({n})")
    return draw, draw.why


def _fixup(auto: Auto, place: Place) -> Choice:
    """Zhang et al. 2019, section 3: branches' weights by L^(-1/(2m-2)), their last and the head zero."""
    if place.role != "weight" or not place.reached:
        return auto(place)
    source = "fixup (Zhang et al. 2019)"
    if place.head:
        return ZEROS, f"head: zero, {source}"
    if place.closes:
        return ZEROS, f"end of a residual branch: zero, {source}"
    draw, why = auto.without_branches(place)
    depth, m = auto.wiring.branches, place.branch
    if draw is None or m < 2 or depth < 2:
        return draw, why
    factor = depth ** (-1.0 / (2 * m - 2))
    return draw.times(factor), f"{why}; one of {m} on one of {depth} branches: by {factor:.3g}, {source}"


def _mup(auto: Auto, place: Place, *, base_width: float = 64) -> Choice:
    """Yang et al. 2021, table 3: only the head's variance falls as 1/fan_in^2; the same as usual at ``base_width``."""
    draw, why = auto(place)
    if draw is None or place.role != "weight" or not place.head or not place.fan_in or draw.kind == "constant":
        return draw, why
    factor = math.sqrt(base_width / place.fan_in)
    return draw.times(factor), f"{why}; head: by sqrt({base_width:g}/fan_in), muP (Yang et al. 2021)"


def _siren(auto: Auto, place: Place, *, omega: float | None = None) -> Choice:
    """Sitzmann et al. 2020, section 3.2, for every weight; the factor in the sine as the graph has it, unless given."""
    if place.role != "weight" or not place.reached:
        return auto(place)
    assert place.fan_in
    seen = place.omega if place.followed_by == "sin" else auto.omega
    draw = siren(place.fan_in, first=place.first, omega=seen if omega is None else omega)
    return draw, draw.why


def lsuv_draw(auto: Auto, place: Place) -> Choice:
    """Return the orthogonal weight that LSUV starts from; what it does not calibrate is as in ``auto``."""
    draw, why = auto(place)
    if place.role != "weight" or draw is None or place.use.cell:
        return draw, why
    assert place.fan_in
    start = orthogonal(place.fan_in, place.units)
    return replace(start, calibrated=True), "orthogonal, then to unit variance (Mishkin and Matas 2016)"


_WHOLE: Mapping[str, Callable[..., Choice]] = {
    "lsuv": lsuv_draw,
    "zero_gate": _zero_gate,
    "depth_scaled": _depth_scaled,
    "fixup": _fixup,
    "mup": _mup,
    "siren": _siren,
}
