"""Tables say the numbers that went in."""

import io

import pytest
from rich.console import Console

from drdecr.evaluation.results import Comparison, Difference, EvaluationResult, Score
from drdecr.evaluation.tables import markdown_differences, markdown_table, terminal_table


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


def test_bad_input_is_refused(results):
    with pytest.raises(ValueError, match="at least one system"):
        markdown_table({}, "RR@10")
    with pytest.raises(ValueError, match="'zero-shot' has no R@5"):
        terminal_table(results, "R@5")
    with pytest.raises(ValueError, match="has no 'avg'"):
        markdown_table({"odd": result(ar=Score(0.1, 0.1, 0.1, 1))}, "RR@10")
    with pytest.raises(ValueError, match="comparison has no RR@10"):
        markdown_differences(Comparison({}, {}), "RR@10")
