"""Four models: two that train from where they start, two that do not."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNet(nn.Sequential):
    """Convolutions, BatchNorm, ReLU in place: healthy under PyTorch's default init."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for width in (16, 32, 64):
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class Transformer(nn.Module):
    """A small decoder with tied embeddings: healthy, and its embedding is scaled down as GPT-2's is."""

    def __init__(self, vocabulary: int = 100, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, norm_first=True) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        causal = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        for block in self.blocks:
            x = block(x, src_mask=causal, is_causal=True)
        return self.norm(x) @ self.embed.weight.T


class DeepTanh(nn.Sequential):
    """Sick: normal(0, 0.01) in every layer, so each of the twenty divides the signal by twelve."""

    def __init__(self, width: int = 64, depth: int = 20) -> None:
        layers: list[nn.Module] = []
        for _ in range(depth):
            linear = nn.Linear(width, width)
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.Tanh()]
        super().__init__(*layers, nn.Linear(width, 10))


class ForgottenHead(nn.Module):
    """Sick: the head's weight is allocated and never written; what it holds is whatever memory held before."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU())
        self.weight = nn.Parameter(torch.empty(10, 64))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.body(x), self.weight)
