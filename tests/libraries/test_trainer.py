"""InitCheck in transformers' Trainer: its own loss is judged, and the run is what it would have been without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from pytest_initcheck import InitcheckWarning, ProbeError, UnhealthyInit

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def _libraries() -> None:
    pytest.importorskip("transformers", exc_type=ImportError)
    pytest.importorskip("accelerate", exc_type=ImportError)


def init_check(*arguments: Any, **keywords: Any) -> Any:
    from pytest_initcheck.callbacks.transformers import InitCheck

    return InitCheck(*arguments, **keywords)


class Tokens(Dataset):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        ids = (torch.arange(12) * (i + 3)) % 50
        return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}


class Stream(IterableDataset):
    """Rows that are gone once they are read."""

    def __init__(self) -> None:
        self.rows = iter(Tokens()[i] for i in range(64))

    def __iter__(self) -> Iterator[Any]:
        return self.rows


def trainer_of(folder: Path, callback: Any, *, sick: bool = False, rows: Any = None) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

    class Own(Trainer):
        """Computes a loss of its own, and remembers what it did."""

        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.losses: list[float] = []
            self.computed: list[int] = []

        def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
            labels = inputs.pop("labels")
            loss, outputs = super().compute_loss(model, {**inputs, "labels": labels}, True, **more)
            self.computed.append(len(labels))
            return (1.5 * loss, outputs) if return_outputs else 1.5 * loss

        def training_step(self, *arguments: Any, **keywords: Any) -> Tensor:
            self.losses.append(float(loss := super().training_step(*arguments, **keywords)))
            return loss

    set_seed(0)
    small = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 50, "n_positions": 16}
    model = GPT2LMHeadModel(GPT2Config(**small, bos_token_id=0, eos_token_id=0))
    if sick:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    quiet = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
    arguments = TrainingArguments(str(folder), max_steps=5, per_device_train_batch_size=8, logging_steps=1, **quiet)
    callbacks = [] if callback is None else [callback]
    return Own(model=model, args=arguments, train_dataset=Tokens() if rows is None else rows, callbacks=callbacks)


def test_five_steps_are_bit_identical(tmp_path: Path):
    def run(callback: Any) -> Any:
        trainer = trainer_of(tmp_path, callback)
        trainer.train()
        logged = [
            {k: v for k, v in row.items() if k in ("loss", "grad_norm", "learning_rate")}
            for row in trainer.state.log_history
        ]
        state = {name: value.tolist() for name, value in trainer.model.state_dict().items()}
        return trainer.losses, trainer.computed, logged, state, trainer.model.training, torch.rand(3).tolist()

    callback = init_check()

    assert run(callback) == run(None)
    assert callback.report.ok
    assert callback.report.model == "GPT2LMHeadModel"
    assert "transformer.h.0.attn.c_attn.weight" in callback.report.trace.parameters


def test_a_sick_model_makes_no_step(tmp_path: Path):
    trainer = trainer_of(tmp_path, init_check(), sick=True)

    with pytest.raises(
        UnhealthyInit, match=r"^GPT2LMHeadModel: unhealthy init: unresponsive at transformer.wte.weight"
    ):
        trainer.train()
    assert trainer.losses == []


def test_a_sick_model_trains_with_a_warning(tmp_path: Path):
    trainer = trainer_of(tmp_path, init_check(on="warn"), sick=True)

    with pytest.warns(InitcheckWarning, match="^GPT2LMHeadModel: unhealthy init"):
        trainer.train()
    assert len(trainer.losses) == 5


def test_data_that_can_be_read_only_once_is_not_read(tmp_path: Path):
    with pytest.raises(ProbeError, match=r"can be read only once, .*give InitCheck\(batch=\.\.\.\) one$"):
        trainer_of(tmp_path, init_check(), rows=Stream()).train()

    callback = init_check(batch=torch.utils.data.default_collate([Tokens()[i] for i in range(8)]))
    trainer = trainer_of(tmp_path, callback, rows=Stream())
    trainer.train()

    assert callback.report.ok
    assert len(trainer.losses) == 5
