"""What a recipe's entries mean for `drdecr prepare`: a stream of rows, one at a time where the format allows it."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from datasets import IterableDataset, load_dataset

from . import parallel_formats, triple_formats
from .cleaning import normalised
from .formats import read_texts
from .hub_formats import check_folder, hub_source
from .schema import CANDIDATE_COLUMNS, PARALLEL_COLUMNS, CandidateSet, QuestionSet, column_of
from .sources import (
    CANDIDATE_READERS,
    PARALLEL_READERS,
    QUESTION_READERS,
    read_candidates,
    read_parallel,
    read_questions,
)
from .triple_formats import Item
from .xor_format import xor_question_rows

TABLES = ("parallel", "questions", "candidates", "passages")


def hub_parallel_rows(
    name: str,
    columns: Mapping[str, str] | None = None,
    language: str | None = None,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
) -> Iterator[dict[str, str]]:
    """Stream a parallel set from the Hub, or from a folder that `datasets.load_dataset` opens; nothing is downloaded whole.

    Args:
        name: the dataset's Hub name or folder.
        columns: `{its column: ours}` for columns named otherwise than `query`, `english`, `language`. Of a column
            `translation`, which holds both texts by language, nothing needs to be said but the `language`.
        language: the code, where the dataset has no language column.
        config: its configuration.
        split: its split (default train).
        revision: branch, tag or commit; name one for a preparation that can be repeated.
    """
    check_folder(hub_source(name), config)
    rows = load_dataset(hub_source(name), config, split=split, revision=revision, streaming=True)
    yield from renamed_rows(rows, name, dict(columns or {}), language)


def renamed_rows(
    rows: IterableDataset, name: str, columns: Mapping[str, str], language: str | None
) -> Iterator[dict[str, str]]:
    """Yield rows under this package's names; an error names the set and the row."""
    for number, row in enumerate(rows, start=1):
        if isinstance(row.get("translation"), Mapping) and language is not None:
            texts = row["translation"]
            row = {"query": texts.get(language), "english": texts.get("en")}
        found = {columns.get(key, key): value for key, value in row.items()}
        found = found if language is None else {**found, "language": language}
        wrong = next((key for key in PARALLEL_COLUMNS if not isinstance(found.get(key), str)), None)
        if wrong is not None:
            raise ValueError(
                f"{name}, row {number}: expected a text as {wrong!r}, got {found.get(wrong)!r} among {', '.join(found)}. Name "
                "its column with `columns:`."
            )
        yield {key: found[key] for key in PARALLEL_COLUMNS}


PAIR_STREAMS: dict[str, Callable[..., Iterator[dict[str, str]]]] = {
    "tsv": parallel_formats.tsv_rows,
    "lines": parallel_formats.line_rows,
    "moses": parallel_formats.moses_rows,
    "mkqa": parallel_formats.mkqa_rows,
    "hub": hub_parallel_rows,
}
"""Formats of parallel text that are read row by row."""

ITEM_STREAMS: dict[str, Callable[..., Iterator[Item]]] = {
    "id_triples": triple_formats.id_triple_rows,
    "text_triples": triple_formats.text_triple_rows,
    "scored": triple_formats.scored_rows,
    "dpr": triple_formats.dpr_rows,
    "wikipedia": triple_formats.passage_rows,
    "xor_questions": xor_question_rows,
}
"""Formats of passages, and of questions that name them, that are read row by row."""

FORMATS = (
    *dict.fromkeys((*PAIR_STREAMS, *ITEM_STREAMS, *PARALLEL_READERS, *QUESTION_READERS, *CANDIDATE_READERS)),
    "texts",
)


def open_stream(entry: Mapping[str, Any]) -> Iterator[Item]:
    """Open an entry's rows, each with the table that it belongs to; the table `left_out` counts what a reader leaves out.

    Args:
        entry: `{"format": name, **arguments of its reader}`. Formats of `PAIR_STREAMS` and `ITEM_STREAMS` are read row by row;
            of the others the questions are held in memory, but no large collection.

    Raises:
        ValueError: for an unknown format or argument, at once; for a wrong row, naming file and row, when it is reached.
    """
    name = entry.get("format")
    if name in PAIR_STREAMS:
        return (("parallel", row) for row in _called(PAIR_STREAMS[name], entry))
    if name in ITEM_STREAMS:
        return iter(_called(ITEM_STREAMS[name], entry))
    if name in QUESTION_READERS:
        return _of_questions(entry)
    if name in CANDIDATE_READERS:
        return _of_candidates(entry)
    if name in PARALLEL_READERS:
        return (("parallel", row) for row in read_parallel([entry]))
    raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {name!r} in {dict(entry)}.")


def question_texts(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield the questions of an evaluation set, and their English: what must not be trained on.

    Args:
        entry: as for `open_stream`, or `{format: texts, path, column}` for one column of JSON Lines.
    """
    if entry.get("format") == "texts":
        yield from _called(read_texts, entry)
        return
    for table, row in open_stream(entry):
        if table in ("parallel", "questions", "candidates"):
            yield row["query"]
            if row.get("english"):
                yield row["english"]


def held_out_of(entry: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the questions of an evaluation set with their English, as `question_texts`, and the passages that answer them.

    Passages are known of the formats of questions alone; a collection's other passages are not looked at.

    Raises:
        ValueError: for a set without a text, which would hold nothing out; as `open_stream`.
    """
    if entry.get("format") not in QUESTION_READERS:
        texts = list(question_texts(entry))
        if not any(map(normalised, texts)):
            raise ValueError(
                f"held_out: expected questions to hold out, got none with text of {len(texts)} in {dict(entry)}. Look "
                "at its file."
            )
        return texts, []
    found = read_questions(entry)
    columns = [name for name in ("query", "english") if name in found.questions.column_names]
    rows = zip(*(column_of(found.questions, name) for name in columns), strict=True)
    labelled = dict.fromkeys(name for ids in column_of(found.questions, "document_ids") for name in ids)
    return [text for row in rows for text in row if text], [found.passages[name] for name in labelled]


def _called(reader: Callable[..., Any], entry: Mapping[str, Any]) -> Any:
    arguments = {key: value for key, value in entry.items() if key not in ("format", "about")}
    try:
        bound = inspect.signature(reader).bind(**arguments)
    except TypeError as error:
        accepted = ", ".join(inspect.signature(reader).parameters)
        raise ValueError(f"format {entry['format']!r} takes {accepted}; {error}, in {dict(entry)}.") from error
    return reader(*bound.args, **bound.kwargs)


def _of_questions(entry: Mapping[str, Any]) -> Iterator[Item]:
    found = read_questions(entry)
    yield from _passages(found)
    for row in found.questions:
        answers = row.get("answers") or ([row["answer"]] if row.get("answer") else [])
        yield "questions", {**row, "answers": answers}
    if found.left_out:
        yield "left_out", dict(found.left_out)


def _of_candidates(entry: Mapping[str, Any]) -> Iterator[Item]:
    found = read_candidates(entry)
    yield from _passages(found)
    yield from (("candidates", {key: row[key] for key in CANDIDATE_COLUMNS}) for row in found.rows)


def _passages(found: QuestionSet | CandidateSet) -> Iterator[Item]:
    for document_id, text in found.passages.items():
        yield "passages", {"document_id": document_id, "text": text}
