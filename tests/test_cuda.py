"""On a CUDA device: the same verdicts as on the CPU, and nothing left behind there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from pytest_initcheck import apply_init, check_init

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def _loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_for_cuda", Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


RULES = _loaded("test_rules")


def there(value: Any) -> Any:
    """``value`` on the CUDA device, and what it holds."""
    if isinstance(value, torch.Tensor | nn.Module):
        return value.to("cuda")
    if isinstance(value, tuple | list):
        return type(value)(there(v) for v in value)
    return {k: there(v) for k, v in value.items()} if isinstance(value, dict) else value


def found(rule: str, options: dict[str, Any], make: Any, *, cuda: bool) -> list[str]:
    torch.manual_seed(0)
    options = {"inputs": RULES.X, "select": [rule], **options}
    options.pop("twin", None)
    model, inputs = make(), options.pop("inputs")
    if not isinstance(model, nn.Module):
        pytest.skip("built by the check, on the CPU")
    report = check_init(there(model), there(inputs), **options) if cuda else check_init(model, inputs, **options)
    return sorted(f.severity for f in report.findings if f.rule == rule)


@pytest.mark.parametrize("rule", sorted(RULES.SICK_AND_TWIN))
def test_every_rule_says_there_what_it_says_here(rule: str) -> None:
    if rule == "unregistered-parameter":
        pytest.skip("what is not registered stays where it is when a model moves, so that it does not run")
    _, sick, twin, options = RULES.SICK_AND_TWIN[rule]

    assert found(rule, options, sick, cuda=True) == found(rule, options, sick, cuda=False)
    other = {**options, **options.get("twin", {})}
    assert found(rule, other, twin, cuda=True) == found(rule, other, twin, cuda=False)


def stack(gain: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [m for _ in range(8) for m in (nn.Linear(32, 32), nn.ReLU(), nn.Dropout(0.1))]
    model = nn.Sequential(*layers, nn.BatchNorm1d(32), nn.Linear(32, 4))
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            module.weight.data.mul_(gain)
    return model


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_weights_buffers_generators_and_memory_are_as_they_were(gain: float) -> None:
    model, x = stack(gain).cuda(), torch.randn(16, 32, device="cuda")
    check_init(model, x)  # kernels and their workspaces come with the first one
    state = {n: t.clone() for n, t in model.state_dict().items()}
    torch.cuda.manual_seed(3)
    drawn = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(3)
    before, held = torch.cuda.get_rng_state(), torch.cuda.memory_allocated()

    report = check_init(model, x)

    assert report.trace.device.startswith("cuda")
    assert torch.cuda.memory_allocated() == held
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert torch.equal(torch.rand(3, device="cuda"), drawn)
    assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_model_of_the_cpu_is_checked_there_on_a_copy() -> None:
    model = stack()

    report = check_init(model, torch.randn(16, 32), device="cuda")

    assert report.ok, str(report)
    assert report.trace.device == "cuda:0"
    assert {p.device.type for p in model.parameters()} == {"cpu"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_half_precision(dtype: str) -> None:
    x = torch.randn(16, 32)

    assert check_init(stack(), x, device="cuda", dtype=dtype).ok
    found = {f.rule: f.severity for f in check_init(stack(0.01), x, device="cuda", dtype=dtype).findings}
    # Below what float16 holds a scaled loss helps: a warning.
    assert (found.get("half-precision-overflow") == "warning") == (dtype == "float16")
    assert (found.get("input-blind") == "error") == (dtype == "bfloat16")


def test_twice_the_same() -> None:
    model, x = stack(0.3).cuda(), torch.randn(16, 32, device="cuda")
    one, other = check_init(model, x), check_init(model, x)

    assert [(f.rule, f.layers, f.severity, f.fix) for f in one.findings] == [
        (f.rule, f.layers, f.severity, f.fix) for f in other.findings
    ]


def test_a_scheme_is_applied_there() -> None:
    model, x = stack(0.01).cuda(), torch.randn(16, 32, device="cuda")

    apply_init(model, inputs=x)

    assert {p.device.type for p in model.parameters()} == {"cuda"}
    assert check_init(model, x).ok


class Greedy(nn.Module):
    """Asks for more memory than any device has."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x) + torch.empty(1 << 45, device=x.device).sum()
        return out


def test_out_of_memory_is_one_sentence_and_leaves_nothing() -> None:
    model, x = Greedy().cuda(), torch.randn(4, 8, device="cuda")
    held = torch.cuda.memory_allocated()

    with pytest.raises(Exception, match="out of memory") as raised:
        check_init(model, x)

    assert type(raised.value).__name__ == "ProbeError"
    assert "\n" not in str(raised.value)
    del raised
    assert torch.cuda.memory_allocated() == held


def test_the_command_and_the_flag_take_a_device(tmp_path: Path) -> None:
    (tmp_path / "zoo.py").write_text(
        "import torch\nfrom torch import nn\ndef model():\n    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))\n"
        "def test_it():\n    m = model().cuda()\n    assert m(torch.ones(4, 8, device='cuda').cumsum(0)).is_cuda\n"
    )
    (tmp_path / "test_zoo.py").write_text("from zoo import test_it\n")
    command = [sys.executable, "-m", "pytest_initcheck", "check", "zoo.py:model", "--input", "8x8", "--device", "cuda"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    suite = subprocess.run(
        [sys.executable, "-m", "pytest", "--initcheck", "--initcheck-device=cuda", "-p", "no:cacheprovider", "."],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )

    assert said.returncode == 0, said.stdout + said.stderr
    assert "healthy init" in said.stdout
    assert suite.returncode == 0, suite.stdout + suite.stderr
    assert "watched 1 model" in suite.stdout
