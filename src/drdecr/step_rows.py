"""The rows that the steps of the data path read, one after the other, and the passages that go along."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import Features, Value

from drdecr.data.row_parts import RowParts
from drdecr.data.row_streams import open_stream
from drdecr.data.schema import BATCH, PARALLEL_COLUMNS, QuestionSet
from drdecr.data.sources import QUESTION_READERS, read_parallel
from drdecr.data.stored_passages import StoredPassages
from drdecr.data.text_files import has_fields, locate, records_of

from .settings import known_keys
from .step_work import StepWork

TEXTS = Value("string")

PASSAGE_SCHEMA = Features({"document_id": TEXTS, "text": TEXTS}).arrow_schema

PASSAGES_A_SHARD = 50_000
"""Some 40 MB of Wikipedia's."""


def common_columns(sets: Sequence[QuestionSet]) -> dict[str, Any]:
    """Return the columns that all question sets have, with their features in the first."""
    first = sets[0].questions.features
    return {name: first[name] for name in first if all(name in found.questions.column_names for found in sets)}


def question_rows(sets: Sequence[QuestionSet], columns: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of question sets by these columns."""
    for found in sets:
        for batch in found.questions.select_columns(list(columns)).iter(BATCH):
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))


def pair_rows(parallel: Iterable[Mapping[str, Any]], texts: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield parallel text, read row by row where the format allows it, and texts that stand for their own English.

    An entry with `limit`, which is spread over its rows, and one of questions are read whole.
    """
    for entry in parallel:
        if not isinstance(entry, Mapping) or entry.get("limit") is not None or entry.get("format") in QUESTION_READERS:
            for row in read_parallel([entry]):
                yield {name: row[name] for name in PARALLEL_COLUMNS}
            continue
        for number, (table, row) in enumerate(open_stream(entry), start=1):
            if table != "parallel":
                raise ValueError(f"parallel text: expected a format of sentences in pairs, got {dict(entry)}.")
            blank = next((name for name in PARALLEL_COLUMNS if not str(row[name] or "").strip()), None)
            if blank is not None:
                raise ValueError(
                    f"{entry['format']}, row {number}: expected a text in {blank!r}, got {row[blank]!r}. Drop or fill the row."
                )
            yield {name: row[name] for name in PARALLEL_COLUMNS}
    for entry in texts:
        yield from _texts(entry)


def _texts(entry: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    known_keys(entry, ["path", "column", "language"], "texts")
    missing = next((name for name in ("path", "language") if not entry.get(name)), None)
    if missing is not None:
        raise ValueError(f"texts: expected `path` and `language`, got no {missing!r} in {dict(entry)}.")
    column = entry.get("column", "question")
    for number, record in records_of(locate(entry["path"])):
        text = has_fields(record, (column,), entry["path"], number)[column]
        yield {"query": text, "english": text, "language": entry["language"]}


def passage_parts(work: StepWork, passages: StoredPassages) -> RowParts:
    """Write a collection as the configuration `passages` of a step."""
    parts = work.parts("passages", PASSAGE_SCHEMA, anew=True)
    waiting: list[pa.Table] = []
    for ids, texts in passages.batches() if not parts.is_complete else ():
        waiting.append(pa.table([ids, texts], schema=PASSAGE_SCHEMA))
        if sum(map(len, waiting)) >= PASSAGES_A_SHARD:
            parts.write(pa.concat_tables(waiting), taken=sum(map(len, waiting)))
            waiting = []
    if not parts.is_complete:
        if waiting:
            parts.write(pa.concat_tables(waiting), taken=sum(map(len, waiting)))
        parts.complete()
    return parts
