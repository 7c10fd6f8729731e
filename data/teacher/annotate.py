"""Annotate n-way rows: a teacher, a cross-encoder or a file of scores says how relevant each candidate is."""

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
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
from drdecr.data.passages import PassageStore
from drdecr.data.readers.hub import read_hub_unscored
from drdecr.data.readers.text import expanded
from drdecr.data.schema import CANDIDATE_COLUMNS, column_of
from drdecr.data.shards import Shard, ShardFolder, is_main_process, join_processes, open_shards
from drdecr.data.sources import input_digests
from drdecr.data.step_work import ALREADY, StepWork, work_folder
from drdecr.retrieval.encoder import load_teacher

from .scorers import CrossEncoderScorer, FileScorer, Scorer, TeacherScorer
from .step_rows import passage_parts

logger = logging.getLogger(__name__)

ROWS_PER_FILE = 50_000
"""Rows of a parquet file; the shards of scores, which a kill may lose, are smaller."""

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
        rows_a_shard: rows a file (default 1024): what a kill can lose of one process's work.

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
    rows_a_shard: int = 1024

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
    inputs = _inputs(settings)
    if is_step_done(output, asdict(settings), inputs):
        logger.warning(ALREADY, output)
        if is_main_process():
            shutil.rmtree(work_folder(output), ignore_errors=True)
        return output
    state = join_processes()
    with state.main_process_first():  # the others read what the first one prepared
        rows, passages = read_hub_unscored(
            settings.rows, settings.config, split=settings.split, revision=settings.revision
        )
        passages = _used(rows, passages)
        work = StepWork(
            output, asdict(settings), inputs, is_shared=state.num_processes > 1, is_first=state.is_main_process
        )
    with work:
        scores = work.cheap("scores") if settings.scores else work.folder / "scores"
        scorer = _scorer(settings, rows, passages, work.folder)
        annotated = annotated_tables(rows, passages, scorer, scores, settings.rows_a_shard)
        first = next(annotated)  # all processes score before one writes
        if state.is_main_process:
            _write(settings, work, rows, chain([first], annotated), passages, scorer, license)
            work.remove()
    state.wait_for_everyone()
    return output


def _used(rows: Dataset, passages: PassageStore) -> PassageStore:
    """Return the passages that the rows name, in the order of the collection."""
    wanted = np.zeros(passages.num_rows, dtype=np.bool_)
    for ids in column_of(rows, "document_ids"):
        wanted[[passages.row_of(name) for name in ids]] = True
    return passages.only(wanted)


def _inputs(settings: AnnotationSettings) -> dict[str, str]:
    entries: dict[str, list[dict[str, Any]]] = {"rows": [{"format": "hub_candidates", "name": settings.rows}]}
    if settings.scores:
        entries["scores"] = [{"path": settings.scores}]
    return input_digests(entries, {name: getattr(settings, name) for name in ("teacher", "cross_encoder")})


def _scorer(settings: AnnotationSettings, rows: Dataset, passages: PassageStore, parts: Path) -> Scorer:
    if settings.scores:
        if "query_id" not in rows.column_names:
            raise ValueError(
                f"{settings.rows}: expected a column `query_id`, which scores of a file are found by, got none."
            )
        with PartialState().main_process_first():  # the others look up what the first one read
            return FileScorer(settings.scores, parts / "scores.sqlite3")
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
    folder = expanded(settings.token_folder) if settings.token_folder else parts / "tokens"
    kept = {
        "dtype": getattr(torch, settings.token_dtype),
        "rows_a_shard": settings.rows_a_shard,
        "batch_size": settings.batch_size,
    }
    queries = stored_queries(teacher, rows["english"], folder, named=False, **kept)
    documents = stored_documents(teacher, passages, folder, **kept)
    name = Path(settings.teacher).name if Path(str(settings.teacher)).is_dir() else settings.teacher  # type: ignore[arg-type]
    return TeacherScorer(queries, documents, {"name": name, **queries.facts, "documents": documents.facts})


def _write(
    settings: AnnotationSettings,
    work: StepWork,
    rows: Dataset,
    tables: Iterable[pa.Table],
    passages: PassageStore,
    scorer: Scorer,
    license: str | None,
) -> None:
    folders: dict[str, Path] = {}
    if isinstance(scorer, TeacherScorer) and settings.tokens != "none":
        chosen: dict[str, Any] = {"queries": (scorer.queries, rows["english"])}
        if settings.tokens == "all":
            chosen["documents"] = (scorer.documents, passages.texts())
        for kind, (tokens, texts) in chosen.items():
            folders[f"tokens/{kind}"] = work.folder / "written" / kind
            by_text: Any = tokens
            write_tokens(by_text.named(None), texts, folders[f"tokens/{kind}"], settings.rows_a_shard)
    annotated = work.parts("annotated", annotated_schema(rows), anew=True)
    for group in _groups(tables) if not annotated.is_complete else ():
        annotated.write(group, group.num_rows)
    annotated.complete()
    documents = passage_parts(work, passages)
    configs = {"scored_candidates": {"train": annotated}, "passages": {"train": documents}}
    said = settings.teacher or settings.cross_encoder or settings.scores
    note = (
        f"Questions with candidates and `teacher_scores` by `{Path(str(said)).name}`. `teacher_query_tokens` says how many "
        "query tokens a score sums over; 0: it is no such sum."
    )
    facts = {**work.facts, "scorer": scorer.facts}
    write_step(work.output, configs, "Annotated candidates", note, facts, {"rows": len(rows)}, license, folders)


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join the tables of small shards."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= ROWS_PER_FILE:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


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
