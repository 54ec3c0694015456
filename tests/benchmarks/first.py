"""What the first check of a process costs besides the check: the modules that it imports beyond torch's own.

    python tests/benchmarks/first.py [--pairs N]

Each arm is a fresh process that imports torch and takes one training step; the other arms then check a small model for
the first time. Prints the processor time that comes on top (the difference of the two least, of processes in
alternation), and the modules: how many are ours, and which others.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODELS = """
from torch import nn

def healthy():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

def sick():
    model = healthy()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model
"""

STEP = """
import sys, time
import torch
import models
model = models.healthy()
model(torch.randn(4, 8)).sum().backward()
before = set(sys.modules)
"""

END = """
added = sorted(set(sys.modules) - before)
ours = [m for m in added if m.partition(".")[0] == "pytest_initcheck"]
print(len(ours), *(m for m in added if m not in ours))
print(time.process_time())
"""

ARMS = {
    "a training step": "",
    "check_init, healthy": "from pytest_initcheck import check_init; assert check_init(model, torch.randn(8, 8)).ok",
    "check_init, sick": "from pytest_initcheck import check_init; str(check_init(models.sick(), torch.randn(8, 8)))",
    "initcheck check": "from pytest_initcheck.cli import main; main(['check', 'models.py:sick'])",
    "pytest --initcheck": "import pytest; before = set(sys.modules); pytest.main(['--initcheck', *PYTEST])",
}

#: No other plugin than ours.
PYTEST = 'PYTEST = ["-q", "-p", "no:cacheprovider", "-p", "pytest_initcheck.plugin"]'


def run(folder: Path, arm: str) -> tuple[float, str]:
    """Milliseconds of processor time of a fresh process, and what it imported."""
    code = "\n".join((PYTEST, STEP, ARMS[arm], END))
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    imported, seconds = done.stdout.strip().splitlines()[-2:]
    return 1000 * float(seconds), imported


def main() -> None:
    """Run the arms in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    least: dict[str, float] = {}
    imported: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models.py").write_text(MODELS)
        (folder / "pytest.ini").write_text("[pytest]\ninitcheck_models = models.py:sick\n")
        for _ in range(pairs + 1):  # the first fills the caches
            for arm in ARMS:
                spent, imported[arm] = run(folder, arm)
                least[arm] = min(spent, least.get(arm, spent))
    load = f", load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else ""
    print(f"processor time, ms, least of {pairs + 1}{load}")
    base = least["a training step"]
    for arm, spent in least.items():
        ours, _, others = imported[arm].partition(" ")
        more = "" if spent == base else f"   +{spent - base:.0f}, {ours} modules of ours and {others or 'no others'}"
        print(f"{arm:20} {spent:6.0f}{more}")


if __name__ == "__main__":
    main()
