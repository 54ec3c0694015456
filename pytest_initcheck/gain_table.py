"""The gain of each nonlinearity: the one table by which weights are drawn and by which they are judged. No torch.

Gain over sqrt(fan_in) is the std of a weight that hands a signal of unit RMS on, through the nonlinearity behind it. Where
pre-activations of unit RMS are a fixed point worth keeping, the gain is that of He et al. 2015 for any f, ``1/sqrt(E[f(z)^2])``
with z standard normal. Where they are not, because f saturates, the slope at the origin decides: at ``1/f'(0)`` signal and
gradient both fade most slowly (Schoenholz et al. 2017), at torch's 5/3 for tanh a deep network amplifies differences between
its inputs. A function whose output at 0 is not 0 brings a mean of its own, which Kumar 2017 adds in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gain:
    """What a weight's std makes up for.

    Attributes:
        value: the gain.
        source: where it comes from; :data:`INTEGRAL` and its two special cases are what :func:`~pytest_initcheck.schemes.gains.gain`
            computes.
    """

    value: float
    source: str


INTEGRAL = "1/sqrt(E[f(z)^2])"
_HE, _SELU = "He et al. 2015", "Klambauer et al. 2017"
#: Sources whose numbers are the integral.
INTEGRATED = frozenset((INTEGRAL, _HE, _SELU))
CRITICAL = "critical gain, Schoenholz et al. 2017"
WITH_MEAN = "Kumar 2017"
#: Nothing behind the weight asks for more: no nonlinearity, a norm that rescales, scores that want to be of unit size.
PLAIN = Gain(1.0, "LeCun et al. 1998")

GAINS: Mapping[str, Gain] = {
    **dict.fromkeys(("linear", "norm", "mixed", "exp", "glu"), PLAIN),
    **dict.fromkeys(("softmax", "softmin", "log_softmax", "gumbel_softmax", "normalize"), PLAIN),
    "relu": Gain(math.sqrt(2.0), _HE),
    "leaky_relu": Gain(1.4141428570, _HE),
    "selu": Gain(1.0, _SELU),
    "tanh": Gain(1.0, CRITICAL),
    "hardtanh": Gain(1.0, CRITICAL),
    "softsign": Gain(1.0, CRITICAL),
    "erf": Gain(math.sqrt(math.pi) / 2.0, CRITICAL),
    "sigmoid": Gain(4.0 / math.sqrt(1.25), WITH_MEAN),  # 1 / (f'(0) sqrt(1 + f(0)^2))
    "relu6": Gain(1.4142135651, INTEGRAL),
    "prelu": Gain(1.3719886811, INTEGRAL),
    "rrelu": Gain(1.3761172298, INTEGRAL),
    "threshold": Gain(math.sqrt(2.0), INTEGRAL),
    "elu": Gain(1.2451983007, INTEGRAL),
    "celu": Gain(1.2451983007, INTEGRAL),
    "gelu": Gain(1.5335304412, INTEGRAL),
    "silu": Gain(1.6765324703, INTEGRAL),
    "mish": Gain(1.4868475813, INTEGRAL),
    "hardswish": Gain(1.7366572142, INTEGRAL),
    "hardsigmoid": Gain(1.8978404249, INTEGRAL),
    "softplus": Gain(1.0418668355, INTEGRAL),
    "logsigmoid": Gain(1.0418668355, INTEGRAL),
    "softshrink": Gain(1.5443605283, INTEGRAL),
    "hardshrink": Gain(1.0157963413, INTEGRAL),
    "tanhshrink": Gain(2.3383675301, INTEGRAL),
    "sin": Gain(1.5208666232, INTEGRAL),
    "cos": Gain(1.3272506003, INTEGRAL),
    "square": Gain(0.5773502692, INTEGRAL),
    "swiglu": Gain(1.6765324703, INTEGRAL),
    "geglu": Gain(1.5335304412, INTEGRAL),
    "reglu": Gain(math.sqrt(2.0), INTEGRAL),
}

#: Other names of the same functions: modules of torch.nn in lower case, torch.nn.init's words, common ones.
ALIASES: Mapping[str, str] = {
    "identity": "linear",
    "none": "linear",
    "conv1d": "linear",
    "conv2d": "linear",
    "conv3d": "linear",
    "conv_transpose1d": "linear",
    "conv_transpose2d": "linear",
    "conv_transpose3d": "linear",
    "leakyrelu": "leaky_relu",
    "log_sigmoid": "logsigmoid",
    "swish": "silu",
    "sine": "sin",
    "softmax2d": "softmax",
    "logsoftmax": "log_softmax",
}


def plain_name(name: str) -> str:
    """Return the name that this table uses for an activation's: ``"nn.SiLU"`` and ``"swish"`` are ``"silu"``."""
    key = name.rpartition(".")[2].lower()
    return ALIASES.get(key, key)


def weight_gain(followed_by: str | None) -> Gain:
    """Return the gain of a weight in front of a nonlinearity; :data:`PLAIN` where nothing is known of it.

    Args:
        followed_by: name as in :class:`~pytest_initcheck.ParameterRecord`, or any that the functions and modules of torch have.
    """
    return PLAIN if followed_by is None else GAINS.get(plain_name(followed_by), PLAIN)
