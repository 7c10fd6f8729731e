"""Readers of folders that `drdecr prepare` wrote, as the sets that a recipe's entries stand for."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset, load_dataset

from .prepared_shards import read_provenance, shards_of, wrong_shards
from .schema import BATCH, CANDIDATE_COLUMNS, PARALLEL_COLUMNS, QUESTION_COLUMNS, CandidateSet, QuestionSet, check_rows
from .stored_passages import Row, StoredPassages
from .text_files import locate

TWO_TEXTS = (
    "{second}, row {line}: expected the text that passage {document_id!r} has in another source, got a different one. Name one "
    "of these sources with `sources:`."
)


def read_prepared(folder: str, sources: Sequence[str] | None = None, languages: Sequence[str] | None = None) -> Dataset:
    """Read the parallel text of a prepared folder; it is mapped into memory, not loaded.

    Args:
        folder: that `drdecr prepare` wrote.
        sources: names of those that are wanted; default: all.
        languages: codes of those that are wanted; default: all.

    Raises:
        ValueError: naming a shard that is not as it was written, or if there is no such text.
    """
    rows = _rows(folder, "parallel", sources, languages)
    check_rows(rows, PARALLEL_COLUMNS, folder)
    return rows.select_columns(list(PARALLEL_COLUMNS))


def read_prepared_questions(
    folder: str, sources: Sequence[str] | None = None, languages: Sequence[str] | None = None
) -> QuestionSet:
    """Read the questions of a prepared folder with the passages of the same sources; arguments as of `read_prepared`.

    The column `english` is there if every question has it; answers, grades and irrelevant passages are.
    """
    rows = _rows(folder, "questions", sources, languages)
    columns = [*QUESTION_COLUMNS, "answers", "relevance", "irrelevant_ids"]
    if all(all(batch["english"]) for batch in rows.select_columns("english").iter(BATCH)):
        columns.append("english")
    return QuestionSet(_name(folder, sources), rows.select_columns(columns), _passages(folder, sources))


def read_prepared_candidates(
    folder: str, sources: Sequence[str] | None = None, languages: Sequence[str] | None = None
) -> CandidateSet:
    """Read questions with candidates and scores of a prepared folder; arguments as of `read_prepared`."""
    rows = _rows(folder, "candidates", sources, languages).select_columns(list(CANDIDATE_COLUMNS))
    return CandidateSet(_name(folder, sources), rows, _passages(folder, sources))


def _files(folder: str, table: str, sources: Sequence[str] | None, languages: Sequence[str] | None) -> list[Path]:
    root = locate(folder)
    shards = [
        shard
        for shard in shards_of(read_provenance(root))
        if shard.path.startswith(f"{table}/")
        and (sources is None or shard.path.split("/")[1] in sources)
        and (languages is None or not shard.language or shard.language in languages)
    ]
    wrong = wrong_shards(root, shards)
    if wrong:
        raise ValueError(f"{folder}: {' '.join(wrong)} Get the folder again, or prepare it again.")
    if not shards:
        raise ValueError(
            f"{folder}: expected {table} of {', '.join(sources or ['any source'])}, got none. Look at its card."
        )
    return [root / shard.path for shard in shards]


def _rows(folder: str, table: str, sources: Sequence[str] | None, languages: Sequence[str] | None) -> Dataset:
    files = [str(file) for file in _files(folder, table, sources, languages)]
    return load_dataset("parquet", data_files=files, split="train")


def _passages(folder: str, sources: Sequence[str] | None) -> StoredPassages:
    files = _files(folder, "passages", sources, None)
    is_one = len({file.parent for file in files}) == 1
    return StoredPassages(_passage_rows(files), folder, None if is_one else TWO_TEXTS)


def _passage_rows(files: list[Path]) -> Iterator[Row]:
    for file in files:
        number = 0
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(columns=["document_id", "text"]):
                for document_id, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield file, number, document_id, text


def _name(folder: str, sources: Sequence[str] | None) -> str:
    return ", ".join(sources or [Path(folder).name])
