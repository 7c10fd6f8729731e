"""Documents, and the passages that they are cut into."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SEARCHED_FOR_A_CUT = 0.25
"""Part of a window's end in which the end of a sentence, else of a word, is looked for."""
SENTENCE_ENDS = frozenset(".!?…。！？।؟۔\n")


def token_spans(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Return the characters of `text`, `(start, end)`, that each token of a fast tokenizer covers; empty ones left out."""
    encoded = tokenizer(text, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False)
    return [(start, end) for start, end in encoded["offset_mapping"] if end > start]


def split_text(
    text: str,
    spans: Sequence[tuple[int, int]],
    size: int,
    overlap: int = 0,
    count_tokens: Callable[[str], int] | None = None,
) -> list[tuple[int, int]]:
    """Cut a text into passages.

    Args:
        text: the text.
        spans: `(start, end)` of its tokens, ascending (`token_spans`).
        size: tokens a passage, at most.
        overlap: tokens, about, that a passage has in common with the one before it; fewer than half of `size`.
        count_tokens: tokens of a passage that is read alone, of which it may have `size`, too (default: those of the text that
            it covers). Without its neighbours a passage may have more: a piece for the blank before its first word, say.

    Returns:
        `(start, end)` of each passage in characters, without blanks at its ends. A text that fits is one passage, as
        is one without tokens. A window ends behind a sentence if one ends in its last quarter, else between words, else
        (scripts without blanks) between tokens. Every character but blanks stands in a passage.

    Raises:
        ValueError: for a size below 1 or an overlap that is negative or half the size.
    """
    if size < 1 or not 0 <= overlap <= max(size - 1, 0) / 2:
        raise ValueError(
            f"split_text: expected a size of at least 1 and an overlap below half of it, got {size} and {overlap}. "
            "Overlaps of a tenth to a fifth are usual."
        )
    passages: list[tuple[int, int]] = []
    first, room = 0, size
    while True:
        end = first + room
        if end < len(spans):
            lowest = first + max(int(room * (1 - SEARCHED_FOR_A_CUT)), 1)
            end = _cut(text, spans, lowest, end)
        start = 0 if first == 0 else spans[first][0]
        is_last = end >= len(spans)
        # Characters that no token covers go with those before them.
        stop = len(text) if is_last else max(spans[end - 1][1], spans[end][0])
        passage = _trimmed(text, start, stop)
        excess = count_tokens(text[slice(*passage)]) - size if count_tokens else 0
        if excess > 0 and room > 1:
            room = max(min(end, len(spans)) - first - excess, 1)
            continue
        passages.append(passage)
        if is_last:
            return passages
        first = max(_word_start(text, spans, end - min(overlap, (room - 1) // 2), end), first + 1)
        room = size


def _cut(text: str, spans: Sequence[tuple[int, int]], lowest: int, highest: int) -> int:
    """Return the number of tokens before the best cut: token `cut` is the first that is not in the window."""
    places = range(highest, lowest - 1, -1)
    behind_sentences = (
        cut for cut in places if text[spans[cut - 1][1] - 1] in SENTENCE_ENDS and _between(text, spans, cut)
    )
    between_words = (cut for cut in places if _between(text, spans, cut))
    return next(behind_sentences, None) or next(between_words, highest)


def _word_start(text: str, spans: Sequence[tuple[int, int]], lowest: int, highest: int) -> int:
    """Return the first token at or behind `lowest` that begins a word, `highest` at most."""
    return next((number for number in range(lowest, highest) if _between(text, spans, number)), min(lowest, highest))


def _between(text: str, spans: Sequence[tuple[int, int]], cut: int) -> bool:
    before, after = spans[cut - 1][1], spans[cut][0]
    # A tokenizer may count the blank to the token before or behind it.
    return after > before or text[after].isspace() or text[before - 1].isspace() or text[before - 1] in SENTENCE_ENDS


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    if not piece.strip():
        return start, start
    return start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip()))


RESERVED = ("document_id", "title", "text", "start", "end", "digest")
"""Keys of a passage's payload that metadata may not have."""


@dataclass(frozen=True)
class Passage:
    """A part of a document, as it stands in an index.

    Args:
        passage_id: `document_id#number`.
        reads: what is encoded: the title, then the text.
        payload: document_id, title, text, `start` and `end` in the document's characters, digest, metadata.
    """

    passage_id: str
    reads: str
    payload: dict[str, Any]


@dataclass(frozen=True)
class Document:
    """A text that is searched, or of which passages are.

    Args:
        document_id: its name, unique in its collection.
        text: without what is no text at all (half surrogate pairs become `?`); may be blank.
        title: perhaps empty.
        metadata: whatever else is known, for filters: what JSON can hold.
    """

    document_id: str
    text: str
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Splitter:
    """How documents become passages.

    Args:
        passage_tokens: tokens a passage at most, title included; 0 for as many as the model reads.
        overlap: tokens that neighbours have in common, about; fewer than half a passage whatever is asked for.

    Raises:
        ValueError: for negative numbers.
    """

    passage_tokens: int = 0
    overlap: int = 20

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.passage_tokens < 0 or self.overlap < 0:
            raise ValueError(
                f"splitting: expected no negative tokens, got passages of {self.passage_tokens} that share {self.overlap}. Leave "
                "them out for the defaults."
            )

    def room(self, processor: Any) -> int:
        """Return how many tokens of text and title a passage has.

        Raises:
            ValueError: if these are more than the model reads: the rest of each passage would never be found.
        """
        most = room_for_text(processor)
        if self.passage_tokens > most:
            raise ValueError(
                f"passage_tokens: expected at most {most}, which the model reads beside its own signs, got {self.passage_tokens}."
                " Leave it out to take all."
            )
        return self.passage_tokens or most

    def passages(self, document: Document, processor: Any) -> list[Passage]:
        """Cut one document into passages, each read whole by the model; the title stands before each."""
        clash = next((name for name in document.metadata if name in RESERVED), None)
        if clash is not None:
            raise ValueError(
                f"document {document.document_id!r}: its metadata may not be called {clash!r}, which every passage has. "
                "Rename the field."
            )
        room = self.room(processor)
        title = token_spans(processor.tokenizer, document.title)
        heading = document.title[: title[min(len(title), room // 2) - 1][1]] if title else ""
        size = max(room - min(len(title), room // 2) - bool(heading), 1)
        spans = token_spans(processor.tokenizer, document.text)

        prefix, beside_text = processor.document_prefix, num_tokens(processor, processor.document_prefix) + room - size

        def count_tokens(text: str) -> int:
            return num_tokens(processor, prefix + passage_text(heading, text)) - beside_text

        cuts = split_text(document.text, spans, size, min(self.overlap, (size - 1) // 2), count_tokens)
        digest = digest_of(document)
        return [
            Passage(
                f"{document.document_id}#{number}",
                passage_text(heading, document.text[start:end]),
                {
                    "document_id": document.document_id,
                    "title": document.title,
                    "text": document.text[start:end],
                    "start": start,
                    "end": end,
                    "digest": digest,
                    **document.metadata,
                },
            )
            for number, (start, end) in enumerate(cuts)
        ]


def room_for_text(processor: Any) -> int:
    """Return how many tokens of text a processor reads of a document, beside special tokens, marker and prefix."""
    before, after = processor.special_ids
    taken = len(before) + len(after) + (processor.document_marker is not None)
    return processor.document_length - taken - num_tokens(processor, processor.document_prefix)


def num_tokens(processor: Any, text: str) -> int:
    """Return how many tokens a text has, without special ones."""
    return len(processor.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])


def digest_of(document: Document) -> str:
    """Return what changes when anything of a document does."""
    content = json.dumps(asdict(document), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def titled(title: str | None, text: str) -> str:
    """Put the title before the text, as DPR's passages have it. Wikipedia file names have underscores for spaces."""
    return f"{title.replace('_', ' ')}. {text.strip()}" if title else text.strip()


def passage_text(title: str | None, text: str) -> str:
    """Put the title before the text; a passage may have either alone."""
    return titled(title, text) if text.strip() else (title or "").replace("_", " ").strip()
