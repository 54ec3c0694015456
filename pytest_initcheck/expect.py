"""What a parameter is expected to be drawn from, by name: the public face of :mod:`pytest_initcheck.statements.expect`."""

from __future__ import annotations

from .statements.expect import (
    Expectation,
    constant,
    default,
    dirac,
    identity,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    normal,
    ones,
    orthogonal,
    truncated_normal,
    uniform,
    xavier_normal,
    xavier_uniform,
    zeros,
)

__all__ = [
    "Expectation",
    "constant",
    "default",
    "dirac",
    "identity",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]
