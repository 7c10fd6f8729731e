"""Relevance judgements of test collections (TREC form, BEIR form), and the question set that they make."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from drdecr.data.passages import PassageStore
from drdecr.data.schema import QuestionSet
from drdecr.retrieval.passages import passage_text

from .text import has_fields, id_field, lines_of, locate, locate_all, optional_text, records_of, text_field

logger = logging.getLogger(__name__)

BEIR_HEADER = ["query-id", "corpus-id", "score"]

Judged = tuple[int, str, str, int]
"""Line number, query id, document id, relevance."""


class Judgements:
    """Who judged what: `{query_id: {document_id: relevance}}`, with the lines that say so.

    Args:
        source: the file, for messages.
        rows: the judgements as they stand there. Relevance below 1 means judged and not relevant.

    Raises:
        ValueError: naming source and line, for a pair that is judged in two ways; or if there is no row.
    """

    def __init__(self, source: object, rows: Iterable[Judged]) -> None:
        self.source = source
        self.by_query: dict[str, dict[str, int]] = {}
        self._lines: dict[str, list[int]] = {}
        for number, query_id, document_id, relevance in rows:
            judged = self.by_query.setdefault(query_id, {})
            if document_id not in judged:
                judged[document_id] = relevance
                self._lines.setdefault(query_id, []).append(number)
            elif judged[document_id] != relevance:
                raise ValueError(
                    f"{source}, line {number}: passage {document_id!r} is judged {relevance} for query {query_id!r}, and "
                    f"{judged[document_id]} before. Decide for one."
                )
        if not self.by_query:
            raise ValueError(f"{source}: expected judgements, got none.")

    def check_queries(self, queries: Mapping[str, str]) -> None:
        """Raise a ValueError that names the first line with a query that is not there."""
        for query_id, numbers in self._lines.items():
            if query_id not in queries:
                raise ValueError(
                    f"{self.source}, line {numbers[0]}: query {query_id!r} is not among the {len(queries)} queries. Give "
                    "the queries that were judged."
                )

    def check_passages(self, passages: PassageStore) -> None:
        """Raise a ValueError that names the first line with a passage that the collection never had."""
        for query_id, judged in self.by_query.items():
            for number, document_id in zip(self._lines[query_id], judged, strict=True):
                if document_id not in passages and document_id not in passages.blank_ids:
                    raise ValueError(
                        f"{self.source}, line {number}: passage {document_id!r} is not among the {len(passages)} "
                        "passages. Give the whole collection that was judged."
                    )


def trec_judgements(file: Path) -> Judgements:
    """Read TREC qrels: query id, a field that is not used, document id and relevance, with spaces or tabs between."""
    return Judgements(file, _judged(file, lines_of(file), ["query id", "Q0", "document id", "relevance"], None))


def beir_judgements(file: Path) -> Judgements:
    """Read BEIR's qrels: a header, then query id, document id and relevance, with tabs between."""
    lines = lines_of(file)
    header = next(lines, (1, ""))[1].split("\t")
    if header != BEIR_HEADER:
        raise ValueError(
            f"{file}, line 1: expected the header {', '.join(BEIR_HEADER)} with tabs between, got {header}. Without it "
            "the first judgement would be lost."
        )
    return Judgements(file, _judged(file, lines, BEIR_HEADER, "\t"))


def _judged(file: Path, lines: Iterable[tuple[int, str]], fields: list[str], separator: str | None) -> Iterator[Judged]:
    for number, line in lines:
        parts = [part.strip() for part in line.split(separator)]
        if len(parts) != len(fields) or not all(parts):
            raise ValueError(f"{file}, line {number}: expected the fields {', '.join(fields)}, got {parts}.")
        try:
            relevance = int(parts[-1])
        except ValueError as error:
            raise ValueError(
                f"{file}, line {number}: expected a whole number as relevance, got {parts[-1]!r}."
            ) from error
        yield number, parts[0], parts[-2], relevance


def unique_queries(source: object, rows: Iterable[tuple[int, str, str]]) -> dict[str, str]:
    """Make `{query_id: text}` of `(line number, id, text)`; an error names source and line."""
    queries: dict[str, str] = {}
    for number, query_id, text in rows:
        if query_id in queries:
            raise ValueError(f"{source}, line {number}: query {query_id!r} stands twice. Give each an id of its own.")
        if not text.strip():
            raise ValueError(f"{source}, line {number}: expected a text of query {query_id!r}, got none.")
        queries[query_id] = text.strip()
    return queries


def judged_set(
    name: str,
    language: str,
    queries: Mapping[str, str],
    judgements: Judgements,
    passages: PassageStore,
    english: Mapping[str, str] | None = None,
) -> QuestionSet:
    """Join queries, judgements and collection; ids stay as the source has them, so that its qrels fit our runs.

    What cannot be searched for or found is left out and counted in a warning: blank passages with their judgements, and
    queries without a relevant passage.

    Args:
        name: of the set.
        language: code of the queries' language.
        queries: `{query_id: text}`, of this and perhaps other splits.
        judgements: of queries and passages that are there; relevance below 1 becomes 0 in the set's `qrels`.
        passages: the collection.
        english: the queries in English, where the source has them.

    Raises:
        ValueError: naming file and line, for a judgement of an unknown query or passage; or if no query is left.
    """
    judgements.check_queries(queries)
    judgements.check_passages(passages)
    left_out = {"blank passages": len(passages.blank_ids)} if passages.blank_ids else {}
    if passages.blank_ids:
        lost = sum(
            document_id in passages.blank_ids for judged in judgements.by_query.values() for document_id in judged
        )
        logger.warning(
            "%s: %d passages left out, they are blank; with them %d judgements.", name, len(passages.blank_ids), lost
        )
    rows = []
    for query_id, text in queries.items():
        judged = judgements.by_query.get(query_id, {})
        relevant = {key: grade for key, grade in judged.items() if grade > 0 and key in passages}
        if relevant:
            row: dict[str, Any] = {
                "query_id": query_id,
                "query": text,
                "language": language,
                "document_ids": list(relevant),
            }
            row["relevance"] = list(relevant.values())
            row["irrelevant_ids"] = [key for key, grade in judged.items() if grade < 1 and key in passages]
            rows.append(row | ({"english": english[query_id]} if english else {}))
    if not rows:
        raise ValueError(f"{name}: no query has a relevant passage in {judgements.source}. Look at its last field.")
    if len(rows) < len(queries):
        left_out["without a relevant passage"] = len(queries) - len(rows)
        logger.warning(
            "%s: %d of %d queries left out, no passage is judged relevant to them (%d have judgements).",
            name,
            len(queries) - len(rows),
            len(queries),
            len(judgements.by_query) - len(rows),
        )
    text_column, ids = Value("string"), List(Value("string"))
    features = dict.fromkeys(rows[0], text_column)
    features |= {"document_ids": ids, "relevance": List(Value("int64")), "irrelevant_ids": ids}
    return QuestionSet(name, Dataset.from_list(rows, features=Features(features)), passages, left_out)


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
    passages = PassageStore(read_collection([corpus], "_id"), corpus)
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
    collection = PassageStore(read_collection(locate_all(passages), "docid"), passages)
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
