"""``--initcheck-baseline``: the initialization of every checked model against a file that says what it was.

The process that runs a test compares; what it finds is a finding like any other. Only the process that started the run
reads the file, and hands its text to xdist's workers, and only it writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .. import rules
from ..errors import SettingsError
from ..statements.drift import Drift, Sample, comparisons, drifted, sample_of
from .baseline_file import Samples, dump, load
from .configuration import configured
from .paths import relative

if TYPE_CHECKING:
    from ..records import Finding
    from ..report import Report
    from ..settings import Settings

RULE = "init-drift"
_TEXT = "initcheck_baseline"


class Baseline:
    """The baseline of a run: compared with while tests run, or written at the end.

    Args:
        config: pytest's, whose configuration names the file.

    Raises:
        SettingsError: the file is damaged; it is missing, cannot be read, and is not to be written.
    """

    def __init__(self, config: pytest.Config) -> None:
        found = configured(config)
        assert found.baseline is not None
        self._path = found.baseline
        self._called = relative(found.baseline, config.rootpath)
        self._update = found.update
        worker: Mapping[str, Any] | None = getattr(config, "workerinput", None)
        self._text: str | None = _read(self._path, self._called, found.update) if worker is None else worker[_TEXT]
        self._models = {} if self._text is None else load(self._text, called=f"the baseline {self._called}")
        tests = sum(comparisons(samples) for samples in self._models.values())
        self._alpha = found.baseline_alpha / max(1, tests)
        #: What the end of the run says of the baseline.
        self.told = f"baseline {self._called}: nothing compared"

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give the text to a worker of xdist, which may run on another machine."""
        node.workerinput[_TEXT] = self._text

    # -- compare

    def judge(self, key: str, report: Report, settings: Settings) -> Report:
        """Return ``report`` with a finding for every parameter that is not what the baseline says.

        Args:
            key: what the baseline calls the model, see :func:`key_of`.
            report: what a check found.
            settings: settings of the check.
        """
        if self._update:
            return report
        found = [*self._findings(key, report)]
        kept, ignored = rules.sift([*report.findings, *found], settings)
        return replace(
            report,
            ok=rules.passes(kept, settings.fail_on),
            findings=tuple(kept),
            ignored=(*report.ignored, *ignored),
        )

    def _findings(self, key: str, report: Report) -> Iterator[Finding]:
        if key not in self._models:
            yield rules.finding(
                RULE,
                "warning",
                [],
                f"this model is not in the baseline {self._called}: it was compared with nothing",
                cause=f"[{key}] was not recorded; --initcheck-update adds it"
                + ("" if report.ok else " once it is healthy"),
            )
            return
        changes: dict[str, list[Drift]] = {}
        for drift in drifted(self._models[key], samples_of(report), alpha=self._alpha):
            changes.setdefault(drift.name, []).append(drift)
        for name, drifts in changes.items():
            yield rules.finding(
                RULE,
                "error",
                [name],
                "; ".join(d.text for d in drifts),
                evidence=_evidence(drifts),
                cause=f"not drawn as in the baseline {self._called}, [{key}]; if that is meant, record it with "
                "--initcheck-update",
            )

    # -- at the end of the run

    def finish(self, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
        """Write the file if it is to be updated; say what was compared or written.

        Args:
            records: reports as data by node id, in the order in which the test checked them.

        Returns:
            Whether what was to be written was written.
        """
        checked = {key_of(node, i): record for node, found in records.items() for i, record in enumerate(found)}
        if not self._update:
            known = sum(key in self._models for key in checked)
            counts = {"compared": known, "not in it": len(checked) - known}
        elif not checked:
            self.told = f"the baseline {self._called} was not written: no model was checked"
            return False
        else:
            models, counts = self._updated(checked)
            text = dump(models)
            try:
                if text != self._text:
                    _write(self._path, text)
            except OSError as e:
                self.told = f"the baseline {self._called} could not be written: {e}"
                return False
        what = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        self.told = f"baseline {self._called}: {what or 'no model was checked'}"
        return True

    def _updated(self, checked: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Samples], dict[str, int]]:
        """What is to stand in the file, and how many models came into it how."""
        from ..report import Report

        models: dict[str, Samples] = dict(self._models)
        counts = dict.fromkeys(("new", "changed", "as before", "not recorded because unhealthy or not checked"), 0)
        for key, record in checked.items():
            if not record["ok"]:
                counts["not recorded because unhealthy or not checked"] += 1
                continue
            was, now = self._models.get(key), samples_of(Report.from_dict(record))
            models[key] = now if was is None else merged(was, now, self._alpha)
            counts["new" if was is None else "changed" if models[key] != was else "as before"] += 1
        return models, counts


def key_of(node: str, index: int) -> str:
    """What a baseline calls the model that the test ``node`` checked as its ``index``-th, counted from 0."""
    return f"{node} #{index + 1}" if index else node


def samples_of(report: Report) -> dict[str, Sample]:
    """What the parameters of a checked model were drawn from, where their values can be read."""
    found = {name: sample_of(parameter) for name, parameter in report.parameters.items()}
    return {name: sample for name, sample in found.items() if sample is not None}


def merged(was: Samples, now: Samples, alpha: float) -> dict[str, Sample]:
    """Return ``now``, but from ``was`` what two draws of one initialization may explain: that line stays as it is."""
    changed = {drift.name for drift in drifted(was, now, alpha=alpha)}
    return {name: sample if name in changed else was[name] for name, sample in now.items()}


def _evidence(drifts: Sequence[Drift]) -> dict[str, float]:
    evidence: dict[str, float] = {}
    for drift in drifts:
        for field in ("was", "now", "allowed", "p"):
            value = getattr(drift, field)
            if value is not None:
                evidence[f"{drift.kind}_{field}".replace(" ", "_")] = value
    return evidence


def _read(path: Path, called: str, update: bool) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if update:
            return None
        raise SettingsError(f"the baseline {called} does not exist: record it with --initcheck-update") from None
    except (OSError, UnicodeDecodeError) as e:
        raise SettingsError(f"the baseline {called} cannot be read ({e})") from None


def _write(path: Path, text: str) -> None:
    """Write beside the file and move into its place: a run that is killed leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8", newline="\n")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
