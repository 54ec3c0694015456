"""Models drawn from integers: the same ones anywhere, sound where they say so, and faulty as they say."""

from __future__ import annotations

import hashlib
import importlib
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

FOLDER = Path(__file__).parent / "benchmarks"
FAMILIES = (
    "autoencoder", "conv", "conv1d", "encoder", "experts", "flow", "gated", "graph", "implicit", "iterated", "language", "mixer",
    "mixture_density", "mlp", "pooled_sets", "raw_parameters", "recommender", "recurrent", "residual_conv", "residual_mlp",
    "siamese", "state_space", "two_outputs", "unet", "variational", "weight_normed",
)  # fmt: skip
PRINT_BYTES = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from foundry_parts.drawing import draw
for seed in map(int, sys.argv[2:]):
    drawn = draw(seed)
    parts = [p.detach().numpy().tobytes() for p in drawn.model().parameters()] + [x.numpy().tobytes() for x in drawn.inputs()]
    print(seed, hashlib.sha256(b"".join(parts)).hexdigest(), drawn.faults, drawn.units)
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def parts() -> Iterator[Callable[[str], Any]]:
    """Imports a module of the foundry's by its name."""
    sys.path.insert(0, str(FOLDER))
    yield lambda name: importlib.import_module(f"foundry_parts.{name}")
    sys.path.remove(str(FOLDER))


@pytest.mark.slow
def test_a_seed_is_the_same_model_in_every_process() -> None:
    seeds = [str(s) for s in range(1000, 1012)]

    def printed(*asked: str) -> list[str]:
        command = [sys.executable, "-c", PRINT_BYTES, str(FOLDER), *asked]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    first = printed(*seeds)

    assert len({line.split()[1] for line in first}) == len(seeds)
    assert sorted(printed(*reversed(seeds))) == sorted(first)  # whatever was drawn before


def test_building_a_model_again_gives_the_same_bytes(parts: Callable[[str], Any]) -> None:
    for seed in range(40):
        drawn = parts("drawing").draw(seed)

        assert fingerprint(drawn.model()) == fingerprint(drawn.model()), seed


def test_the_families_are_those_the_tests_know(parts: Callable[[str], Any]) -> None:
    drawing = parts("drawing")

    assert sorted(drawing.FAMILIES) == sorted(FAMILIES)
    assert set(drawing.LEFT_OUT) < set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_forward_and_backward(parts: Callable[[str], Any], family: str) -> None:
    for seed in range(4):
        drawn = parts("drawing").design_of(family, seed)
        model = drawn.sound()
        inputs, target = drawn.batch()
        loss = drawn.task.loss(model(*inputs), target)
        loss.backward()
        parameters = dict(model.named_parameters())

        assert torch.isfinite(loss), drawn.design.facts
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in parameters.values()), drawn.design.facts
        assert all(any(n.startswith(head) for n in parameters) for head in drawn.design.head), drawn.design.facts
        assert sum(p.numel() for p in parameters.values()) < 300_000


@pytest.mark.slow  # trains every family
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_from_its_own_initialization(parts: Callable[[str], Any], family: str) -> None:
    training, labelling = parts("training"), parts("labelling")
    learned = []
    for seed in (0, 1, 2):
        drawn = parts("drawing").design_of(family, seed)
        end, _ = training.sound_run(drawn.sound, drawn.task, training.stream(drawn.task, seed), "adam")
        learned.append(training.progress(end, drawn.task, drawn.task.floor))

    assert sorted(learned)[1] > labelling.LEARNED, learned


def test_the_best_constant_prediction_is_no_better_than_the_task_says(parts: Callable[[str], Any]) -> None:
    for family in FAMILIES:
        task = parts("drawing").design_of(family, 3).task

        assert task.floor < task.constant, family


def test_batches_are_cut_from_one_stream_and_none_comes_twice(parts: Callable[[str], Any]) -> None:
    task = parts("drawing").design_of("two_outputs", 0).task
    batches = parts("training").stream(task, 5)

    assert len(batches) == parts("training").STEPS
    assert all(len(inputs[0]) == task.batch for inputs, _ in batches)
    assert len({inputs[0].numpy().tobytes() for inputs, _ in batches}) == len(batches)


def fingerprint(model: nn.Module) -> str:
    data = b"".join(n.encode() + p.detach().numpy().tobytes() for n, p in model.named_parameters())
    return hashlib.sha256(data).hexdigest()


def apply(parts: Callable[[str], Any], kind: str, family: str, seed: int = 0) -> tuple[Any, nn.Module, nn.Module]:
    """A fault, the model that it was done to, and the model as it was."""
    drawn = parts("drawing").design_of(family, seed)
    parts("drawing")
    before, model = drawn.sound(), drawn.sound()
    r = random.Random(f"{kind} {family} {seed}")
    done = None
    for _ in range(20):
        done = parts("faults").FAULTS[kind][1](model, r, drawn.design.head)
        if done is not None:
            break
    assert done is not None
    return done, model, before


@pytest.mark.parametrize("family", ["mlp", "raw_parameters", "weight_normed", "recurrent", "autoencoder", "experts"])
@pytest.mark.parametrize("kind", ["scale", "zero", "distribution", "twice", "unapplied", "head"])
def test_a_local_fault_changes_what_it_names_and_nothing_else(
    parts: Callable[[str], Any], kind: str, family: str
) -> None:
    checked = 0
    for seed in range(8):
        done, model, before = apply(parts, kind, family, seed)
        if not done.units:
            continue
        old = dict(before.named_parameters())
        changed = {n for n, p in model.named_parameters() if not torch.equal(p, old[n])}
        checked += 1

        assert changed <= set(done.parameters)
        units = {parts("weights").unit_of(n, model) for n in done.parameters}
        assert units == set(done.units)
    assert checked


def test_a_scale_is_the_factor_that_it_says(parts: Callable[[str], Any]) -> None:
    weights = parts("weights").weights
    for family in ("mlp", "weight_normed", "raw_parameters", "autoencoder"):
        done, model, before = apply(parts, "scale", family, 1)
        factor = float(done.name.split()[1][1:])
        ratios = [w.rms() / max(old.rms(), 1e-12) for w, old in zip(weights(model), weights(before), strict=True)]
        named = [r for r, w in zip(ratios, weights(model), strict=True) if not done.units or w.unit in done.units]

        assert named == pytest.approx([factor] * len(named), rel=1e-3)


def test_what_is_given_to_a_wrapped_weight_is_what_the_layer_uses(parts: Callable[[str], Any]) -> None:
    model = parts("drawing").design_of("weight_normed", 0).sound()
    weight = parts("weights").weights(model)[0]
    wanted = torch.randn_like(weight.value())
    if weight.wrapped == "weight":
        weight.set_(wanted)

        assert torch.allclose(weight.value(), wanted, atol=1e-5)
    weight.set_(torch.zeros_like(wanted))

    assert weight.raw() is not None


def test_twins_are_exact_and_defects_are_marked(parts: Callable[[str], Any]) -> None:
    for family in ("mlp", "conv", "raw_parameters"):
        done, model, _ = apply(parts, "constant", family, 2)
        changed = [w for w in parts("weights").weights(model) if w.unit in done.units]

        assert done.defect == "error"
        for w in changed:
            rows = w.value().flatten(1) if w.kind == "layer" else w.value().transpose(-1, -2).flatten(0, -2)
            assert torch.equal(rows, rows[:1].expand_as(rows)) or w.value().dim() == 3


def test_what_was_never_written_is_garbage_or_no_number(parts: Callable[[str], Any]) -> None:
    for seed in range(5):
        done, model, _ = apply(parts, "unwritten", "mlp", seed)
        value = model.get_parameter(done.parameters[0]).detach()

        assert done.defect == "error"
        assert not torch.isfinite(value).all() or value.abs().max() > 1e15


def test_a_frozen_layer_needs_only_a_name_and_has_no_gradient(parts: Callable[[str], Any]) -> None:
    done, model, _ = apply(parts, "frozen", "mlp")

    assert done.defect == "named"
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == set(done.parameters)


def test_a_detached_layer_gets_no_gradient_and_an_unused_one_neither(parts: Callable[[str], Any]) -> None:
    for kind in ("detached", "unused"):
        for family in ("mlp", "residual_mlp"):
            done, model, _ = apply(parts, kind, family)
            drawn = parts("drawing").design_of(family, 0)
            inputs, target = drawn.batch()
            drawn.task.loss(model(*inputs), target).backward()

            assert done.defect == "error"
            assert all(model.get_parameter(n).grad is None for n in done.parameters)


def test_gates_norms_and_scales_are_found_where_there_are_any(parts: Callable[[str], Any]) -> None:
    assert apply(parts, "logit_scale", "siamese")[0].units == ["logit_scale"]
    assert apply(parts, "embedding", "recommender")[0].name.startswith("embedding")
    assert "rate" in apply(parts, "recurrent", "state_space")[0].name
    assert apply(parts, "attention", "language")[0].name.startswith("attention")
    assert apply(parts, "norm", "encoder")[0].name.startswith("norm")


def test_labels_follow_progress_under_both_optimizers(parts: Callable[[str], Any]) -> None:
    label_of = parts("labelling").label_of

    assert [label_of(*p)[0] for p in ((0.1, 0.2), (0.9, 0.6), (0.9, 0.4), (0.7, 0.9), (0.2, 0.9))] == [
        "harmed",
        "harmless",
        "hurt",
        "hurt",
        "hurt",
    ]
    assert label_of(0.1, 0.2)[1] == pytest.approx(0.3)
    assert label_of(0.9, 0.6)[1] == pytest.approx(0.05)


@pytest.mark.slow  # trains a few seeds
def test_labels_are_resumed_and_the_same_again(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(FOLDER / "foundry.py"),
        "label",
        "8",
        "11",
        "--out",
        str(tmp_path / "out.jsonl"),
        "--jobs",
    ]
    subprocess.run([*command, "2"], check=True, capture_output=True)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    (tmp_path / "out.jsonl").write_text(lines[0] + "\n" + lines[1][:20])  # cut off
    subprocess.run([*command, "1"], check=True, capture_output=True)

    def labels(text: list[str]) -> set[str]:
        return {line.split(',"seconds"')[0] for line in text if line.endswith("}")}

    assert labels((tmp_path / "out.jsonl").read_text().splitlines()) == labels(lines)
    assert len(lines) == 3


def test_labels_of_another_model_are_refused(parts: Callable[[str], Any]) -> None:
    record = {"seed": 3, "family": "mlp", "origin": "faults", "faults": ["nothing known"], "label": "harmed"}

    with pytest.raises(ValueError, match="another model than the labels are of"):
        parts("scoring").judge((record, False))


@pytest.mark.parametrize("with_loss", [False, True])
def test_a_seed_is_judged_with_and_without_its_loss(parts: Callable[[str], Any], with_loss: bool) -> None:
    drawn = parts("drawing").draw(17)
    record = {"seed": 17, "family": drawn.family, "origin": drawn.origin, "faults": drawn.faults, "label": "sound"}
    _, verdict = parts("scoring").judge((record, with_loss))

    assert "crash" not in verdict
    assert verdict["fail"] in (True, False)


def test_labelling_needs_no_more_than_torch() -> None:
    code = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import foundry; print('pytest_initcheck' in sys.modules, 'tabulate' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "False"]


def test_the_first_name_is_at_fault_next_to_it_or_elsewhere(parts: Callable[[str], Any]) -> None:
    drawn = parts("drawing").design_of("residual_mlp", 3)
    place = parts("scoring")._place
    drawn.units = ["blocks.1.branch.fc1"]

    assert place(drawn, ["blocks.1.branch.fc1.weight"]) == "target"
    assert place(drawn, ["blocks.1.branch.fc1", "head"]) == "target"
    assert place(drawn, ["blocks.1.branch.fc2"]) == "neighbour"
    assert place(drawn, ["blocks.1.branch"]) == "neighbour"  # the module it is in
    assert place(drawn, ["head"]) == "elsewhere"
    assert place(drawn, []) == "elsewhere"


def test_bare_parameters_are_neighbours_in_the_order_of_their_definition(parts: Callable[[str], Any]) -> None:
    drawn = next(
        d
        for d in (parts("drawing").design_of("raw_parameters", s) for s in range(20))
        if d.design.facts["form"] == "plain"
    )
    drawn.units = ["weights.0"]

    assert parts("scoring")._place(drawn, ["weights.0"]) == "target"
    assert parts("scoring")._place(drawn, ["weights.1"]) == "neighbour"
