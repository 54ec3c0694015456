"""Terminal text: whole texts as they are read, and what must hold for every report and every width."""

from __future__ import annotations

import ast
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_initcheck.render import drawable, summary_line, terminal
from pytest_initcheck.render.bars import ROWS
from pytest_initcheck.render.code import fitted
from pytest_initcheck.render.profile import axis, depth, sample
from pytest_initcheck.render.words import amount, brief, cells, cut, share, shown, span
from pytest_initcheck.rules.named import layer_of

from . import samples
from .regenerate import golden
from .samples import SAMPLES

FILES = golden()
BLOCKS = "█▏▎▍▌▋▊▉"
ANSI = re.compile(r"\x1b\[[\d;]*m")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_golden(path: Path):
    """After a change that is meant: python tests/render/regenerate.py, and read the difference."""
    assert FILES[path] == path.read_text(encoding="utf-8")


def test_no_golden_file_is_left_over():
    assert {p.name for p in (Path(__file__).parent / "golden").iterdir()} == {p.name for p in FILES}


@pytest.mark.parametrize("sample_name", SAMPLES)
@pytest.mark.parametrize("verbose", [0, 1, 2])
@pytest.mark.parametrize("width", [80, 120, 200])
def test_fits_and_says_the_same_in_every_way(sample_name: str, verbose: int, width: int):
    report = SAMPLES[sample_name]()

    text = terminal(report, verbose=verbose, width=width)
    colored = terminal(report, verbose=verbose, width=width, color=True)
    plain = terminal(report, verbose=verbose, width=width, ascii=True)

    first, *rest = text.split("\n")
    pasted = {line.strip() for f in report.findings for line in [*f.fix.splitlines(), f.silence]}
    copied = ("reproduce: ", "fix ", "silence ")
    too_wide = [
        x for x in rest
        if cells(x) > width and not x.strip().startswith(copied) and x.strip() not in pasted
    ]  # fmt: skip
    assert first == summary_line(report, width=max(width, 116))
    assert too_wide == []
    assert [line for line in rest if line != line.rstrip()] == []
    assert "\n\n\n" not in text
    assert not text.endswith("\n")
    assert ANSI.sub("", colored) == text
    assert plain.isascii()
    assert not set(text) - set(BLOCKS) - set(map(chr, range(128))) or sample_name == "unicode_names"


@pytest.mark.parametrize("sample_name", SAMPLES)
def test_first_line_is_short_and_complete(sample_name: str):
    report = SAMPLES[sample_name]()

    line = summary_line(report)

    assert line.startswith(f"{report.model}: ")
    assert "\n" not in line
    assert len(line.partition(" (")[0]) <= len(report.model) + 2 + 116
    if not report.ok:
        assert report.findings[0].rule in line
        assert report.findings[0].layers[0] in line


def test_healthy_is_one_line_whose_numbers_are_the_reports():
    report = samples.healthy()

    assert terminal(report) == summary_line(report)
    assert (
        "healthy init: 14 layers, 115k params, a step moves 0.081, activations 0.90..1.2, gradients 0.0030"
        in terminal(report)
    )
    assert "seed 0" in terminal(report, width=200)


def test_notes_and_silenced_findings_are_counted_and_listed_on_request():
    report = samples.noted()

    assert terminal(report).endswith("(1 note, 1 silenced)")
    assert "closed-gate" not in terminal(report)
    assert "note closed-gate at blocks.1.fc.weight" in terminal(report, verbose=1)
    assert "note cloned-layers blocks.1.fc.weight: " in " ".join(terminal(report, verbose=1).split())


def test_what_passes_by_fail_on_alone_is_not_called_healthy():
    report = samples.nothing_fails()

    assert "healthy" not in summary_line(report)
    assert "fail_on=never" in summary_line(report)


def test_warnings_fail_when_asked_to():
    report = replace(samples.warned(), ok=False, fail_on="warning")

    assert summary_line(report) == "Net: unhealthy init: gain-mismatch at blocks.3.fc.weight"


def test_ten_findings_at_most_until_asked():
    report = samples.many()

    short, all_of_them = terminal(report), terminal(report, verbose=2)

    assert short.count("\n  cause ") == 10
    assert "... and 3 more (3 warnings; -vv shows them)" in short
    assert "rule-12" not in short
    assert "rule-12" in all_of_them
    assert "more (" not in all_of_them.partition("\n")[2]


def test_code_to_paste_stands_whole():
    fix = "call it in forward(), or delete it, " * 5
    report = samples.vanishing()
    report = replace(report, findings=(replace(report.findings[0], fix=fix),), reproduce="initcheck check " + "x" * 200)

    lines = [line.strip() for line in terminal(report, width=80).splitlines()]

    assert fix.strip() in lines
    assert "reproduce: initcheck check " + "x" * 200 in lines


def test_a_cause_is_told_once():
    report = samples.vanishing()
    one = report.findings[0]
    report = replace(report, findings=(one, replace(one, rule="gain-mismatch", severity="warning")))

    text = terminal(report)

    assert text.count("carries the signal") == 1
    assert text.count("kaiming_normal_") == 1
    assert "  cause    as unresponsive above\n  fix      as unresponsive above\n" in text


def test_long_code_is_broken_where_it_stays_the_same():
    names = [f"blocks.{i}.weight, (x)" for i in range(30)]
    code = (
        f"for name in {names}:\n    init(model.get_parameter(name), std=0.1)\nf('a' * 3, {{'b': [1, 2]}})  # {'x' * 50}"
    )

    lines = fitted(code, 60)

    assert ast.dump(ast.parse("\n".join(lines))) == ast.dump(ast.parse(code))
    assert [line for line in lines if len(line) > 60] == [lines[-1]]
    assert len(lines) > 10
    assert fitted("no code, (but, words) " * 9, 40) == ["no code, (but, words) " * 9]


@given(st.lists(st.text(), min_size=1), st.integers(20, 100))
def test_breaking_changes_no_code(names: list[str], width: int):
    code = f"for name in {names!r}:\n    print(name, sep={names!r})"

    assert ast.dump(ast.parse("\n".join(fitted(code, width)))) == ast.dump(ast.parse(code))


def test_several_seeds_show_their_range():
    report = samples.healthy()
    report = replace(report, spread=dict.fromkeys(report.layers, (0.5, 1.0, 2.0)))

    assert "over seeds" in terminal(report, verbose=1)
    assert "0.50..2.0" in terminal(report, verbose=1)
    assert "over seeds" not in terminal(samples.healthy(), verbose=1)


def test_the_profile_marks_where_findings_point_and_what_is_not_finite():
    text = terminal(samples.nan())

    (marked,) = [line for line in text.splitlines() if line.startswith("> ")]
    assert marked.startswith("> blocks.2.fc Linear")
    assert "inf !!!" in marked


def test_a_parameter_points_at_the_layer_that_uses_it():
    report = samples.vanishing()

    assert layer_of(report.trace, "blocks.0.fc.weight").name == "blocks.0.fc"
    assert layer_of(report.trace, "blocks.0.act").name == "blocks.0.act"
    assert layer_of(report.trace, "nowhere.weight") is None


def test_the_model_itself_is_no_layer_of_the_profile():
    assert "(model)" not in [p.layer.name for p in depth(samples.healthy())]


def test_a_sample_of_many_layers_keeps_ends_extremes_and_marks():
    points = depth(samples.deep())
    names = {p.layer.name for p in sample(points, ROWS)}
    smallest = min(points, key=lambda p: p.activation)

    assert len(sample(points, ROWS)) == ROWS
    assert {points[0].layer.name, points[-1].layer.name, smallest.layer.name} <= names
    assert "encoder.layers.31.attention.projection_4" in names
    assert sample(points, ROWS) == sorted(sample(points, ROWS), key=lambda p: p.layer.index)


@given(st.integers(1, 60), st.sets(st.integers(0, 59), max_size=5))
def test_a_sample_has_as_many_rows_as_there_is_room_for(count: int, marks: set[int]):
    points = [replace(p, mark="error" if i in marks else None) for i, p in enumerate(depth(samples.deep())[:count])]

    assert len(sample(points, ROWS)) == min(count, ROWS)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.none()))
def test_axis_holds_every_value(values: list[float | None]):
    scale = axis(values)

    assert scale.high - scale.low >= 2
    assert all(0 <= scale.at(v) <= 1 for v in values if v is not None)
    finite = [v for v in values if v is not None and v > 0 and math.isfinite(v)]
    assert all(10.0**scale.low <= v * (1 + 1e-9) for v in finite)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.1e-7, "3.1e-07"), (0.62, "0.62"), (16.0, "16.0"), (0, "0"), (-0.0, "0"), (0.1, "0.10"), (0.001, "0.0010"),
        (0.999, "1.0"), (0.00099999, "0.0010"), (99.96, "100"), (240.4, "240"), (9999.7, "1.0e+04"), (-2.5, "-2.5"),
        (float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf"), (None, "-"), (1e-45, "1.4e-45"), (3, "3.0"),
    ],
)  # fmt: skip
def test_number(value: float | None, text: str):
    assert brief(value) == text if value != 1e-45 else brief(value) == "1.0e-45"


@given(st.floats(-1e300, 1e300))
def test_a_number_is_the_number(value: float):
    text = brief(value)

    assert math.isclose(float(text), value, rel_tol=0.06)
    assert len(text) <= 9


@pytest.mark.parametrize(
    ("values", "text"),
    [([], "-"), ([1.0], "1.0"), ([0.41, 1.9, 1.0], "0.41..1.9"), ([1.01, 1.02], "1.0"), ([1.0, math.nan], "1.0..nan"),
     ([math.inf], "inf"), ([0.0, 2e-9], "0..2.0e-09")],
)  # fmt: skip
def test_span(values: list[float], text: str):
    assert span(values) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (133_130, "133k"), (999_950, "1M"), (11_689_512, "11.7M"), (7_041_000_000, "7.04G")],
)  # fmt: skip
def test_amount(count: int, text: str):
    assert amount(count) == text


def test_percent():
    assert [share(x) for x in (None, 0.0, 0.001, 0.5, 1.0)] == ["-", "0 %", "<1 %", "50 %", "100 %"]


@given(st.text(), st.integers(4, 60))
def test_cut_fits(text: str, width: int):
    assert cells(cut(text, width)) <= width


def test_cut_keeps_the_numbers_of_a_path():
    assert cut("encoder.layers.31.attention.projection_4", 32) == "enc~.lay~.31.att~.projection_4"


@given(st.text())
def test_nothing_shown_moves_the_cursor(text: str):
    assert "\x1b" not in shown(text)
    assert len(shown(text).splitlines()) <= 1
    assert shown(text, ascii=True).isascii()


@pytest.mark.parametrize(
    ("encoding", "yes"),
    [("utf-8", True), ("ascii", False), ("cp1252", False), ("cp437", False), (None, False), ("no", False)],
)
def test_what_a_stream_can_show(encoding: str | None, yes: bool):
    assert drawable(encoding) is yes


ASCII_ONLY = """
import sys
sys.path.insert(0, "tests/render")
import samples
import pytest_initcheck.cli.check as command
command._check = lambda *_, **__: samples.unicode_names()
from pytest_initcheck.cli import main
main(["check", "zoo.py:Deep"])
main(["check", "zoo.py:Deep", "-q"])
"""


def test_the_command_writes_what_its_stream_can_show():
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", ASCII_ONLY], cwd=root, capture_output=True, check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )  # fmt: skip

    assert done.stderr.decode() == ""
    assert b"####" in done.stdout
    assert done.stdout.isascii()


def test_a_report_prints_itself():
    assert str(samples.vanishing()) == terminal(samples.vanishing())


def test_rendering_imports_no_torch():
    code = "import sys, runpy\nfrom tests.render.samples import SAMPLES\nfrom pytest_initcheck import render\n" + (
        "r = SAMPLES['vanishing']()\nfor f in (render.markdown, render.html, render.sarif): f([r])\n"
        "render.terminal(r, verbose=2); render.json_text(r)\nassert 'torch' not in sys.modules"
    )
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
