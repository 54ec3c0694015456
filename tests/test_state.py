"""The guard leaves no trace, whatever happens inside it."""

from __future__ import annotations

import contextlib
import random
from collections import OrderedDict
from typing import Any

import numpy
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_initcheck.probing.guard import has_lazy, untouched


class Busy(nn.Module):
    """Does to itself everything that a forward pass is known to do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        self.embed = nn.Embedding(10, 4, max_norm=0.5)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("ema", torch.zeros(4))
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.register_buffer("nothing", None)
        self.register_buffer("wide", torch.zeros(1, 3).expand(4, 3))
        self.steps = 0
        self.last: Tensor | None = None
        self.history: list[Any] = []
        self.cache: dict[str, Tensor] = {}
        self.state = torch.zeros(4)
        self.generator = torch.Generator().manual_seed(5)
        self.random = random.Random(3)
        self.numpy = numpy.random.default_rng(1)
        self.norm.eval()
        self.conv.weight.grad = torch.randn_like(self.conv.weight)
        self.drop.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        x.mul_(1.5)
        y = self.drop(self.norm(self.conv(x)).relu_()).mean((2, 3))
        y = self.spectral(y) + self.frozen(y) + self.embed(torch.arange(len(y)))
        y = y + torch.rand(4, generator=self.generator) + self.random.random() + float(self.numpy.random())
        y = y + random.random() + float(numpy.random.rand())
        self.last = y
        self.history.append(y)
        self.cache["y"] = y
        self.state.add_(1)
        with torch.no_grad():
            self.ema.mul_(0.9).add_(y.mean(0))
            self.ema = self.ema + 1
            self.frozen.weight.data = self.frozen.weight.data * 0.99
        return y


def picture(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """Everything that must be equal before and after; tensors as bytes, objects by identity."""

    def raw(t: Tensor) -> Any:
        return (
            tuple(t.shape),
            t.dtype,
            t.detach().contiguous().view(torch.uint8).numpy().tobytes() if t.dim() else t.item(),
        )

    out: dict[str, Any] = {"x": (raw(x), x.requires_grad, id(x.grad))}
    for name, p in model.named_parameters():
        out[f"parameter {name}"] = (id(p), raw(p.data), p.requires_grad, id(p.grad), p.data_ptr())
        if p.grad is not None:
            out[f"grad {name}"] = raw(p.grad)
    for name, b in model.named_buffers():
        out[f"buffer {name}"] = (id(b), raw(b))
    for path, module in model.named_modules():
        out[f"keys {path}"] = list(module.__dict__)
        for key, value in module.__dict__.items():
            out[f"attribute {path}.{key}"] = id(value) if not isinstance(value, bool | int) else value
            if isinstance(value, dict):
                out[f"contents {path}.{key}"] = [(k, id(v)) for k, v in value.items()]
            elif isinstance(value, list | set | OrderedDict):
                out[f"contents {path}.{key}"] = [id(v) for v in value]
            elif isinstance(value, Tensor):
                out[f"values {path}.{key}"] = raw(value)
            elif isinstance(value, torch.Generator):
                out[f"values {path}.{key}"] = raw(value.get_state())
            elif isinstance(value, random.Random):
                out[f"values {path}.{key}"] = value.getstate()
            elif isinstance(value, numpy.random.Generator):
                out[f"values {path}.{key}"] = repr(value.bit_generator.state)
    out["torch"] = raw(torch.get_rng_state())
    out["python"] = random.getstate()
    kind, keys, *rest = numpy.random.get_state()
    out["numpy"] = (kind, keys.tobytes(), *rest)
    out["switches"] = (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.is_anomaly_enabled(),
        torch.is_anomaly_check_nan_enabled(),
        torch.get_float32_matmul_precision(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
        torch.backends.cudnn.benchmark,
    )
    return out


def forward(model: Busy, x: Tensor) -> None:
    model(x)


def backward(model: Busy, x: Tensor) -> None:
    model(x).square().sum().backward()


def step(model: Busy, x: Tensor) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)


def through_data(model: Busy, x: Tensor) -> None:
    for p in model.parameters():
        p.data.mul_(2)
    model.conv.weight.data = torch.zeros(1)


def rebuild(model: Busy, x: Tensor) -> None:
    model.register_buffer("extra", torch.ones(3))
    del model.scratch
    model.nothing = torch.zeros(2)
    model.extra_layer = nn.Linear(2, 2)
    model.conv = nn.Conv2d(3, 4, 1)
    model.drop._forward_hooks.clear()


def hooks(model: Busy, x: Tensor) -> None:
    for module in model.modules():
        module.register_forward_hook(lambda *_: None)
        module.register_full_backward_hook(lambda *_: None)


def modes(model: Busy, x: Tensor) -> None:
    model.train()
    model.conv.eval()
    model.requires_grad_(True)


def switches(model: Busy, x: Tensor) -> None:
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.autograd.set_detect_anomaly(True, check_nan=False)
    torch.set_float32_matmul_precision("medium")
    torch.set_autocast_enabled("cpu", True)
    torch.set_autocast_dtype("cpu", torch.float16)
    torch.backends.cudnn.benchmark = True


def device(model: Busy, x: Tensor) -> None:
    torch.set_default_device("meta")


def draw(model: Busy, x: Tensor) -> None:
    torch.manual_seed(1)
    random.seed(1)
    numpy.random.seed(1)


def poison(model: Busy, x: Tensor) -> None:
    x.fill_(float("nan"))
    x.grad = torch.ones_like(x)


DEEDS = [forward, backward, step, through_data, rebuild, hooks, modes, switches, draw, poison, device]


@example(deeds=[device, rebuild, through_data, forward], error=None)
@given(deeds=st.lists(st.sampled_from(DEEDS), max_size=5), error=st.sampled_from([None, ValueError, KeyboardInterrupt]))
@settings(max_examples=120, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_is_left_behind(deeds: list[Any], error: type[BaseException] | None) -> None:
    torch.manual_seed(0)
    model, x = Busy(), torch.randn(2, 3, 5, 5)
    before = picture(model, x)
    try:
        with untouched(model, tensors=[x]) as guard:
            assert all(p.grad is None for p in model.parameters())
            guard.backup_parameters()
            guard.mark()
            for deed in deeds:
                # One deed may spoil the model for the next one, which then raises what torch makes of it: all the better.
                with contextlib.suppress(RuntimeError, AttributeError, TypeError, IndexError):
                    deed(model, x)
            if error is not None:
                raise error("on purpose")
    except (ValueError, KeyboardInterrupt):
        pass
    after = picture(model, x)
    assert list(before) == list(after)
    for key, value in before.items():
        assert after[key] == value, key


def test_every_pass_between_mark_and_rewind_is_the_same() -> None:
    torch.manual_seed(0)
    model, x = Busy(), torch.randn(2, 3, 5, 5)
    with untouched(model, tensors=[x]) as guard:
        torch.manual_seed(7)
        guard.mark()
        outputs = []
        for _ in range(3):
            guard.rewind()
            outputs.append(model(x).detach().clone())
            assert model.steps == 1
    # max_norm scales the rows again, by a factor that is 1 but for rounding
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[0], outputs[2])


def test_rewind_keeps_the_parameters_where_they_are() -> None:
    model = nn.Linear(3, 2)
    was = model.weight.detach().clone()
    with untouched(model) as guard:
        guard.backup_parameters()
        guard.mark()
        with torch.no_grad():
            model.weight.add_(1)
        guard.rewind()
        assert torch.equal(model.weight, was + 1)
        guard.restore_parameters()
        assert torch.equal(model.weight, was)


def test_rewind_needs_a_mark() -> None:
    guard = untouched(nn.Linear(2, 2))
    with guard, pytest.raises(RuntimeError, match="mark"):
        guard.rewind()
    with pytest.raises(RuntimeError, match="mark"):
        guard.rewind()


def test_meta_and_lazy_modules_pass_through() -> None:
    with untouched(nn.Linear(3, 2, device="meta")):
        pass
    lazy = nn.LazyLinear(3)
    assert has_lazy(lazy)
    with untouched(lazy):
        pass
    assert has_lazy(lazy)
    assert not has_lazy(nn.Linear(2, 2))


def test_a_shared_parameter_is_put_back_once() -> None:
    model = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    model[1].weight = model[0].weight
    was = model[0].weight.detach().clone()
    with untouched(model) as guard, torch.no_grad():
        guard.backup_parameters()
        model[1].weight.zero_()
    assert torch.equal(model[0].weight, was)
    assert model[0].weight is model[1].weight


def test_weights_that_a_forward_pass_writes_to_go_back_without_being_asked() -> None:
    model = nn.Sequential(nn.Embedding(5, 4, max_norm=0.1), nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4))
    was = [p.detach().clone() for p in model.parameters()]
    with untouched(model), torch.no_grad():
        model(torch.arange(5))
        model[1].weight.mul_(0.9)
        model[2].weight.data = model[2].weight.data * 0.9
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), was, strict=True))
