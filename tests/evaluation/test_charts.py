"""Charts inside a page: the bars that went in, no size, font, colour or id that would clash with the page's."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from drdecr.evaluation.charts import BETTER, WORSE, colours_of, gap_bars, language_bars, rank_change_bars
from drdecr.evaluation.results import Difference, EvaluationResult, Score


def result(**means: float) -> EvaluationResult:
    return EvaluationResult({"RR@10": {name: Score(m, m - 0.1, m + 0.1, 30) for name, m in means.items()}}, {})


RESULTS = {"zero-shot": result(ar=0.2, fi=0.6, avg=0.4), "student": result(ar=0.5, fi=0.7, avg=0.6)}


def bars(svg: str, colour: str) -> list[tuple[float, float]]:
    """Width and height of every bar of a colour, from the corners of its path."""
    found = []
    for path in ElementTree.fromstring(svg).iter("path"):
        if colour.lower() in path.get("style", "").lower():
            numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.get("d", ""))]
            found.append((max(numbers[::2]) - min(numbers[::2]), max(numbers[1::2]) - min(numbers[1::2])))
    return found


def test_bars_are_as_long_as_the_means_that_went_in():
    colours = colours_of(list(RESULTS))
    svg = language_bars(RESULTS, "RR@10", colours)
    lengths = {label: [width for width, _ in bars(svg, colours[label])] for label in RESULTS}
    unit = lengths["zero-shot"][0] / 0.2
    assert [width / unit for width in lengths["zero-shot"]] == pytest.approx([0.2, 0.6, 0.4], rel=1e-3)
    assert [width / unit for width in lengths["student"]] == pytest.approx([0.5, 0.7, 0.6], rel=1e-3)
    words = [text.text for text in ElementTree.fromstring(svg).iter("text")]
    assert words[-3:] == ["ar", "fi", "avg"]  # real letters, not outlines


def test_a_histogram_counts_moves_and_leaves_out_what_stayed():
    changes = [0] * 50 + [1, 1, 1, 2, 10, -1, -3, -4]
    svg = rank_change_bars(changes)
    heights = {colour: [round(height, 3) for _, height in bars(svg, colour)] for colour in (WORSE, BETTER)}
    unit = heights[BETTER][1]  # of the one question that rose by 2
    assert [height / unit for height in heights[WORSE]] == pytest.approx([0, 2, 0, 1], abs=1e-2)  # 5+, 3-4, 2, 1
    assert [height / unit for height in heights[BETTER]] == pytest.approx([3, 1, 0, 1], abs=1e-2)  # 1, 2, 3-4, 5+


def test_charts_take_the_pages_font_colours_and_size():
    row = Difference(-0.2, -0.3, 0.1, 30, 0.5, 0.5)
    colours = colours_of(list(RESULTS))
    charts = [
        language_bars(RESULTS, "RR@10", colours),
        gap_bars({"student": {"ar": row, "avg": row}}, colours),
        rank_change_bars([1]),
    ]
    for svg in charts:
        root = ElementTree.fromstring(svg)
        assert root.get("viewBox")
        assert root.get("width") is root.get("height") is None
        assert root.get("aria-label")
        assert "currentColor" in svg
        assert "var(--line)" in svg
        for absent in ("font-family", "font:", "<style", "<metadata", "http", "#010203", "#040506"):
            assert absent not in svg
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in charts]
    assert not ids[0] & ids[1] | ids[1] & ids[2] | ids[0] & ids[2]
    for own, svg in zip(ids, charts, strict=True):
        assert set(re.findall(r"(?:href=\"|url\()#([^\")]+)", svg)) <= own
    assert charts[0] == language_bars(RESULTS, "RR@10", colours)  # the same page again, byte for byte


def test_a_missing_language_and_zeros_can_be_drawn():
    colours = colours_of(["a", "b"])
    svg = language_bars({"a": result(ar=0.0, avg=0.0), "b": result(fi=0.1, avg=0.1)}, "RR@10", colours)
    assert len(bars(svg, colours["b"])) == 2
