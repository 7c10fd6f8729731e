"""The page holds every section and needs nothing else; a real browser opens it, sorts and filters without a complaint."""

import html
import json
import re
import subprocess
from dataclasses import replace

import pytest

from drdecr.evaluation.details import Details, Failure, ShownPassage, TokenAlignment
from drdecr.evaluation.html_report import Source, render_report
from drdecr.evaluation.results import Difference, EvaluationResult, Score

HOSTILE = "<script>alert('x')</script>&\"'"
ABOUT = {"collection": "tiny, 3 passages", "data_version": "v1: 4 questions", "command": "drdecr demo", "seed": 0}


def result(mean: float, **about: str) -> EvaluationResult:
    row = Score(mean, mean - 0.1, mean + 0.1, 2)
    rows = {"ar": row, "fi": row, "avg": Score(mean, mean - 0.1, mean + 0.1, 4)}
    return EvaluationResult({"nDCG@10": rows, "RR@10": rows}, {**ABOUT, **about})


def difference(mean: float) -> dict[str, Difference]:
    return {name: Difference(mean, mean - 0.05, mean + 0.05, 4, 0.2, 0.2) for name in ("ar", "fi", "avg")}


def failure(number: int, language: str, query: str, rank: int | None, before: int | None) -> Failure:
    gold = [ShownPassage("p1", f"Gold {HOSTILE}", True)]
    return Failure(f"q{number}", language, query, "who", rank, before, gold, [ShownPassage("p2", "x", False, 3.0)])


@pytest.fixture
def source() -> Source:
    failures = [
        failure(1, "ar", "من بنى المنارة؟", 3, 1),
        failure(2, "fi", f"Kuka {HOSTILE}", None, None),
        failure(3, "fi", "Milloin majakka rakennettiin?", 2, 4),
    ]
    details = Details(
        systems=["zero-shot", "student", "teacher"],
        system="student",
        baseline="zero-shot",
        teacher="teacher",
        languages={"q1": "ar", "q2": "fi", "q3": "fi", "q4": "ar"},
        ranks={
            "zero-shot": {"q1": 1, "q2": None, "q3": 4, "q4": 1},
            "student": {"q1": 3, "q2": None, "q3": 2, "q4": 1},
        },
        gaps={"zero-shot": difference(-0.4), "student": difference(-0.1)},
        gains=difference(0.3),
        failures=failures,
        num_failures=7,
        alignment=TokenAlignment(
            "q4",
            "ar",
            "من بنى",
            "who built",
            ["من", "بنى"],
            ["who", "built"],
            [[0.9, -0.1], [0.2, 0.8]],
            [[0, 0], [1, 1]],
        ),
    )
    results = {"zero-shot": result(0.5), "student": result(0.8), "teacher": result(0.9)}
    return Source("demo", results, details)


SECTIONS = ("scores", "distance-1", "moves-1", "tokens-1", "failures-1", "about")


def test_every_section_and_figure_is_there(source):
    page = render_report([source], "A student")
    assert all(f'id="{name}"' in page for name in SECTIONS)
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    for words in ("tiny, 3 passages", "v1: 4 questions", "MRR@10", "0.800", "[0.70, 0.90]", "75 %", "من بنى المنارة؟"):
        assert words in text
    assert "3 of 7, evenly" in text
    assert "2 of 4 questions did not move" in text
    assert page.count("<svg") == 3
    assert len(re.findall(r'<td class="[^"]*pair"', page)) == 2


def test_nothing_is_asked_of_the_network_and_no_text_becomes_markup(source):
    page = render_report([source], HOSTILE)
    assert not re.findall(r'(?:src|href|action|data)="(?!#|data:,)[^"]*"', page)
    assert "http" not in re.sub(r'http-equiv="[^"]+"', "", page)
    assert "@import" not in page
    assert not re.findall(r"url\((?!#)", page)
    assert page.count("<script>") == 1
    assert "default-src 'none'" in page


def test_text_of_any_direction_says_so(source):
    page = render_report([source])
    assert page.count('dir="auto" lang="ar"') >= 3
    assert 'dir="auto">Gold' in page


def test_results_of_another_collection_stand_apart_and_labels_of_two_runs_differ(source):
    other = Source("other", {"student": result(0.7, collection="large")})
    page = render_report([source, other])
    assert "Figures of different collections do not compare" in page
    assert "demo: student" in page
    assert "other: student" in page
    assert 'id="moves-1"' in page
    with pytest.raises(ValueError, match="names differ"):
        render_report([other, other])
    with pytest.raises(ValueError, match="names differ"):
        render_report([])


def test_means_alone_make_a_page(source):
    page = render_report([replace(source, details=None)])
    assert 'id="failures-1"' not in page
    assert page.count("<svg") == 1


def test_more_than_six_systems_are_drawn_in_several_charts(source):
    page = render_report([Source("many", {f"s{number}": result(0.5) for number in range(8)})])
    assert page.count("<svg") == 2


PROBE = """<script>
const problems = [];
addEventListener("error", (event) => problems.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => problems.push(event.violatedDirective + " " + event.blockedURI));
console.error = console.warn = (...words) => problems.push(words.join(" "));
addEventListener("load", () => {
  const visible = () => [...document.querySelectorAll(".failures tbody tr")].filter((row) => !row.hidden && row.offsetHeight);
  const ranks = () => visible().map((row) => row.dataset.rank);
  const press = (key) => document.querySelector(`button[data-key=${key}]`).click();
  const choose = (tag, value, kind) => {
    const field = document.querySelector(".controls " + tag);
    field.value = value;
    field.dispatchEvent(new Event(kind));
  };
  const found = { first: ranks() };
  press("rank"); found.ascending = ranks();
  press("rank"); found.descending = ranks();
  choose("select", "ar", "change"); found.arabic = ranks();
  choose("select", "", "change"); choose("input", "MAJAKKA", "input"); found.words = ranks();
  found.said = document.querySelector("output").textContent;
  found.heights = [...document.querySelectorAll("section, svg")].map((part) => Math.round(part.getBoundingClientRect().height));
  found.overflow = document.documentElement.scrollWidth - innerWidth;
  found.resources = performance.getEntriesByType("resource").map((entry) => entry.name);
  found.problems = problems;
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script>"""


@pytest.mark.processes
@pytest.mark.parametrize("width", [1280, 500])  # no window of a headless chromium is narrower
def test_a_browser_opens_sorts_and_filters_it_without_a_complaint(source, width, tmp_path, chromium):
    page = tmp_path / "report.html"
    page.write_text(render_report([source]).replace("<head>", "<head>" + PROBE), encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += [f"--window-size={width},900", "--enable-logging=stderr", "--no-first-run", "--disable-extensions"]
    done = subprocess.run(
        [chromium, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr  # what the page itself complains of
    found = json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
    assert found["problems"] == []
    assert found["resources"] == []
    assert found["first"] == ["3", "11", "2"]
    assert found["ascending"] == ["2", "3", "11"]  # as numbers
    assert found["descending"] == ["11", "3", "2"]
    assert found["arabic"] == ["3"]
    assert found["words"] == ["2"]
    assert found["said"] == "1 of 3 shown"
    assert min(found["heights"]) > 60
    assert found["overflow"] <= 0
    assert all(f'id="{name}"' in done.stdout for name in SECTIONS)
