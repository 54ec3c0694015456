"""Published models at their own default init, built from specs: healthy, whichever way they are asked for.

Each library is an extra: without it its tests are skipped. The models are small or shrunk, their init is their own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_initcheck import TargetError, check_init
from pytest_initcheck.cli import main
from pytest_initcheck.models.targets import load

MODELS = {
    "timm": [
        ("timm:resnet18", "8x3x64x64"),
        ("timm:vit_tiny_patch16_224(img_size=64)", "8x3x64x64"),
        ("timm:convnext_atto", "8x3x64x64"),
        ("timm:efficientnet_b0", "8x3x64x64"),
        ("timm:mixer_s32_224(img_size=64)", "8x3x64x64"),
    ],
    "torchvision": [
        ("torchvision:resnet18", "8x3x64x64"),
        ("torchvision:mobilenet_v3_small", "8x3x64x64"),
        ("torchvision:densenet121", "8x3x64x64"),
        ("torchvision:fcn_resnet50", "4x3x64x64"),
    ],
    "transformers": [
        ("hf:GPT2Config(n_layer=4,n_embd=128,n_head=4)", "8x32:int64"),
        ("hf:bert(num_hidden_layers=4,hidden_size=128,num_attention_heads=4,intermediate_size=512)", "8x32:int64"),
        ("hf:LlamaForCausalLM(num_hidden_layers=4,hidden_size=128,num_attention_heads=4,intermediate_size=256)", "8x32:int64"),
        ("hf:ViTConfig(num_hidden_layers=4,image_size=64,hidden_size=128,num_attention_heads=4,intermediate_size=256)", "8x3x64x64"),
    ],
}  # fmt: skip


def need(library: str) -> None:
    pytest.importorskip(library, exc_type=ImportError)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("library", "spec", "inputs"),
    [pytest.param(library, *model, id=model[0]) for library, models in MODELS.items() for model in models],
)
def test_published_models_are_healthy(library: str, spec: str, inputs: str):
    need(library)

    report = check_init(load(spec), inputs)

    assert report.ok, str(report)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("library", "spec"),
    [("timm", "timm:resnet10t"), ("transformers", "hf:BertConfig(num_hidden_layers=2)")],
)
def test_inputs_are_inferred(library: str, spec: str):
    need(library)

    assert check_init(load(spec)).trace.inputs


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("library", "spec", "message"),
    [
        ("timm", "timm:resnet81", "timm has no model 'resnet81' (did you mean resnet18"),
        ("timm", "timm:resnet18(depth=3)", "building the model failed (TypeError: "),
        ("torchvision", "torchvision:alexnt", "torchvision has no model 'alexnt' (did you mean alexnet?)"),
        ("transformers", "hf:GPT3Config", "transformers has no class 'GPT3Config' (did you mean GPT"),
    ],
)
def test_what_is_not_there(library: str, spec: str, message: str):
    need(library)

    with pytest.raises(TargetError) as caught:
        load(spec)()  # type: ignore[operator]

    assert str(caught.value).startswith(f"{spec}: {message}")


@pytest.mark.filterwarnings("default")
def test_a_model_id_without_a_network(monkeypatch: pytest.MonkeyPatch):
    need("transformers")
    hub = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)

    with pytest.raises(TargetError, match="could not read that configuration from the hub"):
        load("hf:nobody/no-such-model-at-all")()  # type: ignore[operator]


@pytest.mark.filterwarnings("default")
def test_detection_models_are_built_without_downloads():
    need("torchvision")

    assert load("torchvision:fasterrcnn_mobilenet_v3_large_fpn")() is not None  # type: ignore[operator]


@pytest.mark.filterwarnings("default")
def test_the_command(capsys: pytest.CaptureFixture[str]):
    need("timm")

    assert main(["check", "timm:resnet18", "--input", "8x3x64x64"]) == 0
    assert "timm:resnet18" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["ConvNet", "Transformer", "DeepTanh", "ForgottenHead"])
def test_the_examples(name: str):
    examples = Path(__file__).parents[2] / "docs" / "examples"
    inputs = "8x32:int64" if name == "Transformer" else None

    assert check_init(load(f"{examples}/models.py:{name}"), inputs).ok is (name in ("ConvNet", "Transformer"))
