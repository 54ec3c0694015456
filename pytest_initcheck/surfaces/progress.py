"""What is being done, in one line of a terminal, while it takes long; the line is gone afterwards.

A thread that sleeps and writes draws the line, so that it moves during one long forward pass too; it touches nothing
but the terminal. Nothing is drawn where there is none, nor on Windows, whose older consoles know no escape sequences.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING

from ..phases import told_to

if TYPE_CHECKING:
    import pytest

#: Name of the plugin :class:`InPytest`, which is there with ``--initcheck``.
PROGRESS = "initcheck-progress"

#: Seconds after which a model's line appears, and between two looks of it.
AFTER, EVERY = 2.0, 0.5

#: What a line says: phase (``""`` before the first) and whole seconds since the start -> text.
Say = Callable[[str, int], str]

_BAR = 20


class Line:
    """Draws while it is entered; whatever stood on the cursor's line before is there again afterwards.

    Args:
        write: puts text on the terminal at once.
        say: what the line says.
        column: cells of the cursor's line that are taken: if any, the line is drawn below.
        width: cells of a line of the terminal.
        after: seconds until the line appears.
    """

    def __init__(
        self, write: Callable[[str], object], say: Say, *, column: int = 0, width: int = 80, after: float = AFTER
    ) -> None:
        self._write = write
        self._say = say
        self._column = column % width
        self._width = width
        # At the very end of a line terminals differ in where the cursor is, and it could not be put back.
        self._after = after if column == 0 or self._column else float("inf")
        self._phase = ""
        self._drawn = False
        self._started = monotonic()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._left = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._run, name="initcheck-progress", daemon=True)

    def __enter__(self) -> Line:
        self._started = monotonic()
        self._left.enter_context(told_to(self._enter_phase))
        if self._after != float("inf"):
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.close()
        self.stop()
        if self._thread.ident is not None:
            self._thread.join()

    def stop(self) -> None:
        """Clear the line and draw no more."""
        self._over.set()
        with self._lock:
            if self._drawn:
                back = f"\x1b[A\x1b[{self._column}C" if self._column else ""
                self._put(f"\r\x1b[K{back}")
                self._drawn = False

    def _enter_phase(self, phase: str) -> None:
        self._phase = phase
        if monotonic() - self._started >= self._after:
            self._draw()

    def _run(self) -> None:
        wait = self._after
        while not self._over.wait(wait):
            self._draw()
            wait = EVERY

    def _draw(self) -> None:
        with self._lock:
            if self._over.is_set():
                return
            # Imported when it is needed: most checks are over before.
            from ..render.words import cells, cut, shown

            text = shown(self._say(self._phase, int(monotonic() - self._started)))
            if cells(text) >= self._width:
                text = cut(text, self._width - 1)
            start = "\n" if self._column and not self._drawn else "\r"
            self._put(f"{start}\x1b[K{text}")
            self._drawn = True

    def _put(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that went away ends no check
            self._write(text)


def _doing(phase: str, seconds: int) -> str:
    return ", ".join([*([phase] if phase else []), f"{seconds} s"])


def probing(name: str) -> Say:
    """Return what is said of one model: ``initcheck: probing Net (backward, 3 s)``."""
    return lambda phase, seconds: f"initcheck: probing {name} ({_doing(phase, seconds)})"


def counting(name: str, done: int, of: int) -> Say:
    """Return what is said of one model of several: ``[####....] 2/5 Net (backward, 3 s)``."""
    full = _BAR * done // of
    bar = f"[{'#' * full}{'.' * (_BAR - full)}] {done}/{of} {name}"
    return lambda phase, seconds: f"{bar} ({_doing(phase, seconds)})"


def _escapes(isatty: bool) -> bool:
    return isatty and os.name != "nt" and os.environ.get("TERM", "dumb") != "dumb"


@contextlib.contextmanager
def on_stderr(say: Say, *, after: float) -> Iterator[None]:
    """Show on stderr what goes on inside, if that is a terminal."""
    if not _escapes(sys.stderr.isatty()):
        yield
        return

    def write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()

    with Line(write, say, width=_width(sys.stderr.fileno()), after=after):
        yield


def _width(descriptor: int) -> int:
    try:
        return max(20, os.get_terminal_size(descriptor).columns)
    except OSError:
        return max(20, shutil.get_terminal_size().columns)


def shown_in(config: pytest.Config, name: str) -> contextlib.AbstractContextManager[None]:
    """Show in pytest's terminal what goes on inside while ``name`` is checked, if it takes long."""
    plugin: InPytest | None = config.pluginmanager.get_plugin(PROGRESS)
    return contextlib.nullcontext() if plugin is None else plugin.shown(name)


class InPytest:
    """Shows in pytest's terminal which model takes long.

    Not with ``-q``, not in xdist's workers, and not where others write to the terminal while a test runs (``-s``, live
    logs): nobody knows in which column they are.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        #: The terminal itself: while a test runs, pytest's capturing stands in its place.
        self._terminal: int | None = None
        self._line: Line | None = None

    def pytest_sessionstart(self) -> None:
        option = self._config.option
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        quiet = min(self._config.get_verbosity(), self._config.get_verbosity("initcheck")) < 0
        live = self._config.getini("log_cli") if self._config.pluginmanager.has_plugin("logging") else False
        live = live or getattr(option, "log_cli_level", None)
        if reporter is None or quiet or live or getattr(option, "capture", "no") == "no":
            return
        if hasattr(self._config, "workerinput") or not _escapes(reporter.isatty):
            return
        with contextlib.suppress(OSError, ValueError):  # a stdout that is no file
            self._terminal = os.dup(sys.stdout.fileno())

    def pytest_unconfigure(self) -> None:
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None

    def pytest_enter_pdb(self) -> None:
        if self._line is not None:
            self._line.stop()

    @contextlib.contextmanager
    def shown(self, name: str) -> Iterator[None]:
        """As :func:`shown_in`."""
        terminal = self._terminal
        if terminal is None or not os.isatty(terminal):
            yield
            return
        column = self._config.get_terminal_writer().width_of_current_line
        line = Line(
            lambda text: os.write(terminal, text.encode(errors="replace")),
            probing(name),
            column=column,
            width=_width(terminal),
            after=AFTER,
        )
        self._line = line
        try:
            with line:
                yield
        finally:
            self._line = None
