"""Rankings that negatives are taken from: by BM25 with the English question, or by a model with the question as it stands."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset
from tqdm.auto import tqdm

from drdecr.data.passages import PassageStore
from drdecr.data.shards import map_in_shards
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.build import open_or_create_index
from drdecr.retrieval.encoder import model_digest
from drdecr.retrieval.protocol import PassageIndex
from drdecr.retrieval.retriever import SEARCHES
from drdecr.retrieval.two_stage import CentroidCandidates, TwoStageIndex

from .bm25 import Bm25Index

QUESTIONS_PER_SHARD = 512
"""Questions of a shard of rankings, and of one of rows: with 300 rows each, some 30 MB."""

PASSAGES_PER_COMMIT = 4096
"""Passages that are encoded between two commits of an index: at 128 dimensions and 150 tokens 300 MB."""

RANKING_SCHEMA = pa.schema([("rows", pa.list_(pa.int64())), ("scores", pa.list_(pa.float64()))])
"""A ranking: the passages' rows in their file (`PassageStore.row_of`), best first."""

Rank = Callable[[Dataset], Iterable[Mapping[str, float]]]
"""Ranks passages for questions: `{document_id: score}` of each, best first."""


@dataclass(frozen=True)
class PoolSearch:
    """How a model searches the pool; names as of `drdecr search`.

    Args:
        by: `exact` (default): every passage is scored. Or where candidates come from, which alone are scored: `centroids` of
            residual codes.
        num_candidates: passages a question that are scored, with candidates (default 1000).

    Raises:
        ValueError: for another search, or no candidates.
    """

    by: str = "exact"
    num_candidates: int = 1000

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if self.by not in SEARCHES:
            raise ValueError(f"search.by: expected one of {', '.join(SEARCHES)}, got {self.by!r}.")
        if self.num_candidates < 1:
            raise ValueError(
                f"search.num_candidates: expected at least 1, got {self.num_candidates}. Leave it out for the default."
            )


def rank_in_shards(rank: Rank, questions: Dataset, passages: PassageStore, folder: Path) -> list[Path]:
    """Keep the rankings of questions in shards of `QUESTIONS_PER_SHARD`."""

    def rank_part(part: range) -> pa.Table:
        rankings = rank(questions.select(part))
        rows = [{"rows": list(map(passages.row_of, scores)), "scores": list(scores.values())} for scores in rankings]
        return pa.Table.from_pylist(rows, RANKING_SCHEMA)

    return map_in_shards(len(questions), rank_part, folder, {}, QUESTIONS_PER_SHARD, "searching")


def bm25_ranker(index: Bm25Index, depth: int) -> Rank:
    """Rank by BM25 with the English question; labelled passages stand behind the ranking, if not in it."""

    def rank(questions: Dataset) -> Iterator[dict[str, float]]:
        labelled = [[name for name in ids if name in index.passages] for ids in questions["document_ids"]]
        return index.search(questions["english"], depth, labelled)

    return rank


def model_ranker(index: StoredIndex, reader: Any, depth: int, search: PoolSearch = PoolSearch()) -> Rank:
    """Rank by a model that is asked the question as it stands.

    Args:
        index: of the passages.
        reader: is asked.
        depth: passages a question.
        search: which passages are scored (default: all).
    """
    searched: PassageIndex = index
    if search.by != "exact":
        searched = TwoStageIndex(index, CentroidCandidates(index), search.num_candidates)

    def rank(questions: Dataset) -> Iterator[dict[str, float]]:
        hits = searched.search(reader.encode_queries(questions["query"][:]), top_k=depth)
        for document_ids, scores in zip(hits.document_ids, hits.scores, strict=True):
            yield dict(zip(document_ids, scores, strict=True))

    return rank


def encode_pool(encoder: Any, passages: PassageStore, folder: Path, codec: str) -> Path:
    """Encode passages into an index below `folder`, one for each model, collection and codec; a killed call goes on there.

    Args:
        encoder: encodes the passages.
        passages: of the pool, added in order, so that their number says where a killed call was.
        folder: in which the index stays.
        codec: of the index (`drdecr.retrieval.stored.codecs`).

    Returns:
        The index's folder.
    """
    metadata = {"model": model_digest(encoder), "passages": _digest_passages(passages)}
    digest = hashlib.sha256("".join([*metadata.values(), codec]).encode()).hexdigest()[:16]
    index_folder = folder / f"index-{digest}"
    with open_or_create_index(index_folder, encoder.config.embedding_dim, metadata, codec, 1) as index:
        pairs = islice(passages.items(), len(index), None)
        left = len(passages) - len(index)
        with tqdm(desc="encoding passages", total=left, unit="passage", disable=None if left else True) as progress:
            while batch := list(islice(pairs, PASSAGES_PER_COMMIT)):
                names, texts = zip(*batch, strict=True)
                index.add(names, encoder.encode_documents(list(texts), show_progress_bar=False))
                index.commit()
                progress.update(len(batch))
    return index_folder


def _digest_passages(passages: PassageStore) -> str:
    digest = hashlib.sha256()
    for ids, texts in passages.batches():
        digest.update("\0".join([*ids, *texts]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
