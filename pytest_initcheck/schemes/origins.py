"""What each parameter of a probed model was drawn from, at little cost."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..probing.operands import Use
from ..records import ParameterRecord
from ..sharding.layout import gathered
from .distributions import Named, name_distribution
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
