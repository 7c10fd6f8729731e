"""Collections in this package's schema: `document_id`, `text` and perhaps `title`."""

from collections.abc import Iterable, Iterator
from typing import Any

from .stored_passages import StoredPassages
from .text_files import has_fields, id_field, locate, optional_text, records_of, text_field


def read_passages(path: str) -> StoredPassages:
    """Read a collection `{document_id: text}` from JSON Lines with `document_id`, `text` and perhaps `title`."""
    return collection(records_of(locate(path)), path)


def collection(records: Iterable[tuple[int, dict[str, Any]]], source: str) -> StoredPassages:
    """Make a collection of numbered records; an error names the source and the line."""
    return StoredPassages(_rows(records, source), source)


def _rows(records: Iterable[tuple[int, dict[str, Any]]], source: str) -> Iterator[tuple[object, int, str, str]]:
    for number, record in records:
        has_fields(record, ("document_id", "text"), source, number)
        document_id = id_field(record, "document_id", source, number)
        text = titled(optional_text(record, "title", source, number), text_field(record, "text", source, number))
        if not text.strip():
            raise ValueError(f"{source}, line {number}: passage {document_id!r} is empty. Drop it from the collection.")
        yield source, number, document_id, text


def titled(title: str | None, text: str) -> str:
    """Put the title before the text, as DPR's passages have it. Wikipedia file names have underscores for spaces."""
    return f"{title.replace('_', ' ')}. {text.strip()}" if title else text.strip()


def passage_text(title: str | None, text: str) -> str:
    """Put the title before the text; a passage may have either alone."""
    return titled(title, text) if text.strip() else (title or "").replace("_", " ").strip()
