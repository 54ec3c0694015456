"""Inputs: every form they come in, and what models let infer."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_initcheck import ProbeError, SettingsError
from pytest_initcheck.models.drawing import vocabulary
from pytest_initcheck.models.inputs import resolve_inputs
from pytest_initcheck.models.shapes import DTYPES, Shape, parse_shapes

LINEAR = nn.Linear(4, 2)


class TestShapes:
    def test_one(self) -> None:
        assert parse_shapes("2x3x32x32") == (Shape(None, (2, 3, 32, 32)),)

    def test_several_with_names_dtypes_and_bounds(self) -> None:
        assert parse_shapes(" 8x64:int64:100 ; mask = 8X64:bool;3,4 : torch.float64") == (
            Shape(None, (8, 64), "int64", 100),
            Shape("mask", (8, 64), "bool"),
            Shape(None, (3, 4), "float64"),
        )

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "names no input"),
            ("axb", "is not a shape"),
            ("2x", "is not a shape"),
            ("2x3:floaty", "unknown dtype 'floaty'"),
            ("2x3:float32:7", "upper bound"),
            ("2x3:int64:0", "upper bound"),
            ("0x3", "size 0"),
            ("2x-3", "size -3"),
            (
                "99999999999999999999x8",
                r"asks for 3,199,999,999,999,999,999,968 bytes .*, more than any tensor can have",
            ),
            ("9" * 900, r"asks for about 10\^900 bytes, more than any tensor can have"),
            ("9" * 5000, "is not a shape"),
            ("a=2;a=3", "one keyword twice"),
        ],
    )
    def test_what_cannot_be_read_is_one_sentence(self, text: str, says: str) -> None:
        with pytest.raises(SettingsError, match=says) as caught:
            parse_shapes(text)
        assert "\n" not in str(caught.value)

    def test_dtypes_are_torch_s(self) -> None:
        for name, (known, size) in DTYPES.items():
            assert getattr(torch, name) is getattr(torch, known)
            assert torch.empty(0, dtype=getattr(torch, known)).element_size() == size

    @pytest.mark.parametrize("text", ["1000000000000x8", "2x4; y=1000000000000x8:int64"])
    def test_what_does_not_fit_is_one_sentence_that_says_how_much(self, text: str) -> None:
        with pytest.raises(
            ProbeError, match=r"1000000000000x8.* ask(s)? for [\d,]+ bytes \(.* TB\), this machine has"
        ) as caught:
            resolve_inputs(LINEAR, text)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("error", [RuntimeError("can't allocate\nmemory"), MemoryError()])
    def test_what_the_allocator_refuses_is_one_sentence(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuses(*_: object, **__: object) -> Tensor:
            raise error

        monkeypatch.setattr(torch, "randn", refuses)
        with pytest.raises(
            ProbeError, match=r"^the input 2x4 asks for 32 bytes, which could not be allocated: give"
        ) as caught:
            resolve_inputs(LINEAR, "2x4")
        assert caught.value.__cause__ is error

    @given(st.text(max_size=20))
    @settings(deadline=None)
    def test_any_text_parses_or_is_refused(self, text: str) -> None:
        with contextlib.suppress(SettingsError):
            assert parse_shapes(text)

    def test_values(self) -> None:
        model = nn.Sequential(nn.Embedding(7, 2), nn.Embedding(30, 2))
        assert vocabulary(model) == 7
        call = resolve_inputs(model, "500:int64;500;50:bool;20:int64:3;5:complex64")
        ids, floats, flags, few, z = call.args
        assert (int(ids.min()), int(ids.max())) == (0, 6)
        assert float(floats.std()) == pytest.approx(1, abs=0.2)
        assert 0 < int(flags.sum()) < 50
        assert int(few.max()) == 2
        assert z.is_complex()

    def test_the_vocabulary_is_the_config_s_where_there_is_one(self) -> None:
        model = nn.Sequential(nn.Embedding(2, 4), nn.Embedding(50, 4))
        model.config = SimpleNamespace(vocab_size=50)
        assert vocabulary(model) == 50


class TestForms:
    def test_tensor_tuple_dict_both_and_callable(self) -> None:
        a, b = torch.randn(3, 4), torch.randn(3, 5)
        call = resolve_inputs(LINEAR, a)
        assert len(call.args) == 1
        assert (call.kwargs, call.described, call.batch, call.source) == ({}, ("float32[3, 4]",), 3, "given")
        assert len(resolve_inputs(LINEAR, (a, b)).args) == 2
        assert list(resolve_inputs(LINEAR, {"x": a}).kwargs) == ["x"]
        both = resolve_inputs(LINEAR, (a, {"y": b}))
        assert (len(both.args), list(both.kwargs)) == (1, ["y"])
        assert both.described == ("float32[3, 4]", "y float32[3, 5]")
        assert len(resolve_inputs(LINEAR, lambda: (a, b)).args) == 2
        assert len(both.tensors) == 2

    def test_the_same_seed_makes_the_same_inputs(self) -> None:
        one, two, other = (resolve_inputs(LINEAR, "3x4", seed=s).args[0] for s in (1, 1, 2))
        assert torch.equal(one, two)
        assert not torch.equal(one, other)

    def test_global_generators_are_left_alone(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 62 * 62, 2))
        state = torch.get_rng_state()
        resolve_inputs(model, None)
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_user_s_tensors_are_copied(self) -> None:
        x = torch.randn(3, 4, requires_grad=True)
        call = resolve_inputs(LINEAR, x)
        assert call.args[0] is not x
        assert call.args[0].requires_grad
        assert torch.equal(call.args[0], x)

    def test_dtypes_follow_a_half_precision_model_and_the_user(self) -> None:
        half = nn.Linear(4, 2).bfloat16()
        assert resolve_inputs(half, torch.randn(3, 4)).args[0].dtype == torch.bfloat16
        assert resolve_inputs(half, "8:int64").args[0].dtype == torch.int64
        assert resolve_inputs(LINEAR, torch.randn(3, 4), dtype="float64").args[0].dtype == torch.float64
        assert resolve_inputs(LINEAR, torch.randn(3, 4), device="meta").args[0].device.type == "meta"

    def test_samples_are_counted_where_the_model_has_them(self) -> None:
        assert resolve_inputs(nn.LSTM(4, 5), "7x3x4").batch == 3
        assert resolve_inputs(nn.LSTM(4, 5, batch_first=True), "7x3x4").batch == 7
        assert resolve_inputs(LINEAR, torch.tensor(3.0)).batch is None

    @pytest.mark.parametrize("bad", [3, {1: torch.ones(2)}, object()])
    def test_other_things_are_refused(self, bad: Any) -> None:
        with pytest.raises(SettingsError):
            resolve_inputs(LINEAR, bad)

    def test_a_callable_that_raises(self) -> None:
        with pytest.raises(ProbeError, match="inputs callable raised ZeroDivisionError"):
            resolve_inputs(LINEAR, lambda: 1 / 0)

    def test_a_callable_that_runs_out_of_memory(self) -> None:
        def inputs() -> Tensor:
            raise MemoryError

        with pytest.raises(ProbeError, match=r"inputs callable raised MemoryError$"):
            resolve_inputs(LINEAR, inputs)

    def test_what_cannot_be_moved(self) -> None:
        class Graphs:
            def to(self, device: torch.device) -> Graphs:
                raise RuntimeError("no graph moves\nlike this")

        class Unmovable(Tensor):
            def to(self, *_: Any, **__: Any) -> Tensor:
                raise RuntimeError("stays here")

        with pytest.raises(
            ProbeError, match=r"Graphs cannot be moved to cpu: its method to raised RuntimeError: no graph moves$"
        ):
            resolve_inputs(LINEAR, (torch.ones(2, 4), [Graphs()]))
        with pytest.raises(ProbeError, match=r"moved to cpu as torch\.float32: it raised RuntimeError: stays here"):
            resolve_inputs(LINEAR, torch.ones(2, 4).as_subclass(Unmovable))


class Lightning(nn.Module):
    def __init__(self, example: Any) -> None:
        super().__init__()
        self.example_input_array = example
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class TestInferred:
    @pytest.mark.parametrize(
        ("model", "described"),
        [
            (nn.Linear(4, 2), "float32[8, 4]"),
            (nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), "float32[8, 4]"),
            (nn.Embedding(9, 3), "int64[8, 16]"),
            (nn.LSTM(4, 2), "float32[16, 8, 4]"),
            (nn.GRU(4, 2, batch_first=True), "float32[8, 16, 4]"),
            (nn.TransformerEncoderLayer(16, 2), "float32[16, 8, 16]"),
            (nn.TransformerEncoderLayer(16, 2, batch_first=True), "float32[8, 16, 16]"),
            (nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)), "float32[8, 3, 32, 32]"),
            (nn.Sequential(nn.Conv2d(1, 4, 7, stride=4), nn.Conv2d(4, 4, 7, stride=4), nn.Conv2d(4, 2, 3)),
             "float32[8, 1, 64, 64]"),
            (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 126 * 126, 3)), "float32[8, 3, 128, 128]"),
            (nn.Conv1d(2, 4, 3), "float32[8, 2, 256]"),
            (nn.Conv3d(2, 4, 3), "float32[8, 2, 16, 16, 16]"),
            (nn.LSTMCell(4, 2), "float32[8, 4]"),
            (Lightning(torch.zeros(5, 4)), "float32[5, 4]"),
            (Lightning((torch.zeros(5, 4),)), "float32[5, 4]"),
            (Lightning({"x": torch.zeros(5, 4)}), "x float32[5, 4]"),
        ],
    )  # fmt: skip
    def test_from_the_model(self, model: nn.Module, described: str) -> None:
        call = resolve_inputs(model, None)
        assert call.described == (described,)
        model(*call.args, **call.kwargs)

    def test_from_a_configured_image_size(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 2, 3))
        model.pretrained_cfg = {"input_size": (3, 24, 24)}
        assert resolve_inputs(model, None).described == ("float32[8, 3, 24, 24]",)

    def test_an_integer_first_layer_wins_over_a_later_one(self) -> None:
        model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2))
        assert int(resolve_inputs(model, None).args[0].max()) < 9

    def test_what_cannot_be_inferred_says_what_to_pass(self) -> None:
        class Bare(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.w = nn.Parameter(torch.ones(3))

        with pytest.raises(ProbeError, match="inputs of Bare cannot be inferred; pass inputs="):
            resolve_inputs(Bare(), None)

    def test_a_convolution_that_runs_at_no_size_tried(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 2))
        with pytest.raises(
            ProbeError, match=r"none of the sizes tried .*; the last raised RuntimeError: mat1 and mat2"
        ):
            resolve_inputs(model, None)

    @pytest.mark.parametrize("error", [ValueError("boom"), SystemExit("boom")])
    def test_what_the_model_itself_raises_is_told(self, error: BaseException) -> None:
        class Raises(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                raise error

        with pytest.raises(ProbeError, match=f"the last raised {type(error).__name__}: boom") as caught:
            resolve_inputs(Raises(4, 2), None)
        assert caught.value.__cause__ is error

    @pytest.mark.parametrize("shape", [None, "8x4"])
    def test_made_up_inputs_fit_a_model_of_doubles(self, shape: str | None) -> None:
        model = nn.Linear(4, 2).double()
        assert resolve_inputs(model, shape).args[0].dtype == torch.float64
        assert resolve_inputs(model, shape, dtype="float64").args[0].dtype == torch.float64
        given = torch.randn(8, 4)
        assert resolve_inputs(model, given).args[0].dtype == torch.float32
