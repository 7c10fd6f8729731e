"""N-way rows with the scores of whoever is asked: made in shards, by one process or many, and resumed after a kill."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import torch
from accelerate import PartialState
from datasets import Dataset, Features, List, Value

from .digests import TextKeys
from .schema import CANDIDATE_COLUMNS
from .scorers import Scorer
from .shards import Shard, ShardFolder, open_shards

ADDED = {
    "teacher_scores": List(Value("float32")),
    "teacher_query_tokens": Value("int64"),
    "scored_by": Value("string"),
}
"""Columns that annotation adds, or takes the place of."""


def annotate_rows(
    rows: Dataset, passages: Mapping[str, str], scorer: Scorer, folder: Path, rows_a_shard: int = 1024
) -> Dataset:
    """Score every candidate of every row.

    Several processes, started by `accelerate launch` or torchrun, share the work and wait for each other. A call that was
    killed goes on where it was; scores are keyed by scorer, question, candidates and their texts, so that nothing of other
    rows is taken over.

    Args:
        rows: with `query`, `english`, `language`, `document_ids`, and `query_id` for scores from a file.
        passages: `{document_id: text}`.
        scorer: who scores.
        folder: of the shards; made if it is not there.
        rows_a_shard: default 1024.

    Returns:
        The rows with `teacher_scores`, `teacher_query_tokens` and `scored_by`, in the order of `CANDIDATE_COLUMNS`; other
        columns stay behind them.

    Raises:
        ValueError: for scores that are not finite, naming the row; as in `ShardFolder` and `open_shards`.
    """
    tables = list(annotated_tables(rows, passages, scorer, folder, rows_a_shard))
    return Dataset(pa.concat_tables(tables))


def annotated_schema(rows: Dataset) -> pa.Schema:
    """Return the columns of annotated rows."""
    known = {name: feature for name, feature in rows.features.items() if name not in ADDED}
    features = {**known, **ADDED}
    order = [*CANDIDATE_COLUMNS, *(name for name in features if name not in CANDIDATE_COLUMNS)]
    return Features({name: features[name] for name in order}).arrow_schema


def annotated_tables(
    rows: Dataset, passages: Mapping[str, str], scorer: Scorer, folder: Path, rows_a_shard: int = 1024
) -> Iterator[pa.Table]:
    """Score as `annotate_rows` does, and yield the rows of each shard, so that memory holds one; arguments as there."""
    schema = annotated_schema(rows)
    rows = rows.select_columns([name for name in rows.column_names if name not in ADDED])
    keys = TextKeys.of(_row_text(row, passages) for row in rows)
    making = ShardFolder(folder, scorer.facts, keys, rows_a_shard)
    state = PartialState()
    making.make(
        lambda part: _scored(scorer, rows.select(part), part.start), state.process_index, state.num_processes, "scoring"
    )
    state.wait_for_everyone()
    if state.is_main_process:
        making.finish()
    state.wait_for_everyone()
    start = 0
    for shard in open_shards(folder, check=False)[1]:
        table = _joined(rows, start, shard, scorer.facts)
        start += table.num_rows
        yield table.select(schema.names).cast(schema)


def _scored(scorer: Scorer, rows: Dataset, start: int) -> Shard:
    batch = rows.to_list()
    scores = scorer.score(batch)
    for number, found in enumerate(scores):
        if not all(map(_is_finite, found)):
            raise ValueError(
                f"row {start + number + 1}, {batch[number]['query'][:60]!r}: expected finite scores, got {found}. Its passages "
                "may hold what the scorer cannot read, or its weights are broken."
            )
    lengths = torch.tensor([0, *map(len, scores)])
    return {
        "scores": torch.tensor([score for found in scores for score in found], dtype=torch.float32),
        "offsets": lengths.cumsum(0),
        "query_tokens": torch.tensor(scorer.query_tokens(batch)),
    }


def _joined(rows: Dataset, start: int, shard: Shard, facts: Mapping[str, object]) -> pa.Table:
    """Add a shard's columns to its rows."""
    offsets, scores = pa.array(shard["offsets"].numpy(), pa.int32()), pa.array(shard["scores"].numpy())
    number = len(shard["query_tokens"])
    table = rows.with_format("arrow")[start : start + number]
    table = table.append_column("teacher_scores", pa.ListArray.from_arrays(offsets, scores))
    table = table.append_column("teacher_query_tokens", pa.array(shard["query_tokens"].numpy()))
    return table.append_column("scored_by", pa.array([json.dumps(facts, sort_keys=True)] * number))


def _row_text(row: Mapping[str, object], passages: Mapping[str, str]) -> str:
    """Return what a row's scores depend on beside the scorer."""
    ids: list[str] = row["document_ids"]  # type: ignore[assignment]
    parts = [row.get("query_id"), row["query"], row["english"], ids, [passages[name] for name in ids]]
    return json.dumps(parts, ensure_ascii=False)


def _is_finite(score: float) -> bool:
    return score - score == 0
