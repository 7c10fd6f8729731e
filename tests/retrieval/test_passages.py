"""Passages of long texts: nothing is lost, nothing is too long, words stay whole."""

import itertools
import random

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from drdecr.modeling_drdecr import DrDecrProcessor
from drdecr.retrieval.passages import Document, Splitter, split_text, token_spans


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


@pytest.fixture
def piece_processor():
    """Pieces as SentencePiece makes them: a blank before the text is a piece of its own where no longer one has it."""
    letters = "灯台を建てたのは誰ですか。abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁the", "▁a", *letters, "ab", "cd", "灯台", "です", "123"]
    backend = Tokenizer(models.Unigram([(piece, -float(len(pieces) - n)) for n, piece in enumerate(pieces)], unk_id=3))
    backend.normalizer = normalizers.Replace("\u200b", "")
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    return DrDecrProcessor(tokenizer, document_length=16, document_prefix="a: ")


CHANCE = random.Random(5)
TEXTS = {
    "Japanese": "灯台を建てたのは誰ですか。" * 12,
    "base64": "".join(CHANCE.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(400)),
    "hex": "".join(CHANCE.choice("0123456789abcdef") for _ in range(400)),
    "DNA": "".join(CHANCE.choice("acgt") for _ in range(300)),
    "words": " ".join("".join(CHANCE.choices("abcd", k=CHANCE.randint(1, 9))) for _ in range(80)),
    "both": "the 灯台 ab123 です " * 20,
    "characters without a token": "ab\u200b" * 60,
}


@pytest.mark.parametrize("overlap", [0, 3])
@pytest.mark.parametrize("title", ["", "灯台", "the_ab_123 です" * 9])
@pytest.mark.parametrize("text", TEXTS)
def test_a_model_reads_every_passage_whole_and_every_character_stands_in_one(piece_processor, text, title, overlap):
    document = Document("d", TEXTS[text], title)
    for passage_tokens in (0, 6):
        splitter = Splitter(passage_tokens, overlap)
        passages = splitter.passages(document, piece_processor)
        prefix = piece_processor.tokenizer("a: ", add_special_tokens=False)["input_ids"]
        for passage in passages:
            tokens = piece_processor.tokenizer("a: " + passage.reads, add_special_tokens=False)["input_ids"]
            assert len(tokens) - len(prefix) <= splitter.room(piece_processor), passage.reads
        covered = {n for one in passages for n in range(one.payload["start"], one.payload["end"])}
        assert [n for n, letter in enumerate(document.text) if n not in covered and not letter.isspace()] == []
        if not overlap:
            assert sum(one.payload["end"] - one.payload["start"] for one in passages) == len(covered)


def test_a_passage_that_has_more_tokens_alone_becomes_shorter():
    text = "abcdefghij"
    letters = [(number, number + 1) for number in range(10)]
    cuts = split_text(text, letters, 4, count_tokens=lambda passage: len(passage) + 1)
    assert [text[start:end] for start, end in cuts] == ["abc", "def", "ghi", "j"]
    assert split_text(text, letters, 1, count_tokens=lambda passage: 9)[0] == (0, 1)  # no end of it
