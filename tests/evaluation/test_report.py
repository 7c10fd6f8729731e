"""Tables say the numbers that went in; the chart draws the bars and intervals that went in."""

import io
import itertools

import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from rich.console import Console

from drdecr.evaluation import tables as report
from drdecr.evaluation.results import Comparison, Difference, EvaluationResult, Score
from drdecr.evaluation.tables import bar_chart, markdown_differences, markdown_table, terminal_table


def result(**scores: Score) -> EvaluationResult:
    return EvaluationResult({"RR@10": scores}, {})


@pytest.fixture
def results():
    return {
        "zero-shot": result(
            ar=Score(0.55, 0.5, 0.6, 300), ru=Score(0.729, 0.69, 0.768, 310), avg=Score(0.64, 0.61, 0.67, 610)
        ),
        "stage D [best]": result(ar=Score(0.6264, 0.584, 0.666, 300), avg=Score(0.6264, 0.584, 0.666, 300)),
        "teacher | en": result(
            ar=Score(0.866, 0.84, 0.89, 281), en=Score(0.9, 0.9, 0.9, 3), avg=Score(0.88, 0.8, 0.9, 284)
        ),
    }


def test_markdown_table_reads_exactly_so(results):
    assert markdown_table(results, "RR@10") == (
        "| MRR@10 | ar (n=300) | en (n=3) | ru (n=310) | avg (n=610) |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| zero-shot | 0.550 [0.50, 0.60] | – | 0.729 [0.69, 0.77] | 0.640 [0.61, 0.67] |\n"
        "| stage D [best] | 0.626 [0.58, 0.67] | – | – | 0.626 [0.58, 0.67] n=300 |\n"
        "| teacher \\| en | 0.866 [0.84, 0.89] n=281 | 0.900 [0.90, 0.90] | – | 0.880 [0.80, 0.90] n=284 |\n"
    )


def test_terminal_table_shows_every_name_and_number(results):
    console = Console(file=io.StringIO(), width=100)
    console.print(terminal_table(results, "RR@10"))
    text = console.file.getvalue()
    for expected in ("MRR@10", "n=310", "0.626", "[0.58, 0.67]", "stage D [best]", "n=281", "–"):
        assert expected in text


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_terminal_table_of_nine_columns_cuts_no_number_at_any_width(width):
    names = ("ar", "bn", "en", "fi", "ja", "ko", "ru", "te", "avg")
    row = result(**{language: Score(0.626, 0.584, 0.666, 300) for language in names})
    systems = {"zero-shot": row, "after stage B (XOR-TyDi triples)": row, "teacher on English questions": row}
    console = Console(file=io.StringIO(), width=width)
    console.print(terminal_table(systems, "RR@10"))
    text = console.file.getvalue()
    assert [text.count(number) for number in ("0.626", "[0.58,", "0.67]", "n=300")] == [27, 27, 27, 9]
    assert max(map(len, text.splitlines())) <= width
    if width == 160:
        assert text.count("[0.58, 0.67]") == 27


def test_markdown_of_differences_reads_exactly_so():
    rows = {
        "ar": Difference(0.0764, 0.0312, 0.1201, 300, 0.0001, 0.0002),
        "avg": Difference(-0.004, -0.02, 0.0111, 610, 0.61, 0.61),
    }
    assert markdown_differences(Comparison({"RR@10": rows}, {}), "RR@10") == (
        "| language | n | gain in MRR@10 | p | p (Holm) |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| ar | 300 | +0.076 [+0.031, +0.120] | <0.001 | <0.001 |\n"
        "| avg | 610 | -0.004 [-0.020, +0.011] | 0.610 | 0.610 |\n"
    )


def test_chart_is_a_png_with_every_systems_colour(results, tmp_path):
    path = bar_chart(results, "RR@10", tmp_path / "chart.png", title="Sample data")
    pixels = image.imread(path)
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 800
    colours, counts = np.unique(np.round(pixels[..., :3].reshape(-1, 3) * 255).astype(int), axis=0, return_counts=True)
    seen = {to_hex(colour / 255).upper() for colour, count in zip(colours, counts, strict=True) if count > 1000}
    assert set(report.COLOURS[:3]) <= seen
    assert report.COLOURS[3] not in seen


def test_bars_and_error_bars_have_the_heights_that_went_in(results):
    axes = Figure().subplots()
    columns = report._columns(results, "RR@10")
    report._draw_bars(axes, results, "RR@10", columns)
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers if hasattr(bars, "patches")]
    assert heights == [[0.55, 0.729, 0.64], [0.6264, 0.6264], [0.866, 0.9, 0.88]]
    ends = [line.get_segments()[0][:, 1] for line in axes.collections]  # of each system's first bar
    assert np.allclose(ends, [[0.5, 0.6], [0.584, 0.666], [0.84, 0.89]])
    bars = [bar for bars in axes.containers if hasattr(bars, "patches") for bar in bars]
    spans = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars)
    assert all(left[1] <= right[0] + 1e-9 for left, right in itertools.pairwise(spans))  # none hides another
    assert axes.get_ylim()[0] == 0.0
    assert axes.get_ylim()[1] > 0.9


def test_six_systems_can_be_drawn_and_seven_are_refused(results, tmp_path):
    one = results["zero-shot"]
    assert bar_chart({f"s{i}": one for i in range(6)}, "RR@10", tmp_path / "six.png").exists()
    with pytest.raises(ValueError, match="up to 6 systems, got 7"):
        bar_chart({f"s{i}": one for i in range(7)}, "RR@10", tmp_path / "seven.png")


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
COLOUR_BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("kind", COLOUR_BLINDNESS)
def test_colours_stay_apart_for_colour_blind_readers(kind):
    rgb = np.array([to_rgb(colour) for colour in report.COLOURS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(COLOUR_BLINDNESS[kind]).T, 0, 1)
    xyz = seen @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    f = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    distances = [np.linalg.norm(one - other) for one, other in itertools.combinations(lab, 2)]
    assert min(distances) > 15  # CIELAB; 2 is just noticeable


def test_all_scores_zero_can_be_drawn(tmp_path):
    zero = Score(0.0, 0.0, 0.0, 5)
    assert bar_chart({"untrained": result(ar=zero, avg=zero)}, "RR@10", tmp_path / "zero.png").exists()


def test_bad_input_is_refused(results, tmp_path):
    with pytest.raises(ValueError, match="at least one system"):
        markdown_table({}, "RR@10")
    with pytest.raises(ValueError, match="'zero-shot' has no R@5"):
        terminal_table(results, "R@5")
    with pytest.raises(ValueError, match="has no 'avg'"):
        markdown_table({"odd": result(ar=Score(0.1, 0.1, 0.1, 1))}, "RR@10")
    with pytest.raises(ValueError, match=r"end in \.png"):
        bar_chart(results, "RR@10", tmp_path / "chart.pdf")
    with pytest.raises(ValueError, match="comparison has no RR@10"):
        markdown_differences(Comparison({}, {}), "RR@10")
