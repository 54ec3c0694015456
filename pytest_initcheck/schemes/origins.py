"""What each parameter of a probed model was drawn from, at little cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from ..probing.operands import Use
from ..probing.probe import Probed
from ..records import ParameterRecord, Spread, Trace
from ..sharding.layout import gathered, part_shape
from ..sharding.world import current
from .distributions import NEAR, Named, name_distribution
from .places import Place

#: Values and rows that are looked at: a millisecond for a weight of any size, and what is named is still named right.
VALUES, ROWS = 1 << 12, 16


def drawn_from(model: nn.Module, uses: Mapping[str, Use], records: Mapping[str, ParameterRecord]) -> dict[str, Named]:
    """Return name of parameter -> the distribution it was drawn from, without those whose values cannot be read.

    Args:
        model: the module that was probed, with the values that it started with.
        uses: how each parameter is used, by name.
        records: what was measured of each, by name.
    """
    found = {}
    for name, parameter in model.named_parameters():
        record, use = records[name], uses.get(name, Use("other"))
        if record.value is None or not record.value.finite or not record.value.count:
            continue
        found[name] = origin(gathered(parameter.detach()), record, use, sample=VALUES, rows=ROWS)
    return found


def spread_with_origins(probed: Probed, records: Trace, origins: Mapping[str, Named]) -> tuple[Spread, ...]:
    """Return how the model lies on its ranks, with the weights whose values are those of a scheme for one rank's part.

    Args:
        probed: what was probed.
        records: what was measured of it.
        origins: what each parameter was drawn from, by name.
    """
    world = current()
    if world is None:
        return ()
    held = dict(probed.model.named_parameters())
    found = []
    for one in world.spread:
        record, named, use = records.parameters.get(one.name), origins.get(one.name), probed.uses.get(one.name)
        if one.split and record is not None and named is not None and use is not None and not _exact(named):
            one = _by_part(one, held[one.name], record, use)
        found.append(one)
    return tuple(found)


def _by_part(one: Spread, parameter: Tensor, record: ParameterRecord, use: Use) -> Spread:
    """``one``, with the scheme that its values follow for the fans of this rank's part, where these are others."""
    if use.role != "weight" or record.fan_in is None or record.fan_out is None:
        return one
    mine = part_shape(parameter)
    inside, outside = (max(parameter.shape[d] // max(mine[d], 1), 1) for d in (use.in_dim, use.out_dim))
    if inside == outside == 1:
        return one
    part = replace(record, fan_in=max(record.fan_in // inside, 1), fan_out=max(record.fan_out // outside, 1))
    named = origin(gathered(parameter.detach()), part, use, sample=VALUES, rows=ROWS)
    if not _exact(named):
        return one
    factor = math.sqrt(max(inside, (inside + outside) / 2 if outside > 1 else 1))
    return replace(one, local_origin=named.label, local_factor=factor)


def _exact(named: Named) -> bool:
    """Whether these are the values of a scheme with a name, not a multiple of it."""
    return named.standard is not None and abs(named.ratio - 1) <= max(NEAR, 4 * named.error)


def origin(values: Tensor, where: ParameterRecord | Place, use: Use, **looked_at: int) -> Named:
    """Return the distribution that ``values`` were drawn from, with what is known of where they stand.

    Args:
        values: of a floating tensor.
        where: the parameter, for its fans and what is behind it.
        use: how it is used.
        **looked_at: ``sample`` and ``rows`` of :func:`~pytest_initcheck.schemes.distributions.name_distribution`.
    """
    return name_distribution(
        values,
        fan_in=where.fan_in,
        fan_out=where.fan_out,
        followed_by=where.followed_by,
        out_dim=use.out_dim,
        in_dim=use.in_dim,
        groups=use.groups,
        **looked_at,
    )
