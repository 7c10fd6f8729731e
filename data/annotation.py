"""N-way rows with the scores of whoever is asked: made in shards, by one process or many, and resumed after a kill."""

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import torch
from accelerate import PartialState
from datasets import Dataset, Features, List, Value

from .digests import text_key
from .schema import CANDIDATE_COLUMNS
from .scorers import Scorer
from .shards import Shard, ShardFolder, open_shards


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
    names = [name for name in rows.column_names if name not in ("teacher_scores", "teacher_query_tokens", "scored_by")]
    rows = rows.select_columns(names)
    keys = [_row_key(row, passages) for row in rows]
    making = ShardFolder(folder, scorer.facts, keys, rows_a_shard)
    state = PartialState()
    making.make(
        lambda part: _scored(scorer, rows.select(part), part.start), state.process_index, state.num_processes, "scoring"
    )
    state.wait_for_everyone()
    if state.is_main_process:
        making.finish()
    state.wait_for_everyone()
    return _joined(rows, open_shards(folder, check=False)[1], scorer.facts)


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


def _joined(rows: Dataset, shards: list[Shard], facts: Mapping[str, object]) -> Dataset:
    """Add the shards' columns to the rows."""
    parts = [
        pa.ListArray.from_arrays(pa.array(shard["offsets"].numpy(), pa.int32()), pa.array(shard["scores"].numpy()))
        for shard in shards
    ]
    tokens = torch.cat([shard["query_tokens"] for shard in shards])
    kept = {name: rows.with_format("arrow")[:][name] for name in rows.column_names}
    kept |= {
        "teacher_scores": pa.chunked_array(parts),
        "teacher_query_tokens": pa.array(tokens.numpy()),
        "scored_by": pa.array([json.dumps(facts, sort_keys=True)] * len(rows)),
    }
    order = [*CANDIDATE_COLUMNS, *(name for name in kept if name not in CANDIDATE_COLUMNS)]
    added = {
        "teacher_scores": List(Value("float32")),
        "teacher_query_tokens": Value("int64"),
        "scored_by": Value("string"),
    }
    features = Features({name: added.get(name) or rows.features[name] for name in order})
    return Dataset(pa.table({name: kept[name] for name in order}).cast(features.arrow_schema))


def _row_key(row: Mapping[str, object], passages: Mapping[str, str]) -> bytes:
    ids: list[str] = row["document_ids"]  # type: ignore[assignment]
    parts = [row.get("query_id"), row["query"], row["english"], ids, [passages[name] for name in ids]]
    return text_key(json.dumps(parts, ensure_ascii=False))


def _is_finite(score: float) -> bool:
    return score - score == 0
