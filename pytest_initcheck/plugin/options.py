"""What ``pytest --help`` shows: every option and ini as a literal, so that a run that uses none imports nothing. PYTEST_DONT_REWRITE"""

from __future__ import annotations

import pytest

PREFIX = "initcheck-"

#: The settings of a check: name, default, type of the ini, placeholder, help. What :data:`pytest_initcheck.settings.SETTINGS`
#: says, written out (``tests/plugin/test_start.py`` holds the two to each other, and says what to write here).
SETTINGS: tuple[tuple[str, object, str, str, str], ...] = (
    ("seed", 0, "int", "N", "seed of inputs, dropout and random directions; a factory builds under it too (default: 0)"),
    ("seeds", 1, "int", "N", "number of initialisations to look at, where the model is a factory (default: 1)"),
    ("device", None, "string", "DEVICE", "device to probe on; a model that lives elsewhere is copied there (default: none)"),
    ("dtype", None, "string", "DTYPE", "floating dtype to probe in (float32, bfloat16, float16, float64); a copy is cast (default: none)"),
    ("mode", "train", "string", "{train,eval,as-is}", "mode of the modules during the probe (default: train)"),
    ("activation_std", (), "linelist", "BOUNDS", "bounds on every layer's activation std, LOW:HIGH or GLOB=LOW:HIGH; repeatable (default: none)"),
    ("gradient_std", (), "linelist", "BOUNDS", "bounds on every layer's gradient std, LOW:HIGH or GLOB=LOW:HIGH; repeatable (default: none)"),
    ("ignore", (), "linelist", "RULES", "findings to silence, RULE or RULE:LAYER-GLOB; repeatable (default: none)"),
    ("select", (), "linelist", "RULES", "only these rules, RULE or RULE:LAYER-GLOB; repeatable (default: none)"),
    ("frozen", (), "linelist", "GLOBS", "globs of parameters that are frozen on purpose; repeatable (default: none)"),
    ("fail_on", "error", "string", "{error,warning,never}", "least severity that fails (default: error)"),
    ("deferred", None, "string", "METHOD", "also build on the meta device and run this init function of the model (default: none)"),
    ("stream", None, "string", "BLOCKS", "draw a factory's model block by block: true, or the blocks' names (layers.*) (default: none)"),
    ("time_budget", "200x,20s", "string", "LIMITS", "what an unclear model may cost: bare steps (60x), seconds (20s), both, or none (default: 200x,20s)"),
    ("timeout", 120, "int", "SECONDS", "seconds that a rank of a distributed model is waited for (default: 120)"),
    ("debug", False, "bool", "BOOL", "show the traceback behind the sentence where a model could not be checked (default: false)"),
)  # fmt: skip

#: What the id of a configured model's item begins with.
HEAD = "initcheck::"

#: What can be done with the models that tests call.
WATCH = ("report", "fail", "off")
#: Per cent of the suite's own CPU time that looking at them may take unless somebody says otherwise.
BUDGET = 15.0
#: Chance of a false alarm of one run against its baseline unless somebody says otherwise.
ALPHA = 1e-4

_REPORT = "write all reports of the run to a file, FORMAT:PATH; formats: text, json, markdown, html, sarif, github"
_WATCH = (
    "with --initcheck: probe each untrained model when a test first calls it; report what is found, fail for it, or off "
    "(default: report where no model is configured, else off)"
)
_BASELINE = (
    "with --initcheck: compare the initialization of every checked model with this file, and fail where it has changed by "
    "more than chance explains"
)
_ALPHA = "chance that a run against an unchanged baseline raises a false alarm (default: 0.0001)"
_BUDGET = "CPU time that looks at watched models may take, in per cent of the suite's own (default: 15)"

#: Every ini but ``initcheck_models``, which says nothing as long as nobody asks, with the value that says nothing.
SILENT: dict[str, object] = {
    "initcheck": False,
    "initcheck_report": [],
    "initcheck_watch": None,
    "initcheck_watch_budget": None,
    "initcheck_baseline": None,
    "initcheck_baseline_alpha": None,
    "initcheck_junit": False,
    "verbosity_initcheck": "auto",
    **{f"initcheck_{row[0]}": None for row in SETTINGS},
}


#: Text, and since pytest can name two types, a number of ``[tool.pytest]`` as well.
_VERBOSITY: object = int | str if pytest.version_tuple >= (9, 2) else None

#: Where a worker of xdist, which cannot end the run, says why it has to end.
MISUSE = "initcheck_misuse"


def asked(config: pytest.Config) -> bool:
    """Return whether an option, a model's id or a line of the configuration says anything; a value that cannot be read does."""
    given = vars(config.option)
    if any(argument.startswith(HEAD) for argument in config.args):
        return True
    if any(value not in (None, False) for name, value in given.items() if name.startswith("initcheck")):
        return True
    try:
        return any(config.getini(name) != silent for name, silent in SILENT.items())
    except (TypeError, ValueError, pytest.UsageError):
        return True


def marker() -> str:
    """Return the line that ``pytest --markers`` shows."""
    arguments = ", ".join(f"{row[0]}={row[1]!r}" for row in SETTINGS)
    return (
        f"initcheck({arguments}): settings for the models checked in this test; every item that checks a model has it"
    )


def register(parser: pytest.Parser) -> None:
    """Add the options and the ini names."""
    group = parser.getgroup("initcheck", "will the models train from the weights they start with?")
    group.addoption(
        "--initcheck",
        action="store_true",
        default=None,  # tells "not given", which leaves it to the ini
        help="check the models of initcheck_models and of model_case where they start (ini: initcheck = true)",
    )
    group.addoption(
        "--initcheck-report",
        action="append",
        default=None,
        metavar="FORMAT:PATH",
        help=f"with --initcheck: {_REPORT} (repeatable)",
    )
    group.addoption("--initcheck-watch", default=None, metavar="{report,fail,off}", help=_WATCH)
    group.addoption("--initcheck-watch-budget", default=None, metavar="PERCENT", help=_BUDGET)
    group.addoption("--initcheck-baseline", default=None, metavar="PATH", help=_BASELINE)
    group.addoption("--initcheck-update", action="store_true", help="write the baseline instead of comparing with it")
    group.addoption("--initcheck-baseline-alpha", default=None, metavar="CHANCE", help=_ALPHA)
    for name, _, kind, metavar, help in SETTINGS:
        option, dest = f"--{PREFIX}{name.replace('_', '-')}", f"initcheck_{name}"
        if kind == "bool":
            group.addoption(option, dest=dest, action="store_true", default=None, help=help)
        else:
            action = "append" if kind == "linelist" else "store"
            group.addoption(option, dest=dest, action=action, default=None, metavar=metavar, help=help)
    parser.addini(
        "initcheck", "check models in every run, as --initcheck does (default: false)", type="bool", default=False
    )
    parser.addini(
        "initcheck_models",
        "models to check with --initcheck, one a line: SPEC [input=SHAPE] [SETTING=VALUE]; SPEC is pkg.mod:Factory, "
        "path/file.py:Factory, timm:NAME, torchvision:NAME or hf:NAME",
        type="linelist",
        default=[],
    )
    parser.addini("initcheck_report", f"{_REPORT}, one a line", type="linelist", default=[])
    parser.addini("initcheck_watch", _WATCH, default=None)
    parser.addini("initcheck_watch_budget", _BUDGET, default=None)
    parser.addini("initcheck_baseline", _BASELINE, default=None)
    parser.addini("initcheck_baseline_alpha", _ALPHA, default=None)
    parser.addini(
        "initcheck_junit", "write verdict and findings as JUnit properties (default: false)", type="bool", default=False
    )
    parser.addini(
        "verbosity_initcheck",
        "verbosity of reports, a whole number (default: auto, as -v and -q say)",
        type=_VERBOSITY,  # type: ignore[arg-type]
        default="auto",
    )
    for name, _, kind, _, help in SETTINGS:
        parser.addini(f"initcheck_{name}", help, type=kind, default=None)  # type: ignore[arg-type]
