"""Markdown, SARIF, annotations, HTML and the figure."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pytest_initcheck.records import Histogram
from pytest_initcheck.render import FORMATS, fragment, github_annotations, html, markdown, sarif
from pytest_initcheck.render.svg import charts, strips
from pytest_initcheck.report import Report

from . import samples
from .samples import SAMPLES

EVERY = [make() for make in SAMPLES.values()]
VOID = {"meta", "input", "br", "path", "link", "img"}
#: Elements that HTML lets end without an end tag.
OPEN_ENDED = {"td", "th", "tr", "li", "dt", "dd"}


class Page(HTMLParser):
    """Collects what a browser would see, and complains about end tags that end nothing."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] != tag and self.open[-1] in OPEN_ENDED:
            self.open.pop()
        assert self.open, f"</{tag}> ends nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def count(self, tag: str) -> int:
        return sum(t == tag for t, _ in self.tags)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_writes_any_number_of_reports(name: str):
    for reports in ([], EVERY[:1], EVERY):
        text = FORMATS[name](reports)

        text.encode("utf-8")
        assert all(r.model in text for r in reports if r.model.isidentifier() and r.findings)


# -- HTML


def test_html_is_well_formed_and_complete():
    page = Page(html(EVERY))

    assert page.open == []
    assert page.count("article") == len(EVERY)
    assert page.count("script") == 1
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_html_needs_nothing_else():
    text = html(EVERY)

    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"@import|url\(|<link|src=", text)


def test_what_users_name_is_text():
    text = html([samples.unicode_names()])

    assert "<script>alert" not in text
    assert "<b>bold" not in text
    assert "<i>nothing" not in text
    assert "\x1b" not in text
    text.encode("utf-8")
    words = "".join(Page(text).words)
    assert "<script>alert(1)</script>" in words
    assert "编码器.层0" in words


def test_names_that_cannot_be_encoded_are_escaped():
    report = replace(samples.healthy(), model="a\udc80b")

    for text in (html([report]), markdown([report]), sarif([report])):
        text.encode("utf-8")


def test_500_layers_stay_small():
    report = samples.deep()
    page = html([report])

    assert len(page.encode()) < 1_500_000
    rows = [attributes for tag, attributes in Page(page).tags if tag == "tr"]
    places = [int(i) for attributes in rows for i in (attributes.get("data-i") or "").split()]
    assert sorted(places) == list(range(sum(x.leaf for x in report.layers.values())))
    assert len(rows) < len(report.layers) / 4


def test_bounds_are_drawn_on_what_they_bound():
    report = samples.vanishing()
    activation, gradient = charts(report, samples_depth(report))

    assert activation.title == "activation std over depth, with your bounds"
    assert activation.bounds.count("M") == 2
    assert gradient.bounds == ""
    again = Report.from_dict(
        {**report.to_dict(), "settings": {"activation_std": [["blocks.1.*", None, "inf"], ["*.act", 0.1, 1]]}}
    )
    assert charts(again, samples_depth(again))[0].bounds.count("M") == 12  # both sides of six layers that take turns


def samples_depth(report: Report):
    from pytest_initcheck.render.profile import depth

    return depth(report)


def test_what_has_no_place_on_a_log_axis_is_drawn_at_its_end():
    activation, gradient, variation = charts(samples.dead(), samples_depth(samples.dead()))
    overflow, *_ = charts(samples.nan(), samples_depth(samples.nan()))

    assert activation.strange.count(" 200h0") == 5
    assert activation.dots.count("h0") == 5
    assert gradient.strange == ""
    assert variation.strange.count(" 200h0") == 5
    assert overflow.strange.count(" 0h0") == 4


def test_samples_that_become_alike_get_a_chart():
    assert [c.kind for c in charts(samples.dead(), samples_depth(samples.dead()))] == [
        "activation",
        "gradient",
        "variation",
    ]
    assert [c.kind for c in charts(samples.deep(), samples_depth(samples.deep()))] == ["activation", "gradient"]
    assert charts(samples.empty(), []) == []


def test_strips_show_the_layers_that_findings_name():
    assert [s.name for s in strips(samples.vanishing())] == ["blocks.0.fc", "blocks.1.fc", "blocks.2.fc", "blocks.4.fc"]
    assert strips(samples.nan()) == []
    for strip in strips(samples.vanishing()):
        assert 0 <= strip.low <= strip.mean <= strip.high <= 100


def test_histograms_stand_in_the_strips():
    plain = samples.vanishing()
    layers = dict(plain.trace.layers)
    layers["blocks.1.fc"] = replace(layers["blocks.1.fc"], histogram=Histogram(-0.1, 0.1, (4, 0, 8, 1)))
    report = replace(plain, trace=replace(plain.trace, layers=layers))

    _, strip, *_ = strips(report)
    page = html([report])

    assert strip.bins == "M0 100v-50h10v50zM20 100v-100h10v100zM30 100v-12h10v12z"
    assert 0 <= strip.span[0] <= strip.mean <= strip.span[1] <= 100
    assert page.count(f'<path d="{strip.bins}"/>') == 1
    assert 'aria-label="histogram of blocks.1.fc"' in page
    assert 'class="bins"' not in html([plain])


def test_an_empty_page_says_so():
    assert "no model was checked" in html([])


@pytest.mark.parametrize("document", [html, markdown])
def test_unhealthy_models_come_first_then_those_that_could_not_be_checked(document):
    sick, well = samples.dead(), replace(samples.healthy(), model="well")
    text = document([well, Report.not_checked("missing.py:Net", "it raised"), replace(sick, model="sick")])

    assert text.index("sick") < text.index("missing.py:Net") < text.index("well")


def test_the_verdict_on_the_page():
    assert "1 of 2 models unhealthy" in html([samples.healthy(), samples.dead()])
    assert "2 models, all healthy" in html([samples.healthy(), samples.noted()])
    assert 'class="badge passes"' in html([samples.nothing_fails()])


def test_a_notebook_gets_a_piece_without_scripts():
    report = samples.vanishing()
    page = Page(fragment(report))

    assert report._repr_html_() == fragment(report)
    assert page.open == []
    assert page.count("script") == page.count("table") == page.count("html") == 0
    assert page.count("svg") == 2


# -- Markdown


def test_markdown_has_a_row_for_every_model_and_details_for_the_unhealthy():
    text = markdown(EVERY)
    lines = text.splitlines()

    assert lines[0] == f"## Initialization check: {sum(not r.ok for r in EVERY)} of {len(EVERY)} models unhealthy"
    rows = [line for line in lines if line.startswith("| :")]
    assert len(rows) == len(EVERY)
    assert [r.startswith("| :x:") for r in rows] == sorted((r.startswith("| :x:") for r in rows), reverse=True)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 9 for row in rows)
    assert (
        text.count("<details>")
        == text.count("</details>")
        == sum(any(f.severity != "note" for f in r.findings) for r in EVERY)
    )


def test_markdown_of_healthy_models_is_a_table():
    text = markdown([samples.healthy()])

    assert text.startswith("## Initialization check: all healthy (1 model)\n")
    assert "<details>" not in text
    assert markdown([]) == "## Initialization check: no model was checked\n"


def test_markdown_does_not_read_what_users_name():
    report = samples.unicode_names()
    text = markdown([replace(report, findings=(replace(report.findings[0], layers=("x|y`z", "b"), fix="a\n```\nb"),))])

    outside_code = re.sub(r"````python.*?````|```text.*?```|`+[^`\n].*?`+", "", text, flags=re.DOTALL)
    assert "<script>" not in outside_code
    assert "<b>" not in outside_code
    assert "``x\\|y`z``" in text
    assert "````python\na\n```\nb\n````" in text


def test_markdown_stays_below_what_github_takes():
    report = samples.vanishing()
    long = replace(report, findings=(replace(report.findings[0], fix="x = 1  # and so on\n" * 500),))

    text = markdown([long] * 100)

    assert len(text.encode()) < 1024 * 1024
    assert 10 < text.count("<details>") == text.count("</details>") < 100
    assert text.endswith("models more, whose details would make this too long\n")


# -- SARIF and annotations


@pytest.mark.parametrize("sample_name", SAMPLES)
def test_sarif(sample_name: str):
    report = SAMPLES[sample_name]()

    data = json.loads(sarif([report]))

    (run,) = data["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert data["version"] == "2.1.0"
    assert len(run["results"]) == len(report.findings)
    for result, finding in zip(run["results"], report.findings, strict=True):
        assert rules[result["ruleIndex"]] == result["ruleId"] == finding.rule
        assert result["level"] in ("error", "warning", "note")
        assert finding.summary in result["message"]["text"]


def test_findings_stand_where_their_evidence_says():
    first, *rest = json.loads(sarif([samples.located()]))["runs"][0]["results"]
    (location,) = first["locations"]

    assert location["physicalLocation"] == {"artifactLocation": {"uri": "src/zoo.py"}, "region": {"startLine": 12}}
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "blocks.0.fc.weight"
    for result in rest:
        assert result["locations"][0]["physicalLocation"] == {
            "artifactLocation": {"uri": "zoo.py"},
            "region": {"startLine": 1},
        }


@pytest.mark.parametrize(
    ("source", "uri", "line"),
    [
        ("src/models/net.py:31", "src/models/net.py", 31),
        ("/far/net.py:2", "file:///far/net.py", 2),
        ("", "timm%3Aresnet18", 1),
    ],
)
def test_every_result_has_a_file_and_a_line(source: str, uri: str, line: int):
    report = replace(samples.many(), model="timm:resnet18", source=source)

    results = json.loads(sarif([report, Report.not_checked("timm:resnet18", "it raised", source=source)]))["runs"][0][
        "results"
    ]

    assert len(results) > 2
    for result in results:
        (location,) = result["locations"]
        assert location["physicalLocation"] == {"artifactLocation": {"uri": uri}, "region": {"startLine": line}}


def test_known_rules_are_described():
    (rule, *_) = json.loads(sarif([samples.vanishing()]))["runs"][0]["tool"]["driver"]["rules"]

    assert rule["shortDescription"]["text"].startswith("No parameter can move the output")
    assert "Threshold: " in rule["help"]["text"]


@pytest.mark.parametrize("line", [0, -1, "12", True, None])
def test_a_line_that_is_none_is_the_first(line: object):
    report = samples.located()
    finding = replace(report.findings[0], evidence={"file": "a.py", "line": line})

    (result,) = json.loads(sarif([replace(report, findings=(finding,))]))["runs"][0]["results"]

    assert result["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "a.py"},
        "region": {"startLine": 1},
    }


def test_annotations_are_one_line_each():
    report = samples.located()
    finding = replace(report.findings[0], summary="50% off:\nhere, now", layers=("a,b:c",))

    lines = github_annotations([replace(report, findings=(finding, samples.GATE))]).splitlines()

    assert len(lines) == 1
    assert lines[0].startswith(
        "::error file=src/zoo.py,line=12,title=unresponsive at a%2Cb%3Ac::zoo.py:Deep: 50%25 off:%0Ahere, now%0A"
    )


def test_annotations_stand_at_the_model():
    (line,) = github_annotations([Report.not_checked("zoo.py:Net", "it raised", source="zoo.py:7")]).splitlines()

    assert line == "::error file=zoo.py,line=7,title=not-checked::zoo.py:Net: it raised"


# -- models that could not be checked

BROKEN = Report.not_checked(
    "zoo.py:Broken", "building the model failed (ValueError: <no> `such` thing)", source="zoo.py:3"
)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_models_that_could_not_be_checked(name: str):
    for reports in ([BROKEN], [samples.healthy(), BROKEN]):
        text = FORMATS[name](reports)

        assert "zoo.py:Broken" in text
        assert "building the model failed (ValueError: " in text


def test_what_could_not_be_checked_is_counted_apart():
    all_three = [samples.healthy(), samples.dead(), BROKEN]
    some_healthy = [samples.healthy(), BROKEN]

    for write in (markdown, html):
        assert "1 of 3 models unhealthy, 1 could not be checked" in write(all_three)
        assert "1 of 2 models could not be checked" in write(some_healthy)
        assert "1 of 1 model could not be checked" in write([BROKEN])
    assert Page(html(all_three)).open == []
    assert 'class="badge unchecked"' in html([BROKEN])
    rows = [line for line in markdown(all_three).splitlines() if line.startswith("| :")]
    assert [row.split()[1] for row in rows] == [":x:", ":grey_question:", ":white_check_mark:"]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 9 for row in rows)


def test_what_could_not_be_checked_is_an_error_in_code_scanning():
    (run,) = json.loads(sarif([samples.healthy(), BROKEN]))["runs"]
    (result,) = run["results"]

    assert (result["ruleId"], result["level"]) == ("not-checked", "error")
    assert run["tool"]["driver"]["rules"][0]["shortDescription"]["text"].startswith(
        "The model could not be built or run"
    )


# -- the figure


@pytest.mark.parametrize("sample_name", SAMPLES)
def test_plot(sample_name: str):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    report = SAMPLES[sample_name]()
    try:
        axes = report.plot()
        assert report.model in axes.get_title()
        assert len(axes.lines[0].get_xdata()) == len(samples_depth(report))
        assert report.plot(ax=axes) is axes
        axes.figure.canvas.draw()
    finally:
        plt.close("all")
