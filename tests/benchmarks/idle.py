"""What the plugin costs a run that does not use it: an empty suite with it and with ``-p no:initcheck``.

    python tests/benchmarks/idle.py [--pairs N]

Prints the medians over paired runs in fresh processes, the median of the differences, and whether torch was imported.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROBE = """
import sys, pytest
code = pytest.main(sys.argv[1:])
print("torch" if "torch" in sys.modules else "no torch", int(code))
"""


def seconds(directory: Path, *arguments: str) -> tuple[float, str]:
    """Wall-clock time of one pytest run in a fresh process, and the last line it printed."""
    # Other plugins cost more than this one and vary more: only pytest and, in one of the two, ours.
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": ""}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "-q", "-p", "no:cacheprovider", *arguments],
        cwd=directory, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return time.perf_counter() - start, done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Run the pairs and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "pytest.ini").write_text("[pytest]\n")
        arms = {"with plugin": ("-p", "pytest_initcheck.plugin"), "-p no:initcheck": ("-p", "no:initcheck")}
        for arguments in arms.values():
            seconds(directory, *arguments)  # fills the caches of bytecode and files
        times: dict[str, list[float]] = {arm: [] for arm in arms}
        imported = set()
        for pair in range(pairs):
            for arm in sorted(arms, reverse=bool(pair % 2)):
                spent, last = seconds(directory, *arms[arm])
                times[arm].append(spent)
                if arm == "with plugin":
                    imported.add(last)
    for arm, values in times.items():
        print(f"{arm:16} {1000 * statistics.median(values):6.1f} ms (median of {pairs})")
    differences = [a - b for a, b in zip(times["with plugin"], times["-p no:initcheck"], strict=True)]
    print(f"{'difference':16} {1000 * statistics.median(differences):6.1f} ms (median of pairs; at most 15 wanted)")
    print(f"{'imported':16} {', '.join(sorted(imported))}")


if __name__ == "__main__":
    main()
