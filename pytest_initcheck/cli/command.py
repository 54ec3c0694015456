"""The ``initcheck`` command and its sub-commands.

Exit status: 0 every model is healthy (every row agrees), 1 one is not, 2 could not tell. Reports go to stdout, complaints to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from importlib import import_module

from ..errors import InitcheckError

HEALTHY, UNHEALTHY, COULD_NOT_TELL = 0, 1, 2

#: Sub-command -> (module, one sentence). Each module has ``add_arguments(parser)`` and ``run(arguments) -> int``,
#: and is imported only when its command is named.
COMMANDS = {
    "check": ("check", "say whether models train from the weights they start with"),
    "recommend": ("recommend", "say what each parameter's initialization is and should be"),
    "article": (
        "article",
        "repeat the experiments that led from N(0, 1) to Kaiming, and compare with what was published",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser(words).parse_args(words)
    try:
        return int(arguments.run(arguments))
    except InitcheckError as e:
        print(f"initcheck: {e}", file=sys.stderr)
        return COULD_NOT_TELL
    except BrokenPipeError:  # "| head" has read enough; nothing may be flushed there any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return COULD_NOT_TELL


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="initcheck",
        description="Will this model train from the weights it starts with?",
        epilog="exit status: 0 healthy, 1 unhealthy, 2 could not tell",
    )
    parser.add_argument("--version", action=_Version, help="show the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name, (module, sentence) in COMMANDS.items():
        command = commands.add_parser(name, help=sentence, description=f"{sentence[0].upper()}{sentence[1:]}.")
        if name in words:
            home = import_module(f".{module}", __package__)
            home.add_arguments(command)
            command.set_defaults(run=home.run)
    return parser


class _Version(argparse.Action):
    """``--version``; the metadata is read only when asked for."""

    # argparse passes dest by name
    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:  # noqa: ARG002
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .. import __version__

        print(f"initcheck {__version__}")
        parser.exit()


# -- what the commands share


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``-v``, ``-q`` and ``--color``."""
    parser.add_argument("-v", "--verbose", action="count", default=0, help="show the table of all layers as well")
    parser.add_argument("-q", "--quiet", action="store_true", help="show one line a model")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="(default: auto)")


def user_output_aside(format: str) -> contextlib.AbstractContextManager[object]:
    """Return a context in which what the user's code prints goes to stderr where stdout is for a program to read."""
    return contextlib.redirect_stdout(sys.stderr) if format == "json" else contextlib.nullcontext()


def use_color(choice: str) -> bool:
    """Return whether to write colours to stdout: as asked, else on a terminal unless ``NO_COLOR`` is set."""
    if choice != "auto":
        return choice == "always"
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def columns() -> int:
    """Return the width to render for, 80 to 120."""
    return min(120, max(80, shutil.get_terminal_size().columns))
