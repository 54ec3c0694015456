"""Families of nets on sequences, sets and graphs."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn

from foundry_parts import tasks
from foundry_parts.design import Design, between, family
from foundry_parts.layers import ACTIVATIONS, Attention, Glu, Maker, Mlp, Residual, TorchAttention, forms, gain, norm
from foundry_parts.vectors import stack


class _Recurrent(nn.Module):
    """A recurrent layer of torch's, or cells stepped by hand, and a head."""

    def __init__(
        self, make: Maker, cell: str, din: int, width: int, layers: int, dout: int, every: bool, by_hand: bool
    ) -> None:
        super().__init__()
        if by_hand:
            self.cell = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}[cell](din, width)
        else:
            self.rnn = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[cell](din, width, layers, batch_first=True)
        for name, p in self.named_parameters():
            if "weight_ih" in name:
                nn.init.xavier_uniform_(p)
            elif "weight_hh" in name:
                for part in p.data.split(width):
                    nn.init.orthogonal_(part)
            else:
                nn.init.zeros_(p)
                if cell == "lstm" and "bias_ih" in name:
                    p.data[width : 2 * width] = 1.0
        self.head = make.linear(width, dout)
        self.every, self.by_hand = every, by_hand

    def forward(self, x: Tensor) -> Tensor:
        if not self.by_hand:
            y = self.rnn(x)[0]
            return self.head(y if self.every else y[:, -1])
        state, steps = None, []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            steps.append(state[0] if isinstance(state, tuple) else state)
        return self.head(torch.stack(steps, 1) if self.every else steps[-1])


@family
def recurrent(r: random.Random) -> Design:
    """Recurrent layers: simple, GRU, LSTM."""
    cell, by_hand, every = r.choice(("rnn", "gru", "lstm")), r.random() < 0.3, r.random() < 0.5
    layers = 1 if by_hand else r.choice((1, 1, 2))
    width, din, dout, steps = r.choice((12, 16, 24)), r.randint(2, 6), r.randint(1, 3), r.choice((6, 8, 12))
    make, task = Maker.drawn(r), tasks.series(r, steps, din, dout, every=every)
    facts = {"cell": cell, "layers": layers, "width": width, "steps": steps, "every step": every, "by hand": by_hand}
    return Design(facts, lambda: _Recurrent(make, cell, din, width, layers, dout, every, by_hand), task)


class _Diagonal(nn.Module):
    """A linear recurrence of every feature with its own decay, computed by a kernel, and a mix of features."""

    def __init__(self, make: Maker, width: int, state: int) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.linspace(math.log(0.1), math.log(1.0), state).repeat(width, 1))
        self.b, self.c = (
            nn.Parameter(torch.ones(width, state)),
            nn.Parameter(torch.randn(width, state) / math.sqrt(state)),
        )
        self.d = nn.Parameter(torch.ones(width))
        self.out = make.linear(width, width, 1.4)

    def forward(self, x: Tensor) -> Tensor:
        lags = torch.arange(x.shape[1], dtype=x.dtype)
        decay = torch.exp(-self.log_rate.exp().unsqueeze(-1) * lags)
        kernel = torch.einsum("ws,ws,wst->wt", self.b, self.c, decay)
        place = (lags[:, None] - lags[None, :]).long()
        mix = torch.where(place >= 0, kernel[:, place.clamp(min=0)], torch.zeros(()))
        y = torch.einsum("wts,bsw->btw", mix, x) + self.d * x
        return self.out(nn.functional.gelu(y))


class _OverSteps(nn.Module):
    """A stem, blocks, a norm and a head at every step, or on the mean."""

    def __init__(
        self,
        stem: nn.Module,
        place: Tensor | None,
        blocks: list[nn.Module],
        last: nn.Module,
        head: nn.Module,
        pool: bool,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.place = None if place is None else nn.Parameter(place)
        self.blocks, self.norm, self.head = nn.ModuleList(blocks), last, head
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.place is not None:
            x = x + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.mean(1) if self.pool else x))


@family
def state_space(r: random.Random) -> Design:
    """Linear recurrences between residual blocks."""
    depth, width, state, kind = between(r, 1, 2), r.choice((12, 16)), r.choice((2, 4)), r.choice(("layer", "rms"))
    form = forms(r, "pre", depth)
    din, dout, steps = r.randint(2, 6), r.randint(1, 3), r.choice((8, 12))
    make, task = Maker.drawn(r), tasks.series(r, steps, din, dout, every=True, batch=16)

    def build() -> nn.Module:
        blocks: list[nn.Module] = []
        for _ in range(depth):
            blocks.append(Residual(_Diagonal(make, width, state), width, 0, kind, "pre", form, depth))
            blocks.append(Residual(Mlp(make, width, 2 * width, "gelu"), width, 0, kind, "pre", form, depth))
        return _OverSteps(make.linear(din, width), None, blocks, norm(kind, width), make.linear(width, dout), False)

    return Design({"blocks": depth, "width": width, "state": state, "norm": kind, "residual": form}, build, task)


def _transformer(r: random.Random, *, causal: bool, depth: int, width: int) -> tuple[dict[str, object], Maker, object]:
    """Facts, maker and a function that builds the blocks."""
    place = r.choice(("pre", "pre", "post"))
    kind = r.choice(("layer", "layer", "rms"))
    form = forms(r, place, 2 * depth)
    heads, fused, gated = r.choice((1, 2, 4)), r.random() < 0.5, r.random() < 0.3
    activation = r.choice(("silu", "gelu")) if gated else r.choice(("gelu", "relu"))
    of_torch = r.random() < 0.3
    small = r.random() < 0.4  # one deviation for all, as language models have it
    make = Maker.drawn(r)

    def blocks() -> list[nn.Module]:
        made: list[nn.Module] = []
        for _ in range(depth):
            feed = (Glu if gated else Mlp)(make, width, 2 * width, activation)
            attention: nn.Module
            if of_torch:
                attention = TorchAttention(make, width, heads, causal=causal)
            else:
                attention = Attention(make, width, heads, causal=causal, fused=fused)
            if small:
                for m in [*attention.modules(), *feed.modules()]:
                    if isinstance(m, nn.Linear):
                        nn.init.normal_(m.weight, std=0.08)
            made.append(Residual(attention, width, 0, kind, place, form, depth))
            made.append(Residual(feed, width, 0, kind, place, form, depth))
        return made

    facts = {
        "blocks": depth,
        "width": width,
        "heads": heads,
        "norm": f"{place} {kind}",
        "residual": form,
        "projections": "torch" if of_torch else "one" if fused else "three",
    }
    return {**facts, "activation": activation + (" gated" if gated else ""), "small": small}, make, blocks


@family
def encoder(r: random.Random) -> Design:
    """A transformer that reads a whole sequence, of tokens or of features."""
    depth, width, steps, words = between(r, 1, 4), r.choice((16, 24)), r.choice((4, 6)), r.random() < 0.5
    facts, make, blocks = _transformer(r, causal=False, depth=depth, width=width)
    din, dout, vocabulary = r.randint(2, 6), r.randint(1, 3), r.choice((8, 12))
    task = tasks.token_classes(r, vocabulary, steps, 4) if words else tasks.sets(r, steps, din, dout)

    def build() -> nn.Module:
        stem = nn.Embedding(vocabulary, width) if words else make.linear(din, width)
        last = norm("layer", width)
        return _OverSteps(
            stem, torch.randn(steps, width) * 0.1, blocks(), last, make.linear(width, 4 if words else dout), True
        )

    return Design({**facts, "tokens": words}, build, task)


class _Language(nn.Module):
    """Tokens in, scores of the next token out, the head tied to the embedding or not."""

    def __init__(
        self, make: Maker, vocabulary: int, steps: int, width: int, blocks: list[nn.Module], tied: bool
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(steps, width)
        std = 1 / math.sqrt(width) if tied else 0.5
        nn.init.normal_(self.tokens.weight, std=std)
        nn.init.normal_(self.places.weight, std=std)
        self.blocks, self.norm = nn.ModuleList(blocks), nn.LayerNorm(width)
        self.head = make.linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.tokens(x) + self.places.weight[: x.shape[1]]
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y))


@family
def language(r: random.Random) -> Design:
    """A transformer that predicts the next token."""
    depth, width, steps, vocabulary = between(r, 1, 3), r.choice((24, 32)), r.choice((6, 8)), r.choice((8, 12))
    facts, make, blocks = _transformer(r, causal=True, depth=depth, width=width)
    lag, tied = r.choice((0, 0, 1)), r.random() < 0.4
    task = tasks.next_token(r, vocabulary, steps, lag)
    facts = {**facts, "tied": tied, "lag": lag + 1}
    return Design(
        facts,
        lambda: _Language(make, vocabulary, steps, width, blocks(), tied),
        task,
        ("tokens",) if tied else ("head",),
    )


class _Pooled(nn.Module):
    """Elements by themselves, then pooled, then a net."""

    def __init__(self, element: list[nn.Module], pool: str, rest: list[nn.Module]) -> None:
        super().__init__()
        self.element, self.rest, self.pool = nn.Sequential(*element), nn.Sequential(*rest), pool

    def forward(self, x: Tensor) -> Tensor:
        y = self.element(x)
        if self.pool == "max":
            return self.rest(y.amax(1))
        return self.rest(y.mean(1) if self.pool == "mean" else y.sum(1) / math.sqrt(y.shape[1]))


@family
def pooled_sets(r: random.Random) -> Design:
    """Nets on sets: mean, sum or maximum over the elements."""
    depth, rest, pool = between(r, 1, 6), between(r, 1, 4), r.choice(("mean", "sum", "max"))
    activation, kind = r.choice(("relu", "gelu", "tanh", "elu")), r.choice(("none", "none", "layer"))
    width, din, dout, size = r.choice((16, 24)), r.randint(2, 6), r.randint(1, 3), r.choice((4, 6))
    make, task = Maker.drawn(r), tasks.sets(r, size, din, dout)

    def build() -> nn.Module:
        element = stack(make, din, width, depth, activation, kind, width)
        return _Pooled(element, pool, stack(make, width, width, rest, activation, "none", dout))

    facts = {"depth": depth + rest, "width": width, "pool": pool, "activation": activation, "norm": kind}
    return Design(facts, build, task, (f"rest.{2 * rest}.",))


class _Similarity(nn.Module):
    """Two towers, or one used twice; similarities under a learned scale."""

    def __init__(self, make: Maker, din: int, width: int, depth: int, activation: str, kind: str, shared: bool) -> None:
        super().__init__()
        self.left = nn.Sequential(*stack(make, din, width, depth, activation, kind, 12))
        self.right = self.left if shared else nn.Sequential(*stack(make, din, width, depth, activation, kind, 12))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(8.0)))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = (nn.functional.normalize(t, dim=-1) for t in (self.left(a), self.right(b)))
        return self.logit_scale.exp() * a @ b.T


@family
def siamese(r: random.Random) -> Design:
    """Similarity of two views."""
    depth, activation, kind = (
        between(r, 1, 8),
        r.choice(("relu", "gelu", "tanh")),
        r.choice(("none", "none", "layer", "batch")),
    )
    width, din = r.choice((24, 32)), r.choice((8, 12))
    make, task = Maker.drawn(r), tasks.views(r, din)
    per = 3 if kind != "none" else 2
    facts = {"depth": depth, "width": width, "activation": activation, "norm": kind}
    shared = r.random() < 0.4
    facts["shared"] = shared
    heads = (f"left.{per * depth}.",) if shared else (f"left.{per * depth}.", f"right.{per * depth}.")
    return Design(facts, lambda: _Similarity(make, din, width, depth, activation, kind, shared), task, heads)


class _GraphLayer(nn.Module):
    """Each node with its neighbours: by a fixed mix, or by attention along the edges."""

    def __init__(self, make: Maker, adjacency: Tensor, din: int, dout: int, size: float, attends: bool) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.own, self.near = make.linear(din, dout, size / math.sqrt(2)), make.linear(din, dout, size / math.sqrt(2))
        self.score = nn.Parameter(torch.randn(2, dout) / math.sqrt(dout)) if attends else None

    def forward(self, x: Tensor) -> Tensor:
        near = self.near(x)
        if self.score is None:
            mix = self.adjacency / self.adjacency.square().sum(-1, keepdim=True).sqrt()
        else:
            e = nn.functional.leaky_relu(
                (near @ self.score[0]).unsqueeze(-1) + (near @ self.score[1]).unsqueeze(-2), 0.2
            )
            mix = e.masked_fill(self.adjacency == 0, float("-inf")).softmax(-1)
        return self.own(x) + mix @ near


class _Graph(nn.Module):
    def __init__(
        self, layers: list[nn.Module], kind: str, width: int, activation: str, residual: bool, head: nn.Module
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList([norm(kind, width) for _ in layers])
        self.act, self.head, self.residual = ACTIVATIONS[activation](), head, residual

    def forward(self, x: Tensor) -> Tensor:
        for i, (layer, n) in enumerate(zip(self.layers, self.norms, strict=True)):
            y = self.act(n(layer(x)))
            x = (x + y) / math.sqrt(2) if self.residual and i else y
        return self.head(x)


@family
def graph(r: random.Random) -> Design:
    """Messages along the edges of a fixed graph."""
    depth, attends, kind = between(r, 1, 6), r.random() < 0.3, r.choice(("none", "layer"))
    residual = r.random() < 0.5
    activation = r.choice(("relu", "elu", "tanh", "gelu"))
    width, din, dout, n = r.choice((12, 16, 24)), r.randint(3, 6), r.randint(1, 3), r.choice((6, 8))
    edges = torch.rand(n, n, generator=tasks.generator(r)) < 0.3
    adjacency = (edges | edges.T | torch.eye(n, dtype=torch.bool)).float()
    make, task = Maker.drawn(r), tasks.nodes(r, adjacency, din, dout)

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for i in range(depth):
            size = 1.0 if i == 0 else gain(activation)
            layers.append(_GraphLayer(make, adjacency, din if i == 0 else width, width, size, attends))
        return _Graph(layers, kind, width, activation, residual, make.linear(width, dout))

    facts = {
        "depth": depth,
        "width": width,
        "attention": attends,
        "norm": kind,
        "activation": activation,
        "residual": residual,
    }
    return Design(facts, build, task)
