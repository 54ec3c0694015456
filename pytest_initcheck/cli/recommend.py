"""``initcheck recommend SPEC``."""

from __future__ import annotations

import argparse
import json

from ..errors import SettingsError
from ..models.shapes import parse_shapes
from .command import HEALTHY, columns, user_output_aside


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``initcheck recommend``."""
    parser.add_argument("spec", metavar="SPEC", help="as in initcheck check")
    parser.add_argument(
        "--input", action="append", metavar="SHAPE", help="example input, as in initcheck check (default: inferred)"
    )
    parser.add_argument(
        "--scheme", default="auto", metavar="NAME", help="auto, kaiming_normal, lsuv ... (default: auto)"
    )
    parser.add_argument("--include", action="append", metavar="GLOB", help="only these parameters (repeatable)")
    parser.add_argument("--exclude", action="append", metavar="GLOB", help="not these parameters (repeatable)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed the model is built under (default: 0)")
    parser.add_argument("--as-code", action="store_true", help="print Python to paste into the model's init")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="(default: text)")


def run(arguments: argparse.Namespace) -> int:
    """Print what each parameter's initialization is and should be."""
    from torch import nn

    from ..apply import recommend_init
    from ..models.build import build
    from ..models.targets import load
    from ..surfaces.cases import ModelCase, case_of

    if arguments.as_code and arguments.format == "json":
        raise SettingsError("--as-code and --format=json exclude each other; the JSON has the code of each parameter")
    inputs = "; ".join(arguments.input) if arguments.input else None
    if inputs is not None:
        parse_shapes(inputs)
    with user_output_aside(arguments.format):
        loaded = load(arguments.spec)
        case = case_of(getattr(loaded, "__wrapped__", None)) or ModelCase(loaded)
        model = loaded if isinstance(loaded, nn.Module) else build(loaded, arguments.seed)[0]
        plan = recommend_init(
            model,
            case.inputs if inputs is None else inputs,
            scheme=arguments.scheme,
            include=arguments.include or "*",
            exclude=arguments.exclude or (),
            seed=arguments.seed,
        )
    if arguments.format == "json":
        print(json.dumps(plan.to_dict(), indent=1))
    elif arguments.as_code:
        print(plan.code(), end="")
    else:
        print(f"{arguments.spec}\n{plan.text(width=columns())}")
    return HEALTHY
