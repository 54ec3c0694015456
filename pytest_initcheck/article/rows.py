"""The rows of the article, 1 to 15 measured here: what it does, what it prints, and the same measured here.

Source: "Weight Initialization in Neural Networks: A Journey From the Basics to Kaiming" (J. Dellinger, 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from statistics import median

from ..records import LayerRecord
from ..schemes.draws import Draw
from . import relu, tanh
from .agreement import compared, holds
from .outcome import Effort, Outcome, Row
from .stacks import DEPTH, TOGETHER, WIDTH, Moments, many_draws, many_products, through_stack

UNIT = Draw("normal", 1.0)
SCALED = Draw("normal", 1 / math.sqrt(WIDTH))
HEURISTIC = Draw("uniform", 1 / math.sqrt(3 * WIDTH))
HE = Draw("normal", math.sqrt(2 / WIDTH))
#: Draws of one layer in the article, and of one product.
DRAWS = 10_000


# -- 100-layer stacks


_STACKS: Mapping[str, tuple[str, str | Draw]] = {
    "unit": ("none", UNIT),
    "small": ("none", Draw("normal", 0.01)),
    "scaled": ("none", SCALED),
    "tanh": ("tanh", SCALED),
    "heuristic": ("tanh", HEURISTIC),
    "xavier": ("tanh", "xavier_uniform"),
    "kaiming": ("relu", "kaiming_normal"),
    "xavier relu": ("relu", "xavier_uniform"),
}


@lru_cache(maxsize=len(_STACKS))
def stacks(name: str, seeds: int) -> tuple[tuple[LayerRecord, ...], ...]:
    """Return the records behind every activation of a stack, for each seed.

    Args:
        name: ``"unit"``, ``"small"``, ``"scaled"``, ``"tanh"``, ``"heuristic"``, ``"xavier"``, ``"kaiming"`` or
            ``"xavier relu"``.
        seeds: number of initializations.
    """
    return tuple(tuple(through_stack(*_STACKS[name], seed=seed)) for seed in range(seeds))


def _first_lost(layers: tuple[LayerRecord, ...]) -> int | None:
    return next((i for i, layer in enumerate(layers) if not layer.activation.finite), None)


def _explodes(effort: Effort) -> Outcome:
    lost = [_first_lost(layers) is not None for layers in stacks("unit", effort.seeds)]
    return Outcome(f"not finite in {sum(lost)} of {len(lost)}", (holds("the output is not finite", all(lost)),))


def _where(effort: Effort) -> Outcome:
    first = [_first_lost(layers) for layers in stacks("unit", effort.seeds)]
    found = [i for i in first if i is not None]
    middle = median(found)
    # RMS sqrt(512)^k passes the largest float32 between the 28th and the 29th layer, whose outputs spread over a decade.
    words = f"index {middle:g} [{min(found)}, {max(found)}]"
    return Outcome(words, (holds("index 28 in the median run", middle == 28 and len(found) == len(first)),))


def _vanishes(effort: Effort) -> Outcome:
    last = [layers[-1].activation for layers in stacks("small", effort.seeds)]
    zero = all(a.mean == 0 and a.std == 0 for a in last)
    return Outcome(f"mean 0, std 0 in {sum(a.std == 0 for a in last)} of {len(last)}", (holds("mean 0, std 0", zero),))


def _stack(name: str, mean: float, std: float) -> Callable[[Effort], Outcome]:
    def measure(effort: Effort) -> Outcome:
        last = [layers[-1].activation for layers in stacks(name, effort.seeds)]
        stds = [a.std for a in last]
        return Outcome(
            f"std {median(stds):.3g} [{min(stds):.2g}, {max(stds):.2g}]",
            (
                compared("mean", mean, [a.mean for a in last]),
                compared("std", std, stds, ratio=True),
            ),
        )

    return measure


def _keeps(effort: Effort) -> Outcome:
    found = stacks("kaiming", effort.seeds)
    last = [layers[-1].activation for layers in found]
    grown = [layers[-1].activation.rms / layers[0].activation.rms for layers in found]
    # Each layer multiplies the mean square by 1 +- sqrt(5/512): a hundred of them by exp(+-1), and 4.7 times that is rare.
    allowed = math.exp(4.7 * 0.5 * math.sqrt(5 * DEPTH / WIDTH))
    return Outcome(
        f"std {median(a.std for a in last):.3g}, RMS {median(a.rms for a in last):.3g}, "
        f"x{min(grown):.2g} to x{max(grown):.2g} of layer 1",
        (holds(f"RMS within x{allowed:.2g} of the first layer's", all(1 / allowed < g < allowed for g in grown)),),
    )


def _fades(effort: Effort) -> Outcome:
    found = stacks("xavier relu", effort.seeds)
    stds = [layers[-1].activation.std for layers in found]
    grown = [layers[-1].activation.rms / layers[0].activation.rms for layers in found]
    halved = 0.5 ** ((DEPTH - 1) / 2)  # half the mean square is lost at every layer
    return Outcome(
        f"std {median(stds):.2g} [{min(stds):.2g}, {max(stds):.2g}]",
        (
            holds("less than a billionth of the first layer is left", max(grown) < 1e-9),
            # The typical stack loses a little more: the mean of a logarithm lies below the logarithm of the mean.
            compared("RMS over layer 1's, theory 2^-49.5", halved, grown, ratio=True),
        ),
    )


# -- one layer, drawn many times


def _layer(weights: Draw, activation: str, mean: float, rms: float, theory: float) -> Callable[[Effort], Outcome]:
    def measure(effort: Effort) -> Outcome:
        parts = [many_draws(weights, activation, draws=TOGETHER, seed=seed) for seed in range(effort.draws // TOGETHER)]
        means, squares = [m.mean for m in parts], [m.rms**2 for m in parts]
        runs = DRAWS / TOGETHER
        found = math.sqrt(sum(squares) / len(squares))
        return Outcome(
            f"mean {sum(means) / len(means):.3g}, RMS {found:.5g} over {len(parts) * TOGETHER} draws",
            (
                compared("mean", mean, means, runs=runs),
                compared("mean square", rms**2, squares, runs=runs),
                compared("mean square, theory", theory, squares, runs=math.inf),
            ),
        )

    return measure


# -- products of two numbers


def _products(weights: Draw, effort: Effort) -> list[Moments]:
    return [many_products(weights, draws=DRAWS, seed=seed) for seed in range(max(20, effort.seeds))]


def _unit_product(effort: Effort) -> Outcome:
    found = _products(UNIT, effort)
    return Outcome(
        f"mean {median(m.mean for m in found):.2g}, RMS {median(m.rms for m in found):.3g}",
        (
            compared("mean", -0.0041, [m.mean for m in found]),
            compared("RMS", 0.9907, [m.rms for m in found]),
            compared("mean square, theory 1", 1.0, [m.rms**2 for m in found], runs=math.inf),
        ),
    )


def _scaled_product(effort: Effort) -> Outcome:
    squares = [m.rms**2 for m in _products(SCALED, effort)]
    return Outcome(
        f"mean square {median(squares):.5g}",
        (
            compared("mean square", 0.0020252, squares),
            compared("mean square, theory 1/512", 1 / WIDTH, squares, runs=math.inf),
        ),
    )


_STACK = f"{DEPTH}-layer stack"
_LAYER = "one layer, 10,000 draws"
_RELU_MEAN_SQUARE = 0.5

ROWS = (
    Row(1, _STACK, "N(0,1), none", "nan", _explodes),
    Row(2, "first layer whose std is nan", "N(0,1), none", "index 28", _where),
    Row(3, _STACK, "0.01 N(0,1), none", "mean 0, std 0", _vanishes),
    Row(4, _LAYER, "N(0,1), none", "mean 0.0089, RMS 22.6298", _layer(UNIT, "none", 0.0089, 22.6298, WIDTH)),
    Row(5, "one product of two scalars", "N(0,1), none", "mean -0.0041, RMS 0.9907", _unit_product),
    Row(6, "one product of two scalars", "N(0,1)/sqrt(512), none", "mean square 0.0020252", _scaled_product),
    Row(
        7, _LAYER, "N(0,1)/sqrt(512), none", "mean 0.00056, RMS 1.00049", _layer(SCALED, "none", 0.00056, 1.00049, 1.0)
    ),
    Row(8, _STACK, "N(0,1)/sqrt(512), none", "mean 0.0358, std 1.0825", _stack("scaled", 0.0358, 1.0825)),
    Row(9, _STACK, "N(0,1)/sqrt(512), tanh", "mean -0.0034, std 0.0613", _stack("tanh", -0.0034, 0.0613)),
    Row(
        10,
        _STACK,
        "U(-1,1)/sqrt(512), tanh",
        "mean 3.7e-26, std 9.97e-25",
        _stack("heuristic", 3.7060e-26, 9.9678e-25),
    ),
    Row(11, _STACK, "Xavier uniform, tanh", "mean 0.0011, std 0.0813", _stack("xavier", 0.0011, 0.0813)),
    Row(
        12,
        _LAYER,
        "N(0,1), relu",
        "mean 9.0273, RMS 16.0125",
        _layer(UNIT, "relu", 9.0273, 16.0125, _RELU_MEAN_SQUARE * WIDTH),
    ),
    Row(13, _LAYER, "N(0,1) sqrt(2/512), relu", "mean 0.5637, RMS 0.99979", _layer(HE, "relu", 0.5637, 0.99979, 1.0)),
    Row(14, _STACK, "Kaiming normal, relu", "neither explodes nor vanishes", _keeps),
    Row(15, _STACK, "Xavier uniform, relu", "almost completely vanished", _fades),
    Row(
        16,
        "5 tanh layers, variance of the weight gradients in training",
        "Xavier, or U(-1,1)/sqrt(n)",
        "Xavier near-identical; standard higher at the lower layers, towards zero at the top",
        tanh.gradients,
        training=True,
    ),
    Row(
        17,
        "5 tanh layers, trained",
        "Xavier, or U(-1,1)/sqrt(n)",
        "Xavier substantially quicker, and to a higher accuracy",
        tanh.convergence,
        training=True,
    ),
    Row(
        18,
        "22-layer ReLU CNN, trained",
        "Kaiming or Xavier",
        "both converge, Kaiming much earlier",
        relu.depth(22, stalls=False),
        training=True,
    ),
    Row(
        19,
        "30-layer ReLU CNN, trained",
        "Kaiming or Xavier",
        "Xavier stalls and does not learn, Kaiming converges",
        relu.depth(30, stalls=True),
        training=True,
    ),
)
