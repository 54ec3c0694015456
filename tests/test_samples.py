"""What is common to all samples of an output, and samples that read each other; each with a twin where all is well."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_initcheck import check_init
from pytest_initcheck.report import Report


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def severities(report: Report, rule: str) -> list[str]:
    return [f.severity for f in report.findings if f.rule == rule]


# -- what is common to all samples


def offset(by: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    nn.init.constant_(model[2].bias, by)
    return model


def test_a_common_offset_is_a_warning_without_a_loss():
    assert severities(check_init(lambda: offset(60.0), numbers(32, 16)), "offset-output") == ["warning"]
    assert severities(check_init(lambda: offset(3.0), numbers(32, 16)), "offset-output") == []


@pytest.mark.parametrize(("around", "said"), [(0.0, ["error"]), (60.0, [])])
def test_a_loss_tells_whether_the_offset_is_meant(around: float, said: list[str]):
    targets = around + numbers(32, 4)
    report = check_init(lambda: offset(60.0), numbers(32, 16), loss=lambda y: F.mse_loss(y, targets))
    assert severities(report, "offset-output") == said


def test_an_offset_that_costs_little_is_no_error():
    report = check_init(lambda: offset(15.0), numbers(32, 16), loss=lambda y: F.mse_loss(y, numbers(32, 4)))
    assert severities(report, "offset-output") == ["warning"]


def test_one_sample_has_nothing_in_common_with_others():
    assert severities(check_init(lambda: offset(60.0), numbers(1, 16)), "offset-output") == []


# -- samples that read each other


class Applied(nn.Module):
    """A function between two layers."""

    def __init__(self, function: Callable[[Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(16, 8), nn.Linear(width, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


class Layer(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.first, self.between, self.last = nn.Linear(16, 8), nn.Sequential(*layers), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


class Similarities(nn.Module):
    """A table of samples by samples, as contrastive models return: row and column belong to a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(16, 8), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) @ self.right(x).T


ALONE: dict[str, Callable[[], nn.Module]] = {
    "softmax over classes": lambda: Applied(lambda h: h.softmax(-1)),
    "layer norm": lambda: Layer(nn.LayerNorm(8)),
    "batch norm": lambda: Layer(nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8)),
    "batch norm without weights": lambda: Layer(nn.BatchNorm1d(8, affine=False, track_running_stats=False)),
    "functional batch norm": lambda: Applied(lambda h: F.batch_norm(h, None, None, training=True)),
    "dropout": lambda: Layer(nn.Dropout()),
    "similarities": Similarities,
}
TOGETHER: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "softmax over the batch": (lambda: Applied(lambda h: h.softmax(0)), ["warning"]),
    "softmax module over the batch": (lambda: Layer(nn.Softmax(0)), ["warning"]),
    "the mean of the batch": (lambda: Applied(lambda h: h - h.mean(0)), ["note"]),
    "rows in a wrong order": (lambda: Applied(lambda h: h.T.reshape(h.shape)), ["note"]),
    "behind a batch norm": (lambda: Layer(nn.BatchNorm1d(8), nn.Softmax(0)), ["warning"]),
}


@pytest.mark.parametrize("name", ALONE)
def test_samples_that_are_each_for_themselves(name: str):
    assert severities(check_init(ALONE[name], numbers(32, 16)), "mixed-samples") == []


@pytest.mark.parametrize("name", TOGETHER)
def test_samples_that_read_each_other(name: str):
    factory, said = TOGETHER[name]
    report = check_init(factory, numbers(32, 16))
    assert severities(report, "mixed-samples") == said


def test_the_layer_that_mixes_is_named_and_can_be_silenced():
    report = check_init(TOGETHER["behind a batch norm"][0], numbers(32, 16))
    found = next(f for f in report.findings if f.rule == "mixed-samples")
    assert found.layers == ("between.1",)
    again = check_init(TOGETHER["behind a batch norm"][0], numbers(32, 16), ignore=["mixed-samples:between.1"])
    assert severities(again, "mixed-samples") == []


def test_the_model_itself_can_be_silenced():
    report = check_init(Similar(), numbers(32, 16))
    found = next(f for f in report.findings if f.rule == "mixed-samples")
    line = found.silence.split('"')[1]
    assert severities(check_init(Similar(), numbers(32, 16), ignore=[line]), "mixed-samples") == []


class Similar(nn.Module):
    """What mixes is the last thing that the model does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).softmax(0)


def test_a_model_that_frees_its_input_is_asked_with_new_ones():
    class Frees(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x.clone())
            x.untyped_storage().resize_(0)
            return y - y.mean(0)

    report = check_init(Frees(), torch.randn(8, 6, generator=torch.Generator().manual_seed(0)))

    assert report.response.mixing
