"""The documentation says what the code does, and its links lead somewhere."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])


def test_generated_pages_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())

    missing = [link for link in links if not (page.parent / link).exists()]

    assert missing == []


# -- every example on a page is run: files are written, commands give the output shown, Python runs to its end

EXAMPLES = [
    ROOT / "docs" / "tutorial.md",
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
    ROOT / "docs" / "explanation" / "how-the-verdict-works.md",
]
_BLOCK = re.compile(
    r"^(?:<!-- needs: (?P<needs>\w+) -->\n)?```(?P<kind>\w+)(?: title=\"(?P<file>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_NUMBER = r"\d+(?:\.\d+)?(?:e[-+]?\d+)?"
_PROGRAMS = {
    "initcheck": [sys.executable, "-m", "pytest_initcheck"],
    "pytest": [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
    "python": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run"],
}


@pytest.mark.slow  # some forty processes, each of which imports torch
@pytest.mark.parametrize("page", EXAMPLES, ids=lambda p: p.stem)
def test_examples_do_what_the_page_says(page: Path, tmp_path: Path) -> None:
    folder, lacking = tmp_path / "project", set()
    folder.mkdir()
    for block in _BLOCK.finditer(page.read_text()):
        kind, text = block["kind"], textwrap.dedent(block["text"])
        library = block["needs"]
        if library and _run([sys.executable, "-c", f"import {library}"], folder, library).returncode:
            lacking.add(library)
        elif block["file"]:
            (folder / block["file"]).parent.mkdir(parents=True, exist_ok=True)
            (folder / block["file"]).write_text(text)
        elif kind == "python":
            done = _run([sys.executable, "-c", text], folder, library)
            assert done.returncode == 0, done.stderr
        elif kind == "console":
            for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
                program, *arguments = shlex.split(command)
                done = _run([*_PROGRAMS[program], *arguments], folder, library)
                assert _as_shown(shown, done.stdout), f"$ {command}\n{done.stdout}{done.stderr}"
    if lacking:
        pytest.skip(f"only a part of the page was run: {', '.join(sorted(lacking))} cannot be imported")


def _run(command: list[str], folder: Path, library: str | None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "GITHUB_"))}
    environment |= {"COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    if library:  # what lets tests/libraries import torchvision beside a CPU build of torch
        shim = folder.parent / "shim"
        shim.mkdir(exist_ok=True)
        shutil.copy(ROOT / "tests" / "libraries" / "conftest.py", shim / "sitecustomize.py")
        environment["PYTHONPATH"] = os.pathsep.join([str(shim), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", check=False
    )


def _as_shown(shown: str, got: str) -> bool:
    """Whether ``got`` is the output shown: ``...`` stands for anything, measured numbers may differ by a tenth."""
    pattern, numbers = "", []
    for dots, number, other in re.findall(rf"(\.\.\.)|({_NUMBER})|(.)", _flat(shown), re.DOTALL):
        pattern += ".*?" if dots else f"({_NUMBER})" if number else re.escape(other)
        numbers += [float(number)] if number else []
    match = re.fullmatch(pattern, _flat(got), re.DOTALL)
    return match is not None and all(
        math.isclose(a, float(b), rel_tol=0.1) for a, b in zip(numbers, match.groups(), strict=True)
    )


def _flat(text: str) -> str:
    """Without what a measured number moves: bars and runs of blanks."""
    return re.sub(r"[ \u2580-\u259f]+", " ", text).strip()


def test_options_named_anywhere_exist() -> None:
    # Without our conftest.py, which imports torch.
    help_text = subprocess.run(
        [sys.executable, "-m", "pytest", "--help", "--noconftest"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    known = set(re.findall(r"--initcheck[\w-]*", help_text)) | set(
        re.findall(r"^  (initcheck\w*)", help_text, re.MULTILINE)
    )

    named = {
        (page.name, name)
        for page in PAGES
        for name in re.findall(
            r"--initcheck[\w-]*\w|^initcheck\w*(?= =)|(?<=-o )initcheck\w*", page.read_text(), re.MULTILINE
        )
    }

    assert len(named) > 20
    assert {(page, name) for page, name in named if name not in known} == set()
