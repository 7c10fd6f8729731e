"""The rows that the steps of the data path read, one after the other, and the passages that go along."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import Features, Value

from drdecr.data.passages import PassageStore
from drdecr.data.readers.text import has_fields, locate, records_of
from drdecr.data.row_parts import RowParts
from drdecr.data.schema import BATCH, PARALLEL_COLUMNS, QUESTION_COLUMNS, QuestionSet, check_keys
from drdecr.data.sources import QUESTION_READERS, open_stream, read_parallel
from drdecr.data.step_work import StepWork

TEXTS = Value("string")

logger = logging.getLogger(__name__)

PASSAGE_SCHEMA = Features({"document_id": TEXTS, "text": TEXTS}).arrow_schema

PASSAGES_PER_SHARD = 50_000
"""Some 40 MB of Wikipedia's."""


def joined_columns(sets: Sequence[QuestionSet]) -> dict[str, Any]:
    """Return the columns that question sets have, with a feature that holds the values of all of them.

    One that two sets have in kinds that do not go together is left out, with a warning.
    """
    features: dict[str, list[Any]] = {}
    for found in sets:
        for name, feature in found.questions.features.items():
            features.setdefault(name, []).append(feature)
    joined = {name: _joined_feature(name, own) for name, own in features.items()}
    left = [name for name, feature in joined.items() if feature is None]
    if left:
        logger.warning("Left out, for the sets hold values of different kinds there: the columns %s.", ", ".join(left))
    return {name: feature for name, feature in joined.items() if feature is not None}


def _joined_feature(name: str, features: Sequence[Any]) -> Any:
    if all(feature == features[0] for feature in features):
        return features[0]
    schemas = [pa.schema([Features({name: feature}).type.field(name)]) for feature in features]
    try:
        return Features.from_arrow_schema(pa.unify_schemas(schemas, promote_options="permissive"))[name]
    except pa.ArrowException:
        return features[0] if name in QUESTION_COLUMNS else None


def question_rows(sets: Sequence[QuestionSet], columns: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of question sets by these columns, None in those that a set lacks."""
    for found in sets:
        own = [name for name in columns if name in found.questions.column_names]
        for batch in found.questions.select_columns(own).iter(BATCH):
            for values in zip(*batch.values(), strict=True):
                yield dict.fromkeys(columns) | dict(zip(batch, values, strict=True))


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
            blank = next((name for name in PARALLEL_COLUMNS if not _is_text(row[name])), None)
            if blank is not None:
                raise ValueError(
                    f"{entry['format']}, row {number}: expected a text in {blank!r}, got {row[blank]!r}. Drop or fill the row."
                )
            yield {name: row[name] for name in PARALLEL_COLUMNS}
    for entry in texts:
        yield from _texts(entry)


def _texts(entry: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    check_keys(entry, ["path", "column", "language"], "texts")
    missing = next((name for name in ("path", "language") if not entry.get(name)), None)
    if missing is not None:
        raise ValueError(f"texts: expected `path` and `language`, got no {missing!r} in {dict(entry)}.")
    column = entry.get("column", "question")
    for number, record in records_of(locate(entry["path"])):
        text = has_fields(record, (column,), entry["path"], number)[column]
        if not isinstance(text, str):
            raise ValueError(
                f"{entry['path']}, line {number}: expected a text in {column!r}, got {text!r}. Put it in quotes, or drop the row."
            )
        yield {"query": text, "english": text, "language": entry["language"]}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def passage_parts(work: StepWork, passages: PassageStore) -> RowParts:
    """Write a collection as the configuration `passages` of a step."""
    parts = work.parts("passages", PASSAGE_SCHEMA, anew=True)
    waiting: list[pa.Table] = []
    for ids, texts in passages.batches() if not parts.is_complete else ():
        waiting.append(pa.table([ids, texts], schema=PASSAGE_SCHEMA))
        if sum(map(len, waiting)) >= PASSAGES_PER_SHARD:
            parts.write(pa.concat_tables(waiting), taken=sum(map(len, waiting)))
            waiting = []
    if not parts.is_complete:
        if waiting:
            parts.write(pa.concat_tables(waiting), taken=sum(map(len, waiting)))
        parts.complete()
    return parts
