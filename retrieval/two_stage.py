"""Candidates from something cheap, then exact MaxSim of the candidates: for more passages than can all be scored."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .protocol import Filter, Hits, check_count, check_search, filter_values
from .stored.index import StoredIndex
from .stored.ragged import best_of_passages, cut_into_blocks, places_of_tokens
from .stored.ranking import Ranking
from .stored.segment import TOKENS_PER_BLOCK, Segment


class CandidateSource(Protocol):
    """What finds passages that may be among the best."""

    def candidates(
        self, query: Tensor, count: int, values_by_key: Mapping[str, frozenset[Hashable]]
    ) -> Sequence[Tensor]:
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
        check_count("num_candidates", num_candidates)
        self.index, self.source, self.num_candidates = index, source, num_candidates

    def __len__(self) -> int:
        return len(self.index)

    @property
    def metadata(self) -> dict[str, Any]:
        """What was said when the index was made."""
        return self.index.metadata

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.index.dim

    def passage_ids(self) -> list[str]:
        """Return the ids of all passages."""
        return self.index.passage_ids()

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Filter | None = None) -> Hits:
        """Find passages of high MaxSim; arguments and result as of `StoredIndex.search`, perhaps not the very best."""
        check_search(query_embeddings, top_k, 1, self.dim)
        self.index.check_unchanged()
        values_by_key = filter_values(where)
        hits = Hits([], [])
        for query in query_embeddings:
            rows = self.source.candidates(query.float(), max(self.num_candidates, top_k), values_by_key)
            ids, scores = self.index.rescore(query, rows, top_k)
            hits.document_ids.append(ids)
            hits.scores.append(scores)
        return hits

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what was added with passages."""
        return self.index.payloads(passage_ids)


class CentroidCandidates:
    """Inverted lists from centroids to passages, made of an index of residual codes.

    Memory holds 4 bytes for each passage in each list: at most as many as it has tokens.

    Args:
        index: with a residual codec.
        probes: centroids a query token whose passages are looked at (default 4; ColBERTv2 takes 1 to 4).

    Raises:
        ValueError: for another codec or no probe.
    """

    def __init__(self, index: StoredIndex, probes: int = 4) -> None:
        if not index.manifest.codec.startswith("residual"):
            raise ValueError(
                f"Candidates by centroids need residual codes, got an index of {index.manifest.codec}. Make one with "
                "`drdecr index compress FOLDER NEW_FOLDER --codec residual4`."
            )
        check_count("probes", probes)
        self.index, self.probes = index, probes
        self._lists = [_Lists(segment) for segment in index.segments]

    def candidates(self, query: Tensor, count: int, values_by_key: Mapping[str, frozenset[Hashable]]) -> list[Tensor]:
        """Return for each segment the rows among the `count` best by their centroids."""
        ranking = Ranking(1, count)
        for number, (segment, lists) in enumerate(zip(self.index.segments, self._lists, strict=True)):
            similarities = query @ lists.centroids.T  # (query_tokens, centroids)
            rows = lists.rows_near(similarities, self.probes)
            allowed = torch.zeros(segment.record.passages, dtype=torch.bool)
            allowed[segment.rows(values_by_key)] = True
            rows = rows[allowed[rows]]
            ranking.add(number, rows, lists.scores(similarities, rows)[None, :])
        places, _ = ranking.best()[0]
        return [
            torch.tensor(sorted(row for number, row in places if number == segment), dtype=torch.int64)
            for segment in range(len(self.index.segments))
        ]


class _Lists:
    """One segment's centroids, and for each the rows that have a token there."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.centroids = torch.from_numpy(segment.arrays["centroids"]).float()
        self.ids = segment.arrays["centroid_ids"]  # mapped
        rows = torch.arange(segment.record.passages)
        owners = torch.repeat_interleave(rows, segment.lengths(rows))
        pairs = torch.unique(torch.from_numpy(self.ids.astype(np.int64)) * segment.record.passages + owners)
        self.rows = (pairs % segment.record.passages).int()
        counts = torch.bincount(pairs // segment.record.passages, minlength=len(self.centroids))
        self.starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])

    def rows_near(self, similarities: Tensor, probes: int) -> Tensor:
        """Return the rows in the lists of each query token's nearest centroids, ascending."""
        if not len(similarities):
            return torch.empty(0, dtype=torch.int64)
        nearest = similarities.topk(min(probes, len(self.centroids)), dim=1).indices.unique()
        lists = [self.rows[self.starts[number] : self.starts[number + 1]] for number in nearest.tolist()]
        return torch.cat(lists).unique().long()

    def scores(self, similarities: Tensor, rows: Tensor) -> Tensor:
        """Return MaxSim of rows with centroids in the place of tokens: `(rows,)`. Every row has a token."""
        lengths = self.segment.lengths(rows).numpy()
        scores = []
        for start, stop in cut_into_blocks(lengths, TOKENS_PER_BLOCK):
            places = places_of_tokens(self.segment.offsets[rows[start:stop]], lengths[start:stop])
            ids = torch.from_numpy(self.ids[places.numpy()].astype(np.int64))
            of_tokens = similarities.index_select(1, ids)  # (query_tokens, tokens)
            scores.append(torch.from_numpy(best_of_passages(of_tokens, lengths[start:stop]).sum(axis=0)))
        return torch.cat(scores) if scores else similarities.new_zeros(0)
