"""Inputs for a model that was given none: what it says itself, else what its first layer takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ProbeError
from ..words import named_error
from .drawing import draw
from .shapes import Shape

#: Samples in inputs that are made up: enough that dropped paths and BatchNorm over few values do not mislead.
SAMPLES = 8
#: Tokens or time steps in made-up sequences.
LENGTH = 16
#: Spatial sizes to try, cheapest first: most networks of the first kind of layer survive one of these.
_SIZES = {1: (256, 1024, 4096, 16000), 2: (32, 64, 128, 224), 3: (16, 32, 64)}

WHAT_TO_PASS = 'pass inputs=, for instance "2x3x32x32", "8x64:int64", a tensor, or a tuple of tensors'

Inferred = tuple[tuple[Any, ...], dict[str, Any], str]
Refused = Callable[[tuple[Any, ...]], BaseException | None]


def infer(model: nn.Module, generator: torch.Generator, refused: Refused) -> Inferred:
    """Return (positional, keywords, where they come from) for ``model``.

    Args:
        model: the module.
        generator: source of everything random.
        refused: what the model raises when it is called with these positional arguments, if anything; asked where several
            sizes are thinkable.

    Raises:
        ProbeError: the model does not say what it takes.
    """
    for source in (_example, _configured, _dummy, _first_layer):
        if (found := source(model, generator, refused)) is not None:
            return found
    raise ProbeError(f"the inputs of {type(model).__name__} cannot be inferred; {WHAT_TO_PASS}")


def _example(model: nn.Module, _generator: torch.Generator, _refused: Refused) -> Inferred | None:
    """Lightning's ``example_input_array``: a tensor, a tuple, or a dict of keywords."""
    example = getattr(model, "example_input_array", None)
    if example is None:
        return None
    if isinstance(example, Mapping):
        return (), dict(example), "example_input_array"
    return example if isinstance(example, tuple) else (example,), {}, "example_input_array"


def _configured(model: nn.Module, generator: torch.Generator, _refused: Refused) -> Inferred | None:
    """timm's ``pretrained_cfg["input_size"]``: channels, height, width."""
    for attribute in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, attribute, None)
        size = config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None)
        if isinstance(size, tuple | list) and size and all(isinstance(s, int) for s in size):
            return (draw(Shape(None, (SAMPLES, *size)), model, generator),), {}, "input_size"
    return None


def _dummy(model: nn.Module, generator: torch.Generator, _refused: Refused) -> Inferred | None:
    """transformers' ``main_input_name`` and config, else the ``dummy_inputs`` that a model may bring."""
    config = getattr(model, "config", None)
    name = getattr(model, "main_input_name", None)
    if config is None or not isinstance(name, str):
        dummy = getattr(model, "dummy_inputs", None)
        return ((), dict(dummy), "dummy_inputs") if isinstance(dummy, Mapping) else None
    keywords: dict[str, Any] = {}
    if name == "pixel_values":
        size = getattr(config, "image_size", None)
        height, width = size if isinstance(size, tuple | list) else (size or 64, size or 64)
        channels = getattr(config, "num_channels", None) or 3
        keywords[name] = draw(Shape(None, (SAMPLES, channels, height, width)), model, generator)
    elif name == "input_ids":
        keywords[name] = draw(Shape(None, (SAMPLES, LENGTH), "int64"), model, generator)
    elif name == "input_values":
        keywords[name] = draw(Shape(None, (SAMPLES, 4000)), model, generator)
    elif name == "input_features" and isinstance(bins := getattr(config, "num_mel_bins", None), int):
        frames = 2 * getattr(config, "max_source_positions", 50)
        keywords[name] = draw(Shape(None, (SAMPLES, bins, frames)), model, generator)
    else:
        dummy = getattr(model, "dummy_inputs", None)
        return ((), _repeated(dummy), "dummy_inputs") if isinstance(dummy, Mapping) else None
    if getattr(config, "is_encoder_decoder", False) and name != "input_ids":
        keywords["decoder_input_ids"] = draw(Shape(None, (SAMPLES, LENGTH), "int64"), model, generator)
    return (), keywords, "dummy_inputs"


def _repeated(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The same inputs with enough samples: their rows, over and over."""
    out: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.dim() and 0 < value.shape[0] < SAMPLES:
            rows = torch.arange(SAMPLES, device=value.device) % value.shape[0]
            value = value[rows]
        out[name] = value
    return out


def _first_layer(model: nn.Module, generator: torch.Generator, refused: Refused) -> Inferred | None:
    for name, module in model.named_modules():
        shapes = list(_taken_by(module))
        if not shapes:
            continue
        source = f"first layer {name}" if name else "the model's own shape"
        candidates = [(draw(shape, model, generator),) for shape in shapes]
        if len(candidates) == 1:
            return candidates[0], {}, source
        errors = []
        for candidate in candidates:
            if (error := refused(candidate)) is None:
                return candidate, {}, source
            errors.append(error)
        raise ProbeError(
            f"the inputs of {type(model).__name__} cannot be inferred: its first layer {name or type(module).__name__} "
            f"takes {_words(shapes[0])}, but the model ran with none of the sizes tried "
            f"({', '.join(_words(s) for s in shapes)}; the last raised {named_error(errors[-1])}); {WHAT_TO_PASS}"
        ) from errors[-1]
    return None


def _taken_by(module: nn.Module) -> Iterator[Shape]:
    """Shapes that a layer of a known kind takes, the likeliest first."""
    if isinstance(module, nn.Linear | nn.Bilinear):
        features = module.in_features if isinstance(module, nn.Linear) else module.in1_features
        yield Shape(None, (SAMPLES, features))
        yield Shape(None, (SAMPLES, LENGTH, features))
    elif isinstance(module, nn.modules.conv._ConvNd):
        dims = len(module.kernel_size)
        if not isinstance(module, nn.modules.conv._LazyConvXdMixin) or module.in_channels:
            for size in _SIZES[dims]:
                yield Shape(None, (SAMPLES, module.in_channels, *(size,) * dims))
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        yield Shape(None, (SAMPLES, LENGTH), "int64", module.num_embeddings)
    elif isinstance(module, nn.RNNBase):
        first, second = (SAMPLES, LENGTH) if module.batch_first else (LENGTH, SAMPLES)
        yield Shape(None, (first, second, module.input_size))
    elif isinstance(module, nn.RNNCellBase):
        yield Shape(None, (SAMPLES, module.input_size))
    elif isinstance(module, nn.TransformerEncoderLayer | nn.TransformerEncoder):
        attention = next(m for m in module.modules() if isinstance(m, nn.MultiheadAttention))
        first, second = (SAMPLES, LENGTH) if attention.batch_first else (LENGTH, SAMPLES)
        yield Shape(None, (first, second, attention.embed_dim))
    elif isinstance(module, nn.LayerNorm):
        yield Shape(None, (SAMPLES, LENGTH, *module.normalized_shape))
        yield Shape(None, (SAMPLES, *module.normalized_shape))


def _words(shape: Shape) -> str:
    return "x".join(map(str, shape.sizes)) + (f":{shape.dtype}" if shape.dtype else "")


__all__ = ["LENGTH", "SAMPLES", "WHAT_TO_PASS", "infer"]
