"""What the page of a run is gathered from."""

import pytest

from drdecr.data.sources import read_questions
from drdecr.evaluation.report.failures import clearest_question
from drdecr.runs.pipeline import align_texts


def test_tokens_that_are_the_same_are_paired(tiny_model):
    alignment = align_texts(tiny_model, tiny_model, "xx", "king of france", "king of france")
    assert alignment.query_tokens == alignment.english_tokens == ["king", "of", "france"]
    assert alignment.partners == [0, 1, 2]
    assert [alignment.cosines[place][place] for place in range(3)] == pytest.approx([1.0] * 3, abs=1e-3)


def test_the_question_shown_is_short_foreign_and_gained(data):
    sets = [read_questions(data["test"])]
    ranks = {"o-xx": 1, "p-xx": 1, "q-xx": 2, "o-en": 1}
    assert clearest_question(sets, ranks, {"o-xx": 1, "p-xx": 7, "q-xx": None}, 10)["query_id"] == "p-xx"
    assert clearest_question(sets, {"o-en": 1}, {}, 10) is None
