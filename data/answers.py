"""Does a passage hold an answer? Matched word by word, as DPR and XOR-Retrieve find their positives."""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

WORDS = re.compile(r"\w+|[^\w\s]")

NO_SPANS = frozenset({"yes", "no"})
"""Answers that no passage can be searched for."""


def words_of(text: str) -> list[str]:
    """Return a text's words and signs in Unicode's decomposed form, in lower case."""
    return WORDS.findall(unicodedata.normalize("NFD", text).lower())


def searchable(answers: Iterable[str]) -> list[str]:
    """Return the answers that a passage may hold: not yes, no or blank.

    >>> searchable(["Yes", "", "Paris"])
    ['Paris']
    """
    return [answer for answer in answers if answer.strip() and answer.strip().lower() not in NO_SPANS]


def has_answer(text: str, answers: Iterable[str]) -> bool:
    """Tell whether the words of one of the answers stand in the text, one after the other.

    Whole words are matched: `art` is not in `party`. Case, blanks and the form of accents do not count.

    >>> has_answer("It was built by J. R. Miller.", ["j.r. miller"]), has_answer("a party", ["art"])
    (True, False)
    """
    words = _spaced(text)
    return any(f" {' '.join(found)} " in words for answer in answers if (found := words_of(answer)))


@lru_cache(maxsize=8192)
def _spaced(text: str) -> str:
    """Return a text's words with a blank around each; passages are looked at for many questions."""
    return f" {' '.join(words_of(text))} "
