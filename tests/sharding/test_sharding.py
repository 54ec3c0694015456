"""Models that several processes hold together, on gloo: torchrun starts the scripts beside this file, which say what is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
#: Where torch was built without gloo, there is nothing to run.
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="torch.distributed with gloo is not there"
)


def torchrun(script: str | Path, *arguments: str, ranks: int = 2) -> str:
    """Return what the ranks print; a port of its own each time, and no process is left."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    with subprocess.Popen(
        [*command, str(HERE / script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        printed, _ = process.communicate(timeout=1500)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert process.returncode == 0, printed
    return printed


def wrong(printed: str, ranks: int) -> list[str]:
    """Lines about what is not as it should be; every rank must have come to its end."""
    lines = re.sub(r"(?<=.)(?=rank \d+ done)", "\n", printed).splitlines()  # two ranks may share a line
    said = [line.partition("rank ")[2] for line in lines if line.startswith("rank ")]
    assert sorted(line for line in said if line.endswith(" done")) == [f"{r} done" for r in range(ranks)], printed
    return [line for line in said if not line.endswith(" done")]


def test_a_sharded_model_gets_the_report_of_the_whole_one() -> None:
    printed = torchrun("same_verdict.py", "ddp,fsdp,sequence parallel", "healthy", "silent")

    assert wrong(printed, 2) == []


@pytest.mark.slow
@pytest.mark.parametrize("script", ["ends.py", "short.py"])
def test_ranks_that_part_ways_end_with_a_sentence(script: str) -> None:
    assert wrong(torchrun(script), 2) == []


@pytest.mark.slow
def test_codebooks_losses_budgets_and_graphs_that_are_held() -> None:
    assert wrong(torchrun("others.py"), 2) == []


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_what_only_sharding_can_break_is_found(ranks: int) -> None:
    assert wrong(torchrun("faults.py", ranks=ranks), ranks) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "kinds"), [(2, ()), (3, ("healthy", "loud")), (4, ("healthy", "several twins", "loud", "frozen"))]
)
def test_every_layout_gets_the_report_of_the_whole_model(ranks: int, kinds: tuple[str, ...]) -> None:
    printed = torchrun("same_verdict.py", "all", *kinds, ranks=ranks)  # all kinds on two

    assert wrong(printed, ranks) == []
