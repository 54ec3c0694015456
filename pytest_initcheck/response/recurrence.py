"""Whether recurrent modules carry their state, and whether their weights leave its gates open: a few time steps of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..words import named_error

#: Size of the difference between the two states, small against a state of about 0.3.
DIFFERENCE = 1e-3
#: Pre-activation beyond which a sigmoid is on its flat part (0.995), a tanh even more so.
_FLAT = 5.3
#: Time steps after which a state is what a module makes of its inputs.
_STEPS = 8


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
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(weight)

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


def shut_gates(model: nn.Module, *, seed: int = 0) -> dict[str, float]:
    """Return, for every recurrent module of torch in ``model``, the share of pre-activations that its weights alone saturate.

    Biases are left out: a gate that a bias opens or shuts is meant. What cannot be asked is left out, too; :func:`carried`
    says so.

    Args:
        model: the module; nothing in it is changed (its recurrent modules are called a few times each).
        seed: seed of the input, which has unit RMS.
    """
    found: dict[str, float] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase) and getattr(module, "nonlinearity", "tanh") == "tanh":
            try:
                found[name] = _shut(module, seed)
            except Exception:  # a class of the user's with another signature
                continue
    return found


def _shut(module: Any, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    weight = next(module.parameters())
    xs = torch.randn((_STEPS, 16, module.input_size), generator=generator, dtype=torch.float32).to(weight)
    with torch.no_grad():
        if isinstance(module, nn.RNNCellBase):
            state: Any = None
            for x in xs:
                state = module(x, state)
            below, states, ways = xs[-1], [state[0] if isinstance(state, tuple) else state], 1
            pairs = [(module.weight_ih, module.weight_hh)]
        else:
            last = module(xs.transpose(0, 1) if module.batch_first else xs)[1]
            states, ways = list(last[0] if isinstance(last, tuple) else last), 2 if module.bidirectional else 1
            below = xs[-1]
            pairs = [(weights[0], weights[1]) for weights in module.all_weights]
        worst = 0.0
        for i, (reads_input, reads_state) in enumerate(pairs):
            if i >= ways:
                start = (i // ways - 1) * ways
                below = torch.cat(states[start : start + ways], -1)
            drive = below @ reads_input.T + states[i] @ reads_state.T
            worst = max(worst, float((drive.abs() > _FLAT).double().mean()))
    return worst
