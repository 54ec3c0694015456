"""Lets torchvision's wheel be imported beside a CPU build of torch.

The wheel on PyPI belongs to the CUDA build. Beside another its operators cannot be loaded, and importing it fails
because it registers shape functions for operators that nobody has declared. Declaring them is enough for the models
that do not call them.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch


def _declare_operators() -> None:
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


if find_spec("torchvision") is not None and not torch.cuda.is_available():
    _declare_operators()
