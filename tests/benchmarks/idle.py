"""What the plugin costs a run that does not use it: pytest with it installed, and without it.

    python tests/benchmarks/idle.py [--pairs N]

Both arms have pytest and what pytest needs and nothing else: each is a folder that holds just that, the second one this
package too, installed as a wheel installs it. Prints the processor time that the plugin adds (median of the differences of
runs in alternation, each in a fresh process, and their quartiles), its share of bare pytest, and the modules of ours that
were imported. In three settings: where no bytecode can be written (a read-only image, a fresh container), where
everything is cached, and cached with 500 tests.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import pytest_initcheck

#: What pytest consists of; the last ones on some versions of Python only.
PYTEST = ("pytest", "pluggy", "iniconfig", "packaging", "pygments", "exceptiongroup", "tomli", "typing_extensions")

RUN = """
import atexit, sys, time
import pytest
code = pytest.main(sys.argv[1:])
ours = sorted(m for m in sys.modules if m.partition(".")[0] == "pytest_initcheck")
print("torch" if "torch" in sys.modules else "no torch", *ours)
atexit.register(lambda: print(time.process_time(), flush=True))
raise SystemExit(code)
"""

SETTINGS = {
    "nothing cached": (1, {"PYTHONDONTWRITEBYTECODE": "1"}, ("-p", "no:cacheprovider")),
    "cached": (1, {}, ()),
    "500 tests, cached": (500, {}, ()),
}


def bare(folder: Path) -> None:
    """Link pytest and what it needs into a folder."""
    folder.mkdir()
    for name in PYTEST:
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for part in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            if part != "__pycache__":
                (folder / part).symlink_to(Path(str(found.locate_file(part))).resolve())


def installed(folder: Path) -> None:
    """Put this package into a folder as a wheel does: its files, its entry points, and the list of both."""
    home = Path(pytest_initcheck.__file__).parent
    shutil.copytree(home, folder / home.name, ignore=shutil.ignore_patterns("__pycache__"))
    found = metadata.distribution("pytest-initcheck")
    about = folder / f"pytest_initcheck-{found.version}.dist-info"
    about.mkdir()
    for name in ("METADATA", "entry_points.txt", "WHEEL"):
        (about / name).write_text(found.read_text(name) or "")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    (about / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def run(project: Path, path: list[Path], variables: dict[str, str], arguments: tuple[str, ...]) -> tuple[float, str]:
    """Milliseconds of processor time of one pytest run in a fresh process, and what it had imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    done = subprocess.run(
        # -S: without what else is installed
        [sys.executable, "-S", "-c", RUN, "-q", *arguments],
        cwd=project,
        env={**kept, **variables, "PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        check=True,
    )
    imported, seconds = done.stdout.strip().splitlines()[-2:]
    return 1000 * float(seconds), imported


def main() -> None:
    """Run the pairs and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    pairs = parser.parse_args().pairs
    load = f", load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else ""
    print(f"python {sys.version.split()[0]}, pytest {metadata.version('pytest')}, {pairs} pairs{load}")
    print("processor time, ms   bare pytest   added   share   median (quartiles)   (wanted: at most 5 ms added)")
    imported = set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare(folder / "bare")
        for setting, (tests, variables, arguments) in SETTINGS.items():
            project, ours = folder / f"project {tests}", folder / setting
            project.mkdir(exist_ok=True)
            (project / "pytest.ini").write_text("[pytest]\n")
            (project / "test_it.py").write_text("\n".join(f"def test_{i}(): pass\n" for i in range(tests)))
            installed(ours)
            arms = {False: [folder / "bare"], True: [folder / "bare", ours]}
            for path in arms.values():
                run(project, path, variables, arguments)  # fills the caches, where there are any
            times: dict[bool, list[float]] = {arm: [] for arm in arms}
            for pair in range(pairs):
                for arm in (False, True) if pair % 2 else (True, False):
                    spent, found = run(project, arms[arm], variables, arguments)
                    times[arm].append(spent)
                    imported |= {found} if arm else set()
            added = [a - b for a, b in zip(times[True], times[False], strict=True)]
            low, median, high = statistics.quantiles(added, n=4) if pairs > 1 else added * 3
            base = min(times[False])
            least = min(times[True]) - base
            print(
                f"{setting:20} {base:11.0f} {least:7.1f} {least / base:7.1%}   {median:.1f} ({low:.1f} to {high:.1f})"
            )
    for found in sorted(imported):
        print(f"imported: {found}")


if __name__ == "__main__":
    main()
