"""Models as pytest items: those that configuration names, and factories in test modules."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..errors import InitcheckError, UnhealthyInit
from ..settings import BY_NAME
from ..surfaces.cases import ModelCase
from ..surfaces.hooked import check_rule_names, run_check
from ..surfaces.progress import shown_in
from ..surfaces.ranks import speaks
from ..surfaces.sources import source_of, source_of_spec
from ..words import named_error
from .configuration import configured, debugging, settings_for
from .options import HEAD
from .paths import is_ours, relative

if TYPE_CHECKING:
    from _pytest._code.code import TerminalRepr, TracebackStyle

    from ..models.targets import Target
    from ..report import Report
    from .baselines import Baseline

#: Reports of the models that a test or an item has checked, in order.
REPORTS = pytest.StashKey[list["Report"]]()

#: What is said of the models that a test or an item could not check.
UNCHECKED = pytest.StashKey[list[dict[str, Any]]]()

#: What initializations are compared with, where the run has a baseline.
BASELINE: pytest.StashKey[Baseline] = pytest.StashKey()


def check_in(
    item: pytest.Item,
    model: Any,
    inputs: Any,
    *,
    loss: Any,
    asked: Mapping[str, Any],
    name: str,
    root: Path | None = None,
) -> Report:
    """Check a model for a test or an item, and keep the report for the end of the run.

    Args:
        item: the test or item.
        model, inputs, loss: as ``check_init`` accepts them.
        asked: settings by name.
        name: what the report calls the model.
        root: the folder in which the command ``initcheck check NAME`` finds it; ``None`` where it is no spec.
    """
    settings = settings_for(item, asked)
    reports = item.stash.setdefault(REPORTS, [])
    baseline = item.config.stash.get(BASELINE, None)
    then = None
    if baseline is not None:
        from .baselines import key_of

        then = partial(baseline.judge, key_of(item.nodeid, len(reports)), settings=settings)
    with shown_in(item.config, name):
        report = run_check(
            item.ihook,
            model,
            inputs,
            loss=loss,
            settings=settings,
            name=name,
            folder=None if root is None else _from_here(root, item.config),
            then=then,
            source=source_of(model, item.config.rootpath) or source_of_item(item),
            test=item.nodeid,
        )
    reports.append(report)
    return report


def unchecked(item: pytest.Item, model: str, why: str, source: str) -> None:
    """Keep for the end of the run that a test or an item could not check a model.

    Args:
        item: the test or item.
        model: what it is called.
        why: in one sentence, without its name.
        source: where it stands.
    """
    told = {"model": model, "ok": None, "why": why, "source": source, "test": item.nodeid}
    item.stash.setdefault(UNCHECKED, []).append(told)


class ModelItem(pytest.Item):
    """One model to check. It passes if the model is healthy; what fails is reported by its diagnosis alone."""

    def __init__(
        self,
        *,
        subject: str,
        model: Callable[[], Any],
        inputs: Any,
        loss: Any,
        asked: Mapping[str, Any],
        where: tuple[os.PathLike[str] | str, int | None],
        source: str,
        root: Path,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.subject = subject
        #: Where the model stands as far as that is known without it.
        self.source = source
        self._model = model
        self._inputs = inputs
        self._loss = loss
        self._asked = asked
        self._where = where
        self._root = root
        self.add_marker("initcheck")

    def check_rules(self) -> None:
        """Raise :class:`SettingsError` if its settings name an unknown rule."""
        check_rule_names(self._asked, {name: name for name in BY_NAME}, self.ihook)

    def runtest(self) -> None:
        """Probe the model and raise :class:`UnhealthyInit` if it is unhealthy."""
        model = self._model()
        self.source = source_of(model, self.config.rootpath) or self.source
        name = self.subject
        report = check_in(self, model, self._inputs, loss=self._loss, asked=self._asked, name=name, root=self._root)
        if configured(self.config).junit:
            self.user_properties += [
                ("initcheck_ok", str(report.ok).lower()),
                *(("initcheck_finding", str(finding)) for finding in report.findings),
            ]
        if not report.ok:
            raise UnhealthyInit("unhealthy", report=report)

    def repr_failure(
        self, excinfo: pytest.ExceptionInfo[BaseException], style: TracebackStyle | None = None
    ) -> str | TerminalRepr:
        """Return the rendered report, or the one sentence of an error of ours; anything else keeps its traceback.

        The first line is what pytest's short summary shows, behind the node id and cut at the terminal's width: it
        does not repeat the model's name.
        """
        error = excinfo.value
        verbosity = max(0, self.config.get_verbosity("initcheck"))
        if isinstance(error, UnhealthyInit) and error.report is not None:
            from ..render import drawable, terminal

            # pytest writes the text at once, and as one line of escapes if a single character does not fit. Its own
            # capturing stands in sys.stdout.
            ascii = not drawable(getattr(sys.__stdout__, "encoding", None))
            text = terminal(error.report, verbose=verbosity, width=_width(self.config), ascii=ascii)
            text = text.removeprefix(f"{self.subject}: ")
            return text if speaks() else f"{text.partition(chr(10))[0]} (rank 0 shows the report)"
        if isinstance(error, InitcheckError):
            sentence = self.why(error)
            if debugging(self, self._asked):
                excinfo.traceback = excinfo.traceback.cut(path=__file__)  # without pytest's own
                return f"{sentence}\n\n{excinfo.getrepr(style='long')}"
            if verbosity and error.__cause__:
                return f"{sentence}\n\n{pytest.ExceptionInfo.from_exception(error.__cause__).getrepr(style='short')}"
            return sentence
        return super().repr_failure(excinfo, style)

    def why(self, error: BaseException) -> str:
        """Return in one sentence, without the model's name, what kept the model from being checked."""
        if isinstance(error, InitcheckError):
            return str(error).removeprefix(f"{self.subject}: ")
        return f"the check ended in {named_error(error)}"

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """Where the model is written down, and the title of its failure."""
        return (*self._where, f"initcheck {self.subject}")


def target_item(session: pytest.Session, target: Target, root: Path) -> ModelItem:
    """Return the item of a configured model; nothing of the model is imported before it runs."""

    def model() -> Any:
        from ..models.targets import load

        return load(target, root=root)

    config = session.config
    where = (config.inipath or config.rootpath, None)
    written = f"{relative(config.inipath, config.rootpath)}:1" if config.inipath else ""
    return ModelItem.from_parent(
        session,
        name=target.id,
        nodeid=f"{HEAD}{target.id}",
        subject=target.spec,
        model=model,
        inputs=target.inputs,
        loss=None,
        asked=target.settings,
        where=where,
        source=source_of_spec(target.spec, root, config.rootpath) or written,
        root=root,
    )


def case_item(collector: pytest.Module | pytest.Class, name: str, case: ModelCase) -> ModelItem:
    """Return the item of a factory in a test module."""
    file, line = collector.path, _line(case.factory)
    called = relative(file, collector.config.rootpath)
    subject = f"{called}:{name}"
    item = ModelItem.from_parent(
        collector,
        name=name,
        subject=subject,
        model=lambda: case.factory,
        inputs=case.inputs,
        loss=case.loss,
        asked=case.settings,
        where=(file, line),
        source=f"{called}:{(line or 0) + 1}",
        root=collector.config.rootpath,
    )
    for mark in getattr(case.factory, "pytestmark", ()):  # @pytest.mark.slow above or below @model_case
        item.own_markers.append(mark)
        item.keywords[mark.name] = mark
    return item


def _from_here(folder: Path, config: pytest.Config) -> str:
    """``folder`` as a shell reaches it from where pytest was started; as it is, where no relative path leads there."""
    try:
        return Path(os.path.relpath(folder, config.invocation_params.dir)).as_posix()
    except ValueError:  # another drive
        return folder.as_posix()


def source_of_item(item: pytest.Item) -> str:
    """Where a test stands, or the model of an item as far as that is known."""
    if isinstance(item, ModelItem):
        return item.source
    return f"{relative(item.path, item.config.rootpath)}:{(item.location[1] or 0) + 1}"


def cause_of_theirs(error: BaseException) -> BaseException | None:
    """Return the cause of an error of ours if it arose in the user's code, with its traceback from there on."""
    cause = error.__cause__
    if cause is None:
        return None
    last = None
    frames = cause.__traceback__
    first = None
    while frames is not None:
        home = _home(frames.tb_frame.f_code.co_filename)
        if home is not None:
            last = home
            first = first or (frames if home == "theirs" else None)
        frames = frames.tb_next
    return cause.with_traceback(first) if last == "theirs" else None


def _home(file: str) -> str | None:
    """Whose code a file is: ``"ours"``, ``"theirs"``, ``None`` for what both run through (torch, the standard library)."""
    path = Path(file)
    if is_ours(path):
        return "ours"
    torch = getattr(sys.modules.get("torch"), "__file__", None)
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    through = Path(torch).parent in path.parents if torch else False
    through |= Path(inspect.__file__).parent in path.parents and not installed
    return None if through or file.startswith("<") else "theirs"


def _line(factory: Callable[..., Any]) -> int | None:
    """Line of the definition, counted from zero as pytest does."""
    try:
        return inspect.getsourcelines(factory)[1] - 1
    except (OSError, TypeError):
        return None


def _width(config: pytest.Config) -> int:
    """Columns to render for; workers of xdist have no terminal."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    return min(120, max(80, reporter._tw.fullwidth)) if reporter is not None else 80
