"""What a terminal shows while a check takes long, and that nothing of it is left, on a terminal or anywhere else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pytest_initcheck import progress
from pytest_initcheck.phases import doing, told_to

pty = pytest.importorskip("pty")
fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")

#: A line appears at once, or never, where this is imported: what is drawn does not depend on how fast the machine is.
AT_ONCE = "from pytest_initcheck import progress\nprogress.AFTER = 0.0\n"
NEVER = AT_ONCE.replace("0.0", "1e6")

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
    env |= {"TERM": "xterm", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p pytest_initcheck.plugin"}
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


@pytest.mark.parametrize(("columns", "verbose"), [(80, ()), (200, ("-v",))], ids=["narrow-dots", "wide-verbose"])
def test_in_pytest_a_line_comes_and_goes(project: Path, columns: int, verbose: tuple[str, ...]):
    (project / "conftest.py").write_text(NEVER)
    plain = on_a_terminal(["-m", "pytest", "--initcheck", *verbose], project, columns=columns)
    (project / "conftest.py").write_text(AT_ONCE)
    shown = on_a_terminal(["-m", "pytest", "--initcheck", *verbose], project, columns=columns)

    assert "probing" not in plain
    for model, phase in (("zoo.py:Sick", "building"), ("zoo.py:Sick", "trying fixes"), ("Healthy", "backward")):
        assert f"initcheck: probing {model} ({phase}, " in shown
    assert without_times(screen(shown, columns)) == without_times(screen(plain, columns))
    assert "1 failed, 4 passed, 1 unhealthy" in "\n".join(screen(shown, columns))


@pytest.mark.parametrize("arguments", [("-q",), ("-s",), ("-o", "log_cli=true")], ids=" ".join)
def test_nothing_where_it_is_not_wanted_or_would_disturb(project: Path, arguments: tuple[str, ...]):
    (project / "conftest.py").write_text(AT_ONCE)

    assert "probing" not in on_a_terminal(["-m", "pytest", "--initcheck", *arguments], project, columns=80)


def test_nothing_where_there_is_no_terminal(project: Path, capfd: pytest.CaptureFixture[str]):
    (project / "conftest.py").write_text(AT_ONCE)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--initcheck"],
        cwd=project,
        env={**os.environ, "TERM": "xterm"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
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


def test_check_writes_progress_to_stderr_only(project: Path):
    command = ["-m", "pytest_initcheck", "check", "zoo.py:Healthy", "zoo.py:Sick", "--input", "8x8"]

    written = on_a_terminal(command, project, columns=80, only_stderr=True)

    assert "1/2 zoo.py:Sick" in written
    assert screen(written, 80) == [""]


def test_check_of_one_model_waits_and_quiet_shows_nothing(project: Path):
    one = ["-m", "pytest_initcheck", "check", "zoo.py:Healthy", "--input", "8x8"]

    run = "import sys\nfrom pytest_initcheck.cli import main\nmain(sys.argv[1:])"
    assert on_a_terminal(["-c", NEVER + run, *one[2:]], project, columns=80, only_stderr=True) == ""
    written = on_a_terminal(["-c", AT_ONCE + run, *one[2:]], project, columns=80, only_stderr=True)
    assert "initcheck: probing zoo.py:Healthy (forward, " in written
    assert screen(written, 80) == [""]
    assert on_a_terminal([*one[:4], "zoo.py:Sick", *one[4:], "-q"], project, columns=80, only_stderr=True) == ""


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
