"""What is handed over beside the code: the wheel and the sdist, the action, the citation, the versions that are promised."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSION = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "GITHUB_"))}
    return subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=mine | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


# -- wheel and sdist


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_licence(built: Path):
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "pytest_initcheck"
    there = {str(p.relative_to(ROOT)) for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts}

    assert {n for n in names if not n.startswith("pytest_initcheck-")} == there
    assert {"pytest_initcheck/py.typed", "pytest_initcheck/report.schema.json"} <= names
    assert any(n.endswith(".html.jinja") for n in names)
    assert any(n.endswith("licenses/LICENSE") for n in names)
    (points,) = (n for n in names if n.endswith("entry_points.txt"))
    told = zipfile.ZipFile(wheel).read(points).decode()
    assert "[pytest11]\ninitcheck = pytest_initcheck.plugin" in told
    assert "[console_scripts]\ninitcheck = pytest_initcheck.cli:main" in told


@pytest.mark.slow
def test_the_sdist_holds_what_its_tests_and_pages_need(built: Path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}

    needed = ("tests", "docs", ".ci", ".github")
    listed = {str(p.relative_to(ROOT)) for folder in needed for p in (ROOT / folder).rglob("*") if p.is_file()}
    assert {n for n in listed if "__pycache__" not in n} <= names
    assert {p.name for p in ROOT.iterdir() if p.suffix in (".md", ".yml", ".cff", ".toml", ".txt")} <= names
    assert "LICENSE" in names


@pytest.mark.slow
def test_the_wheel_works_without_the_tree(built: Path, tmp_path: Path):
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    shutil.copy(ROOT / "docs" / "examples" / "models.py", tmp_path)

    arguments = ("check", "models.py:ConvNet", "--report", "html:report.html", "--report", "json:report.json")
    done = run(
        sys.executable, "-m", "pytest_initcheck", *arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path / "installed")
    )
    home = run(
        sys.executable,
        "-c",
        "import pytest_initcheck as p; print(p.__file__)",
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path / "installed"),
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert home.stdout.startswith(str(tmp_path / "installed"))


# -- the action


def script_of(action: str, step: str) -> str:
    """The shell script of a step of the action."""
    found = re.search(
        rf"^    - name: {step}\n.*?^      run: \|\n(.*?)(?=^    - name:|\Z)", action, re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return textwrap.dedent(found[1])


@pytest.mark.skipif(os.name == "nt", reason="the script is for bash")
def test_the_action_checks_writes_reports_and_fails_for_a_sick_model(tmp_path: Path):
    shutil.copy(ROOT / "docs" / "examples" / "models.py", tmp_path)
    output, summary = tmp_path / "output", tmp_path / "summary.md"
    bin_ = tmp_path / "bin"  # where "python" is this one
    bin_.mkdir()
    (bin_ / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (bin_ / "python").chmod(0o755)

    done = run(
        "bash",
        "--noprofile",
        "--norc",
        "-eo",
        "pipefail",
        "-c",
        script_of((ROOT / "action.yml").read_text(), "Check"),
        cwd=tmp_path,
        PATH=os.pathsep.join([str(bin_), os.environ["PATH"]]),
        MODELS="models.py:ConvNet\nmodels.py:DeepTanh  # a comment\n",
        OPTIONS="-q",
        RUNNER_TEMP=str(tmp_path),
        GITHUB_OUTPUT=str(output),
        GITHUB_STEP_SUMMARY=str(summary),
    )

    assert done.returncode == 1, done.stdout + done.stderr
    assert "models.py:ConvNet: healthy init" in done.stdout
    assert "models.py:DeepTanh: unhealthy init" in done.stdout
    assert output.read_text() == f"html={tmp_path}/initcheck.html\nsarif={tmp_path}/initcheck.sarif\n"
    assert (tmp_path / "initcheck.html").exists()
    assert (tmp_path / "initcheck.sarif").exists()
    assert "DeepTanh" in summary.read_text(encoding="utf-8")


def test_no_input_of_the_action_is_pasted_into_a_script():
    scripts = re.findall(
        r"run: (?:\|\n)?(.*?)(?=^    - name:|\Z)", (ROOT / "action.yml").read_text(), re.MULTILINE | re.DOTALL
    )

    assert len(scripts) == 2
    assert [s for s in scripts if "${{" in s.partition("\n    - ")[0]] == []


# -- what is promised


def test_the_citation_names_this_version():
    assert VERSION is not None
    assert f"\nversion: {VERSION[1]}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_page_on_versions_names_the_floors():
    page = (ROOT / "docs" / "reference" / "versions.md").read_text()
    floors = re.findall(
        r'"(torch|pytest)>=([\d.]+)"', re.search(r"^dependencies = .*", (ROOT / "pyproject.toml").read_text(), re.M)[0]
    )

    assert {name for name, _ in floors} == {"torch", "pytest"}
    for name, version in floors:
        assert f"{name} {version}" in page
