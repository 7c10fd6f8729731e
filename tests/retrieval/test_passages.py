"""Passages of long texts: nothing is lost, nothing is too long, words stay whole."""

import itertools
import random

import pytest

from drdecr.retrieval.passages import split_text, token_spans


def word_spans(text):
    """Spans of blank-separated words, the tokens of these tests."""
    spans, start = [], 0
    for word in text.split():
        start = text.index(word, start)
        spans.append((start, start + len(word)))
        start += len(word)
    return spans


@pytest.mark.parametrize("size", [1, 2, 7, 20])
def test_every_word_stands_in_a_passage_and_no_passage_is_too_long(size):
    chance = random.Random(size)
    words = [f"w{number}{chance.choice(['', '', '.', ','])}" for number in range(200)]
    text = "  " + "".join(word + chance.choice([" ", "  ", "\n"]) for word in words)
    for overlap in {0, (size - 1) // 2}:
        cuts = split_text(text, word_spans(text), size, overlap)
        passages = [text[start:end].split() for start, end in cuts]
        assert [word for word in words if not any(word in passage for passage in passages)] == []
        assert max(map(len, passages)) <= size
        assert all(text[start:end] == text[start:end].strip() for start, end in cuts)
        assert [start for start, _ in cuts] == sorted(start for start, _ in cuts)
        if not overlap:
            assert [word for passage in passages for word in passage] == words
        shared = [len(set(a) & set(b)) for a, b in itertools.pairwise(passages)]
        assert max(shared, default=0) <= overlap


def test_a_passage_ends_behind_a_sentence_if_one_ends_near():
    text = "a b c d e f. g h i j k l m n o p"
    cuts = split_text(text, word_spans(text), size=8)
    assert text[slice(*cuts[0])] == "a b c d e f."
    text = text.replace(".", "").replace("b", "b.")  # too far from the window's end
    assert text[slice(*split_text(text, word_spans(text), size=8)[0])] == "a b. c d e f g h"


def test_tokens_inside_a_word_stay_with_it_where_the_word_is_short_enough():
    text = "abcd efgh ijkl mnop"
    pieces = [(start, start + 2) for start in (0, 2, 5, 7, 10, 12, 15, 17)]
    assert [text[start:end] for start, end in split_text(text, pieces, size=5)] == ["abcd efgh", "ijkl mnop"]
    japanese = "灯台を建てたのは誰ですか"
    letters = [(number, number + 1) for number in range(len(japanese))]
    assert "".join(japanese[start:end] for start, end in split_text(japanese, letters, size=5)) == japanese


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "one", " one "])
def test_a_text_that_fits_is_one_passage(text):
    [(start, end)] = split_text(text, word_spans(text), size=3)
    assert text[start:end] == text.strip()


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (10, 5), (10, -1)])
def test_windows_that_cannot_move_on_are_refused(size, overlap):
    with pytest.raises(ValueError, match="overlap below half"):
        split_text("a", [(0, 1)], size, overlap)


def test_spans_are_the_tokenizers(tiny_tokenizer):
    text = "the  king, of paris"
    assert [text[start:end] for start, end in token_spans(tiny_tokenizer, text)] == ["the", "king", ",", "of", "paris"]
