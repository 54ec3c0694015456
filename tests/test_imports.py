"""The floors of the package, and what importing it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_initcheck

PACKAGE = Path(pytest_initcheck.__file__).parent

#: Top-level module or sub-package -> floor. Imports at the top of a module go to its own floor or below.
FLOORS = {
    "errors": 0, "records": 0, "settings": 0, "phases": 0, "thresholds": 0, "gain_table": 0, "words": 0, "named": 1,
    "statistics": 1, "drift": 1, "baseline_file": 1, "shapes": 1,
    "randomness": 1, "memory": 1, "switches": 1, "state": 2, "graph": 2, "weights": 2, "modules": 2,
    "drawing": 3, "infer": 3, "inputs": 3, "layers": 3, "tracing": 3, "probe": 3, "targets": 3,
    "push": 4, "reach": 4, "response": 4, "localise": 4, "recurrence": 4, "branches": 4, "wiring": 4, "rules": 4,
    "build": 5, "gains": 5, "schemes": 5, "distributions": 5, "origins": 5, "plan": 5, "auto": 5, "choices": 5, "calibrate": 5, "mend": 5,
    "expect": 5, "apply": 5, "check": 6, "verified": 6, "initialized": 6, "scaling": 6,
    "render": 7, "article": 7,
    "options": 8, "configuration": 8, "hookspecs": 8, "hooked": 8, "items": 8, "report_files": 8, "plugin": 8,
    "baselines": 8, "progress": 8, "watch": 8, "watch_models": 8, "unsuited": 3, "surroundings": 2,
    "cli": 8, "cli_check": 8, "cli_recommend": 8, "cli_article": 8, "__main__": 8,
}  # fmt: skip

#: Importing these does not import torch: the controller of xdist, --help and the renderers do without it.
WITHOUT_TORCH = (
    "errors", "records", "settings", "thresholds", "gain_table", "words", "shapes", "targets", "rules", "render",
    "options", "hookspecs", "plugin", "items", "progress", "baselines", "cli",
)  # fmt: skip


def home(path: Path) -> str:
    """``rules/values.py`` -> ``rules``; the package's own ``__init__`` is ``""``."""
    relative = path.relative_to(PACKAGE)
    first = relative.parts[0] if len(relative.parts) > 1 else relative.stem
    return "" if first == "__init__" else first


def imports_at_the_top(path: Path) -> set[str]:
    """Names of the package's own modules that the file imports when it is imported."""
    found: set[str] = set()
    depth = len(path.relative_to(PACKAGE).parts)
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo += node.orelse
            continue
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == depth:
                found.update([module.split(".")[0]] if module else [alias.name for alias in node.names])
            elif node.level == 0 and module.split(".")[0] == PACKAGE.name:
                rest = module.split(".")[1:]
                found.update(rest[:1] or [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            found.update(a.name.split(".")[1] for a in node.names if a.name.startswith(f"{PACKAGE.name}."))
        todo += ast.iter_child_nodes(node)
    return found


def test_every_module_has_a_floor():
    assert {home(path) for path in PACKAGE.rglob("*.py")} - {""} <= set(FLOORS)


def test_imports_go_down_only():
    wrong = [
        f"{path.relative_to(PACKAGE)} (floor {FLOORS.get(home(path))}) imports {name} (floor {FLOORS.get(name)})"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in sorted(imports_at_the_top(path))
        if home(path) and FLOORS.get(name, 9) > FLOORS.get(home(path), 0)
    ]

    assert wrong == []


def test_the_parser_sees_imports():
    source = PACKAGE / "check.py"

    assert {"errors", "probe", "settings"} <= imports_at_the_top(source)


def run(code: str, *arguments: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_no_torch(module: str):
    heavy = (
        "('torch', 'numpy', 'tabulate', 'jinja2', 'matplotlib')"
        if module != "render"
        else "('torch', 'numpy', 'matplotlib')"
    )

    found = run(f"import sys, pytest_initcheck.{module}; print([m for m in {heavy} if m in sys.modules])")

    assert found.strip() == "[]"


def test_the_package_imports_almost_nothing():
    found = run(
        "import sys; before = set(sys.modules); import pytest_initcheck; print(sorted(set(sys.modules) - before))"
    )

    assert "torch" not in found
    assert [m for m in ast.literal_eval(found) if m.startswith("pytest_initcheck.")] == []


def test_public_names_are_there():
    found = run("import pytest_initcheck as p; print([n for n in p.__all__ if getattr(p, n) is None], p.__version__)")

    assert found.startswith("[]")
    assert set(pytest_initcheck.__all__) <= set(dir(pytest_initcheck))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        pytest_initcheck.nothing  # noqa: B018


IDLE = """
import sys, pytest
code = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:asyncio", *sys.argv[1:]])  # it warns where it is not configured
assert code == 0, code
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("arguments", [(), ("-v",), ("--help",), ("--markers",), ("--initcheck-seed=3",)])
def test_an_idle_run_imports_no_torch_and_prints_nothing(tmp_path: Path, arguments: tuple[str, ...]):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")

    printed = run(IDLE, *arguments, cwd=tmp_path)

    if arguments in ((), ("-v",)):
        assert "initcheck:" not in printed
        assert "1 passed" in printed


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["--version"], ["check"], ["chekc"]])
def test_the_command_imports_no_torch_before_it_must(arguments: list[str]):
    code = f"""
import sys
from pytest_initcheck.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
assert "torch" not in sys.modules
assert "pytest" not in sys.modules
"""
    run(code)


def test_configured_models_are_collected_without_torch(tmp_path: Path):
    (tmp_path / "pytest.ini").write_text("[pytest]\ninitcheck_models =\n    timm:resnet18\n    zoo.py:Net input=2x3\n")

    printed = run(IDLE, "--initcheck", "--collect-only", cwd=tmp_path)

    assert "initcheck::timm:resnet18" in printed


#: Short words that name the same kind of thing in each of their modules, and are never imported from one into the other.
LOCAL = {"Kind", "Model", "Loss", "Factory", "Inputs", "Function", "F"}


def test_a_name_stands_for_one_thing():
    homes: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        messages = home(path) in ("words", "render", "rules", "localise")
        for node in ast.parse(path.read_text()).body:
            names = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                assigned = [t.id for t in node.targets if isinstance(t, ast.Name) and t.id[:1].isupper()]
                names = [n for n in assigned if not n.isupper() or home(path) == "rules"]
            if isinstance(node, ast.FunctionDef) and messages and not node.name.startswith("_"):
                names = [node.name]
            for name in set(names) - LOCAL:
                homes.setdefault(name, set()).add(str(path.relative_to(PACKAGE)))
    shared = {name: sorted(found) for name, found in homes.items() if len(found) > 1}

    assert shared == {}
