"""What the page shows for a question."""

import pytest
import torch

from drdecr.page.answers import (
    SampleQuestion,
    Searcher,
    align_questions,
    answer_question,
    choose_examples,
    clean_question,
    read_sample,
)
from drdecr.retrieval.token_matches import read_query
from drdecr.trainers import align_tokens

PASSAGES = {f"p-{letter}": f"the city {letter} is in france." for letter in "bcdef"}
KNOWN = SampleQuestion("z c z", "what is the city c", "xx", ["p-c"])


@pytest.fixture
def searcher(tiny_model) -> Searcher:
    return Searcher.over(tiny_model, PASSAGES)


def test_both_find_what_a_loop_over_all_passages_finds(searcher, tiny_model):
    answer = answer_question(searcher, searcher, KNOWN.query, KNOWN.english, KNOWN)
    for reading, text in ((answer.student, KNOWN.query), (answer.teacher, KNOWN.english)):
        query = tiny_model.encode_queries([text])[0]
        scores = {
            name: (query @ tiny_model.encode_documents([passage])[0].T).max(dim=1).values.sum().item()
            for name, passage in PASSAGES.items()
        }
        best = sorted(scores, key=lambda name: -scores[name])[:3]
        assert [found.document_id for found in reading.passages] == best
        for found in reading.passages:
            assert found.score == pytest.approx(scores[found.document_id], abs=1e-4)
            assert found.is_answer == (found.document_id == "p-c")
    assert answer.notes == []


def test_the_alignment_is_that_of_the_trainers_over_tokens_of_the_text(searcher, tiny_model):
    alignment = align_questions(read_query(tiny_model, "z c z"), read_query(tiny_model, "the city c"))
    tokens = []
    for text in ("z c z", "the city c"):
        batch = tiny_model.processor.process_queries([text])
        with torch.no_grad():
            tokens.append((tiny_model(**batch).embeddings, batch["text_mask"]))
    (own, own_mask), (other, other_mask) = tokens
    whole = align_tokens(own, other, own_mask, other_mask)[0]
    first = own_mask[0].int().argmax()  # behind <s> and marker
    assert alignment.partners == (whole[own_mask[0]] - first).tolist()
    assert len(alignment.cosines) == 3


def test_without_english_the_student_answers_alone_and_a_note_says_why(searcher):
    answer = answer_question(searcher, searcher, "z c z", "  ", None)
    assert answer.teacher is None
    assert answer.alignment is None
    assert "in English" in answer.notes[0]
    assert [found.is_answer for found in answer.student.passages] == [None] * 3


def test_a_question_that_is_cut_says_so(searcher):
    assert "longer" in answer_question(searcher, searcher, "b " * 40, "b", None).notes[0]


def test_models_of_another_width_are_shown_without_an_alignment(searcher, tiny_model):
    narrow = Searcher(tiny_model, searcher.index)
    answer = answer_question(searcher, narrow, "z c z", "the city c", None)
    assert answer.alignment is not None
    student = read_query(tiny_model, "z c z")
    with pytest.raises(ValueError, match="share one space"):
        align_questions(student, type(student)(student.text, student.spans, student.embeddings[:, :4], False))


@pytest.mark.parametrize("text", ["", "   \n\t", "\x00\x07", "\u200d", None, "\ud800"])
def test_a_question_without_words_is_answered_with_what_to_do(text):
    with pytest.raises(ValueError, match="no question yet"):
        clean_question(text)


def test_a_huge_question_is_refused_in_plain_words():
    with pytest.raises(ValueError, match="1,000,000 characters is too long"):
        clean_question("x" * 1_000_000)
    with pytest.raises(ValueError, match="too long"):
        clean_question("x " * 5_000)
    assert len(clean_question("x" * 2_000)) == 2_000


def test_odd_characters_become_spaces_and_joiners_stay():
    assert clean_question(" a\x00b\n c\ud800 ") == "a b c"
    assert clean_question("می\u200cخواهم؟ 😀") == "می\u200cخواهم؟ 😀"


def test_the_examples_are_test_questions_of_eight_languages_with_their_english():
    known, examples = read_sample(), choose_examples()
    assert [row.language for row in examples] == ["ar", "bn", "fi", "ja", "ko", "ru", "te", "en"]
    assert all(known[row.query].english == row.english for row in examples)
    assert len({row.document_ids[0] for row in examples}) == 8
    assert len(known) > 2_000
