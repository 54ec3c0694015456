"""Where the code of a model stands, as ``src/models.py:12``: the line on which code review puts what is found in it."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Folders of libraries, which may lie in a project's own folder and are not its code.
_INSTALLED = {"site-packages", "dist-packages"}
_OURS = Path(__file__).parents[1]
#: Files that configure a project, where nothing of the model's own is known.
_CONFIGURATION = ("pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")


def source_of(model: Any, root: Path) -> str:
    """Return file and line of a model's class or factory, from ``root``; ``""`` where that is not the project's code.

    Args:
        model: module, class or factory.
        root: folder of the project.
    """
    while isinstance(model, functools.partial):
        model = model.func
    if not isinstance(model, type) and not inspect.isroutine(model):
        model = type(model)
    try:
        code = inspect.unwrap(model)
        file = inspect.getsourcefile(code)
        return "" if file is None else _placed(Path(file), inspect.getsourcelines(code)[1], root)
    except Exception:  # code made at run time, a file that changed: where it stands is no part of a verdict
        return ""


def source_of_spec(spec: str, folder: Path, root: Path) -> str:
    """Return file and line of what a spec names, from ``root``, without running any of it; ``""`` for a library's model.

    Args:
        spec: the model as it was asked for.
        folder: what a path of the spec is relative to.
        root: folder of the project.
    """
    where, _, name = spec.partition("(")[0].rpartition(":")
    for file in _files(where, folder):
        if file.is_file():
            return _placed(file.resolve(), _line(file, name.strip().split(".")), root)
    return ""


def configuration_in(root: Path) -> str:
    """Return the first line of the file that configures the project in ``root``; ``""`` where there is none."""
    return next((f"{name}:1" for name in _CONFIGURATION if (root / name).is_file()), "")


def _files(where: str, folder: Path) -> Iterator[Path]:
    if where.endswith(".py") or "/" in where or "\\" in where:
        yield folder / where
    elif where:
        for base in (folder, folder / "src"):
            module = base.joinpath(*where.split("."))
            yield from (module.with_name(f"{module.name}.py"), module / "__init__.py")


def _placed(file: Path, line: int, root: Path) -> str:
    for base in (root, root.resolve()):
        if file.is_relative_to(base):
            inside = file.relative_to(base)
            known = not _INSTALLED & set(inside.parts) and not file.is_relative_to(_OURS)
            return f"{inside.as_posix()}:{max(1, line)}" if known else ""
    return ""


def _line(file: Path, path: list[str]) -> int:
    """The line on which a file binds a dotted name; the first where it does not, or is no Python."""
    try:
        body: list[ast.stmt] = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return 1
    line = 1
    for name in path:
        found = next((node for node in body if name in _bound(node)), None)
        if found is None:
            break
        line, body = found.lineno, getattr(found, "body", [])
    return line


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement binds."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}
