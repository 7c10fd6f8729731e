"""Documents to search: JSON Lines, TSV, parquet, a dataset on the Hub, or a folder of text files.

| source | document |
| --- | --- |
| `*.jsonl`, `*.jsonl.gz` | objects: `document_id` (`_id`, `id`, `docid`), `text` (`contents`), perhaps `title`; else metadata |
| `*.tsv`, `*.tsv.gz` | `id <tab> text`, perhaps `<tab> title`; with a first line of names, columns like those of JSON Lines |
| `*.parquet`, `hub:name`, `hub:name@config` | columns like those of JSON Lines; of a dataset the split `train` |
| a folder | every `*.txt` and `*.md` in it and below, named by its path, in which white space and `%` are `%20`, `%25` ... |
"""

import itertools
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from drdecr.retrieval.passages import Document, titled

from .passages import PassageStore
from .readers.text import has_fields, id_field, lines_of, locate, optional_text, records_of, text_field

logger = logging.getLogger(__name__)
ID_FIELDS = ("document_id", "_id", "id", "docid")
QUERY_ID_FIELDS = ("query_id", "_id", "id")
TEXT_FIELDS = ("text", "contents")
QUERY_ID_HEADERS = ("query_id", "_id", "qid", "query-id", "id")
"""First cells of a line that names the columns of questions."""

TEXT_FILES = (".txt", ".md")
ROWS_PER_BATCH = 1024


def read_documents(source: str | Path) -> Iterator[Document]:
    """Read documents as a stream; the table above says from what.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: for a source without any document, or another kind of file; naming file and line, for a record without
            id or text, or an id that stands twice.
    """
    # What is missing is said now, not when the first document is asked for, before which an index may have been made.
    documents = _read(str(source))
    first = next(documents, None)
    if first is None:
        raise ValueError(
            f"{source}: expected documents, got none. Check that it is the right source, and written to its end."
        )
    return _without_repetition(itertools.chain([first], documents))


def _without_repetition(documents: Iterable[tuple[str, Document]]) -> Iterator[Document]:
    """Yield documents without their places; `ValueError` for an id that stands twice. It keeps all ids in memory."""
    seen: set[str] = set()
    for where, document in documents:
        if document.document_id in seen:
            raise ValueError(f"{where}: document {document.document_id!r} stands twice. Give each document its own id.")
        seen.add(document.document_id)
        yield document


def _read(source: str) -> Iterator[tuple[str, Document]]:
    if source.startswith("hub:"):
        return _of_records(_hub_rows(source.removeprefix("hub:")), source)
    path = locate(source)
    if path.is_dir():
        return _folder(path)
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "jsonl":
        return _of_records(records_of(path), path)
    if kind == "tsv":
        return _of_records(_tsv(path), path)
    if kind == "parquet":
        return _of_records(_parquet(path), path)
    raise ValueError(
        f"{path}: expected .jsonl, .tsv (either perhaps .gz), .parquet, a folder, or hub:name. Convert it."
    )


def _of_records(records: Iterable[tuple[int, Mapping[str, Any]]], source: object) -> Iterator[tuple[str, Document]]:
    for number, record in records:
        where = f"{source}, line {number}"
        yield where, document_of(record, where)


def document_of(record: Mapping[str, Any], where: str) -> Document:
    """Make a document of a record with an id, a text, perhaps a title, and metadata.

    Args:
        record: the fields; those that are None or NaN, which pandas writes for None, count as missing.
        where: for messages.
    """
    fields = {_sound(str(name)): value for name, value in record.items() if not _is_missing(value)}
    ids = [name for name in ID_FIELDS if name in fields]
    texts = [name for name in TEXT_FIELDS if name in fields]
    if not ids or not texts:
        raise ValueError(
            f"{where}: expected a document with {' or '.join(ID_FIELDS)} and {' or '.join(TEXT_FIELDS)}, got "
            f"{', '.join(map(str, record)) or 'nothing'}. Rename or fill the fields."
        )
    document_id, text, title = fields.pop(ids[0]), fields.pop(texts[0]), fields.pop("title", "")
    if not isinstance(text, str) or not isinstance(title, str):
        raise ValueError(f"{where}: expected texts, got {text!r:.80} as text, {title!r:.80} as title. Write texts.")
    if not _is_id(document_id):
        raise ValueError(
            f"{where}: expected an id, got {document_id!r:.80} as {ids[0]}. Write a text or a number that names the document."
        )
    metadata = {_sound(name): _plain(value, f"{where}, {name}") for name, value in fields.items()}
    return Document(_sound(_id_text(document_id)), _sound(text), _sound(title), metadata)


def _sound(text: str) -> str:
    """Replace half surrogate pairs, which no tokenizer reads and no file in UTF-8 holds."""
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


def _plain(value: Any, where: str) -> Any:
    if hasattr(value, "isoformat"):  # dates of parquet files
        return value.isoformat()
    try:
        return json.loads(_sound(json.dumps(value, ensure_ascii=False, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: expected what JSON can hold, got {type(value).__name__} ({error}). Leave the field out."
        ) from error


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool) and value != ""


def _id_text(value: Any) -> str:
    """Return an id as text; pandas makes `1.0` of a column of whole numbers in which one is missing."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _tsv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    names: tuple[str, ...] = ("document_id", "text", "title")
    for place, (number, line) in enumerate(lines_of(path)):  # lines that are blank may stand before the names
        cells = [_unquoted(cell) for cell in line.rstrip("\r").split("\t")]
        if place == 0 and set(cells) & {*ID_FIELDS} and set(cells) & {*TEXT_FIELDS}:
            names = tuple(cells)
            continue
        if not 2 <= len(cells) <= len(names):
            raise ValueError(
                f"{path}, line {number}: expected {', '.join(names)} with tabs between, got {len(cells)} cells. Take the "
                "tabs out of the texts, or write JSON Lines."
            )
        yield number, dict(zip(names, cells, strict=False))


def _unquoted(cell: str) -> str:
    """Return a cell without the quotes around it, as DPR's files and spreadsheets have them; a quote inside stands twice."""
    inner = cell[1:-1]
    is_quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else cell


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(ROWS_PER_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{path}: expected a whole parquet file ({error}). Get it again.") from error


def _hub_rows(name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    from datasets import load_dataset

    from drdecr.modeling_drdecr.hub_drdecr import hub_errors

    repository, _, config = name.partition("@")
    if not repository.strip("/"):
        raise ValueError(f"hub:{name}: expected a dataset's name on the Hub behind `hub:`. Write hub:user/name.")
    with hub_errors(repository):
        dataset = load_dataset(repository, config or None, split="train")
    yield from enumerate(dataset, start=1)


def _folder(folder: Path) -> Iterator[tuple[str, Document]]:
    everything = sorted(path for path in folder.rglob("*") if path.is_file())
    visible = [path for path in everything if not _is_hidden(path.relative_to(folder))]
    files = [path for path in visible if path.suffix.lower() in TEXT_FILES and not _is_binary(path)]
    read = set(files)
    others = Counter(path.suffix.lower() or "without an ending" for path in visible if path not in read)
    if len(visible) < len(everything):
        others["hidden"] = len(everything) - len(visible)
    if not files:
        raise ValueError(f"{folder}: expected {' or '.join(TEXT_FILES)} files in it or below, found none.")
    if others:
        ranked = sorted(others.items(), key=lambda item: (-item[1], item[0]))
        _say_left_out(folder, others.total(), ", ".join(f"{count} {kind}" for kind, count in ranked[:5]))
    for path in files:
        # Ids stand in TREC runs, between blanks. With % written otherwise too, no two files get one id.
        name = re.sub(r"[\s%]", lambda found: quote(found[0]), _sound(path.relative_to(folder).as_posix()))
        # One file with a broken character must not stop a folder of thousands.
        yield str(path), Document(name, path.read_text(encoding="utf-8-sig", errors="replace"), "", {})


def _is_hidden(path: Path) -> bool:
    """Whether a file is what systems and programs leave behind: `._a.txt`, `.git/`, `.ipynb_checkpoints/`, `__MACOSX/`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _is_binary(path: Path) -> bool:
    """Whether a file holds a NUL among its first bytes, as no text does."""
    with path.open("rb") as file:
        return b"\0" in file.read(8192)


@cache
def _say_left_out(folder: Path, count: int, kinds: str) -> None:
    """Say it once, though a folder is read several times."""
    are = "file of another kind is" if count == 1 else "files of other kinds are"
    logger.warning("%s: %d %s left out (%s); read are %s.", folder, count, are, kinds, " and ".join(TEXT_FILES))


def read_queries(path: str | Path) -> dict[str, str]:
    """Read questions `{query_id: text}`.

    From JSON Lines (`query_id` or `_id`, `query` or `text`), TSV (`id <tab> question`), or lines of plain text, whose ids
    are their numbers from 1.

    Raises:
        ValueError: naming file and line, for a record of another form or an id that stands twice; or if there is none.
    """
    file, found = locate(path), {}
    for number, query_id, text in _queries(file):
        if query_id in found:
            raise ValueError(f"{file}, line {number}: query {query_id!r} stands twice. Give each its own id.")
        found[query_id] = _sound(text)
    if not found:
        raise ValueError(f"{file}: expected questions, got none.")
    return found


def _queries(file: Path) -> Iterator[tuple[int, str, str]]:
    kind = file.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "jsonl":
        for number, record in records_of(file):
            query_id = next((value for name in QUERY_ID_FIELDS if (value := record.get(name)) is not None), None)
            text = next((value for name in ("query", "text") if (value := record.get(name)) is not None), None)
            if not _is_id(query_id) or not isinstance(text, str):
                raise ValueError(
                    f"{file}, line {number}: expected query_id, a text or a number, and query, a text, got {', '.join(record)}."
                )
            yield number, _id_text(query_id), text
        return
    for place, (number, line) in enumerate(lines_of(file)):
        cells = [_unquoted(cell) for cell in line.split("\t")] if kind == "tsv" else [str(number), line]
        if len(cells) != 2:
            raise ValueError(f"{file}, line {number}: expected `id <tab> question`, got {len(cells)} cells.")
        if place == 0 and kind == "tsv" and cells[0].strip().lower() in QUERY_ID_HEADERS:
            continue  # the names of the columns
        yield number, cells[0], cells[1].strip()


def read_passages(path: str) -> PassageStore:
    """Read a collection `{document_id: text}` from JSON Lines with `document_id`, `text` and perhaps `title`."""
    return collection(records_of(locate(path)), path)


def collection(records: Iterable[tuple[int, dict[str, Any]]], source: str) -> PassageStore:
    """Make a collection of numbered records; an error names the source and the line."""
    return PassageStore(_rows(records, source), source)


def _rows(records: Iterable[tuple[int, dict[str, Any]]], source: str) -> Iterator[tuple[object, int, str, str]]:
    for number, record in records:
        has_fields(record, ("document_id", "text"), source, number)
        document_id = id_field(record, "document_id", source, number)
        text = titled(optional_text(record, "title", source, number), text_field(record, "text", source, number))
        if not text.strip():
            raise ValueError(f"{source}, line {number}: passage {document_id!r} is empty. Drop it from the collection.")
        yield source, number, document_id, text
