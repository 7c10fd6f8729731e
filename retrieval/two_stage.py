"""Candidates from something cheap, then exact MaxSim of the candidates: for more passages than can all be scored."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from .exact import Hits
from .protocol import Where, check_search
from .stored import StoredIndex


class CandidateSource(Protocol):
    """What finds passages that may be among the best."""

    def candidates(self, query: Tensor, count: int, where: Where | None) -> Sequence[Tensor]:
        """Return for each segment of the index ascending rows, about `count` in all."""
        ...


class TwoStageIndex:
    """An index whose searches score candidates alone.

    Args:
        index: where the passages are; it is searched as it was opened.
        source: finds candidates among the same segments.
        num_candidates: passages a query that are scored exactly (default 200); never fewer than `top_k`.
    """

    def __init__(self, index: StoredIndex, source: CandidateSource, num_candidates: int = 200) -> None:
        if num_candidates < 1:
            raise ValueError(f"num_candidates: expected at least 1, got {num_candidates}. Hundreds are usual.")
        self.index, self.source, self.num_candidates = index, source, num_candidates

    def __len__(self) -> int:
        return len(self.index)

    @property
    def about(self) -> dict[str, Any]:
        """What was said when the index was made."""
        return self.index.about

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.index.dim

    def passage_ids(self) -> list[str]:
        """Return the ids of all passages."""
        return self.index.passage_ids()

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Where | None = None) -> Hits:
        """Find passages of high MaxSim; arguments and result as of `StoredIndex.search`, perhaps not the very best."""
        check_search(query_embeddings, top_k, 1, self.dim)
        hits = Hits([], [])
        for query in query_embeddings:
            rows = self.source.candidates(query.float(), max(self.num_candidates, top_k), where)
            ids, scores = self.index.rescore(query, rows, top_k)
            hits.document_ids.append(ids)
            hits.scores.append(scores)
        return hits

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what was added with passages."""
        return self.index.payloads(passage_ids)
