"""Long texts to passages that an encoder can read whole: windows of tokens that overlap, cut between words."""

from collections.abc import Sequence
from typing import Any

SEARCHED_FOR_A_CUT = 0.25
"""Part of a window's end in which the end of a sentence, else of a word, is looked for."""
SENTENCE_ENDS = frozenset(".!?…。！？।؟۔\n")


def token_spans(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Return the characters of `text`, `(start, end)`, that each token of a fast tokenizer covers; empty ones left out."""
    encoded = tokenizer(text, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False)
    return [(start, end) for start, end in encoded["offset_mapping"] if end > start]


def split_text(text: str, spans: Sequence[tuple[int, int]], size: int, overlap: int = 0) -> list[tuple[int, int]]:
    """Cut a text into passages.

    Args:
        text: the text.
        spans: `(start, end)` of its tokens, ascending (`token_spans`).
        size: tokens a passage, at most.
        overlap: tokens, about, that a passage has in common with the one before it; fewer than half of `size`.

    Returns:
        `(start, end)` of each passage in characters, without blanks at its ends. A text that fits is one passage, as
        is one without tokens. A window ends behind a sentence if one ends in its last quarter, else between words, else
        (scripts without blanks) between tokens.

    Raises:
        ValueError: for a size below 1 or an overlap that is negative or half the size.
    """
    if size < 1 or not 0 <= overlap <= max(size - 1, 0) / 2:
        raise ValueError(
            f"split_text: expected a size of at least 1 and an overlap below half of it, got {size} and {overlap}. "
            "Overlaps of a tenth to a fifth are usual."
        )
    if len(spans) <= size:
        return [_trimmed(text, 0, len(text))]
    found = []
    first = 0
    while True:
        last = first + size
        if last >= len(spans):
            found.append(_trimmed(text, spans[first][0], len(text)))
            return found
        last = _cut(text, spans, first + max(int(size * (1 - SEARCHED_FOR_A_CUT)), 1), last)
        found.append(_trimmed(text, 0 if first == 0 else spans[first][0], spans[last - 1][1]))
        first = max(_word_start(text, spans, last - overlap, last), first + 1)


def _cut(text: str, spans: Sequence[tuple[int, int]], lowest: int, highest: int) -> int:
    """Return the number of tokens before the best cut: token `cut` is the first that is not in the window."""
    places = range(highest, lowest - 1, -1)
    behind_sentences = (
        cut for cut in places if text[spans[cut - 1][1] - 1] in SENTENCE_ENDS and _between(text, spans, cut)
    )
    between_words = (cut for cut in places if _between(text, spans, cut))
    return next(behind_sentences, None) or next(between_words, highest)


def _word_start(text: str, spans: Sequence[tuple[int, int]], wanted: int, highest: int) -> int:
    """Return the first token at or behind `wanted` that begins a word, `highest` at most."""
    return next((number for number in range(wanted, highest) if _between(text, spans, number)), min(wanted, highest))


def _between(text: str, spans: Sequence[tuple[int, int]], cut: int) -> bool:
    before, after = spans[cut - 1][1], spans[cut][0]
    # A tokenizer may count the blank to the token before or behind it.
    return after > before or text[after].isspace() or text[before - 1].isspace() or text[before - 1] in SENTENCE_ENDS


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    if not piece.strip():
        return start, start
    return start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip()))
