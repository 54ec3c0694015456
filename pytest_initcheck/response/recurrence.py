"""Whether recurrent modules carry their state: one time step, with two states that differ a little."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..words import named_error

#: Size of the difference between the two states, small against a state of about 0.3.
DIFFERENCE = 1e-3


def carried(model: nn.Module, *, seed: int = 0) -> tuple[dict[str, float], list[str]]:
    """Return, for every ``nn.RNN``, ``nn.LSTM``, ``nn.GRU`` and cell in ``model``, what is left of a change of its state.

    Args:
        model: the module; nothing in it is changed (its recurrent modules are called once or twice each).
        seed: seed of the input and the states.

    Returns:
        Dotted path -> norm of the change of the next state over norm of the change of the state, the smallest of the layers;
        and one sentence for each module that could not be asked (a class of the user's with another signature).
    """
    found: dict[str, float] = {}
    unseen: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            try:
                found[name] = _left(module, seed)
            except Exception as error:
                subject = name or type(module).__name__
                unseen.append(f"{subject}: whether it carries its state was not judged ({named_error(error)})")
    return found, unseen


def _left(module: Any, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    cell = isinstance(module, nn.RNNCellBase)
    weight = next(module.parameters())
    layers = () if cell else (module.num_layers * (2 if module.bidirectional else 1),)
    samples = 16

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(weight)

    x = draw(samples, module.input_size) if cell else draw(samples, 1, module.input_size)
    if not cell and not module.batch_first:
        x = x.transpose(0, 1)
    size = getattr(module, "proj_size", 0) or module.hidden_size
    h = 0.3 * draw(*layers, samples, size)
    dh = DIFFERENCE * draw(*layers, samples, size)
    gated = isinstance(module, nn.LSTM | nn.LSTMCell)
    c = 0.3 * draw(*layers, samples, module.hidden_size)
    dc = DIFFERENCE * draw(*layers, samples, module.hidden_size) if gated else c
    with torch.no_grad():
        before = _next(module, x, (h, c) if gated else h, cell)
        after = _next(module, x, (h + dh, c + dc) if gated else h + dh, cell)
    change = (after - before).float().norm(dim=(-1, -2)) / dh.float().norm(dim=(-1, -2))
    return float(change.min())


def _next(module: Any, x: Tensor, state: Any, cell: bool) -> Tensor:
    out = module(x, state)
    new = out if cell else out[1]
    state_after: Tensor = new[0] if isinstance(new, tuple) else new
    return state_after
