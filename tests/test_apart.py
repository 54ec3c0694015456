"""Samples followed through a pass: what is said to keep them apart does, by the exchange; and what is not known is not said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_initcheck.response.mixing import mixing
from pytest_initcheck.response.perturb import Push

Pushed = Callable[..., Push]
BATCH = 7


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Between(nn.Module):
    """A function of the features between two layers; ``way`` has their shape (samples first)."""

    def __init__(self, function: Callable[..., Any], *way: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.way = function, way
        self.first = nn.Linear(4, int(torch.tensor(way).prod()))
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("mask", torch.ones(way[-1], way[-1]).tril())
        self.conv2, self.conv1 = nn.Conv2d(3, 5, 3), nn.Conv1d(4, 5, 3)
        self.lstm, self.gru, self.cell = nn.LSTM(6, 5, num_layers=2, batch_first=True), nn.GRU(6, 6), nn.LSTMCell(6, 5)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.function(self, self.first(x).view(len(x), *self.way))
        return out * self.scale


def heads(m: Between, x: Tensor) -> Tensor:
    b, t, c = x.shape
    q, k, v = (y.reshape(b, t, 2, c // 2).permute(0, 2, 1, 3).flatten(0, 1) for y in (x, x + 1, x * 2))
    y = torch.bmm(torch.softmax(torch.bmm(q, k.mT) / 2, -1), v)
    return y.unflatten(0, (b, 2)).transpose(1, 2).reshape(b, t, c)


def filled(m: Between, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, :2] = x[:, :2]
    return out


def centred(m: Between, x: Tensor) -> Tensor:
    mean = x.detach().mean(0)
    return x - mean


def written(m: Between, x: Tensor) -> Tensor:
    y = x.clone()
    y[1:] += x[:-1]
    return y


def counted(m: Between, x: Tensor) -> Tensor:
    return x / len(x[x > x[0].detach().min()].nonzero())


def decided(m: Between, x: Tensor) -> Tensor:
    return x * 2 if x.sum() > 1e9 else x * (1 + x.detach().mean().item())


#: What keeps samples apart, and is known to.
KNOWN: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "nothing": (lambda m, x: x, (6,)),
    "elementwise": (lambda m, x: torch.where(x > 0, x.exp(), -x).clamp(-3, 3) ** 2 / 3 + 1 - x.sigmoid() * m.mask[0], (6,)),
    "in place": (lambda m, x: F.relu_(x.clone().add_(1).mul_(m.mask[0])), (6,)),
    "softmax over features": (lambda m, x: F.log_softmax(x.softmax(-1), dim=1), (6,)),
    "reductions": (lambda m, x: x.mean(2, keepdim=True) + x.sum(-1).unsqueeze(-1) + x.amax((1, 2))[:, None, None] + x.max(1)[0][:, None], (3, 5)),
    "norms": (lambda m, x: F.group_norm(F.layer_norm(x, x.shape[1:]), 1) + F.instance_norm(x) + F.normalize(x, dim=1), (3, 5)),
    "batch norm": (lambda m, x: F.batch_norm(x, None, None, training=True), (6,)),
    "convolutions": (lambda m, x: m.conv2(F.pad(x, (1, 1, 1, 1), mode="circular")).relu().flatten(1), (3, 6, 6)),
    "pooling": (lambda m, x: F.max_pool2d(x, 2) + F.adaptive_avg_pool2d(x, 2) + F.avg_pool2d(x, 2), (3, 4, 4)),
    "resizing": (lambda m, x: F.interpolate(F.pixel_shuffle(x, 2), scale_factor=2), (4, 3, 3)),
    "channels last": (lambda m, x: m.conv1(x.transpose(1, 2)).mean(-1), (6, 4)),
    "heads": (heads, (3, 8)),
    "two in one dimension": (lambda m, x: (x.reshape(-1, 4) @ m.mask[:4, :4]).view(len(x), 3, 4).sum(1), (3, 4)),
    "matrix products": (lambda m, x: (x @ x.mT) @ (x @ m.mask) + torch.matmul(m.mask[:3, :3], x), (3, 5)),
    "einsum": (lambda m, x: torch.einsum("btc,bsc,cd->bsd", x, x, m.mask), (3, 5)),
    "pieces": (lambda m, x: torch.cat([*x.chunk(2, 1), torch.stack(x.unbind(2), -1)], dim=1)[:, 1:, ..., None, 0], (4, 5)),
    "a token for all": (lambda m, x: torch.cat([m.mask[:1].expand(len(x), 1, -1), x], 1)[:, 0:2], (3, 5)),
    "time first": (lambda m, x: m.gru(x.transpose(0, 1))[0][-1], (3, 6)),
    "recurrent": (lambda m, x: m.lstm(x)[1][0][-1] + m.lstm(x)[0].select(1, 0), (3, 6)),
    "cells": (lambda m, x: m.cell(x[:, 1], m.cell(x[:, 0]))[0], (3, 6)),
    "attention": (lambda m, x: m.attention(x, x, x)[0], (3, 6)),
    "a layer of a transformer": (lambda m, x: m.layer(x), (3, 6)),
    "fused attention": (lambda m, x: F.scaled_dot_product_attention(x, x, x, attn_mask=m.mask[:3, :3].bool()), (2, 3, 6)),
    "dropout": (lambda m, x: F.dropout(x) + F.dropout1d(x), (3, 5)),
    "detached": (lambda m, x: x - x.detach().mean(1, keepdim=True) + x.data, (6,)),
}  # fmt: skip

#: What reads samples together, each close to something that does not.
MIXES: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "softmax over samples": (lambda m, x: x.softmax(0), (6,)),
    "mean over samples": (lambda m, x: x - x.mean(0), (6,)),
    "mean over samples, detached": (centred, (6,)),
    "mean over all": (lambda m, x: x / x.abs().mean(), (6,)),
    "norm along samples": (lambda m, x: F.normalize(x, dim=0), (6,)),
    "power norm along samples": (lambda m, x: x / x.norm(2, 0), (6,)),
    "view in place of a transpose": (lambda m, x: m.gru(x.reshape(3, len(x), 6))[0].transpose(0, 1), (3, 6)),
    "samples as time": (lambda m, x: m.gru(x)[0], (3, 6)),
    "attention over samples": (lambda m, x: m.attention(x.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1))[0].transpose(0, 1), (3, 6)),
    "similarities": (lambda m, x: (x @ x.T).softmax(-1) @ x, (6,)),
    "summed by einsum": (lambda m, x: x + torch.einsum("bc,bd->cd", x, x).mean(), (6,)),
    "neighbours": (written, (6,)),
    "rolled": (lambda m, x: torch.roll(x, 1, 0), (6,)),
    "windows over samples": (lambda m, x: torch.cat([x.unfold(0, 2, 1).sum(-1), x[:1]]), (6,)),
    "a number on the host": (decided, (6,)),
    "how many": (counted, (6,)),
    "written to a buffer": (lambda m, x: x + m.mask.copy_(x[0].detach().expand_as(m.mask))[0], (6,)),
    "flipped by a list of dimensions": (lambda m, x: x.flip([1, 0]), (6,)),
    "joined along samples": (lambda m, x: torch.cat([x, x], axis=0)[1 : len(x) + 1], (6,)),
}  # fmt: skip

#: What keeps them apart and is not known to: asked by a pass of its own.
UNKNOWN: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "filled": (filled, (6,)),
    "selected": (lambda m, x: x[:, torch.tensor([0, 2])], (6,)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_to_keep_samples_apart_does(pushed: Pushed, name: str):
    push = pushed(Between(KNOWN[name][0], *KNOWN[name][1]), numbers(BATCH, 4))
    assert push.probed.apart
    push.probed.apart = False
    change = mixing(push).change
    assert change is not None
    assert change < 1e-5


@pytest.mark.parametrize("name", MIXES)
def test_what_reads_samples_together_is_not_said_to_keep_them_apart(pushed: Pushed, name: str):
    push = pushed(Between(MIXES[name][0], *MIXES[name][1]), numbers(BATCH, 4))
    assert not push.probed.apart
    assert (mixing(push).change or 0.0) > 1e-5


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_asked(pushed: Pushed, name: str):
    push = pushed(Between(UNKNOWN[name][0], *UNKNOWN[name][1]), numbers(BATCH, 4))
    assert not push.probed.apart
    assert (mixing(push).change or 0.0) < 1e-5


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x - x.mean(0)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope - slope.mean(0)


def test_a_custom_function_is_not_followed(pushed: Pushed):
    assert not pushed(Between(lambda m, x: Own.apply(x), 6), numbers(BATCH, 4)).probed.apart


def test_ids_are_samples_too(pushed: Pushed):
    class Table(nn.Module):
        def __init__(self, along: int) -> None:
            super().__init__()
            self.table, self.along = nn.Embedding(9, 5), along

        def forward(self, ids: Tensor) -> Tensor:
            y = self.table(ids)
            return y - y.mean(self.along, keepdim=True)

    ids = torch.randint(0, 9, (BATCH, 3), generator=torch.Generator().manual_seed(0))
    assert pushed(Table(1), ids).probed.apart
    assert not pushed(Table(0), ids).probed.apart
