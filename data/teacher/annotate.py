"""Annotate n-way rows: a teacher, a cross-encoder or a file of scores says how relevant each candidate is."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from datasets import Dataset, Features, List, Value

from drdecr.data.cards import is_step_done, write_step
from drdecr.data.embeddings.store import stored_documents, stored_queries, write_tokens
from drdecr.data.files import TextKeys
from drdecr.data.passages import PassageStore, passage_rows
from drdecr.data.readers.hub import read_hub_unscored
from drdecr.data.readers.text import expanded
from drdecr.data.schema import CANDIDATE_COLUMNS, column_of
from drdecr.data.shards import join_processes, map_in_shards, read_shards, remove_work, unfinished_work
from drdecr.data.sources import input_digests
from drdecr.retrieval.encoder import load_teacher

from .scorers import CrossEncoderScorer, FileScorer, Scorer, TeacherScorer

TOKENS = ("none", "queries", "all")


@dataclass(frozen=True)
class AnnotationSettings:
    """Who scores what.

    Args:
        rows: folder or Hub name of the candidates, as `drdecr data mine` writes them.
        teacher: checkpoint whose MaxSim of the English question is the score.
        cross_encoder: or: a checkpoint with a sequence-classification head.
        scores: or: a file of scores (`drdecr.data.teacher.scorers.FileScorer`).
        config: configuration of the rows (default `mined_candidates`).
        split: of the rows (default train).
        revision: of the rows, on the Hub.
        scorer_revision: of a cross-encoder on the Hub.
        reads: column that a cross-encoder reads (default english).
        tokens: also write the teacher's tokens of the questions (`queries`), of passages too (`all`); default none.
        token_folder: where the teacher's tokens are kept for other calls and runs; default: beside the output, until it is done.
        dtype: precision of the scorer (default float32).
        token_dtype: precision of the kept tokens (default float16).
        batch_size: texts or pairs read at once (default 32).
        max_length: tokens of a pair, of a cross-encoder (default 512).
        rows_per_shard: rows a file (default 1024): what a kill can lose of one process's work.

    Raises:
        ValueError: for none or several scorers, or tokens of what has none.
    """

    rows: str
    teacher: str | None = None
    cross_encoder: str | None = None
    scores: str | None = None
    config: str = "mined_candidates"
    split: str = "train"
    revision: str | None = None
    scorer_revision: str | None = None
    reads: str = "english"
    tokens: str = "none"
    token_folder: str | None = None
    dtype: str = "float32"
    token_dtype: str = "float16"
    batch_size: int = 32
    max_length: int = 512
    rows_per_shard: int = 1024

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        given = [name for name in ("teacher", "cross_encoder", "scores") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"Expected one of teacher, cross_encoder and scores, got {' and '.join(given) or 'none'}.")
        if self.tokens not in TOKENS or (self.tokens != "none" and not self.teacher):
            raise ValueError(
                f"tokens: expected one of {', '.join(TOKENS)}, and a teacher whose tokens they are, got {self.tokens!r}."
            )
        for name in ("dtype", "token_dtype"):
            if getattr(self, name) not in ("float32", "float16", "bfloat16"):
                raise ValueError(f"{name}: expected float32, float16 or bfloat16, got {getattr(self, name)!r}.")


def annotate(settings: AnnotationSettings, output: Path, license: str | None = None) -> Path:
    """Write annotated rows as a dataset: `scored_candidates` and `passages`, perhaps with the teacher's tokens.

    Work in progress is kept in `OUTPUT.parts` and deleted at the end; a call that was killed goes on there. Processes that
    `accelerate launch -m drdecr data annotate` or torchrun started share the work.

    Args:
        settings: who scores what.
        output: folder that is written whole or not at all; left alone if it was made with the same settings and
            from the same files.
        license: of the whole, for the card.

    Returns:
        The output folder.

    Raises:
        ValueError: for a folder that holds something else, or rows that do not fit.
    """
    facts = {"settings": asdict(settings), "inputs": _digest_inputs(settings)}
    if is_step_done(output, facts["settings"], facts["inputs"]):
        remove_work(output)
        return output
    state = join_processes()
    with state.main_process_first():  # the others read what the first one prepared
        rows, passages = read_hub_unscored(
            settings.rows, settings.config, split=settings.split, revision=settings.revision
        )
    passages = referenced_passages(rows, passages)
    with unfinished_work(output, facts, is_cheap=bool(settings.scores)) as folder:
        scorer = _load_scorer(settings, rows, passages, folder)
        scored = annotate_rows(rows, passages, scorer, folder / "scores", settings.rows_per_shard)
        tokens = _write_teacher_tokens(settings, scorer, rows, passages, folder / "written")
        if state.is_main_process:
            configs = {"scored_candidates": {"train": scored}, "passages": {"train": passage_rows(passages)}}
            name = Path(str(settings.teacher or settings.cross_encoder or settings.scores)).name
            note = (
                f"Questions with candidates and `teacher_scores` by `{name}`. `teacher_query_tokens` says how many "
                "query tokens a score sums over; 0: it is no such sum."
            )
            facts["scorer"] = scorer.facts
            write_step(output, configs, "Annotated candidates", note, facts, {"rows": len(rows)}, license, tokens)
    return output


def referenced_passages(rows: Dataset, passages: PassageStore) -> PassageStore:
    """Return the passages that rows name in `document_ids`, in the order of the collection."""
    is_named = np.zeros(passages.num_rows, dtype=np.bool_)
    for ids in column_of(rows, "document_ids"):
        is_named[[passages.row_of(name) for name in ids]] = True
    return passages.only(is_named)


def _digest_inputs(settings: AnnotationSettings) -> dict[str, str]:
    entries: dict[str, list[dict[str, Any]]] = {"rows": [{"format": "hub_candidates", "name": settings.rows}]}
    if settings.scores:
        entries["scores"] = [{"path": settings.scores}]
    return input_digests(entries, {name: getattr(settings, name) for name in ("teacher", "cross_encoder")})


def _load_scorer(settings: AnnotationSettings, rows: Dataset, passages: PassageStore, folder: Path) -> Scorer:
    if settings.scores:
        if "query_id" not in rows.column_names:
            raise ValueError(
                f"{settings.rows}: expected a column `query_id`, which scores of a file are found by, got none."
            )
        with PartialState().main_process_first():  # the others look up what the first one read
            return FileScorer(settings.scores, folder / "scores.sqlite3")
    if settings.cross_encoder:
        return CrossEncoderScorer(
            settings.cross_encoder,
            passages,
            settings.reads,
            settings.scorer_revision,
            settings.max_length,
            settings.batch_size,
            settings.dtype,
            PartialState().device,
        )
    teacher: Any = load_teacher(str(settings.teacher), settings.dtype)
    teacher.to(PartialState().device)
    token_folder = expanded(settings.token_folder) if settings.token_folder else folder / "tokens"
    storing = {
        "dtype": getattr(torch, settings.token_dtype),
        "rows_per_shard": settings.rows_per_shard,
        "batch_size": settings.batch_size,
    }
    queries = stored_queries(teacher, rows["english"], token_folder, named=False, **storing)
    documents = stored_documents(teacher, passages, token_folder, **storing)
    name = Path(settings.teacher).name if Path(str(settings.teacher)).is_dir() else settings.teacher  # type: ignore[arg-type]
    return TeacherScorer(queries, documents, {"name": name, **queries.facts, "documents": documents.facts})


def _write_teacher_tokens(
    settings: AnnotationSettings, scorer: Scorer, rows: Dataset, passages: PassageStore, folder: Path
) -> dict[str, Path]:
    """Write the tokens of these rows' texts alone, and return their folders by their place in the output."""
    texts: dict[str, Any] = {}
    if isinstance(scorer, TeacherScorer) and settings.tokens != "none":
        texts["queries"] = rows["english"]
        if settings.tokens == "all":
            texts["documents"] = passages.texts()
    for kind in texts:
        by_text = getattr(scorer, kind).named(None)
        write_tokens(by_text, texts[kind], folder / kind, settings.rows_per_shard)
    return {f"tokens/{kind}": folder / kind for kind in texts}


ADDED = {
    "teacher_scores": List(Value("float32")),
    "teacher_query_tokens": Value("int64"),
    "scored_by": Value("string"),
}
"""Columns that annotation adds, or takes the place of."""


def annotate_rows(
    rows: Dataset, passages: Mapping[str, str], scorer: Scorer, folder: Path, rows_per_shard: int = 1024
) -> Dataset:
    """Score every candidate of every row.

    Several processes, started by `accelerate launch` or torchrun, share the work and wait for each other. A call that was
    killed goes on where it was; a folder that holds scores of another scorer, other questions, candidates or texts is refused.

    Args:
        rows: with `query`, `english`, `language`, `document_ids`, and `query_id` for scores from a file.
        passages: `{document_id: text}`.
        scorer: who scores.
        folder: of the shards; made if it is not there.
        rows_per_shard: default 1024.

    Returns:
        The rows with `teacher_scores`, `teacher_query_tokens` and `scored_by`, in the order of `CANDIDATE_COLUMNS`; other
        columns stay behind them.

    Raises:
        ValueError: for scores that are not finite, naming the row; as in `map_in_shards`.
    """
    schema = _annotated_schema(rows)
    rows = rows.select_columns([name for name in rows.column_names if name not in ADDED])

    def score_part(part: range) -> pa.Table:
        return _score_rows(scorer, rows.select(part), part.start).select(schema.names).cast(schema)

    keys = TextKeys.of(_row_text(row, passages) for row in rows)
    facts = {"scorer": scorer.facts, "texts": keys.digest()}
    shards = map_in_shards(len(rows), score_part, folder, facts, rows_per_shard, "scoring")
    return read_shards(shards)


def _annotated_schema(rows: Dataset) -> pa.Schema:
    known = {name: feature for name, feature in rows.features.items() if name not in ADDED}
    features = {**known, **ADDED}
    order = [*CANDIDATE_COLUMNS, *(name for name in features if name not in CANDIDATE_COLUMNS)]
    return Features({name: features[name] for name in order}).arrow_schema


def _score_rows(scorer: Scorer, rows: Dataset, start: int) -> pa.Table:
    """Return rows with the columns that annotation adds; `start` is the first one's number, for errors."""
    batch = rows.to_list()
    scores = scorer.score(batch)
    for number, row_scores in enumerate(scores):
        if not all(map(math.isfinite, row_scores)):
            raise ValueError(
                f"row {start + number + 1}, {batch[number]['query'][:60]!r}: expected finite scores, got {row_scores}. Its "
                "passages may hold what the scorer cannot read, or its weights are broken."
            )
    table = rows.with_format("arrow")[:]
    table = table.append_column("teacher_scores", pa.array(scores, pa.list_(pa.float32())))
    table = table.append_column("teacher_query_tokens", pa.array(scorer.query_tokens(batch), pa.int64()))
    return table.append_column("scored_by", pa.array([json.dumps(scorer.facts, sort_keys=True)] * len(batch)))


def _row_text(row: Mapping[str, Any], passages: Mapping[str, str]) -> str:
    """Return what a row's scores depend on beside the scorer."""
    ids = row["document_ids"]
    parts = [row.get("query_id"), row["query"], row["english"], ids, [passages[name] for name in ids]]
    return json.dumps(parts, ensure_ascii=False)
