"""Qdrant's engine inside this process (`qdrant-edge-py`): native MaxSim, a write-ahead log, one folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .exact import Hits
from .manifest import write_whole
from .protocol import Where
from .qdrant_common import ID_KEY, VECTOR, PointIndex, filter_of, missing_extra
from .stored import check_search

PASSAGES_A_CALL = 256


class QdrantEdgeIndex(PointIndex):
    """A Qdrant shard as a `PassageIndex`. Every passage is scored, in half precision.

    What is added is searched at once and written by `commit`; of a process that is killed in between, any part of it may
    be there.
    """

    def __init__(self, shard: Any, dim: int, about: Mapping[str, Any] | None = None) -> None:
        super().__init__(dim, _edge(), "the folder", PASSAGES_A_CALL)
        self._shard, self.about = shard, dict(about or {})

    @classmethod
    def create(cls, folder: str | Path, dim: int, about: Mapping[str, Any] | None = None) -> "QdrantEdgeIndex":
        """Make an empty index of width `dim` in a new or empty folder; `about` is remembered.

        Raises:
            ImportError: without `qdrant-edge-py`.
            ValueError: if the folder holds something.
        """
        edge, folder = _edge(), Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder}: expected a new or empty folder. Choose another, or open this index.")
        (folder / "shard").mkdir(parents=True)
        vectors = edge.EdgeVectorParams(
            size=dim,
            distance=edge.Distance.Dot,  # tokens have length 1; pooled ones too
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            datatype=edge.VectorStorageDatatype.Float16,
        )
        shard = edge.EdgeShard.create(str(folder / "shard"), edge.EdgeConfig(vectors={VECTOR: vectors}))
        settings: dict[str, Any] = {"dim": dim, "about": dict(about or {})}
        write_whole(folder / "qdrant.json", lambda file: file.write(json.dumps(settings).encode()))
        return cls(shard, dim, about)

    @classmethod
    def open(cls, folder: str | Path) -> "QdrantEdgeIndex":
        """Open an index. `FileNotFoundError` if there is none."""
        settings = Path(folder) / "qdrant.json"
        if not settings.is_file():
            raise FileNotFoundError(f"{folder}: expected an index of Qdrant, found no qdrant.json. Create one.")
        return cls(_edge().EdgeShard.load(str(Path(folder) / "shard")), **json.loads(settings.read_text()))

    def __len__(self) -> int:
        return self._shard.count(self._models.CountRequest())

    def _points(
        self, ids: Sequence[str], embeddings: Sequence[Tensor], payloads: Sequence[dict[str, Any]]
    ) -> list[Any]:
        rows = zip(ids, embeddings, payloads, strict=True)
        return [
            self._models.Point(one, {VECTOR: tokens.tolist()} if len(tokens) else {}, payload)
            for one, tokens, payload in rows
        ]

    def _upsert(self, points: list[Any]) -> None:
        self._shard.update(self._models.UpdateOperation.upsert_points(points))

    def _has_id(self, ids: list[str]) -> Any:
        return self._models.HasIdCondition(set(ids))

    def _delete(self, wanted: Any) -> None:
        self._shard.update(self._models.UpdateOperation.delete_points_by_filter(wanted))

    def _records(self, ids: list[str]) -> list[Any]:
        return self._shard.retrieve(ids, with_payload=True, with_vector=False)

    def commit(self) -> None:
        """Force everything to the disk."""
        self._shard.flush()

    def close(self) -> None:
        """Release the folder."""
        self._shard.close()

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Where | None = None) -> Hits:
        """Find the passages with the highest MaxSim; a query without a token finds nothing."""
        check_search(query_embeddings, top_k, 1, self.dim)
        hits = Hits([], [])
        for tokens in query_embeddings:
            found = self._nearest(tokens, top_k, filter_of(where, self._models)) if len(tokens) else []
            hits.document_ids.append([point.payload[ID_KEY] for point in found])
            hits.scores.append([point.score for point in found])
        return hits

    def _nearest(self, tokens: Tensor, top_k: int, wanted: Any) -> list[Any]:
        edge = self._models
        return self._shard.query(
            edge.QueryRequest(
                limit=top_k,
                query=edge.Query.Nearest(tokens.tolist(), using=VECTOR),
                filter=wanted,
                with_payload=[ID_KEY],
                params=edge.SearchParams(exact=True),
            )
        )


def _edge() -> Any:
    try:
        import qdrant_edge
    except ImportError as error:
        raise ImportError(missing_extra("qdrant-edge-py")) from error
    return qdrant_edge
