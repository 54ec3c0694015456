"""The floors of the package, its lazy imports, and what importing it costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_initcheck

PACKAGE = Path(pytest_initcheck.__file__).parent
ROOT = Path(__file__).parents[1]

#: From the ground up. Whatever a module imports, at its top or in a function, stands on its own floor or below.
FLOORS = (
    (
        "budget",
        "errors",
        "phases",
        "race_records",
        "records",
        "report",
        "settings",
        "thresholds",
        "gain_table",
        "words",
    ),
    ("rules",),
    ("sharding",),
    ("probing",),
    ("models", "response"),
    ("race",),
    ("schemes",),
    ("statements",),
    ("mend", "measured", "examine", "seeds"),
    ("streaming",),
    ("check", "apply", "expect"),
    ("render", "article"),
    ("surfaces", "hookspecs"),
    ("plugin", "callbacks"),
    ("cli", "__main__"),
)

#: The imports that go up, in functions all of them.
UP = {("report", "render"): "a report prints itself: records are plain data, and rendering stands above them"}

#: Every import inside a function: why -> (module, what of the package it imports).
LAZY = {
    "a report prints itself": {("report", "render")},
    "torch stays away until a model is checked": {
        ("surfaces.hooked", "check"),
        ("plugin.watch", "check"),
        ("plugin.watch", "plugin.watch_models"),
        ("cli.article", "article"),
        ("cli.recommend", "apply"),
        ("cli.recommend", "models.build"),
    },
    "a run that does not use the plugin has next to nothing of it": {
        ("plugin", "hookspecs"),
        ("plugin", "plugin.fixture"),
        ("plugin", "plugin.hooks"),
    },
    "a run that names no model, or a command that only shows its help, needs none of it": {
        ("cli.check", "hookspecs"),
        ("cli.check", "models.targets"),
        ("cli.check", "render"),
        ("cli.check", "report"),
        ("cli.check", "surfaces.cases"),
        ("cli.recommend", "models.targets"),
        ("cli.recommend", "surfaces.cases"),
        ("plugin.baselines", "report"),
        ("plugin.hooks", "models.targets"),
        ("plugin.hooks", "plugin.baselines"),
        ("plugin.hooks", "report"),
        ("plugin.hooks", "render"),
        ("plugin.items", "models.targets"),
        ("plugin.items", "plugin.baselines"),
        ("plugin.items", "render"),
        ("plugin.watch", "report"),
        ("plugin.watch", "render"),
        ("plugin.watch_told", "report"),
        ("render.code_scanning", "rules"),
        ("surfaces.hooked", "rules"),
        ("surfaces.progress", "render.words"),
        ("surfaces.report_files", "render"),
    },
}

#: Importing these does not import torch: the controller of xdist, --help and the renderers do without it.
WITHOUT_TORCH = (
    "errors",
    "race_records",
    "records",
    "report",
    "settings",
    "thresholds",
    "gain_table",
    "words",
    "rules",
    "render",
    "statements.drift",
    "surfaces.options",
    "surfaces.progress",
    "hookspecs",
    "plugin",
    "plugin.items",
    "plugin.baselines",
    "cli",
)


def dotted(path: Path) -> str:
    """``rules/values.py`` -> ``rules.values``, ``rules/__init__.py`` -> ``rules``, the package's own ``__init__`` -> ``""``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def home(module: str) -> str:
    """The package or top-level module that stands on a floor: ``rules.values`` -> ``rules``."""
    return module.partition(".")[0]


def floor(module: str) -> int:
    return next((i for i, names in enumerate(FLOORS) if home(module) in names), len(FLOORS))


def imports(path: Path, module: str, *, modules: set[str]) -> Iterator[tuple[str, bool]]:
    """Modules of the package that a file imports, and whether inside a function; not those for type checkers only."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    package = [part for part in package if part]
    todo: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text()), False)]
    while todo:
        node, lazy = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo += [(child, lazy) for child in node.orelse]
            continue
        found: list[str] = []
        if isinstance(node, ast.ImportFrom):
            if node.level:
                start = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            elif (node.module or "").partition(".")[0] == PACKAGE.name:
                start = (node.module or "").split(".")[1:]
            else:
                start = None
            if start is not None:
                base = ".".join(part for part in start if part)
                inner = {alias.name: f"{base}.{alias.name}".removeprefix(".") for alias in node.names}
                found = [inner[name] if inner[name] in modules else base for name in inner]
        elif isinstance(node, ast.Import):
            found = [a.name.partition(".")[2] for a in node.names if a.name.startswith(f"{PACKAGE.name}.")]
        yield from ((name, lazy) for name in found if name)
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        todo += [(child, lazy) for child in ast.iter_child_nodes(node)]


IMPORTS = {module: set(imports(path, module, modules=set(MODULES))) for module, path in MODULES.items()}


def test_every_module_has_a_floor_and_only_they_have():
    assert {home(module) for module in MODULES} - {""} == {name for names in FLOORS for name in names}


def test_imports_go_down_only():
    wrong = [
        f"{module} (floor {floor(module)}) imports {name} (floor {floor(name)})"
        for module, found in IMPORTS.items()
        for name, _ in sorted(found)
        if module and floor(name) > floor(module) and (module, name) not in UP
    ]

    assert wrong == []


def test_no_module_imports_itself_in_a_circle():
    left = {m: {n for n, _ in found if (m, n) not in UP} - {m} for m, found in IMPORTS.items()}
    while free := {m for m, names in left.items() if not names & set(left)}:
        left = {m: names for m, names in left.items() if m not in free}

    assert left == {}


def test_lazy_imports_are_those_that_are_listed():
    listed = [pair for pairs in LAZY.values() for pair in pairs]

    assert len(listed) == len(set(listed))
    assert {(m, name) for m, found in IMPORTS.items() for name, lazy in found if lazy} == set(listed)
    assert set(UP) <= set(listed)


def test_the_parser_sees_imports(tmp_path: Path):
    source = tmp_path / "call.py"
    source.write_text(
        "from typing import TYPE_CHECKING\n"
        "from . import graph, nothing\n"
        "from ..records import Trace\n"
        "import pytest_initcheck.errors\n"
        "from pytest_initcheck.rules import function\n"
        "if TYPE_CHECKING:\n    from ..check import check\n"
        "def late():\n    from ..render import terminal\n"
    )
    there = {"probing.graph", "records", "errors", "rules.function", "render", "check"}

    found = set(imports(source, "probing.call", modules=there))

    assert found == {
        ("probing.graph", False),
        ("probing", False),
        ("records", False),
        ("errors", False),
        ("rules.function", False),
        ("render", True),
    }


@pytest.mark.parametrize("page", ["docs/contributing.md", "docs/design.md"])
def test_pages_on_the_tree_name_what_is_there(page: str):
    named = re.findall(
        r"`((?:pytest_initcheck/|tests/|docs/|\w+/)?[\w/]+(?:\.py|\.json|/))`", (ROOT / page).read_text()
    )

    assert [name for name in named if not (PACKAGE / name).exists() and not (ROOT / name).exists()] == []
    if page == "docs/design.md":
        packages = {f"{m}/" for m, path in MODULES.items() if m and "." not in m and path.name == "__init__.py"}
        assert packages <= set(named)


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


#: What torch does not import of itself for a forward and a backward pass, and no check of a plain model needs.
HEAVY = (
    *("numpy", "sympy", "mpmath", "transformers", "tabulate", "jinja2", "matplotlib", "hypothesis"),
    *("torch._dynamo", "torch._inductor", "torch._functorch", "torch.onnx", "torch.fx", "torch.distributed"),
)

FIRST = f"""
import sys, torch
from torch import nn

class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.layer = nn.Embedding(50, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 50)
    def forward(self, ids):
        return self.head(self.layer(self.tokens(ids)))

class Policy(nn.Linear):
    def forward(self, x):
        action = torch.distributions.Normal(super().forward(x), 1.0)
        return action.log_prob(action.sample())

def plain():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

def filled(fill):
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))
    for parameter in model.parameters():
        fill(parameter)
    return model

MODELS = {{
    "plain": (plain, torch.randn(8, 8)),
    "images": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)), torch.randn(4, 3, 8, 8)),
    "scores": (Scores, torch.randint(0, 50, (4, 6))),
    "draws": (lambda: Policy(8, 4), torch.randn(8, 8)),
    "silent": (lambda: filled(nn.init.zeros_), torch.randn(8, 8)),
    "loud": (lambda: filled(lambda p: nn.init.normal_(p, std=3.0)), torch.randn(8, 8)),
    "not a number": (lambda: filled(lambda p: nn.init.constant_(p, float("nan"))), torch.randn(8, 8)),
}}
plain()(torch.randn(8, 8)).sum().backward()
before = set(sys.modules)

from pytest_initcheck import check_init

for name, (factory, inputs) in MODELS.items():
    for model in (factory(), factory):
        str(check_init(model, inputs))
        heavy = [m for m in set(sys.modules) - before if any(m == h or m.startswith(h + ".") for h in {HEAVY})]
        assert not heavy, (name, sorted(heavy))
"""


def test_a_first_check_imports_nothing_heavy():
    run(FIRST)


@pytest.mark.always("arguments0", "arguments2")
@pytest.mark.parametrize("arguments", [("healthy",), ("sick",), ("sick", "--format=json")])
def test_the_command_imports_nothing_heavy(tmp_path: Path, arguments: tuple[str, ...]):
    (tmp_path / "zoo.py").write_text(
        "from torch import nn\n\ndef healthy():\n    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))\n\n"
        "def sick():\n    model = healthy()\n    nn.init.zeros_(model[0].weight)\n    nn.init.zeros_(model[2].weight)\n    return model\n"
    )
    code = f"""
import sys, torch
torch.nn.Linear(2, 2)(torch.randn(2, 2)).sum().backward()
before = set(sys.modules)
from pytest_initcheck.cli import main
main(["check", "zoo.py:" + sys.argv[1], *sys.argv[2:]])
heavy = [m for m in set(sys.modules) - before if any(m == h or m.startswith(h + ".") for h in {(*HEAVY, "pytest")})]
assert not heavy, sorted(heavy)
"""
    run(code, *arguments, cwd=tmp_path)


def test_a_checked_run_imports_nothing_heavy(tmp_path: Path):
    (tmp_path / "pytest.ini").write_text("[pytest]\ninitcheck_models = zoo.py:healthy\n")
    (tmp_path / "zoo.py").write_text("from torch import nn\n\ndef healthy():\n    return nn.Linear(8, 4)\n")
    code = f"""
import sys, torch, pytest
torch.nn.Linear(2, 2)(torch.randn(2, 2)).sum().backward()
before = set(sys.modules)
alone = [f"no:{{name}}" for name in ("hypothesispytest", "randomly", "rerunfailures", "timeout", "pytest_cov", "asyncio", "xdist")]
code = pytest.main(["-q", "-p", "no:cacheprovider", *(word for name in alone for word in ("-p", name)), "--initcheck"])
heavy = [m for m in set(sys.modules) - before if any(m == h or m.startswith(h + ".") for h in {HEAVY})]
assert (code, heavy) == (0, []), (code, sorted(heavy))
"""
    run(code, cwd=tmp_path)


def test_configured_models_are_collected_without_torch(tmp_path: Path):
    (tmp_path / "pytest.ini").write_text("[pytest]\ninitcheck_models =\n    timm:resnet18\n    zoo.py:Net input=2x3\n")

    printed = run(IDLE, "--initcheck", "--collect-only", cwd=tmp_path)

    assert "initcheck::timm:resnet18" in printed


#: Short words that name the same kind of thing in each of their modules, and are never imported from one into the other.
LOCAL = {"Kind", "Model", "Loss", "Factory", "Inputs", "Function", "F", "InitCheck"}


def test_a_name_stands_for_one_thing():
    homes: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).parts[0]
        messages = place in ("words.py", "render", "rules")
        for node in ast.parse(path.read_text()).body:
            names = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                assigned = [t.id for t in node.targets if isinstance(t, ast.Name) and t.id[:1].isupper()]
                names = [n for n in assigned if not n.isupper() or place == "rules"]
            if isinstance(node, ast.FunctionDef) and messages and not node.name.startswith("_"):
                names = [node.name]
            for name in set(names) - LOCAL:
                homes.setdefault(name, set()).add(str(path.relative_to(PACKAGE)))
    shared = {name: sorted(found) for name, found in homes.items() if len(found) > 1}

    assert shared == {}
