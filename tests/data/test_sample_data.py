"""What the sample data promises, read from its files by another way than the readers'."""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from drdecr.data.offline import sample as sample_data
from drdecr.data.offline.sample import LANGUAGES, SPLITS, read_sample_questions, read_sample_sentences

FOLDER = Path(sample_data.__file__).parent / "sample_texts"
CODES = ("en", *LANGUAGES)
SCRIPTS = {
    "en": ("LATIN",),
    "fi": ("LATIN",),
    "ar": ("ARABIC",),
    "bn": ("BENGALI",),
    "ja": ("HIRAGANA", "KATAKANA", "CJK", "IDEOGRAPHIC"),  # the last is the repetition mark 々
    "ko": ("HANGUL",),
    "ru": ("CYRILLIC",),
    "te": ("TELUGU",),
}


def records(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


PASSAGES, QUESTIONS, SENTENCES = records("passages"), records("questions"), records("sentences")
BY_ID = {record["document_id"]: record for record in PASSAGES}


def letters(text):
    """A text without case, signs and spaces, marks kept: loops, not the expression that `normalised` uses."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if unicodedata.category(c)[0] in "LMN")


def crossing(pairs):
    """Keys of `(key, side)` that stand on more than one side."""
    sides = defaultdict(set)
    for key, side in pairs:
        sides[key].add(side)
    return {key: found for key, found in sides.items() if len(found) > 1}


def test_there_is_as_much_as_promised():
    assert len(PASSAGES) >= 120
    asked = Counter(record["document_id"] for record in QUESTIONS)
    assert set(asked) == set(BY_ID)
    for record in [*QUESTIONS, *SENTENCES]:
        assert all(record[code].strip() for code in CODES), record
    assert len(SENTENCES) >= 150


def test_files_are_a_few_hundred_kilobytes():
    size = sum(file.stat().st_size for file in FOLDER.glob("*.jsonl"))
    assert 100_000 < size < 1_000_000


@pytest.mark.parametrize("rows", [PASSAGES, QUESTIONS, SENTENCES], ids=["passages", "questions", "sentences"])
def test_every_record_belongs_to_one_of_three_splits(rows):
    shares = {split: share / len(rows) for split, share in Counter(row["split"] for row in rows).items()}
    assert set(shares) == set(SPLITS)
    assert shares["train"] > 0.5
    assert min(shares.values()) >= 0.08


def test_no_passage_or_topic_is_on_two_sides():
    assert not crossing((letters(row["text"]), row["split"]) for row in PASSAGES)
    assert not crossing((letters(row["title"]), row["split"]) for row in PASSAGES)
    assert not crossing((row["topic"], row["split"]) for row in PASSAGES)


def test_questions_stand_on_the_side_of_their_passage():
    wrong = [row["question_id"] for row in QUESTIONS if row["split"] != BY_ID[row["document_id"]]["split"]]
    assert wrong == []


def test_no_question_or_sentence_is_on_two_sides():
    rows = [*QUESTIONS, *SENTENCES]
    assert not crossing((letters(row[code]), row["split"]) for row in rows for code in CODES)


@pytest.mark.parametrize("code", CODES)
def test_nothing_stands_twice(code):
    for rows in (QUESTIONS, SENTENCES):
        assert [text for text, n in Counter(letters(row[code]) for row in rows).items() if n > 1] == []
    assert [text for text, n in Counter(letters(row["text"]) for row in PASSAGES).items() if n > 1] == []


@pytest.mark.parametrize(("rows", "name"), [(PASSAGES, "document"), (QUESTIONS, "question"), (SENTENCES, "sentence")])
def test_ids_stand_once(rows, name):
    assert [key for key, n in Counter(row[f"{name}_id"] for row in rows).items() if n > 1] == []


def foreign_letters(text, code):
    """Letters of another script. Abbreviations (CERN, PK) and Roman numerals are Latin in every language."""
    text = re.sub("(?<![A-Za-z])[A-Z]{1,6}(?![A-Za-z])", "", text)
    return {c for c in text if c.isalpha() and not unicodedata.name(c).startswith(SCRIPTS[code])}


@pytest.mark.parametrize("code", CODES)
def test_letters_are_of_the_languages_script(code):
    strange = {row[code]: found for row in [*QUESTIONS, *SENTENCES] if (found := foreign_letters(row[code], code))}
    assert strange == {}


@pytest.mark.parametrize(
    ("text", "found"), [("CERN и XV век", set()), ("Кто invented это", set("invetd")), ("আ", {"আ"})]
)
def test_foreign_letters_are_seen(text, found):
    assert foreign_letters(text, "ru") == found


def test_answers_stand_in_their_passage():
    wrong = [row["question_id"] for row in QUESTIONS if row["answer"] not in BY_ID[row["document_id"]]["text"]]
    assert wrong == []


def test_questions_do_not_repeat_their_passage():
    copied = [
        row["question_id"] for row in QUESTIONS if letters(row["en"]) in letters(BY_ID[row["document_id"]]["text"])
    ]
    assert copied == []
    shares = []
    for row in QUESTIONS:
        words = set(re.findall(r"[a-z]{4,}", row["en"].lower())) - {"what", "which", "where", "when", "does", "many"}
        shares.append(np.mean([word in BY_ID[row["document_id"]]["text"].lower() for word in sorted(words)] or [0.0]))
    assert np.mean(shares) < 0.6  # of a question's content words
    assert np.mean([share == 1 for share in shares]) < 0.05


def test_passages_can_be_mistaken_for_each_other():
    topics = Counter(row["topic"] for row in PASSAGES)
    assert min(topics.values()) >= 2  # one subject, another fact


@pytest.mark.parametrize("split", SPLITS)
def test_readers_return_the_records_of_a_split(split):
    found = read_sample_questions(split, languages=["en", "fi"])
    expected = [(row[code], row["en"], code) for row in QUESTIONS if row["split"] == split for code in ("en", "fi")]
    columns = (found.questions[name] for name in ("query", "english", "language"))
    assert list(zip(*columns, strict=True)) == expected
    assert set(found.passages) == set(BY_ID)  # the whole collection is searched
    sentences = read_sample_sentences(split)
    assert len(sentences) == 7 * sum(row["split"] == split for row in SENTENCES)
    assert set(sentences["language"]) == set(LANGUAGES)


def test_unknown_split_and_language_are_named():
    with pytest.raises(ValueError, match="one of train, dev, test, got 'all'"):
        read_sample_questions("all")
    with pytest.raises(ValueError, match="got \\['xx'\\]"):
        read_sample_sentences("dev", languages=["xx"])
    with pytest.raises(ValueError, match="expected some of en, ar"):
        read_sample_questions("dev", languages=[])
