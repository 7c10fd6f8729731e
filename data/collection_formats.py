"""Readers of test collections in files: BEIR, MIRACL and Mr. TyDi. Passages are streamed, see `StoredPassages`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .judgements import beir_judgements, judged_set, trec_judgements, unique_queries
from .passages import passage_text
from .schema import QuestionSet
from .stored_passages import StoredPassages
from .text_files import has_fields, id_field, lines_of, locate, locate_all, optional_text, records_of, text_field


def read_beir(folder: str, split: str = "test", language: str = "en", name: str | None = None) -> QuestionSet:
    """Read a data set in BEIR's layout.

    Args:
        folder: with `corpus.jsonl` (`_id`, `text`, perhaps `title`), `queries.jsonl` (`_id`, `text`), both perhaps
            `.gz`, and `qrels/SPLIT.tsv` (with header).
        split: default test.
        language: code of the queries' language (default en).
        name: of the set; default the folder's.

    Raises:
        ValueError: naming file, line and what was expected.
        FileNotFoundError: if a file is not there.
    """
    root = locate(folder)
    query_file, corpus = (_plain_or_packed(root, file) for file in ("queries.jsonl", "corpus.jsonl"))
    queries = unique_queries(
        query_file, ((number, *_texts(record, query_file, number)) for number, record in records_of(query_file))
    )
    judgements = beir_judgements(locate(root / "qrels" / f"{split}.tsv"))
    judgements.check_queries(queries)  # before the collection, which takes long
    passages = StoredPassages(read_collection([corpus], "_id"), corpus)
    return judged_set(name or root.name, language, queries, judgements, passages)


def read_miracl(
    topics: str, qrels: str, passages: str | list[str], language: str, name: str | None = None
) -> QuestionSet:
    """Read MIRACL in one language; each language has a collection of its own.

    Args:
        topics: lines `query id <TAB> query`.
        qrels: in TREC form.
        passages: JSON Lines with `docid`, `text`, perhaps `title`, or with `id` and `contents` (Mr. TyDi's own archive);
            one path or several, perhaps with `*` in the file's name, perhaps `.gz`.
        language: code of the queries' language.
        name: of the set; default `miracl-` and the language.

    Raises:
        ValueError: naming file, line and what was expected.
        FileNotFoundError: if a file is not there.
    """
    file = locate(topics)
    queries = unique_queries(file, _topics(file))
    judgements = trec_judgements(locate(qrels))
    judgements.check_queries(queries)
    collection = StoredPassages(read_collection(locate_all(passages), "docid"), passages)
    return judged_set(name or f"miracl-{language}", language, queries, judgements, collection)


def read_mr_tydi(
    topics: str, qrels: str, passages: str | list[str], language: str, name: str | None = None
) -> QuestionSet:
    """Read Mr. TyDi in one language, as `read_miracl` does; the set's name is `mr-tydi-` and the language."""
    return read_miracl(topics, qrels, passages, language, name or f"mr-tydi-{language}")


def _plain_or_packed(root: Path, file: str) -> Path:
    packed = root / f"{file}.gz"
    return packed if packed.exists() else locate(root / file)


def _topics(file: Path) -> Iterator[tuple[int, str, str]]:
    for number, line in lines_of(file):
        parts = line.split("\t")
        if len(parts) != 2 or not parts[0].strip():
            raise ValueError(
                f"{file}, line {number}: expected a query id and a query with a tab between them, got {parts}."
            )
        yield number, parts[0].strip(), parts[1]


def read_collection(files: list[Path], id_name: str) -> Iterator[tuple[Path, int, str, str]]:
    """Yield file, line number, id and text of JSON Lines in the form of BEIR (`_id`) or of MIRACL and Mr. TyDi (`docid`)."""
    for file in files:
        for number, record in records_of(file):
            if id_name == "docid" and "contents" in record:
                document_id, text = _texts(record, file, number, "id", "contents")
            else:
                document_id, text = _texts(record, file, number, id_name)
            yield file, number, document_id, passage_text(optional_text(record, "title", file, number), text)


def _texts(
    record: dict[str, Any], file: Path, number: int, id_name: str = "_id", text_name: str = "text"
) -> tuple[str, str]:
    has_fields(record, (id_name, text_name), file, number)
    return id_field(record, id_name, file, number), text_field(record, text_name, file, number)
