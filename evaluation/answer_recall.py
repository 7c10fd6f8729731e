"""Does an answer stand in one of the first k passages? What open question answering calls top-k accuracy.

After DPR (Karpukhin et al. 2020), as MKQA's cross-lingual retrieval has it: both texts in Unicode's NFD, in lower case, cut
into words and single signs; a hit is an answer whose words stand in a row in one passage. So "art" is not found in "start",
which XOR-Retrieve's raw substring is.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from unicodedata import category, normalize

from .recall_at_k_tokens.xor_retrieve import span_answers


def answer_recall_at(
    rankings: Mapping[str, Iterable[str]], answers: Mapping[str, Sequence[str]], cutoffs: Sequence[int]
) -> dict[int, dict[str, float]]:
    """Score all questions.

    Args:
        rankings: `question_id -> passage texts, best first`; one that is missing is a miss.
        answers: `question_id -> answers`; a question with nothing but yes and no is left out.
        cutoffs: passages that are looked at.

    Returns:
        `cutoff -> question_id -> 0.0 or 1.0`.

    Raises:
        ValueError: for a cutoff below 1, or an answer without a word or sign.
    """
    if not cutoffs or min(cutoffs) < 1:
        raise ValueError(f"Cutoffs must be at least 1, got {list(cutoffs)}.")
    scores: dict[int, dict[str, float]] = {cutoff: {} for cutoff in cutoffs}
    for question_id, texts in answers.items():
        wanted = [words_of(text) for text in span_answers(texts)]
        if not wanted:
            continue
        if not all(wanted):
            raise ValueError(f"Question {question_id!r} has an answer without a word, got {list(texts)}. Take it out.")
        first = _first_hit(rankings.get(question_id, ()), wanted, max(cutoffs))
        for cutoff in cutoffs:
            scores[cutoff][question_id] = float(first is not None and first <= cutoff)
    return scores


def words_of(text: str) -> list[str]:
    """Cut a text into lower-case words (letters, digits and their marks) and single other signs.

    >>> words_of("Zoe's 1,5 m")
    ['zoe', "'", 's', '1', ',', '5', 'm']
    """
    words: list[str] = []
    inside = False
    for character in normalize("NFD", text):
        kind = _kind(character)
        if kind == "word" and inside:
            words[-1] += character
        elif kind != "blank":
            words.append(character)
        inside = kind == "word"
    return [word.lower() for word in words]


@functools.cache
def _kind(character: str) -> str:
    if category(character)[0] in "LNM":
        return "word"
    return "blank" if category(character)[0] in "ZC" else "sign"


def _first_hit(texts: Iterable[str], wanted: Sequence[list[str]], depth: int) -> int | None:
    for rank, text in enumerate(texts, start=1):
        if rank > depth:
            return None
        words = words_of(text)
        if any(_stands_in(answer, words) for answer in wanted):
            return rank
    return None


def _stands_in(answer: list[str], words: list[str]) -> bool:
    length = len(answer)
    return any(words[start : start + length] == answer for start in range(len(words) - length + 1))
