"""What a check holds at its peak: a bare step's tensors and one copy of the parameters, whatever is asked of the model but a race."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pytest_initcheck.examine import examine
from pytest_initcheck.measured import Request
from pytest_initcheck.report import Report
from pytest_initcheck.settings import Settings

pytestmark = pytest.mark.slow


class Living(TorchDispatchMode):
    """Bytes of the storages that operations made and that are alive; deterministic, unlike a process's memory.

    Those of ``model`` are not counted.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, Any] = {p.untyped_storage()._cdata: None for p in model.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self._add(storage)
        return found

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def gone(_: Any) -> None:
            self._known.pop(key, None)
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def peak(model: nn.Module, work: Callable[[], Any]) -> int:
    gc.collect()
    with Living(model) as living:
        work()
    return living.peak


WIDTH, LAYERS = 384, 24
X = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))


def stack(scale: float = 1.0, bias: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(m for _ in range(LAYERS) for m in (nn.Linear(WIDTH, WIDTH), nn.ReLU())), nn.Linear(WIDTH, 8)
    )
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            module.weight.data.mul_(scale)
            nn.init.constant_(module.bias, bias)
    return model


def one_weight_zero() -> nn.Sequential:
    model = stack()
    nn.init.zeros_(model[12].weight)
    return model


def healthy(report: Report) -> bool:
    return report.ok and report.response.residual is None


def unclear(report: Report) -> bool:
    return report.ok and report.response.residual is not None


def fixed_by(text: str) -> Callable[[Report], bool]:
    return lambda report: not report.ok and any(text in f.fix for f in report.findings)


@pytest.mark.parametrize(
    ("build", "as_meant"),
    [
        (stack, healthy),
        (lambda: stack(0.5), unclear),
        (one_weight_zero, fixed_by("normal_(model.get_parameter('12.weight')")),
        (lambda: stack(0.02), fixed_by("apply_init")),
    ],
    ids=["healthy", "unclear", "one edit", "all anew"],
)
def test_one_copy_of_the_parameters_beside_a_bare_step(
    build: Callable[[], nn.Sequential], as_meant: Callable[[Report], bool]
):
    model = build()
    copy = sum(p.numel() * p.element_size() for p in model.parameters())
    reports: list[Report] = []

    bare = peak(model, lambda: torch.autograd.grad(model(X).sum(), list(model.parameters())))
    # Without a race, which holds its repaired copies besides.
    asked = Request(inputs=X, settings=Settings(time_budget="none"), race="none")
    checked = peak(model, lambda: reports.append(examine(model, asked)))

    assert as_meant(reports[0])
    assert bare > copy
    assert checked <= bare + 1.1 * copy
