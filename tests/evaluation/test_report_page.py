"""The page holds every figure, lets no text become markup, and asks nothing of any host."""

import re
from dataclasses import replace
from html import unescape

import pytest

from drdecr.evaluation.report.failures import Failure, ShownPassage
from drdecr.evaluation.report.page import Report, TokenAlignment, render_report
from drdecr.evaluation.results import Comparison, Difference, EvaluationResult, Score

HOSTILE = "<script>alert('x')</script>&\"'"
ABOUT = {
    "collection": "tiny",
    "data_version": "v1: 4 questions",
    "seed": 0,
    "resamples": 9,
    "average_over": ["ar", "fi"],
}


def result(mean: float) -> EvaluationResult:
    rows = {"ar": Score(mean + 0.011, mean - 0.1, mean + 0.1, 2), "fi": Score(mean, mean - 0.07, mean + 0.04, 3)}
    return EvaluationResult({"nDCG@10": rows, "RR@10": {**rows, "avg": Score(mean, mean - 0.1, mean + 0.1, 5)}}, ABOUT)


def comparison(mean: float, low: float, high: float) -> Comparison:
    return Comparison({"RR@10": {code: Difference(mean, low, high, 2, 0.1, 0.1) for code in ("ar", "fi", "avg")}}, {})


def failure(query_id: str, language: str, query: str, rank: int | None) -> Failure:
    passages = [ShownPassage("p1", f"Gold {HOSTILE}", True)], [ShownPassage("p2", "Torni", False, 3.0)]
    return Failure(query_id, language, query, "who built it", rank, 1, *passages)


@pytest.fixture
def report(tmp_path) -> Report:
    (tmp_path / "results.png").write_bytes(b"\x89PNG\r\n")
    return Report(
        title=f"Page {HOSTILE}",
        results={"zero-shot": result(0.513), "student": result(0.727), "teacher": result(0.851)},
        measure="RR@10",
        student="student",
        baseline="zero-shot",
        teacher="teacher",
        gain=comparison(0.3, 0.2, 0.4),
        distances={"zero-shot": comparison(-0.4, -0.5, -0.3), "student": comparison(-0.1, -0.2, -0.05)},
        failures=[failure("q1", "ar", "من بنى المنارة؟", 3), failure("q2", "fi", f"Kuka rakensi {HOSTILE}", None)],
        num_failures=7,
        num_questions=10,
        alignment=TokenAlignment("ar", "من بنى", "who built", ["من", HOSTILE], ["who"], [[0.9], [-0.14]], [0, -1]),
        pictures={"results": tmp_path / "results.png"},
    )


def text_of(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_every_figure_stands_in_the_page(report):
    text = text_of(render_report(report))
    scores = [row for found in report.results.values() for rows in found.scores.values() for row in rows.values()]
    for row in scores:
        assert f"{row.mean:.3f} [{row.low:.2f}, {row.high:.2f}]" in text
    for words in ("-0.400 [-0.500, -0.300]", "0.90", "-0.14", "7 of 10 questions", "2 of 7, evenly"):
        assert words in text
    assert "Finnish" in text
    assert not re.search(r"\bfi\b", text)  # no code stands for a language


def test_a_share_is_told_only_where_a_gain_is_shown(report):
    assert "Of the distance that zero-shot has, 75 % is closed" in text_of(render_report(report))
    text = text_of(render_report(replace(report, gain=comparison(0.1, -0.02, 0.2))))
    assert "Against zero-shot: no difference shown, +0.100 [-0.020, +0.200]" in text
    assert "75 %" not in text


def test_texts_stay_texts_and_no_host_is_named(report):
    page = render_report(report)
    assert page.count("<script>") == 1
    assert text_of(page).count("alert('x')") >= 5
    assert "http" not in re.sub(r'http-equiv="[^"]+"', "", page)
    assert not re.findall(r'(?:src|href|action)="(?!#|data:)[^"]*"', page)
    assert 'src="data:image/png;base64,iVBORw0K"' in page


def test_a_page_of_one_system_says_what_is_known(report):
    page = render_report(Report("Alone", {"student": report.results["student"]}, "RR@10", "student"))
    assert all(words not in page for words in ("Distance", "Failures", "Token alignment", "closed", "None"))


@pytest.mark.processes
@pytest.mark.parametrize("width", [1280, 360])
def test_a_browser_searches_the_failures_and_nothing_sticks_out(report, width, tmp_path, browser):
    (tmp_path / "report.html").write_text(render_report(report), encoding="utf-8")
    view, complaints = browser.new_page(viewport={"width": width, "height": 800}), []
    view.on("console", lambda message: complaints.append(message.text))
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.goto((tmp_path / "report.html").as_uri())
    view.get_by_role("searchbox").fill("finnish RAKENSI torni")
    assert view.locator(".failures tbody tr:visible small").first.inner_text() == "Finnish · q2"
    assert view.locator("output").inner_text() == "1 of 2 shown"
    assert view.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert complaints == []
