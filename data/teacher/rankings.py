"""Rankings of `drdecr data mine`: by BM25 with the English question, or by a model with the question as it stands."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm.auto import tqdm

from drdecr.data.passages import PassageStore
from drdecr.data.row_parts import RowParts
from drdecr.data.step_work import StepWork
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.build import open_or_create_index
from drdecr.retrieval.encoder import model_digest
from drdecr.retrieval.protocol import PassageIndex
from drdecr.retrieval.retriever import SEARCHES
from drdecr.retrieval.two_stage import CentroidCandidates, TwoStageIndex

from .bm25 import Bm25Index
from .mined_rows import shown

PASSAGES_PER_COMMIT = 4096
"""Passages that are encoded between two commits of an index: at 128 dimensions and 150 tokens 300 MB."""

_RANKED = pa.schema([("rows", pa.list_(pa.int64())), ("scores", pa.list_(pa.float64()))])


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


def bm25_rankings(work: StepWork, questions: RowParts, passages: PassageStore, depth: int) -> RowParts:
    """Rank passages by BM25 with the English question; labelled passages stand behind the ranking, if not in it."""
    parts = work.parts("rankings", _RANKED)
    if not parts.is_complete:
        index = Bm25Index(passages, folder=work.folder / "bm25")
        for batch in shown(questions, parts, "BM25"):
            labelled = [[name for name in row["document_ids"] if name in passages] for row in batch]
            _write_ranked(parts, index.search([row["english"] for row in batch], depth, labelled), passages)
        parts.complete()
    return parts


def model_rankings(
    work: StepWork,
    questions: RowParts,
    passages: PassageStore,
    reader: Any,
    encoder: Any,
    depth: int,
    codec: str,
    search: PoolSearch = PoolSearch(),
    kept: Path | None = None,
) -> RowParts:
    """Rank passages by a model that is asked the question as it stands, in an index on disk.

    Args:
        work: of the step.
        questions: that are asked.
        passages: of the pool.
        reader: is asked.
        encoder: encodes the passages.
        depth: passages a question.
        codec: of the index (`drdecr.retrieval.stored.codecs`).
        search: which passages are scored (default: all).
        kept: folder in which the index stays for other calls; default: it goes with the step's work.
    """
    parts = work.parts("rankings", _RANKED)
    if parts.is_complete:
        return parts
    about = {"model": model_digest(encoder), "passages": _collection_digest(passages)}
    digest = hashlib.sha256("".join([*about.values(), codec]).encode()).hexdigest()[:16]
    folder = (kept or work.folder) / f"index-{digest}"
    with open_or_create_index(folder, encoder.config.embedding_dim, about, codec, 1) as index:
        _encode(index, encoder, passages)
        searched: PassageIndex = index
        if search.by != "exact":
            searched = TwoStageIndex(index, CentroidCandidates(index), search.num_candidates)
        for batch in shown(questions, parts, "searching"):
            hits = searched.search(reader.encode_queries([row["query"] for row in batch]), top_k=depth)
            found = (dict(zip(*pair, strict=True)) for pair in zip(hits.document_ids, hits.scores, strict=True))
            _write_ranked(parts, found, passages)
    parts.complete()
    return parts


def _encode(index: StoredIndex, encoder: Any, passages: PassageStore) -> None:
    """Bring an index to the whole collection: passages are added in order, so that their number says where it is."""
    pairs = islice(passages.items(), len(index), None)
    left = len(passages) - len(index)
    with tqdm(desc="encoding passages", total=left, unit="passage", disable=None if left else True) as progress:
        while batch := list(islice(pairs, PASSAGES_PER_COMMIT)):
            names, texts = zip(*batch, strict=True)
            index.add(names, encoder.encode_documents(list(texts), show_progress_bar=False))
            index.commit()
            progress.update(len(batch))


def _collection_digest(passages: PassageStore) -> str:
    digest = hashlib.sha256()
    for ids, texts in passages.batches():
        digest.update("\0".join([*ids, *texts]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _write_ranked(parts: RowParts, rankings: Iterable[Mapping[str, float]], passages: PassageStore) -> None:
    rows = [
        {"rows": [passages.row_of(name) for name in ranking], "scores": list(ranking.values())} for ranking in rankings
    ]
    parts.write(pa.Table.from_pylist(rows, _RANKED), len(rows))
