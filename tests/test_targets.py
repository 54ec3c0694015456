"""Specs: how they are read, and what is said when nothing is there."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from torch import nn

from pytest_initcheck.errors import TargetError
from pytest_initcheck.models.targets import Target, load, parse_target


@pytest.mark.parametrize(
    ("line", "target", "identifier"),
    [
        ("pkg.mod:Net", Target("pkg.mod:Net"), "pkg.mod:Net"),
        ("a/b.py:Net.make  input=2x3", Target("a/b.py:Net.make", "2x3"), "a/b.py:Net.make[input=2x3]"),
        ("timm:r input=2x3 input=4", Target("timm:r", "2x3; 4"), "timm:r[input=2x3; 4]"),
        ("hf:x/y seed=3 ignore=a ignore='b c'", Target("hf:x/y", None, {"seed": "3", "ignore": ["a", "b c"]}), "hf:x/y[seed=3,ignore=a,ignore=b c]"),
        ("m:N activation_std=h.*=0:1", Target("m:N", None, {"activation_std": ["h.*=0:1"]}), "m:N[activation_std=h.*=0:1]"),
        ("'hf:GPT2Config(n_layer=2, n_embd=64)'", Target("hf:GPT2Config(n_layer=2, n_embd=64)"), "hf:GPT2Config(n_layer=2, n_embd=64)"),
        ("'C:/some where/m.py:Net'", Target("C:/some where/m.py:Net"), "C:/some where/m.py:Net"),
    ],
)  # fmt: skip
def test_lines(line: str, target: Target, identifier: str):
    assert parse_target(line) == target
    assert parse_target(line).id == identifier


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "an empty line names no model"),
        ("resnet18", "'resnet18' names no model: write pkg.mod:Factory, path/file.py:Factory, timm:NAME"),
        ("m:N 2x3", "m:N 2x3: '2x3' must be name=value, such as input=2x3x32x32 or seed=1"),
        ("m:N input=", "m:N input=: 'input=' must be name=value"),
        ("m:N sed=3", "m:N sed=3: unknown setting 'sed' (known: input, seed, "),
        ("m:N seed=1 seed=2", "m:N seed=1 seed=2: seed is given twice: give it once"),
        ("m:N input=2x3 input=32xQ", "m:N input=2x3 input=32xQ: input '32xQ' is not a shape"),
        ("m:N input=a=2 input=a=3", "names one keyword twice"),
        ("m:N input=2x3:floaty", "unknown dtype 'floaty'"),
        ("m:N seed=x", "m:N seed=x: seed must be a whole number of at least 0 (got 'x')"),
        ("m:N seeds=0", "seeds must be a whole number of at least 1 (got '0')"),
        ("m:N dtype=foo", "dtype must be a floating dtype: float32, bfloat16, float16, float64 (got 'foo')"),
        ("m:N device=cuda:x", "device must be a device such as cpu, cuda or cuda:1 (got 'cuda:x')"),
        ("m:N activation_std=3:1", "activation_std must be a pair (low, high)"),
        ("m:N mode=both", "mode must be one of train, eval, as-is (got 'both')"),
        ("m:N deferred=a-b", "deferred must be the name of a method such as init_weights (got 'a-b')"),
        ("m:N debug=perhaps", "debug must be true or false (got 'perhaps')"),
        ("m:N 'x", "cannot be split into words (No closing quotation): close the quotes"),
        ("m:N(2)", "m:N(2): arguments must be name=literal"),
        ("m:N(w=open)", "m:N(w=open): arguments must be name=literal"),
        ("m:N(w=)", "m:N(w=): arguments must be name=literal"),
    ],
)
def test_bad_lines(line: str, message: str):
    with pytest.raises(TargetError) as caught:
        parse_target(line)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A package, a file beside it, and files that cannot be imported."""
    package = tmp_path / "aquarium"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sizes.py").write_text("WIDTH = 5\n")
    (package / "fish.py").write_text(
        "from torch import nn\nfrom .sizes import WIDTH\n\n"
        "class Net(nn.Linear):\n    def __init__(self, width=WIDTH, act='relu'):\n        super().__init__(3, width)\n\n"
        "class Needs(nn.Linear):\n    pass\n\n"
        "def boom():\n    raise ValueError('no water\\nat all')\n\n"
        "def number():\n    return 3\n\n"
        "class Shop:\n    make = staticmethod(Net)\n\n"
        "built = Net()\nconstant = 4\n"
    )
    (tmp_path / "beside.py").write_text("from neighbour import Net\n")
    (tmp_path / "neighbour.py").write_text(
        "from torch import nn\n\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(3, 2)\n"
    )
    (tmp_path / "broken.py").write_text("import no_such_thing\n")
    (tmp_path / "wrong.py").write_text("def (\n")
    (tmp_path / "script.py").write_text("raise SystemExit(3)\n")
    return tmp_path


@pytest.fixture(autouse=True)
def _forget_the_project():
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("aquarium", "beside", "neighbour", "broken", "wrong", "script", "_initcheck_")):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("spec", "width"),
    [
        ("aquarium.fish:Net", 5),
        ("aquarium.fish:Net(width=7)", 7),
        ("aquarium.fish:Shop.make", 5),
        ("aquarium/fish.py:Net", 5),
        ("./aquarium/fish.py:Net(width=2)", 2),
        ("beside.py:Net", 2),
        ("beside:Net", 2),
    ],
)
def test_factories(project: Path, spec: str, width: int):
    path = list(sys.path)

    factory = load(parse_target(f"'{spec}'"), root=project)

    assert not isinstance(factory, nn.Module)
    model = factory()
    assert isinstance(model, nn.Linear)
    assert model.out_features == width
    assert factory() is not model
    assert sys.path == path


def test_absolute_path(project: Path):
    assert load(f"{project}/beside.py:Net")().out_features == 2


def test_two_files_of_the_same_name_do_not_meet(project: Path):
    for name, width in (("one", 1), ("two", 2)):
        (project / name).mkdir()
        (project / name / "models.py").write_text(f"from torch import nn\ndef net(): return nn.Linear(1, {width})\n")

    assert [load(f"{d}/models.py:net", root=project)().out_features for d in ("one", "two")] == [1, 2]
    assert "models" not in sys.modules


def test_built_module_is_copied(project: Path):
    first, second = (load("aquarium.fish:built", root=project) for _ in range(2))

    assert isinstance(first, nn.Module)
    assert first is not second
    assert torch.equal(first.weight, second.weight)
    assert first.weight is not sys.modules["aquarium.fish"].built.weight


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no.such:Net", "no.such:Net: there is no module 'no' (looked in "),
        ("aquarium.bird:Net", "there is no module 'aquarium.bird'"),
        ("nowhere.py:Net", "there is no file"),
        ("no-module:Net", "names no model"),
        ("broken:Net", "importing broken failed (ModuleNotFoundError: No module named 'no_such_thing'): install"),
        ("broken.py:Net", "importing broken.py failed (ModuleNotFoundError: No module named 'no_such_thing'): install"),
        ("wrong:Net", "importing wrong failed (SyntaxError: "),
        ("script.py:Net", "importing script.py ended the program (SystemExit: 3): put what runs as a script under"),
        ("aquarium.fish:Nat", "aquarium.fish has no 'Nat' (did you mean Net"),
        ("aquarium.fish:Shop.mak", "Shop has no 'mak' (did you mean make?)"),
        ("aquarium.fish:constant", "constant is an int, expected a model class, a factory or an nn.Module"),
        ("aquarium.fish:Needs", "Needs cannot be called like this (missing a required argument: 'in_features')"),
        ("aquarium.fish:Net(depth=3)", "Net cannot be called like this (got an unexpected keyword argument 'depth')"),
        ("aquarium.fish:built(width=3)", "built is a built model and takes no arguments"),
    ],
)
def test_what_cannot_be_loaded(project: Path, spec: str, message: str):
    path = list(sys.path)

    with pytest.raises(TargetError) as caught:
        load(spec, root=project)

    assert message in str(caught.value)
    assert spec in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("boom", "aquarium.fish:boom: building the model failed (ValueError: no water)"),
        ("number", "aquarium.fish:number: the factory returned an int, expected an nn.Module"),
    ],
)
def test_what_cannot_be_built(project: Path, name: str, message: str):
    factory = load(f"aquarium.fish:{name}", root=project)

    with pytest.raises(TargetError) as caught:
        factory()

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("spec", "extra"), [("timm:resnet18", "timm"), ("torchvision:resnet18", "torchvision"), ("hf:gpt2", "transformers")]
)
def test_missing_library(monkeypatch: pytest.MonkeyPatch, spec: str, extra: str):
    monkeypatch.setitem(sys.modules, extra, None)

    with pytest.raises(
        TargetError, match=rf"{spec} needs {extra}, not installed: pip install 'pytest-initcheck\[{extra}\]'"
    ):
        load(spec)


class Lazy(ModuleType):
    """Imports its parts when they are asked for, as transformers does, and cannot import some."""

    CONFIG_MAPPING: ClassVar[dict[str, object]] = {"gpt2": object}

    def __getattr__(self, name: str) -> object:
        if name in ("PreTrainedModel", "GPT2Config", "AutoModel"):
            try:
                raise RuntimeError("operator torchvision::nms does not exist\nand more")
            except RuntimeError as error:
                raise ModuleNotFoundError(f"Could not import module '{name}'.") from error
        if name == "PretrainedConfig":
            return int
        raise AttributeError(name)


@pytest.mark.parametrize(
    ("name", "part"), [("gpt2", "PreTrainedModel"), ("GPT2Config", "GPT2Config"), ("no/such", "PreTrainedModel")]
)
def test_a_library_that_cannot_import_its_parts(monkeypatch: pytest.MonkeyPatch, name: str, part: str):
    monkeypatch.setitem(sys.modules, "transformers", Lazy("transformers"))

    with pytest.raises(TargetError) as caught:
        load(f"hf:{name}")

    assert str(caught.value) == (
        f"hf:{name}: transformers could not import {part} (RuntimeError: operator torchvision::nms does not exist): mend or "
        f"take out the library it needs for that, such as a torchvision that does not fit torch {torch.__version__}"
    )


def test_a_library_that_cannot_import_what_it_builds(monkeypatch: pytest.MonkeyPatch):
    fake = Lazy("transformers")
    fake.PreTrainedModel = str  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", fake)

    with pytest.raises(TargetError, match="hf:gpt2: transformers could not import AutoModel"):
        load("hf:gpt2")()
