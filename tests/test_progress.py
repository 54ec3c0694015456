"""What a terminal shows while a check takes long, and that nothing of it is left, on a terminal or anywhere else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pytest_initcheck.phases import doing, told_to
from pytest_initcheck.surfaces import progress

pty = pytest.importorskip("pty")
fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")

#: Seconds after which a line appears: what is drawn does not depend on how fast the machine is.
AT_ONCE, NEVER = 0.0, 1e6

#: In each program pytest has our plugin and no other.
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p pytest_initcheck.plugin"}

#: Several runs in one process, which imports torch once: pairs of (the seconds that a line waits, the run's arguments).
RUNS = """
import sys
from pytest_initcheck.surfaces import progress
for progress.AFTER, arguments in {runs!r}:
    from {module} import main
    main(arguments)
    sys.stdout.flush()
    sys.stderr.write("<next run>")
    sys.stderr.flush()
"""

SUITE = """
import torch
from zoo import Healthy, Sick

X = torch.ones(4, 8).cumsum(0)

def test_before():
    pass

def test_healthy():
    print("something captured")
    torch.manual_seed(0)
    Healthy()(X)

def test_sick():
    Sick()(X)
"""

INI = """
[pytest]
initcheck_watch = report
initcheck_models =
    zoo.py:Healthy input=8x8
    zoo.py:Sick input=8x8
"""


def on_a_terminal(arguments: list[str], cwd: Path, *, columns: int, only_stderr: bool = False) -> str:
    """Everything that a program writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, _size(50, columns))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "PYTEST_ADDOPTS")}
    env |= {"TERM": "xterm", **ALONE}
    stdout = subprocess.DEVNULL if only_stderr else theirs
    program = subprocess.Popen(
        [sys.executable, *arguments], cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=theirs
    )
    os.close(theirs)
    found = b""
    try:
        while piece := os.read(ours, 65536):
            found += piece
    except OSError:  # so Linux says that nobody has the other end any more
        pass
    os.close(ours)
    program.wait()
    return found.decode()


def runs_on_a_terminal(module: str, runs: list[tuple[float, list[str]]], cwd: Path, **terminal: Any) -> list[str]:
    """What each of several runs of ``module.main`` writes to a terminal."""
    written = on_a_terminal(["-c", RUNS.format(module=module, runs=runs)], cwd, **terminal)
    *found, rest = written.split("<next run>")
    assert (len(found), rest) == (len(runs), "")
    return found


def _size(rows: int, columns: int) -> bytes:
    return b"".join(n.to_bytes(2, sys.byteorder) for n in (rows, columns, 0, 0))


def screen(written: str, columns: int) -> list[str]:
    """The lines that a terminal shows in the end; it knows the escape sequences that pytest and we use, no others."""
    rows: list[list[str]] = [[]]
    row = column = 0
    for escape, character in re.findall(r"\x1b\[([\d;]*[A-Za-z])|(.)", written, re.DOTALL):
        if escape == "K":
            del rows[row][column:]
        elif escape == "A":
            row -= 1
        elif escape.endswith("C"):
            column += int(escape[:-1])
        elif escape:
            assert escape.endswith("m"), escape
        elif character == "\r":
            column = 0
        elif character == "\n":
            row += 1
        else:
            if column == columns:
                row, column = row + 1, 0
            while row >= len(rows):
                rows.append([])
            rows[row] += [" "] * (column + 1 - len(rows[row]))
            rows[row][column] = character
            column += 1
        while row >= len(rows):
            rows.append([])
    return ["".join(line).rstrip() for line in rows]


def without_times(lines: list[str]) -> list[str]:
    return [re.sub(r"=* (.*) in [\d.]+s.* =*", r"\1", line) for line in lines]


@pytest.fixture
def project(models: pytest.Pytester) -> Path:
    models.makefile(".ini", pytest=INI)
    models.makepyfile(test_suite=SUITE)
    return models.path


@pytest.mark.parametrize(
    ("columns", "verbose"),
    [(80, ()), pytest.param(200, ("-v",), marks=pytest.mark.slow)],
    ids=["narrow-dots", "wide-verbose"],
)
def test_in_pytest_a_line_comes_and_goes(project: Path, columns: int, verbose: tuple[str, ...]):
    arguments = ["--initcheck", "--cache-clear", *verbose]
    plain, shown = runs_on_a_terminal("pytest", [(NEVER, arguments), (AT_ONCE, arguments)], project, columns=columns)

    assert "probing" not in plain
    for model, phase in (("zoo.py:Sick", "building"), ("zoo.py:Sick", "race"), ("Healthy", "backward")):
        assert f"initcheck: probing {model} ({phase}, " in shown, re.findall(r"probing [^,]*", shown)
    assert without_times(screen(shown, columns)) == without_times(screen(plain, columns))
    assert "1 failed, 4 passed, 1 unhealthy" in "\n".join(screen(shown, columns))


def test_nothing_where_it_is_not_wanted_or_would_disturb(project: Path):
    arguments = [["-q"], ["-s"], ["-o", "log_cli=true"]]
    runs = [(AT_ONCE, ["--initcheck", *more]) for more in arguments]

    for more, written in zip(arguments, runs_on_a_terminal("pytest", runs, project, columns=80), strict=True):
        assert "1 failed, 4 passed, 1 unhealthy" in "\n".join(screen(written, 80)), more
        assert "probing" not in written, more


@pytest.mark.slow
def test_nothing_where_there_is_no_terminal(project: Path, capfd: pytest.CaptureFixture[str]):
    (project / "conftest.py").write_text(
        f"from pytest_initcheck.surfaces import progress\nprogress.AFTER = {AT_ONCE}\n"
    )

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--initcheck"],
        cwd=project,
        env={**os.environ, "TERM": "xterm", **ALONE},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "1 failed, 4 passed, 1 unhealthy" in done.stdout
    assert "probing" not in done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("columns", [80, pytest.param(200, marks=pytest.mark.slow)])
def test_check_counts_several_models_and_sums_them_up(project: Path, columns: int):
    specs = ["zoo.py:Healthy", "zoo.py:Sick", "zoo.py:boom"]
    command = ["-m", "pytest_initcheck", "check", *specs, "--input", "8x8"]

    written = on_a_terminal(command, project, columns=columns)

    for done, spec in enumerate(specs):
        bar = "#" * (20 * done // 3)
        assert f"[{bar:.<20}] {done}/3 {spec} (building, " in written
    lines = screen(written, columns)
    assert "/3" not in "\n".join(lines)
    table = lines[lines.index("models:") :]
    assert [line.split()[:2] for line in table[3:6]] == [
        ["zoo.py:Healthy", "healthy"],
        ["zoo.py:Sick", "unhealthy"],
        ["zoo.py:boom", "not"],
    ]
    assert max(map(len, table)) <= 80
    assert "3 models, 1 unhealthy, 1 could not be checked" in table


def test_check_writes_progress_to_stderr_waits_with_one_model_and_quiet_shows_nothing(project: Path):
    one = ["check", "zoo.py:Healthy", "--input", "8x8"]
    two = ["check", "zoo.py:Healthy", "zoo.py:Sick", "--input", "8x8"]

    def written(*runs: tuple[float, list[str]]) -> list[str]:
        return runs_on_a_terminal("pytest_initcheck.cli", list(runs), project, columns=80, only_stderr=True)

    # The command reads the seconds once, when it is imported.
    assert written((NEVER, one)) == [""]
    single, several, quiet = written((AT_ONCE, one), (AT_ONCE, two), (AT_ONCE, [*two, "-q"]))
    assert "initcheck: probing zoo.py:Healthy (importing torch, " in single
    assert "initcheck: probing zoo.py:Healthy (forward, " in single
    assert screen(single, 80) == [""]
    assert "1/2 zoo.py:Sick" in several
    assert screen(several, 80) == [""]
    assert quiet == ""


def test_the_table_of_several_models(models: pytest.Pytester, capsys: pytest.CaptureFixture[str]):
    from pytest_initcheck.cli import main

    main(["check", "zoo.py:Healthy", "zoo.py:Sick", "zoo.py:boom", "--input", "8x8"])

    assert capsys.readouterr().out.endswith(
        """

models:
model           verdict        layers    params  finding
--------------  -----------  --------  --------  -------------------------
zoo.py:Healthy  healthy             3       212  -
zoo.py:Sick     unhealthy           3       212  unresponsive at 0.weight
zoo.py:boom     not checked         -         -  building the model failed

3 models, 1 unhealthy, 1 could not be checked
"""
    )


def test_a_line_appears_during_one_long_phase():
    written: list[str] = []
    drawn = threading.Event()

    def write(text: str) -> None:
        written.append(text)
        drawn.set()

    with progress.Line(write, progress.probing("Net"), after=0.0):
        assert drawn.wait(60)  # nothing here calls it: the thread does

    assert written == ["\r\x1b[Kinitcheck: probing Net (0 s)", *written[1:-1], "\r\x1b[K"]


def test_a_line_below_what_stands_there_is_taken_back():
    written: list[str] = []

    with progress.Line(written.append, progress.probing("Net"), column=17, after=0.0) as line:
        doing("forward")
        line.stop()
        doing("backward")

    assert [screen("x" * 17 + text + "!", 80) for text in ("".join(written),)] == [["x" * 17 + "!", ""]]
    assert "backward" not in "".join(written)


@pytest.mark.parametrize("column", [80, 160])
def test_nothing_is_drawn_where_the_cursor_could_not_be_put_back(column: int):
    written: list[str] = []

    with progress.Line(written.append, progress.probing("Net"), column=column, after=0.0):
        doing("forward")

    assert written == []


def test_long_and_odd_names_stay_in_one_line():
    written: list[str] = []

    with progress.Line(written.append, progress.probing("模型" * 40 + "\n\x1b[2J"), width=60, after=0.0):
        doing("forward")

    assert "\n" not in "".join(written)
    assert "\x1b[2J" not in "".join(written)
    assert all(len(text.removeprefix("\r\x1b[K").encode("utf-16-le")) // 2 < 60 for text in written)


def test_a_terminal_that_went_away_ends_nothing():
    def write(text: str) -> None:
        raise OSError("gone")

    with progress.Line(write, progress.probing("Net"), after=0.0):
        doing("forward")


def test_phases_are_heard_inside_only():
    heard: list[str] = []

    doing("before")
    with told_to(heard.append):
        doing("one")
        with told_to(None):
            doing("not this")
        doing("two")
    doing("after")

    assert heard == ["one", "two"]
