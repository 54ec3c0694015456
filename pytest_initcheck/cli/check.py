"""``initcheck check SPEC``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InitcheckError
from ..models.shapes import parse_shapes
from ..phases import doing
from ..settings import SETTINGS, Settings
from ..surfaces import report_files
from ..surfaces.hooked import check_rule_names, run_check
from ..surfaces.options import add_options, flag, given
from ..surfaces.progress import AFTER, counting, on_stderr, probing
from ..surfaces.sources import configuration_in, source_of, source_of_spec
from .command import (
    COULD_NOT_TELL,
    HEALTHY,
    UNHEALTHY,
    add_output_arguments,
    columns,
    use_color,
    user_output_aside,
)

if TYPE_CHECKING:
    import pluggy

    from ..report import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``initcheck check``."""
    parser.add_argument(
        "specs",
        nargs="+",
        metavar="SPEC",
        help="pkg.mod:Factory, path/file.py:Factory, timm:NAME, torchvision:NAME or hf:NAME",
    )
    parser.add_argument(
        "--input",
        action="append",
        metavar="SHAPE",
        help="example input such as 2x3x32x32 or 8x64:int64, once for each argument of the model (default: inferred)",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="(default: text)")
    parser.add_argument("--report", action="append", default=[], metavar="FORMAT:PATH", help=report_files.HELP)
    add_output_arguments(parser)
    add_options(parser.add_argument)


def run(arguments: argparse.Namespace) -> int:
    """Check every model; one that cannot be checked does not keep the others from it."""
    asked = given(arguments)
    inputs = "; ".join(arguments.input) if arguments.input else None
    if inputs is not None:
        parse_shapes(inputs)
    destinations = report_files.parse(arguments.report, called="--report", base=Path.cwd())
    hook = _plugins().hook
    check_rule_names(asked, {s.name: flag(s) for s in SETTINGS}, hook)
    reports: list[Report] = []
    unchecked: dict[int, str] = {}
    status = HEALTHY
    before = ""
    for index, spec in enumerate(arguments.specs):
        try:
            with _progress(arguments, index), user_output_aside(arguments.format):
                report = _check(spec, inputs, asked, hook, several=len(arguments.specs) > 1)
        except Exception as e:
            if asked.get("debug"):
                traceback.print_exception(e)
            elif arguments.verbose and e.__cause__:
                traceback.print_exception(e.__cause__)
            said = _said(e)
            sentence = said if spec in said else f"{spec}: {said}"
            why = said.removeprefix(f"{spec}: ")
            unchecked[index] = getattr(e, "short", "") or why
            reports.append(_not_checked(spec, why))
            print(f"initcheck: {sentence}", file=sys.stderr)
            status = COULD_NOT_TELL
            continue
        if not report.ok and status == HEALTHY:
            status = UNHEALTHY
        if arguments.format == "text":
            text = _text(report, arguments)
            if before and ("\n" in text or "\n" in before):  # one-line verdicts stand under each other
                print()
            print(text, flush=True)
            before = text
        reports.append(report)
    try:
        report_files.write(reports, destinations)
        report_files.append_step_summary(reports)
    except OSError as e:
        print(f"initcheck: a report could not be written: {e}", file=sys.stderr)
        status = COULD_NOT_TELL
    if arguments.format == "json":
        _print_json(reports, several=len(arguments.specs) > 1)
    elif len(arguments.specs) > 1 and not arguments.quiet:
        unhealthy = sum(report.checked and not report.ok for report in reports)
        print(f"\n{_overview(arguments.specs, reports, unchecked)}\n")
        print(f"{len(arguments.specs)} models, {unhealthy} unhealthy, {len(unchecked)} could not be checked")
    return status


def _plugins() -> pluggy.PluginManager:
    import pluggy

    from .. import hookspecs

    manager = pluggy.PluginManager("pytest")
    manager.add_hookspecs(hookspecs)
    manager.load_setuptools_entrypoints("initcheck")
    return manager


def _check(spec: str, inputs: str | None, asked: dict[str, Any], hook: Any, *, several: bool) -> Report:
    if "torch" not in sys.modules:
        doing("importing torch")
    from ..models.targets import load
    from ..surfaces.cases import ModelCase, case_of

    doing("importing")
    model = load(spec)
    # What model_case says about a factory holds here too, so that a failed item can be repeated with its spec.
    case = case_of(getattr(model, "__wrapped__", None)) or ModelCase(model)
    settings = Settings.of(asked, case.settings, shared=0 if several else None)
    given_inputs = case.inputs if inputs is None else inputs
    source = source_of(model, Path.cwd()) or _source(spec)
    return run_check(hook, model, given_inputs, loss=case.loss, settings=settings, name=spec, folder=".", source=source)


def _not_checked(spec: str, why: str) -> Report:
    from ..report import Report

    return Report.not_checked(spec, why, source=_source(spec))


def _source(spec: str) -> str:
    """Where a model stands as far as its spec says it, else the file that configures the project."""
    here = Path.cwd()
    return source_of_spec(spec, here, here) or configuration_in(here)


def _said(error: Exception) -> str:
    if isinstance(error, InitcheckError):
        return str(error)
    first = str(error).strip().partition("\n")[0]  # of a hook of another plugin, or what --debug lets through
    return f"the check ended in {type(error).__name__}{': ' if first else ''}{first} (--debug shows where)"


def _text(report: Report, arguments: argparse.Namespace) -> str:
    from ..render import drawable, summary_line, terminal

    ascii = not drawable(sys.stdout.encoding)
    if arguments.quiet:
        return summary_line(report, ascii=ascii)
    color = use_color(arguments.color)
    return terminal(report, verbose=arguments.verbose, color=color, width=columns(), ascii=ascii)


def _progress(arguments: argparse.Namespace, index: int) -> contextlib.AbstractContextManager[None]:
    """One model is named when it takes long, several are counted from the start."""
    spec, several = arguments.specs[index], len(arguments.specs)
    if arguments.quiet:
        return contextlib.nullcontext()
    if several == 1:
        return on_stderr(probing(spec), after=AFTER)
    return on_stderr(counting(spec, index, several), after=0.0)


def _overview(specs: Sequence[str], reports: Iterable[Report], unchecked: Mapping[int, str]) -> str:
    from ..render import drawable, overview

    rows = [(spec, unchecked.get(i, report)) for i, (spec, report) in enumerate(zip(specs, reports, strict=True))]
    return overview(rows, width=columns(), ascii=not drawable(sys.stdout.encoding))


def _print_json(reports: list[Report], *, several: bool) -> None:
    from ..render import json_text

    texts = [json_text(report) for report in reports]
    if several:
        print("[" + ",\n".join(texts) + "]")
    elif texts:
        print(texts[0])
