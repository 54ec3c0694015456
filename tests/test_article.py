"""The article's rows: what agrees, what is made to disagree, and what the command prints."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_initcheck.article import ROWS, Effort, Outcome, Row, as_data, line, table
from pytest_initcheck.article.agreement import CHANCE, compared, holds
from pytest_initcheck.article.images import KINDS, SIDE, draw
from pytest_initcheck.article.rows import stacks
from pytest_initcheck.cli import command as cli

SMALL = Effort(seeds=4, draws=300, trainings=1)
#: Rows that are measured in a second or two; all others are left to the slow run.
SOON = (1, 2, 4, 5, 6)
BY_NUMBER = {row.number: row for row in ROWS}


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(row.number, marks=[] if row.number in SOON else pytest.mark.slow)
        for row in ROWS
        if not row.training
    ],
)
def test_what_the_article_says_of_signals_holds(number: int) -> None:
    outcome = BY_NUMBER[number].measure(SMALL)

    assert [c.what for c in outcome.comparisons if not c.agrees] == []


@pytest.mark.slow  # trains networks for minutes
@pytest.mark.parametrize("number", [row.number for row in ROWS if row.training])
def test_what_the_article_says_of_training_holds(number: int) -> None:
    outcome = BY_NUMBER[number].measure(replace(SMALL, trainings=1 if number < 18 else 3))

    assert [c.what for c in outcome.comparisons if not c.agrees] == []


def test_every_row_is_there() -> None:
    assert [row.number for row in ROWS] == list(range(1, 20))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stack", "published"),
    [("scaled", 0.0813), ("tanh", 1.0825), ("heuristic", 0.0813), ("xavier", 9.9678e-25)],
)
def test_the_number_of_another_row_does_not_agree(stack: str, published: float) -> None:
    stds = [layers[-1].activation.std for layers in stacks(stack, SMALL.seeds)]

    assert not compared("std", published, stds * 4, ratio=True).agrees


@pytest.mark.slow
@pytest.mark.parametrize("number", [4, 7, 12, 13])
def test_a_hundredth_off_in_the_weights_does_not_agree(number: int) -> None:
    squares = next(c for c in BY_NUMBER[number].measure(Effort(3, 3000, 0)).comparisons if c.what.endswith("theory"))
    assert squares.published is not None
    assert squares.low is not None
    assert squares.high is not None

    assert squares.agrees
    assert not squares.low <= squares.published * 1.1 <= squares.high


def test_an_agreement_is_missed_as_rarely_as_stated() -> None:
    generator = random.Random(0)
    runs, missed = 4000, 0
    for _ in range(runs):
        samples = [generator.gauss(3.0, 2.0) for _ in range(5)]
        missed += not compared("x", generator.gauss(3.0, 2.0), samples).agrees

    assert missed <= runs * CHANCE + 4 * math.sqrt(runs * CHANCE)


def test_the_mean_of_many_runs_is_held_to_less() -> None:
    samples = [1.0, 1.1, 0.9, 1.05, 0.95]

    one, many = compared("x", 1.0, samples), compared("x", 1.0, samples, runs=math.inf)

    assert one.low is not None
    assert many.low is not None
    assert one.low < many.low


def _outcome(agrees: bool) -> tuple[Row, Outcome]:
    row = Row(8, "100-layer stack", "N(0,1)/sqrt(512), none", "mean 0.0358, std 1.0825", lambda _: outcome)
    outcome = Outcome(
        "std 0.911 [0.43, 2]", (compared("std", 1.0825, [0.9, 1.0, 1.1] if agrees else [0.1, 0.1, 0.11]),)
    )
    return row, outcome


def test_the_table() -> None:
    text = table([_outcome(True)], width=80)

    assert [" ".join(row.split()) for row in text.splitlines() if row.strip("- ")] == [
        "row experiment published measured agrees",
        "8 100-layer stack: mean 0.0358, std std 0.911 [0.43, 2] yes",
        "N(0,1)/sqrt(512), 1.0825",
        "none",
        "1 of 1 rows agree",
    ]


def test_what_does_not_agree_is_said_below() -> None:
    text = table([_outcome(False), _with_statement()], width=80)

    assert "0 of 2 rows agree" in text
    assert "row 8 does not: std 1.083 is outside" in text
    assert "row 19 does not: not so: Xavier does not" in text


def _with_statement() -> tuple[Row, Outcome]:
    return Row(19, "a", "b", "c", lambda _: Outcome("d", ())), Outcome("d", (holds("Xavier does not", False),))


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_table_fits(width: int) -> None:
    rows = [(row, Outcome("accuracy: " + "xavier 76% (after 2550 to 2850 steps 50 %) " * 2, ())) for row in ROWS]

    assert max(map(len, table(rows, width=width).splitlines())) <= width


def test_data_and_line() -> None:
    (data,) = as_data([_outcome(True)])

    assert json.loads(json.dumps(data))["comparisons"][0]["published"] == 1.0825
    assert line(*_outcome(False)).endswith(": DOES NOT AGREE")


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["article", "--quick", "--rows", "5-6,6"]) == 0
    assert capsys.readouterr().out.endswith("2 of 2 rows agree\n")

    assert cli.main(["article", "--quick", "--rows", "5", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["row"] == 5


def test_a_row_that_does_not_agree_is_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_initcheck import article

    monkeypatch.setattr(article, "ROWS", (_outcome(False)[0],))

    assert cli.main(["article", "--quick"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "20"], "initcheck: --rows must be numbers of 1 to 19, as in 1-15,18 (got '20')"),
        (["--rows", "3-1"], "initcheck: --rows must be numbers of 1 to 19, as in 1-15,18 (got '3-1')"),
        (["--rows", "all"], "initcheck: --rows must be numbers of 1 to 19, as in 1-15,18 (got 'all')"),
        (["--quick", "--rows", "18"], "initcheck: --quick leaves out rows 16 to 19"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["article", *words]) == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.slow
def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")

    assert cli.main(["article", "--quick", "--rows", "5", "--plots", str(tmp_path / "new")]) == 0
    assert {p.name for p in (tmp_path / "new").iterdir()} == {
        "journey-linear.png",
        "journey-tanh.png",
        "journey-relu.png",
    }


def test_images_are_the_same_for_a_seed_and_differ_by_kind() -> None:
    one, again, other = draw(600, seed=1), draw(600, seed=1), draw(600, seed=2)

    assert one.pixels.equal(again.pixels)
    assert not one.pixels.equal(other.pixels)
    assert one.pixels.shape == (600, 1, SIDE, SIDE)
    assert sorted(set(one.labels.tolist())) == list(range(len(KINDS)))
    assert abs(float(one.pixels.mean())) < 1e-5
