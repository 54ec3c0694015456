"""What cannot be streamed is one sentence, what is kept of a step is what it was, and nothing is left behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import ProbeError, SettingsError, check_init
from pytest_initcheck.cli import main
from pytest_initcheck.probing.statistics import measure, settle
from pytest_initcheck.streaming import changes, shells, stream, sweeps, weights


class Net(nn.Module):
    def __init__(self, width: int = 16):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


class Reading(Net):
    """Its second block multiplies by the first one's weight."""

    def __init__(self):
        super().__init__()
        first = self.layers[0]
        self.layers[1].register_forward_hook(lambda m, a, y: y @ first.weight)


class Tying(Net):
    def __init__(self):
        super().__init__()
        self.layers[1].weight = self.layers[0].weight


class Stacking(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x @ torch.stack([layer.weight for layer in self.layers]).mean(0))


class Asking(Net):
    def __init__(self):
        super().__init__(512)
        self.size = float(self.layers[0].weight.std())


class Loading(Net):
    def __init__(self):
        super().__init__(512)
        self.layers[0]._parameters["weight"] = nn.Parameter(torch.randn(512, 512))


class Clumsy(Net):
    def init_weights(self) -> None:
        raise RuntimeError("no weights today")


@pytest.mark.parametrize(
    ("factory", "settings", "sentence"),
    [
        (Reading, {}, r"layers\.1 reads weights of layers\.0, which cannot be in memory at the same time: name larger blocks"),
        (Stacking, {}, r"layers\.0 reads weights of layers\.1, which cannot be in memory at the same time: name larger blocks"),
        (Tying, {}, r"layers\.0\.weight is a weight of layers\.1 too, and cannot be let go with layers\.0: name larger blocks"),
        (lambda: nn.Linear(3, 3), {}, r"no module of Linear is repeated in a ModuleList or Sequential"),
        (Asking, {}, r"the factory cannot be put on the meta device \(.*\): give one that only constructs, or check without stream"),
        (Loading, {}, r"the factory gives layers\.0\.weight its values before it can be put on the meta device"),
        (Clumsy, {}, r"init_weights of Clumsy cannot initialize layers\.0 alone \(RuntimeError: no weights today\)"),
        (Net, {"deferred": "reset_all"}, r"deferred='reset_all' names no method of Net"),
        (lambda: nn.Sequential(nn.LazyLinear(3), nn.LazyLinear(3)), {}, "has no shape before the first pass"),
    ],
)  # fmt: skip
def test_what_cannot_be_streamed_is_one_sentence(
    factory: Callable[[], nn.Module], settings: dict[str, Any], sentence: str
):
    with pytest.raises(ProbeError, match=sentence) as raised:
        check_init(factory, f"8x{512 if factory in (Asking, Loading) else 16}", stream=True, **settings)

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("model", "settings", "sentence"),
    [
        (Net(), {"stream": True}, "stream needs a factory to build the model again"),
        (Net, {"stream": True, "seeds": 2}, "stream looks at one initialisation"),
        (Net, {"stream": "blocks.*"}, r"stream='blocks\.\*' names no module of Net \(repeated are layers\.\*\)"),
    ],
)
def test_a_setting_that_does_not_fit_is_one_sentence(model: Any, settings: dict[str, Any], sentence: str):
    with pytest.raises(SettingsError, match=sentence):
        check_init(model, "8x16", **settings)


def test_too_little_memory_is_said_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream, "at_hand", lambda: 1000)

    with pytest.raises(ProbeError, match=r"takes .* at a time, .* are at hand: name smaller blocks with stream="):
        check_init(Net, "8x16", stream=True)


def test_a_model_on_meta_that_outgrows_the_memory_is_streamed_unasked(monkeypatch: pytest.MonkeyPatch):
    def on_meta() -> nn.Module:
        with torch.device("meta"):
            return Net()

    with pytest.raises(ProbeError, match="is on the meta device and has no values"):
        check_init(on_meta, "8x16")
    monkeypatch.setattr(stream, "FITS", 1e-9)

    report = check_init(on_meta, "8x16")

    assert report.ok
    assert any("are at hand: it was streamed" in told for told in report.trace.unseen)
    assert not any("streamed" in told for told in check_init(Net, "8x16").trace.unseen)


def test_what_the_init_function_leaves_out_is_found():
    class Forgetful(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
            self.scale = nn.Parameter(torch.ones(16))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x) * self.scale
            return x

    def on_meta() -> nn.Module:
        with torch.device("meta"):
            return Forgetful()

    assert check_init(Forgetful, "8x16", stream=True).ok  # small: it keeps what its constructor gave it
    found = check_init(on_meta, "8x16", stream=True)
    assert [(f.rule, f.layers[:1]) for f in found.findings if "uninitialized" in f.rule] == [
        ("uninitialized-parameter", ("scale",))
    ]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    register, generators = nn.Module.register_parameter, torch.get_rng_state()
    yield
    assert nn.Module.register_parameter is register
    assert torch.equal(torch.get_rng_state(), generators)
    assert threading.enumerate() == [threading.main_thread()] or all(t.daemon for t in threading.enumerate()[1:])


def test_no_more_than_a_block_is_in_memory(monkeypatch: pytest.MonkeyPatch):
    most: list[int] = []
    draw = weights.Weights._draw

    def counted(self: weights.Weights, part: Any) -> None:
        draw(self, part)
        alive = {
            p.untyped_storage()._cdata: p.untyped_storage().nbytes() for q in self.parts for p in q.parameters.values()
        }
        most.append(sum(alive.values()))

    monkeypatch.setattr(weights.Weights, "_draw", counted)
    check_init(lambda: Net(64), "8x64", stream=True)

    block, head = 4 * (64 * 64 + 64), 4 * (4 * 64 + 4)
    assert max(most) == block + head


@pytest.mark.parametrize("numbers", [(3, 5), (8,), (1000, 17)], ids=str)
@pytest.mark.parametrize("zeros", [0, 3, 101], ids=["none", "a third", "few"])
def test_signs_step_as_the_optimizer_does(numbers: tuple[int, ...], zeros: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(changes, "CHUNK", 1000)
    gradient = torch.randn(numbers, generator=torch.Generator().manual_seed(1))
    if zeros:
        gradient.view(-1)[::zeros] = 0
    target, wanted = torch.ones(numbers), torch.ones(numbers)

    kept = changes.signs_of(gradient)
    kept.add_to(target)

    assert torch.equal(target, wanted.add_(gradient.sgn(), alpha=1e-3))
    bits = -(-gradient.numel() // 8)
    assert kept.positive.nbytes == bits
    assert kept.still.nbytes + (kept.moves.nbytes if kept.moves is not None else 0) <= bits * bool(zeros)


def test_a_large_half_precision_tensor_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch):
    x = torch.randn(5000, generator=torch.Generator().manual_seed(2)).bfloat16() * 3 + 1
    monkeypatch.setattr(sweeps, "_PIECE", 512)

    found, wanted = sweeps._stats(x), settle([measure(x)])[0]

    assert found is not None
    assert wanted is not None
    for name in ("count", "mean", "std", "rms", "min", "max", "finite"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-6)


def test_one_bit_a_weight_is_near_and_said(monkeypatch: pytest.MonkeyPatch):
    exact = check_init(lambda: Net(64), "64x64", loss=lambda y: 1e-7 * y.square().mean(), stream=True)
    monkeypatch.setattr(sweeps, "ROOM", 0)

    near = check_init(lambda: Net(64), "64x64", loss=lambda y: 1e-7 * y.square().mean(), stream=True)

    assert 0.2 < near.response.movement[0] / exact.response.movement[0] < 5  # bounds on it are decades apart
    assert any("the movement of the output is an estimate" in told for told in near.trace.unseen)
    assert not any("is an estimate" in told for told in exact.trace.unseen)


def test_the_command_takes_it(tmp_path: Any, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "zoo.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))\n"
    )

    assert main(["check", f"{tmp_path}/zoo.py:net", "--input", "8x8", "--stream", "-v"]) == 0
    assert "were drawn one at a time" in capsys.readouterr().out
    assert main(["check", f"{tmp_path}/zoo.py:net", "--input", "8x8", "--stream=1.*"]) == 2
    assert "names no module of Sequential" in capsys.readouterr().err


def test_shells_have_no_memory_and_keep_ties():
    class Tied(Net):
        def __init__(self):
            super().__init__(512)
            self.head = nn.Linear(512, 512)
            self.head.weight = self.layers[0].weight

    model = shells.built_as_shapes(Tied, 0)
    shells.shelled(model)

    assert model.head.weight is model.layers[0].weight
    assert sum(p.untyped_storage().nbytes() for p in model.parameters()) == 0


class Still(nn.Linear):
    def reset_parameters(self):
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh()


class Stack(Net):
    """Nothing moves its output, so that it is run once more with a graph through which nobody goes back."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Still(16, 16) for _ in range(3))


def test_nothing_stays_of_a_pass_that_nobody_goes_back_through():
    """What an operation saved of its own result would hold the graph for good."""

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())  # asks no object for its class

    check_init(Stack, "8x16", stream=True)
    before = alive()
    report = check_init(Stack, "8x16", stream=True)
    rules = [f.rule for f in report.findings]
    del report

    assert "unresponsive" in rules or "blocked-gradient" in rules or "input-blind" in rules
    assert alive() == before
