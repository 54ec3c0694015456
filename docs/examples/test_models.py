"""Factories in a test module: the decorator makes each an item of ``pytest --initcheck``.

The published models need a library each (``pip install "pytest-initcheck[timm]"``); without it they are skipped.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import ConvNet
from torch import nn

from pytest_initcheck import model_case


@model_case("16x3x32x32", activation_std=(1e-2, 1e2))
def convnet() -> nn.Module:
    return ConvNet()


@model_case()
def timm_resnet50() -> nn.Module:
    return pytest.importorskip("timm").create_model("resnet50")


@model_case("4x3x64x64")
def torchvision_mobilenet() -> nn.Module:
    models = pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError)).models
    return models.mobilenet_v3_small(weights=None)


@model_case(lambda: {"input_ids": torch.randint(50257, (4, 32))})
def transformers_gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=4, n_embd=128, n_head=4))


def test_with_the_fixture(initcheck: Any) -> None:
    report = initcheck(ConvNet(), "16x3x32x32")

    assert report.layers["0"].activation.std > 0.1
